# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Units of images that do not name them."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layout import BANDS, DESCRIPTION
from .rasters import Raster
from .spec import SampleSpec

_log = logging.getLogger(__name__)

#: Percentiles between which most pixels lie; glints and shadows lie outside.
_USUAL_RANGE = (1, 99)
#: Reflectance that most pixels of an image never have: snow and cloud have about 1.
_MOST_REFLECTANCE = 2.0
#: Reflectance that images go beyond in some band: numbers up to 255 do not.
_LEAST_REFLECTANCE = 0.0256
#: Reflectance that some pixels of an image are below in some band, even of snow.
_DARK = 0.5
#: Reflectance below 0 comes from noise and correction, and is never below this.
_DARKEST = -0.5
#: Times that one image or band goes beyond others in the same unit.
_MOST_TIMES = 30.0


def quantity(spec: SampleSpec) -> str:
    """Word for digital numbers times the scale plus the offset of a spec.

    Args:
        spec: Description of the images.

    Returns:
        ``brightness`` of bytes, ``value`` of numbers that are kept as they are, which
        may be decibels, else ``reflectance``.
    """
    if spec.dtype == 'uint8':
        return 'brightness'
    kept = np.all(np.equal(spec.scale, 1)) and not np.any(spec.offset)
    return 'value' if kept else 'reflectance'


def usual_unit(
    brightest: float, lowest: float = 0, whole: bool = True
) -> tuple[float, str]:
    """Guess the unit of images that do not name it.

    Args:
        brightest: The highest value that was seen in them.
        lowest: The lowest one. Numbers below 0 are no bytes: decibels perhaps.
        whole: Whether all numbers are whole.

    Returns:
        Scale and type of digital numbers that go so far: reflectance up to 2, bytes
        up to 255, else reflectance times 10000, of a type that can hold them.
    """
    if brightest <= 2 or (brightest <= 255 and lowest < 0):
        return 1.0, 'float32'
    scale, dtype = (1 / 255, 'uint8') if brightest <= 255 else (1e-4, 'uint16')
    # of thousands, fractions say nothing
    return scale, dtype if lowest >= 0 and (whole or brightest > 255) else 'float32'


def scale_of_whole_numbers(raster: Raster, root: Path) -> float:
    """The usual factor of whole numbers, with a warning where it cannot be.

    Args:
        raster: An image.
        root: Folder of the image, for the warning.

    Returns:
        1/255 for bytes, else 0.0001.
    """
    if raster.values.dtype == np.uint8:
        return usual_unit(255)[0]
    scale = usual_unit(math.inf)[0]
    low, high = (scale * end for end in _usual_range(raster.values[raster.valid]))
    likely = _LEAST_REFLECTANCE < high <= _MOST_REFLECTANCE and low < _DARK
    if high and not likely:
        _log.warning(
            '%s: images are taken for reflectance x 10000, and would go from %.3g to '
            '%.3g. Set scale and offset in %s (numbers up to 255: 0.0039 and 0; Landsat '
            'Collection 2: 2.75e-05 and -0.2).',
            root,
            low,
            high,
            DESCRIPTION,
        )
    return scale


def scale_of_fractions(
    rasters: Sequence[Raster], names: Sequence[str], root: Path
) -> float:
    """Guess the factor of floating-point numbers, with a warning that says so.

    Args:
        rasters: Some images, one or more.
        names: Name of each band.
        root: Folder of the images, for the warning.

    Returns:
        The factor, as of :func:`usual_unit` of what most pixels are.
    """
    low, high = _usual_range(np.concatenate([_measured(r) for r in rasters]))
    _warn_of_units(rasters, names, root)
    scale = usual_unit(high, low)[0]
    meaning = {1.0: 'reflectance 0..1', 1e-4: 'reflectance x 10000'}
    if low < _DARKEST:
        meaning[1.0] = 'numbers of another kind, such as decibels, and kept as they are'
    _log.warning(
        '%s: images are taken for %s, guessed from %.4g to %.4g in most pixels. Set '
        'scale in %s to change that (torchgeo-specdm describe --write makes it).',
        root,
        meaning.get(scale, 'numbers 0..255'),
        low,
        high,
        DESCRIPTION,
    )
    return scale


def _measured(raster: Raster, band: int | slice = slice(None)) -> NDArray[Any]:
    """All numbers of a band, or of all bands, that are not missing."""
    values, valid = raster.values[band], raster.valid[band]
    measured: NDArray[Any] = values[valid & np.isfinite(values)]
    return measured


def _usual_range(values: NDArray[Any]) -> tuple[float, float]:
    """Between which most values lie; 0 without any."""
    low, high = np.percentile(values, _USUAL_RANGE) if values.size else (0.0, 0.0)
    return float(low), float(high)


def _warn_of_units(rasters: Sequence[Raster], names: Sequence[str], root: Path) -> None:
    """Say if images, or bands, go as far beyond others as in another unit."""
    alike = [r for r in rasters if len(r.values) == len(names)]
    # what most values go up to: images x bands
    tops = np.array(
        [
            [_usual_range(np.abs(_measured(r, i)))[1] for r in alike]
            for i in range(len(names))
        ]
    ).T
    by_image, by_band = np.median(tops, axis=1), tops.max(axis=0, initial=0)
    least, most = by_image[by_image > 0].min(initial=np.inf), by_image.max(initial=0)
    if most > _MOST_TIMES * least and usual_unit(least) != usual_unit(most):
        _log.warning(
            '%s: some images go up to %.3g, others to %.3g. If their units differ, '
            'export all in one.',
            root,
            least,
            most,
        )
    usual = np.median(by_band)
    far = by_band > _MOST_TIMES * usual
    beyond = [name for name, is_far in zip(names, far, strict=True) if is_far]
    # dead bands have 0
    if beyond and usual:
        _log.warning(
            '%s: %s go up to %.3g, half of the bands to %.3g or less. If their units '
            'differ, give each band its scale in %s.',
            root,
            ', '.join(beyond),
            by_band.max(),
            usual,
            BANDS,
        )
