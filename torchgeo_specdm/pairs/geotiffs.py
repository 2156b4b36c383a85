# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""GeoTIFFs of images, class maps and confidence, written whole or not at all."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import MemoryFile
from rasterio.enums import ColorInterp

from ..bands import channel
from ..files import write_text, write_verified
from .rasters import RGB, without_georeference
from .spec import SampleSpec, fits_dtype, free_code
from .valid import labelled_pixels

#: Types of masks, the first that holds all codes is taken.
_MASK_TYPES = ('uint8', 'uint16', 'int16', 'int32')


def write_image_raster(
    path: Path,
    image: NDArray[Any],
    spec: SampleSpec,
    tags: Mapping[str, str],
    missing: NDArray[np.bool_],
    **georeference: Any,
) -> str:
    """Write one date of a sample.

    Missing values become the nodata value of the spec, and others that are equal to it
    the next number. Where the spec has none, it is NaN for floating-point numbers;
    whole ones get an internal mask, without the pixels that miss any band.

    Args:
        path: The file; its folder must exist.
        image: Digital numbers (C, H, W) in the dtype of the spec.
        spec: Tells band names, colours, scale, offset, nodata and wavelengths.
        tags: Tags of the file.
        missing: Where there is no value (C, H, W).
        **georeference: ``crs`` and ``transform`` as rasterio takes them, if known.

    Returns:
        SHA-256 of the file.

    Raises:
        OSError: If the file does not read back as it was written.
    """

    def describe(target: Any) -> None:
        target.descriptions = spec.bands
        target.scales = np.broadcast_to(spec.scale, len(image)).tolist()
        target.offsets = np.broadcast_to(spec.offset, len(image)).tolist()
        target.colorinterp = _colours(spec)
        for i, wavelength in enumerate(spec.wavelengths):
            if wavelength is not None:
                target.update_tags(i + 1, WAVELENGTH_NM=str(wavelength))
        if missing.any() and nodata is None:
            target.write_mask(~missing.any(axis=0))

    nodata = spec.nodata
    if missing.any() and nodata is None and image.dtype.kind == 'f':
        nodata = math.nan
    if nodata is not None:
        value = image.dtype.type(nodata)
        image = np.where(
            missing, value, np.where(image == value, _beside(value), image)
        )
    profile = {'nodata': nodata, **georeference}
    return _write_raster(path, image, profile, tags, describe)


def _beside(value: Any) -> Any:
    """The number next to one, of the same type, that GDAL does not take for it."""
    if value.dtype.kind == 'f':
        # it compares to 2 units in the last place
        return value * (1 - 1e-5) if value else np.finfo(value.dtype).tiny
    return value - 1 if value == np.iinfo(value.dtype).max else value + 1


def _colours(spec: SampleSpec) -> list[ColorInterp]:
    """Red, green and blue where the wavelengths tell, and nothing elsewhere."""
    found = [ColorInterp.gray] + [ColorInterp.undefined] * (spec.num_bands - 1)
    channels = [channel(spec.wavelengths, name) for name in ('red', 'green', 'blue')]
    if None not in channels:
        found[0] = ColorInterp.undefined
        for band, colour in zip(channels, RGB, strict=True):
            found[band or 0] = colour
    return found


def write_class_raster(
    path: Path,
    mask: NDArray[np.integer[Any]],
    spec: SampleSpec,
    tags: Mapping[str, str] | None = None,
    **georeference: Any,
) -> str:
    """Write a map of classes with their codes, names and colours.

    Names are tags, and of a map that lies somewhere the category names of GDAL, too,
    in a file beside it, from which QGIS makes its legend.

    Args:
        path: The file; its folder must exist.
        mask: Class positions (H, W); any other value is no label.
        spec: Tells codes, names and colours of the classes, and the value of pixels
            without a label, which is the nodata value of the file. Where the spec
            has none, and there are such pixels, it is 255 or, if that is a class, the
            next number that is not.
        tags: Further tags of the file.
        **georeference: ``crs`` and ``transform`` as rasterio takes them, if known.

    Returns:
        SHA-256 of the file.

    Raises:
        OSError: If the file does not read back as it was written.
    """
    known = labelled_pixels(mask, spec.num_classes)
    empty = next(iter(spec.no_label), None)
    if empty is None and not known.all():
        empty = free_code(spec.codes)
    values = np.array([*spec.codes, 0 if empty is None else empty])
    dtype = next(
        t for t in _MASK_TYPES if all(fits_dtype(value, t) for value in values)
    )
    # a mask of bytes has no -1
    stored = values[np.where(known, mask.astype(np.int64), -1)].astype(dtype)
    names = {
        f'CLASS_{code}': name
        for code, name in zip(spec.codes, spec.classes, strict=True)
    }
    colours = zip(spec.codes, spec.colors, strict=True)
    table = {code: (*colour, 255) for code, colour in colours}

    def describe(target: Any) -> None:
        target.descriptions = ('class',)
        # a GeoTIFF holds no table for other types
        if dtype in ('uint8', 'uint16'):
            target.colorinterp = [ColorInterp.palette]
            target.write_colormap(1, table)

    if georeference and dtype == 'uint8':
        # before the map, which is whole with it
        write_categories(path, dict(zip(spec.codes, spec.classes, strict=True)))
    profile = {'nodata': empty, **georeference}
    return _write_raster(
        path, stored[None], profile, {**(tags or {}), **names}, describe
    )


def write_confidence_raster(
    path: Path, confidence: NDArray[Any], tags: Mapping[str, str], **georeference: Any
) -> str:
    """Write how sure the class of each pixel is.

    Args:
        path: The file; its folder must exist.
        confidence: 0..1 (H, W).
        tags: Tags of the file.
        **georeference: ``crs`` and ``transform`` as rasterio takes them, if known.

    Returns:
        SHA-256 of the file.

    Raises:
        OSError: If the file does not read back as it was written.
    """

    def describe(target: Any) -> None:
        target.descriptions = ('confidence',)

    values = confidence.astype(np.float32)[None]
    return _write_raster(path, values, georeference, tags, describe)


def write_categories(path: Path, names: Mapping[int, str]) -> None:
    """Write the names of the values of a map beside it, as GDAL has them.

    Args:
        path: The map.
        names: Name of each value, 0 or more.
    """
    root = ElementTree.Element('PAMDataset')
    band = ElementTree.SubElement(root, 'PAMRasterBand', band='1')
    categories = ElementTree.SubElement(band, 'CategoryNames')
    for value in range(max(names) + 1):
        ElementTree.SubElement(categories, 'Category').text = names.get(value, '')
    text = ElementTree.tostring(root, encoding='unicode')
    write_text(path.with_name(f'{path.name}.aux.xml'), text + '\n')


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
    if integer:
        np.rint(wide, out=wide)
    clipped = float(((wide < limits.min) | (wide > limits.max)).mean())
    return wide.clip(limits.min, limits.max, out=wide).astype(dtype), clipped


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
    internal = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
    # a synthetic patch lies nowhere, so no georeference is invented
    with without_georeference(), internal, MemoryFile() as memory:
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
