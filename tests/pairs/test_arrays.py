# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import unicodedata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import scipy.io
import tifffile

from tests.data.pairs import NAMES, image_of, make_pairs, write_tiff
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs.arrays import read_array
from torchgeo_specdm.pairs.codes import read_codes
from torchgeo_specdm.pairs.spec import DTYPES

#: Bands, rows, columns: no two are equal, so that axes cannot be confused unseen.
SHAPE = (9, 5, 7)


def write(path: Path, array: Any) -> Path:
    match path.suffix:
        case '.npy':
            np.save(path, array)
        case '.npz':
            np.savez(path, cube=array)
        case '.mat':
            scipy.io.savemat(path, {'cube': array})
        case '.h5':
            with h5py.File(path, 'w') as file:
                file['cube'] = array
    return path


def write_matlab73(path: Path, **arrays: Any) -> Path:
    """Write a .mat as MATLAB does with ``-v7.3``: HDF5, the axes turned round."""
    with h5py.File(path, 'w', userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.T
            file[name].attrs['MATLAB_class'] = np.bytes_(array.dtype.name)
    with path.open('r+b') as head:
        text = b'MATLAB 7.3 MAT-file, Platform: GLNXA64'.ljust(116)
        head.write(text + bytes(8) + b'\x00\x02IM')
    return path


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('ending', ['.npy', '.npz', '.mat', '.h5'])
def test_axis_of_the_bands(tmp_path: Path, ending: str, last: bool) -> None:
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    stored = np.moveaxis(array, 0, -1) if last else array
    path = write(tmp_path / f'a{ending}', stored)
    assert np.array_equal(read_array(path, SHAPE[1:]).values, array)


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('with_mask', [False, True])
def test_matlab_73(tmp_path: Path, with_mask: bool, last: bool) -> None:
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    stored = {'cube': np.moveaxis(array, 0, -1) if last else array}
    stored |= {'gt': np.arange(35, dtype=np.uint8).reshape(5, 7)} if with_mask else {}
    path = write_matlab73(tmp_path / 'a.mat', **stored)
    for name in (None, 'cube'):
        assert np.array_equal(read_array(path, SHAPE[1:], name).values, array)
    if with_mask:
        assert np.array_equal(read_array(path, (), 'gt').values[0], stored['gt'])
    with pytest.raises(ValueError, match=r"but none called 'other'.*variables"):
        read_array(path, SHAPE[1:], 'other')


@pytest.mark.parametrize('axes', [1, 2])
def test_names_and_wavelengths_of_hdf5(tmp_path: Path, axes: int) -> None:
    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        file['scan/cube'] = np.ones(SHAPE, np.float32)
        file['wavelengths'] = np.linspace(400, 800, 9).reshape([9, 1][:axes])
    for name in ('scan/cube', '/scan/cube', None):
        found = read_array(tmp_path / 'a.h5', SHAPE[1:], name)
        assert found.values.shape == SHAPE
        assert found.wavelengths == tuple(range(400, 801, 50))


def test_several_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / 'a.npz', one=np.ones((2, 2)), two=np.ones((3, 3)))
    with pytest.raises(ValueError, match=r'holds 2 arrays.*one.*two.*variables'):
        read_array(tmp_path / 'a.npz')


@pytest.mark.parametrize('dtype', ['<f2', '>f4', '>u2', '>i4'])
def test_types_that_rasters_do_not_have(tmp_path: Path, dtype: str) -> None:
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    found = read_array(write(tmp_path / 'a.npy', array.astype(dtype)), SHAPE[1:]).values
    assert np.array_equal(found, array) and found.dtype.isnative
    assert found.dtype.name in DTYPES


