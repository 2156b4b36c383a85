# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Samples of a data set as tensors of one tile size."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tiles(NamedTuple):
    """Tiles in memory.

    Attributes:
        images: Digital numbers (N, C, H, W).
        masks: Class positions (N, H, W).
        groups: For each tile, the sample that it was cut from.
    """

    images: Tensor
    masks: Tensor
    groups: list[int]


def cut_tiles(dataset: Any, size: int, limit: int = 512) -> Tiles:
    """Cut samples into tiles side by side; what is left at the edges is dropped.

    Args:
        dataset: A map-style data set; samples with ``image`` (C, H, W) in digital numbers and ``mask``.
        size: Side of a tile in pixels.
        limit: Stop after this many tiles.

    Returns:
        The tiles.

    Raises:
        ValueError: If no sample is as large as a tile.
    """
    images: list[Tensor] = []
    masks: list[Tensor] = []
    groups: list[int] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        image, mask = sample['image'], sample['mask']
        mask = mask.reshape(mask.shape[-2:])
        for top in range(0, image.shape[-2] - size + 1, size):
            for left in range(0, image.shape[-1] - size + 1, size):
                window = (..., slice(top, top + size), slice(left, left + size))
                images.append(image[window])
                masks.append(mask[window])
                groups.append(index)
        if len(images) >= limit:
            break
    if not images:
        raise ValueError(
            f'No sample is as large as a tile of {size} x {size} pixels. Use smaller '
            'tiles or larger patches.'
        )
    return Tiles(torch.stack(images), torch.stack(masks), groups)
