# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What is written beside the images and masks, and what can be wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from tests.conftest import calls_of
from tests.data.pairs import NAMES, image_of, make_pairs, write_tiff
from torchgeo_specdm.datasets import pairs
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs.layout import read_corners
from torchgeo_specdm.pairs.manifest import read_manifest
from torchgeo_specdm.pairs.rasters import read_raster
from torchgeo_specdm.pairs.spec import SampleSpec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / 'Flächen für München')


def describe(root: Path, **values: Any) -> None:
    text = {'bands': NAMES, 'classes': ['a', 'b', 'c'], 'ignore_index': 255}
    (root / 'dataset.json').write_text(json.dumps(text | values))


def faults_of(root: Path) -> str:
    """What verify() finds in a folder that opens without complaint."""
    folder = PairFolder(root)
    with pytest.raises(ValueError) as error:
        folder.verify()
    return str(error.value)


class TestLists:
    @pytest.mark.parametrize(
        'text',
        [
            '0002\n0000\n',
            '0002\r\n0000\r\n',
            '\ufeff0002\n\n  0000 \n0002\n\n',
            '0002.tif\n0000.TIFF',
            'images/0002.tif\nC:\\data\\masks\\0000.tif',
        ],
    )
    def test_of_any_editor(self, root: Path, text: str) -> None:
        (root / 'train.txt').write_bytes(text.encode())
        folder = PairFolder(root, 'train')
        assert folder.ids == ['0002', '0000'] and len(folder) == 2
        assert torch.equal(folder[0]['image'], PairFolder(root)[2]['image'])
        assert folder.choose_ids(None) == ['0000', '0001', '0002', '0003']

    def test_names_of_any_alphabet(self, root: Path) -> None:
        for kind in ('images', 'masks'):
            (root / kind / '0003.tif').rename(root / kind / 'Straße 7.b.tif')
        (root / 'val.txt').write_text('Straße 7.b\n', encoding='utf-8')
        folder = PairFolder(root, 'val')
        assert folder.ids == ['Straße 7.b']
        folder.verify()

    def test_places_may_name_files(self, root: Path) -> None:
        ids = ('0000.tif', 'images\\0001.TIFF', 'x/masks/0002.png', '0003')
        rows = ''.join(f'{name};{i % 2};{i};7\n' for i, name in enumerate(ids))
        (root / 'places.csv').write_text(f'ID;Place;Row;Column\n{rows}')
        assert PairFolder(root).places == ['0', '1', '0', '1']
        assert read_corners(root)['0002'] == (2, 7)

    def test_unknown_ids(self, root: Path) -> None:
        (root / 'train.txt').write_text('0000\n\n9\n8\n')
        with pytest.raises(ValueError, match=r"train\.txt, line 3: '9' .*2 such ids"):
            PairFolder(root, 'train')

    def test_missing_or_empty(self, root: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"test\.txt .*split='test'"):
            PairFolder(root, 'test')
        (root / 'test.txt').write_text('\n')
        with pytest.raises(ValueError, match=r'0 samples to use: test\.txt is empty'):
            PairFolder(root, 'test')


