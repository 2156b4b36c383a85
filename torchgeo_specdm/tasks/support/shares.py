# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The choice of masks whose classes have the shares that are asked for."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from typing_extensions import TypedDict

from ...bars import bar
from ...datamodules.labelling import MOST_DRAWS
from ...datamodules.shares import ShareBatches, ShareDataModule
from ...diffusion import Generator
from ...files import Count, Finite, read_json, read_json_lines
from ...pairs.layout import DESCRIPTION
from ...pairs.manifest import manifest_lines
from ...pairs.writer import PairWriter

#: Shares of the masks to choose from, so that a second run need not draw them again.
_CANDIDATES = '.candidates.jsonl'
#: A share that is missed by more has not been reached.
_MISSED = 0.01


class _Line(TypedDict):
    """Shares of the classes in each of the masks that one is chosen from."""

    index: Count
    shares: list[list[Finite]]


def choose_masks(
    trainer: Trainer, generator: Generator, data: ShareDataModule, folder: PairWriter
) -> None:
    """Draw masks for each sample, and tell the batches which one is chosen.

    All masks of a sample are drawn at once, so the choice does not depend on the batch
    size. Processes share the drawing, and what they have drawn is kept in the folder.

    Args:
        trainer: Tells the processes.
        generator: Generator that draws masks by themselves.
        data: Datamodule that says what to draw, after its ``setup``.
        folder: Folder of the samples.

    Raises:
        RuntimeError: If the device has too little memory.
    """
    batches, draws, count = data.predict_dataset, data.settings['draws'], data.count
    assert isinstance(batches, ShareBatches) and count is not None
    positions = [*batches.positions.values()]
    known = _read_candidates(folder.root)
    own = range(trainer.global_rank, count, trainer.world_size)
    missing = [index for index in own if index not in known]
    for index in bar(missing, 'choosing masks', hidden=not trainer.is_global_zero):
        numbers = [_number(index, draw) for draw in range(draws)]
        try:
            masks = generator.sample_masks(numbers, data.seed, size=data.size)
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f'{draws} masks at once need more memory than the device has. Set '
                'fewer draws and another folder.'
            ) from error
        masks = masks.flatten(1)
        areas = torch.stack([(masks == position).sum(1) for position in positions], 1)
        shares = (areas / masks.shape[1]).tolist()
        folder.append({'index': index, 'shares': shares}, _CANDIDATES)
    trainer.strategy.barrier()
    known = _read_candidates(folder.root)
    candidates = np.array([known[index] for index in range(count)])
    asked = np.array([*data.settings['class_share'].values()])
    batches.numbers = [*map(_number, range(count), choose(candidates, asked).tolist())]
    batches.candidates = candidates.mean(1)


def choose(candidates: NDArray[np.floating[Any]], asked: NDArray[Any]) -> NDArray[Any]:
    """Choose one of several masks for each sample, so that shares of classes are met.

    One sample after the other takes its first mask that leads the sum of all shares
    towards what is asked for, or else the one that leads away least. So masks keep the
    variety of those that are drawn: to take the nearest one each time would give all
    of them the same share (docs/notes/diffusion.md).

    Args:
        candidates: Shares of S classes in M masks for each sample (N, M, S), in 0..1.
        asked: Shares that are asked for (S,).

    Returns:
        Positions (N,) in 0..M-1; each follows from those before it alone.
    """
    chosen = np.zeros(len(candidates), np.int64)
    beyond = np.zeros(len(asked))
    for index, steps in enumerate(candidates - asked):
        towards = steps @ beyond <= 0
        left = np.square(beyond + steps).sum(1)
        best = towards.argmax() if towards.any() else left.argmin()
        chosen[index] = best
        beyond += steps[best]
    return chosen


def describe_shares(root: Path) -> list[str]:
    """Say of each class whose share was asked for how much of it there is.

    Args:
        root: Folder of samples.

    Returns:
        Sentences; none if no shares were asked for.
    """
    provenance = read_json(root / DESCRIPTION, dict[str, Any])['provenance']
    settings = provenance['settings']
    asked: dict[str, float] = settings.get('class_share', {})
    sums: dict[str, Counter[str]] = {'shares': Counter(), 'candidates': Counter()}
    count = 0
    for row in manifest_lines(root) if asked else ():
        if row.get('accepted', True):
            count += 1
            for key, total in sums.items():
                total.update(row[key])
    sentences = []
    for name, share in asked.items():
        got, without = (total[name] / count for total in sums.values())
        text = f'{name}: {share:.1%} asked, {got:.1%} got, {without:.1%} without.'
        if abs(got - share) > _MISSED:
            text += (
                f' It was not reached with {count} samples, each of which had '
                f'{settings["draws"]} masks to choose from: raise --draws, or ask for '
                'a share nearer to the last one.'
            )
        sentences.append(text)
    return sentences


def _number(index: int, draw: int) -> int:
    """Number of a mask to choose from, however many there are for a sample."""
    return index * MOST_DRAWS + draw


def _read_candidates(root: Path) -> dict[int, list[list[float]]]:
    """Shares of the masks that are drawn already, by the number of the sample."""
    path = root / _CANDIDATES
    if not path.exists():
        return {}
    return {row['index']: row['shares'] for row in read_json_lines(path, _Line, True)}
