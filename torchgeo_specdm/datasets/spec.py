# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What one labelled sample is: bands, classes, dates and units."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

#: Central wavelengths of the Sentinel-2A bands in nanometres (ESA, MSI user guide).
SENTINEL2_WAVELENGTHS: Mapping[str, float] = {
    'B01': 442.7,
    'B02': 492.4,
    'B03': 559.8,
    'B04': 664.6,
    'B05': 704.1,
    'B06': 740.5,
    'B07': 782.8,
    'B08': 832.8,
    'B8A': 864.7,
    'B09': 945.1,
    'B10': 1373.5,
    'B11': 1613.7,
    'B12': 2202.4,
}

#: The ten bands, in file order, that SegMunich holds and that OSCD is read with.
TEN_BANDS = ('B02', 'B03', 'B04', 'B08', 'B05', 'B06', 'B07', 'B8A', 'B11', 'B12')

_RGB_NAMES = (('b04', 'b03', 'b02'), ('red', 'green', 'blue'), ('r', 'g', 'b'))


@dataclass(frozen=True)
class SampleSpec:
    """The description that a folder, a datamodule and a generator must share.

    Args:
        bands: Band names in channel order.
        classes: Class names; the position is the value in the mask.
        dates: Number of images of one place in a sample.
        scale: Reflectance is the digital number times this factor.
        dtype: NumPy name of the type of the stored digital numbers.
        nodata: Digital number that marks a pixel as missing, or None.
        ignore_index: Mask value of pixels without a label, or None.
        colors: One (red, green, blue) in 0..255 for each class; evenly spread hues
            if empty.

    Raises:
        ValueError: If a list is empty or has duplicates, or numbers do not fit.
    """

    bands: tuple[str, ...]
    classes: tuple[str, ...]
    dates: int = 1
    scale: float = 1e-4
    dtype: str = 'uint16'
    nodata: float | None = None
    ignore_index: int | None = None
    colors: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        """Bring JSON lists to tuples and check the values."""
        set_ = object.__setattr__
        set_(self, 'bands', tuple(self.bands))
        set_(self, 'classes', tuple(self.classes))
        colors = tuple((int(r), int(g), int(b)) for r, g, b in self.colors)
        set_(self, 'colors', colors or _spread_hues(len(self.classes)))
        for name in ('bands', 'classes'):
            values: tuple[str, ...] = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f'{name}={list(values)} must be a list of one or more different '
                    'names. Remove the duplicates or name what is missing.'
                )
        if len(self.colors) != len(self.classes):
            raise ValueError(
                f'{len(self.colors)} colors for {len(self.classes)} classes: give one '
                'color for each class, or none at all.'
            )
        if self.dates < 1 or self.scale <= 0:
            raise ValueError(
                f'dates={self.dates} and scale={self.scale} must be positive. '
                'Sentinel-2 reflectance x 10000 has scale 0.0001.'
            )
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_classes:
            raise ValueError(
                f'ignore_index={self.ignore_index} is the class '
                f'{self.classes[self.ignore_index]!r}. Use a value outside '
                f'0..{self.num_classes - 1}, for example 255.'
            )

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
        """Channels to show as red, green and blue.

        By name where the names tell (Sentinel-2 or colour names), else the first
        three, or the only one three times.
        """
        lower = [band.lower() for band in self.bands]
        for names in _RGB_NAMES:
            if set(names) <= set(lower):
                red, green, blue = (lower.index(name) for name in names)
                return red, green, blue
        return (2, 1, 0) if len(lower) >= 3 else (0, 0, 0)

    @property
    def wavelengths(self) -> tuple[float | None, ...]:
        """Central wavelength of each band in nanometres, None where not known."""
        return tuple(SENTINEL2_WAVELENGTHS.get(band.upper()) for band in self.bands)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a spec from :meth:`to_dict` output; other keys are not looked at."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def require_match(
        self,
        other: 'SampleSpec',
        ours: str,
        theirs: str,
        names: Sequence[str] = ('bands', 'classes', 'dates', 'scale'),
    ) -> None:
        """Refuse to go on with data of another kind.

        Args:
            other: The spec to compare with.
            ours: What this spec describes, for the message.
            theirs: What the other one describes.
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


def _show(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _spread_hues(count: int) -> tuple[tuple[int, int, int], ...]:
    """Evenly spread hues of two brightnesses, so that neighbours differ."""
    colors = []
    for i in range(count):
        red, green, blue = colorsys.hsv_to_rgb(i / count, 0.65, 0.9 - 0.3 * (i % 2))
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colors)
