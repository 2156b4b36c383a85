# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The description of a folder of pairs, as written in it or as found out."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rasterio.errors import RasterioError

from ..bands import band_wavelengths, parse_wavelength
from ..files import read_json
from .classes import CLASSES, find_classes, read_classes
from .layout import BANDS, DESCRIPTION, PairFiles, read_table
from .rasters import Raster, pixels_apart, place_of, read_raster
from .spec import USUAL_IGNORE, SampleSpec, fits_dtype
from .units import scale_of_fractions, scale_of_whole_numbers

_log = logging.getLogger(__name__)

#: Column of bands.csv for fields of a spec, and how to read it.
_COLUMNS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    'bands': ('name', str),
    'wavelengths': ('wavelength', parse_wavelength),
    'scale': ('scale', float),
    'offset': ('offset', float),
}
#: Images that are looked at to tell where they lie, and the unit of fractions.
_LOOKED_AT = 16
#: Pixels between corners of an image and its mask, which some programs move by half.
_MOST_PIXELS_APART = 1.0


class Description(NamedTuple):
    """Description of the samples of a folder and of the values in their masks."""

    spec: SampleSpec
    provenance: dict[str, Any]
    variables: dict[str, str]  #: name of the array in files of ``images`` and ``masks``
    tagged: bool = False  #: whether scale and offset are those that files name


def describe(root: Path, no_label: int | None = None) -> tuple[PairFiles, Description]:
    """Read ``dataset.json``, and find out what it does not say of a folder.

    Args:
        root: The folder of pairs.
        no_label: Value in the masks of pixels without a label, beside what the folder
            says itself.

    Returns:
        Its files and what they are.

    Raises:
        FileNotFoundError: If there are no images or masks.
        ValueError: If they do not pair, ``dataset.json`` or ``classes.csv`` is wrong,
            or what a plain folder holds is not clear.
    """
    path = root / DESCRIPTION
    values = read_json(path, dict[str, Any]) if path.exists() else {}
    if not {'bands', 'classes'} & values.keys():
        dates = values.get('dates')
        files = PairFiles(root, dates if type(dates) is int else None)
        return files, _find_out(files, values, no_label)
    try:
        description = _from_json(values, no_label)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    try:
        _warn_of_tables(root, description.spec)
    except ValueError as error:
        # tables of other programs may lie there, too
        _log.warning('%s %s counts without it.', error, DESCRIPTION)
    return PairFiles(root, description.spec.dates), description


def name_bands(raster: Raster) -> list[str]:
    """Name of each band: its description, else its colour or ``band_1`` and so on.

    Args:
        raster: An image.

    Returns:
        Different names. Descriptions that are not different say nothing.
    """
    names = [n or s for n, s in zip(raster.names, raster.stand_ins, strict=True)]
    return names if len({*names}) == len(names) else [*raster.stand_ins]


def check_image(
    path: Path, raster: Raster, spec: SampleSpec, tagged: bool = False
) -> None:
    """Refuse an image with other bands or units than its folder.

    Args:
        path: The file, for the message.
        raster: Content of the image file.
        spec: Description that all images of the folder must fit.
        tagged: Whether scale and offset of the folder are those that its files name, so
            that every file must name them.

    Raises:
        ValueError: If number, names, scale or offset of the bands differ. What the file
            does not say is not looked at.
    """
    if len(raster.values) != spec.num_bands:
        raise ValueError(
            f'{path} has {len(raster.values)} bands, but the folder has '
            f'{spec.num_bands}: {list(spec.bands)}. Export it with all bands, or remove '
            'it.'
        )
    found = name_bands(raster)
    if any(
        said == name and name.casefold() != wanted.casefold()
        for said, name, wanted in zip(raster.names, found, spec.bands, strict=True)
    ):
        raise ValueError(
            f'{path} has the bands {found}, but the folder has {list(spec.bands)}; '
            'names and order must be the same. Export the file in this order, or '
            f'correct the names in the file or in {DESCRIPTION}.'
        )
    if raster.values.dtype != spec.dtype:
        raise ValueError(
            f'{path} holds {raster.values.dtype}, but the folder has {spec.dtype}; all '
            'images must be of one type, or their units differ. Export it as the '
            f'others, or correct the dtype in {DESCRIPTION}.'
        )
    check_units(path, raster, spec, tagged)


