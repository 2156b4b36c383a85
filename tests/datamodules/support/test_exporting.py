# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Data sets of rasters and of change, exported as folders of pairs."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import from_bounds
from torchgeo.datamodules import (
    GeoDataModule,
    L7IrishDataModule,
    NAIPChesapeakeDataModule,
)
from torchgeo.datamodules import OSCDDataModule as TorchGeoOSCD
from torchgeo.datasets import ChesapeakeDC, RasterDataset, random_bbox_assignment
from torchgeo.samplers import GridGeoSampler, RandomBatchGeoSampler

from tests.data.geo import L7_CODES, make_l7irish, make_naip
from tests.data.oscd import TEST, TRAIN, fake_image, fake_mask, make_oscd
from tests.data.pairs import write_tiff
from torchgeo_specdm import OSCDDataModule, PairFolder, PairFolderDataModule
from torchgeo_specdm.datamodules.support.exporting import export_datamodule


def places(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / 'places.csv').open() as file:
        return {row['id']: row for row in csv.DictReader(file)}


class Images(RasterDataset):
    filename_glob = 'image*.tif'


class Masks(RasterDataset):
    filename_glob = 'mask*.tif'
    is_image = False


class OwnRasters(GeoDataModule):
    """Rasters of somebody who has just followed the tutorial of TorchGeo."""

    def __init__(self, root: Path) -> None:
        super().__init__(Images, 2, 16, 4)
        self.root = str(root)

    def setup(self, stage: str) -> None:
        dataset = Images(self.root) & Masks(self.root)
        self.train_dataset, self.val_dataset = random_bbox_assignment(
            dataset, [0.5] * 2
        )
        self.train_batch_sampler = RandomBatchGeoSampler(self.train_dataset, 16, 2, 4)
        self.val_sampler = GridGeoSampler(self.val_dataset, 16, 16)


@pytest.mark.parametrize(
    ('dtype', 'gap', 'nodata', 'no_label'),
    [
        ('uint8', 255, 255, 255),
        ('uint8', 0, 0, 0),
        ('int16', -1, -1, -1),
        ('float32', np.nan, np.nan, 255),
        # without a tag, 255 is a class
        ('uint8', 255, None, 256),
    ],
)
def test_rasters_of_ones_own(
    tmp_path: Path, dtype: str, gap: float, nodata: float | None, no_label: int
) -> None:
    names, units = ['B02', 'B03', 'B08'], ([1e-4, 2e-4, 1e-4], [0, 0, -0.1])
    for i in range(2):
        place = from_origin(500_000 + 1000 * i, 5_300_000, 10, 10)
        profile = {'crs': 'EPSG:32632', 'transform': place}
        codes = (1 + np.arange(32 * 32).reshape(1, 32, 32) % 3).astype(dtype)
        codes[0, :5] = gap
        write_tiff(tmp_path / f'mask{i}.tif', codes, nodata=nodata, **profile)
        image = np.ones((3, 32, 32), np.int64)
        path = write_tiff(tmp_path / f'image{i}.tif', image, names, **profile)
        with rasterio.open(path, 'r+') as target:
            target.scales, target.offsets = units
    export_datamodule(OwnRasters(tmp_path), tmp_path / 'out')
    folder = PairFolder(tmp_path / 'out')
    folder.verify()
    spec = folder.spec
    assert spec.codes == ((1, 2, 3) if nodata is not None else (1, 2, 3, 255))
    assert (spec.no_label, spec.dtype) == ((no_label,), 'float64')
    assert (spec.bands, spec.scale, spec.offset) == (tuple(names), *map(tuple, units))
    masks = torch.stack([sample['mask'] for sample in folder])
    assert bool((masks == spec.ignore_index).any()) == (nodata is not None)


def lose_rim(sample: dict[str, Any]) -> dict[str, Any]:
    """Crop image and mask by two pixels on each side."""
    return sample | {
        key: sample[key][..., 2:-2, 2:-2] for key in ('image', 'mask') if key in sample
    }


def at_its_place(file: Path, sources: list[Path]) -> bool:
    """Whether an exported raster holds what one of the sources has at that place."""
    with rasterio.open(file) as part:
        values, bounds = part.read(), part.bounds
        for path in sources:
            with rasterio.open(path) as source:
                inside = rasterio.coords.disjoint_bounds(bounds, source.bounds)
                assert part.crs == source.crs
                if inside:
                    continue
                window = from_bounds(*bounds, source.transform)
                found = source.read(window=window.round())
                if np.array_equal(found, values):
                    return True
    return False


