# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Finished runs: a file for each, so that machines can share a folder, and a table."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from ..files import Count, Finite, Seed, read_json, write_text
from ..tasks.support.plateau import Curve, CurveFile
from .design import REAL, Cell
from .statistics import Difference, paired_difference

_COLUMNS = (
    *('model', 'arm', 'ratio', 'size', 'seed', 'subset', 'updates'),
    'unlabelled',
)
_IOU = 'iou/'


@dataclass(frozen=True)
class Run:
    """One trained and tested network, or one that failed.

    Attributes:
        model: Name of the network.
        arm: Name of the arm.
        ratio: Synthetic samples for each real one; 0 without any.
        size: Real training samples; 0 for all of them.
        seed: Seed of weights and order.
        subset: Number of the real subset and its generator.
        updates: Optimiser steps.
        scores: Scores on the test set, in 0..1, by name: ``miou``, ``f1``, ``accuracy``
            and for change ``change_f1`` and so on; None where there is none.
        iou: IoU of each class on the test set, None where it does not occur.
        seconds: Seconds that it took.
        reason: Why it failed; empty if it did not.
        split: Split that was scored: ``val`` where the datamodule has no labelled test
            set.
        unlabelled: Real images without labels that the network, or the generator of its
            synthetic samples, was trained on beside the labelled ones.
    """

    model: str
    arm: str
    ratio: Finite
    size: Count
    seed: Seed
    subset: Count
    updates: Count
    scores: dict[str, Finite | None] = field(default_factory=dict)
    iou: dict[str, Finite | None] = field(default_factory=dict)
    seconds: Finite = 0.0
    reason: str = ''
    split: Literal['test', 'val'] = 'test'
    unlabelled: Count = 0

    @property
    def cell(self) -> Cell:
        """Where it is in the grid."""
        return Cell(self.model, self.arm, self.ratio, self.size, self.seed)

    def score(self, name: str) -> float:
        """A score, NaN if there is none."""
        value = self.scores.get(name)
        return math.nan if value is None else value


def run_path(folder: Path, cell: Cell, updates: int) -> Path:
    """The file of a run.

    Args:
        folder: Folder of results.
        cell: Place of the run in the grid.
        updates: Optimiser steps.

    Returns:
        A readable name with a hash, since names may hold anything.
    """
    text = f'{cell.model} {cell.arm} {cell.ratio:g}x {cell.size} {cell.seed} {updates}'
    digest = blake2b(repr((cell, updates)).encode(), digest_size=4).hexdigest()
    return folder / 'runs' / f'{re.sub("[^A-Za-z0-9.]+", "-", text)}-{digest}.json'


def write_run(folder: Path, run: Run) -> None:
    """Write a run, whole or not at all.

    Args:
        folder: Folder of results.
        run: The run to write.
    """
    path = run_path(folder, run.cell, run.updates)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(run), indent=2, allow_nan=False) + '\n')


def read_run(path: Path) -> Run | None:
    """Read what :func:`write_run` wrote; None if there is no file.

    Args:
        path: The file.

    Returns:
        The run.

    Raises:
        ValueError: If the file holds something else.
    """
    if not path.exists():
        return None
    try:
        return read_json(path, Run)
    except ValueError as error:
        raise ValueError(f'{error} Or delete it, and the run is done again.') from error


def pilot_path(folder: Path, model: str, size: int) -> Path:
    """The file of the pilot that finds the updates of a network and real size."""
    return folder / 'pilots' / f'{model}-{size}.json'


def read_pilot(path: Path) -> Curve:
    """The trainings of a pilot that are done; none if there is no file."""
    return read_json(path, CurveFile)['curve'] if path.exists() else []


