# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Scores of trained segmenters, in a table that survives an interruption."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import read_text, write_text
from .statistics import Difference, paired_difference

_COLUMNS = ('ratio', 'seed', 'updates', 'miou', 'f1', 'accuracy')
_IOU = 'iou/'


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


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """Write runs as CSV, one a line; columns ``iou/<class>`` hold the classes.

    Args:
        path: The file; its folder is made if needed.
        runs: One or more, all of the same classes.
    """
    classes = list(runs[0].iou)
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow([*_COLUMNS, *(f'{_IOU}{name}' for name in classes)])
    for run in runs:
        values = [getattr(run, name) for name in _COLUMNS]
        # None is written as an empty field
        table.writerow([*values, *(run.iou[name] for name in classes)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


def read_runs(path: Path) -> list[Run]:
    """Read what :func:`write_runs` wrote; no file is no run.

    Args:
        path: The file.

    Returns:
        The runs, in the order of the lines.

    Raises:
        ValueError: If a line is not what :func:`write_runs` writes.
    """
    if not path.exists():
        return []
    table = csv.DictReader(io.StringIO(read_text(path)))
    runs = []
    for row in table:
        try:
            iou = {
                name.removeprefix(_IOU): float(value) if value else None
                for name, value in row.items()
                if name.startswith(_IOU)
            }
            miou, f1, accuracy = (float(row[name]) for name in _COLUMNS[3:])
            numbers = float(row['ratio']), int(row['seed']), int(row['updates'])
            run = Run(*numbers, miou, f1, accuracy, iou)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}, line {table.line_num}: this is no run ({error!r}). Delete '
                'the line, and the run is done again.'
            ) from error
        runs.append(run)
    return runs


def differences(runs: Sequence[Run]) -> dict[float, Difference]:
    """Paired mIoU differences of each ratio against real only.

    Args:
        runs: Of one number of updates.

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
