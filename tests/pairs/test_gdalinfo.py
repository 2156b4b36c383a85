# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Files of pairs, as a GIS sees them."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from tests.data.pairs import write_tiff
from torchgeo_specdm.pairs.cutting import export_scene
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.pairs.writer import PairWriter

pytestmark = pytest.mark.skipif(
    shutil.which('gdalinfo') is None, reason='needs gdalinfo (gdal-bin of Debian)'
)
PLACE = {'crs': 'EPSG:32632', 'transform': from_origin(600_000, 5_300_000, 10, 10)}
SPEC = SampleSpec(
    bands=('NIR', 'Red', 'Green', 'Blue'),
    classes=('water', 'wood & scrub'),
    scale=(2e-5, 3e-5, 4e-5, 5e-5),
    offset=-0.2,
    nodata=0,
    codes=(3, 5),
    ignore_index=255,
    no_label=(9,),
    colors=((1, 2, 3), (4, 5, 6)),
)


def gdalinfo(path: Path) -> dict[str, Any]:
    done = subprocess.run(
        ['gdalinfo', '-json', str(path)], capture_output=True, check=True, text=True
    )
    assert not done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def categories(path: Path) -> dict[int, str]:
    """Names of values, which the JSON lacks."""
    done = subprocess.run(
        ['gdalinfo', path], capture_output=True, check=True, text=True
    )
    _, _, text = done.stdout.partition('Categories:\n')
    lines = re.findall(
        r'^ +(\d+): (\S.*)$', text.partition('Color Table')[0], re.MULTILINE
    )
    return {int(value): name for value, name in lines}


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    mask = random.integers(0, 2, (16, 20))
    mask[0] = 255
    return random.integers(1, 5000, (4, 16, 20)), mask


@pytest.mark.parametrize(('placed', 'dates'), [(True, 1), (False, 1), (True, 2)])
def test_pairs(tmp_path: Path, sample: Any, placed: bool, dates: int) -> None:
    # what is drawn for masks, varied, filtered and exported, pairs of change, and
    # scenes; class maps are written by what writes masks
    writer = PairWriter(tmp_path, replace(SPEC, dates=dates), {}, {})
    sure = np.full(sample[1].shape, 0.75, np.float32)
    place = PLACE if placed else {}
    images = np.stack([sample[0]] * dates)
    writer.write('a', images, sample[1], {'index': 0}, place, confidence=sure)
    files = sorted((tmp_path / 'images').glob('*.tif'))
    assert len(files) == dates
    image = gdalinfo(files[-1])
    bands = image['bands']
    assert [band['description'] for band in bands] == [*SPEC.bands]
    assert [band['colorInterpretation'] for band in bands] == [
        'Undefined',
        'Red',
        'Green',
        'Blue',
    ]
    assert [band['scale'] for band in bands] == pytest.approx(SPEC.scale)
    assert {band['offset'] for band in bands} == {-0.2}
    assert {band['noDataValue'] for band in bands} == {0}
    waves = [float(band['metadata']['']['WAVELENGTH_NM']) for band in bands]
    assert waves == [842, 665, 560, 490]
    assert image['metadata']['']['SYNTHETIC'] == 'YES'
    mask = gdalinfo(tmp_path / 'masks' / 'a.tif')
    (band,) = mask['bands']
    assert band['colorInterpretation'] == 'Palette'
    assert band['colorTable']['entries'][5] == [4, 5, 6, 255]
    assert band['noDataValue'] == 9
    assert mask['metadata']['']['CLASS_5'] == 'wood & scrub'
    confidence = gdalinfo(tmp_path / 'confidence' / 'a.tif')
    assert confidence['bands'][0]['description'] == 'confidence'
    assert confidence['bands'][0]['type'] == 'Float32'
    for found in (image, mask, confidence):
        if placed:
            assert 'UTM zone 32N' in found['coordinateSystem']['wkt']
            assert found['geoTransform'] == [600_000, 10, 0, 5_300_000, 0, -10]
        else:
            assert 'geoTransform' not in found
    # QGIS makes its legend of these
    named = categories(tmp_path / 'masks' / 'a.tif')
    assert named == ({3: 'water', 5: 'wood & scrub'} if placed else {})


@pytest.mark.parametrize('polygons', [True, False])
def test_a_scene_that_is_cut(tmp_path: Path, sample: Any, polygons: bool) -> None:
    values = sample[0].astype(np.uint16)
    scene = write_tiff(tmp_path / 'scene.tif', values, SPEC.bands, nodata=0, **PLACE)
    codes = sample[1][None].astype(np.uint8)
    labels = write_tiff(tmp_path / 'codes.tif', codes, nodata=255, **PLACE)
    with rasterio.open(labels, 'r+') as target:
        target.write_colormap(1, {1: (9, 8, 7)})
    if polygons:
        labels = tmp_path / 'labels.gpkg'
        square = shapely.box(600_000, 5_299_000, 600_100, 5_300_000)
        frame = geopandas.GeoDataFrame(
            {'cover': ['lake']}, geometry=[square], crs='EPSG:32632'
        )
        frame.to_file(labels)
    out = tmp_path / 'out'
    export_scene(scene, labels, out, 8, None, 'cover', 'land' if polygons else None)
    name = '00008_00008.tif'
    for kind, empty in (('images', 0), ('masks', None if polygons else 255)):
        found = gdalinfo(out / kind / name)
        assert found['geoTransform'] == [600_080, 10, 0, 5_299_920, 0, -10]
        assert found['bands'][0].get('noDataValue') == empty
    if polygons:
        assert categories(out / 'masks' / name) == {0: 'land', 1: 'lake'}
    else:
        table = found['bands'][0]['colorTable']['entries']
        assert table[1] == [9, 8, 7, 255]
