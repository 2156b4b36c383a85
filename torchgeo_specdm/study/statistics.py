# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Paired differences, their interval, and the sentence that follows from it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t as student


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


def verdict(ratio: float, difference: Difference, score: str = 'mIoU') -> str:
    """Say in a sentence what the interval says, by rule.

    Above zero: it helps. Below zero: it harms. Zero inside: no evidence, with the
    size of the effect that these seeds could have shown. Equal runs: no difference.

    Args:
        ratio: Synthetic samples for each real one.
        difference: Of the score, in 0..1.
        score: Name of the score.

    Returns:
        The sentence; differences are in points (hundredths).
    """
    mean, low, high = (100 * v for v in difference[:3])
    d = Difference(mean, low, high, difference.pairs)
    if difference.pairs < 2:
        return (
            f'{ratio:g}x synthetic changes {score} by {d.mean:+.1f} points in one run: '
            'nothing can be said. Run more seeds.'
        )
    start = (
        f'{ratio:g}x synthetic changes {score} by {d.mean:+.1f} '
        f'[{d.low:+.1f}, {d.high:+.1f}] points ({d.pairs} seeds): '
    )
    if d.low > 0:
        return start + 'it helps.'
    if d.high < 0:
        return start + 'it harms.'
    if d.low == d.high:
        return (
            start + 'no difference in any run. Look whether synthetic samples were '
            'used at all.'
        )
    return (
        start + 'no evidence that it helps. With these seeds, effects below '
        f'{smallest_visible(d):.1f} points cannot be told from noise.'
    )
