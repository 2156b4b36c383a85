# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Make a small fake OSCD in the format of the real one.

Every pixel tells where it is: even bands hold its row and odd ones its column, so that
whatever moves can be told from the values.

Run as ``python -m tests.data.oscd <folder>``.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine

from tests.data.pairs import write_tiff

ALL_BANDS = (
    *('B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B09'),
    *('B10', 'B11', 'B12'),
)
IMAGES = 'Onera Satellite Change Detection dataset - Images'
LABELS = 'Onera Satellite Change Detection dataset - {} Labels'
TRAIN = {'bercy': (40, 48), 'bordeaux': (44, 40), 'paris': (40, 40)}
TEST = {'norcia': (24, 38), 'rio': (40, 53)}

#: Metres to a pixel of each band as delivered.
METRES = dict.fromkeys(ALL_BANDS, 20)
METRES |= dict.fromkeys(('B02', 'B03', 'B04', 'B08'), 10)
METRES |= dict.fromkeys(('B01', 'B09', 'B10'), 60)


def fake_mask(height: int, width: int) -> NDArray[np.bool_]:
    """Where a fake city changed (H, W): blocks of 4x4 pixels, every fifth one."""
    rows, columns = np.indices((height, width)) // 4
    return (rows + 3 * columns) % 5 == 0


def fake_plane(band: str, date: int, height: int, width: int) -> NDArray[np.uint16]:
    """Digital numbers (H, W) of a band: row or column, and 2000 more after change."""
    number = ALL_BANDS.index(band)
    place = np.indices((height, width))[number % 2]
    change = 2000 * fake_mask(height, width) * (date == 2)
    return (place + 200 * number + change).astype(np.uint16)


def fake_image(bands: Sequence[str], height: int, width: int) -> NDArray[np.uint16]:
    """Digital numbers (2, C, H, W) of a fake city."""
    planes = [
        fake_plane(band, date, height, width) for date in (1, 2) for band in bands
    ]
    return np.stack(planes).reshape(2, len(bands), height, width)


def make_oscd(
    root: Path,
    train: Mapping[str, tuple[int, int]] = TRAIN,
    test: Mapping[str, tuple[int, int]] = TEST,
    bands: Sequence[str] = ALL_BANDS,
) -> None:
    """Write images and masks.

    Args:
        root: The folder to write into.
        train: Height and width of each city to train on.
        test: Height and width of each city to test on.
        bands: The bands to write.
    """
    for split, cities in {'Train': train, 'Test': test}.items():
        for city, size in cities.items():
            folder = root / IMAGES / city
            for date in (1, 2):
                for band in bands:
                    path = folder / f'imgs_{date}_rect' / f'{band}.tif'
                    write_plane(path, fake_plane(band, date, *size))
            (folder / 'dates.txt').write_text('date_1: 20160101\ndate_2: 20180101\n')
            write_mask(mask_path(root, city, split), fake_mask(*size))


def make_native_city(
    root: Path,
    city: str,
    side: int = 60,
    shift: int = 0,
    crs: str | None = 'EPSG:32631',
) -> None:
    """Write a city of the training set as delivered: bands of 10, 20 and 60 m.

    The digital number of a pixel is :func:`ground` of its centre.

    Args:
        root: The folder to write into.
        city: Its name.
        side: Height and width at 10 m, a multiple of 6.
        shift: Pixels of 10 m by which the second date begins further to the south-east.
        crs: Coordinate reference system, or None for none.
    """
    for date, begin in ((1, 0), (2, shift)):
        for band, metres in METRES.items():
            factor = metres // 10
            places = (np.arange(side // factor) + 0.5) * factor + begin
            plane = ground(places[:, None], places[None]).round().astype(np.uint16)
            left, top = 400000 + 10 * begin, 5000000 - 10 * begin
            write_plane(
                root / IMAGES / city / f'imgs_{date}' / f'S2A_X_T31_{band}.tif',
                plane,
                crs,
                Affine(metres, 0, left, 0, -metres, top),
            )
    write_mask(mask_path(root, city), fake_mask(side, side))


def ground(
    row: NDArray[np.float64], column: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The gradient that native bands show; places in pixels of 10 m."""
    return 1000 + 30 * row + 20 * column


def mask_path(root: Path, city: str, split: str = 'Train') -> Path:
    """Where the mask of a city is."""
    return root / LABELS.format(split) / city / 'cm' / 'cm.png'


def write_plane(
    path: Path,
    plane: NDArray[np.uint16] | NDArray[np.float32],
    crs: str | None = None,
    transform: Affine | None = None,
) -> None:
    """Write a georaster of one band."""
    write_tiff(path, plane[None], crs=crs, transform=transform)


def write_mask(path: Path, mask: NDArray[np.bool_], mode: str = 'RGBA') -> None:
    """Write a mask; alpha is 255 where there is no change, as if to mislead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = 255 * mask.astype(np.uint8)
    planes = [255 - color if letter == 'A' else color for letter in mode]
    array = planes[0] if len(mode) == 1 else np.stack(planes, axis=-1)
    Image.fromarray(array).save(path)


if __name__ == '__main__':
    make_oscd(Path(sys.argv[1]))
