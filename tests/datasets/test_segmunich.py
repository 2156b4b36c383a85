# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pickle
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate
from torchgeo.datasets import DatasetNotFoundError, RGBBandsMissingError

from tests.data.segmunich import CODES, SPECTRA, make_segmunich
from torchgeo_specdm.bands import TEN_BANDS
from torchgeo_specdm.datasets.segmunich import SegMunich


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # spaces and other letters must not matter
    folder = tmp_path / 'Land München'
    make_segmunich(folder, size=16)
    return folder


def classes_of(image: torch.Tensor) -> NDArray[np.int64]:
    """The class that each pixel of a fake image was made for."""
    distance = np.abs(image.numpy()[None] - SPECTRA[:, :, None, None] - 9.5)
    return distance.sum(axis=1).argmin(axis=0)


class TestSample:
    def test_real_format(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 1}, copies=('',))
        path = tmp_path / 'train' / 'img' / '0000.tif'
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == 128 and file.pages[0].shape == (128, 10)
        sample = SegMunich(tmp_path)[0]
        assert set(sample) == {'image', 'mask'}
        assert sample['image'].shape == (10, 128, 128)
        assert sample['image'].dtype == torch.float32
        assert sample['image'].is_contiguous()
        assert sample['mask'].shape == (128, 128)
        assert sample['mask'].dtype == torch.int64
        stored = tifffile.imread(path)
        assert np.array_equal(sample['image'].numpy(), stored.transpose(2, 0, 1))

    def test_image_and_mask_fit(self, root: Path) -> None:
        dataset = SegMunich(root)
        assert dataset.ids == sorted(
            f'{i:04d}{suffix}' for i in range(4) for suffix in ('', '_hflip')
        )
        assert len(dataset) == 8
        for sample in (dataset[i] for i in range(8)):
            assert np.array_equal(classes_of(sample['image']), sample['mask'].numpy())

    def test_bands_by_name(self, root: Path) -> None:
        everything = SegMunich(root)[3]['image']
        some = SegMunich(root, bands=('B12', 'B08', 'B04'))
        assert torch.equal(some[3]['image'], everything[[9, 3, 2]])
        assert some.spec.bands == ('B12', 'B08', 'B04')

    @pytest.mark.parametrize('dtype', [np.uint8, np.int32, np.float32])
    def test_codes(self, root: Path, dtype: type) -> None:
        label = np.resize(CODES, (16, 16)).astype(dtype)
        tifffile.imwrite(root / 'train' / 'label' / '0000.tif', label)
        mask = SegMunich(root)[0]['mask']
        assert np.array_equal(mask.numpy(), np.resize(np.arange(13), (16, 16)))

    def test_band_first(self, root: Path) -> None:
        path = root / 'train' / 'img' / '0000.tif'
        before = SegMunich(root)[0]['image']
        tifffile.imwrite(path, tifffile.imread(path).transpose(2, 0, 1))
        assert torch.equal(SegMunich(root)[0]['image'], before)

    def test_spec(self, root: Path) -> None:
        spec = SegMunich(root).spec
        assert spec.bands == TEN_BANDS and spec.rgb == (2, 1, 0)
        assert spec.num_classes == 13 and spec.classes[5] == 'surface water'
        assert (spec.scale, spec.dtype, spec.dates) == (1e-4, 'uint16', 1)
        assert len(set(spec.colors)) == 13

    def test_collate_pickle_transforms_subset(self, root: Path) -> None:
        dataset = SegMunich(root, transforms=lambda s: s | {'mask': s['mask'] + 1})
        assert dataset[0]['mask'].min() == 1
        dataset = pickle.loads(pickle.dumps(SegMunich(root)))
        batch = default_collate([dataset[0], dataset[1]])
        assert batch['image'].shape == (2, 10, 16, 16)
        some = dataset.subset(['0003', '0001'])
        assert some.ids == ['0001', '0003'] and len(dataset) == 8
        assert torch.equal(
            some[1]['image'], dataset[dataset.ids.index('0003')]['image']
        )
        with pytest.raises(IndexError):
            some[2]


