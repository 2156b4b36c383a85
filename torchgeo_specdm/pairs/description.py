# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What a folder of pairs says of itself, or lets be found out."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import read_json
from .layout import DESCRIPTION, PairFiles, read_table
from .rasters import Raster, read_codes, read_raster
from .spec import USUAL_IGNORE, SampleSpec, fits_dtype, usual_unit

CLASSES = 'classes.csv'
#: A mask with a higher value than this holds codes, not class positions.
_MOST_CLASSES = 64
#: What values in masks, of 32 bits, stay below.
_MOST_CODE = 2**32
#: Images that are looked at to tell the unit of floating-point numbers.
_LOOKED_AT = 16


class Description(NamedTuple):
    """What the samples of a folder are, and how masks say so."""

    spec: SampleSpec
    codes: tuple[int, ...]  #: value in the masks of each class position
    provenance: dict[str, Any]  #: where the samples come from

    @property
    def labels(self) -> dict[int, int]:
        """What each value in the masks means: a class position or the ignore index."""
        labels = {code: position for position, code in enumerate(self.codes)}
        index = self.spec.ignore_index
        if index is not None:
            # masks are uint8, so an ignore index such as -1 is stored as 255
            stored = index if 0 <= index <= USUAL_IGNORE else USUAL_IGNORE
            labels = {index: index, stored: index} | labels
        return labels


def describe(root: Path) -> tuple[PairFiles, Description]:
    """Read ``dataset.json``, or find out what a plain folder holds.

    Args:
        root: The folder of pairs.

    Returns:
        Its files and what they are.

    Raises:
        FileNotFoundError: If there are no images or masks.
        ValueError: If they do not pair, ``dataset.json`` or ``classes.csv`` is wrong,
            or what a plain folder holds is not clear.
    """
    path = root / DESCRIPTION
    if not path.exists():
        files = PairFiles(root)
        return files, _find_out(files)
    values = read_json(path, dict[str, Any])
    try:
        description = _from_json(values)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    return PairFiles(root, description.spec.dates), description


def name_bands(raster: Raster) -> list[str]:
    """Name of each band: its description, else ``band_1``, ``band_2`` and so on.

    Args:
        raster: An image.

    Returns:
        Different names. Descriptions that are not different say nothing.
    """
    stand_in = [f'band_{i + 1}' for i in range(len(raster.names))]
    names = [n or s for n, s in zip(raster.names, stand_in, strict=True)]
    return names if len({*names}) == len(names) else stand_in


