# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Make small rasters with labels in the formats of data sets of TorchGeo.

Run as ``python -m tests.data.geo <folder>``.
"""

import sys
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from tests.data.pairs import write_tiff

#: Corners in pixels of the scenes, which lie apart.
L7_CORNERS = [(7 + 300 * i, 11 + 40 * i) for i in range(5)]
L7_SIZE = (50, 70)
#: Codes of fill, cloud shadow, clear, thin cloud and cloud.
L7_CODES = np.array([0, 64, 128, 192, 255], np.uint8)
STATES = ('dc', 'de', 'md', 'ny', 'pa', 'va', 'wv')
#: Side in pixels of all that NAIP shows here.
NAIP_SIZE = 32
NAIP_CODES = np.array([11, 22, 42, 95], np.uint8)


def make_l7irish(root: Path) -> None:
    """Write five scenes of nine bands, whose pixels differ from all neighbours."""
    random = np.random.default_rng(0)
    for number, (left, top) in enumerate(L7_CORNERS):
        place = from_origin(30 * left, -30 * top, 30, 30)
        image = random.integers(1, 255, (9, *L7_SIZE)).astype(np.uint8)
        mask = L7_CODES[random.integers(0, 5, (1, *L7_SIZE))]
        row = f'{number + 1:03d}'
        for name, values in (
            (f'L71001{row}_{row}2001010{number + 1}.TIF', image),
            (f'L7_p1_r{number + 1}_newmask2015.TIF', mask),
        ):
            write_tiff(root / name, values, crs='EPSG:3857', transform=place)


def make_naip(root: Path) -> None:
    """Write two NAIP images that overlap, and the same labels for each state."""
    random = np.random.default_rng(0)
    size = NAIP_SIZE
    image = random.integers(1, 255, (4, size, size)).astype(np.uint8)
    mask = NAIP_CODES[random.integers(0, 4, (1, size, size))]
    half = size // 2
    for name, first, last in (('a', 0, half + 4), ('b', half - 4, size)):
        place = from_origin(500_000 + first, 4_300_000, 1, 1)
        path = root / 'naip' / f'm_380760{name == "b":d}_ne_18_1_20170501.tif'
        write_tiff(path, image[:, :, first:last], crs='EPSG:26918', transform=place)
    place = from_origin(500_000, 4_300_000, 1, 1)
    for state in STATES:
        path = root / 'chesapeake' / f'{state}_lulc_2017_2022-Edition.tif'
        write_tiff(path, mask, crs='EPSG:26918', transform=place)


if __name__ == '__main__':
    make_l7irish(Path(sys.argv[1]) / 'l7irish')
    make_naip(Path(sys.argv[1]))
