# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The choice of samples that are as good as real ones by their scores."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .scores import COPIES, TRUST

#: Real samples that a quantile needs.
_FEWEST = 20


class Decision(NamedTuple):
    """The samples that are kept, and the reasons."""

    accepted: list[bool]  #: for each synthetic sample
    reasons: list[list[str]]  #: why each one is left out, empty if it is not
    thresholds: dict[str, float]  #: the least value of each score that passes
    real: float  #: share of the real samples that pass too, in 0..1


def choose(
    synthetic: Sequence[Mapping[str, Any]],
    real: Sequence[Mapping[str, Any]],
    quantile: float | None = 0.1,
    copies: float | None = 0.01,
    by: Sequence[str] = TRUST,
) -> Decision:
    """Keep the samples that score as real ones do.

    A score that is None says nothing, and the sample passes.

    Args:
        synthetic: Scores of each sample: ``agreement``, ``edges`` and ``spectrum``,
            where more is better, and ``distance`` and ``feature_distance`` to the
            nearest real training sample, where too little is a copy.
        real: Scores, of the same names, of real training samples, each judged by
            networks that did not see it, with distances to training samples of other
            places.
        quantile: Scores in *by* must reach this quantile of the real ones, in 0..1;
            None does not look at them.
        copies: Distances must reach this quantile of the real ones; None does not
            look at them.
        by: Scores to go by: any of ``agreement``, ``edges`` and ``spectrum``.

    Returns:
        The decision.

    Raises:
        ValueError: If a quantile is out of range, there is no such score, or a score
            has fewer than 20 real values.
    """
    if unknown := sorted({*by} - {*TRUST}):
        raise ValueError(f'by={list(by)} has {unknown}; use any of {list(TRUST)}.')
    wanted: dict[str, float] = {}
    for name, value, keys in (('quantile', quantile, by), ('copies', copies, COPIES)):
        if value is None:
            continue
        if not 0 <= value < 1:
            raise ValueError(
                f'{name}={value} must be 0 or more and less than 1. 0.1 leaves out what '
                'scores below nine in ten real samples; None does not look.'
            )
        wanted |= dict.fromkeys(keys, value)
    thresholds = {
        key: _quantile(real, key, value)
        for key, value in wanted.items()
        if any(row[key] is not None for row in synthetic)
    }
    reasons = [_faults(row, thresholds) for row in synthetic]
    passing = sum(not _faults(row, thresholds) for row in real)
    accepted = [not faults for faults in reasons]
    return Decision(accepted, reasons, thresholds, passing / max(len(real), 1))


def balance(shares: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Choose samples whose classes cover areas as equal as possible together.

    One sample after the other is added, always the one that brings the areas nearest
    to equal; the first one of several that do.

    Args:
        shares: Area of each class in each sample (N, K), in any unit, 0 or more.
        count: Number of samples to choose, up to N.

    Returns:
        Positions of the chosen samples (count,), sorted.

    Raises:
        ValueError: If there are fewer samples.
    """
    if not 1 <= count <= len(shares):
        raise ValueError(
            f'balance={count} must be 1 or more and at most {len(shares)}, the number '
            'of samples to choose from. Take fewer, or filter less strictly.'
        )
    areas = shares.astype(np.float64)
    sizes, squares = areas.sum(1), (areas**2).sum(1)
    total = np.zeros(areas.shape[1])
    free = np.ones(len(areas), bool)
    for _ in range(count):
        # the sum of squares over the squared sum is least where areas are equal
        spread = (total**2).sum() + 2 * (areas @ total) + squares
        whole = (total.sum() + sizes) ** 2
        # a sample without labels changes nothing, and teaches nothing: last
        cost = np.divide(spread, whole, out=np.full_like(spread, 2), where=sizes > 0)
        best = int(np.where(free, cost, np.inf).argmin())
        free[best] = False
        total += areas[best]
    return np.flatnonzero(~free)


def _quantile(real: Sequence[Mapping[str, Any]], key: str, quantile: float) -> float:
    values = [row[key] for row in real if row[key] is not None]
    if len(values) < _FEWEST:
        raise ValueError(
            f'{len(values)} real samples have the score {key!r}, but a threshold needs '
            f'{_FEWEST} or more: a quantile of a handful is a guess. Measure more real '
            'training samples.'
        )
    return float(np.quantile(values, quantile))


def _faults(row: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[str]:
    return [
        f'{key} below {least:.3g}'
        for key, least in thresholds.items()
        if row[key] is not None and row[key] < least
    ]
