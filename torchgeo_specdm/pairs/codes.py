# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Masks of class codes, from files to positions of classes."""

from collections.abc import Container
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .rasters import Raster, read_raster
from .spec import SampleSpec

#: Code of pixels without any: NaN, transparent, or outside of the mask of the file. It
#: is below what a class or a value for no label may be.
MISSING = -(2**31)


def read_codes(
    path: Path, variable: str | None = None, known: Container[int] | None = None
) -> NDArray[np.int64]:
    """Read a mask as it is stored.

    Args:
        path: A georaster of one band, or of several that are equal.
        variable: Name of the array in a file of several; the one that can be meant if
            None.
        known: Codes that have a meaning; a nodata value that is none of them means no
            code. None for all.

    Returns:
        Whole numbers (H, W), :data:`MISSING` where there is none.

    Raises:
        ValueError: As :func:`.read_raster` and :func:`codes_of`.
    """
    return codes_of(path, read_raster(path, (), variable), known)


def codes_of(
    path: Path, raster: Raster, known: Container[int] | None = None
) -> NDArray[np.int64]:
    """The class codes of a raster that was read.

    Args:
        path: The file, for the message.
        raster: Content of the mask.
        known: Codes that have a meaning; a nodata value that is none of them means no
            code. None for all.

    Returns:
        Whole numbers (H, W), :data:`MISSING` where there is none.

    Raises:
        ValueError: If there are several bands that differ, or fractions.
    """
    values = raster.values
    # a grey picture may have been saved as red, green and blue
    if len(values) != 1 and not (values == values[:1]).all():
        raise ValueError(
            f'{path} has {len(values)} bands, but a mask must have one, with a whole '
            'number for each class. Export it so, or turn its colours into numbers: '
            'rgb2pct.py -pct palette.txt.'
        )
    plane = values[0]
    gap, tagged = ~raster.valid[0], nodata_code(raster)
    if tagged is not None and (known is None or tagged in known):
        # which is a code of its own
        gap &= plane != tagged
    if plane.dtype.kind == 'f':
        gap |= np.isnan(plane)
        parts = plane[~gap & (plane != np.rint(plane))]
        if parts.size:
            raise ValueError(
                f'{path} has values such as {parts[0]:g}, but a mask must hold whole '
                'numbers. Export it as uint8, without resampling between classes.'
            )
    codes: NDArray[np.int64] = np.where(gap, 0, plane).astype(np.int64)
    codes[gap] = MISSING
    return codes


def nodata_code(raster: Raster) -> int | None:
    """The nodata value of a mask, if it can be a code.

    Args:
        raster: Content of the mask.

    Returns:
        A whole number of 32 bits, or None.
    """
    return whole_code(raster.nodata)


def whole_code(value: float | None) -> int | None:
    """A nodata value as a code.

    Args:
        value: The nodata value of a file, if it has one.

    Returns:
        A whole number of 32 bits; None where it can be no code.
    """
    # of NaN and infinity, too, nothing is left by division
    if value is None or value % 1 != 0 or abs(value) > -MISSING - 1:
        return None
    return int(value)


def class_positions(
    codes: NDArray[np.int64], spec: SampleSpec, path: Path, remedy: str
) -> NDArray[np.int64]:
    """Turn codes of a mask into class positions.

    Args:
        codes: From :func:`read_codes`.
        spec: Has the codes of the classes, and those of no label.
        path: The file, for the message.
        remedy: Advice about other values, for the message.

    Returns:
        Positions of the same shape, the ignore index where there is no label.

    Raises:
        ValueError: If there are other values.
    """
    labels = spec.labels
    if spec.ignore_index is not None:
        labels[MISSING] = spec.ignore_index
    positions, known = np.zeros_like(codes), np.zeros(codes.shape, bool)
    for code, label in labels.items():
        here = codes == code
        positions[here] = label
        known |= here
    if not known.all():
        values = np.unique(codes[~known])[:5].tolist()
        found = f'the values {values}, which are no classes'
        if MISSING in values:
            found = 'pixels without a value, but here every pixel has a class'
        raise ValueError(
            f'{path} has {found}; allowed are {sorted(spec.labels)}. {remedy}'
        )
    return positions
