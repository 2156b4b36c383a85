# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from tests.data.oscd import (
    ALL_BANDS,
    IMAGES,
    fake_mask,
    fake_plane,
    ground,
    make_native_city,
    mask_path,
    write_mask,
    write_plane,
)
from torchgeo_specdm.datasets.oscd import OSCD

from .conftest import small


class TestMasks:
    @pytest.mark.parametrize('mode', ['L', 'LA', 'RGB', 'RGBA'])
    def test_modes(self, root: Path, mode: str) -> None:
        write_mask(mask_path(root, 'paris'), fake_mask(20, 24), mode)
        with Image.open(mask_path(root, 'paris')) as stored:
            assert stored.mode == mode
        dataset = small(root, patch_size=20)
        wanted = fake_mask(20, 24)[None, :, :20]
        assert np.array_equal(dataset[0]['mask'], wanted)

    @pytest.mark.parametrize(
        ('threshold', 'changed'), [(1, 3), (2, 2), (128, 1), (200, 1), (201, 0)]
    )
    def test_threshold(self, root: Path, threshold: int, changed: int) -> None:
        values = np.zeros((20, 24, 3), np.uint8)
        values[0, :3] = [[1, 1, 1], [90, 100, 0], [200, 200, 200]]
        Image.fromarray(values).save(mask_path(root, 'paris'))
        assert small(root, threshold=threshold)[0]['mask'].sum() == changed

    def test_palette(self, root: Path) -> None:
        path = mask_path(root, 'paris')
        with Image.open(path) as stored:
            stored.convert('P').save(path)
        with pytest.raises(ValueError, match=r'paris.cm.cm\.png has a palette'):
            small(root)


class TestFaults:
    def test_labels_without_images(self, root: Path) -> None:
        (root / IMAGES / 'paris').rename(root / 'other')
        match = r'paris has labels, but .*Images.paris does not exist'
        with pytest.raises(ValueError, match=match):
            small(root)

    def test_no_mask(self, root: Path) -> None:
        mask_path(root, 'paris').unlink()
        with pytest.raises(ValueError, match=r'paris.cm.cm\.png cannot be read'):
            small(root)

    def test_no_date(self, root: Path) -> None:
        folder = root / IMAGES / 'paris'
        (folder / 'imgs_2_rect').rename(root / 'other')
        with pytest.raises(ValueError, match=r"paris.imgs_2_rect lacks \['B02.tif'"):
            small(root)
        (folder / 'imgs_1_rect').rename(root / 'another')
        with pytest.raises(ValueError, match=r'paris.imgs_1 has 0 files \*_B02\.tif'):
            small(root)

    def test_no_band(self, root: Path) -> None:
        (root / IMAGES / 'paris' / 'imgs_2_rect' / 'B05.tif').unlink()
        with pytest.raises(ValueError, match=r"paris.imgs_2_rect lacks \['B05.tif'\]"):
            small(root)
        assert len(small(root, bands=('B02', 'B04'))) > 0

    @pytest.mark.parametrize('what', ['date', 'band', 'mask'])
    def test_sizes(self, root: Path, what: str) -> None:
        folder = root / IMAGES / 'paris'
        bands = ('B02', 'B03', 'B04', 'B05') if what == 'date' else ('B05',)
        if what == 'mask':
            write_mask(mask_path(root, 'paris'), fake_mask(20, 22))
            match = r'2 sizes \(20x22 in .*cm\.png, 20x24 in .*imgs_'
        else:
            for band in bands:
                path = folder / 'imgs_2_rect' / f'{band}.tif'
                write_plane(path, fake_plane(band, 2, 20, 22))
            match = r'2 sizes \(20x24 in .*, 20x22 in .*imgs_2_rect.B05\.tif\)'
        with pytest.raises(ValueError, match=match):
            small(root)

    def test_small_city(self, root: Path) -> None:
        match = r'paris has 20x24 pixels, but a tile has patch_size=21.* up to 20'
        with pytest.raises(ValueError, match=match):
            small(root, patch_size=21)

    @pytest.mark.parametrize('value', [np.nan, np.inf, -1, 0.5, 70000])
    def test_values(self, root: Path, value: float) -> None:
        path = root / IMAGES / 'paris' / 'imgs_2_rect' / 'B05.tif'
        plane = fake_plane('B05', 2, 20, 24).astype(np.float32)
        write_plane(path, plane)
        # whole numbers are taken in any type
        assert small(root)[0]['image'].dtype == torch.float32
        plane[3, :2] = value
        write_plane(path, plane)
        match = rf'imgs_2_rect.B05\.tif has 2 values such as {value}'
        with pytest.raises(ValueError, match=match):
            small(root)

    @pytest.mark.parametrize('content', [b'', b'<html>login', None])
    def test_unreadable(self, root: Path, content: bytes | None) -> None:
        path = root / IMAGES / 'paris' / 'imgs_1_rect' / 'B03.tif'
        path.write_bytes(path.read_bytes()[:700] if content is None else content)
        with pytest.raises(ValueError, match=r'imgs_1_rect.B03\.tif cannot be read'):
            small(root)


