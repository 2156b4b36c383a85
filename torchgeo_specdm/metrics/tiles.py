# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Samples of a data set as tensors of one tile size."""

from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tiles(NamedTuple):
    """Tiles in memory.

    Attributes:
        images: Digital numbers (N, C, H, W), or (N, T, C, H, W) with T dates.
        masks: Class positions (N, H, W).
        groups: For each tile, the place that it was cut from: tiles of one place are
            alike.
    """

    images: Tensor
    masks: Tensor
    groups: list[int | str]


def cut_tiles(dataset: Any, size: int, limit: int = 512) -> Tiles:
    """Cut samples into tiles side by side; what is left at the edges is dropped.

    With more tiles than *limit*, samples are taken evenly spread over the data set,
    since neighbours may show one place, and of each as many tiles as fit, evenly
    spread too. A tile that overlapping samples of a place share counts once.

    Args:
        dataset: A map-style data set; the place of each sample is read from its list
            ``places``, else each sample is a place of its own; its samples have ``image``, (C, H, W) or
            (T, C, H, W) in digital numbers, and ``mask``, (H, W) or (1, H, W).
        size: Side of a tile in pixels.
        limit: At most this many tiles, 1 or more.

    Returns:
        The tiles.

    Raises:
        ValueError: If no sample is as large as a tile.
    """
    images: list[Tensor] = []
    masks: list[Tensor] = []
    groups: list[int | str] = []
    known: dict[tuple[int | str, bytes], int] = {}
    chosen = _spread(len(dataset), limit)
    places = getattr(dataset, 'places', range(len(dataset)))
    for index in chosen:
        sample = dataset[index]
        image, mask = sample['image'], sample['mask']
        mask = mask.reshape(mask.shape[-2:])
        corners = [
            (top, left)
            for top in range(0, image.shape[-2] - size + 1, size)
            for left in range(0, image.shape[-1] - size + 1, size)
        ]
        for i in _spread(len(corners), limit // len(chosen)):
            top, left = corners[i]
            window = (..., slice(top, top + size), slice(left, left + size))
            content = image[window].numpy().tobytes()
            if (
                known.setdefault((places[index], blake2b(content).digest()), index)
                != index
            ):
                continue
            # copies: a view would keep the whole sample in memory
            images.append(image[window].clone())
            masks.append(mask[window].clone())
            groups.append(places[index])
    if not images:
        raise ValueError(
            f'No sample is as large as a tile of {size} x {size} pixels. Use smaller '
            'tiles or larger patches.'
        )
    return Tiles(torch.stack(images), torch.stack(masks), groups)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below *count*, evenly spread."""
    kept = min(count, most)
    return [i * count // kept for i in range(kept)]
