# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Georasters as they are in files: values, what is missing, bands, units and place."""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from ..bands import parse_wavelength, stated_wavelength
from .arrays import ARRAYS, read_array

#: Share of the pixels of an alpha band that are quite transparent or quite opaque.
_OPACITY = 0.95
#: Colours of the bands of a picture.
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
#: Filters of warnings belong to the whole process, but threads write rasters.
_FILTERS = RLock()


#: ``crs`` and ``transform``, or nothing.
Place = dict[str, Any]


class Raster(NamedTuple):
    """The content of a georaster, as far as it matters here."""

    values: NDArray[Any]  #: (C, H, W) in the type of the file, without alpha
    valid: NDArray[np.bool_]  #: (C, H, W), where a value was measured
    names: tuple[str | None, ...]  #: description of each band, None where it has none
    #: Name of each band without a description: red, green and blue in a picture where no
    #: band has any, else band_1, band_2 and so on.
    stand_ins: tuple[str, ...]
    wavelengths: tuple[float | None, ...]  #: nanometres, None where not stated
    scales: tuple[float, ...]  #: factor of each band, 1 where it has none
    offsets: tuple[float, ...]  #: summand of each band, 0 where it has none
    nodata: float | None  #: value that marks a missing pixel, NaN perhaps
    crs: Any  #: coordinate reference system, None where there is none
    transform: Any  #: affine transform from pixels to coordinates
    colours: Mapping[int, tuple[int, ...]] | None = None  #: of a palette, by value
    categories: Mapping[int, str] = {}  #: names of values, as far as the file tells


@contextmanager
def without_georeference() -> Iterator[None]:
    """Be silent about files without georeference: patches have and need none."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        yield


@contextmanager
def open_raster(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Open a file with what lies beside it: ENVI headers, masks, names of classes.

    TorchGeo's command line tells GDAL not to look for such files.

    Args:
        path: A file that GDAL opens.

    Yields:
        The open file.
    """
    with (
        without_georeference(),
        # look for each of them by name, and do not list large folders
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='TRUE'),
        rasterio.open(path) as source,
    ):
        yield source


def read_raster(
    path: Path,
    size: Sequence[int] | None = None,
    variable: str | None = None,
    bands: int | None = None,
) -> Raster:
    """Read all spectral bands of a georaster, and where they are valid.

    A pixel is missing in a band where it has the nodata value of the file (NaN, too),
    where the internal mask leaves it out, or where an alpha band is transparent: one
    notion, which is GDAL's. Alpha bands are no spectral bands and are left out.

    Args:
        path: A file that GDAL opens, or one of arrays (:mod:`.arrays`).
        size: Height and width of its partner, which tell the axis of the bands in a
            file of arrays.
        variable: Name of the array in a file of several; the one that can be meant if
            None.
        bands: Number of spectral bands, if known, which tells near infrared from alpha
            where both are blank.

    Returns:
        Its content; whole numbers of 64 bits come as float64.

    Raises:
        ValueError: If the file is missing, cut short, no image at all, complex, or
            is a TIFF of several pages, of which GDAL sees the first one only.
    """
    if path.suffix.lower() in ARRAYS:
        return _require_real(path, _of_array(*read_array(path, size, variable)))
    try:
        with open_raster(path) as source:
            pages = len(source.subdatasets)
            raster = _read_spectral(source, bands)
    except (RasterioError, OSError) as error:
        raise ValueError(
            f'{path} cannot be read as an image ({error}). Extract it again, write it as '
            '.tif, or delete it together with its partner.'
        ) from error
    if pages > 1:
        raise ValueError(
            f'{path} is a TIFF of {pages} pages (of {raster.values.shape[1:]} values), '
            'but all bands must be on one page. It may be stored channel-last: write '
            'it again as (bands, rows, columns), for example with rasterio.'
        )
    return _require_real(path, raster)


def _of_array(values: NDArray[Any], wavelengths: tuple[float | None, ...]) -> Raster:
    """An array (C, H, W) that says little of itself; NaN is missing."""
    bands = len(values)
    blank = values.dtype.kind == 'f' and bool(np.isnan(values).any())
    return Raster(
        values=values,
        valid=~np.isnan(values) if blank else np.ones(values.shape, bool),
        names=(None,) * bands,
        stand_ins=tuple(f'band_{i + 1}' for i in range(bands)),
        wavelengths=wavelengths,
        scales=(1.0,) * bands,
        offsets=(0.0,) * bands,
        nodata=math.nan if blank else None,
        crs=None,
        transform=None,
    )


