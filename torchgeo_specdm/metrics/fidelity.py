# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Fidelity and diversity of features, each number beside real against real."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .features import Features

#: A feature that varies less than this over real samples is constant.
_LEAST_STD = 1e-9
#: Neighbours that make the ball around a sample (Naeem et al. 2020, section 5).
_NEIGHBOURS = 5
#: Subsets of half of the samples over which a kernel distance is seen to vary.
_SUBSETS = 20


def compare_features(
    real: Features,
    synthetic: Features,
    held_out: Features | None = None,
    reconstructed: Features | None = None,
    repeats: int = 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare with half of the real training samples what should be like them.

    The places of the training samples are halved at random. The first half is the
    reference of all: of the second half (the floor of distances and the ceiling of
    the rest), of held-out samples, of their reconstructions (all that the codec lets
    through), and of synthetic ones. All numbers come from equally many samples, since
    all but the kernel distance depend on how many they are. Features are divided by
    the standard deviation that they have over the training samples.

    Args:
        real: Features of training samples.
        synthetic: Features of synthetic samples; their places are not looked at.
        held_out: Features of real samples of other places.
        reconstructed: Features of the held-out samples as the codec gives them back, in
            the same order, so that the two differ by the codec alone.
        repeats: Number of random halvings to average over.
        seed: Seed of the halvings.

    Returns:
        ``frechet``, ``kernel``, ``precision``, ``recall``, ``density`` and
        ``coverage``, each with ``value`` (of the synthetic samples), ``floor`` (real
        against real) and, if given, ``held_out`` and ``reconstructed``; with
        ``kernel`` also ``std``, that of its value over subsets; and ``samples``, on
        either side of each number. With too few samples for neighbours, the last four
        are NaN; all are with fewer than two, or with training samples of one place,
        which are too alike for a floor.
    """
    halves = _halve(real.places, repeats, seed)
    spread, middle = real.values.std(0), real.values.mean(0)
    scale = spread.where(spread > _LEAST_STD, 1.0)
    train = (real.values - middle) / scale
    sides = {'value': synthetic, 'held_out': held_out, 'reconstructed': reconstructed}
    given = {k: (x.values - middle) / scale for k, x in sides.items() if x is not None}
    least = min(min(int(half.sum()), int((~half).sum())) for half in halves)
    count = min(least, *map(len, given.values()))
    found: dict[str, dict[str, list[float]]] = {}
    for turn, half in enumerate(halves):
        reference = _pick(train[half], count, [seed, turn])
        for side, features in {'floor': train[~half], **given}.items():
            other = _pick(features, count, [seed, turn])
            for name, number in _compare(reference, other).items():
                found.setdefault(name, {}).setdefault(side, []).append(number)
    means = {
        name: {side: float(np.mean(numbers)) for side, numbers in row.items()}
        for name, row in found.items()
    }
    means['kernel']['std'] = means.pop('kernel_std')['value']
    return means | {'samples': count}


def _halve(places: Tensor, repeats: int, seed: int) -> list[Tensor]:
    """Halve the places at random: which samples (N,) lie in the first half."""
    # torchmetrics makes a number of what has one element
    places = places.cpu().flatten()
    names = np.unique(places.numpy())
    random = np.random.default_rng(seed)
    return [
        torch.isin(
            places, torch.from_numpy(random.permutation(names)[: len(names) // 2])
        )
        for _ in range(repeats)
    ]


def _pick(features: Tensor, count: int, seed: list[int]) -> Tensor:
    """A random choice that is the same for sets of the same size.

    So the same tiles are picked of the held-out set and of its reconstructions.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    return features[torch.from_numpy(order[:count])]


def _compare(real: Tensor, other: Tensor) -> dict[str, float]:
    """All numbers of two equally large sets of standardised features."""
    near = neighbour_scores(real, other)
    if len(real) < 2:
        return dict.fromkeys(('frechet', 'kernel', 'kernel_std', *near), np.nan)
    value, std = kernel_distance(real, other)
    distance = frechet_distance(real, other)
    return {'frechet': distance, 'kernel': value, 'kernel_std': std, **near}


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two Gaussians fitted to features.

    Args:
        first: Features (N, D), N >= 2.
        second: Features (M, D), M >= 2.

    Returns:
        The squared distance, 0 or more. It is biased upwards by about 1 / N, so
        compare only numbers of equal counts.

    Raises:
        ValueError: If one side has fewer than two samples.
    """
    _require_two(first, second)
    shift = (first.mean(0) - second.mean(0)).square().sum()
    a, b = _factor(first), _factor(second)
    # the trace of the square root of the product of the covariances a' a and b' b
    roots = torch.linalg.svdvals(a @ b.T).sum()
    distance = shift + a.square().sum() + b.square().sum() - 2 * roots
    return max(float(distance), 0.0)


def _factor(features: Tensor) -> Tensor:
    """The smallest matrix whose square is the covariance of features (N, D)."""
    samples, size = features.shape
    features = features.double() / math.sqrt(samples - 1)
    centred = features - features.mean(0)
    return torch.linalg.qr(centred, mode='r').R if samples > size else centred


def _require_two(first: Tensor, second: Tensor) -> None:
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f'{len(first)} and {len(second)} samples: a distance of features needs two '
            'or more on each side. Generate more.'
        )


class KernelDistance(NamedTuple):
    """A kernel distance and how much it varies.

    Attributes:
        value: The unbiased squared distance: 0 on average for equal distributions,
            so it can be negative.
        std: Standard deviation of the distance over random subsets of half of the
            samples.
    """

    value: float
    std: float


def kernel_distance(first: Tensor, second: Tensor, seed: int = 0) -> KernelDistance:
    """Maximum mean discrepancy with a cubic kernel (KID, Binkowski et al. 2018).

    Args:
        first: Features (N, D), N >= 2, around 0: the kernel is not blind to a shift
            of all of them.
        second: Features (M, D), M >= 2.
        seed: Seed of the subsets.

    Returns:
        The squared distance, in units of the kernel, and its standard deviation; NaN
        if half of a side is a single sample.

    Raises:
        ValueError: If one side has fewer than two samples.
    """
    _require_two(first, second)
    a, b, both = (
        (x @ y.T / x.shape[1] + 1) ** 3
        for x, y in ((first, first), (second, second), (first, second))
    )
    for own in (a, b):
        own.fill_diagonal_(0)
    random = np.random.default_rng(seed)
    # the first column picks all samples, each other one a subset
    picks = [_subsets(random, len(x)).to(x) for x in (first, second)]
    values = -2 * _means(picks[0], both, picks[1], 0)
    for own, picked in ((a, picks[0]), (b, picks[1])):
        values += _means(picked, own, picked, 1)
    return KernelDistance(float(values[0]), float(values[1:].std()))


def _subsets(random: np.random.Generator, count: int) -> Tensor:
    """All of so many samples, and random halves of them: 1 where one is picked."""
    ranks = random.permuted(np.tile(np.arange(count), (_SUBSETS, 1)), axis=1)
    halves = torch.from_numpy(ranks < count // 2)
    return torch.cat([torch.ones(1, count, dtype=torch.bool), halves]).T


def _means(left: Tensor, kernel: Tensor, right: Tensor, less: int) -> Tensor:
    """Mean of the kernel over the pairs that each subset holds (subsets,).

    Args:
        left: 1 where a row is picked (N, subsets).
        kernel: Kernel of all pairs (N, M).
        right: 1 where a column is picked (M, subsets).
        less: 1 if rows and columns are the same samples, and no pair with itself
            counts, else 0.
    """
    pairs = left.sum(0) * (right.sum(0) - less)
    return (left * (kernel @ right)).sum(0) / pairs


def neighbour_scores(real: Tensor, other: Tensor) -> dict[str, float]:
    """Whether samples lie where real ones do, and whether they lie everywhere there.

    The ball of a sample reaches to its fifth nearest neighbour in its own set
    (Kynkaanniemi et al. 2019; Naeem et al. 2020).

    Args:
        real: Features (N, D).
        other: Features (M, D); compare only numbers of equal counts.

    Returns:
        ``precision``: share of the other samples in any real ball. ``recall``: share
        of the real samples in any ball of the others. ``density``: mean number of real
        balls that another sample lies in, over five; not bounded by 1, and not moved
        by a single far real sample. ``coverage``: share of the real balls with another
        sample in them. All NaN with five samples or fewer on a side.
    """
    if min(len(real), len(other)) <= _NEIGHBOURS:
        return dict.fromkeys(('precision', 'recall', 'density', 'coverage'), np.nan)
    away = torch.cdist(real, other)
    in_real = away <= _radii(real)[:, None]
    in_other = away <= _radii(other)
    return {
        'precision': float(in_real.any(0).double().mean()),
        'recall': float(in_other.any(1).double().mean()),
        'density': float(in_real.sum(0).double().mean()) / _NEIGHBOURS,
        'coverage': float(in_real.any(1).double().mean()),
    }


def _radii(features: Tensor) -> Tensor:
    """Distance of each sample (N, D) to its fifth nearest neighbour, (N,)."""
    away = torch.cdist(features, features).fill_diagonal_(torch.inf)
    return away.kthvalue(_NEIGHBOURS, dim=1).values
