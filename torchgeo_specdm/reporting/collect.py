# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""From the measures of a generated folder to the content of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from ..diffusion import Generator, read_errors
from ..pairs.tiles import TileDataset, Tiles
from ..pairs.valid import labelled_pixels
from ..trust.datamodule import TrustDataModule
from ..trust.measures import read_measures
from ..trust.scores import read_scores
from .report import Captioned, Neighbours

_SHOWN = 8
#: Scores of which more is better.
_RANKED = ('agreement', 'edges', 'spectrum')


def collect_measures(
    trust: Path, data: TrustDataModule, generator: Path | None
) -> dict[str, Any]:
    """Read what was measured, and load the samples that a report shows.

    Args:
        trust: Folder that :class:`~torchgeo_specdm.TrustTask` wrote.
        data: Datamodule of the measured samples, set up.
        generator: Folder that stage 2 wrote, or None.

    Returns:
        ``measures``, and arguments of
        :class:`~torchgeo_specdm.reporting.report.ReportContent`: ``spec``, ``scores``,
        ``rows``, ``best``, ``worst`` and ``nearest``.
    """
    measures = read_measures(trust)
    if generator is not None:
        measures['denoising'] = read_errors(generator)
    scores = read_scores(trust / 'scores' / 'synthetic.jsonl')
    order = rank_samples(scores)
    synthetic = data.tiles['synthetic']
    best, worst = order[:_SHOWN], order[: -_SHOWN - 1 : -1]
    return {
        'spec': data.spec,
        'measures': measures,
        'scores': scores,
        'rows': _rows(data, generator),
        'best': _captioned(synthetic, [scores[i] for i in best]),
        'worst': _captioned(synthetic, [scores[i] for i in worst]),
        'nearest': _neighbours(data, measures['memorisation']['nearest'][:_SHOWN]),
    }


def rank_samples(scores: Sequence[Mapping[str, Any]]) -> list[int]:
    """Order samples by the mean of their ranks in each score, the best first.

    Args:
        scores: Scores of each sample; None counts as the middle.

    Returns:
        Positions.
    """
    total = np.zeros(len(scores))
    for name in _RANKED:
        values = np.array([row[name] for row in scores], float)
        known = ~np.isnan(values)
        if known.any():
            values[~known] = np.median(values[known])
            total += rankdata(values)
    order: list[int] = np.argsort(-total, kind='stable').tolist()
    return order


def _rows(data: TrustDataModule, generator: Path | None) -> dict[str, Tiles]:
    """Real, reconstructed and generated pairs, evenly spread and not chosen."""
    real = data.tiles['held_out'].spread(_SHOWN)
    rows = {'real': real}
    if generator is not None:
        codec = Generator.load(generator).codec
        decoded, _ = codec.roundtrip({'image': real.images, 'mask': real.masks})
        # where there was nothing, it was filled, and would look like a label
        labelled = labelled_pixels(real.masks, data.spec.num_classes)
        masks = decoded['mask'].reshape(real.masks.shape).where(labelled, real.masks)
        images = decoded['image'].where(real.images.isfinite(), torch.nan)
        rows['reconstructed'] = Tiles(images, masks)
    return rows | {'generated': data.tiles['synthetic'].spread(_SHOWN)}


def _stack(samples: Sequence[Mapping[str, Tensor]]) -> Tiles:
    images, masks = (
        torch.stack([s[key] for s in samples]) for key in ('image', 'mask')
    )
    return Tiles(images, masks)


def _captioned(tiles: TileDataset, rows: Sequence[Mapping[str, Any]]) -> Captioned:
    captions = []
    for row in rows:
        known = [f'{name} {row[name]:.2f}' for name in _RANKED if row[name] is not None]
        captions.append(f'{row["id"]}: {", ".join(known)}')
    return Captioned(_stack([tiles[row['index']] for row in rows]), captions)


def _neighbours(data: TrustDataModule, rows: Sequence[Mapping[str, Any]]) -> Neighbours:
    """Generated samples beside the training windows that they are nearest to."""
    training, (height, width) = data.tiles['train'].dataset, data.tiles['train'].size
    names = [str(n) for n in getattr(training, 'ids', range(len(training)))]
    windows = []
    for row in rows:
        sample = training[names.index(row['nearest'])]
        top, left = row['row'], row['column']
        window = (..., slice(top, top + height), slice(left, left + width))
        image = _turned_back(sample['image'][window], row['turn'])
        mask = sample['mask'].reshape(sample['mask'].shape[-2:])
        windows.append(
            {'image': image, 'mask': _turned_back(mask[window], row['turn'])}
        )
    generated = [data.tiles['synthetic'][row['index']] for row in rows]
    captions = [f'{row["id"]}: distance {row["distance"]:.2f}' for row in rows]
    return Neighbours(_stack(generated), _stack(windows), captions)


def _turned_back(window: Tensor, turn: int) -> Tensor:
    """A training window as the generated image lies: the turn of its search undone."""
    back = torch.rot90(window, -(turn % 4), (-2, -1))
    return back.flip(-1) if turn >= 4 else back