@pytest.mark.parametrize('dtype', [np.uint8, np.float64])
@pytest.mark.parametrize('ending', ['.npz', '.mat'])
def test_the_array_that_can_be_meant(tmp_path: Path, ending: str, dtype: Any) -> None:
    cube = np.random.default_rng(0).random((5, 7, 4), np.float32)
    # MATLAB has whole numbers in floating-point types
    labels = np.arange(35, dtype=dtype).reshape(5, 7)
    waves = [0.45, 0.55, 0.65, 0.85]
    stored = {'cube': cube, 'gt': labels, 'wavelengths': waves, 'pc': cube[:3]}
    stored['depth'] = cube[..., 0]
    path = tmp_path / f'a{ending}'
    np.savez(path, **stored) if ending == '.npz' else scipy.io.savemat(path, stored)
    found = read_array(path, (5, 7))
    assert np.array_equal(found.values, np.moveaxis(cube, -1, 0))
    assert found.wavelengths == pytest.approx((450, 550, 650, 850))
    assert np.array_equal(read_codes(path), labels)
    assert read_array(path, variable='pc').values.shape == (3, 7, 4)
    with pytest.raises(ValueError, match=r"none called 'none'.*variables"):
        read_array(path, variable='none')


def test_variables_of_a_folder(tmp_path: Path) -> None:
    root = make_pairs(tmp_path, 2, names=[None] * 4)
    for path in [*root.glob('images/*'), *root.glob('masks/*')]:
        with rasterio.open(path) as source:
            values = source.read()
        path.unlink()
        # whose unit must be guessed
        values = values.astype(np.float32) if path.parent.name == 'images' else values
        arrays = {'raw': values + 1, 'corrected': values}
        if len(values) == 1:
            arrays = {'labels': values[0], 'votes': values[0] + 1}
        np.savez(path.with_suffix('.npz'), **arrays)
    with pytest.raises(ValueError, match=r'holds 2 arrays.*variables'):
        PairFolder(root)
    text = '{"variables": {"images": "corrected", "masks": "labels"}}'
    (root / 'dataset.json').write_text(text)
    assert PairFolder(root).spec.scale == 1 / 255
    (root / 'dataset.json').write_text(text[:-1] + ', "scale": 0.25}')
    folder = PairFolder(root)
    sample = folder[1]
    assert np.array_equal(sample['image'], image_of(sample['mask'].numpy(), 4))
    assert folder.spec.scale == 0.25
    # writing down what was found keeps it
    folder.write_description()
    assert PairFolder(root)[1]['image'].equal(sample['image'])
    (root / 'dataset.json').write_text('{"variables": "corrected"}')
    with pytest.raises(ValueError, match=r'must be an object'):
        PairFolder(root)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r'a\.npy cannot be read as \.npy'):
        read_array(tmp_path / 'a.npy')


@pytest.mark.parametrize('ending', ['.npy', '.mat', '.h5', '.npz'])
def test_broken_files_are_named(tmp_path: Path, ending: str) -> None:
    (tmp_path / f'a{ending}').write_bytes(b'x')
    with pytest.raises(ValueError, match=rf'a\{ending} cannot be read .*\.tif'):
        read_array(tmp_path / f'a{ending}')


def convert(root: Path, ending: str) -> None:
    """Write the GeoTIFFs of a folder in another format."""
    for path in [*root.glob('images/*'), *root.glob('masks/*')]:
        with rasterio.open(path) as source:
            values = source.read()
        path.unlink()
        values = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
        write(path.with_suffix(ending), values)


@pytest.mark.parametrize('ending', ['.npy', '.npz', '.mat', '.h5'])
def test_folder_of_arrays(tmp_path: Path, ending: str) -> None:
    plain = make_pairs(tmp_path / 'plain', names=[None] * 4)
    other = make_pairs(tmp_path / 'other', names=[None] * 4)
    convert(other, ending)
    folder = PairFolder(other)
    folder.verify()
    for one, two in zip(PairFolder(plain), folder, strict=True):
        assert one['image'].equal(two['image']) and one['mask'].equal(two['mask'])


