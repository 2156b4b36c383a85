# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

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
from rasterio.errors import NotGeoreferencedWarning
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


def change(path: Path, **values: Any) -> None:
    """Change what a GeoTIFF says of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path, 'r+') as target:
            for key, value in values.items():
                setattr(target, key, value)


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
        'values', [[0, 255], [10, 20, 30], [0, 1, 80], [255, 254], [7]]
    )
    def test_unclear_classes(self, tmp_path: Path, values: list[int]) -> None:
        make_pairs(tmp_path, 2)
        for i in range(2):
            mask = np.resize(np.array(values, np.uint8), (1, 8, 8))
            write_tiff(tmp_path / 'masks' / f'{i:04d}.tif', mask)
        with pytest.raises(ValueError, match='classes') as error:
            PairFolder(tmp_path)
        assert str(sorted(values)) in str(error.value)
        assert 'classes.csv' in str(error.value)
        # and the remedy helps
        rows = ''.join(f'{value},name {value}\n' for value in values)
        (tmp_path / 'classes.csv').write_text('id,name\n' + rows)
        folder = PairFolder(tmp_path)
        folder.verify()
        found = np.array(values)[folder[0]['mask'].numpy()]
        assert np.array_equal(found, np.resize(values, (8, 8)))

    @pytest.mark.parametrize('table', ['id,name\n', '\ufeffid, name ,color\r\n\r\n'])
    def test_classes_csv(self, root: Path, table: str) -> None:
        codes = np.array([10, 30, 20, 255], np.uint8)
        (root / 'classes.csv').write_text(
            f'{table}10,Wälder\r\n 30 , "Water, deep",blue\r\n20,Ice\r\n', newline=''
        )
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
            ('id;name\n0;a\n', 'columns ..id;name..'),
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

    def test_scale_in_the_file(self, root: Path) -> None:
        change(root / 'images' / '0000.tif', scales=[2e-5] * 4)
        folder = PairFolder(root)
        assert folder.spec.scale == 2e-5
        folder.verify()
        change(root / 'images' / '0002.tif', scales=[1e-4] * 4)
        with pytest.raises(
            ValueError, match=r'0002\.tif has the scale 0\.0001, .* 2e-05'
        ):
            PairFolder(root).verify()
        change(root / 'images' / '0000.tif', offsets=[0, 0, 0, -0.2])
        with pytest.raises(ValueError, match=r'offsets \[-0\.2, 0\.0\].*one scale'):
            PairFolder(root)

    def test_nodata(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 2, dtype='int16', nodata=-9999)
        path = tmp_path / 'images' / '0001.tif'
        image = tifffile.imread(path).reshape(4, 8, 8)
        image[:, 0, :3] = -9999
        image[1:, 1, 0] = -9999
        write_tiff(path, image, NAMES, nodata=-9999)
        mask = tifffile.imread(tmp_path / 'masks' / '0001.tif')
        mask[5, 5] = 255
        write_tiff(tmp_path / 'masks' / '0001.tif', mask[None])
        # also if the bands that are loaded are all missing, but not all bands are
        for bands in (None, ['B03']):
            folder = PairFolder(tmp_path, bands=bands)
            assert (folder.spec.nodata, folder.spec.ignore_index) == (-9999, 255)
            assert (folder[0]['mask'] != 255).all()
            ignored = (folder[1]['mask'] == 255).nonzero().tolist()
            assert ignored == [[0, 0], [0, 1], [0, 2], [5, 5]]

    def test_nodata_of_one_date(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 1, dates=2, nodata=0)
        path = tmp_path / 'images' / '0000_2.tif'
        image = tifffile.imread(path).reshape(4, 8, 8)
        image[:, 2, 3] = 0
        write_tiff(path, image, NAMES, nodata=0)
        mask = PairFolder(tmp_path)[0]['mask']
        assert (mask == 255).nonzero().tolist() == [[0, 2, 3]]

    @pytest.mark.parametrize(
        ('dtype', 'nodata'), [('uint8', -9999), ('float32', float('nan'))]
    )
    def test_nodata_that_cannot_be(self, root: Path, dtype: str, nodata: float) -> None:
        for path in (root / 'images').iterdir():
            image = tifffile.imread(path).reshape(4, 8, 8).astype(dtype)
            write_tiff(path, image, NAMES)
            change(path, nodata=nodata)
        folder = PairFolder(root)
        assert folder.spec.nodata is None
        folder.verify()
        assert (folder[0]['mask'] != 255).all()
