# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.data.pairs import NAMES, make_pairs, write_tiff
from torchgeo_specdm.datasets.pairs import PairFolder


@pytest.mark.parametrize(
    ('dtype', 'value', 'said'),
    [
        ('uint16', 3000, ''),
        ('uint16', 30_000, 'would go from 3 to 3.'),
        # water in Landsat Collection 2
        ('uint16', 8_000, 'would go from 0.8 to 0.8'),
        # bytes in another type
        ('uint16', 200, 'would go from 0.02 to 0.02'),
        ('int8', -3, 'would go from -0.0003 to -0.0003'),
    ],
)
def test_numbers_that_are_no_reflectance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: str, value: int, said: str
) -> None:
    root = make_pairs(tmp_path, 2)
    for path in (root / 'images').iterdir():
        write_tiff(path, np.full((4, 8, 8), value, dtype), NAMES)
    assert PairFolder(root).spec.scale == 1e-4
    assert said in caplog.text and ('2.75e-05' in caplog.text) == bool(said)


@pytest.mark.parametrize(('lift', 'said'), [(0, 'reflectance 0..1'), (-9, 'decibels')])
def test_fractions_below_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lift: float, said: str
) -> None:
    root = make_pairs(tmp_path, 2, ('VV', 'VH'))
    for path in (root / 'images').iterdir():
        noise = np.random.default_rng(0).normal(lift, 0.1, (2, 8, 8))
        write_tiff(path, noise.astype('float32'), ('VV', 'VH'))
    assert PairFolder(root).spec.scale == 1
    assert f'images are taken for {said}' in caplog.text.replace(
        'numbers of another kind, such as ', ''
    )


@pytest.mark.parametrize(
    ('factors', 'said'),
    [
        ((1, 1, 1, 1), ''),
        ((1, 1, 1, 2000), 'B08 go up to'),
        ((0.1, -30, 1, 1), ''),
        ((1, -300, 1, 1), 'B03 go up to'),
    ],
)
def test_bands_in_other_units(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    factors: tuple[float, ...],
    said: str,
) -> None:
    root = make_pairs(tmp_path, 2)
    for path in (root / 'images').iterdir():
        with rasterio.open(path) as source:
            image = source.read() / 1e4 * np.array(factors)[:, None, None]
        image[0, 0, 0] = np.nan
        write_tiff(path, image.astype('float32'), NAMES)
    PairFolder(root)
    assert said in caplog.text and ('half of the bands' in caplog.text) == bool(said)


@pytest.mark.parametrize('factor', [1, 5, 10_000])
def test_images_in_other_units(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, factor: float
) -> None:
    root = make_pairs(tmp_path, 3)
    for i, path in enumerate(sorted((root / 'images').iterdir())):
        with rasterio.open(path) as source:
            image = source.read().astype('float32') / 1e4 * (factor if i == 1 else 1)
        write_tiff(path, image, NAMES)
    PairFolder(root)
    assert ('some images go up to' in caplog.text) == (factor > 5)
