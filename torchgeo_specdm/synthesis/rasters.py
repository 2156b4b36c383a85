# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""GeoTIFFs of images and of class maps, whole or not at all."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import MemoryFile
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from ..datasets.spec import SampleSpec
from ..files import write_verified


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