class TestManifest:
    def test_rejected_samples(self, root: Path) -> None:
        lines = [{'id': '0001', 'accepted': False}, {'id': '0002', 'accepted': True}]
        # this one was rejected before its files were written
        lines.append({'id': '0009', 'accepted': False, 'files': {}})
        # the last line of an id counts
        lines += [{'id': '0000', 'accepted': False}, {'id': '0000', 'accepted': True}]
        text = ''.join(json.dumps(line) + '\n' for line in lines)
        (root / 'manifest.jsonl').write_text(text)
        (root / 'train.txt').write_text('0003\n0009\n0001\n')
        assert PairFolder(root).ids == ['0000', '0002', '0003']
        assert len(PairFolder(root, accepted_only=False)) == 4
        assert PairFolder(root, 'train').ids == ['0003']
        with pytest.raises(ValueError, match="line 2: '0009' has no files"):
            PairFolder(root, 'train', accepted_only=False)

    def test_torn_lines(self, root: Path) -> None:
        whole = '{"id": "0001", "index": 1}'
        text = f'{{"id": "00\n{whole}\n\n\0\0\n{{"id": "0002", "ind'
        (root / 'manifest.jsonl').write_bytes(text.encode() + b'\xc3')
        assert read_manifest(root) == [{'id': '0001', 'index': 1}]

    @pytest.mark.parametrize(
        'line',
        [
            '[1]',
            '7',
            '{}',
            '{"id": 1}',
            '{"id": "1", "index": -1}',
            '{"id": "1", "index": 18446744073709551616}',
            '{"id": "1", "accepted": "no"}',
            '{"id": "1", "clipped": NaN}',
            '{"id": "1", "files": ["images/1.tif"]}',
            '{"id": "1", "files": {"../../secret.txt": "0"}}',
            '{"id": "1", "files": {"/etc/passwd": "0"}}',
        ],
    )
    def test_another_form(self, root: Path, line: str) -> None:
        (root / 'manifest.jsonl').write_text(f'{{"id": "0001"}}\n{line}\n')
        with pytest.raises(ValueError, match=r'manifest\.jsonl, line 2 (has|lacks) '):
            read_manifest(root)

    def test_all_rejected(self, root: Path) -> None:
        lines = [{'id': f'{i:04d}', 'accepted': False} for i in range(4)]
        text = ''.join(json.dumps(line) + '\n' for line in lines)
        (root / 'manifest.jsonl').write_text(text)
        with pytest.raises(ValueError, match='0 samples to use'):
            PairFolder(root)


class TestDescription:
    @pytest.mark.parametrize('dates', [1, 2])
    @pytest.mark.parametrize('dtype', ['uint8', 'float32'])
    def test_written_and_read(self, tmp_path: Path, dtype: str, dates: int) -> None:
        make_pairs(tmp_path, 2, ['B02', None, None], dtype=dtype, dates=dates, nodata=3)
        (tmp_path / 'classes.csv').write_text('id,name\n2,x\n0,y\n1,z\n255,w\n')
        plain = PairFolder(tmp_path, bands=['band_3', 'B02'])
        samples = list(plain)
        path = plain.write_description()
        assert path == tmp_path / 'dataset.json'
        (tmp_path / 'classes.csv').unlink()
        described = PairFolder(tmp_path, bands=['band_3', 'B02'])
        assert described.spec == plain.spec
        for one, two in zip(samples, described, strict=True):
            torch.testing.assert_close(two, one, rtol=0, atol=0, equal_nan=True)
        text = path.read_text()
        described.write_description()
        assert path.read_text() == text

    def test_provenance_is_kept(self, root: Path) -> None:
        describe(root, provenance={'settings': {'seed': 1}}, licence='CC0')
        folder = PairFolder(root)
        assert folder.provenance == {'settings': {'seed': 1}}
        values = json.loads(folder.write_description().read_text())
        assert values['provenance'] == {'settings': {'seed': 1}}
        assert values['licence'] == 'CC0' and values['codes'] == [0, 1, 2]

    def test_codes(self, root: Path) -> None:
        describe(root, codes=[2, 0, 1], ignore_index=-1)
        plain = make_pairs(root.parent / 'plain')
        for one, two in zip(PairFolder(plain), PairFolder(root), strict=True):
            wanted = torch.tensor([1, 2, 0])[one['mask']]
            assert torch.equal(two['mask'], wanted)

    @pytest.mark.parametrize(
        ('values', 'message'),
        [
            ({'bands': None}, r'bands=None must be a list'),
            ({'bands': 'B02'}, r"bands='B02' must be a list"),
            ({'scale': '0.1'}, r"scale='0\.1' must be a number"),
            ({'dates': 0}, r'dates=0 must be a whole number'),
            ({'colors': [[1, 2, 3]]}, r'1 colors for 3 classes'),
            ({'codes': [1, 2]}, r'codes=\[1, 2\] .* each of the 3 classes'),
            ({'codes': [1, 1, 2]}, r'codes=.* all different'),
            ({'codes': [1, 2.5, 3]}, r'codes=.* one whole number'),
            ({'codes': {'a': 1}}, r'codes=.* one whole number'),
            ({'codes': [0, 1, 255]}, r'ignore_index=255 is also in codes'),
            ({'provenance': 'us'}, r"provenance='us' must be an object"),
        ],
    )
    def test_wrong_fields(
        self, root: Path, values: dict[str, Any], message: str
    ) -> None:
        describe(root, **values)
        with pytest.raises(ValueError, match=rf'dataset\.json: {message}') as error:
            PairFolder(root)
        assert '\n' not in str(error.value)

    def test_missing_fields(self, root: Path) -> None:
        (root / 'dataset.json').write_text('{"scale": 1, "bands": ["B02"]}')
        with pytest.raises(ValueError, match=r"json: \['classes'\] are missing"):
            PairFolder(root)
        (root / 'dataset.json').write_text('{"scale": 1')
        with pytest.raises(ValueError, match=r'dataset\.json is not valid JSON'):
            PairFolder(root)

    def test_no_label(self, root: Path) -> None:
        describe(root, ignore_index=None)
        write_tiff(root / 'masks' / '0001.tif', np.full((1, 8, 8), 255, np.uint8))
        assert '0001.tif has the values [255]' in faults_of(root)


