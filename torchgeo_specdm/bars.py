# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Progress: a bar on a terminal, and now and then a line in a file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

#: Seconds between two states, on a terminal and in a file.
_PACE, _FILE_PACE = 0.5, 60


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
