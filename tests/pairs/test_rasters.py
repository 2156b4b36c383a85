# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from tests.data.pairs import write_tiff
from torchgeo_specdm.pairs.rasters import read_raster

WAVES = (490.0, 560.0, 665.5)


@pytest.mark.parametrize(
    'tags',
    [
        lambda wave: {'WAVELENGTH_NM': f'{wave}'},
        lambda wave: {'wavelength': f'{wave}', 'wavelength_units': 'Nanometers'},
        lambda wave: {'wavelength': f'{wave / 1e3}', 'wavelength_units': 'Micrometers'},
        lambda wave: {'wavelength': f'{wave / 1e3}'},
        lambda wave: {'WAVELENGTH': f'{wave} nm'},
        lambda wave: {'Wavelength': f'{wave / 1e3} um', 'bbl': '1'},
        lambda wave: {'center_wavelength': f'{wave}'},
        lambda wave: {'ns': 'IMAGERY', 'CENTRAL_WAVELENGTH_UM': f'{wave / 1e3}'},
    ],
)
def test_wavelengths_by_tags_of_bands(tmp_path: Path, tags: Any) -> None:
    path = write_tiff(tmp_path / 'a.tif', np.ones((3, 4, 4), np.uint16))
    with rasterio.open(path, 'r+') as raster:
        for band, wave in enumerate(WAVES, 1):
            raster.update_tags(band, **tags(wave))
    assert read_raster(path).wavelengths == pytest.approx(WAVES)


@pytest.mark.parametrize(
    'tags',
    [
        {'wavelength': '{490, 560, 665.5}', 'wavelength_units': 'Nanometers'},
        {'wavelength': '0.49 0.56 0.6655'},
        {'WAVELENGTHS': '[490.0; 560.0; 665.5]'},
    ],
)
def test_wavelengths_by_a_tag_of_the_file(tmp_path: Path, tags: dict[str, str]) -> None:
    path = write_tiff(tmp_path / 'a.tif', np.ones((3, 4, 4), np.uint16))
    with rasterio.open(path, 'r+') as raster:
        raster.update_tags(**tags)
    assert read_raster(path).wavelengths == pytest.approx(WAVES)


@pytest.mark.parametrize('space', [None, 'ENVI'])
def test_other_tags_of_an_envi_header(tmp_path: Path, space: str | None) -> None:
    path = write_tiff(tmp_path / 'a.tif', np.ones((3, 4, 4), np.uint16))
    tags = {'bbl': '{1, 0, 1}', 'reflectance_scale_factor': '2000'}
    tags |= {'wavelength': '{1, 2, 3}', 'wavelength_units': 'Index'}
    with rasterio.open(path, 'r+') as raster:
        raster.update_tags(ns=space, **tags)
        # as GDAL repeats it
        raster.update_tags(2, wavelength='2')
    found = read_raster(path)
    assert found.valid.all((1, 2)).tolist() == [True, False, True]
    assert not found.valid[1].any()
    assert found.scales == (1 / 2000,) * 3
    assert found.wavelengths == (None,) * 3


@pytest.mark.parametrize(
    ('unit', 'factor'),
    [('Micrometers', 1e-3), ('Nanometers', 1), ('um', 1e-3), ('nm', 1), (None, 1)],
)
@pytest.mark.parametrize('named', [False, True])
def test_wavelengths_of_an_envi_header(
    tmp_path: Path, unit: str | None, factor: float, named: bool
) -> None:
    tif = write_tiff(tmp_path / 'a.tif', np.ones((3, 4, 4), np.int16))
    path = tmp_path / 'a.dat'
    # not as TorchGeo's command line, which other tests call, has told GDAL
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='FALSE'):
        rasterio.shutil.copy(tif, path, driver='ENVI')
    header = path.with_suffix('.hdr')
    lines = [x for x in header.read_text().splitlines() if 'Band' not in x]
    lines = [x for x in lines if not x.startswith('band names')]
    lines.append('wavelength = {' + ', '.join(f'{w * factor:g}' for w in WAVES) + '}')
    lines += [f'wavelength units = {unit}'] if unit else []
    lines += ['band names = {blue one, x, y}'] if named else []
    header.write_text('\n'.join(lines) + '\n')
    found = read_raster(path)
    assert found.wavelengths == pytest.approx(WAVES, rel=1e-4)