class TestL7Irish:
    @pytest.fixture(scope='class')
    def folders(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        root = tmp_path_factory.mktemp('l7')
        make_l7irish(root / 'l7')
        # what a datamodule crops for training is not where it says
        data = L7IrishDataModule(
            paths=str(root / 'l7'), patch_size=24, transforms=lose_rim
        )
        export_datamodule(data, root / 'out')
        return root / 'l7', root / 'out'

    def test_pixels_lie_where_they_lay(self, folders: tuple[Path, Path]) -> None:
        source, out = folders
        folder = PairFolder(out)
        assert len(folder) > 8
        for i, name in enumerate(folder.ids):
            assert at_its_place(out / 'images' / f'{name}.tif', [*source.glob('L71*')])
            # labels of TorchGeo are positions
            with rasterio.open(out / 'masks' / f'{name}.tif') as mask:
                codes, bounds = L7_CODES[mask.read(1)], mask.bounds
            for path in source.glob('L7_*'):
                with rasterio.open(path) as scene:
                    window = from_bounds(*bounds, scene.transform).round()
                    there = scene.read(1, window=window, boundless=True, fill_value=7)
                if np.array_equal(there, codes):
                    break
            else:
                raise AssertionError(folder.ids[i])

    def test_is_described(self, folders: tuple[Path, Path]) -> None:
        spec = PairFolder(folders[1]).spec
        assert spec.classes[1] == 'Cloud Shadow'
        assert spec.dtype == 'uint8' and spec.scale == pytest.approx(1 / 255)
        assert spec.bands[5] == 'B61'
        assert spec.rgb == (2, 1, 0)

    def test_splits_and_places(self, folders: tuple[Path, Path]) -> None:
        data = PairFolderDataModule(str(folders[1]), batch_size=2)
        data.prepare_data()
        data.setup('fit')
        data.setup('test')
        ids = data.split_ids()
        assert all(ids.values())
        # scenes lie apart, and random_bbox_assignment gives whole scenes
        where = places(folders[1])
        used = [{where[name]['place'] for name in part} for part in ids.values()]
        assert not used[0] & used[1] and not (used[0] | used[1]) & used[2]


class TestNAIP:
    @pytest.fixture
    def data(self, tmp_path: Path) -> NAIPChesapeakeDataModule:
        make_naip(tmp_path)
        return NAIPChesapeakeDataModule(
            patch_size=8,
            naip_paths=str(tmp_path / 'naip'),
            chesapeake_paths=str(tmp_path / 'chesapeake'),
        )

    def test_files_that_overlap(
        self, data: NAIPChesapeakeDataModule, tmp_path: Path
    ) -> None:
        out = tmp_path / 'out'
        export_datamodule(data, out)
        folder = PairFolder(out)
        # a grid over all of it, none twice
        assert len(folder) == 16
        assert len({(*row.values(),)[1:] for row in places(out).values()}) == 16
        for name in folder.ids:
            for kind, source in (('images', 'naip'), ('masks', 'chesapeake')):
                sources = [*(tmp_path / source).iterdir()]
                assert at_its_place(out / kind / f'{name}.tif', sources)
        assert folder.spec.codes == (11, 22, 42, 95)
        if isinstance(ChesapeakeDC.cmap, dict):
            # as long as TorchGeo has a table of values
            assert folder.spec.colors[1] == (235, 6, 2)

    def test_some_splits(self, data: NAIPChesapeakeDataModule, tmp_path: Path) -> None:
        export_datamodule(data, tmp_path / 'out', ['test'])
        assert PairFolder(tmp_path / 'out').count_splits() == {'test': 4}

    def test_tiles_that_do_not_fit(
        self, data: NAIPChesapeakeDataModule, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match='as large as a tile of 100 pixels'):
            export_datamodule(data, tmp_path / 'out', tile=100)


class TestOSCD:
    @pytest.fixture(scope='class')
    def root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp('oscd')
        make_oscd(root)
        return root

    def test_ours_by_city(self, root: Path, tmp_path: Path) -> None:
        out = tmp_path / 'out'
        # nothing is trained, so batches may be larger than the data set
        data = OSCDDataModule(str(root), 1000, patch_size=16, overlap=0.5)
        export_datamodule(data, out)
        folder, where = PairFolder(out), places(out)
        for split, cities in (('train', {*TRAIN} - {'bordeaux'}), ('test', {*TEST})):
            found = {where[name]['place'] for name in folder.choose_ids(split)}
            assert found == cities
        for i in (0, 5):
            row = where[folder.ids[i]]
            window = self.window(row, 16)
            city = (TRAIN | TEST)[row['place']]
            image = fake_image(folder.spec.bands, *city)[window]
            assert np.array_equal(folder[i]['image'], image)

    def test_that_of_torchgeo_is_cut(self, root: Path, tmp_path: Path) -> None:
        out = tmp_path / 'out'
        data: Any = TorchGeoOSCD(root=str(root), patch_size=8)
        export_datamodule(data, out, tile=16)
        folder, where = PairFolder(out), places(out)
        tiles = sum((h // 16) * (w // 16) for h, w in (TRAIN | TEST).values())
        assert len(folder) == tiles
        assert folder.spec.dates == 2 and folder.spec.classes == ('no change', 'change')
        # whole cities, in the order of the split
        row = next(row for row in where.values() if row['place'] == 'test_0')
        sample = folder[folder.ids.index(row['id'])]
        city = TEST[min(TEST)]
        window = self.window(row, 16)
        assert np.array_equal(sample['mask'][0], fake_mask(*city)[window])
        assert torch.equal(
            sample['image'],
            torch.from_numpy(fake_image(folder.spec.bands, *city)[window]).float(),
        )

    def test_stops_and_goes_on(self, root: Path, tmp_path: Path) -> None:
        out = tmp_path / 'out'
        export_datamodule(TorchGeoOSCD(root=str(root)), out, tile=16)
        whole = {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
        (out / 'README.md').unlink()
        (out / 'images' / '000003_2.tif').unlink()
        export_datamodule(TorchGeoOSCD(root=str(root)), out, tile=16)
        assert whole == {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
        with pytest.raises(FileExistsError, match='tile: 16 there, 8 here'):
            export_datamodule(TorchGeoOSCD(root=str(root)), out, tile=8)

    def window(self, row: dict[str, str], size: int) -> Any:
        top, left = int(row['row']), int(row['column'])
        return (..., slice(top, top + size), slice(left, left + size))


def test_numbers_that_say_nothing(tmp_path: Path) -> None:
    for given in ({'tile': 0}, {'tile': 8, 'stride': 0}, {'stride': 4}):
        with pytest.raises(ValueError, match='stride='):
            export_datamodule(TorchGeoOSCD(), tmp_path, **given)
