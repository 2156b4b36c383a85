# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Samples of a data set as tensors of one tile size."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..datasets.tiles import TileDataset


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
    """Cut samples into square tiles, evenly spread since neighbours are alike.

    Args:
        dataset: As :class:`~torchgeo_specdm.datasets.tiles.TileDataset` needs it.
        size: Side of a tile in pixels.
        limit: At most this many tiles, 1 or more.

    Returns:
        The tiles.

    Raises:
        ValueError: If the data set has fewer than two samples, or they are smaller
            than a tile.
    """
    tiles = TileDataset(dataset, (size, size))
    count = min(limit, len(tiles))
    chosen = [i * len(tiles) // count for i in range(count)]
    images, masks = zip(*map(tiles.cut, chosen), strict=True)
    places = [tiles.places[tiles.place_of_sample[tiles.sample_of(i)]] for i in chosen]
    return Tiles(torch.stack(images), torch.stack(masks), places)
