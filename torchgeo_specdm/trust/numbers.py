# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Numbers as pages and sentences show them."""

import math


def number(value: float | None, form: str = '.1f', factor: float = 1) -> str:
    """A number as it is shown; a dash for what is none.

    Args:
        value: A number, NaN, an infinity or None.
        form: Format specification.
        factor: What to multiply with, 100 for points.

    Returns:
        The text, with a true minus sign.
    """
    if value is None or not math.isfinite(value):
        return '\N{EN DASH}'
    return format(factor * value, form).replace('-', '\N{MINUS SIGN}')


def short(value: float | None) -> str:
    """A number with three digits that count.

    Args:
        value: A number, NaN, an infinity or None.

    Returns:
        The text; a dash for what is none.
    """
    large = value is not None and abs(value) >= 999.5
    return number(value, '.0f' if large else '.3g')