def check_image(path: Path, raster: Raster, spec: SampleSpec) -> None:
    """Refuse an image with other bands or units than its folder.

    Args:
        path: The file, for the message.
        raster: What it holds.
        spec: What all images of the folder must hold.

    Raises:
        ValueError: If number, names or scale of the bands differ. What the file does
            not say is not looked at.
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
    scale = raster.scales[0]
    one = len({*raster.scales}) == 1 and not any(raster.offsets)
    # a scale of 1 is GDAL's default, so nobody set it
    if one and scale != 1 and not math.isclose(scale, spec.scale, rel_tol=1e-6):
        raise ValueError(
            f'{path} has the scale {scale}, but the folder has {spec.scale}; all '
            'images must be in one unit. Export it in the unit of the others, or '
            f'correct the scale in {DESCRIPTION}.'
        )


def _from_json(values: Mapping[str, Any]) -> Description:
    spec = SampleSpec.from_dict(values)
    codes, provenance = values.get('codes'), values.get('provenance', {})
    if codes is None:
        codes = list(range(spec.num_classes))
    whole = isinstance(codes, list) and all(
        type(code) is int and abs(code) < _MOST_CODE for code in codes
    )
    if not whole or len({*codes}) != spec.num_classes or len(codes) != len({*codes}):
        raise ValueError(
            f'codes={codes} must hold one whole number, its value in the masks, for '
            f'each of the {spec.num_classes} classes, all different and of 32 bits.'
        )
    if spec.ignore_index in codes:
        raise ValueError(
            f'ignore_index={spec.ignore_index} is also in codes={codes}, but a value '
            'of the masks cannot be both. Use another ignore_index, such as -1.'
        )
    if type(provenance) is not dict:
        raise ValueError(f'provenance={provenance!r} must be an object {{...}}.')
    return Description(spec, tuple(codes), provenance)


def _find_out(files: PairFiles) -> Description:
    """Bands, scale and type from the first image, classes from a table or all masks."""
    path = files.images(files.ids[0])[0]
    raster = read_raster(path)
    dtype = str(raster.values.dtype)
    nodata = raster.nodata
    # GDAL lets files declare NaN or -9999 for types that have no such value
    if nodata is not None and not (np.isfinite(nodata) and fits_dtype(nodata, dtype)):
        nodata = None
    codes, classes = _find_classes(files)
    values = {
        'bands': name_bands(raster),
        'classes': classes,
        'dates': files.dates,
        'scale': _find_scale(path, raster, files),
        'dtype': dtype,
        'nodata': nodata,
        'ignore_index': _free_index(codes),
    }
    try:
        return Description(SampleSpec.from_dict(values), tuple(codes), {})
    except ValueError as error:
        raise ValueError(
            f'{files.root} has no {DESCRIPTION}, and its files ({path.name} first) say '
            f'something impossible: {error}'
        ) from error


def _find_scale(path: Path, raster: Raster, files: PairFiles) -> float:
    """The factor that the file names, else the usual one of its type."""
    if len({*raster.scales}) > 1 or any(raster.offsets):
        raise ValueError(
            f'{path} has the scales {sorted({*raster.scales})} and offsets '
            f'{sorted({*raster.offsets})}, but all bands must share one scale, without '
            f'offset. Write the bands in one unit, or name its scale in {DESCRIPTION}.'
        )
    if raster.scales[0] != 1:
        return raster.scales[0]
    if raster.values.dtype.kind != 'f':
        return usual_unit(255 if raster.values.dtype == np.uint8 else math.inf)[0]
    chosen = np.linspace(0, len(files.ids) - 1, min(len(files.ids), _LOOKED_AT))
    rasters = (read_raster(files.images(files.ids[int(i)])[0]) for i in chosen)
    return usual_unit(max(_highest(one) for one in rasters))[0]


def _highest(raster: Raster) -> float:
    values = raster.values
    seen = values[np.isfinite(values) & (values != raster.nodata)]
    return float(seen.max(initial=0))


def _find_classes(files: PairFiles) -> tuple[list[int], list[str]]:
    """Value in the masks and name of each class."""
    path = files.root / CLASSES
    if not path.exists():
        codes = _classes_of_masks(files)
        return codes, [f'class_{code}' for code in codes]
    rows = read_table(path, ('id', 'name'))
    try:
        codes = [int(row['id']) for row in rows]
    except ValueError as error:
        raise ValueError(
            f'{path}: ids must be whole numbers, the values in the masks ({error}). '
            'Mend the file.'
        ) from error
    names = [row['name'] for row in rows]
    for column, values in (('ids', codes), ('names', names)):
        if not values or len({*values}) < len(values):
            raise ValueError(
                f'{path} has the {column} {values}, but needs one or more, all '
                'different. Mend the file.'
            )
    return codes, names


def _classes_of_masks(files: PairFiles) -> list[int]:
    """All positions up to the highest in the masks, if they look like positions."""
    found = {int(v) for n in files.ids for v in np.unique(read_codes(files.mask(n)))}
    labels = sorted(found - {USUAL_IGNORE})
    top = max(labels, default=0)
    codes = top > _MOST_CLASSES or min(labels, default=0) < 0
    # 10, 20, 30 are codes; 0 and 255 may be a yes and no as well as a class and a gap
    if codes or 2 * len(labels) < top + 1 or (USUAL_IGNORE in found and top == 0):
        raise ValueError(
            f'The masks of {files.root} hold the values {sorted(found)[:8]}, and it is '
            'not clear which of them are classes. Classes are 0, 1, 2 and so on, with '
            f'{USUAL_IGNORE} for no label, or are listed in {CLASSES}, with the columns '
            'id (the value in the masks) and name.'
        )
    return list(range(top + 1))


def _free_index(codes: Sequence[int]) -> int:
    """An ignore index that is neither a value in the masks nor a class position."""
    taken = {*codes, *range(len(codes))}
    index = USUAL_IGNORE
    while index in taken:
        index = min(index, 0) - 1
    return index