def test_envi_and_png_masks(tmp_path: Path) -> None:
    root = make_pairs(tmp_path, 2, ['a', 'b', 'c'])
    kinds = {'images': ('ENVI', '.dat'), 'masks': ('PNG', '.png')}
    # not as TorchGeo's command line, which other tests call, has told GDAL
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='FALSE'):
        for kind, (driver, ending) in kinds.items():
            for path in sorted((root / kind).iterdir()):
                with rasterio.open(path) as source:
                    copy = path.with_suffix(ending)
                    rasterio.shutil.copy(source, copy, driver=driver)
                path.unlink()
    # as there, where GDAL would not see the headers
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR'):
        folder = PairFolder(root)
        folder.verify()
        samples = [*folder]
    assert folder.spec.bands == ('a', 'b', 'c')
    for sample in samples:
        wanted = image_of(sample['mask'].numpy(), 3)
        assert np.array_equal(sample['image'], wanted)


def test_files_of_envi_have_any_ending(tmp_path: Path) -> None:
    root = make_pairs(tmp_path, 3)
    names = {'0000': '0000', '0001': '0001.rfl', '0002': '0002.dat'}
    for path in sorted((root / 'images').iterdir()):
        with rasterio.open(path) as source:
            values, bands = source.read(), source.descriptions
        copy = path.with_name(names[path.stem])
        values.tofile(copy)
        copy.with_suffix('.hdr').write_text(
            f'ENVI\nsamples = {values.shape[2]}\nlines = {values.shape[1]}\n'
            f'bands = {len(values)}\nheader offset = 0\nfile type = ENVI Standard\n'
            'data type = 12\ninterleave = bsq\nbyte order = 0\n'
            f'band names = {{{", ".join(bands)}}}\n'
        )
        path.unlink()
    folder = PairFolder(root)
    folder.verify()
    assert len(folder) == 3 and folder.spec.bands == NAMES


@pytest.mark.parametrize(('driver', 'ending'), [('JPEG', '.jpeg'), ('VRT', '.vrt')])
def test_other_images(tmp_path: Path, driver: str, ending: str) -> None:
    root = make_pairs(tmp_path, 2, [None] * 3, dtype='uint8')
    (root / 'source').mkdir()
    for path in sorted((root / 'images').iterdir()):
        path = path.rename(root / 'source' / path.name)
        copy = root / 'images' / f'{path.stem}{ending}'
        with rasterio.open(path) as source:
            rasterio.shutil.copy(source, copy, driver=driver)
    folder = PairFolder(root)
    folder.verify()
    assert folder[1]['image'].shape == (3, 8, 8)


def test_what_is_passed_over_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_pairs(tmp_path, 2)
    for i in range(2):
        (root / 'images' / f'{i:04d}.png').write_bytes(b'a quicklook')
        for ending in ('.tif.msk', '.tfw', '.PGW', '.prj'):
            (root / 'images' / f'{i:04d}{ending}').write_bytes(b'')
    assert len(PairFolder(root)) == 2
    said = '.tif or .tiff; passed over are 2 in .png (0000.png, 0001.png).'
    assert said in caplog.text


def test_names_in_any_unicode_form(tmp_path: Path) -> None:
    root = make_pairs(tmp_path, 1)
    composed, apart = (
        unicodedata.normalize(form, 'Müller Süd v1.4') for form in ('NFC', 'NFD')
    )
    (root / 'images' / '0000.tif').rename(root / 'images' / f'{composed}.tif')
    (root / 'masks' / '0000.tif').rename(root / 'masks' / f'{apart}.tif')
    (root / 'train.txt').write_text(apart, encoding='utf-8')
    folder = PairFolder(root, 'train')
    assert folder.ids == [composed]
    folder.verify()
    # two files of one name are two
    mask = tifffile.imread(root / 'masks' / f'{apart}.tif')
    write_tiff(root / 'masks' / f'{composed}.tif', mask[None])
    with pytest.raises(ValueError, match='have one id'):
        PairFolder(root)
