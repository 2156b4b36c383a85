# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchgeo_specdm.pairs.tiles import TileDataset


class Coordinates(Dataset[dict[str, Tensor]]):
    """Samples that hold their number, row and column, in image and mask alike."""

    def __init__(self, count: int, height: int, width: int, dates: int = 1) -> None:
        self.size = (count, height, width)
        self.dates = dates
        #: Samples of another size.
        self.odd: dict[int, tuple[int, int]] = {}
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size[0]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read.append(index)
        sides = self.odd.get(index, self.size[1:])
        rows, columns = torch.meshgrid(*map(torch.arange, sides), indexing='ij')
        number = torch.full_like(rows, index)
        mask = coordinate(number, rows, columns)
        image = torch.stack([number, rows, columns]).float()
        if self.dates == 1:
            return {'image': image, 'mask': mask}
        return {'image': image.repeat(self.dates, 1, 1, 1), 'mask': mask[None]}


def coordinate(number: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return 10_000 * number + 100 * row + column


@pytest.mark.parametrize('dates', [1, 2])
def test_every_pixel_is_where_it_should_be(dates: int) -> None:
    # what is left at the edges is dropped
    tiles = TileDataset(Coordinates(3, 19, 26, dates), (8, 12))
    assert len(tiles) == 3 * 2 * 2
    for i, tile in enumerate(tiles[i] for i in range(len(tiles))):
        sample, top, left = i // 4, 8 * (i // 2 % 2), 12 * (i % 2)
        rows = torch.arange(top, top + 8)[:, None]
        columns = torch.arange(left, left + 12)
        expected = coordinate(torch.tensor(sample), rows, columns)
        assert torch.equal(tile['mask'], expected)
        images = tile['image'].long()
        assert images.shape == ((3, 8, 12) if dates == 1 else (2, 3, 8, 12))
        for image in images.view(dates, 3, 8, 12):
            assert torch.equal(coordinate(*image), expected)
        assert tile['index'] == i and tiles.sample_of(i) == tile['place'] == sample


@pytest.mark.parametrize('count', [2, 3, 5])
@pytest.mark.parametrize('size', [(8, 8), (16, 16), (5, 16)])
def test_other_mask_is_of_another_sample(count: int, size: tuple[int, int]) -> None:
    tiles = TileDataset(Coordinates(count, 16, 16), size)
    others = []
    for i in range(len(tiles)):
        own, other = (tiles[i][name] // 10_000 for name in ('mask', 'other_mask'))
        assert own.unique().tolist() == [tiles.sample_of(i)]
        assert other.unique().tolist() != own.unique().tolist()
        others.append(int(tiles[i]['other_mask'][0, 0]))
    # the control has the same masks, each of them once
    assert len(set(others)) == len(tiles)


@pytest.mark.parametrize('period', range(1, 11))
def test_a_set_that_repeats_itself_is_shuffled(period: int) -> None:
    # as variations of the same few real samples do
    tiles = TileDataset(Coordinates(20, 8, 8), (8, 8))
    own, other = (
        torch.stack([tiles[i][name] for i in range(20)])[:, 0, 0] // 10_000 % period
        for name in ('mask', 'other_mask')
    )
    chance = 1 / period
    assert (own == other).float().mean() <= chance + 0.25


def test_places_are_numbered() -> None:
    dataset = Coordinates(4, 8, 16)
    dataset.places = ['paris', 'rennes', 'paris', 'bercy']  # type: ignore[attr-defined]
    tiles = TileDataset(dataset, (8, 8))
    assert tiles.places == ['paris', 'rennes', 'bercy']
    assert tiles.place_of_sample == [0, 1, 0, 2]
    found = [int(tiles[i]['place']) for i in range(8)]
    assert found == [0, 0, 1, 1, 0, 0, 2, 2]


def test_some_tiles_from_all_over() -> None:
    dataset = Coordinates(40, 16, 16)
    tiles = TileDataset(dataset, (8, 8)).spread(8)
    number, rows, columns = tiles.images.long().unbind(1)
    assert torch.equal(tiles.masks, coordinate(number, rows, columns))
    assert tiles.images.shape == (8, 3, 8, 8)
    assert number[:, 0, 0].tolist() == [0, 5, 10, 15, 20, 25, 30, 35]
    # what is not used is not read either
    assert dataset.read == number[:, 0, 0].tolist()


def test_spread_over_each_sample_too() -> None:
    tiles = TileDataset(Coordinates(5, 32, 32), (8, 8)).spread(24)
    number, rows, _ = tiles.images[:, :, 0, 0].long().unbind(1)
    assert number.bincount().tolist() == [5, 5, 5, 5, 4]
    assert rows[:5].tolist() == [0, 0, 8, 16, 24]
    # no more than there are
    assert len(TileDataset(Coordinates(2, 8, 8), (8, 8)).spread(5).masks) == 2


def test_a_tile_does_not_keep_its_sample_in_memory() -> None:
    image, mask = TileDataset(Coordinates(2, 64, 64), (8, 8)).cut(0)
    assert image.untyped_storage().nbytes() == 3 * 8 * 8 * 4
    assert mask.untyped_storage().nbytes() == 8 * 8 * 8


def test_nothing_is_read_before_it_is_asked_for() -> None:
    dataset = Coordinates(40, 16, 16)
    tiles = TileDataset(dataset, (8, 8))
    tiles.cut(4 * 7 + 2)
    # the size is that of the first
    assert dataset.read == [0, 7]


@pytest.mark.parametrize('count', [4, 5])
def test_samples_are_not_read_for_each_tile(count: int) -> None:
    dataset = Coordinates(count, 16, 16)
    tiles = TileDataset(dataset, (8, 8))
    for i in range(len(tiles)):
        _ = tiles[i]
    # each sample for its own tiles and as a control
    assert len(dataset.read) <= 1 + 2 * count < 2 * len(tiles)


def test_refuses_what_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match=r'1 samples.*two or more.*Add samples'):
        TileDataset(Coordinates(1, 16, 16), (8, 8))
    for size in ((17, 8), (8, 17)):
        with pytest.raises(ValueError, match=r'16 x 16 pixels are smaller.*Generate'):
            TileDataset(Coordinates(2, 16, 16), size)


@pytest.mark.parametrize('sides', [(16, 8), (24, 16), (8, 8)])
def test_refuses_samples_of_several_sizes(sides: tuple[int, int]) -> None:
    dataset = Coordinates(3, 16, 16)
    dataset.odd = {1: sides}
    tiles = TileDataset(dataset, (8, 8))
    tiles.cut(3)
    with pytest.raises(ValueError, match=r'Sample 1 has .*\(16, 16\).*Cut them alike'):
        tiles.cut(4)


def test_samples_that_share_ground() -> None:
    dataset = Coordinates(4, 8, 8)
    tiles = TileDataset(dataset, (8, 8))
    assert tiles.sharing_ground(2).tolist() == [False, False, True, False]
    dataset.places = ['paris', 'rennes', 'paris', 'bercy']  # type: ignore[attr-defined]
    tiles = TileDataset(dataset, (8, 8))
    assert tiles.sharing_ground(2).tolist() == [True, False, True, False]
    # a data set that knows where its samples lie
    dataset.sharing_ground = lambda i: [i == j for j in range(4)]  # type: ignore[attr-defined]
    assert tiles.sharing_ground(2).tolist() == [False, False, True, False]
