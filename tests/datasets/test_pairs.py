# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rasterio
import tifffile
import torch
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin
from torch import Tensor
from torch.utils.data import default_collate

from tests.data.pairs import NAMES, image_of, make_pairs, write_tiff
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs.spec import DTYPES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # spaces, other letters and what web addresses use must not matter
    return make_pairs(tmp_path / 'Flächen für München #1 ?x=%20!')


def mask_of(folder: PairFolder, name: str) -> Any:
    return tifffile.imread(folder.mask_path(name))


def read(path: Path) -> Any:
    with rasterio.open(path) as source:
        return source.read()


def change(path: Path, **values: Any) -> None:
    """Change what a GeoTIFF says of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path, 'r+') as target:
            for key, value in values.items():
                setattr(target, key, value)


RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


class TestSample:
    def test_image_and_mask_fit(self, root: Path) -> None:
        folder = PairFolder(root)
        folder.verify()
        assert folder.ids == ['0000', '0001', '0002', '0003'] and len(folder) == 4
        masks = []
        for name, sample in zip(folder.ids, folder, strict=False):
            assert set(sample) == {'image', 'mask'}
            assert sample['image'].dtype == torch.float32
            assert sample['mask'].dtype == torch.int64
            mask = sample['mask'].numpy()
            assert np.array_equal(mask, mask_of(folder, name))
            assert np.array_equal(sample['image'].numpy(), image_of(mask, 4))
            masks.append(mask)
        assert not np.array_equal(masks[0], masks[1])

    def test_place_of_the_image_where_the_mask_has_none(self, tmp_path: Path) -> None:
        root = make_pairs(tmp_path, 1)
        assert PairFolder(root).place(0) == {}
        place = {'crs': CRS.from_epsg(32632), 'transform': from_origin(5, 6, 7, 7)}
        for kind in ('images', 'masks'):
            change(root / kind / '0000.tif', **place)
            assert PairFolder(root).place(0) == place

    def test_digest_is_of_names_and_files(self, root: Path) -> None:
        def digests(folder: PairFolder) -> list[str]:
            found = [folder.digest(), folder.digest(masks=False)]
            return [*found, folder.digest(images=False)]

        before = digests(PairFolder(root))
        assert len({*before}) == 3
        folder = PairFolder(root.rename(root.with_name('moved')))
        assert digests(folder) == before
        change(folder.mask_path('0002'), nodata=9)
        after = digests(folder)
        assert [a == b for a, b in zip(after, before, strict=True)] == [0, 1, 0]
        assert folder.select(['0000', '0001']).digest() != before[0]

    @pytest.mark.parametrize('bands', [1, 2, 3, 4, 13, 300])
    def test_any_number_of_bands(self, tmp_path: Path, bands: int) -> None:
        make_pairs(tmp_path, 1, [None] * bands)
        folder = PairFolder(tmp_path)
        assert folder.spec.bands == tuple(f'band_{i + 1}' for i in range(bands))
        sample = folder[0]
        assert np.array_equal(sample['image'], image_of(sample['mask'].numpy(), bands))

    @pytest.mark.parametrize('dtype', DTYPES)
    def test_any_type(self, tmp_path: Path, dtype: str) -> None:
        make_pairs(tmp_path, 1, dtype=dtype)
        highest = 1e6 if dtype[0] == 'f' else np.iinfo(dtype).max
        image = image_of(np.zeros((8, 8)), 4).astype(dtype)
        image[0, 0] = highest
        write_tiff(tmp_path / 'images' / '0000.tif', image, NAMES)
        folder = PairFolder(tmp_path)
        assert folder.spec.dtype == dtype
        assert folder[0]['image'].dtype == torch.float32
        assert np.array_equal(folder[0]['image'], image.astype(np.float32))

    def test_bands_by_name_and_order(self, root: Path) -> None:
        every, some = PairFolder(root), PairFolder(root, bands=['B08', 'B02'])
        assert some.spec.bands == ('B08', 'B02')
        for one, two in zip(every, some, strict=True):
            assert torch.equal(one['image'][[3, 0]], two['image'])
            assert torch.equal(one['mask'], two['mask'])
        some.verify()

    def test_dates(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 2, dates=2)
        folder = PairFolder(tmp_path, bands=['B03', 'B08'])
        assert folder.ids == ['0000', '0001'] and folder.spec.dates == 2
        folder.verify()
        for sample in folder:
            assert sample['image'].shape == (2, 2, 8, 8)
            assert sample['mask'].shape == (1, 8, 8)
            for date in range(2):
                wanted = image_of(sample['mask'][0].numpy(), 4, date)[[1, 3]]
                assert np.array_equal(sample['image'][date], wanted)

    def test_transforms_and_workers(self, root: Path) -> None:
        folder = PairFolder(root, transforms=_plus_one)
        plain = PairFolder(root)
        again: PairFolder = pickle.loads(pickle.dumps(folder))
        assert torch.equal(again[1]['image'], plain[1]['image'] + 1)
        batch = default_collate([again[i] for i in range(4)])
        assert batch['image'].shape == (4, 4, 8, 8)

    def test_select(self, root: Path) -> None:
        folder = PairFolder(root)
        selected = folder.select(['0002', '0000'])
        assert len(selected) == 2 and len(folder) == 4
        assert torch.equal(selected[0]['image'], folder[2]['image'])

    def test_other_endings(self, root: Path) -> None:
        for kind in ('images', 'masks'):
            path = root / kind / '0000.tif'
            path.rename(path.with_suffix('.TIFF'))
            (root / kind / '0001.tif.aux.xml').write_text('<PAMDataset/>')
            (root / kind / '._0001.tif').write_bytes(b'of another system')
        folder = PairFolder(root)
        assert folder.ids == ['0000', '0001', '0002', '0003']
        folder.verify()

    def test_plot(self, root: Path) -> None:
        plt.switch_backend('agg')
        folder = PairFolder(root)
        sample = folder[0]
        figure = folder.plot(sample | {'prediction': sample['mask']}, suptitle='x')
        assert len(figure.axes) == 3
        plt.close(figure)


def _plus_one(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    return sample | {'image': sample['image'] + 1}


class TestPlainFolder:
    """What is found out where nothing is written down."""

    def test_bands(self, tmp_path: Path) -> None:
        make_pairs(tmp_path / 'a', 1, ['B02', None, ' B04 '])
        assert PairFolder(tmp_path / 'a').spec.bands == ('B02', 'band_2', 'B04')
        # names that are all the same say nothing
        make_pairs(tmp_path / 'b', 2, ['reflectance'] * 3)
        folder = PairFolder(tmp_path / 'b')
        assert folder.spec.bands == ('band_1', 'band_2', 'band_3')
        folder.verify()

    def test_classes_of_the_masks(self, root: Path) -> None:
        mask = np.array([[[0, 4], [3, 255]]], np.uint8).repeat(4, 1).repeat(4, 2)
        write_tiff(root / 'masks' / '0003.tif', mask)
        folder = PairFolder(root)
        assert folder.spec.classes == tuple(f'class_{i}' for i in range(5))
        assert folder.spec.ignore_index == 255
        assert np.array_equal(folder[3]['mask'], mask[0])

    @pytest.mark.parametrize(
        'values', [[0, 255], [10, 20, 30], [0, 1, 80], [255, 254], [7], [-1, 0, 1]]
    )
    def test_unclear_classes(self, tmp_path: Path, values: list[int]) -> None:
        make_pairs(tmp_path, 2)
        for i in range(2):
            mask = np.resize(np.array(values, np.int16), (1, 8, 8))
            write_tiff(tmp_path / 'masks' / f'{i:04d}.tif', mask)
        with pytest.raises(ValueError, match='classes') as error:
            PairFolder(tmp_path)
        assert str(sorted(values)) in str(error.value)
        assert 'classes.csv' in str(error.value)
        # a negative value is more likely to be no label than a forest
        said = ('--no-label -1 ', "'0,") if -1 in values else ('--no-label VALUE ',)
        assert all(part in str(error.value) for part in said)
        # and the remedy helps
        rows = ''.join(f'{value},name {value}\n' for value in values)
        (tmp_path / 'classes.csv').write_text('id,name\n' + rows)
        folder = PairFolder(tmp_path)
        folder.verify()
        found = np.array(values)[folder[0]['mask'].numpy()]
        assert np.array_equal(found, np.resize(values, (8, 8)))

    @pytest.mark.parametrize('mark', ',;\t')
    @pytest.mark.parametrize('table', ['id,name\n', '\ufeffID, Name ,color\r\n\r\n'])
    def test_classes_csv(self, root: Path, table: str, mark: str) -> None:
        codes = np.array([10, 30, 20, 255], np.uint8)
        rows = f'{table}10,Wälder\r\n 30 ,"Water@ deep",blue\r\n20,Ice\r\n'
        rows = rows.replace(',', mark).replace('@', ',')
        (root / 'classes.csv').write_text(rows, newline='')
        mask = np.resize(codes, (1, 8, 8))
        for i in range(4):
            write_tiff(root / 'masks' / f'{i:04d}.tif', mask)
        folder = PairFolder(root)
        assert folder.spec.classes == ('Wälder', 'Water, deep', 'Ice')
        assert folder[0]['mask'][0, :4].tolist() == [0, 1, 2, 255]

    def test_class_255(self, root: Path) -> None:
        (root / 'classes.csv').write_text('id,name\n0,no\n1,yes\n2,no\n255,sure\n')
        with pytest.raises(ValueError, match=r'classes\.csv has the names'):
            PairFolder(root)
        (root / 'classes.csv').write_text('id,name\n0,no\n1,yes\n2,maybe\n255,sure\n')
        write_tiff(root / 'masks' / '0000.tif', np.full((1, 8, 8), 255, np.uint8))
        folder = PairFolder(root)
        assert folder.spec.ignore_index == -1
        assert (folder[0]['mask'] == 3).all()

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('0,a\n1,b\n', r"columns \['0', 'a'\]"),
            ('id:name\n0:a\n', 'columns ..id:name..'),
            ('id,name\nx,a\n', "ids must be whole numbers.*'x'"),
            ('id,name\n0,a\n0,b\n', r'the ids \[0, 0\]'),
            ('id,name\n', r'the ids \[\]'),
            ('id,name\n0,a\n1\n', 'line 3: .* lacks a value'),
            ('id,name\n0,Gr\udcfcn\n', 'no UTF-8'),
        ],
    )
    def test_wrong_classes_csv(self, root: Path, text: str, message: str) -> None:
        path = root / 'classes.csv'
        path.write_bytes(text.encode(errors='surrogateescape'))
        with pytest.raises(ValueError, match=rf'classes\.csv.*{message}'):
            PairFolder(root)

    @pytest.mark.parametrize(
        ('dtype', 'value', 'scale'),
        [
            ('uint8', 1, 1 / 255),
            # a dark patch of 16 bits is still one of 16 bits
            ('uint16', 100, 1e-4),
            ('int16', -5, 1e-4),
            ('int32', 9000, 1e-4),
            ('float32', 0.7, 1.0),
            ('float32', 200, 1 / 255),
            ('float32', 4000, 1e-4),
        ],
    )
    def test_scale(
        self, tmp_path: Path, dtype: str, value: float, scale: float
    ) -> None:
        make_pairs(tmp_path, 3, dtype=dtype)
        for i in range(3):
            # the first one alone would not tell
            image = np.full((4, 8, 8), value if i == 2 else 0, dtype)
            write_tiff(tmp_path / 'images' / f'{i:04d}.tif', image, NAMES)
        assert PairFolder(tmp_path).spec.scale == pytest.approx(scale)

    def test_nodata(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 2, dtype='int16', nodata=-9999)
        path = tmp_path / 'images' / '0001.tif'
        image = read(path)
        image[:, 0, :3] = -9999
        image[1:, 1, 0] = -9999
        write_tiff(path, image, NAMES, nodata=-9999)
        mask = tifffile.imread(tmp_path / 'masks' / '0001.tif')
        mask[5, 5] = 255
        write_tiff(tmp_path / 'masks' / '0001.tif', mask[None])
        blank = [[0, 0], [0, 1], [0, 2]]
        # what counts are the bands that are loaded
        for bands, missing in ((None, blank), (['B03'], [*blank, [1, 0]])):
            folder = PairFolder(tmp_path, bands=bands)
            assert (folder.spec.nodata, folder.spec.ignore_index) == (-9999, 255)
            assert (folder[0]['mask'] != 255).all()
            ignored = (folder[1]['mask'] == 255).nonzero().tolist()
            assert ignored == [*missing, [5, 5]]
            image = folder[1]['image']
            assert image.isnan().all(0).nonzero().tolist() == missing
            assert image.nanmean() > 0

    def test_nodata_of_one_date(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 1, dates=2, nodata=0)
        path = tmp_path / 'images' / '0000_2.tif'
        image = read(path)
        image[:, 2, 3] = 0
        write_tiff(path, image, NAMES, nodata=0)
        mask = PairFolder(tmp_path)[0]['mask']
        assert (mask == 255).nonzero().tolist() == [[0, 2, 3]]

    def test_nodata_that_cannot_be(self, root: Path) -> None:
        for path in (root / 'images').iterdir():
            image = read(path).astype('uint8')
            write_tiff(path, image, NAMES)
            change(path, nodata=-9999)
        folder = PairFolder(root)
        assert folder.spec.nodata is None
        folder.verify()
        assert (folder[0]['mask'] != 255).all()

    @pytest.mark.parametrize('nodata', [math.nan, float(np.finfo('f4').min), -9999.0])
    def test_nodata_of_floats(self, tmp_path: Path, nodata: float) -> None:
        make_pairs(tmp_path, 2, dtype='float32', nodata=nodata)
        path = tmp_path / 'images' / '0001.tif'
        image = read(path)
        image[:, 2] = image[1, 3] = nodata
        write_tiff(path, image, NAMES, nodata=nodata)
        folder = PairFolder(tmp_path)
        folder.verify()
        assert folder[1]['image'].isnan().sum((1, 2)).tolist() == [8, 16, 8, 8]
        assert (folder[1]['mask'] == 255).nonzero()[:, 0].unique().tolist() == [2]
        # and the description, which is strict JSON, says the same
        described = folder.write_description()
        assert 'NaN' not in described.read_text()
        assert PairFolder(tmp_path).spec == folder.spec

    @pytest.mark.parametrize(
        ('dtype', 'top', 'name', 'colour'),
        [
            ('uint8', 255, None, ColorInterp.alpha),
            ('uint8', 255, 'Alpha', ColorInterp.alpha),
            ('uint16', 65535, None, ColorInterp.alpha),
            # as drones write them
            ('uint16', 255, None, ColorInterp.alpha),
            ('uint16', 65535, 'Alpha', ColorInterp.undefined),
            ('float32', 1, None, ColorInterp.alpha),
        ],
    )
    def test_transparent_pixels(
        self,
        tmp_path: Path,
        dtype: str,
        top: int,
        name: str | None,
        colour: ColorInterp,
    ) -> None:
        make_pairs(tmp_path, 4, [None] * 4, dtype=dtype)
        for i in range(4):
            path = tmp_path / 'images' / f'{i:04d}.tif'
            image = read(path)
            image[3] = top
            # the third one shows nothing
            image[:, : 8 if i == 2 else 2] = 0
            write_tiff(path, image, [None] * 3 + [name])
            change(path, colorinterp=[*RGB, colour])
        folder = PairFolder(tmp_path)
        folder.verify()
        assert folder[2]['image'].isnan().all()
        assert folder.spec.num_bands == 3 and folder[0]['image'].shape[0] == 3
        assert folder[0]['image'].isnan().all(0)[:2].all()
        assert not folder[0]['image'][:, 2:].isnan().any()
        assert (folder[0]['mask'][:2] == 255).all()

    @pytest.mark.parametrize('blank', [0, 2])
    def test_near_infrared_that_gdal_calls_alpha(
        self, tmp_path: Path, blank: int
    ) -> None:
        make_pairs(tmp_path, 3, [None] * 4, dtype='uint8')
        path = tmp_path / 'images' / f'{blank:04d}.tif'
        write_tiff(path, np.zeros((4, 8, 8), np.uint8))
        with rasterio.open(path) as source:
            assert source.colorinterp[3] == ColorInterp.alpha
        folder = PairFolder(tmp_path)
        folder.verify()
        assert folder.spec.num_bands == 4
        assert (folder[blank]['image'] == 0).all()
        assert np.array_equal(
            folder[1]['image'], image_of(folder[1]['mask'].numpy(), 4)
        )

    @pytest.mark.parametrize(
        ('dtype', 'value', 'said'),
        [
            ('int16', -9999, '25 % of the pixels are -9999 in'),
            ('uint16', 65535, '{"nodata": 65535}'),
            ('uint16', 0, '{"nodata": 0}'),
            ('float32', float(np.finfo('f4').min), '{"nodata": -3.40282347e+38}'),
            # a bright roof
            ('uint8', 255, ''),
        ],
    )
    def test_nodata_that_nobody_names(
        self,
        root: Path,
        caplog: pytest.LogCaptureFixture,
        dtype: str,
        value: float,
        said: str,
    ) -> None:
        for path in (root / 'images').iterdir():
            image = read(path).astype(dtype)
            image[:, :2] = value
            write_tiff(path, image, NAMES)
        PairFolder(root).verify()
        assert said in caplog.text and ('"nodata"' in caplog.text) == bool(said)
        if said:
            (root / 'dataset.json').write_text(f'{{"nodata": {value!r}}}')
            caplog.clear()
            folder = PairFolder(root)
            folder.verify()
            assert '"nodata"' not in caplog.text
            assert folder[0]['image'].isnan().all(0)[:2].all()

    def test_internal_mask(self, root: Path) -> None:
        for path in (root / 'images').iterdir():
            seen = np.full((8, 8), 255, np.uint8)
            seen[3] = 0
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                rasterio.open(path, 'r+') as target,
            ):
                target.write_mask(seen)
        sample = PairFolder(root)[0]
        assert sample['image'].isnan().all(0).nonzero()[:, 0].unique().tolist() == [3]
        assert (sample['mask'][3] == 255).all()

    @pytest.mark.parametrize('dtype', ['int64', 'uint64'])
    def test_64_bits(self, root: Path, dtype: str) -> None:
        for path in (root / 'images').iterdir():
            image = read(path).astype(dtype)
            write_tiff(path, image, NAMES)
        folder = PairFolder(root)
        folder.verify()
        assert folder.spec.dtype == 'float64'
        mask = folder[0]['mask'].numpy()
        assert np.array_equal(folder[0]['image'], image_of(mask, 4))

    @pytest.mark.parametrize(
        ('dtype', 'message'),
        [('uint8', 'holds uint8, but the folder has uint16'), ('complex64', 'complex')],
    )
    def test_another_type(self, root: Path, dtype: str, message: str) -> None:
        path = root / 'images' / '0003.tif'
        image = read(path).astype(dtype)
        write_tiff(path, image, NAMES)
        with pytest.raises(
            ValueError, match=f'0003.tif {message}|0003.tif .*{message}'
        ):
            PairFolder(root).verify()

    def test_landsat(self, root: Path) -> None:
        for path in (root / 'images').iterdir():
            change(path, scales=[2.75e-5] * 4, offsets=[-0.2] * 4)
        folder = PairFolder(root)
        folder.verify()
        assert (folder.spec.scale, folder.spec.offset) == (2.75e-5, -0.2)
        numbers = torch.full((4, 2, 2), 10_000.0)
        found = folder.spec.reflectance(numbers)
        torch.testing.assert_close(found, torch.full_like(found, 0.075))
        # one with other units is refused, wherever it stands
        change(root / 'images' / '0002.tif', offsets=[-0.1] * 4)
        with pytest.raises(ValueError, match=r'0002\.tif has the offset -0\.1'):
            PairFolder(root).verify()
        change(root / 'images' / '0001.tif', scales=[1e-4] * 4)
        with pytest.raises(
            ValueError, match=r'0001\.tif has the scale 0\.0001, .* 2\.7'
        ):
            PairFolder(root).verify()

    def test_units_of_each_band(self, root: Path) -> None:
        for path in (root / 'images').iterdir():
            change(path, scales=[1e-4, 1e-4, 2e-4, 1e-4], offsets=[0, 0, 0, -0.1])
        folder = PairFolder(root, bands=['B08', 'B04'])
        assert folder.spec.scale == (1e-4, 2e-4) and folder.spec.offset == (-0.1, 0)
        found = folder.spec.reflectance(torch.full((2, 1, 1), 1000.0)).flatten()
        torch.testing.assert_close(found, torch.tensor([0.0, 0.2]))


class TestNoLabel:
    """All ways to say that a value of the masks is no label."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        make_pairs(tmp_path, 2, classes=4)
        return tmp_path

    def check(self, folder: PairFolder, classes: tuple[str, ...], gap: int) -> None:
        assert folder.spec.classes == classes
        codes = mask_of(folder, '0000').astype(int)
        mask = folder[0]['mask']
        assert ((mask == folder.spec.ignore_index).numpy() == (codes == gap)).all()
        known = mask[mask != folder.spec.ignore_index]
        assert known.unique().tolist() == list(range(3))

    def test_argument(self, folder: Path) -> None:
        found = PairFolder(folder, no_label=0)
        self.check(found, ('class_1', 'class_2', 'class_3'), 0)
        # it lasts once it is written down
        found.write_description()
        self.check(PairFolder(folder), ('class_1', 'class_2', 'class_3'), 0)

    @pytest.mark.parametrize('first', [0, 1])
    def test_tag_of_the_masks(
        self, folder: Path, caplog: pytest.LogCaptureFixture, first: int
    ) -> None:
        for path in sorted((folder / 'masks').iterdir())[first:]:
            change(path, nodata=0)
        self.check(PairFolder(folder), ('class_1', 'class_2', 'class_3'), 0)
        assert 'the value 0 is no label, since masks name it' in caplog.text
        # a table that calls it a class is believed
        (folder / 'classes.csv').write_text('id,name\n0,sea\n1,a\n2,b\n3,c\n')
        assert PairFolder(folder).spec.codes == (0, 1, 2, 3)

    @pytest.mark.parametrize('name', ['no label', 'Unlabelled', 'NO_DATA', 'ignore'])
    def test_row_of_the_table(self, folder: Path, name: str) -> None:
        (folder / 'classes.csv').write_text(f'id,name\n1,a\n2,{name}\n3,c\n0,d\n')
        self.check(PairFolder(folder), ('a', 'c', 'd'), 2)

    def test_negative(self, folder: Path) -> None:
        for path in (folder / 'masks').iterdir():
            codes = tifffile.imread(path).astype(np.int16)[None] - 1
            write_tiff(path, codes)
        self.check(
            PairFolder(folder, no_label=-1), ('class_0', 'class_1', 'class_2'), -1
        )

    @pytest.mark.parametrize(
        'said', [{'ignore_index': 0}, {'no_label': [0]}, {'no_label': 0}]
    )
    def test_description(self, folder: Path, said: dict[str, Any]) -> None:
        values = {'bands': list(NAMES), 'classes': ['x', 'y', 'z'], 'codes': [1, 2, 3]}
        path = folder / 'dataset.json'
        path.write_text(json.dumps(values | said))
        self.check(PairFolder(folder), ('x', 'y', 'z'), 0)
        assert PairFolder(folder, no_label=7).spec.labels[7] == 255
        # or just a part of it
        path.write_text(json.dumps(said))
        self.check(PairFolder(folder), ('class_1', 'class_2', 'class_3'), 0)

    def test_all_ways_at_once(self, folder: Path) -> None:
        for path in (folder / 'masks').iterdir():
            change(path, nodata=3)
        (folder / 'classes.csv').write_text('id,name\n0,a\n1,b\n2,no label\n')
        spec = PairFolder(folder, no_label=0).spec
        assert (spec.classes, spec.no_label) == (('b',), (0, 2, 3))

    def test_class_without_a_pixel(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for path in (folder / 'masks').iterdir():
            write_tiff(path, tifffile.imread(path)[None] + 1)
        assert PairFolder(folder).spec.num_classes == 5
        assert 'class_0 has no pixel' in caplog.text and '--no-label' in caplog.text
