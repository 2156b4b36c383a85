# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Make a small fake SegMunich in the format of the real one.

Run as ``python -m tests.data.segmunich <folder>``.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

#: Raw label codes, in the order of the classes.
CODES = np.array([0, 21, 22, 23, 31, 5, 32, 33, 41, 13, 14, 11, 12], np.uint8)

_PLANTS = [400, 700, 500, 3000, 1000, 2400, 2800, 3100, 1700, 900]
_WATER = [500, 400, 250, 120, 200, 150, 140, 120, 60, 40]
_STONE = [1200, 1300, 1400, 1500, 1500, 1550, 1600, 1650, 1900, 1800]
_KINDS = [_STONE, *[_PLANTS] * 4, _WATER, _PLANTS, _STONE, _WATER, *[_STONE] * 4]

#: Digital numbers of each class in ten bands; no two classes are equal.
SPECTRA = np.array(_KINDS, np.float32) + 60 * np.arange(13, dtype=np.float32)[:, None]

_TRANSFORMS = {'': lambda x: x, '_hflip': np.fliplr, '_rot90': np.rot90}


def make_segmunich(
    root: Path,
    splits: Mapping[str, int] | None = None,
    size: int = 128,
    copies: Sequence[str] = ('', '_hflip'),
    image_folder: str = 'img',
    lists: bool = True,
    seed: int = 0,
) -> None:
    """Write image and label files, and lists of them.

    Args:
        root: The folder to write into.
        splits: Number of source tiles by split; 4 to train and 2 to test if None. The
            first tile of each split is nearly all background.
        size: Height and width of a patch; the real ones have 128.
        copies: Stored transforms of each tile, as suffixes of the file name.
        image_folder: Name of the folder with images.
        lists: Whether to write ``dataset/<split>.txt``.
        seed: Seed of the content.
    """
    random = np.random.default_rng(seed)
    tile = 0
    for split, count in (splits or {'train': 4, 'test': 2}).items():
        images, labels = root / split / image_folder, root / split / 'label'
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        names = []
        for position in range(count):
            image, label = _make_tile(random, size, blank=position == 0)
            for suffix in copies:
                name = f'{tile:04d}{suffix}'
                move = _TRANSFORMS[suffix]
                # tifffile writes this shape as one page a row, like the real files
                tifffile.imwrite(images / f'{name}.tif', move(image))
                tifffile.imwrite(labels / f'{name}.tif', move(label))
                names.append(name)
            tile += 1
        if lists:
            folder = root / 'dataset'
            folder.mkdir(exist_ok=True)
            (folder / f'{split}.txt').write_text('\n'.join(names) + '\n')


def _make_tile(
    random: np.random.Generator, size: int, blank: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw blocks of classes, each pixel with the spectrum of its class."""
    blocks = random.integers(1, 13, (4, 4))
    if blank:
        blocks[:, 1:] = 0
        blocks[0, 0] = 0
    classes = np.kron(blocks, np.ones((size // 4, size // 4), int))
    noise = random.integers(0, 20, (size, size, 10))
    return (SPECTRA[classes] + noise).astype(np.float32), CODES[classes]


if __name__ == '__main__':
    make_segmunich(Path(sys.argv[1]))