class TestPairing:
    def test_no_partner(self, root: Path) -> None:
        for i in range(5):
            (root / 'masks' / f'a{i}.tif').touch()
        (root / 'masks' / '0001.tif').unlink()
        with pytest.raises(ValueError) as error:
            PairFolder(root)
        message = str(error.value)
        assert '4 images and 8 masks, 6 without partner' in message
        assert 'image 0001 without mask, no image a0, no image a1' in message
        assert 'a3' in message and 'a4' not in message
        assert 'generator' not in message
        (root / 'manifest.jsonl').touch()
        with pytest.raises(ValueError, match='generator was stopped here, run it'):
            PairFolder(root)

    def test_missing_date(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 3, dates=2)
        (tmp_path / 'images' / '0001_2.tif').unlink()
        with pytest.raises(ValueError, match=r'no image 0001_2\. .* 2 images'):
            PairFolder(tmp_path)

    def test_dates_are_known(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 1, dates=2)
        describe(tmp_path, dates=3)
        with pytest.raises(ValueError, match='no image 0000_3'):
            PairFolder(tmp_path)

    @pytest.mark.parametrize('folder', ['images', 'masks'])
    def test_no_folder(self, root: Path, folder: str) -> None:
        (root / folder).rename(root / 'other')
        with pytest.raises(FileNotFoundError, match=f'{folder} does not exist'):
            PairFolder(root)

    def test_nothing(self, tmp_path: Path) -> None:
        for folder in ('images', 'masks'):
            (tmp_path / folder).mkdir()
        with pytest.raises(ValueError, match='0 images and 0 masks'):
            PairFolder(tmp_path)

    def test_folders_of_splits(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for kind in ('images', 'masks'):
            files = [*(root / kind).iterdir()]
            (root / kind / 'train').mkdir()
            for path in files:
                path.rename(path.parent / 'train' / path.name)
        with pytest.raises(ValueError, match=r'0 images .*a_1\.tif and a_2\.tif'):
            PairFolder(root)
        assert 'the folders train. Put the files of all into one' in caplog.text

    def test_one_id_twice(self, root: Path) -> None:
        (root / 'images' / '0002.tiff').touch()
        with pytest.raises(ValueError, match=r"0002\.tif have one id, '0002'"):
            PairFolder(root)

    def test_unknown_band(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"\['B99'\] are not among .*'B08'\]"):
            PairFolder(root, bands=['B02', 'B99'])
        for bands in ([], ['B02', 'B02']):
            with pytest.raises(ValueError, match='bands='):
                PairFolder(root, bands=bands)


class TestFaults:
    """Each is found by verify(), with the file, the value, the rule, the remedy."""

    @pytest.mark.parametrize('described', [False, True])
    @pytest.mark.parametrize('kind', ['images', 'masks'])
    @pytest.mark.parametrize('content', ['cut', 'empty', 'page'])
    def test_no_image(
        self, root: Path, kind: str, content: str, described: bool
    ) -> None:
        if described or kind == 'masks':
            # else the masks are read to find the classes
            describe(root)
        path = root / kind / '0002.tif'
        page = b'<!DOCTYPE html><html><body>Please log in</body></html>'
        whole = path.read_bytes()
        half = whole[: len(whole) // 2]
        path.write_bytes({'cut': half, 'empty': b'', 'page': page}[content])
        message = faults_of(root)
        assert f'{path} cannot be read as an image' in message
        assert 'Extract it again, write it as .tif' in message

    def test_broken_mask_of_a_plain_folder(self, root: Path) -> None:
        (root / 'masks' / '0002.tif').write_bytes(b'')
        with pytest.raises(ValueError, match=r'0002\.tif cannot be read'):
            PairFolder(root)

    @pytest.mark.parametrize('bands', [3, 5])
    def test_number_of_bands(self, root: Path, bands: int) -> None:
        path = root / 'images' / '0001.tif'
        write_tiff(path, image_of(np.zeros((8, 8)), bands).astype(np.uint16))
        message = faults_of(root)
        assert f'{path} has {bands} bands, but the folder has 4: {[*NAMES]}' in message

    @pytest.mark.parametrize('described', [False, True])
    def test_order_of_bands(self, root: Path, described: bool) -> None:
        if described:
            describe(root)
        path = root / 'images' / '0001.tif'
        image = read_raster(path).values
        other = ['B02', 'B04', 'B03', 'B08']
        write_tiff(path, image, other)
        message = faults_of(root)
        assert f'{path} has the bands {other}' in message
        assert f'the folder has {[*NAMES]}' in message
        for names in ([], [None, 'b03', None, 'B08'], ['DN'] * 4):
            write_tiff(path, image, names)
            PairFolder(root).verify()

    @pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
    def test_no_number(self, tmp_path: Path, value: float) -> None:
        make_pairs(tmp_path, dtype='float32')
        path = tmp_path / 'images' / '0003.tif'
        image = read_raster(path).values
        image[2, 4, 4:6] = value
        write_tiff(path, image, NAMES)
        assert f'{path} has 2 NaN or infinite values' in faults_of(tmp_path)
        # a band that is not used may have gaps
        PairFolder(tmp_path, bands=['B02', 'B03', 'B08']).verify()

    @pytest.mark.parametrize('writer', ['rasterio', 'pages'])
    @pytest.mark.parametrize('described', [False, True])
    def test_channel_last(self, tmp_path: Path, writer: str, described: bool) -> None:
        make_pairs(tmp_path, 2)
        if described:
            describe(tmp_path)
        for path in (tmp_path / 'images').iterdir():
            last = read_raster(path).values.transpose(1, 2, 0)
            if writer == 'rasterio':
                write_tiff(path, last)
            else:
                tifffile.imwrite(path, last, photometric='minisblack')
        try:
            message = faults_of(tmp_path)
        except ValueError as error:
            message = str(error)
        assert 'channel-last' in message and '(bands, rows, columns)' in message
        assert '0000.tif' in message

    def test_unknown_class(self, root: Path) -> None:
        describe(root)
        path = root / 'masks' / '0001.tif'
        write_tiff(
            path, np.array([[[0, 1], [9, 7]]], np.uint8).repeat(4, 1).repeat(4, 2)
        )
        message = faults_of(root)
        assert f'{path} has the values [7, 9], which are no classes' in message
        assert 'allowed are [0, 1, 2, 255]' in message and 'classes.csv' in message

    @pytest.mark.parametrize('dtype', ['int32', 'float32'])
    def test_mask_of_another_type(self, root: Path, dtype: str) -> None:
        path = root / 'masks' / '0001.tif'
        before = PairFolder(root)[1]['mask']
        write_tiff(path, read_raster(path).values.astype(dtype))
        folder = PairFolder(root)
        folder.verify()
        assert folder[1]['mask'].dtype == torch.int64
        assert torch.equal(folder[1]['mask'], before)

    def test_mask_of_fractions(self, root: Path) -> None:
        describe(root)
        path = root / 'masks' / '0001.tif'
        mask = read_raster(path).values.astype(np.float32)
        mask[0, 0, 0] = 0.5
        write_tiff(path, mask)
        assert f'{path} has values such as 0.5' in faults_of(root)

    def test_mask_of_colors(self, root: Path) -> None:
        describe(root)
        path = root / 'masks' / '0001.tif'
        write_tiff(path, np.arange(192, dtype=np.uint8).reshape(3, 8, 8))
        message = faults_of(root)
        assert f'{path} has 3 bands, but a mask must have one' in message
        assert 'palette' in message

    def test_sizes_of_image_and_mask(self, root: Path) -> None:
        path = root / 'images' / '0001.tif'
        write_tiff(path, np.ones((4, 8, 6), np.uint16))
        message = faults_of(root)
        assert f'{path} has 4 bands of 8x6 pixels, but ' in message
        assert f'{root / "masks" / "0001.tif"} has 8x8 pixels' in message

    def test_sizes_of_dates(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 2, dates=2)
        path = tmp_path / 'images' / '0001_2.tif'
        write_tiff(path, np.ones((4, 6, 6), np.uint16))
        assert f'{path} has 4 bands of 6x6 pixels' in faults_of(tmp_path)

    def test_bands_of_dates(self, tmp_path: Path) -> None:
        make_pairs(tmp_path, 2, dates=2)
        path = tmp_path / 'images' / '0001_2.tif'
        write_tiff(path, np.ones((3, 8, 8), np.uint16))
        assert f'{path} has 3 bands, but the folder has 4' in faults_of(tmp_path)

    def test_sizes_of_patches(self, root: Path) -> None:
        make_pairs(root / 'large', 1, size=10)
        for kind in ('images', 'masks'):
            (root / 'large' / kind / '0000.tif').rename(root / kind / '0002.tif')
        message = faults_of(root)
        assert '0002.tif and its image have 10x10 pixels' in message
        assert 'those of 0000 8x8 pixels' in message

    def test_all_faults_in_one_go(self, root: Path) -> None:
        describe(root)
        for name in ('0000', '0002'):
            (root / 'images' / f'{name}.tif').write_bytes(b'')
        lines = faults_of(root).split('\n')
        assert len(lines) == 2
        assert '0000.tif' in lines[0] and '0002.tif' in lines[1]
        for i in range(4, 9):
            for kind in ('images', 'masks'):
                (root / kind / f'{i:04d}.tif').write_bytes(b'')
        lines = faults_of(root).split('\n')
        assert len(lines) == 6 and lines[-1] == 'Further samples were not looked at.'

    def test_each_file_is_read_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_pairs(tmp_path, 3, dates=2)
        describe(tmp_path, dates=2)
        folder = PairFolder(tmp_path)
        seen = calls_of(monkeypatch, pairs, 'read_raster')
        folder.verify()
        names = sorted(path.name for path, *_ in seen)
        assert names == [f'{i:04d}_{t}.tif' for i in range(3) for t in (1, 2)]

    def test_description_of_other_data(self, root: Path) -> None:
        describe(root, bands=['B02', 'B03'])
        assert 'has 4 bands, but the folder has 2' in faults_of(root)
        assert SampleSpec.from_dict(json.loads((root / 'dataset.json').read_text()))
