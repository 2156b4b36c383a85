# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Runs a study cell by cell; what is finished is not done again."""

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torchgeo.datamodules import NonGeoDataModule

from ..datamodules.augmented import SyntheticAugmentedDataModule
from ..datamodules.batch_mixing import BatchMixDataModule
from ..files import read_json, sha256, write_text
from ..objects import make_object
from ..pairs.manifest import MANIFEST
from ..settings import Begun, require_same_settings
from ..tasks.pixelwise import PixelTask
from ..tasks.support.plateau import Curve, doublings, enough_updates, settled
from ..tasks.support.stopping import was_interrupted
from ..tasks.support.trainer import small_trainer
from .design import REAL, Cell, Study
from .runs import (
    Run,
    logged_scores,
    pilot_path,
    read_pilot,
    read_run,
    run_path,
    write_run,
)
from .synthetic import SyntheticSets


@dataclass
class Engine:
    """Trains and tests the cells of a study.

    All arms of a seed begin with the same weights and use the same real samples; the
    test set is read once, at the end of each run.

    Attributes:
        study: The study to run.
        callbacks: Makes the callbacks of a training from its title.
        say: Tells people what is being done.
    """

    study: Study
    callbacks: Callable[[str], list[Callback]] = lambda title: []
    say: Callable[[str], None] = print
    _reals: dict[str, NonGeoDataModule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a folder that was begun with another study."""
        path, settings = self.study.out / 'study.json', self._settings()
        there = read_json(path, Begun)['settings'] if path.exists() else {}
        # seeds, sizes, and arms or networks of other names may be added
        require_same_settings(path, {k: settings.get(k, v) for k, v in there.items()})
        self._wanted = there | settings
        self.sets = SyntheticSets(self.study, self._count)

    def shard(self, number: int, count: int) -> list[Cell]:
        """The cells of one of several machines that share the folder of results.

        Args:
            number: Number of the machine, 1 to *count*.
            count: Number of machines.

        Returns:
            The cells, as of :meth:`Study.shard`.

        Raises:
            ValueError: If there is nothing for a machine to do, or several would learn
                the same generator.
        """
        study, cells = self.study, self.study.shard(number, count)
        units = len(study.units())
        if count > units and self._unprepared(study.cells()):
            raise ValueError(
                f'shard {number}/{count} has several machines for each of the {units} '
                'subset(s) of real samples of the study, whose generators and pairs '
                'are not all there yet. Run it with --prepare first, on one machine.'
            )
        return cells

    def begin(self) -> None:
        """Make the folder of results, and write down what it is of."""
        self.study.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({'settings': self._wanted}, indent=2)
        write_text(self.study.out / 'study.json', text + '\n')

    def prepare(self, cells: Sequence[Cell]) -> None:
        """Make what cells share: generators, pairs, and how long to train.

        Args:
            cells: Cells of the study.
        """
        self.begin()
        for cell in self._unprepared(cells):
            self.say(f'Preparing {cell.title}')
            self.updates(cell)
            if self.study.arm(cell).synthetic:
                self.sets.folder(cell)

    def run(self, cells: Sequence[Cell], retry: bool = False) -> list[Run]:
        """Train and test what is missing.

        Args:
            cells: Cells of the study.
            retry: Whether to do failed runs again.

        Returns:
            All runs of these cells, in their order; a failed one has a reason.
        """
        self.begin()
        runs: list[Run] = []
        for number, cell in enumerate(cells):
            run = self._read(cell)
            if run is None or (run.reason and retry):
                # what comes later may be done already, by another machine for instance
                rest = [c for c in cells[number:] if self._read(c) is None or c == cell]
                left = self._time_left(runs, rest)
                self.say(f'[{number + 1}/{len(cells)}] {cell.title}{left}')
                run = self._measure(cell)
                write_run(self.study.out, run)
                _return_memory()
            runs.append(run)
        return runs

    def finished(self, cells: Sequence[Cell]) -> list[Run]:
        """The runs of these cells that are there, whoever did them."""
        found = map(self._read, cells)
        return [run for run in found if run is not None]

    def updates(self, cell: Cell) -> int:
        """Optimiser steps of a cell; finds out first how many are enough, if asked to."""
        known = self._known_updates(cell)
        if known is None:
            self.pilot(cell.model, cell.size)
            known = self._known_updates(cell)
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
        self.begin()
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
            trainer = self._trainer(cell.title, steps)
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

    def _read(self, cell: Cell) -> Run | None:
        """The run of a cell, if it is there; one whose pilot failed has 0 updates."""
        updates = self._known_updates(cell) or 0
        return read_run(run_path(self.study.out, cell, updates))

    def _measure(self, cell: Cell) -> Run:
        """Train and test a cell; what goes wrong becomes its reason."""
        started, subset = time.monotonic(), self.study.subset(cell)
        scores: dict[str, float | None] = {}
        iou: dict[str, float | None] = {}
        reason, updates = '', 0
        split: Literal['test', 'val'] = 'test'
        try:
            updates = self.updates(cell)
            task, datamodule, trainer = self.train(cell, updates)
            split = self.scored_split()
            score = trainer.test if split == 'test' else trainer.validate
            (found,) = score(task, datamodule, verbose=False)
            scores, iou = logged_scores(found, split, self.study.score)
        except Exception as error:
            if was_interrupted(error):
                raise KeyboardInterrupt from error
            # one run must not end the grid; a table has one line for its reason, and
            # an error may have no text at all
            reason = ' '.join(str(error).split()) or type(error).__name__
            self.say(f'  failed: {reason}')
        seconds = time.monotonic() - started
        return Run(*cell, subset, updates, scores, iou, seconds, reason, split)

    def _unprepared(self, cells: Sequence[Cell]) -> list[Cell]:
        """Cells whose generator, pairs or updates are not there."""
        pilots = {(c.model, c.size): c for c in cells if not self._known_updates(c)}
        return [*pilots.values(), *self.sets.missing(cells)]

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
            yield mixed, updates
            return
        folder = self.sets.folder(cell)
        if arm.relabel:
            # the network of the same model, samples and seed, on real ones alone
            teacher = cell._replace(arm=REAL, ratio=0.0)
            steps = self.updates(teacher)
            train = partial(self.train, teacher, steps)
            folder = self.sets.relabelled(cell, folder, steps, train)
        if arm.use == 'mix':
            share = arm.real_share
            yield self._mixed(cell, folder, ratio=cell.ratio, real_share=share), updates
            return
        count = self.sets.count(cell)
        synthetic = self._mixed(cell, folder, real_limit=0, synthetic_limit=count)
        if arm.use == 'only':
            yield synthetic, updates
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
        return SyntheticAugmentedDataModule(self.real(), folder, **given | options)

    def _trainer(self, title: str, updates: int) -> Trainer:
        callbacks = self.callbacks(title)
        return small_trainer(updates, self.study.trainer, callbacks)

    def _known_updates(self, cell: Cell) -> int | None:
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

    def _count(self, size: int) -> int:
        """Number of real training samples that a size stands for."""
        if size:
            return size
        real = self.real()
        if real.train_dataset is None:
            real.prepare_data()
            real.setup('fit')
        return len(real.train_dataset)  # type: ignore[arg-type]

    def _settings(self) -> dict[str, Any]:
        """All that must not change within one folder, each part under a name."""
        study: dict[str, Any] = json.loads(json.dumps(asdict(self.study), default=str))
        names = ('data', 'spec', 'subsets', 'budget', 'protocol', 'trainer')
        settings = {name: study[name] for name in names}
        for kind in ('models', 'generators', 'arms'):
            settings |= {f'{kind}: {name}': v for name, v in study[kind].items()}
        for name, recipe in self.study.generators.items():
            manifest = Path(recipe.pairs or '') / MANIFEST
            if recipe.pairs is not None and manifest.exists():
                settings[f'pairs: {name}'] = sha256(manifest)[:16]
        return settings

    def _time_left(self, runs: Sequence[Run], cells: Sequence[Cell]) -> str:
        """Estimate the time left from what runs of the same model took."""
        known = {c: self._known_updates(c) for c in cells}
        done = [run for run in runs if not run.reason]
        pace: dict[str, float] = {}
        for model in {run.model for run in done}:
            own = [run for run in done if run.model == model]
            pace[model] = sum(r.seconds for r in own) / sum(r.updates for r in own)
        if not pace or not all(c.model in pace and u for c, u in known.items()):
            return ''
        seconds = sum(
            pace[cell.model] * (updates or 0) for cell, updates in known.items()
        )
        return f' (about {seconds / 60:.0f} min left)'


def _return_memory() -> None:
    """Give freed memory back to the system, which glibc does not do by itself.

    Tensors of many sizes leave holes: in a grid of small networks each run added 40 MB
    to the process, all of it free.
    """
    gc.collect()
    if sys.platform == 'linux':
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', lambda pad: None)
        trim(0)
