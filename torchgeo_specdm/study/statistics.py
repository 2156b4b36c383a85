# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Paired differences, their interval, and the sentence that follows from it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t as student

#: Most seeds that are worth naming.
_MOST_SEEDS = 1000


class Difference(NamedTuple):
    """A mean paired difference with its 95 % interval.

    Attributes:
        mean: Mean over the pairs.
        low: Lower end of the interval; -inf with fewer than two pairs.
        high: Upper end.
        pairs: Number of pairs.
    """

    mean: float
    low: float
    high: float
    pairs: int


def paired_difference(
    treated: Sequence[float], baseline: Sequence[float]
) -> Difference:
    """Student's t interval of the differences of pairs that share a seed.

    Args:
        treated: One score for each seed.
        baseline: The scores of the same seeds, in the same order.

    Returns:
        The mean and its 95 % interval.

    Raises:
        ValueError: If the lists are empty or of different lengths, or a score is no
            number.
    """
    if len(treated) != len(baseline) or not treated:
        raise ValueError(
            f'{len(treated)} scores cannot be paired with {len(baseline)}: every seed '
            'needs one of each. Run the missing ones.'
        )
    differences = [a - b for a, b in zip(treated, baseline, strict=True)]
    if not all(math.isfinite(d) for d in differences):
        raise ValueError(
            f'{list(treated)} and {list(baseline)} must be numbers: no rule tells what '
            'follows from a failed run. Look for its cause and run it again.'
        )
    count = len(differences)
    mean = sum(differences) / count
    if count < 2:
        return Difference(mean, -math.inf, math.inf, count)
    variance = sum((d - mean) ** 2 for d in differences) / (count - 1)
    half = float(student.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return Difference(mean, mean - half, mean + half, count)


def smallest_visible(difference: Difference) -> float:
    """Half the width of the interval: smaller effects look like noise."""
    return (difference.high - difference.low) / 2


def verdict(
    what: str, difference: Difference, score: str = 'mIoU', beside: str = ''
) -> str:
    """Say in a sentence what the interval says, by rule.

    Above zero: it helps. Below zero: it harms. Zero inside: no evidence, with the
    size of the effect that these seeds could have shown. Equal runs: no difference.

    Args:
        what: The arm, such as ``5x synthetic``.
        difference: Paired difference of the score, in 0..1.
        score: Name of the score.
        beside: Result of another arm, to be read with it.

    Returns:
        The sentence; differences are in points (hundredths).
    """
    beside = f'; {beside}' if beside else ''
    mean, low, high = (100 * v for v in difference[:3])
    d = Difference(mean, low, high, difference.pairs)
    if difference.pairs < 2:
        return (
            f'{what} changes {score} by {d.mean:+.1f} points in one run: '
            f'nothing can be said{beside}. Run more seeds.'
        )
    start = (
        f'{what} changes {score} by {d.mean:+.1f} '
        f'[{d.low:+.1f}, {d.high:+.1f}] points ({d.pairs} seeds): '
    )
    if d.low > 0:
        return f'{start}it helps{beside}.'
    if d.high < 0:
        return f'{start}it harms{beside}.'
    if d.low == d.high:
        return (
            f'{start}no difference in any run{beside}. Look whether synthetic samples '
            'were used at all.'
        )
    return (
        f'{start}no evidence that it helps{beside}. With these seeds, effects below '
        f'{smallest_visible(d):.1f} points cannot be told from noise.'
    )


def visible_effect(spread: float, seeds: int) -> float:
    """The smallest effect that so many seeds can tell from noise, roughly.

    The spread of differences between paired runs is not known beforehand; that of
    independent ones, the square root of two times the spread of single runs, is taken.

    Args:
        spread: Standard deviation of real-only runs, over seeds.
        seeds: Number of seeds, 2 or more.

    Returns:
        Half of the expected width of the 95 % interval, in the unit of *spread*.
    """
    return float(student.ppf(0.975, seeds - 1)) * spread * math.sqrt(2 / seeds)


def needed_seeds(spread: float, effect: float) -> int:
    """Number of seeds that could tell an effect from noise.

    Args:
        spread: Standard deviation of real-only runs, over seeds.
        effect: The effect to see, above 0, in the same unit.

    Returns:
        The number of seeds, at most 1000.
    """
    for seeds in range(2, _MOST_SEEDS):
        if visible_effect(spread, seeds) <= effect:
            return seeds
    return _MOST_SEEDS
