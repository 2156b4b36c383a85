# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Make small plain folders of pairs, as users bring them.

Run as ``python -m tests.data.pairs <folder>``.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from torchgeo_specdm.files import sha256

NAMES = ('B02', 'B03', 'B04', 'B08')


def make_pairs(
    root: Path,
    count: int = 4,
    names: Sequence[str | None] = NAMES,
    size: int = 8,
    dtype: str = 'uint16',
    dates: int = 1,
    classes: int = 3,
    nodata: float | None = None,
    seed: int = 0,
) -> Path:
    """Write ``images/<id>.tif`` and ``masks/<id>.tif``, and nothing else.

    Args:
        root: The folder to write into.
        count: Number of samples; their ids are 0000, 0001 and so on.
        names: Description of each band, None for none.
        size: Height and width.
        dtype: Type of the images.
        dates: Number of images of each sample.
        classes: Number of classes; all of them are in each mask.
        nodata: Is declared in the images.
        seed: Seed of the masks.

    Returns:
        The folder.
    """
    random = np.random.default_rng(seed)
    for i in range(count):
        mask = random.permutation(np.arange(size * size) % classes)
        mask = mask.reshape(size, size).astype(np.uint8)
        write_tiff(root / 'masks' / f'{i:04d}.tif', mask[None])
        for date in range(dates):
            suffix = '' if dates == 1 else f'_{date + 1}'
            image = image_of(mask, len(names), date).astype(dtype)
            path = root / 'images' / f'{i:04d}{suffix}.tif'
            write_tiff(path, image, names, nodata=nodata)
    return root


def image_of(mask: NDArray[Any], bands: int, date: int = 0) -> NDArray[np.int64]:
    """The image (C, H, W) that tells mask and band: both can be checked in it."""
    band = np.arange(bands)[:, None, None]
    image: NDArray[np.int64] = 1 + mask[None] + 10 * (band % 10) + 100 * date
    return image


def write_tiff(
    path: Path, array: NDArray[Any], names: Sequence[str | None] = (), **profile: Any
) -> Path:
    """Write a GeoTIFF (C, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = array.shape
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(
            path,
            'w',
            count=count,
            height=height,
            width=width,
            dtype=array.dtype,
            **{'driver': 'GTiff', **profile},
        ) as target:
            target.write(array)
            for i, name in enumerate(names):
                if name is not None:
                    target.set_band_description(i + 1, name)
    return path


def digests(root: Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder but that of times."""
    return {
        str(path.relative_to(root)): sha256(path)
        for path in root.rglob('*')
        if path.is_file() and path.name != '.unchanged'
    }


if __name__ == '__main__':
    make_pairs(Path(sys.argv[1]))
