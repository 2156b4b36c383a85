# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Real only against real with synthetic samples, at equal updates, over seeds."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torchgeo.datamodules import NonGeoDataModule

from ..datamodules.augmented import SyntheticAugmentedDataModule
from ..datasets.pair_files import MANIFEST
from ..files import sha256, write_text
from ..tasks.pixelwise import PixelTask
from .configs import Config, make_object
from .runs import Run, read_runs, write_runs
from .settings import require_same_settings

_TABLE = 'runs.csv'
#: The pilot stops when doubling the updates adds less than this to validation mIoU.
_STILL_RISING = 0.01
#: Two equal scores may be those of a network that has not begun to learn.
_LEAST_PILOTS = 3


@dataclass
class Comparison:
    """The smallest study: one network, some ratios, some seeds.

    All arms get the same number of updates, so an arm with synthetic samples sees
    half as many real crops; validation picks the number of updates, the test set is
    read once at the end of each run.

    Attributes:
        real: Gives the real datamodule of a run.
        synthetic: Folder of pairs.
        out: Folder of ``runs.csv``; runs that it has are not run again.
        task: The task of each run, ``class_path`` and ``init_args``; a
            :class:`~torchgeo_specdm.tasks.pixelwise.PixelTask`.
        ratios: Synthetic samples for each real one; 0 must be among them.
        seeds: One run of each ratio for each.
        real_share: Share of real samples in each mixed batch.
        trainer: Arguments of Lightning's trainer.
        callbacks: Makes the callbacks of a run from its title.
    """

    real: Callable[[], NonGeoDataModule]
    synthetic: Path
    out: Path
    task: Config
    ratios: Sequence[float] = (0, 1, 3, 5)
    seeds: Sequence[int] = (0, 1, 2)
    real_share: float = 0.5
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[str], list[Callback]] = lambda title: []

    def __post_init__(self) -> None:
        """Refuse a grid without a baseline."""
        if 0 not in self.ratios:
            raise ValueError(
                f'ratios={list(self.ratios)} must hold 0: real only is what the others '
                'are compared with.'
            )

    def find_updates(self, start: int, most: int) -> list[tuple[int, float]]:
        """Double the updates of real-only runs until validation stops rising.

        An under-trained baseline makes any generator look good.

        Args:
            start: Updates of the first pilot run.
            most: Never more updates than this.

        Returns:
            (updates, validation mIoU) of each pilot run, for :func:`settled` and
            :func:`enough_updates`.

        Raises:
            ValueError: If *start* is above *most*, or no pixel could be scored.
        """
        if not 1 <= start <= most:
            raise ValueError(
                f'start={start} must be 1 or more, and at most most={most}: the first '
                'pilot run has that many updates.'
            )
        path = self.out / 'pilot.json'
        curve: list[tuple[int, float]] = []
        if path.exists():
            curve = [(int(u), float(v)) for u, v in json.loads(path.read_text())]
        updates = start if not curve else 2 * curve[-1][0]
        while updates <= most and not settled(curve):
            task, datamodule, trainer = self._train(0, 0, updates)
            scores = trainer.validate(task, datamodule, verbose=False)[0]
            _require_scores(scores, 'val', f'pilot of {updates} updates')
            curve.append((updates, scores['val_miou']))
            self.out.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(curve))
            updates *= 2
        return curve

    def run(self, updates: int) -> list[Run]:
        """Train and test what is missing.

        Each run is written when it is done, so an interrupted grid goes on where it
        stopped. Runs of other updates, ratios or seeds stay in the table.

        Args:
            updates: Optimiser steps of every run.

        Returns:
            The runs of the grid, by seed and ratio.

        Raises:
            FileExistsError: If the folder was begun with other settings or samples.
        """
        self._require_own_folder()
        table, grid = self._table(), self._grid(updates)
        for key in grid:
            if key not in table:
                table[key] = self._measure(key[2], key[1], updates)
                write_runs(self.out / _TABLE, list(table.values()))
        return [table[key] for key in grid]

    def missing(self, updates: int) -> int:
        """How many runs of the grid are not in the table yet."""
        return len({*self._grid(updates)} - self._table().keys())

    def judge(self, updates: int) -> tuple[torch.nn.Module, NonGeoDataModule]:
        """A network trained on real samples only, to read other images."""
        task, datamodule, _ = self._train(0, 0, updates)
        return task.eval(), datamodule

    def _grid(self, updates: int) -> list[tuple[int, int, float]]:
        return [(updates, s, r) for s in self.seeds for r in self.ratios]

    def _table(self) -> dict[tuple[int, int, float], Run]:
        runs = read_runs(self.out / _TABLE)
        return {(run.updates, run.seed, run.ratio): run for run in runs}

    def _require_own_folder(self) -> None:
        """Runs of another segmenter or generated set must not fill this table."""
        manifest = self.synthetic / MANIFEST
        settings = {
            'task': self.task,
            'real_share': self.real_share,
            'synthetic': sha256(manifest)[:16] if manifest.exists() else None,
        }
        path = self.out / 'settings.json'
        require_same_settings(path, settings)
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({'settings': settings}, indent=2) + '\n')

    def _measure(self, ratio: float, seed: int, updates: int) -> Run:
        task, datamodule, trainer = self._train(ratio, seed, updates)
        scores = trainer.test(task, datamodule, verbose=False)[0]
        _require_scores(scores, 'test', f'run of ratio {ratio:g} and seed {seed}')
        iou = {
            name.removeprefix('test_iou/'): None if math.isnan(value) else value
            for name, value in scores.items()
            if name.startswith('test_iou/')
        }
        return Run(
            ratio,
            seed,
            updates,
            scores['test_miou'],
            scores['test_f1'],
            scores['test_accuracy'],
            iou,
        )

    def _train(
        self, ratio: float, seed: int, updates: int
    ) -> tuple[PixelTask, NonGeoDataModule, Trainer]:
        seed_everything(seed, workers=True, verbose=False)
        datamodule = SyntheticAugmentedDataModule(
            self.real(),
            str(self.synthetic) if ratio else None,
            ratio,
            real_share=self.real_share if ratio else None,
        )
        task = make_object(self.task)
        name = f'{ratio:g}x synthetic' if ratio else 'real only'
        settings: dict[str, Any] = {
            # one run is too small to share, and all must be trained alike
            'devices': 1,
            'logger': False,
            'enable_checkpointing': False,
            'enable_model_summary': False,
            'num_sanity_val_steps': 0,
            'limit_val_batches': 0,
            'callbacks': self.callbacks(f'{name}, seed {seed}'),
        }
        trainer = Trainer(**settings | self.trainer, max_steps=updates)
        trainer.fit(task, datamodule=datamodule)
        trainer.limit_val_batches = 1.0
        return task, datamodule, trainer


def settled(curve: Sequence[tuple[int, float]]) -> bool:
    """Whether the last doubling of a pilot curve added next to nothing."""
    rise = curve[-1][1] - curve[-2][1] if len(curve) >= _LEAST_PILOTS else math.inf
    return rise < _STILL_RISING


def enough_updates(curve: Sequence[tuple[int, float]]) -> int:
    """The updates that a pilot curve asks for: where it stopped rising."""
    return curve[-2][0] if settled(curve) else curve[-1][0]


def _require_scores(scores: Any, split: str, what: str) -> None:
    """Refuse scores that are no numbers: an average would hide them."""
    for name in (f'{split}_loss', f'{split}_miou'):
        if not math.isfinite(scores[name]):
            raise RuntimeError(
                f'{name} is {scores[name]} after the {what}, but must be a number. '
                f'Either no pixel of the {split} samples has a label, or the weights '
                'are lost: lower lr.'
            )