class TestLayout:
    @pytest.mark.parametrize('image_folder', ['img', 'image', 'images'])
    @pytest.mark.parametrize('inner', ['', 'TUM_128', 'SegMunich'])
    def test_folders(self, tmp_path: Path, image_folder: str, inner: str) -> None:
        make_segmunich(tmp_path / inner, size=8, image_folder=image_folder)
        assert len(SegMunich(tmp_path)) == 8
        assert len(SegMunich(tmp_path, split='test')) == 4

    def test_val_for_test(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 2, 'val': 1}, size=8)
        assert SegMunich(tmp_path, 'test').ids == SegMunich(tmp_path, 'val').ids

    def test_without_lists(self, root: Path) -> None:
        listed = SegMunich(root).ids
        (root / 'dataset' / 'train.txt').unlink()
        (root / 'train' / 'img' / '._0000.tif').write_bytes(b'macOS')
        (root / 'train' / 'img' / 'Thumbs.db').touch()
        assert SegMunich(root).ids == listed

    def test_list_is_cleaned(self, root: Path) -> None:
        lines = b'\xef\xbb\xbf0003\r\n\r\n  0001.tif \r\n0003\r\n'
        (root / 'dataset' / 'train.txt').write_bytes(lines)
        assert SegMunich(root).ids == ['0001', '0003']

    def test_metadata(self, root: Path) -> None:
        for path in (root / 'dataset').iterdir():
            path.unlink()
        table = root / 'dataset' / 'metadata.csv'
        table.write_text('id,source\n0002,train\n0001, train\n0004,test\n')
        assert SegMunich(root).ids == ['0001', '0002']
        assert SegMunich(root, 'test').ids == ['0004']
        table.write_text('id,source\n0001,train\n9999,train\n')
        with pytest.raises(ValueError, match=r"metadata.csv, line 3: '9999' has no"):
            SegMunich(root)
        table.write_text('name\n0001\n')
        with pytest.raises(ValueError, match=r"\['name'\]; id and source are needed"):
            SegMunich(root)

    @pytest.mark.parametrize('text', ['0000\n\nnone\n9\n', ' \n'])
    def test_bad_list(self, root: Path, text: str) -> None:
        (root / 'dataset' / 'train.txt').write_text(text)
        match = r"line 3: 'none' has no file.*2 such" if text[0] == '0' else 'no id'
        with pytest.raises(ValueError, match=match):
            SegMunich(root)

    def test_not_found(self, root: Path, tmp_path: Path) -> None:
        match = r'no train/, val/ or test/\. .*licence.*Moonboy12138/SegMunich'
        with pytest.raises(DatasetNotFoundError, match=match):
            SegMunich(tmp_path / 'nothing')
        with pytest.raises(FileNotFoundError, match='SegMunichDataModule cuts one'):
            SegMunich(root, 'val')
        (root / 'test' / 'label').rename(root / 'test' / 'other')
        with pytest.raises(FileNotFoundError, match='no test/label/'):
            SegMunich(root)

    def test_no_files(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 0, 'test': 1}, size=8, lists=False)
        with pytest.raises(FileNotFoundError, match='no train/ with patches'):
            SegMunich(tmp_path)

    def test_no_partner(self, root: Path) -> None:
        for name in ('0001', '0002_hflip'):
            (root / 'train' / 'label' / f'{name}.tif').unlink()
        (root / 'train' / 'img' / '0000.tif').unlink()
        match = r"2 images without label \['0001', '0002_hflip'\] and 1 .*\['0000'\]"
        with pytest.raises(ValueError, match=match):
            SegMunich(root)
        # what the list leaves out is not missed
        (root / 'dataset' / 'train.txt').write_text('0003\n')
        assert SegMunich(root).ids == ['0003']

    @pytest.mark.parametrize(
        ('arguments', 'match'),
        [
            ({'split': 'predict'}, "split='predict' must be one of"),
            ({'bands': ['B08', 'B09']}, r"bands \['B09'\] are not among"),
            ({'bands': ['B08', 'B08']}, 'different names'),
            ({'bands': []}, 'one or more'),
            ({'max_background': 20}, r'max_background=20 .* 0\.\.1'),
            ({'max_background': float('nan')}, 'max_background=nan'),
        ],
    )
    def test_bad_arguments(
        self, root: Path, arguments: dict[str, str], match: str
    ) -> None:
        with pytest.raises(ValueError, match=match):
            SegMunich(root, **arguments)