def _require_real(path: Path, raster: Raster) -> Raster:
    """Refuse complex numbers, and bring 64-bit whole ones to floating point."""
    if raster.values.dtype.kind == 'c':
        raise ValueError(
            f'{path} holds complex numbers, but images must be real. Export amplitude '
            'or intensity.'
        )
    if raster.values.dtype in (np.int64, np.uint64):
        # neither GDAL everywhere nor torch knows both; numbers up to 2**53 are exact
        return raster._replace(values=raster.values.astype(np.float64))
    return raster


def _read_spectral(source: Any, wanted: int | None) -> Raster:
    """The bands of an open file that are not alpha, as many as wanted if possible."""
    planes = source.read()
    names = [(name or '').strip() for name in source.descriptions]
    # GDAL calls the fourth of four bands of bytes alpha, near infrared too; other
    # programs tell alpha by its name alone
    opaque = [
        (name.lower() == 'alpha' or (not name and colour == ColorInterp.alpha))
        and (_is_opacity(band) if band.any() else wanted != source.count)
        for colour, name, band in zip(source.colorinterp, names, planes, strict=True)
    ]
    bands = [i for i, hidden in enumerate(opaque) if not hidden]
    values = planes[bands]
    by_alpha = MaskFlags.alpha in {f for flags in source.mask_flag_enums for f in flags}
    if by_alpha and not any(opaque):
        valid = np.ones(values.shape, bool)
    else:
        valid = source.read_masks([i + 1 for i in bands]) > 0
        # GDAL does not look at alpha of floating-point numbers
        valid &= (planes[opaque] != 0).all(axis=0)
    if source.nodata is not None and math.isnan(source.nodata):
        valid &= ~np.isnan(values)
    header = _header(source)
    bad = _listed(source, header.get('bbl', ''))
    for position, i in enumerate(bands):
        # the list of bad bands
        if bad and bad[i] in ('0', '0.0'):
            valid[position] = False
    scales = source.scales
    if {*scales} == {1.0}:
        with suppress(KeyError, ValueError, ZeroDivisionError):
            factor = float(header['reflectance_scale_factor'])
            scales = (1 / factor,) * source.count
    listed = _listed_wavelengths(source, header)
    return Raster(
        values=values,
        valid=valid,
        names=tuple(names[i] or None for i in bands),
        stand_ins=_stand_ins(
            [source.colorinterp[i] for i in bands], [names[i] for i in bands]
        ),
        wavelengths=tuple(
            _stated_wavelength(source, i + 1, header) or listed[i] for i in bands
        ),
        scales=tuple(scales[i] for i in bands),
        offsets=tuple(source.offsets[i] for i in bands),
        nodata=source.nodata,
        crs=source.crs,
        transform=source.transform,
        colours=source.colormap(1)
        if source.colorinterp[0] == ColorInterp.palette
        else None,
        categories=_categories(source, header),
    )


def _categories(source: Any, header: Mapping[str, str]) -> dict[int, str]:
    """Names of values by our tags, an ENVI header or GDAL's file beside it."""
    ours = {
        int(match[1]): value
        for key, value in header.items()
        if (match := re.fullmatch(r'class_(-?\d+)', key))
    }
    names = header.get('class_names', '').strip(' {}').split(',')
    beside = Path(f'{source.name}.aux.xml')
    if beside.is_file():
        with suppress(ElementTree.ParseError):
            found = ElementTree.parse(beside).findall('.//CategoryNames/Category')
            names = [category.text or '' for category in found] or names
    # GDAL leaves values without a name blank
    return {i: n.strip() for i, n in enumerate(names) if n.strip()} | ours


def _stand_ins(colours: Sequence[ColorInterp], names: Sequence[str]) -> tuple[str, ...]:
    """Names by red, green and blue, if these are there once and nothing else tells."""
    told = not any(names) and all(colours.count(colour) == 1 for colour in RGB)
    return tuple(
        colour.name if told and colour in RGB else f'band_{i + 1}'
        for i, colour in enumerate(colours)
    )


