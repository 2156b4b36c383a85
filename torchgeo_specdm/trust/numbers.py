# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Numbers as pages and sentences find, grade and show them."""

import math
from collections.abc import Mapping
from typing import Any, Literal

State = Literal['good', 'doubtful', 'bad', 'not measured']


def number(value: float | None, form: str = '.1f', factor: float = 1) -> str:
    """A number as it is shown; a dash for what is none.

    Args:
        value: A number, NaN, an infinity or None.
        form: Format specification.
        factor: Factor to multiply with, 100 for points.

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


def find_number(values: Any, *path: str) -> float | None:
    """Find a finite number in nested mappings.

    Args:
        values: The mappings, or anything else.
        *path: Keys, the outermost first.

    Returns:
        The number; None for whatever else is there.
    """
    for key in path:
        if not isinstance(values, Mapping):
            return None
        values = values.get(key)
    known = isinstance(values, int | float) and math.isfinite(values)
    return float(values) if known else None


def graded(value: float, good: float, doubtful: float) -> State:
    """Grade a number of which more is better.

    Args:
        value: The number.
        good: Good from here on.
        doubtful: Doubtful from here on.

    Returns:
        ``good``, ``doubtful`` or ``bad``.
    """
    return 'good' if value >= good else 'doubtful' if value >= doubtful else 'bad'
