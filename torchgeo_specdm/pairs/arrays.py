# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Images and masks in files of arrays: NumPy's, MATLAB's and HDF5's."""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.io import loadmat

#: Endings of files that hold arrays instead of a georaster.
ARRAYS = ('.npy', '.npz', '.mat', '.h5', '.hdf5')


def read_array(path: Path, size: Sequence[int] | None = None) -> NDArray[Any]:
    """Read the one array of a file as an image, never unpickling anything.

    Args:
        path: A file with one of the endings :data:`ARRAYS`.
        size: Height and width that the image must have, which tell the axis of the
            bands; None takes the shortest axis.

    Returns:
        The array (C, H, W), in the type of the file.

    Raises:
        ValueError: If the file cannot be read, holds several arrays of two or three
            axes, or none.
    """
    found = {
        name: array
        for name, array in _read_all(path).items()
        if array.ndim in (2, 3) and array.dtype.kind in 'iufcb' and array.size > 1
    }
    if len(found) != 1:
        shapes = {name: array.shape for name, array in found.items()}
        raise ValueError(
            f'{path} holds {len(found)} arrays of two or three axes: {shapes}. Leave '
            'just the one that is meant, or write it as .tif.'
        )
    (array,) = found.values()
    if array.ndim == 2:
        return array[None]
    shape = array.shape
    if size is not None and shape[1:] == tuple(size):
        return array
    if size is not None and shape[:2] == tuple(size):
        return np.moveaxis(array, -1, 0)
    return np.moveaxis(array, int(np.argmin(shape)), 0)


def _read_all(path: Path) -> Mapping[str, NDArray[Any]]:
    """All arrays of a file by name."""
    try:
        match path.suffix.lower():
            case '.npy':
                return {path.stem: np.load(path, allow_pickle=False)}
            case '.npz':
                with np.load(path, allow_pickle=False) as stored:
                    return dict(stored)
            case '.mat':
                with contextlib.suppress(NotImplementedError):
                    loaded = loadmat(path)
                    return {k: v for k, v in loaded.items() if not k.startswith('_')}
        # version 7.3 of MATLAB's files is HDF5
        return _read_hdf5(path)
    # each format has errors of its own
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as {path.suffix} ({error}). Write it again, or as '
            '.tif.'
        ) from error


def _read_hdf5(path: Path) -> dict[str, NDArray[Any]]:
    """All data sets of an HDF5 file, each as GDAL reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with rasterio.open(path) as source:
            names = source.subdatasets or [str(path)]
        arrays = {}
        for name in names:
            with rasterio.open(name) as source:
                values = source.read()
            arrays[name.rpartition('/')[-1]] = values[0] if len(values) == 1 else values
    return arrays