class TestFaults:
    """Broken files; the list puts them where construction does not look."""

    @pytest.fixture
    def dataset(self, root: Path) -> SegMunich:
        return SegMunich(root)

    @pytest.mark.parametrize('folder', ['img', 'label'])
    @pytest.mark.parametrize('kind', ['cut', 'html', 'empty', 'gone'])
    def test_unreadable(self, dataset: SegMunich, folder: str, kind: str) -> None:
        path = dataset.root / 'train' / folder / '0001.tif'
        content = path.read_bytes()
        path.unlink()
        if kind != 'gone':
            cut = content[: 300 if folder == 'label' else len(content) // 2]
            path.write_bytes({'cut': cut, 'html': b'<html>login', 'empty': b''}[kind])
        match = rf'{folder}.0001\.tif cannot be read as TIFF \(.*Extract it again'
        with pytest.raises(ValueError, match=match):
            dataset[dataset.ids.index('0001')]

    @pytest.mark.parametrize(
        ('folder', 'shape', 'match'),
        [
            ('img', (16, 16, 3), r'0001\.tif has the shape .*all ten bands'),
            ('img', (13, 16, 16), r'0001\.tif has the shape .*all ten bands'),
            ('img', (16, 16), r'0001\.tif has the shape .*all ten bands'),
            ('label', (16, 16, 3), 'not coloured ones'),
            ('label', (16, 8), r'img.0001\.tif has 16x16 .*label.0001\.tif has 16x8'),
        ],
    )
    def test_shapes(
        self, dataset: SegMunich, folder: str, shape: tuple[int, ...], match: str
    ) -> None:
        path = dataset.root / 'train' / folder / '0001.tif'
        kind = np.float32 if folder == 'img' else np.uint8
        tifffile.imwrite(path, np.zeros(shape, kind), photometric='minisblack')
        with pytest.raises(ValueError, match=match):
            dataset[dataset.ids.index('0001')]

    @pytest.mark.parametrize('value', [np.nan, np.inf])
    def test_not_finite(self, dataset: SegMunich, value: float) -> None:
        path = dataset.root / 'train' / 'img' / '0001.tif'
        image = tifffile.imread(path)
        image[3, 4, :2] = value
        tifffile.imwrite(path, image)
        with pytest.raises(ValueError, match=r'0001\.tif has 2 NaN or infinite'):
            dataset[dataset.ids.index('0001')]

    @pytest.mark.parametrize('code', [7, 255, 21.5, np.nan])
    def test_codes(self, dataset: SegMunich, code: float) -> None:
        path = dataset.root / 'train' / 'label' / '0001.tif'
        label = tifffile.imread(path).astype(np.float32)
        label[0, 0] = code
        tifffile.imwrite(path, label)
        match = rf'0001\.tif has the label codes \[{code}[\d.]*\]; allowed are \[0, 5,'
        with pytest.raises(ValueError, match=match):
            dataset[dataset.ids.index('0001')]


class TestBackground:
    def test_blank_patches_go(self, root: Path) -> None:
        dataset = SegMunich(root, max_background=0.8)
        assert dataset.ids == [n for n in SegMunich(root).ids if n[:4] != '0000']
        # the blank ones have 13 of 16 blocks of background
        assert len(SegMunich(root, max_background=13 / 16)) == 8

    def test_nothing_left(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 1}, size=8)
        with pytest.raises(ValueError, match=r'left with max_background=0\.1'):
            SegMunich(tmp_path, max_background=0.1)