def _is_opacity(band: NDArray[Any]) -> bool:
    """Whether nearly all pixels are quite transparent or quite opaque."""
    # the top may be 255 in 16 bits, too
    return bool(((band == 0) | (band == band.max())).mean() > _OPACITY)


def _header(source: Any) -> dict[str, str]:
    """Tags of the whole file, of its ENVI header too, in lower case."""
    return {
        key.lower().replace(' ', '_'): value
        for space in (None, 'ENVI')
        for key, value in source.tags(ns=space).items()
    }


def _listed(source: Any, text: str) -> list[str]:
    """Fields of a tag that has one for each band; empty if it has not."""
    fields = text.strip(' {}[]()').replace(';', ',').split(',')
    fields = fields if len(fields) > 1 else fields[0].split()
    return [field.strip() for field in fields] if len(fields) == source.count else []


def _stated_wavelength(
    source: Any, band: int, header: Mapping[str, str]
) -> float | None:
    """The wavelength by tag (ours, ENVI's, GDAL's) or description, in nanometres."""
    tags = {key.lower(): value for key, value in source.tags(band).items()}
    tags |= {
        key.lower(): value for key, value in source.tags(band, ns='IMAGERY').items()
    }
    unit = tags.get('wavelength_units', header.get('wavelength_units', ''))
    for key, own in (
        ('wavelength_nm', 'nm'),
        ('wavelength', unit),
        ('center_wavelength', unit),
        ('central_wavelength', unit),
        # which GDAL rounds to whole nanometres
        ('central_wavelength_um', 'um'),
    ):
        found = parse_wavelength(tags.get(key, ''), own)
        if found is not None:
            return found
    return stated_wavelength(source.descriptions[band - 1] or '')


def _listed_wavelengths(source: Any, header: Mapping[str, str]) -> list[float | None]:
    """Wavelengths that one tag of the file lists, as ENVI headers do."""
    unit = header.get('wavelength_units', '')
    for key in ('wavelength', 'wavelengths'):
        fields = _listed(source, header.get(key, ''))
        if fields:
            return [parse_wavelength(field, unit) for field in fields]
    return [None] * source.count


def pixels_apart(place: Any, other: Any, shape: Sequence[int]) -> float:
    """Tell how far two grids of one shape lie apart.

    Args:
        place: Transform of one, from pixels to coordinates.
        other: Transform of the other.
        shape: Rows and columns.

    Returns:
        The longest way between the same corners along an axis, in pixels of the first.
    """
    corners = [*product((0, shape[1]), (0, shape[0]))]
    moved = [~place * (other * corner) for corner in corners]
    return float(np.abs(np.array(moved) - corners).max())


def place_of(path: Path) -> Place:
    """Where a georaster lies.

    Args:
        path: A file that GDAL opens, or one of arrays.

    Returns:
        ``crs`` and ``transform`` as rasterio takes them; empty if it lies nowhere.
    """
    if path.suffix.lower() in ARRAYS:
        return {}
    with open_raster(path) as source:
        if source.crs is None:
            return {}
        return {'crs': source.crs, 'transform': source.transform}


def measured_values(
    path: Path,
    raster: Raster,
    nodata: float | None,
    channels: Sequence[int] | slice = slice(None),
) -> NDArray[np.float32]:
    """The digital numbers of an image, NaN where they are missing.

    Args:
        path: The file, for the message.
        raster: Content of the file.
        nodata: Value of missing pixels beside what the file says itself, or None.
        channels: Positions of the bands to take, in their new order.

    Returns:
        (C, H, W).

    Raises:
        ValueError: If pixels that are not missing are no numbers.
    """
    values, valid = raster.values[channels], raster.valid[channels]
    if nodata is not None:
        # in the type of the file: -3.4e38 is another number in double precision
        valid = valid & (values != values.dtype.type(nodata))
    wrong = int((valid & ~np.isfinite(values)).sum())
    if wrong and (nodata is None or not math.isnan(nodata)):
        raise ValueError(
            f'{path} has {wrong} NaN or infinite values, but every pixel that is not '
            'nodata must be a number. Name NaN as nodata in the file, or in '
            'dataset.json: {"nodata": "nan"}.'
        )
    image: NDArray[np.float32] = values.astype(np.float32)
    image[~(valid & np.isfinite(image))] = np.nan
    return image
