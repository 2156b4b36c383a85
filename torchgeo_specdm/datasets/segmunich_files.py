# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The files of SegMunich: where they are, what they hold, what can be wrong."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from torchgeo.datasets import DatasetNotFoundError

from ..bands import TEN_BANDS
from ..pairs.layout import SPLITS

#: Raw label code of each class position.
CODES = (0, 21, 22, 23, 31, 5, 32, 33, 41, 13, 14, 11, 12)
_IMAGE_FOLDERS = ('img', 'image', 'images')
_LABEL_FOLDERS = ('label', 'labels')
#: Folders that the archives put around the splits.
_INNER_FOLDERS = ('', 'TUM_128', 'SegMunich')
_SUFFIXES = ('.tif', '.tiff')


class SegMunichNotFoundError(DatasetNotFoundError):
    """Raised when the files of SegMunich are not where they should be."""

    def __init__(self, root: Path, missing: str) -> None:
        """Initialize a new SegMunichNotFoundError instance.

        Args:
            root: The folder that was looked into.
            missing: Name of the thing that was not found there.
        """
        FileNotFoundError.__init__(
            self,
            f'SegMunich needs <root>/train/img/<id>.tif and <root>/train/label/<id>.tif '
            f'(and the same in val or test), but root={str(root)!r} has no {missing}. '
            'It is not downloaded for you because its hosts disagree on the licence: '
            'get TUM_128.zip of Moonboy12138/SegMunich (gpl-3.0) or SegMunich.zip of '
            'earthflow/SegMunich (cc-by-nc-4.0) on the Hugging Face hub, decide which '
            'terms bind you, and extract it into root.',
        )


class SplitFiles:
    """The files of one split folder: paths of images and of labels by id."""

    def __init__(self, folder: Path) -> None:
        """List what is in a split folder.

        Args:
            folder: Holds the images and labels of one split.

        Raises:
            FileNotFoundError: If it has no folder of images or of labels.
        """
        self.folder = folder
        self.images = _list_tiffs(folder, _IMAGE_FOLDERS)
        self.labels = _list_tiffs(folder, _LABEL_FOLDERS)

    def ids(self) -> list[str]:
        """Sorted ids: those of the list file, or all files if there is none.

        Raises:
            ValueError: If the list is empty or names files that are not there.
        """
        known = self.images.keys() | self.labels.keys()
        path, listed = _read_list(self.folder)
        unknown = [(line, name) for name, line in listed.items() if name not in known]
        if unknown:
            line, name = unknown[0]
            raise ValueError(
                f'{path}, line {line}: {name!r} has no file in {self.folder} '
                f'({len(unknown)} such ids in all). Remove them from the list, or '
                'extract the archive again.'
            )
        return sorted(listed or known)

    def require_pairs(self, ids: Sequence[str]) -> None:
        """Raise if an id has an image but no label, or the reverse.

        Args:
            ids: The ids that will be used.

        Raises:
            ValueError: With counts and the first names.
        """
        images = [name for name in ids if name not in self.labels]
        labels = [name for name in ids if name not in self.images]
        if images or labels:
            raise ValueError(
                f'{self.folder} has {len(images)} images without label {images[:5]} '
                f'and {len(labels)} labels without image {labels[:5]}; each <id>.tif '
                'must be in both folders. Extract the archive again, or remove these.'
            )


def find_splits(root: Path) -> dict[str, SplitFiles]:
    """Find the split folders.

    Args:
        root: The folder that holds them, or the archive's own folder around them.

    Returns:
        The files of each split that is there, in the order train, val, test.

    Raises:
        FileNotFoundError: If there is no split; the message tells how to get them.
    """
    for inner in _INNER_FOLDERS:
        base = root / inner
        folders = {name: base / name for name in SPLITS if (base / name).is_dir()}
        if folders:
            return {name: SplitFiles(folder) for name, folder in folders.items()}
    raise SegMunichNotFoundError(root, 'train/, val/ or test/')