def check_units(
    path: Path, raster: Raster, spec: SampleSpec, tagged: bool = False
) -> None:
    """Refuse an image of all bands that names another scale or offset than its folder.

    Args:
        path: The file, for the message.
        raster: Content of the image file.
        spec: Description that the image must fit.
        tagged: Whether every file must name them.

    Raises:
        ValueError: If scale or offset of the bands differ.
    """
    for field, said, default in (
        ('scale', raster.scales, 1.0),
        ('offset', raster.offsets, 0.0),
    ):
        wanted = np.broadcast_to(getattr(spec, field), len(said))
        # a scale of 1 is GDAL's default, so nobody set it
        if (tagged or set(said) != {default}) and not np.allclose(
            said, wanted, rtol=1e-6
        ):
            raise ValueError(
                f'{path} has the {field} {_one_or_all(said)}, but the folder has '
                f'{_one_or_all(wanted.tolist())}; all images must be in one unit. '
                'Export it in the unit of the others, or correct the '
                f'{field} in {DESCRIPTION}.'
            )


def _one_or_all(values: Sequence[float]) -> Any:
    return values[0] if len({*values}) == 1 else list(values)


def _from_json(values: Mapping[str, Any], no_label: int | None) -> Description:
    """Read ``dataset.json``, whose ``ignore_index`` is a value of the masks."""
    given = dict(values)
    codes, provenance = given.get('codes'), given.get('provenance', {})
    if type(provenance) is not dict:
        raise ValueError(f'provenance={provenance!r} must be an object {{...}}.')
    index, ignored = given.get('ignore_index'), _listed(given.get('no_label'))
    if isinstance(codes, list) and not ignored and index is not None:
        if index in codes:
            raise ValueError(
                f'ignore_index={index} is also in codes={codes}, but a value of the '
                'masks cannot be both. Use another ignore_index, such as -1.'
            )
        # beside codes, it is a value of the masks too
        ignored = [index]
        index = _free_index(codes) if index in range(len(codes)) else index
    if no_label is not None:
        ignored = [no_label, *ignored]
    # what is missing has no label
    if (ignored or given.get('nodata') is not None) and index is None:
        index = _free_index(codes or range(len(given.get('classes', ()))))
    given |= {'no_label': ignored, 'ignore_index': index}
    return Description(SampleSpec.from_dict(given), provenance, _variables(given))


def _warn_of_tables(root: Path, spec: SampleSpec) -> None:
    """Say if tables differ from ``dataset.json``, which goes before them."""
    told = spec.to_dict()
    others = []
    if SampleSpec.from_dict(told | _read_bands(root, spec.num_bands)) != spec:
        others.append(BANDS)
    table = read_classes(root)
    labels = {code: n for code, n in table.items() if code not in spec.no_label}
    if table and labels != dict(zip(spec.codes, spec.classes, strict=True)):
        others.append(CLASSES)
    if others:
        _log.warning(
            '%s: %s says something else than %s, which counts. Correct the latter, or '
            'remove it and describe the folder again.',
            root,
            ' and '.join(others),
            DESCRIPTION,
        )


def _listed(value: Any) -> list[Any]:
    """A value that may be alone, or missing."""
    return [] if value is None else [*value] if isinstance(value, list) else [value]


def _variables(given: Mapping[str, Any]) -> dict[str, str]:
    """Names of the arrays in files of several."""
    variables = given.get('variables', {})
    if type(variables) is not dict or not {*variables} <= {'images', 'masks'}:
        raise ValueError(
            f'variables={variables!r} must be an object with the name of an array for '
            'images, masks or both.'
        )
    return variables


def _find_out(
    files: PairFiles, given: Mapping[str, Any], no_label: int | None
) -> Description:
    """Bands, units and type from the images, classes from a table or all masks.

    What ``dataset.json`` says of them, or ``bands.csv``, goes before.
    """
    variables = _variables(given)
    path, raster, mask = _first_that_shows(files, variables)
    _warn_of_places(files, mask.values.shape[1:])
    if raster.colours is not None:
        _log.warning(
            '%s has a palette, so its values are places in a table of colours. If it is '
            'a picture, write it as red, green and blue: gdal_translate -expand rgb.',
            path,
        )
    dtype = str(raster.values.dtype)
    nodata = raster.nodata
    # GDAL lets files declare NaN or -9999 for types that have no such value
    if nodata is not None and not fits_dtype(nodata, dtype):
        nodata = None
    declared = [] if no_label is None else [no_label]
    # as beside codes, an ignore index is a value of the masks
    declared += _listed(given.get('no_label', given.get('ignore_index')))
    variable = variables.get('masks')
    codes, classes, ignored = find_classes(files, declared, mask, variable)
    told = {**_read_bands(files.root, len(raster.values)), **given}
    values = {
        'bands': name_bands(raster),
        'wavelengths': _wavelengths(raster),
        'dates': files.dates,
        'offset': raster.offsets,
        'dtype': dtype,
        'nodata': nodata,
        'scale': told['scale']
        if 'scale' in told
        else _find_scale(raster, files, variables.get('images')),
        'colors': _palette(mask, codes),
        **told,
        'classes': classes,
        'codes': codes,
        'no_label': ignored,
        'ignore_index': _free_index(codes),
    }
    named = {*raster.scales} != {1.0} or {*raster.offsets} != {0.0}
    tagged = named and not {'scale', 'offset'} & {*told}
    try:
        return Description(SampleSpec.from_dict(values), {}, variables, tagged)
    except ValueError as error:
        raise ValueError(
            f'{files.root} is not described by a whole {DESCRIPTION}, and its files '
            f'({path.name} first) say something impossible: {error}'
        ) from error


