# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Masks that are chosen so that shares of classes are met."""

import numpy as np
import pytest
from numpy.typing import NDArray

from torchgeo_specdm.tasks.support.shares import choose

#: Mean share of the first of three classes, which is rare.
RARE = 0.05


@pytest.fixture(scope='module')
def masks() -> NDArray[np.float64]:
    """Shares of two of three classes in 8 masks for each of 400 samples."""
    random = np.random.default_rng(0)
    shares = random.dirichlet([0.1, 0.9, 1.0], (400, 8))[..., :2]
    assert shares[..., 0].mean() == pytest.approx(RARE, abs=0.005)
    return shares


def taken(shares: NDArray[np.float64], asked: list[float]) -> NDArray[np.float64]:
    positions = choose(shares[..., : len(asked)], np.array(asked))
    return shares[np.arange(len(shares)), positions]


@pytest.mark.parametrize('asked', [[0.0], [0.01], [RARE], [0.2], [0.1, 0.6]])
def test_shares_are_met(masks: NDArray[np.float64], asked: list[float]) -> None:
    got = taken(masks, asked)[:, : len(asked)].mean(0)
    np.testing.assert_allclose(got, asked, atol=1 / len(masks))


def test_masks_keep_their_variety(masks: NDArray[np.float64]) -> None:
    # the nearest mask each time would have a spread of .03
    chosen, first = taken(masks, [RARE])[:, 0], masks[:, 0, 0]
    assert chosen.std() > 0.8 * first.std()
    assert np.median(chosen) < 0.5 * RARE


def test_a_share_out_of_reach_ends_as_near_as_can_be(
    masks: NDArray[np.float64],
) -> None:
    most = masks[..., 0].max(1)
    # nothing is amiss before the first
    np.testing.assert_array_equal(taken(masks, [1.0])[1:, 0], most[1:])


def test_further_samples_do_not_change_those_before(masks: NDArray[np.float64]) -> None:
    asked = np.array([0.2, 0.5])
    all_, some = choose(masks, asked), choose(masks[:100], asked)
    np.testing.assert_array_equal(all_[:100], some)
