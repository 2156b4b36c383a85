# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from tests.data.pairs import digests
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.files import sha256
from torchgeo_specdm.pairs.card import data_card
from torchgeo_specdm.pairs.geotiffs import to_dtype
from torchgeo_specdm.pairs.manifest import read_manifest
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.pairs.writer import PairWriter

SPEC = SampleSpec(
    bands=('B02', 'B8A', 'NDVI'),
    classes=('land', 'water', 'ice'),
    scale=1e-4,
    nodata=0,
    ignore_index=255,
    colors=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
)
SETTINGS = {'seed': 0, 'generator': 'abc', 'mode': 'joint'}
COUNT = 4


def sample(
    index: int, spec: SampleSpec = SPEC, size: int = 16
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(index)
    dates = () if spec.dates == 1 else (spec.dates,)
    image = random.uniform(1, 9999, (*dates, spec.num_bands, size, size))
    return image.astype(np.float32), random.integers(0, spec.num_classes, (size, size))


def make(root: Path, spec: SampleSpec = SPEC, **settings: Any) -> PairWriter:
    return PairWriter(root, spec, {'codec': 'pixels'}, SETTINGS | settings)


def run(root: Path, spec: SampleSpec = SPEC) -> set[int]:
    """A whole run, as a first or second one; the indices that it had to write."""
    writer = make(root, spec)
    writer.clean()
    left = {*range(COUNT)} - writer.done()
    for index in sorted(left):
        writer.write(f'{index:06d}', *sample(index, spec), {'index': index})
    writer.finish('# Card\n')
    return left


class TestFiles:
    def test_what_gis_software_sees(self, tmp_path: Path) -> None:
        run(tmp_path)
        image, mask = sample(1)
        with rasterio.open(tmp_path / 'images' / '000001.tif') as file:
            assert file.driver == 'GTiff' and file.dtypes == ('uint16',) * 3
            assert np.array_equal(file.read(), np.rint(image))
            assert file.descriptions == SPEC.bands
            assert file.scales == (1e-4,) * 3
            assert file.nodata == 0
            assert file.tags()['SYNTHETIC'] == 'YES'
            assert file.tags()['SAMPLE'] == '000001'
            assert file.tags(1)['WAVELENGTH_NM'] == '492.4'
            assert 'WAVELENGTH_NM' not in file.tags(3)
            assert file.crs is None and file.transform.is_identity
        with rasterio.open(tmp_path / 'masks' / '000001.tif') as file:
            assert file.dtypes == ('uint8',) and file.count == 1
            assert np.array_equal(file.read(1), mask)
            assert file.nodata == 255 and file.descriptions == ('class',)
            colors = file.colormap(1)
            assert [colors[i][:3] for i in range(3)] == [*SPEC.colors]
            assert file.tags()['CLASS_1'] == 'water'
            assert file.tags()['SYNTHETIC'] == 'YES'
            assert file.crs is None and file.transform.is_identity

    @pytest.mark.parametrize('dates', [1, 2])
    def test_reads_as_a_folder_of_pairs(self, tmp_path: Path, dates: int) -> None:
        spec = SampleSpec.from_dict(SPEC.to_dict() | {'dates': dates})
        run(tmp_path, spec)
        folder = PairFolder(tmp_path)
        folder.verify()
        assert folder.spec == spec and len(folder) == COUNT
        assert folder.provenance == {'codec': 'pixels', 'settings': SETTINGS}
        image, mask = sample(2, spec)
        assert np.array_equal(folder[2]['image'], np.rint(image))
        assert np.array_equal(folder[2]['mask'].reshape(16, 16), mask)

    def test_manifest(self, tmp_path: Path) -> None:
        writer = make(tmp_path)
        for index in (2, 0):
            record = {'index': index, 'seed': 7}
            writer.write(f'{index:06d}', *sample(index), record)
        writer.finish('# Card\n')
        rows = read_manifest(tmp_path)
        assert [row['index'] for row in rows] == [0, 2]
        assert rows[1] == {
            'id': '000002',
            'index': 2,
            'seed': 7,
            'accepted': True,
            'clipped': 0.0,
            'files': {
                f'{kind}/000002.tif': sha256(tmp_path / kind / '000002.tif')
                for kind in ('images', 'masks')
            },
        }
        assert (tmp_path / 'README.md').read_text() == '# Card\n'

    def test_same_bytes_each_time(self, tmp_path: Path) -> None:
        # names of other folders and other times of writing must not be in the files
        run(tmp_path / 'a')
        run(tmp_path / 'another folder')
        assert digests(tmp_path / 'a') == digests(tmp_path / 'another folder')
        assert len(digests(tmp_path / 'a')) == 2 * COUNT + 3


class TestValues:
    @pytest.mark.parametrize(
        ('dtype', 'stored'),
        [
            ('uint8', [0, 0, 2, 100, 255, 255]),
            ('uint16', [0, 0, 2, 100, 300, 65535]),
            ('int16', [-300, -1, 2, 100, 300, 32767]),
            ('float32', [-300.4, -0.6, 1.5, 100.25, 300, 70000]),
        ],
    )
    def test_dtype(self, tmp_path: Path, dtype: str, stored: list[float]) -> None:
        spec = SampleSpec(bands=('a',), classes=('x',), dtype=dtype)
        values = np.array([-300.4, -0.6, 1.5, 100.25, 300, 70000], np.float32)
        writer = PairWriter(tmp_path, spec, {}, {})
        mask = np.zeros((1, 6), np.int64)
        writer.write('a', values.reshape(1, 1, 6), mask, {'index': 0})
        found = PairFolder(tmp_path)[0]['image'].flatten()
        assert np.array_equal(found, np.array(stored, np.float32))
        share = {'uint8': 4 / 6, 'uint16': 0.5, 'int16': 1 / 6, 'float32': 0}[dtype]
        assert read_manifest(tmp_path)[0]['clipped'] == pytest.approx(share, abs=1e-6)

    @pytest.mark.parametrize('dtype', ['uint8', 'int16', 'uint32', 'int32', 'float32'])
    def test_limits(self, dtype: str) -> None:
        kind = np.dtype(dtype)
        limits = np.finfo(kind) if kind.kind == 'f' else np.iinfo(kind)
        values = np.array([limits.min, limits.max], np.float64)
        for factor, share in ((1, 0), (1.5, 1 - 0.5 * (limits.min == 0))):
            found, clipped = to_dtype(factor * values, kind)
            assert found.dtype == kind and clipped == share
            assert found.tolist() == [limits.min, limits.max]

    @pytest.mark.parametrize('value', [np.nan, np.inf])
    def test_non_finite(
        self, tmp_path: Path, value: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer = make(tmp_path)
        for index in range(2):
            image, mask = sample(index)
            image[1, 3, 3] = value if index else 5
            writer.write(f'{index:06d}', image, mask, {'index': index})
        assert 'sample 000001 has non-finite pixels' in caplog.text
        row = read_manifest(tmp_path)[1]
        assert (row['accepted'], row['reason']) == (False, 'non-finite pixels')
        assert PairFolder(tmp_path).ids == ['000000']
        # drawing it again would give the same
        assert writer.done() == {0, 1}

    @pytest.mark.parametrize(
        ('dtype', 'nodata'),
        [
            *[('uint16', 0), ('uint8', 255), ('int16', -9999), ('uint16', None)],
            *[('float32', -9999), ('float32', 'nan'), ('float32', None)],
            ('float32', float(np.finfo('f4').min)),
        ],
    )
    @pytest.mark.parametrize('dates', [1, 2])
    def test_missing_values_come_back(
        self, tmp_path: Path, dtype: str, nodata: Any, dates: int
    ) -> None:
        changes = {'dtype': dtype, 'nodata': nodata, 'dates': dates}
        spec = SampleSpec.from_dict(SPEC.to_dict() | changes)
        image, mask = sample(0, spec)
        image %= 200
        missing = np.zeros(image.shape, bool)
        missing[..., :4], missing[..., 1, 7, 4:] = True, nodata is not None
        if isinstance(nodata, int):
            # a value that is drawn, and is no hole
            image[..., 0, 9, 9] = nodata
        image[missing] = np.nan
        mask[:, :4] = 255
        writer = make(tmp_path, spec)
        writer.write('a', image, mask, {'index': 0}, missing=missing)
        assert read_manifest(tmp_path)[0]['accepted']
        found = PairFolder(tmp_path)[0]
        assert np.array_equal(found['image'].isnan().numpy(), missing)
        values = found['image'].numpy()[~missing]
        assert np.abs(values - image[~missing]).max() <= 1
        assert np.array_equal(found['mask'].reshape(16, 16), mask)

    @pytest.mark.parametrize(
        ('ignore', 'stored'), [(255, 255), (-1, 255), (-100, 255), (7, 7)]
    )
    def test_ignore_index(self, tmp_path: Path, ignore: int, stored: int) -> None:
        spec = SampleSpec.from_dict(
            SPEC.to_dict() | {'ignore_index': ignore, 'no_label': []}
        )
        image, mask = sample(0)
        mask[0, :4] = ignore
        make(tmp_path, spec).write('a', image, mask, {'index': 0})
        with rasterio.open(tmp_path / 'masks' / 'a.tif') as file:
            assert file.nodata == stored and (file.read(1)[0, :4] == stored).all()
        assert np.array_equal(PairFolder(tmp_path)[0]['mask'], mask)

    def test_mask_values(self, tmp_path: Path) -> None:
        image, mask = sample(0)
        spec = SampleSpec.from_dict(
            SPEC.to_dict() | {'ignore_index': None, 'no_label': []}
        )
        for name, value in (('a', 3), ('b', -1), ('c', 255), ('d', 256)):
            mask[0, 0] = value
            with pytest.raises(ValueError, match=rf'sample {name} .*\[{value}\]'):
                make(tmp_path, spec).write(name, image, mask, {'index': 0})
        assert digests(tmp_path).keys() == {'dataset.json'}

    @pytest.mark.parametrize(
        ('codes', 'dtype'),
        [
            (range(255), 'uint8'),
            (range(300), 'int16'),
            ((10, 20, 523), 'uint16'),
            ((-5, 1, 2), 'int16'),
        ],
    )
    def test_codes_choose_the_type(
        self, tmp_path: Path, codes: Sequence[int], dtype: str
    ) -> None:
        classes = tuple(f'c{code}' for code in codes)
        spec = SampleSpec(('a',), classes, ignore_index=-1, codes=tuple(codes))
        mask = np.resize(np.arange(-1, len(codes)), (20, 20))
        make(tmp_path, spec).write('a', np.ones((1, 20, 20)), mask, {'index': 0})
        with rasterio.open(tmp_path / 'masks' / 'a.tif') as file:
            assert file.dtypes == (dtype,)
            found = file.read(1)
            assert file.tags()[f'CLASS_{codes[-1]}'] == classes[-1]
            if dtype.startswith('u'):
                assert file.colormap(1)[codes[-1]] == (*spec.colors[-1], 255)
        known = mask >= 0
        assert np.array_equal(found[known], np.array(codes)[mask[known]])
        assert (found[~known] == spec.no_label[0]).all()
        assert np.array_equal(PairFolder(tmp_path)[0]['mask'], mask)

    @pytest.mark.parametrize(
        ('image', 'mask'),
        [
            ((2, 8, 8), (8, 8)),
            ((3, 8, 8), (8, 9)),
            ((3, 8, 8), (1, 8, 8)),
            ((2, 3, 8, 8), (8, 8)),
            ((8, 8, 3), (8, 8)),
        ],
    )
    def test_shapes(
        self, tmp_path: Path, image: tuple[int, ...], mask: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match=r'Sample a has .*\(1, 3, H, W\)'):
            make(tmp_path).write('a', np.ones(image), np.zeros(mask, int), {'index': 0})
        assert not (tmp_path / 'manifest.jsonl').exists()


class TestCard:
    def test_numbers(self, tmp_path: Path) -> None:
        writer = make(tmp_path)
        for index in range(4):
            image, mask = sample(index)
            image[0, :8] = 1e6 if index == 1 else 100
            image[0, 0, 0] = np.nan if index == 3 else 100
            writer.write(f'{index:06d}', image, mask, {'index': index})
        training = {'samples': 81, 'datamodule': 'Fields', 'updates': 9, 'preset': 't'}
        card = data_card(tmp_path, {'training': training})
        assert '3 accepted, 1 rejected' in card
        assert '81 samples of Fields, 9 updates, preset t' in card
        assert 'B02, B8A, NDVI' in card and 'land, water, ice' in card
        assert 'image and mask together' in card
        # 127 of 768 values of one of three samples
        assert f'{127 / 768 / 3:.2%} of the values' in card
        assert 'unknown' in data_card(tmp_path, {})

    def test_sources(self, tmp_path: Path) -> None:
        make(tmp_path / 'a', mode='masks', source='real')
        assert 'images for the masks of real' in data_card(tmp_path / 'a', {})
        make(tmp_path / 'b', mode='vary', source='real', strength=0.6)
        assert 'variations (strength 0.6)' in data_card(tmp_path / 'b', {})
