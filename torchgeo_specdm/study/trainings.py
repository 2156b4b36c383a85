# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The trainings of a study: how one of its networks is trained, and for how long."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torchgeo.datamodules import NonGeoDataModule

from ..datamodules.augmented import SyntheticAugmentedDataModule
from ..datamodules.batch_mixing import BatchMixDataModule
from ..datamodules.subset import SubsetDataModule
from ..datamodules.support.mixing import subset
from ..datamodules.unlabelled import UnlabelledDataModule
from ..files import write_text
from ..objects import make_object
from ..tasks.pixelwise import PixelTask
from ..tasks.support.plateau import Curve, doublings, enough_updates, settled
from ..tasks.support.self_training import SelfTraining
from ..tasks.support.trainer import small_trainer
from .design import REAL, REST, Cell, Study
from .runs import logged_scores, pilot_path, read_pilot
from .synthetic import SyntheticSets


@dataclass
class Trainings:
    """Trains the networks of the cells of a study.

    All arms of a seed begin with the same weights and use the same real samples.

    Attributes:
        study: The study.
        callbacks: Makes the callbacks of a training from its title.
    """

    study: Study
    callbacks: Callable[[str], list[Callback]] = lambda title: []
    _reals: dict[str, NonGeoDataModule] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Find the synthetic samples."""
        self.sets = SyntheticSets(self.study, self.real)

    def updates(self, cell: Cell) -> int:
        """Optimiser steps of a cell; finds out first how many are enough, if asked to."""
        known = self.known_updates(cell)
        if known is None:
            self.pilot(cell.model, cell.size)
            known = self.known_updates(cell)
            assert known is not None
        return known

    def pilot(self, model: str, size: int) -> Curve:
        """Double the updates of real-only runs until validation stops rising.

        An under-trained baseline makes any generator look good.

        Args:
            model: Name of the network.
            size: Real training samples; 0 for all.

        Returns:
            Updates and validation scores, as of :mod:`torchgeo_specdm.tasks.support.plateau`.
        """
        study = self.study
        path = pilot_path(study.out, model, size)
        if self.scored_split() == 'val':
            raise ValueError(
                f'most_updates={study.most_updates} looks for the updates on the '
                f'validation split, but {study.data["class_path"]} has no other labelled '
                'split to score on. Set updates, and most_updates: 0.'
            )
        curve = read_pilot(path)
        cell = Cell(model, REAL, 0.0, size, study.seeds[0])
        measure = partial(self._cross_validate, cell)
        for _ in doublings(measure, study.updates, study.most_updates, curve):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({'curve': curve}) + '\n')
        return curve

    def train(
        self, cell: Cell, updates: int
    ) -> tuple[PixelTask, NonGeoDataModule, Trainer]:
        """Train the network of a cell.

        Args:
            cell: A cell of the study.
            updates: Optimiser steps.

        Returns:
            The task, the datamodule that it was trained on last, and the trainer.
        """
        task: Any = None
        for datamodule, steps in self._phases(cell, updates):
            # once more, so that a first phase does not change the order of the second
            seed_everything(cell.seed, workers=True, verbose=False)
            task = task or make_object(self.study.models[cell.model], LightningModule)
            callbacks = self.callbacks(cell.title)
            if isinstance(datamodule, UnlabelledDataModule):
                callbacks.append(SelfTraining())
            trainer = small_trainer(steps, self.study.trainer, callbacks)
            trainer.fit(task, datamodule=datamodule)
            trainer.limit_val_batches = 1.0
        return task, datamodule, trainer

    def real(self) -> NonGeoDataModule:
        """The real datamodule, one for all runs: it reads every file when set up."""
        if 'real' not in self._reals:
            self._reals['real'] = make_object(self.study.data, NonGeoDataModule)
        return self._reals['real']

    def scored_split(self) -> Literal['test', 'val']:
        """The test split, or validation where the datamodule has no labelled test set."""
        real = self.real()
        if real.test_dataset is None:
            real.prepare_data()
            real.setup('test')
        untested = real.test_dataset is None and real.dataset is None
        return 'val' if untested else 'test'

    def _cross_validate(self, cell: Cell, updates: int) -> float:
        """Validation score of a cell: the mean over folds, if the study asks for any."""
        folds = self.study.folds
        if not folds:
            return self._validate(cell, updates)
        whole, scores = self.real(), []
        try:
            for fold in range(folds):
                self._reals['real'] = self._fold(fold, folds)
                scores.append(self._validate(cell, updates))
        finally:
            self._reals['real'] = whole
        return sum(scores) / folds

    def _fold(self, fold: int, folds: int) -> NonGeoDataModule:
        """The real datamodule with other samples to validate on."""
        data = self.study.data
        if 'fold' not in signature(type(self.real())).parameters:
            raise ValueError(
                f'folds={folds} needs a datamodule with the argument fold, but '
                f'{data["class_path"]} has none. Use PairFolderDataModule, or folds: 0.'
            )
        return make_object(data, NonGeoDataModule, fold=(fold, folds))

    def _validate(self, cell: Cell, updates: int) -> float:
        task, datamodule, trainer = self.train(cell, updates)
        (scores,) = trainer.validate(task, datamodule, verbose=False)
        values, _ = logged_scores(scores, 'val', self.study.score)
        return float(values[self.study.score] or 0)

    def _phases(
        self, cell: Cell, updates: int
    ) -> Iterator[tuple[NonGeoDataModule, int]]:
        """The data that a cell is trained on, one after the other, and for how long."""
        arm = self.study.arm(cell)
        real_only = self._mixed(cell)
        if not arm.synthetic:
            mixed: Any = real_only
            if arm.batch_mix is not None:
                mixed = BatchMixDataModule(real_only, arm.batch_mix)
            if arm.unlabelled:
                mixed = self._unlabelled(cell, self._images(cell))
            yield mixed, updates
            return
        folder = Path(self.sets.pairs(cell).name)
        if arm.relabel:
            teacher = cell._replace(arm=REAL, ratio=0.0)
            folder = self.sets.reading(cell, self.updates(teacher))
        if arm.use == 'mix':
            share = arm.real_share
            yield self._mixed(cell, folder, ratio=cell.ratio, real_share=share), updates
            return
        count = self.sets.count(cell)
        synthetic = self._mixed(cell, folder, real_limit=0, synthetic_limit=count)
        if arm.use == 'only':
            yield synthetic, updates
            return
        if arm.use == 'unlabelled':
            yield self._unlabelled(cell, [synthetic]), updates
            return
        yield synthetic, updates - updates // 2
        yield real_only, updates // 2

    def _mixed(
        self, cell: Cell, synthetic: Path | None = None, **options: Any
    ) -> NonGeoDataModule:
        given: dict[str, Any] = {
            'ratio': 0 if synthetic is None else 1,
            'real_limit': cell.size or None,
            'seed': self.study.subset(cell),
        }
        folder = None if synthetic is None else str(synthetic)
        # the step that has made the folder has looked for leaks
        given |= options | {'leak_check': False}
        return SyntheticAugmentedDataModule(self.real(), folder, **given)

    def _unlabelled(
        self, cell: Cell, images: Sequence[str | NonGeoDataModule]
    ) -> NonGeoDataModule:
        """The real samples of a cell and images whose masks are not looked at."""
        arm = self.study.arm(cell)
        share = 1 - (arm.real_share or 0.5)
        return UnlabelledDataModule(
            self._mixed(cell), images, share, nearest=arm.nearest
        )

    def _images(self, cell: Cell) -> list[str | NonGeoDataModule]:
        """The images without labels of an arm."""
        images = list[str | NonGeoDataModule](self.study.arm(cell).unlabelled)
        if REST in images:
            images.remove(REST)
            total = len(self.sets.fitted().train_dataset)  # type: ignore[arg-type]
            used = subset(cell.size or total, total, self.study.subset(cell), 0)
            left = sorted({*range(total)}.difference(used))
            if left:
                images.append(SubsetDataModule(self.real(), left))
        return images

    def known_updates(self, cell: Cell) -> int | None:
        """Optimiser steps of a cell; None if a pilot has to find out."""
        study = self.study
        updates = study.updates
        if study.most_updates:
            curve = read_pilot(pilot_path(study.out, cell.model, cell.size))
            done = curve and (settled(curve) or 2 * curve[-1][0] > study.most_updates)
            if not done:
                return None
            updates = enough_updates(curve)
        return self.scaled(cell, updates)

    def scaled(self, cell: Cell, updates: int) -> int:
        """The updates of a cell, where real only has so many."""
        factor = self.study.arm(cell).longer
        if self.study.budget == 'epochs':
            factor *= 1 + cell.ratio
        return max(round(updates * factor), 1)
