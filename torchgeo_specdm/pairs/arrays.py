# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Images and masks in files of arrays: NumPy's, MATLAB's and HDF5's."""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError
from scipy.io import loadmat

from ..bands import parse_wavelength

#: Endings of files that hold arrays instead of a georaster.
ARRAYS = ('.npy', '.npz', '.mat', '.h5', '.hdf5')
#: Names of arrays with the wavelengths of bands, in lower case.
_WAVELENGTHS = (
    'wavelength',
    'wavelengths',
    'wavelength_nm',
    'wl',
    'lambda',
    'bands_nm',
)


class Array(NamedTuple):
    """An image from a file of arrays."""

    values: NDArray[Any]  #: (C, H, W), in the type of the file
    wavelengths: tuple[float | None, ...]  #: nanometres, None where not stated


def read_array(
    path: Path, size: Sequence[int] | None = None, variable: str | None = None
) -> Array:
    """Read an array of a file as an image, never unpickling anything.

    Of several arrays, the one that can be meant is taken: one of two axes with whole
    numbers for a mask, one of three axes for an image, of the size that it must have.
    A list of as many numbers as bands that is called ``wavelengths`` or so are those.

    Args:
        path: A file with one of the endings :data:`ARRAYS`.
        size: Height and width that the image must have, which tell the axis of the
            bands; empty for a mask. None takes the shortest axis.
        variable: Name of the array that is meant.

    Returns:
        The array.

    Raises:
        ValueError: If the file cannot be read, lacks the variable, or several of its
            arrays may be meant, or none.
    """
    # HDF5 may write a name from its root
    variable = variable and variable.removeprefix('/')
    stored = _read_all(path, variable)
    name = variable or _meant(stored, size)
    if name is None or name not in stored or stored[name].ndim not in (2, 3):
        shapes = {key: array.shape for key, array in stored.items()}
        wanted = '' if variable is None else f', but none called {variable!r}'
        raise ValueError(
            f'{path} holds {len(shapes)} arrays: {shapes}{wanted}. Name the one with '
            'the pixels in dataset.json: {"variables": {"images": NAME, "masks": '
            'NAME}}. For export, save it alone.'
        )
    array = stored[name]
    # of the byte order of this machine, and of a type that rasters have
    kind = np.dtype(np.float32) if array.dtype == np.float16 else array.dtype
    values = _bands_first(array.astype(kind.newbyteorder('=')), size or None)
    wavelengths: list[float | None] = [None] * len(values)
    for key, array in stored.items():
        if key.rpartition('/')[-1].lower() in _WAVELENGTHS and array.size == len(
            values
        ):
            wavelengths = [parse_wavelength(str(w)) for w in array.ravel()]
    return Array(values, tuple(wavelengths))


def _meant(
    stored: Mapping[str, NDArray[Any]], size: Sequence[int] | None
) -> str | None:
    """Name of the only array that can be an image, or a mask where size is empty."""
    pixels = {
        name: array
        for name, array in stored.items()
        if array.ndim in (2, 3) and array.dtype.kind in 'iufcb' and array.size > 1
    }
    likely = [
        name
        for name, array in pixels.items()
        if min(array.shape) > 1
        and (
            array.ndim == 2 and _is_whole(array)
            if size is not None and not size
            else array.ndim == 3
            and (not size or tuple(size) in (array.shape[1:], array.shape[:2]))
        )
    ]
    names = likely if len(pixels) > 1 else [*pixels]
    return names[0] if len(names) == 1 else None


def _is_whole(array: NDArray[Any]) -> bool:
    """Whether an array has whole numbers, of floating-point type perhaps, or NaN."""
    if array.dtype.kind == 'f':
        return bool((np.isnan(array) | (array % 1 == 0)).all())
    return array.dtype.kind in 'iub'


def _bands_first(array: NDArray[Any], size: Sequence[int] | None) -> NDArray[Any]:
    """An array of two or three axes as (C, H, W)."""
    if array.ndim == 2:
        return array[None]
    shape = array.shape
    if size is not None and shape[1:] == tuple(size):
        return array
    if size is not None and shape[:2] == tuple(size):
        return np.moveaxis(array, -1, 0)
    return np.moveaxis(array, int(np.argmin(shape)), 0)


def _read_all(path: Path, variable: str | None) -> Mapping[str, NDArray[Any]]:
    """All arrays of a file by name; one that is wanted is looked for by its name."""
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
                # version 7.3 is HDF5, with the axes the other way round
                return {
                    name: array.T for name, array in _read_hdf5(path, variable).items()
                }
        return _read_hdf5(path, variable)
    # each format has errors of its own
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as {path.suffix} ({error}). Write it again, or as '
            '.tif.'
        ) from error


def _read_hdf5(path: Path, variable: str | None) -> dict[str, NDArray[Any]]:
    """Data sets of an HDF5 file, each as GDAL reads it; all if the wanted is none."""
    arrays = {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        # GDAL lists neither an only data set nor one of a single axis, but knows them
        for key in filter(None, (variable, *_WAVELENGTHS)):
            with contextlib.suppress(RasterioIOError):
                arrays[key] = _read_raster(f'HDF5:"{path}"://{key}')
        if variable not in arrays:
            with rasterio.open(path) as source:
                names = source.subdatasets or [str(path)]
            for name in names:
                # a name such as HDF5:"FILE"://group/cube
                key = name.partition('://')[2] or name.rpartition('/')[-1]
                arrays[key] = _read_raster(name)
    return arrays


def _read_raster(name: str) -> NDArray[Any]:
    """The pixels of a raster, without the axis of its bands if it has one band."""
    with rasterio.open(name) as source:
        values: NDArray[Any] = source.read()
    return values[0] if len(values) == 1 else values
