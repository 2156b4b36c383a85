# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from numpy.random import Generator, Philox
from torch import Tensor
from torch.utils.data import Subset

from torchgeo_specdm import PairFolderDataModule
from torchgeo_specdm.scenes.land import Look, lay_out, render, scene_spec
from torchgeo_specdm.trust import overlap
from torchgeo_specdm.trust.overlap import (
    describe_overlaps,
    find_overlaps,
    overlaps_between_splits,
)

SPEC = scene_spec(hard=True)
EARLY, LATE = Look(140, 160, 55, 0.01), Look(250, 150, 40, 0.02)


def scene(seed: int, size: int = 96, look: Look = EARLY) -> dict[str, Tensor]:
    """A place on a day."""
    land = lay_out(Generator(Philox(seed)), size, True)
    image = render(land, look, Generator(Philox(seed + 1000)))
    return {
        'image': torch.from_numpy(image.astype(np.float32)),
        'mask': torch.from_numpy(land.labels.astype(np.int64)),
    }


def crop(sample: dict[str, Tensor], row: int, column: int, size: int) -> Any:
    window = (..., slice(row, row + size), slice(column, column + size))
    return {name: values[window].clone() for name, values in sample.items()}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pairs in each comparison of blocks."""
    compare, counts = overlap._compare, list[int]()

    def watch(ours: Any, theirs: Any, factor: int) -> Any:
        counts.append(len(ours.masks) * len(theirs.masks))
        return compare(ours, theirs, factor)

    monkeypatch.setattr(overlap, '_compare', watch)
    return counts


@pytest.mark.parametrize('row, column', [(0, 0), (37, 9), (-21, 40), (-48, -48)])
def test_finds_shifted_crops(row: int, column: int) -> None:
    whole = scene(3, 192)
    ours = [scene(5), crop(whole, 48, 48, 96)]
    theirs = [crop(whole, 48 + row, 48 + column, 96), scene(6)]
    (found,) = find_overlaps(ours, theirs, SPEC)
    assert found[:4] == (1, 0, row, column)
    share = (96 - abs(row)) * (96 - abs(column)) / 96**2
    assert found.share == pytest.approx(share)
    assert found.mask_agreement == 1
    assert found.image_correlation > 0.9


def test_leaves_out_a_strip_along_the_edge() -> None:
    whole = scene(3, 192)
    ours, theirs = crop(whole, 0, 0, 96), crop(whole, 0, 85, 96)
    assert find_overlaps([ours], [theirs], SPEC) == []


def test_finds_another_season() -> None:
    first, second = scene(3), scene(3, look=LATE)
    second['image'] *= torch.linspace(0.5, 2, 10)[:, None, None]
    (found,) = find_overlaps([first], [second], SPEC)
    assert found[:5] == (0, 0, 0, 0, 1)
    del first['mask']
    (found,) = find_overlaps([first], [second], SPEC)
    assert found[:4] == (0, 0, 0, 0) and found.mask_agreement is None


def test_finds_the_same_mask_under_clouds() -> None:
    whole = scene(3, 160)
    first, second = crop(whole, 0, 0, 96), crop(whole, 20, 5, 96)
    second['image'] = 1000 * random(10, 96, 96)
    (found,) = find_overlaps([first], [second], SPEC)
    assert found[2:4] == (20, 5) and found.mask_agreement == 1
    assert abs(found.image_correlation) < 0.1


def test_independent_scenes_do_not_overlap() -> None:
    ours = [scene(seed) for seed in range(10)]
    assert find_overlaps(ours, [scene(seed) for seed in range(20, 30)], SPEC) == []


def test_one_class_or_one_border_proves_nothing() -> None:
    masks = torch.zeros(3, 128, 128, dtype=torch.int64)
    masks[1, 60:] = 1
    masks[2, :, 33:] = 2
    ours, theirs = (
        [
            {'image': 1000 * random(4, 128, 128, seed=seed + i), 'mask': mask}
            for i, mask in enumerate(masks)
        ]
        for seed in (0, 10)
    )
    assert find_overlaps(ours, theirs, SPEC) == []
    for sample in ours + theirs:
        sample['image'] = torch.full((4, 128, 128), 500.0)
    assert find_overlaps(ours, theirs, SPEC) == []


def test_what_is_missing_is_not_alike() -> None:
    spec = scene_spec(hard=True)
    gaps = random(96, 96) < 0.05
    ours, theirs = scene(1), scene(2)
    for sample in (ours, theirs):
        sample['image'][:, gaps] = torch.nan
        sample['image'][:, :, :30] = torch.nan
        sample['mask'][gaps] = 255
    assert find_overlaps([ours], [theirs], spec) == []


@pytest.mark.parametrize('dates', [1, 2])
def test_any_date_is_enough_and_masks_of_change_do_not_count(dates: int) -> None:
    change = torch.zeros(1, 96, 96, dtype=torch.int64)
    change[:, 40:70, 20:80] = 1
    change[:, 45:52] = 1
    images = [scene(seed)['image'] for seed in range(4)]
    pairs = [torch.stack(images[:2]), torch.stack([images[2], images[3 - dates // 2]])]
    pairs[1][1] = images[0] * 0.7 if dates == 2 else images[3]
    ours, theirs = ([{'image': image, 'mask': change}] for image in pairs)
    found = find_overlaps(ours, theirs, None)
    if dates == 1:
        assert found == []
    else:
        assert [f[:4] for f in found] == [(0, 0, 0, 0)]
        assert found[0].mask_agreement is None


def test_large_patches_of_different_sizes() -> None:
    whole = scene(3, 400)
    ours = [crop(whole, 0, 0, 256), crop(whole, 100, 140, 200), scene(4, 256)]
    found = find_overlaps(ours, [crop(whole, 61, 80, 256)], SPEC)
    shifts = {one.first: (one.row, one.column) for one in found}
    assert shifts.keys() == {0, 1}
    # reduced by two
    assert shifts[0] == pytest.approx((61, 80), abs=2)
    assert shifts[1] == pytest.approx((-39, -60), abs=2)


def test_blocks_hold_all_pairs(
    monkeypatch: pytest.MonkeyPatch, compared: list[int]
) -> None:
    monkeypatch.setattr('torchgeo_specdm.trust.overlap._BLOCK', 3)
    monkeypatch.setattr('torchgeo_specdm.trust.overlap._PAIRS', 2)
    ours = [scene(seed) for seed in range(5)]
    theirs = [scene(seed) for seed in (9, 4, 8, 7, 0, 2, 6)]
    found = find_overlaps(ours, theirs, SPEC)
    assert [f[:2] for f in found] == [(4, 1), (0, 4), (2, 5)]
    assert sum(compared) == 35 and len(compared) == 6
    assert find_overlaps([], theirs, SPEC) == []


@pytest.mark.parametrize('kind', ['image', 'mask'])
def test_of_many_pairs_those_with_common_landmarks_are_compared(
    monkeypatch: pytest.MonkeyPatch, compared: list[int], kind: str
) -> None:
    monkeypatch.setattr('torchgeo_specdm.trust.overlap._ALL', 0)
    whole = [scene(seed, 128) for seed in range(6)]
    ours = [crop(sample, 0, 0, 96) for sample in whole[:4]]
    theirs = [crop(sample, 30, 5, 96) for sample in whole[:1:-1]]
    for sample in ours:
        if kind == 'mask':
            sample['image'] = 1000 * random(10, 96, 96)
        else:
            del sample['mask']
    # nothing to find in them
    theirs.append({key: torch.zeros_like(value) for key, value in theirs[0].items()})
    found = find_overlaps(ours, theirs, SPEC)
    assert [f[:4] for f in found] == [(3, 2, 30, 5), (2, 3, 30, 5)]
    assert sum(compared) < len(ours) * len(theirs)


def test_small_patches_have_no_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torchgeo_specdm.trust.overlap._ALL', 0)
    assert find_overlaps([scene(0, 24)], [scene(0, 24)], SPEC) == []


class Placed(list[Any]):
    """Samples that lie somewhere: pixels of 10 m from a corner on."""

    def __init__(self, samples: list[Any], corners: list[tuple[int, int]]) -> None:
        super().__init__(samples)
        self.corners = corners

    def size(self, index: int) -> tuple[int, int]:
        height, width = self[index]['image'].shape[-2:]
        return height, width

    def place(self, index: int) -> dict[str, Any]:
        row, column = self.corners[index]
        left, top = 600_000 + 10 * column, 5_200_000 - 10 * row
        return {'crs': 'EPSG:32632', 'transform': Affine(10, 0, left, 0, -10, top)}


def test_georeference_tells_which_pairs_are_compared(compared: list[int]) -> None:
    whole = scene(3, 192)
    ours = Placed([scene(5), crop(whole, 0, 0, 96)], [(5000, 0), (0, 0)])
    # the third one has a copy far away, and the last one touches an edge
    theirs = Placed(
        [crop(whole, 40, 20, 96), scene(7), scene(5), crop(whole, 0, 90, 96)],
        [(40, 20), (30, 0), (0, 5000), (0, 90)],
    )
    whole_split: Any = theirs
    split: Subset[Any] = Subset(whole_split, [2, 0, 1, 3])
    found = find_overlaps(ours, split, SPEC)
    assert [f[:4] for f in found] == [(1, 1, 40, 20)]
    assert compared == [1, 1]
    # what lies nowhere, or all at one place, is found by what it shows
    for others in (list(theirs), Placed(theirs, [(0, 0)] * 4)):
        found = find_overlaps(ours, others, SPEC)
        assert [f[:2] for f in found] == [(1, 0), (0, 2)]


class Splits:
    """A datamodule of three lists."""

    spec = SPEC

    def __init__(self, **splits: Any) -> None:
        self.splits = splits

    def setup(self, stage: str) -> None:
        if stage == 'test' and 'test' not in self.splits:
            raise ValueError('0 samples are for test.')
        for name, samples in self.splits.items():
            setattr(self, f'{name}_dataset', samples)


def test_each_two_splits() -> None:
    places = [scene(seed) for seed in range(3)]
    data = Splits(train=places[:2], val=places[2:], test=[scene(9), places[1]])
    found = overlaps_between_splits(data)
    assert list(found) == ['train-val', 'train-test', 'val-test']
    assert found['train-val'] == found['val-test'] == []
    assert [f[:2] for f in found['train-test']] == [(1, 1)]
    first, second, pair, third = describe_overlaps(data, found).splitlines()
    assert first == '0 of 1 val samples show ground that is also in train.'
    assert second == '1 of 2 test samples show ground that is also in train.'
    assert pair.startswith('  train 1 and test 1: 100% in common, shifted by 0 rows')
    assert third == '0 of 2 test samples show ground that is also in val.'
    assert describe_overlaps(data, found, 0).splitlines()[2] == '  and 1 further pairs'


def test_without_test_set() -> None:
    data = Splits(train=[scene(0)], val=[scene(0)])
    with pytest.warns(UserWarning, match='0 samples are for test'):
        found = overlaps_between_splits(data)
    assert list(found) == ['train-val'] and len(found['train-val']) == 1
    with (
        pytest.warns(UserWarning, match='no test set'),
        pytest.raises(ValueError, match=r"has the splits \['train'\]"),
    ):
        overlaps_between_splits(Splits(train=[scene(0)]))


def test_a_real_datamodule(pair_folder: Path) -> None:
    found = overlaps_between_splits(PairFolderDataModule(str(pair_folder)))
    assert list(found) == ['train-val', 'train-test', 'val-test']
