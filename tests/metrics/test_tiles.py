# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch

from torchgeo_specdm.metrics.tiles import cut_tiles

from ..datasets.test_tiles import Coordinates, coordinate


def check(tiles: Any) -> None:
    """Image, mask and group speak of the same pixels."""
    number, rows, columns = tiles.images.long().unbind(1)
    assert torch.equal(tiles.masks, coordinate(number, rows, columns))
    assert number.flatten(1)[:, 0].tolist() == tiles.groups


def test_tiles_are_aligned_and_cover_every_pixel_once() -> None:
    tiles = cut_tiles(Coordinates(3, 16, 24), 8)
    check(tiles)
    assert tiles.images.shape == (3 * 2 * 3, 3, 8, 8)
    assert tiles.groups == [0] * 6 + [1] * 6 + [2] * 6
    assert len(tiles.masks.unique()) == 3 * 16 * 24


def test_limit_takes_tiles_from_all_over() -> None:
    dataset = Coordinates(40, 16, 16)
    tiles = cut_tiles(dataset, 8, limit=8)
    check(tiles)
    assert tiles.groups == [0, 5, 10, 15, 20, 25, 30, 35]
    # what is not used is not read either, but for the size of the first
    assert dataset.read == [0, *tiles.groups]


def test_limit_takes_about_as_many_of_each_sample() -> None:
    tiles = cut_tiles(Coordinates(5, 32, 32), 8, limit=24)
    check(tiles)
    assert [tiles.groups.count(i) for i in range(5)] == [5, 5, 5, 5, 4]
    # from all over the sample, not just its first rows
    assert tiles.images[:5, 1, 0, 0].tolist() == [0, 0, 8, 16, 24]


def test_refuses_samples_that_are_too_small() -> None:
    with pytest.raises(ValueError, match=r'31 x 64 pixels.*smaller than.*32 x 32'):
        cut_tiles(Coordinates(4, 31, 64), 32)
