# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Real only against real with synthetic samples, at equal updates, over seeds."""

import csv
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
from ..files import write_text
from ..tasks.segmentation import MultispectralSegmentationTask
from .statistics import Difference, paired_difference

#: The pilot stops when doubling the updates adds less than this to validation mIoU.
_STILL_RISING = 0.01


@dataclass(frozen=True)
class Run:
    """One trained and tested segmenter.

    Attributes:
        ratio: Synthetic samples for each real one; 0 is real only.
        seed: Seed of weights and order.
        updates: Optimiser steps.
        miou: Mean IoU on the test set, in 0..1.
        f1: Mean F1 on the test set, in 0..1.
        accuracy: Share of right test pixels, in 0..1.
        iou: IoU of each class on the test set, None where it does not occur.
    """

    ratio: float
    seed: int
    updates: int
    miou: float
    f1: float
    accuracy: float
    iou: dict[str, float | None]


@dataclass
class Comparison:
    """The smallest study: one segmenter, some ratios, some seeds.

    All arms get the same number of updates, so an arm with synthetic samples sees
    half as many real crops; validation picks the number of updates, the test set is
    read once at the end of each run.

    Attributes:
        real: Makes the real datamodule afresh for each run.
        synthetic: Folder of pairs.
        out: Folder of ``runs.csv``; runs that are there are not run again.
        ratios: Synthetic samples for each real one; 0 must be among them.
        seeds: One run of each ratio for each.
        real_share: Share of real samples in each mixed batch.
        task: Arguments of :class:`MultispectralSegmentationTask`.
        trainer: Arguments of Lightning's trainer.
        callbacks: Makes the callbacks of a run from its title.
    """

    real: Callable[[], NonGeoDataModule]
    synthetic: Path
    out: Path
    ratios: Sequence[float] = (0, 1, 3, 5)
    seeds: Sequence[int] = (0, 1, 2)
    real_share: float = 0.5
    task: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[str], list[Callback]] = lambda title: []

    def find_updates(self, start: int, most: int) -> list[tuple[int, float]]:
        """Double the updates of real-only runs until validation stops rising.

        An under-trained baseline makes any generator look good.

        Args:
            start: Updates of the first pilot run.
            most: Never more updates than this.

        Returns:
            (updates, validation mIoU) of each pilot run; the last but one is enough,
            unless the last one still rose.
        """
        path = self.out / 'pilot.json'
        curve: list[tuple[int, float]] = []
        if path.exists():
            curve = [(int(u), float(v)) for u, v in json.loads(path.read_text())]
        updates = start if not curve else 2 * curve[-1][0]
        while updates <= most and not settled(curve):
            task, datamodule, trainer = self._train(0, 0, updates)
            scores = trainer.validate(task, datamodule, verbose=False)[0]
            curve.append((updates, scores['val_miou']))
            self.out.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(curve))
            updates *= 2
        return curve

    def run(self, updates: int) -> list[Run]:
        """Train and test what is missing.

        Args:
            updates: Optimiser steps of every run.

        Returns:
            All runs, by seed and ratio.
        """
        path = self.out / 'runs.csv'
        runs = [run for run in read_runs(path) if run.updates == updates]
        have = {(run.ratio, run.seed) for run in runs}
        for seed in self.seeds:
            for ratio in self.ratios:
                if (ratio, seed) not in have:
                    runs.append(self._measure(ratio, seed, updates))
                    write_runs(path, runs)
        return runs

    def judge(self, updates: int) -> tuple[torch.nn.Module, NonGeoDataModule]:
        """A segmenter trained on real samples only, to read other images."""
        task, datamodule, _ = self._train(0, 0, updates)
        return task.eval(), datamodule

    def _measure(self, ratio: float, seed: int, updates: int) -> Run:
        task, datamodule, trainer = self._train(ratio, seed, updates)
        scores = trainer.test(task, datamodule, verbose=False)[0]
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
    ) -> tuple[MultispectralSegmentationTask, NonGeoDataModule, Trainer]:
        seed_everything(seed, workers=True, verbose=False)
        datamodule = SyntheticAugmentedDataModule(
            self.real(),
            str(self.synthetic) if ratio else None,
            ratio,
            real_share=self.real_share if ratio else None,
        )
        task = MultispectralSegmentationTask(**self.task)
        name = f'{ratio:g}x synthetic' if ratio else 'real only'
        trainer = Trainer(
            max_steps=updates,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            callbacks=self.callbacks(f'{name}, seed {seed}'),
            **self.trainer,
        )
        trainer.fit(task, datamodule=datamodule)
        trainer.limit_val_batches = 1.0
        return task, datamodule, trainer


def settled(curve: Sequence[tuple[int, float]]) -> bool:
    """Whether the last doubling of a pilot curve added next to nothing."""
    return len(curve) > 1 and curve[-1][1] - curve[-2][1] < _STILL_RISING


def enough_updates(curve: Sequence[tuple[int, float]]) -> int:
    """The updates that a pilot curve asks for: where it stopped rising."""
    return curve[-2][0] if settled(curve) else curve[-1][0]


def differences(runs: Sequence[Run]) -> dict[float, Difference]:
    """Paired mIoU differences of each ratio against real only.

    Args:
        runs: From :meth:`Comparison.run`.

    Returns:
        The difference for each ratio above 0, over the seeds that have both.
    """
    score = {(run.ratio, run.seed): run.miou for run in runs}
    found = {}
    for ratio in sorted({run.ratio for run in runs} - {0}):
        seeds = [s for r, s in score if r == ratio and (0, s) in score]
        found[ratio] = paired_difference(
            [score[ratio, s] for s in seeds], [score[0, s] for s in seeds]
        )
    return found


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """Write runs as CSV, one a line; columns ``iou/<class>`` hold the classes."""
    classes = list(runs[0].iou)
    head = ['ratio', 'seed', 'updates', 'miou', 'f1', 'accuracy']
    lines = [','.join([*head, *(f'"iou/{name}"' for name in classes)])]
    for run in runs:
        values = [run.ratio, run.seed, run.updates, run.miou, run.f1, run.accuracy]
        ious = ['' if v is None else v for v in (run.iou[c] for c in classes)]
        lines.append(','.join(str(value) for value in [*values, *ious]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, '\n'.join(lines) + '\n')


def read_runs(path: Path) -> list[Run]:
    """Read what :func:`write_runs` wrote; no file is no run."""
    if not path.exists():
        return []
    with path.open(encoding='utf-8', newline='') as file:
        return [
            Run(
                float(row['ratio']),
                int(row['seed']),
                int(row['updates']),
                float(row['miou']),
                float(row['f1']),
                float(row['accuracy']),
                {
                    name.removeprefix('iou/'): float(value) if value else None
                    for name, value in row.items()
                    if name.startswith('iou/')
                },
            )
            for row in csv.DictReader(file)
        ]
