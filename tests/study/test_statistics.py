# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from torchgeo_specdm.study.statistics import (
    Difference,
    needed_seeds,
    paired_difference,
    smallest_visible,
    verdict,
    visible_effect,
)


class TestPairedDifference:
    @pytest.mark.parametrize('count', [2, 3, 5, 30])
    def test_agrees_with_scipy(self, count: int) -> None:
        random = np.random.default_rng(count)
        base = random.uniform(0.3, 0.6, count)
        treated = base + random.normal(0.02, 0.03, count)
        found = paired_difference(list(treated), list(base))
        expected = ttest_rel(treated, base).confidence_interval(0.95)
        assert found.mean == pytest.approx((treated - base).mean())
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert found.pairs == count

    def test_pairs_share_a_seed(self) -> None:
        # the same scores in another order are the same means but other pairs
        base = [0.1, 0.2, 0.3]
        paired = paired_difference([0.11, 0.21, 0.32], base)
        mixed = paired_difference([0.32, 0.11, 0.21], base)
        assert paired.mean == pytest.approx(mixed.mean)
        assert smallest_visible(paired) < 0.1 * smallest_visible(mixed)

    def test_one_pair_has_no_interval(self) -> None:
        found = paired_difference([0.5], [0.4])
        assert found == pytest.approx((0.1, -math.inf, math.inf, 1))

    def test_equal_differences_have_no_width(self) -> None:
        assert paired_difference([0.5, 0.25], [0.5, 0.25]) == (0, 0, 0, 2)

    @pytest.mark.parametrize('scores', [([], []), ([0.1], [0.1, 0.2])])
    def test_refuses_what_is_no_pair(self, scores: tuple[list[float], ...]) -> None:
        with pytest.raises(ValueError, match=r'cannot be paired.*every seed'):
            paired_difference(*scores)

    @pytest.mark.parametrize('score', [math.nan, math.inf])
    def test_refuses_a_failed_run(self, score: float) -> None:
        with pytest.raises(ValueError, match=r'must be numbers.*run it again'):
            paired_difference([0.1, score, 0.2], [0.1, 0.2, 0.3])


VERDICTS = [
    # (mean, low, high, pairs), what must be said, what must not
    ((0.02, 0.01, 0.03, 3), '+2.0 [+1.0, +3.0] points (3 seeds): it helps.', 'evid'),
    ((-0.02, -0.03, -0.01, 5), '-2.0 [-3.0, -1.0] points (5 seeds): it harms.', 'evid'),
    ((0.02, -0.01, 0.05, 3), 'no evidence that it helps', 'it harms'),
    ((-0.02, -0.05, 0.01, 3), 'no evidence that it helps', 'it harms'),
    ((0.02, -0.01, 0.05, 3), 'effects below 3.0 points cannot be told', 'seeds.'),
    # an end at zero is not above it
    ((0.02, 0, 0.04, 3), 'no evidence that it helps', 'it harms'),
    ((-0.02, -0.04, 0, 3), 'no evidence that it helps', 'it harms'),
    ((0.2, -math.inf, math.inf, 1), '+20.0 points in one run: nothing can', 'inf'),
    ((-0.2, -math.inf, math.inf, 1), '-20.0 points in one run: nothing can', 'inf'),
    # no spread at all
    ((0.01, 0.01, 0.01, 3), '+1.0 [+1.0, +1.0] points (3 seeds): it helps.', 'evid'),
    ((-0.01, -0.01, -0.01, 3), '[-1.0, -1.0] points (3 seeds): it harms.', 'evid'),
    ((0, 0, 0, 3), 'no difference in any run. Look whether synthetic', 'evidence'),
]


@pytest.mark.parametrize('difference, said, not_said', VERDICTS)
def test_verdict_follows_the_interval(
    difference: tuple[float, float, float, int], said: str, not_said: str
) -> None:
    sentence = verdict('3x synthetic', Difference(*difference))
    assert sentence.startswith('3x synthetic changes mIoU by ')
    assert said in sentence and not_said not in sentence.replace(said, '')


@pytest.mark.parametrize('ends', [(0.01, 0.03), (-0.01, 0.05), (0.02, 0.02)])
def test_verdict_names_arm_score_and_what_is_beside(ends: tuple[float, float]) -> None:
    beside = 'cutmix gives +1.9 [+1.1, +2.7]'
    sentence = verdict('0.5x mine', Difference(0.02, *ends, 3), 'F1', beside)
    assert sentence.startswith('0.5x mine changes F1 by +2.0 [')
    assert f'; {beside}.' in sentence


class TestSeeds:
    def test_visible_effect_is_half_an_interval_of_independent_runs(self) -> None:
        # differences of independent runs spread by the square root of two times more
        random = np.random.default_rng(0)
        halves = [
            smallest_visible(paired_difference(treated, base))
            for treated, base in random.normal(0.4, 0.02, (2000, 2, 5)).tolist()
        ]
        root_mean_square = float(np.sqrt(np.mean(np.square(halves))))
        assert visible_effect(0.02, 5) == pytest.approx(root_mean_square, rel=0.03)

    @pytest.mark.parametrize(
        'spread, effect', [(0.02, 0.01), (0.005, 0.01), (0.02, 0.1)]
    )
    def test_needed_seeds_are_the_fewest_that_see_it(
        self, spread: float, effect: float
    ) -> None:
        seeds = needed_seeds(spread, effect)
        assert visible_effect(spread, seeds) <= effect
        assert seeds == 2 or visible_effect(spread, seeds - 1) > effect

    def test_no_more_than_asked_for(self) -> None:
        assert needed_seeds(1, 1e-6) == 1000
