# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch import nn

from torchgeo_specdm.diffusion import move_average, warm_up_and_decay


def number(value: float) -> nn.Module:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


class TestMoveAverage:
    @pytest.mark.parametrize(
        ('step', 'decay', 'kept'),
        # LDM's ramp (1 + n) / (10 + n) until it meets the decay
        # and later four steps at once
        [
            (1, 0.999, 2 / 11),
            (90, 0.999, 0.91),
            (5, 0.1, 0.1),
            (100_000, 0.999, 0.999**4),
            (100_001, 0.999, 1),
        ],
    )
    def test_share_of_the_old(self, step: int, decay: float, kept: float) -> None:
        average, trained = number(1.0), number(0.0)
        move_average((average.weight,), (trained.weight,), step, decay)
        assert float(average.weight) == pytest.approx(kept)
        assert float(trained.weight) == 0

    def test_leaves_no_graph(self) -> None:
        average, trained = number(1.0), number(0.0)
        average.requires_grad_(False)
        move_average((average.weight,), (trained.weight,), 1, 0.9)
        assert not average.weight.requires_grad


class TestWarmUpAndDecay:
    def rates(
        self, warmup: float, total: float, steps: int, decay: bool = True
    ) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = warm_up_and_decay(optimizer, warmup, total, decay)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            scheduler.step()
        return rates

    def test_shape(self) -> None:
        rates = self.rates(10, 200, 201)
        assert rates[0] == pytest.approx(2 / 11)
        assert rates[10] == pytest.approx(2)
        assert rates[105] == pytest.approx(1)
        assert rates[200] == pytest.approx(0, abs=1e-9)
        assert rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)

    def test_short_run(self) -> None:
        # a warm-up of 1000 must not eat a run of 20
        rates = self.rates(1000, 20, 20)
        assert max(rates) == pytest.approx(2, rel=0.01)

    def test_run_without_an_end(self) -> None:
        rates = self.rates(5, math.inf, 50)
        assert rates[0] < 0.5 and rates[5:] == [2.0] * 45

    @pytest.mark.parametrize('warmup', [0, 5])
    def test_as_latent_diffusion_does(self, warmup: int) -> None:
        rates = self.rates(warmup, 100, 100, decay=False)
        assert rates[warmup:] == [2.0] * (100 - warmup)
        assert rates == sorted(rates)