class TestSources:
    @pytest.mark.parametrize(
        ('name', 'source'),
        [
            ('10', '10'),
            ('tile_64_128', 'tile_64_128'),
            ('rot90', 'rot90'),
            ('tile_64_128_rot90', 'tile_64_128'),
            ('tile_64_128_rot_270', 'tile_64_128'),
            ('12_flip_h', '12'),
            ('12_hflip', '12'),
            ('12-VFlip', '12'),
            ('12_fliplr', '12'),
            ('12_transpose', '12'),
            ('12_crop_0_32', '12'),
            ('12_crop48', '12'),
            ('12_noise_0.05', '12'),
            ('12_aug3', '12'),
            ('12_rot90_hflip', '12'),
            ('12_original', '12'),
            ('12_scaled', '12_scaled'),
            ('1_aug' + '1' * 60 + 'x', '1_aug' + '1' * 60 + 'x'),
        ],
    )
    def test_source_of(self, root: Path, name: str, source: str) -> None:
        assert SegMunich(root).source_of(name) == source

    def test_own_pattern(self, root: Path) -> None:
        dataset = SegMunich(root, transform_pattern=r'^r\d_')
        assert dataset.source_of('r2_12_hflip') == '12_hflip'

    @pytest.fixture
    def leaky(self, tmp_path: Path) -> Path:
        make_segmunich(tmp_path, {'train': 3, 'test': 2}, size=8, copies=('',))
        for folder in ('img', 'label'):
            test = tmp_path / 'test' / folder
            train = tmp_path / 'train' / folder
            (test / '0001_rot90.tif').write_bytes((train / '0001.tif').read_bytes())
        with (tmp_path / 'dataset' / 'test.txt').open('a') as file:
            file.write('0001_rot90\n')
        return tmp_path

    @pytest.mark.parametrize('split', ['train', 'test'])
    def test_leak_refused(self, leaky: Path, split: str) -> None:
        match = (
            r"1 source tiles .*\(1 files of train and 1 files of test\).*\['0001'\].*"
            "leaks='drop'"
        )
        with pytest.raises(ValueError, match=match):
            SegMunich(leaky, split)

    def test_leak_dropped(self, leaky: Path) -> None:
        assert SegMunich(leaky, leaks='drop').ids == ['0000', '0002']
        assert SegMunich(leaky, 'test', leaks='drop').ids == [
            '0001_rot90',
            '0003',
            '0004',
        ]

    def test_leak_allowed(self, leaky: Path) -> None:
        with pytest.warns(UserWarning, match='1 source tiles'):
            assert len(SegMunich(leaky, leaks='allow')) == 3

    def test_names_not_understood(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 1}, size=8, copies=('',), lists=False)
        for folder in ('img', 'label'):
            for i in range(2700):
                path = tmp_path / 'train' / folder / f'{i // 10}v{i % 10}.tif'
                path.symlink_to(tmp_path / 'train' / folder / '0000.tif')
        with pytest.warns(UserWarning, match='2701 source tiles, but the mosaic has'):
            SegMunich(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            SegMunich(tmp_path, transform_pattern=r'v\d$')


class TestNearInfrared:
    def test_order_is_right(self, root: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            SegMunich(root)

    def test_order_is_wrong(self, root: Path) -> None:
        for path in (root / 'train' / 'img').iterdir():
            # as if the bands were B01, B02, B03, B04, B05...
            tifffile.imwrite(path, np.roll(tifffile.imread(path), 4, axis=-1))
        with pytest.warns(UserWarning, match=r'channel 3 .* has 0\.\d\d times'):
            SegMunich(root)


class TestPlot:
    def test_plot(self, root: Path) -> None:
        dataset = SegMunich(root)
        sample = dataset[3]
        figure = dataset.plot(sample, suptitle='Patch')
        assert len(figure.axes) == 2
        sample['prediction'] = sample['mask'].clone()
        figure = dataset.plot(sample, show_titles=False)
        assert len(figure.axes) == 3 and figure.axes[0].get_title() == ''
        plt.close('all')

    def test_no_colours(self, root: Path) -> None:
        dataset = SegMunich(root, bands=('B08', 'B11', 'B12'))
        with pytest.raises(RGBBandsMissingError):
            dataset.plot(dataset[0])
