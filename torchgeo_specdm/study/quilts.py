# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""New labelled pairs stitched from real ones: the rival that costs nothing to learn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Mask = NDArray[np.int64]
_Error = NDArray[np.float64]

#: Blocks along the shorter side, about, and the share of a block that overlaps.
_BLOCKS, _OVERLAP = 3, 0.3
#: Windows of real pairs that a block is chosen from.
_CANDIDATES = 40
#: Squared difference, in variances of a band, that a pixel of another class counts as.
_OTHER_CLASS = 1.0


class Pair(NamedTuple):
    """An image and its labels.

    Attributes:
        image: Digital numbers (C, H, W); dates are bands here.
        mask: Class positions (H, W).
    """

    image: Image
    mask: Mask

    def cut(self, rows: slice, columns: slice) -> 'Pair':
        """Cut a window, without a copy."""
        return Pair(self.image[:, rows, columns], self.mask[rows, columns])

    def turned(self, number: int) -> 'Pair':
        """One of eight flips and quarter turns, without a copy."""
        image, mask = (
            self if number < 4 else Pair(self.image[..., ::-1], self.mask[:, ::-1])
        )
        turns = number % 4
        return Pair(np.rot90(image, turns, (-2, -1)), np.rot90(mask, turns))


def quilt(pairs: Sequence[Pair], random: np.random.Generator) -> Pair:
    """Stitch blocks of real pairs, image and mask together (Efros and Freeman 2001).

    Blocks overlap. Each is the best fit to what is there among some random windows,
    turned at random, of other pairs than its neighbours came from; the seam between
    old and new runs where they differ least, in the image and in the labels.

    Args:
        pairs: Real pairs of one size, two or more.
        random: The source of choice.

    Returns:
        A pair of their size: sharp and aligned as real ones, with layouts of no place.
    """
    height, width = pairs[0].mask.shape
    side = max(min(height, width) // _BLOCKS, 2)
    overlap = max(int(side * _OVERLAP), 1)
    deviation = np.mean([pair.image.std((1, 2)) for pair in pairs], 0)
    spread = np.where(deviation > 0, deviation, 1)[:, None, None]
    whole = Pair(np.zeros_like(pairs[0].image), np.zeros_like(pairs[0].mask))
    origins: dict[tuple[int, int], int] = {}
    rows, columns = (_starts(length, side, overlap) for length in (height, width))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            there = whole.cut(slice(row, row + side), slice(column, column + side))
            # of the last blocks more may be there than of others
            above = rows[i - 1] + side - row if i else 0
            left = columns[j - 1] + side - column if j else 0
            strips = [(slice(above), slice(side)), (slice(above, side), slice(left))]
            near = {origins.get(place, -1) for place in ((i - 1, j), (i, j - 1))}
            best = np.inf
            for _ in range(_CANDIDATES if above or left else 1):
                number, window = _window(pairs, near, side, random)
                cost = sum(
                    float(_differences(there.cut(*s), window.cut(*s), spread).sum())
                    for s in strips
                )
                if cost < best:
                    best, chosen, origins[i, j] = cost, window, number
            apart = _differences(there, chosen, spread)
            new = np.ones((side, side), bool)
            new[:above] &= _beyond_seam(apart[:above].T).T
            new[:, :left] &= _beyond_seam(apart[:, :left])
            there.image[:, new], there.mask[new] = (
                chosen.image[:, new],
                chosen.mask[new],
            )
    return whole


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where blocks begin, so that they cover a length and the last one fits."""
    starts = list(range(0, length - side, side - overlap))
    return [*starts, length - side]


def _window(
    pairs: Sequence[Pair], near: set[int], side: int, random: np.random.Generator
) -> tuple[int, Pair]:
    """A random window of a pair that no neighbour came from, and its number."""
    numbers = [n for n in range(len(pairs)) if n not in near] or [*range(len(pairs))]
    number = int(random.choice(numbers))
    height, width = pairs[number].mask.shape
    row, column = (int(random.integers(n - side + 1)) for n in (height, width))
    window = pairs[number].cut(slice(row, row + side), slice(column, column + side))
    return number, window.turned(int(random.integers(8)))


def _differences(first: Pair, second: Pair, spread: Image) -> _Error:
    """Squared difference of each pixel, in image and labels (H, W)."""
    error: _Error = np.square((first.image - second.image) / spread).mean(0)
    error += _OTHER_CLASS * (first.mask != second.mask)
    return error


def _beyond_seam(error: _Error) -> NDArray[np.bool_]:
    """Pixels (N, width) that lie on or right of the path of least error downwards."""
    count, width = error.shape
    if not width:
        return np.ones((count, 0), bool)
    total = error.copy()
    for row in range(1, count):
        before = np.pad(total[row - 1], 1, constant_values=np.inf)
        total[row] += np.minimum(np.minimum(before[:-2], before[1:-1]), before[2:])
    path = np.empty(count, int)
    path[-1] = total[-1].argmin()
    for row in range(count - 2, -1, -1):
        first = max(path[row + 1] - 1, 0)
        path[row] = first + total[row, first : path[row + 1] + 2].argmin()
    return np.arange(width) >= path[:, None]