def _list_tiffs(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The TIFF files of the first of these subfolders that exists, by stem."""
    for name in names:
        if (folder / name).is_dir():
            # archives packed on macOS hold a "._name.tif" beside each file
            return {
                path.stem: path
                for path in (folder / name).iterdir()
                if path.suffix.lower() in _SUFFIXES and not path.name.startswith('.')
            }
    raise SegMunichNotFoundError(folder.parent, f'{folder.name}/{names[0]}/')


def _read_list(folder: Path) -> tuple[Path, dict[str, int]]:
    """The list file of a split, and its ids with the first line each is in."""
    path = folder.parent / 'dataset' / f'{folder.name}.txt'
    if path.exists():
        lines = path.read_text(encoding='utf-8-sig').splitlines()
        rows = [(number, line) for number, line in enumerate(lines, 1)]
        if not any(line.strip() for line in lines):
            raise ValueError(f'{path} lists no id. Restore it or remove it.')
    else:
        path = path.with_name('metadata.csv')
        rows = _read_metadata(path, folder.name) if path.exists() else []
    ids: dict[str, int] = {}
    for number, line in rows:
        name = line.strip().removesuffix('.tif')
        if name:
            ids.setdefault(name, number)
    return path, ids


def _read_metadata(path: Path, split: str) -> list[tuple[int, str]]:
    """Line numbers and ids of a split in ``metadata.csv``."""
    with path.open(encoding='utf-8-sig', newline='') as file:
        reader = csv.DictReader(file, restval='')
        if not {'id', 'source'} <= set(reader.fieldnames or ()):
            raise ValueError(
                f'{path} has the columns {reader.fieldnames}; id and source are '
                'needed. Restore it or remove it.'
            )
        return [
            (reader.line_num, r['id']) for r in reader if r['source'].strip() == split
        ]


def _read_tiff(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = tifffile.imread(path)
    except Exception as error:  # a broken file makes tifffile raise any kind
        raise ValueError(
            f'{path} cannot be read as TIFF ({type(error).__name__}: {error}). Extract '
            'it again, or remove image and label.'
        ) from error
    return array


def read_cube(path: Path) -> NDArray[np.float32]:
    """Read an image and check it.

    Args:
        path: A TIFF of shape (H, W, 10) or (10, H, W).

    Returns:
        Digital numbers (10, H, W).

    Raises:
        ValueError: If the file is broken, has other bands or non-finite pixels.
    """
    array = _read_tiff(path)
    bands = len(TEN_BANDS)
    if array.ndim == 3 and array.shape[-1] == bands:
        array = np.moveaxis(array, -1, 0)
    elif array.ndim != 3 or len(array) != bands:
        raise ValueError(
            f'{path} has the shape {array.shape}; (H, W, {bands}) is needed, or '
            f'({bands}, H, W). Use the files with all ten bands.'
        )
    cube = array.astype(np.float32)
    broken = int((~np.isfinite(cube)).sum())
    if broken:
        raise ValueError(
            f'{path} has {broken} NaN or infinite values; every pixel must be a number. '
            'Extract it again, or remove image and label.'
        )
    return cube


def read_mask(path: Path) -> NDArray[np.int64]:
    """Read a label and check it.

    Args:
        path: A TIFF of raw codes, of any number type.

    Returns:
        Class positions (H, W).

    Raises:
        ValueError: If the file is broken, is no single plane, or has an unknown code.
    """
    array = _read_tiff(path).squeeze()
    if array.ndim != 2:
        raise ValueError(
            f'{path} has the shape {array.shape}; a label must be (H, W). Use the '
            'files with raw codes, not coloured ones.'
        )
    mask = np.full(array.shape, -1, np.int64)
    for position, code in enumerate(CODES):
        mask[array == code] = position
    if (mask < 0).any():
        raise ValueError(
            f'{path} has the label codes {np.unique(array[mask < 0])[:5].tolist()}; '
            f'allowed are {sorted(CODES)}. Use the labels as released, '
            'without any remapping.'
        )
    return mask