class TestNative:
    """Bands of 10, 20 and 60 m, as some releases have them."""

    settings: ClassVar[dict[str, Any]] = {
        'val_cities': (),
        'patch_size': 60,
        'bands': ALL_BANDS,
    }

    @pytest.mark.parametrize('shift', [0, 2])
    def test_aligned(self, tmp_path: Path, shift: int) -> None:
        make_native_city(tmp_path, 'pisa', shift=shift)
        dataset = OSCD(tmp_path, **self.settings)
        places = np.arange(60) + 0.5
        wanted = ground(places[:, None], places[None])
        image = dataset[0]['image'].numpy()
        # no neighbour to weigh with within half a pixel of 60 m of the edge
        inner = (..., slice(3 + shift, -3), slice(3 + shift, -3))
        # half a pixel of 20 m beside the place would be 50 digital numbers
        assert np.abs(image - wanted)[inner].max() <= 1
        # edges get the value of the nearest pixel, never nothing
        assert image.min() >= 1000
        assert np.abs(image - wanted).max() <= 50 * (3 + shift)
        ten = [ALL_BANDS.index(band) for band in ('B02', 'B03', 'B04', 'B08')]
        assert np.array_equal(image[0, ten], np.broadcast_to(wanted, (4, 60, 60)))
        scene = dataset.scenes[0]
        assert scene.crs.to_epsg() == 32631
        assert scene.transform[:6] == (10, 0, 400000, 0, -10, 5000000)

    def test_once(self, tmp_path: Path) -> None:
        make_native_city(tmp_path, 'pisa')
        first = OSCD(tmp_path, **self.settings)[0]['image']
        cache = tmp_path / 'resampled' / 'pisa'
        files = sorted(cache.rglob('*'))
        assert len(files) == 2 + 26
        path = cache / 'imgs_2_rect' / 'B11.tif'
        with rasterio.open(path) as source:
            plane = source.read(1)
        write_plane(path, plane + 1000)
        second = OSCD(tmp_path, **self.settings)[0]['image']
        assert sorted(cache.rglob('*')) == files
        difference = second - first
        assert (difference[1, ALL_BANDS.index('B11')] == 1000).all()
        assert difference.sum() == 1000 * 60 * 60

    def test_only_what_is_asked_for(self, tmp_path: Path) -> None:
        make_native_city(tmp_path, 'pisa')
        OSCD(tmp_path, **self.settings | {'bands': ('B05', 'B01')})
        paths = sorted((tmp_path / 'resampled').rglob('*.*'))
        assert [path.name for path in paths] == 2 * ['B01.tif', 'B05.tif']
        before = [path.stat().st_mtime_ns for path in paths]
        OSCD(tmp_path, **self.settings)
        # others are added, these stay
        assert [path.stat().st_mtime_ns for path in paths] == before

    def test_at_once(self, tmp_path: Path) -> None:
        make_native_city(tmp_path, 'pisa')
        with ThreadPoolExecutor(4) as pool:
            found = list(
                pool.map(lambda _: OSCD(tmp_path, **self.settings)[0], range(4))
            )
        assert all(torch.equal(found[0]['image'], one['image']) for one in found)
        assert not list(tmp_path.rglob('*.part'))

    def test_no_place(self, tmp_path: Path) -> None:
        make_native_city(tmp_path, 'pisa', crs=None)
        match = r'B02\.tif has no coordinate reference system'
        with pytest.raises(ValueError, match=match):
            OSCD(tmp_path, **self.settings)

    def test_other_place(self, tmp_path: Path) -> None:
        make_native_city(tmp_path, 'pisa', shift=30)
        match = r'B02 of .*imgs_2 does not cover \d\d\.\d% of the grid'
        with pytest.raises(ValueError, match=match):
            OSCD(tmp_path, **self.settings | {'bands': ('B02',)})
        assert not list((tmp_path / 'resampled' / 'pisa').glob('imgs_2_rect/*'))

    def test_missing_and_double(self, tmp_path: Path) -> None:
        make_native_city(tmp_path, 'pisa')
        folder = tmp_path / IMAGES / 'pisa' / 'imgs_2'
        path = folder / 'S2A_X_T31_B05.tif'
        (folder / '._S2A_X_T31_B05.tif').write_bytes(b'macOS')
        OSCD(tmp_path, **self.settings | {'bands': ('B02', 'B06')})
        path.rename(folder / 'B05.tif')
        with pytest.raises(ValueError, match=r'imgs_2 has 0 files \*_B05\.tif'):
            OSCD(tmp_path, **self.settings)
        for name in ('one', 'two'):
            (folder / f'{name}_B05.tif').write_bytes((folder / 'B05.tif').read_bytes())
        with pytest.raises(ValueError, match=r'imgs_2 has 2 files \*_B05\.tif'):
            OSCD(tmp_path, **self.settings)
