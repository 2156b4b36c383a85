# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from tests.data.pairs import NAMES, image_of, make_pairs, write_tiff
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs.cutting import export_scene
from torchgeo_specdm.pairs.geotiffs import write_categories

LINES = ('blue,0.49 um,0.0001,-0.1', 'nir,842,0.0002,0', 'x,,0.0001,0', 'y, 2.2,1,0')


class TestBandsTable:
    def test_all_columns(self, tmp_path: Path) -> None:
        root = make_pairs(tmp_path, 2)
        text = '\n'.join(('name, wavelength, scale, offset, remark', *LINES))
        (root / 'bands.csv').write_text(text)
        spec = PairFolder(root).spec
        assert spec.bands == ('blue', 'nir', 'x', 'y')
        assert spec.wavelengths == pytest.approx((490, 842, None, 2200))
        assert spec.scale == (0.0001, 0.0002, 0.0001, 1)
        assert spec.offset == (-0.1, 0, 0, 0)

    def test_wavelengths_alone(self, tmp_path: Path) -> None:
        root = make_pairs(tmp_path, 2, names=[None] * 3)
        (root / 'bands.csv').write_text('wavelength\n842\n665\n560\n')
        folder = PairFolder(root)
        folder.verify()
        assert folder.spec.bands == ('band_1', 'band_2', 'band_3')
        assert folder.spec.wavelengths == (842, 665, 560)

    def test_names_tell_wavelengths(self, tmp_path: Path) -> None:
        root = make_pairs(tmp_path, 2, names=[None] * 3)
        (root / 'bands.csv').write_text('name\nB08\nB04\nmine\n')
        assert PairFolder(root).spec.wavelengths == (832.8, 664.6, None)

    def test_beside_a_description(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        root = make_pairs(tmp_path, 2)
        (root / 'bands.csv').write_text('name\nB02\nB03\nB04\nB08\n')
        (root / 'classes.csv').write_text('id,name\n2,c\n0,a\n1,no label\n')
        PairFolder(root).write_description()
        PairFolder(root)
        assert 'which counts' not in caplog.text
        for name, said in (('bands.csv', 'B05'), ('classes.csv', '0,b')):
            caplog.clear()
            table = root / name
            text = table.read_text()
            table.write_text(text.replace('B08', said).replace('0,a', said))
            assert PairFolder(root).spec.bands[3] == 'B08'
            assert f'{name} says something else than dataset.json, which' in caplog.text
            # as another program writes it
            table.write_text('value;label\n0;a\n')
            assert PairFolder(root).spec.bands[3] == 'B08'
            assert 'dataset.json counts without it' in caplog.text
            table.write_text(text)

    @pytest.mark.parametrize(
        ('text', 'said'),
        [
            ('name\na\nb\n', r'2 lines for 4 bands'),
            ('colour\na\nb\nc\nd\n', r'the columns \[\] of .*wavelength'),
            ('scale\n1\n1\none\n1\n', r"column scale: .*'one'"),
            ('name\na\na\nb\nc\n', r'bands=.*must be a list of one or more different'),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, said: str) -> None:
        root = make_pairs(tmp_path, 2)
        (root / 'bands.csv').write_text(text)
        with pytest.raises(ValueError, match=said):
            PairFolder(root)


class TestColours:
    @pytest.mark.parametrize('ending', ['tif', 'png'])
    def test_a_picture_names_its_bands(self, tmp_path: Path, ending: str) -> None:
        root = make_pairs(tmp_path, 2, [None] * 3, dtype='uint8')
        for path in (root / 'images').iterdir():
            with rasterio.open(path) as source:
                image = source.read()
            path.unlink()
            # red, green and blue, and transparent all over the first rows
            picture = np.concatenate([image, np.full((1, 8, 8), 255, np.uint8)])
            picture[3, :2] = 0
            Image.fromarray(np.moveaxis(picture, 0, -1)).save(
                path.with_suffix(f'.{ending}')
            )
        folder = PairFolder(root)
        folder.verify()
        assert folder.spec.bands == ('red', 'green', 'blue')
        assert folder.spec.rgb == (0, 1, 2) and folder.spec.wavelengths[2] == 490
        # names that somebody gave are not questioned
        folder.write_description()
        path = root / 'dataset.json'
        path.write_text(path.read_text().replace('"red"', '"mine"'))
        PairFolder(root).verify()


class TestNamesOfClasses:
    """Names that masks tell themselves, where no table does."""

    @pytest.mark.parametrize('how', ['tags', 'aux.xml', 'envi'])
    def test_of_masks(self, tmp_path: Path, how: str) -> None:
        root = make_pairs(tmp_path, 2)
        names = {0: 'Unclassified', 1: 'corn', 2: 'soy', 3: 'never seen'}
        for path in sorted((root / 'masks').iterdir()):
            if how == 'tags':
                with rasterio.open(path, 'r+') as mask:
                    mask.update_tags(**{f'CLASS_{c}': n for c, n in names.items()})
            elif how == 'aux.xml':
                write_categories(path, names)
            else:
                with rasterio.open(path) as mask:
                    codes = mask.read()
                path.unlink()
                # not as TorchGeo's command line, which other tests call, has told GDAL
                with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='FALSE'):
                    write_tiff(path.with_suffix('.dat'), codes, driver='ENVI')
                header = path.with_suffix('.hdr')
                said = ', '.join(names.values())
                header.write_text(f'{header.read_text()}class names = {{{said}}}\n')
        spec = PairFolder(root).spec
        assert (spec.classes, spec.codes) == (('corn', 'soy'), (1, 2))
        assert spec.no_label == (0,)
        # a table goes before
        (root / 'classes.csv').write_text('id,name\n0,a\n1,b\n2,c\n')
        assert PairFolder(root).spec.classes == ('a', 'b', 'c')

    def test_a_value_without_name(self, tmp_path: Path) -> None:
        root = make_pairs(tmp_path, 2)
        for path in (root / 'masks').iterdir():
            write_categories(path, {0: 'a', 1: 'b'})
        assert PairFolder(root).spec.classes == ('class_0', 'class_1', 'class_2')

    def test_of_a_scene(self, tmp_path: Path) -> None:
        codes = np.kron(np.arange(16).reshape(4, 4) % 3, np.ones((4, 4)))[None]
        labels = write_tiff(tmp_path / 'labels.tif', codes.astype(np.uint8) * 40)
        write_categories(labels, {0: 'sea', 40: 'sand', 80: 'dune'})
        image = write_tiff(tmp_path / 'scene.tif', image_of(codes[0], 4), NAMES)
        export_scene(image, labels, tmp_path / 'out', 4)
        spec = PairFolder(tmp_path / 'out').spec
        assert spec.classes == ('sea', 'sand', 'dune') and spec.codes == (0, 40, 80)


class TestPartsOfTheDescription:
    def test_what_is_not_said_is_found_out(self, tmp_path: Path) -> None:
        root = make_pairs(tmp_path, 2)
        (root / 'dataset.json').write_text('{"no_label": [2], "scale": 0.001}')
        spec = PairFolder(root).spec
        assert (spec.bands, spec.scale, spec.no_label) == (NAMES, 0.001, (2,))
        assert spec.classes == ('class_0', 'class_1')


def test_colours_of_a_palette(tmp_path: Path) -> None:
    root = make_pairs(tmp_path, 2)
    table = {0: (9, 8, 7), 1: (6, 5, 4), 2: (3, 2, 1)}
    for path in (root / 'masks').iterdir():
        with rasterio.open(path, 'r+') as target:
            target.write_colormap(1, table)
    assert PairFolder(root).spec.colors == tuple(table.values())
    # one that does not tell them apart says nothing
    path = root / 'masks' / '0000.tif'
    with rasterio.open(path, 'r+') as target:
        target.write_colormap(1, table | {2: (6, 5, 4)})
    assert len({*PairFolder(root).spec.colors}) == 3
    assert (9, 8, 7) not in PairFolder(root).spec.colors


@pytest.mark.parametrize(
    ('moved', 'step', 'apart'), [(0, 10, 0), (5, 10, 0), (40, 10, 4), (0, 15, 4)]
)
@pytest.mark.parametrize('number', [0, 2])
def test_masks_of_other_places(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    number: int,
    moved: float,
    step: float,
    apart: int,
) -> None:
    root = make_pairs(tmp_path, 3)
    for path in root.glob('*/*.tif'):
        other = path == root / 'masks' / f'000{number}.tif'
        left, size = (500_000 + moved, step) if other else (500_000, 10)
        with rasterio.open(path, 'r+') as raster:
            raster.crs = 'EPSG:32632'
            raster.transform = from_origin(left, 5_300_000, size, size)
    PairFolder(root)
    assert (f'000{number}.tif and its mask' in caplog.text) == bool(apart)
    assert (f'lie up to {apart} pixels apart' in caplog.text) == bool(apart)


def test_pictures_with_a_palette(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_pairs(tmp_path, 2, [None], dtype='uint8')
    PairFolder(root)
    assert 'palette' not in caplog.text
    with rasterio.open(root / 'images' / '0000.tif', 'r+') as target:
        target.write_colormap(1, {1: (9, 8, 7), 2: (6, 5, 4)})
    PairFolder(root)
    assert '0000.tif has a palette' in caplog.text


def test_an_offset_alone(tmp_path: Path) -> None:
    root = make_pairs(tmp_path, 2)
    for path in (root / 'images').iterdir():
        with rasterio.open(path, 'r+') as raster:
            raster.offsets = [-1000.0] * 4
    folder = PairFolder(root)
    folder.verify()
    assert (folder.spec.scale, folder.spec.offset) == (1, -1000)


@pytest.mark.parametrize('tagged', [0, 1])
@pytest.mark.parametrize(
    'profile', [{'scales': 2e-5}, {'offsets': -0.2}, {'scales': 2e-5, 'offsets': -0.2}]
)
def test_units_are_compared_in_any_order(
    tmp_path: Path, tagged: int, profile: dict[str, Any]
) -> None:
    root = make_pairs(tmp_path, 2)
    with rasterio.open(root / 'images' / f'{tagged:04d}.tif', 'r+') as raster:
        for name, value in profile.items():
            setattr(raster, name, [value] * 4)
    with pytest.raises(ValueError, match=rf'{1:04d}\.tif has the (scale|offset)'):
        PairFolder(root).verify()


@pytest.mark.parametrize('order', [('uint16', 'float32'), ('float32', 'uint16')])
def test_types_are_compared_in_any_order(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    root = make_pairs(tmp_path, 2)
    for i, dtype in enumerate(order):
        path = root / 'images' / f'{i:04d}.tif'
        mask = np.zeros((8, 8), np.uint8)
        write_tiff(path, image_of(mask, 4).astype(dtype), NAMES)
    with pytest.raises(ValueError, match=rf'holds {order[1]}, but the folder has'):
        PairFolder(root).verify()
