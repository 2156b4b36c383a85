# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""GeoTIFFs of images and of class maps, read and written whole or not at all."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import MemoryFile
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from ..files import write_verified
from .spec import SampleSpec


class Raster(NamedTuple):
    """The content of a georaster, as far as it matters here."""

    values: NDArray[Any]  #: (C, H, W) in the type of the file
    names: tuple[str | None, ...]  #: description of each band, None where it has none
    scales: tuple[float, ...]  #: factor of each band, 1 where it has none
    offsets: tuple[float, ...]  #: summand of each band, 0 where it has none
    nodata: float | None  #: value that marks a missing pixel


def read_raster(path: Path) -> Raster:
    """Read all bands of a georaster.

    Args:
        path: A file that GDAL opens.

    Returns:
        Its content.

    Raises:
        ValueError: If the file is missing, cut short, no image at all, or a TIFF of
            several pages, of which GDAL sees the first one only.
    """
    try:
        with warnings.catch_warnings():
            # patches have no georeference, and need none here
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                pages = len(source.subdatasets)
                raster = Raster(
                    values=source.read(),
                    names=tuple((n or '').strip() or None for n in source.descriptions),
                    scales=source.scales,
                    offsets=source.offsets,
                    nodata=source.nodata,
                )
    except (RasterioError, OSError) as error:
        raise ValueError(
            f'{path} cannot be read as an image ({error}). Extract it again, or delete '
            'it together with its partner.'
        ) from error
    if pages > 1:
        raise ValueError(
            f'{path} is a TIFF of {pages} pages (of {raster.values.shape[1:]} values), '
            'but all bands must be on one page. It may be stored channel-last: write '
            'it again as (bands, rows, columns), for example with rasterio.'
        )
    return raster


def read_codes(path: Path) -> NDArray[np.int64]:
    """Read a mask as it is stored.

    Args:
        path: A georaster of one band.

    Returns:
        Whole numbers (H, W).

    Raises:
        ValueError: As :func:`read_raster`, and if there are more bands, or fractions.
    """
    values = read_raster(path).values
    if len(values) != 1:
        raise ValueError(
            f'{path} has {len(values)} bands, but a mask must have one, with a whole '
            'number for each class. Export it so.'
        )
    # comparing with the rounded values also finds NaN
    if values.dtype.kind == 'f' and not (values == np.rint(values)).all():
        raise ValueError(
            f'{path} has values such as {values[values != np.rint(values)][0]:g}, but a '
            'mask must hold whole numbers. Export it as uint8, without resampling '
            'between classes.'
        )
    codes: NDArray[np.int64] = values[0].astype(np.int64)
    return codes


def write_image_raster(
    path: Path, image: NDArray[Any], spec: SampleSpec, tags: Mapping[str, str]
) -> str:
    """Write one date of a sample.

    Args:
        path: The file; its folder must exist.
        image: Digital numbers (C, H, W) in the dtype of the spec.
        spec: Tells band names, scale, nodata and wavelengths.
        tags: Tags of the file.

    Returns:
        SHA-256 of the file.

    Raises:
        OSError: If the file does not read back as it was written.
    """

    def describe(target: Any) -> None:
        target.descriptions = spec.bands
        target.scales = [spec.scale] * len(image)
        for i, wavelength in enumerate(spec.wavelengths):
            if wavelength is not None:
                target.update_tags(i + 1, WAVELENGTH_NM=str(wavelength))

    return _write_raster(path, image, {'nodata': spec.nodata}, tags, describe)


def write_class_raster(
    path: Path,
    mask: NDArray[np.uint8],
    spec: SampleSpec,
    tags: Mapping[str, str] | None = None,
    nodata: int | None = None,
    **georeference: Any,
) -> str:
    """Write a map of classes with their names and colours.

    Args:
        path: The file; its folder must exist.
        mask: Class positions (H, W), or *nodata*.
        spec: Tells names and colours of the classes.
        tags: Further tags of the file.
        nodata: Value of pixels without a class, if there may be any.
        **georeference: ``crs`` and ``transform`` as rasterio takes them, if known.

    Returns:
        SHA-256 of the file.

    Raises:
        OSError: If the file does not read back as it was written.
    """
    names = {f'CLASS_{i}': name for i, name in enumerate(spec.classes)}
    colors = {i: (*color, 255) for i, color in enumerate(spec.colors)}

    def describe(target: Any) -> None:
        target.descriptions = ('class',)
        target.colorinterp = [ColorInterp.palette]
        target.write_colormap(1, colors)

    profile = {'nodata': nodata, **georeference}
    return _write_raster(path, mask[None], profile, {**(tags or {}), **names}, describe)


def to_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> tuple[NDArray[Any], float]:
    """Round and clip to the range of a type.

    Args:
        values: Finite numbers of any shape.
        dtype: The type to store.

    Returns:
        The array in that type, and the share of values that were clipped.
    """
    integer = np.issubdtype(dtype, np.integer)
    limits = np.iinfo(dtype) if integer else np.finfo(dtype)
    # float64 holds all limits exactly
    wide = values.astype(np.float64)
    wide = np.rint(wide) if integer else wide
    clipped = float(((wide < limits.min) | (wide > limits.max)).mean())
    return wide.clip(limits.min, limits.max).astype(dtype), clipped


def _write_raster(
    path: Path,
    array: NDArray[Any],
    profile: Mapping[str, Any],
    tags: Mapping[str, str],
    describe: Callable[[Any], None],
) -> str:
    """Write a GeoTIFF (C, H, W) and return its SHA-256.

    On a full disk GDAL cuts the file and says nothing, so it only writes to memory.
    """
    with warnings.catch_warnings(), MemoryFile() as memory:
        # a synthetic patch lies nowhere, so no georeference is invented
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with memory.open(
            driver='GTiff',
            count=len(array),
            height=array.shape[1],
            width=array.shape[2],
            dtype=array.dtype,
            compress='deflate',
            **profile,
        ) as target:
            target.write(array)
            target.update_tags(**tags)
            describe(target)
        data = memory.read()
    return write_verified(path, data)
