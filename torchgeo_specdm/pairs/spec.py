# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The description of a labelled sample: bands, classes, dates and units."""

import math
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..bands import band_wavelengths, true_colour
from .colors import usual_colors

#: Types of digital numbers that GeoTIFF, GDAL and NumPy all know.
DTYPES = ('uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'float64')

#: The mask value that the remote sensing community uses for "no label".
USUAL_IGNORE = 255
#: More dates than any series of a patch has, and what whole numbers of 32 bits reach.
_MOST_DATES = 1000
_MOST = 2**31 - 1


@dataclass(frozen=True)
class SampleSpec:
    """The description that a folder, a datamodule and a generator must share.

    Args:
        bands: Band names in channel order.
        classes: Class names; the position is the value in the mask.
        dates: Number of images of one place in a sample.
        scale: Reflectance is the digital number times this factor, plus the offset; one
            number, or one for each band.
        dtype: NumPy name of the type of the stored digital numbers.
        nodata: Digital number that marks a missing pixel in a file, NaN perhaps, or
            None. In a sample, missing pixels are NaN.
        ignore_index: Mask value of pixels without a label, or None.
        colors: One (red, green, blue) in 0..255 for each class; if empty, those that
            maps usually have for such names, or evenly spread hues.
        offset: Reflectance of the digital number 0; one number, or one for each band.
        wavelengths: Central wavelength of each band in nanometres, None where not
            known; told by the names of the bands if empty.
        codes: Value in mask files of each class; its position if empty.
        no_label: Values in mask files of pixels without a label, the first of them for
            writing; the ignore index if empty, or 255 where that is no uint8. Without
            an ignore index there is none.

    Raises:
        ValueError: If a list is empty or has duplicates, or numbers do not fit.
    """

    bands: tuple[str, ...]
    classes: tuple[str, ...]
    dates: int = 1
    scale: float | tuple[float, ...] = 1e-4
    dtype: str = 'uint16'
    nodata: float | None = None
    ignore_index: int | None = None
    colors: tuple[tuple[int, int, int], ...] = ()
    offset: float | tuple[float, ...] = 0.0
    wavelengths: tuple[float | None, ...] = ()
    codes: tuple[int, ...] = ()
    no_label: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Bring JSON types to plain ones and check the values."""
        set_ = object.__setattr__
        for name in ('bands', 'classes'):
            set_(self, name, _names(name, getattr(self, name)))
        set_(self, 'dates', _whole('dates', self.dates, 1, _MOST_DATES))
        index = self.ignore_index
        if index is not None:
            index = _whole('ignore_index', index, -_MOST, _MOST)
            set_(self, 'ignore_index', index)
        set_(self, 'dtype', _dtype(self.dtype))
        set_(self, 'scale', _by_band('scale', self.scale, self.num_bands, least=0))
        set_(self, 'offset', _by_band('offset', self.offset, self.num_bands))
        set_(self, 'wavelengths', _wavelengths(self.wavelengths, self.bands))
        set_(self, 'nodata', _nodata(self.nodata, self.dtype))
        colors = _colors(self.colors) or usual_colors(self.classes)
        set_(self, 'colors', colors)
        if len(colors) != self.num_classes:
            raise ValueError(
                f'{len(colors)} colors for {self.num_classes} classes: give one color '
                'for each class, or none at all.'
            )
        if index is not None and 0 <= index < self.num_classes:
            raise ValueError(
                f'ignore_index={index} is the class {self.classes[index]!r}. Use a '
                f'value outside 0..{self.num_classes - 1}, for example 255.'
            )
        set_(self, 'codes', _codes(self.codes, self.num_classes))
        set_(self, 'no_label', self._no_label_codes())

    @property
    def num_bands(self) -> int:
        """Number of bands of one date."""
        return len(self.bands)

    @property
    def num_classes(self) -> int:
        """Number of classes, without the ignored label."""
        return len(self.classes)

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Channels to show as red, green and blue; see :func:`.bands.true_colour`."""
        return true_colour(self.wavelengths)

    @property
    def labels(self) -> dict[int, int]:
        """Class position or ignore index of each value that mask files may hold."""
        labels = {code: position for position, code in enumerate(self.codes)}
        if self.ignore_index is not None:
            labels |= dict.fromkeys(self.no_label, self.ignore_index)
        return labels

    def reflectance(
        self, numbers: Tensor, dim: int = -3, difference: bool = False
    ) -> Tensor:
        """Turn digital numbers into reflectance.

        Args:
            numbers: Digital numbers of any shape.
            dim: The dimension of the bands.
            difference: Whether they are differences, which have no offset.

        Returns:
            Reflectance of the same shape, in float32 or, from float64, in float64.
        """
        shape = [1] * numbers.ndim
        shape[dim] = self.num_bands
        numbers = numbers if numbers.dtype == torch.float64 else numbers.float()
        scale, offset = (
            torch.tensor(value, dtype=numbers.dtype)
            .to(numbers.device, non_blocking=True)
            .expand(self.num_bands)
            .view(shape)
            for value in (self.scale, self.offset)
        )
        return numbers * scale if difference else numbers * scale + offset

    def choose_bands(self, bands: Sequence[str]) -> Self:
        """The same samples with some of the bands, in this order.

        Args:
            bands: Names of bands that the samples have.

        Returns:
            Their description.

        Raises:
            ValueError: If there is no band of a name.
        """
        unknown = [band for band in bands if band not in self.bands]
        if unknown:
            raise ValueError(
                f'bands {unknown} are not among {list(self.bands)}. Use these names.'
            )
        chosen = [self.bands.index(band) for band in bands]

        def pick(values: Any) -> Any:
            several = isinstance(values, tuple)
            return tuple(values[i] for i in chosen) if several else values

        return replace(
            self,
            bands=tuple(bands),
            scale=pick(self.scale),
            offset=pick(self.offset),
            wavelengths=pick(self.wavelengths),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain types for JSON, which knows no NaN."""
        missing = self.nodata is not None and math.isnan(self.nodata)
        return asdict(self) | ({'nodata': 'nan'} if missing else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a spec from :meth:`to_dict` output.

        Args:
            values: The fields; other keys are not looked at.

        Returns:
            The spec.

        Raises:
            ValueError: If a field is missing or does not fit.
        """
        known = {field.name for field in fields(cls)}
        missing = [name for name in ('bands', 'classes') if name not in values]
        if missing:
            raise ValueError(
                f'{missing} are missing; needed are the names of all bands and classes.'
            )
        return cls(**{key: value for key, value in values.items() if key in known})

    def require_match(
        self,
        other: 'SampleSpec',
        ours: str,
        theirs: str,
        names: Sequence[str] = ('bands', 'classes', 'dates', 'scale', 'offset'),
    ) -> None:
        """Refuse to go on with data of another kind.

        Args:
            other: The spec to compare with.
            ours: Name of this spec in the message.
            theirs: Name of the other one in the message.
            names: The fields that must be equal.

        Raises:
            ValueError: With both values of every field that differs.
        """
        different = [
            f'{name}: {_show(getattr(self, name))} in {ours}, '
            f'{_show(getattr(other, name))} in {theirs}'
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]
        if different:
            raise ValueError(
                f'{ours} and {theirs} must describe the same kind of sample but differ '
                f'in {"; ".join(different)}. Use the same bands, classes and units on '
                'both sides.'
            )

    def _no_label_codes(self) -> tuple[int, ...]:
        """Values in mask files of pixels without a label, checked."""
        listed = isinstance(self.no_label, list | tuple)
        given = tuple(
            _whole('no_label', code, -_MOST, _MOST)
            for code in (self.no_label if listed else (self.no_label,))
        )
        index = self.ignore_index
        if index is None:
            return ()
        if not given:
            given = (index if 0 <= index <= USUAL_IGNORE else USUAL_IGNORE,)
            # a file of another program may hold an index such as -1 itself
            given += (index,) if index not in given else ()
            # a class may have the code 255
            given = tuple(code for code in given if code not in self.codes)
        both = sorted({*given} & {*self.codes})
        if both:
            raise ValueError(
                f'no_label={list(given)} and codes={list(self.codes)} share {both}, '
                'but a value of the masks is a class or no label.'
            )
        return given


def _show(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def _names(field: str, values: Any) -> tuple[str, ...]:
    """Check a list of different names; a bare string would fall into its letters."""
    names = tuple(values) if isinstance(values, Sequence) else ()
    text = all(isinstance(name, str) and name.strip() for name in names)
    if isinstance(values, str) or not names or not text or len({*names}) < len(names):
        raise ValueError(
            f'{field}={_show(values)} must be a list of one or more different names. '
            'Remove the duplicates or name what is missing.'
        )
    return names


def _whole(field: str, value: Any, least: int, most: int) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ValueError(
            f'{field}={value!r} must be a whole number from {least} to {most}.'
        )
    return int(value)


def _dtype(value: Any) -> str:
    try:
        name = np.dtype(value).name
    except TypeError:
        name = None
    if value is None or name not in DTYPES:
        raise ValueError(f'dtype={value!r} must be one of {list(DTYPES)}.')
    return str(name)


def _by_band(
    field: str, value: Any, bands: int, least: float = -math.inf
) -> float | tuple[float, ...]:
    """One number, or one for each band; equal ones become one."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(_is_finite(v) and v > least for v in values):
        rule = ' above 0' if least == 0 else ''
        raise ValueError(
            f'{field}={_show(value)} must be a number{rule}, or one for each band. '
            'Sentinel-2 reflectance x 10000 has the scale 0.0001 and the offset 0.'
        )
    if len(values) not in (1, bands):
        raise ValueError(
            f'{field} has {len(values)} numbers for {bands} bands. Give one, or one '
            'for each band.'
        )
    numbers = tuple(float(v) for v in values)
    return numbers[0] if len({*numbers}) == 1 else numbers


def _wavelengths(values: Any, bands: Sequence[str]) -> tuple[float | None, ...]:
    if not values:
        return band_wavelengths(bands)
    waves = tuple(values)
    known = [wave for wave in waves if wave is not None]
    if len(waves) != len(bands) or not all(_is_finite(w) and w > 0 for w in known):
        raise ValueError(
            f'wavelengths={list(waves)} must hold a number of nanometres, or null, for '
            f'each of the {len(bands)} bands.'
        )
    return tuple(None if wave is None else float(wave) for wave in waves)


def _codes(values: Any, classes: int) -> tuple[int, ...]:
    given = values if isinstance(values, list | tuple) else None
    whole = given is not None and all(
        type(value) is int and abs(value) <= _MOST for value in given
    )
    if given and list(given) == list(range(len(given))):
        # positions, of other classes perhaps, say nothing
        given = ()
    codes = tuple(given or range(classes))
    if not whole or len(codes) != classes or len({*codes}) != classes:
        raise ValueError(
            f'codes={_show(values)} must hold one whole number, its value in the masks, '
            f'for each of the {classes} classes, all different and of 32 bits.'
        )
    return codes


def _nodata(value: Any, dtype: str) -> float | None:
    if value is None:
        return None
    if dtype.startswith('float') and str(value).lower() == 'nan':
        # always this object, or equal specs would differ
        return math.nan
    if not _is_finite(value) or not fits_dtype(float(value), dtype):
        raise ValueError(
            f'nodata={value!r} is no {dtype}. Use a number that the images can hold, '
            'or null if no pixel is missing.'
        )
    return float(value)


def free_code(taken: Container[int]) -> int:
    """Choose a value of masks for no label.

    Args:
        taken: Values that have a meaning already.

    Returns:
        255, or the next number that is not taken.
    """
    return next(code for code in count(USUAL_IGNORE) if code not in taken)


def fits_dtype(value: float, dtype: str) -> bool:
    """Whether a number can be stored in a type without becoming another.

    Floating-point types hold NaN and infinity, and rounding in them does not count.
    """
    if not np.issubdtype(np.dtype(dtype), np.integer):
        return True
    info = np.iinfo(dtype)
    return info.min <= value <= info.max and value == int(value)


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    # a whole number may be too large for any float
    return number and bool(abs(value) <= sys.float_info.max)


def _colors(values: Any) -> tuple[tuple[int, int, int], ...]:
    try:
        colors = tuple((int(r), int(g), int(b)) for r, g, b in values)
    except (TypeError, ValueError, OverflowError):
        colors = ((-1, -1, -1),)
    if any(not 0 <= part <= 255 for color in colors for part in color):
        raise ValueError(
            f'colors={_show(values)} must hold one list [red, green, blue] of whole '
            'numbers from 0 to 255 for each class.'
        )
    return colors