def _first_that_shows(
    files: PairFiles, variables: Mapping[str, str]
) -> tuple[Path, Raster, Raster]:
    """Path and content of the first image that is not blank, and its mask.

    A blank one does not tell near infrared from alpha.
    """
    for name in files.ids[:_LOOKED_AT]:
        mask = read_raster(files.mask(name), (), variables.get('masks'))
        path = files.images(name)[0]
        size = mask.values.shape[1:]
        raster = read_raster(path, size, variables.get('images'))
        if raster.valid.any():
            break
    return path, raster, mask


def _warn_of_places(files: PairFiles, shape: Sequence[int]) -> None:
    """Say if images and masks seem to be of different places."""
    for name in _spread(files):
        try:
            image, mask = place_of(files.images(name)[0]), place_of(files.mask(name))
        except RasterioError:
            # reading it will say more
            continue
        if not image or image['crs'] != mask.get('crs'):
            continue
        apart = pixels_apart(image['transform'], mask['transform'], shape)
        if apart > _MOST_PIXELS_APART:
            _log.warning(
                '%s and its mask lie up to %.4g pixels apart by their coordinates. Look '
                'whether pairs are mixed up.',
                files.images(name)[0],
                apart,
            )
            return


def _spread(files: PairFiles) -> list[str]:
    """Some of the ids, evenly spread."""
    chosen = np.linspace(0, len(files.ids) - 1, min(len(files.ids), _LOOKED_AT))
    return [files.ids[int(i)] for i in chosen]


def _palette(mask: Raster, codes: Sequence[int]) -> list[Sequence[int]]:
    """Colours of the classes in a mask, if it has one for each."""
    table = mask.colours or {}
    colours = [table[code][:3] for code in codes if code in table]
    return [*colours] if len({*colours}) == len(codes) else []


def _read_bands(root: Path, count: int) -> dict[str, Any]:
    """Fields of the spec that ``bands.csv`` tells, a line for each band in order."""
    path = root / BANDS
    if not path.exists():
        return {}
    rows = read_table(path, (), [column for column, _ in _COLUMNS.values()])
    if len(rows) != count or not rows[0]:
        raise ValueError(
            f'{path} has {len(rows)} lines for {count} bands and the columns '
            f'{[*rows[0]] if rows else []} of '
            f'{[column for column, _ in _COLUMNS.values()]}. Give a line for each band, '
            'in the order of the images, and one of these columns or more.'
        )
    found: dict[str, Any] = {}
    for field, (column, parse) in _COLUMNS.items():
        texts = [row.get(column, '') for row in rows]
        if not any(texts):
            continue
        try:
            found[field] = [parse(text) for text in texts]
        except ValueError as error:
            raise ValueError(
                f'{path}, column {column}: {error}. Fill in a number for each band.'
            ) from error
    if 'bands' in found and 'wavelengths' not in found:
        found['wavelengths'] = band_wavelengths(found['bands'])
    return found


def _wavelengths(raster: Raster) -> list[float | None]:
    """Wavelengths that the file states, else those that the names of the bands tell."""
    told = band_wavelengths(name_bands(raster))
    return [s or t for s, t in zip(raster.wavelengths, told, strict=True)]


def _find_scale(
    raster: Raster, files: PairFiles, variable: str | None
) -> tuple[float, ...] | float:
    """The factors that the first file names, else the usual one of its type."""
    if {*raster.scales} != {1.0} or {*raster.offsets} != {0.0}:
        return raster.scales
    if raster.values.dtype.kind != 'f':
        return scale_of_whole_numbers(raster, files.root)
    return scale_of_fractions(
        [read_raster(files.images(name)[0], None, variable) for name in _spread(files)],
        name_bands(raster),
        files.root,
    )


def _free_index(codes: Sequence[int]) -> int:
    """An ignore index that is neither a value in the masks nor a class position."""
    taken = {*codes, *range(len(codes))}
    index = USUAL_IGNORE
    while index in taken:
        index = min(index, 0) - 1
    return index
