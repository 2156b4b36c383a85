# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from tests.data.pairs import write_tiff
from torchgeo_specdm.pairs.codes import MISSING, class_positions, read_codes
from torchgeo_specdm.pairs.spec import SampleSpec

CODES = np.arange(16).reshape(4, 4) % 3
#: The first row has no label.
WANTED = np.where(np.arange(4)[:, None] == 0, MISSING, CODES)
LOW = float(np.finfo('f4').min)


@pytest.mark.parametrize(
    ('dtype', 'value', 'nodata', 'wanted'),
    [
        ('float32', np.nan, np.nan, MISSING),
        ('float64', np.nan, None, MISSING),
        ('float32', np.nan, -1, MISSING),
        ('float32', LOW, LOW, MISSING),
        # which can be codes
        ('float32', -9999, -9999, -9999),
        ('int8', -1, -1, -1),
        ('uint8', 255, 255, 255),
        ('uint16', 65535, 65535, 65535),
    ],
)
def test_pixels_without_a_value(
    tmp_path: Path, dtype: str, value: float, nodata: float | None, wanted: int
) -> None:
    codes = CODES.astype(dtype)
    codes[0] = value
    path = write_tiff(tmp_path / 'a.tif', codes[None], nodata=nodata)
    assert np.array_equal(read_codes(path), np.where(WANTED == MISSING, wanted, CODES))


def test_nodata_that_is_no_code(tmp_path: Path) -> None:
    codes = np.where(WANTED == MISSING, 9, CODES).astype(np.uint8)
    path = write_tiff(tmp_path / 'a.tif', codes[None], nodata=9)
    assert np.array_equal(read_codes(path, None, (0, 1, 2, 9)), codes)
    assert np.array_equal(read_codes(path, None, (0, 1, 2)), WANTED)


@pytest.mark.parametrize('internal', [True, False])
def test_masks_of_masks(tmp_path: Path, internal: bool) -> None:
    path = write_tiff(tmp_path / 'a.tif', CODES[None].astype(np.uint8))
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(path, 'r+') as target,
    ):
        target.write_mask(WANTED != MISSING)
    assert np.array_equal(read_codes(path), WANTED)


@pytest.mark.parametrize('bands', [2, 3, 4])
def test_grey_pictures(tmp_path: Path, bands: int) -> None:
    """As drawing programs save them: grey or three equal bands, with alpha or not."""
    picture = np.stack([CODES.astype(np.uint8)] * bands)
    wanted = CODES
    if bands != 3:
        picture[-1] = np.where(WANTED == MISSING, 0, 255)
        wanted = WANTED
    path = write_tiff(tmp_path / 'a.png', picture)
    with rasterio.open(path, 'r+') as target:
        target.colorinterp = [ColorInterp.gray] * bands
        if bands != 3:
            target.colorinterp = [ColorInterp.gray] * (bands - 1) + [ColorInterp.alpha]
    assert np.array_equal(read_codes(path), wanted)


def test_positions() -> None:
    spec = SampleSpec(('a',), ('x', 'y'), codes=(0, 2), no_label=(1,), ignore_index=255)
    found = class_positions(WANTED, spec, Path('a.tif'), 'Mend it.')
    assert found[0].tolist() == [255] * 4
    assert found[1:].tolist() == np.array([0, 255, 1])[CODES[1:]].tolist()
    no_gap: Any = replace(spec, ignore_index=None, no_label=(), codes=(0, 2))
    with pytest.raises(ValueError, match=r'a\.tif has the values \[1\]'):
        class_positions(CODES, no_gap, Path('a.tif'), 'Mend it.')
    with pytest.raises(ValueError, match=r'pixels without a value, .* \[0, 2\]\. Mend'):
        class_positions(WANTED, no_gap, Path('a.tif'), 'Mend it.')