def table(runs: Sequence[Run]) -> str:
    """All runs as CSV, one a line; columns ``iou/<class>`` hold the classes.

    Args:
        runs: Runs in the order of the lines.

    Returns:
        The text.
    """
    scores = list(dict.fromkeys(name for run in runs for name in run.scores))
    classes = list(dict.fromkeys(name for run in runs for name in run.iou))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator='\n')
    iou = [f'{_IOU}{name}' for name in classes]
    lines.writerow([*_COLUMNS, *scores, *iou, 'seconds', 'reason'])
    for run in runs:
        # None is written as an empty field
        values = [getattr(run, name) for name in _COLUMNS]
        values += [run.scores.get(name) for name in scores]
        values += [run.iou.get(name) for name in classes]
        lines.writerow([*values, round(run.seconds, 1), run.reason])
    return text.getvalue()


def differences(
    runs: Sequence[Run], score: str = 'miou'
) -> dict[tuple[str, float], Difference]:
    """Paired differences of each arm and ratio against real only.

    Args:
        runs: Runs of one model and one real size.
        score: Name of the score.

    Returns:
        The difference for each (arm, ratio) over the seeds that have both; failed runs
        and arms without a pair are left out.
    """
    values = by_arm(runs, score)
    real = values.pop((REAL, 0.0), {})
    found = {}
    for key, scored in values.items():
        seeds = [seed for seed in scored if seed in real]
        if seeds:
            found[key] = paired_difference(
                [scored[seed] for seed in seeds], [real[seed] for seed in seeds]
            )
    return found


def by_arm(
    runs: Sequence[Run], score: str = 'miou'
) -> dict[tuple[str, float], dict[int, float]]:
    """The finite scores of each arm and ratio by seed, in the order of the runs.

    Args:
        runs: Runs of one model and one real size.
        score: Name of the score.

    Returns:
        Score in 0..1 by seed, for each (arm, ratio).
    """
    found: dict[tuple[str, float], dict[int, float]] = {}
    for run in runs:
        scored = found.setdefault((run.arm, run.ratio), {})
        if math.isfinite(run.score(score)):
            scored[run.seed] = run.score(score)
    return found


def images_without_labels(runs: Sequence[Run]) -> dict[tuple[str, float], int]:
    """The number that each arm and ratio was trained on (see :class:`Run`).

    Args:
        runs: Runs of one model and one real size.

    Returns:
        The number for each (arm, ratio); empty where no run has any.
    """
    found: dict[tuple[str, float], int] = {}
    for run in runs:
        key = (run.arm, run.ratio)
        # a failed run does not know it
        found[key] = max(run.unlabelled, found.get(key, 0))
    return found if any(found.values()) else {}


def logged_scores(
    found: Mapping[str, float], split: str, compared: str
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Take apart what Lightning returns of a validation or test.

    Args:
        found: Logged values by name.
        split: 'val' or 'test'.
        compared: Name of the score that must be among them.

    Returns:
        Scores by name and IoU by class, None where there is none. Where tiles overlap,
        they are those of the stitched scenes, in which each pixel counts once.

    Raises:
        ValueError: If the task has no such score.
        RuntimeError: If loss or mIoU are no numbers: an average would hide them.
    """
    stitched = f'{split}_stitched_'
    prefix = stitched if f'{stitched}miou' in found else f'{split}_'
    if f'{prefix}{compared}' not in found:
        raise ValueError(
            f'score={compared!r} is none that this task has: {sorted(found)}. Use '
            'miou or f1.'
        )
    for name in (f'{split}_loss', f'{split}_miou'):
        if not math.isfinite(found[name]):
            raise RuntimeError(
                f'{name} is {found[name]}, but must be a number. Either no pixel of '
                f'the {split} samples has a label, or the weights are lost: lower lr.'
            )
    values = {
        name.removeprefix(prefix): value if math.isfinite(value) else None
        for name, value in found.items()
        if name.startswith(prefix) and name != f'{prefix}loss'
    }
    iou = {name[4:]: v for name, v in values.items() if name.startswith('iou/')}
    return {name: v for name, v in values.items() if '/' not in name}, iou
