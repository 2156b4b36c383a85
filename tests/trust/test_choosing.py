# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import pytest

from tests.trust.scores import BAD, COUNT, GOOD, KEYS, real_rows, score
from torchgeo_specdm.trust.choosing import balance, choose


class TestChoose:
    def test_bad_samples_go_and_good_ones_stay(self) -> None:
        rows = [score(i, **BAD.get(i, {})) for i in range(COUNT)]
        decision = choose(rows, real_rows())
        assert [i for i, kept in enumerate(decision.accepted) if kept] == GOOD
        assert decision.reasons[5] == ['edges below 0.54', 'spectrum below 0.54']
        assert decision.reasons[7] == ['distance below 1.02']
        assert decision.reasons[0] == []
        assert decision.thresholds['agreement'] == pytest.approx(0.54)
        assert decision.real == pytest.approx(0.9)

    def test_real_samples_raise_no_alarm(self) -> None:
        random = np.random.default_rng(0)
        drawn = [
            [
                score(i, **dict(zip(KEYS, values, strict=True)))
                for i, values in enumerate(random.beta(5, 2, (2000, 5)).tolist())
            ]
            for _ in range(2)
        ]
        decision = choose(*drawn)
        # three scores at 0.9 and two at 0.99
        wanted = 0.9**3 * 0.99**2
        assert np.mean(decision.accepted) == pytest.approx(wanted, abs=0.04)
        assert decision.real == pytest.approx(wanted, abs=0.04)

    @pytest.mark.parametrize('key', KEYS)
    def test_thresholds_come_from_real_samples(self, key: str) -> None:
        rows = [score(0)]
        assert choose(rows, real_rows()).accepted == [True]
        better = [row | {key: row[key] + 2} for row in real_rows()]
        assert choose(rows, better).accepted == [False]

    def test_a_value_at_the_threshold_passes(self) -> None:
        real = [score(i) for i in range(20)]
        assert choose([score(0)], real).accepted == [True]
        assert choose([score(0, edges=0.9 - 1e-9)], real).accepted == [False]

    @pytest.mark.parametrize('key', KEYS)
    def test_null_passes(self, key: str) -> None:
        rows = [score(0, **{key: None}), score(1)]
        assert choose(rows, real_rows()).accepted == [True, True]
        # no reason to refuse either: nothing depends on what nobody has
        real = [row | {key: None} for row in real_rows()]
        assert key not in choose(rows[:1], real).thresholds

    def test_none_does_not_look(self) -> None:
        rows = [score(i, **BAD.get(i, {})) for i in range(COUNT)]
        decision = choose(rows, real_rows(), quantile=None)
        assert [i for i, kept in enumerate(decision.accepted) if not kept] == [7]
        decision = choose(rows, real_rows(), copies=None)
        assert [i for i, kept in enumerate(decision.accepted) if not kept] == [2, 5]

    def test_few_real_samples(self) -> None:
        assert choose([score(0)], real_rows(20)).accepted == [True]
        with pytest.raises(ValueError, match="19 real samples have the score 'agree"):
            choose([score(0)], real_rows(19))
        real = real_rows()
        for row in real[19:]:
            row['edges'] = None
        with pytest.raises(ValueError, match="19 real samples have the score 'edges'"):
            choose([score(0)], real)

    @pytest.mark.parametrize('name', ['quantile', 'copies'])
    @pytest.mark.parametrize('value', [-0.1, 1.0])
    def test_out_of_range(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf'{name}={value} must be 0 or more'):
            choose([score(0)], real_rows(), **{name: value})


def imbalance(areas: Any) -> float:
    """Standard deviation of the class areas over their mean."""
    total = areas.sum(0)[areas.sum(0) > 0]
    return float(total.std() / total.mean())


class TestBalance:
    def test_nearer_to_equal_than_any_random_choice(self) -> None:
        random = np.random.default_rng(0)
        shares = random.dirichlet([8, 4, 2, 0.5, 0.1], 300)
        # a class that no sample has
        shares = np.insert(shares, 2, 0, axis=1)
        chosen = balance(shares, 40)
        assert len({*chosen.tolist()}) == 40 and (np.diff(chosen) > 0).all()
        others = [imbalance(shares[random.choice(300, 40, False)]) for _ in range(1000)]
        assert imbalance(shares[chosen]) < 0.8 * min(others)

    def test_one_of_each_class(self) -> None:
        shares = np.eye(4)[[0, 0, 0, 2, 0, 1, 1, 2, 0]]
        assert balance(shares, 3).tolist() == [0, 3, 5]
        assert balance(shares, 6).tolist() == [0, 1, 3, 5, 6, 7]
        assert balance(shares, 9).tolist() == [*range(9)]

    def test_samples_without_labels_come_last(self) -> None:
        shares = np.array([[0, 0], [1, 0], [0, 0], [1, 0]])
        assert balance(shares, 2).tolist() == [1, 3]
        assert balance(shares, 3).tolist() == [0, 1, 3]

    def test_scale_and_repetition(self) -> None:
        shares = np.random.default_rng(1).integers(0, 4096, (50, 4))
        chosen = balance(shares, 10)
        assert (balance(shares * 2, 10) == chosen).all()
        assert (balance(shares, 10) == chosen).all()

    @pytest.mark.parametrize('count', [0, 4])
    def test_out_of_range(self, count: int) -> None:
        with pytest.raises(ValueError, match=f'balance={count} must be 1 or more'):
            balance(np.ones((3, 2)), count)
