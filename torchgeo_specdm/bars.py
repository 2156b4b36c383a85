# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Progress: a bar on a terminal, now and then a line in a file, and durations."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

#: Seconds between two states, on a terminal and in a file.
_PACE, _FILE_PACE = 0.5, 60
#: Units of durations, their seconds, and the seconds from which on they are used.
_UNITS = (('days', 86_400, 172_800), ('h', 3600, 5400), ('min', 60, 90), ('s', 1, 0))


class _Lines:
    """Takes what tqdm draws over and over on one line, and writes lines."""

    def write(self, text: str) -> None:
        """Write a state, without the signs that go back to the start of a line."""
        if text.strip():
            sys.stderr.write(text.strip('\r\n') + '\n')

    def flush(self) -> None:
        """Write what the system has kept back."""
        sys.stderr.flush()


def bar(
    work: Iterable[Any] | None = None,
    title: str = '',
    total: int | None = None,
    initial: int = 0,
    hidden: bool = False,
) -> Any:
    """Show how far a piece of work is, and the time left.

    In a file (or wherever stderr is no terminal) a state is a line of its own, each
    minute; work of less than a minute leaves none.

    Args:
        work: Pieces that are done one by one; None where the caller counts.
        title: Name of the work.
        total: Number of pieces; that of *work* if None.
        initial: Pieces that are done already.
        hidden: Whether to show nothing.

    Returns:
        A :class:`tqdm.tqdm`.
    """
    terminal = sys.stderr.isatty()
    drawn = '|{bar}| ' if terminal else ''
    return tqdm(
        work,
        title,
        total,
        initial=initial,
        disable=hidden,
        file=sys.stderr if terminal else _Lines(),
        dynamic_ncols=terminal,
        mininterval=_PACE if terminal else _FILE_PACE,
        delay=0 if terminal else _FILE_PACE,
        bar_format='  {desc}: {n_fmt}/{total_fmt} '
        + drawn
        + '{remaining} left{postfix}',
    )


def duration(seconds: float) -> str:
    """Write a duration in the unit that a person reads it in.

    Args:
        seconds: Seconds; less than one counts as one.

    Returns:
        A number of seconds, minutes, hours or days with its unit.
    """
    unit, length = next((u, n) for u, n, least in _UNITS if seconds >= least)
    value = max(seconds, 1) / length
    places = 1 if unit != 's' and value < 10 else 0
    return f'{value:.{places}f} {unit}'
