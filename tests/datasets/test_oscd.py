# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pickle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.utils.data import default_collate
from torchgeo.datasets import DatasetNotFoundError, RGBBandsMissingError

from tests.data.oscd import (
    ALL_BANDS,
    LABELS,
    TEST,
    TRAIN,
    fake_image,
    fake_mask,
    make_oscd,
    mask_path,
    write_mask,
)
from torchgeo_specdm.bands import TEN_BANDS
from torchgeo_specdm.datasets.oscd import OSCD, oscd_spec, tile_grid, tile_stride

from .conftest import small

#: The published sizes; sides may be swapped, which changes no count.
OFFICIAL_TRAIN = {
    'abudhabi': (799, 785),
    'aguasclaras': (471, 525),
    'beihai': (902, 772),
    'beirut': (1180, 1070),
    'bercy': (395, 360),
    'bordeaux': (517, 461),
    'cupertino': (788, 1015),
    'hongkong': (695, 540),
    'mumbai': (858, 557),
    'nantes': (582, 522),
    'paris': (408, 390),
    'pisa': (776, 718),
    'rennes': (339, 563),
    'saclay_e': (688, 639),
}
OFFICIAL_TEST = {
    'brasilia': (469, 431),
    'chongqing': (730, 544),
    'dubai': (774, 634),
    'lasvegas': (824, 716),
    'milano': (545, 558),
    'montpellier': (426, 451),
    'norcia': (241, 385),
    'rio': (353, 426),
    'saclay_w': (639, 688),
    'valencia': (458, 476),
}
SMALL: dict[str, Any] = {'patch_size': 16, 'overlap': 0.5}


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fake data set that no test changes, under a path with spaces."""
    folder = tmp_path_factory.mktemp('oscd') / 'my data ö'
    make_oscd(folder)
    return folder


class TestGrid:
    @pytest.mark.parametrize(
        ('patch_size', 'stride', 'train', 'test'),
        [
            (128, 51, 1838, 789),
            (256, 102, 331, 116),
            (256, 127, 234, 86),
            (256, 128, 230, 82),
            (272, 121, 237, 86),
        ],
    )
    def test_official_counts(
        self, patch_size: int, stride: int, train: int, test: int
    ) -> None:
        for sizes, count in ((OFFICIAL_TRAIN, train), (OFFICIAL_TEST, test)):
            grids = [tile_grid(*size, patch_size, stride) for size in sizes.values()]
            assert sum(map(len, grids)) == count

    def test_official_pixels(self) -> None:
        assert sum(h * w for h, w in OFFICIAL_TRAIN.values()) == 6_368_388 + 149_190

    @pytest.mark.parametrize(
        ('patch_size', 'overlap', 'stride'),
        [
            (256, 0.6, 102),
            (128, 0.6, 51),
            (256, 0.5, 128),
            (64, 0, 64),
            (20, 0.9, 2),
            (4, 0.99, 1),
        ],
    )
    def test_stride(self, patch_size: int, overlap: float, stride: int) -> None:
        assert tile_stride(patch_size, overlap) == stride

    @pytest.mark.parametrize('size', [(16, 16), (17, 40), (53, 31), (9, 40), (3, 5)])
    @pytest.mark.parametrize('stride', [1, 5, 16])
    def test_cover(self, size: tuple[int, int], stride: int) -> None:
        grid = tile_grid(*size, 16, stride, cover=True)
        assert len(set(grid)) == len(grid) and grid == sorted(grid)
        assert set(tile_grid(*size, 16, stride)) <= set(grid)
        seen = np.zeros(np.maximum(size, 16), bool)
        for row, column in grid:
            # inside, but for what has no room
            assert 0 <= row <= max(size[0] - 16, 0)
            assert 0 <= column <= max(size[1] - 16, 0)
            seen[row : row + 16, column : column + 16] = True
        assert seen.all()

    def test_full_windows_only(self) -> None:
        assert tile_grid(35, 16, 16, 10) == [(0, 0), (10, 0)]
        assert tile_grid(35, 16, 16, 10, cover=True) == [(0, 0), (10, 0), (19, 0)]
        assert tile_grid(15, 40, 16, 10) == []


class TestSample:
    def test_content(self, whole: Path) -> None:
        dataset = OSCD(whole, **SMALL)
        assert [scene.name for scene in dataset.scenes] == ['bercy', 'paris']
        assert len(dataset) == 4 * 5 + 4 * 4
        image, mask = fake_image(TEN_BANDS, 40, 48), fake_mask(40, 48)
        for index, (row, column) in enumerate(tile_grid(40, 48, 16, 8)):
            sample = dataset[index]
            assert set(sample) == {'image', 'mask'}
            assert sample['image'].dtype == torch.float32
            assert sample['mask'].dtype == torch.int64
            window = (..., slice(row, row + 16), slice(column, column + 16))
            assert np.array_equal(sample['image'].numpy(), image[window])
            assert np.array_equal(sample['mask'].numpy(), mask[window][None])

    def test_bands_by_name(self, whole: Path) -> None:
        bands = ('B12', 'B8A', 'B01')
        image = OSCD(whole, bands=bands, **SMALL)[0]['image']
        assert np.array_equal(image, fake_image(bands, 40, 48)[..., :16, :16])
        assert OSCD.all_bands == ALL_BANDS

    def test_scene_is_not_touched(self, whole: Path) -> None:
        dataset = OSCD(whole, **SMALL)
        dataset[0]['image'].zero_()
        dataset[0]['mask'].fill_(7)
        assert dataset[0]['image'].min() > 0 and dataset[0]['mask'].max() == 1

    def test_unchanged_tile(self, root: Path) -> None:
        write_mask(mask_path(root, 'paris'), np.zeros((20, 24), bool))
        sample = small(root)[0]
        assert sample['mask'].shape == (1, 16, 16) and not sample['mask'].any()

    def test_spec_and_scenes(self, whole: Path) -> None:
        dataset = OSCD(whole, 'test', cover=True, **SMALL)
        spec = dataset.spec
        assert spec == oscd_spec() and spec.bands == TEN_BANDS
        assert spec.classes == ('no change', 'change') and spec.num_classes == 2
        assert (spec.dates, spec.dtype, spec.scale) == (2, 'uint16', 1e-4)
        found = {s.name: (s.height, s.width) for s in dataset.scenes}
        assert found == TEST
        assert dataset.scenes[0].crs is None

    def test_collate_pickle_transforms(self, whole: Path) -> None:
        settings = SMALL | {'cover': True}
        dataset = OSCD(whole, transforms=lambda s: s | {'mask': s['mask'] + 1}, **SMALL)
        assert dataset[0]['mask'].min() == 1
        dataset = pickle.loads(pickle.dumps(OSCD(whole, 'test', **settings)))
        batch = default_collate([dataset[0], dataset[-1]])
        assert batch['image'].shape == (2, 2, 10, 16, 16)
        assert batch['mask'].shape == (2, 1, 16, 16)
        assert batch['tile'].tolist() == [[0, 0, 0, 24, 38], [1, 24, 37, 40, 53]]
        with pytest.raises(IndexError):
            dataset[len(dataset)]

    def test_plot(self, whole: Path) -> None:
        dataset = OSCD(whole, **SMALL)
        sample = dataset[0]
        figure = dataset.plot(sample | {'prediction': sample['mask']}, suptitle='x')
        titles = [axis.get_title() for axis in figure.axes]
        assert titles == ['Image 1', 'Image 2', 'Mask', 'Prediction']
        with pytest.raises(RGBBandsMissingError):
            OSCD(whole, bands=('B02', 'B04'), **SMALL).plot(sample)
        plt.close('all')


class TestCover:
    @pytest.mark.parametrize('patch_size', [16, 24, 39, 60])
    @pytest.mark.parametrize('overlap', [0, 0.6])
    def test_reassembly(self, whole: Path, patch_size: int, overlap: float) -> None:
        dataset = OSCD(
            whole, 'test', cover=True, patch_size=patch_size, overlap=overlap
        )
        images = [np.full((2, 10, s.height, s.width), -1.0) for s in dataset.scenes]
        masks = [np.full((s.height, s.width), -1) for s in dataset.scenes]
        for index in range(len(dataset)):
            sample = dataset[index]
            assert sample['image'].shape == (2, 10, patch_size, patch_size)
            assert set(sample['mask'].unique().tolist()) <= {0, 1}
            assert sample['tile'].dtype == torch.int64
            number, row, column, height, width = sample['tile'].tolist()
            assert images[number].shape[-2:] == (height, width)
            inside = (..., slice(0, height - row), slice(0, width - column))
            place = (
                ...,
                slice(row, row + patch_size),
                slice(column, column + patch_size),
            )
            images[number][place] = sample['image'].numpy()[inside]
            masks[number][place] = sample['mask'][0].numpy()[inside]
        for scene, image, mask in zip(dataset.scenes, images, masks, strict=True):
            size = (scene.height, scene.width)
            assert np.array_equal(image, fake_image(TEN_BANDS, *size))
            assert np.array_equal(mask, fake_mask(*size))

    def test_small_scene_is_mirrored(self, whole: Path) -> None:
        dataset = OSCD(whole, 'test', cover=True, patch_size=30, overlap=0)
        sample = dataset[0]
        assert sample['tile'].tolist() == [0, 0, 0, 24, 38]
        for key in ('image', 'mask'):
            tile = sample[key]
            assert torch.equal(tile[..., 24:, :], tile[..., 18:24, :].flip(-2))


class TestSplits:
    def test_no_city_in_two(self, whole: Path) -> None:
        for held in (['bordeaux'], ['paris', 'bercy']):
            names = [
                {s.name for s in OSCD(whole, split, val_cities=held, **SMALL).scenes}
                for split in ('train', 'val', 'test')
            ]
            assert names[1] == set(held) and names[2] == set(TEST)
            assert names[0] == set(TRAIN) - set(held)

    def test_without_validation(self, whole: Path) -> None:
        scenes = OSCD(whole, val_cities=(), **SMALL).scenes
        assert [scene.name for scene in scenes] == sorted(TRAIN)
        with pytest.raises(
            ValueError, match=r"val_cities=\[\] leaves no .*split='val'"
        ):
            OSCD(whole, 'val', val_cities=(), **SMALL)
        with pytest.raises(ValueError, match=r"no city for split='train'; .*'paris'\]"):
            OSCD(whole, val_cities=tuple(TRAIN), **SMALL)

    def test_unknown_city(self, whole: Path) -> None:
        match = r"val_cities has \['rio'\].*\['bercy', 'bordeaux', 'paris'\]\. Choose"
        with pytest.raises(ValueError, match=match):
            OSCD(whole, val_cities=('rio', 'paris'), **SMALL)

    def test_leaves_cities_of_both_folders_out(self, whole: Path) -> None:
        out = ('paris', min(TEST))
        given = {'val_cities': ('bercy',), 'test_cities': out, **SMALL}
        names = [
            {s.name for s in OSCD(whole, split, **given).scenes}
            for split in ('train', 'val', 'test')
        ]
        assert names[1:] == [{'bercy'}, set(out)]
        assert names[0] == {*TRAIN, *TEST} - {'bercy', *out}
        with pytest.raises(
            ValueError, match=r"val_cities has \['paris'\], but the cities"
        ):
            OSCD(whole, **given | {'val_cities': ('paris',)})

    @pytest.mark.parametrize(
        'cities', [[], ['oslo'], ['paris', 'oslo'], [*TRAIN, *TEST]]
    )
    def test_must_leave_some_out(self, whole: Path, cities: list[str]) -> None:
        with pytest.raises(
            ValueError, match=r'test_cities=.* must be some, but not all'
        ):
            OSCD(whole, val_cities=(), test_cities=cities, **SMALL)

    def test_city_in_both(self, root: Path) -> None:
        write_mask(mask_path(root, 'paris', 'Test'), fake_mask(20, 24))
        for split in ('train', 'val', 'test'):
            with pytest.raises(ValueError, match=r"\['paris'\] have labels in both"):
                small(root, split)

    def test_only_test_labels(self, root: Path) -> None:
        (root / LABELS.format('Train')).rename(root / 'other')
        assert small(root, 'test').scenes[0].name == 'rio'
        match = r'has no city in Onera .* Train Labels\. .*download=True'
        with pytest.raises(DatasetNotFoundError, match=match):
            small(root)

    def test_not_found(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r'no Onera .* Images\. Get the'):
            OSCD(tmp_path / 'nothing')
        for split in ('Train', 'Test'):
            (root / LABELS.format(split)).rename(root / split)
        with pytest.raises(DatasetNotFoundError, match=r'no city in .* or Onera'):
            small(root)


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        ({'split': 'predict'}, "split='predict' must be one of"),
        ({'bands': ['B08', 'B8']}, r"bands \['B8'\] are not among"),
        ({'bands': ['B08', 'B08']}, 'different names'),
        ({'patch_size': 0}, 'patch_size=0 must be 1'),
        ({'overlap': 1}, 'overlap=1 is a share'),
        ({'overlap': float('nan')}, 'overlap=nan'),
        ({'threshold': 0}, r'threshold=0 must be in 1\.\.255'),
    ],
)
def test_arguments(whole: Path, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OSCD(whole, **arguments)


def test_tiles_that_share_ground(root: Path) -> None:
    bands = ('B02', 'B03', 'B04')
    dataset = OSCD(root, 'train', bands, val_cities=(), **SMALL)
    # bordeaux has one tile at the corner of 20 pixels, paris two, 8 pixels apart
    assert dataset.places == ['bordeaux', 'paris', 'paris']
    shared = [dataset.sharing_ground(i) for i in range(len(dataset))]
    assert shared == [[True, False, False], [False, True, True], [False, True, True]]
    apart = OSCD(root, 'train', bands, patch_size=8, overlap=0)
    for index in range(len(apart)):
        assert apart.sharing_ground(index) == [i == index for i in range(len(apart))]
