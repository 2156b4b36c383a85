# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from itertools import pairwise
from typing import Any

import pytest
import torch

from torchgeo_specdm.diffusion import JointProcess
from torchgeo_specdm.diffusion.solver import falling_times, make_solver


class TestSolver:
    SCHEDULE = JointProcess({'x': slice(0, 1)}).schedule
    PRODUCTS = JointProcess({'x': slice(0, 1)}).signal[1:].square()

    @pytest.mark.parametrize('steps', [1, 2, 3, 20, 333, 999, 1000])
    def test_times_fall_from_the_last_to_the_first(self, steps: int) -> None:
        times = falling_times(steps, self.PRODUCTS)
        assert len(times) == steps
        assert times[0] == 1000
        assert times[-1] == 1 or steps == 1
        assert all(a > b for a, b in pairwise(times))

    def test_steps_are_equal_in_the_signal_to_noise_ratio(self) -> None:
        times = torch.tensor(falling_times(6, self.PRODUCTS)) - 1
        levels = (self.PRODUCTS / (1 - self.PRODUCTS)).log()[times]
        torch.testing.assert_close(
            levels.diff(), torch.full((5,), 2.762), atol=0.02, rtol=0
        )
        # 507.5 lies between two times, and processors round it either way
        expected = torch.tensor([1000, 797, 507, 154, 15, 1]) - 1
        torch.testing.assert_close(times, expected, atol=1, rtol=0)

    def test_all_times_are_the_published_sampler(self) -> None:
        assert falling_times(1000, self.PRODUCTS) == list(range(1000, 0, -1))

    @pytest.mark.parametrize('strength', [1.0, 0.6, 0.01, 0.0001])
    def test_strength_enters_on_the_way(self, strength: float) -> None:
        full = make_solver('dpm', 20, 1.0, self.SCHEDULE).timesteps.tolist()
        part = make_solver('dpm', 20, strength, self.SCHEDULE).timesteps.tolist()
        start = max(1, round(strength * 1000)) - 1
        assert part[0] == start
        assert part[1:] == [time for time in full if time < start]

    @pytest.mark.parametrize('sampler', ['dpm', 'sde', 'ddim', 'ddpm'])
    def test_the_last_step_leaves_no_noise(self, sampler: Any) -> None:
        solver = make_solver(sampler, 3, 1.0, self.SCHEDULE)
        state = torch.full((1, 1, 2, 2), 5.0)
        for moment in solver.timesteps:
            clean = torch.full((1, 1, 2, 2), float(moment))
            (state,) = solver.step(
                clean, moment, state, variance_noise=torch.ones(1), return_dict=False
            )
        assert torch.equal(state, clean)

    def test_first_order_is_ddim(self) -> None:
        solver = make_solver('ddim', 10, 1.0, self.SCHEDULE)
        signal = JointProcess({'x': slice(0, 1)}).signal
        state, clean = torch.tensor([[1.3]]), torch.tensor([[0.4]])
        (found,) = solver.step(clean, solver.timesteps[0], state, return_dict=False)
        now, then = signal[solver.timesteps[:2] + 1]
        noise = (state - now * clean) / (1 - now**2).sqrt()
        wanted = then * clean + (1 - then**2).sqrt() * noise
        torch.testing.assert_close(found, wanted)

    def test_stochastic_first_order_is_the_posterior_of_ddpm(self) -> None:
        solver = make_solver('ddpm', 10, 1.0, self.SCHEDULE)
        signal = JointProcess({'x': slice(0, 1)}).signal.double()
        state, clean, fresh = (torch.tensor([[x]]) for x in (1.3, 0.4, -0.7))
        (found,) = solver.step(
            clean, solver.timesteps[0], state, variance_noise=fresh, return_dict=False
        )
        # Ho et al. 2020, Eq. 7, with a longer step
        now, then = signal[solver.timesteps[:2] + 1] ** 2
        alpha = now / then
        mean = then.sqrt() * (1 - alpha) / (1 - now) * clean
        mean = mean + alpha.sqrt() * (1 - then) / (1 - now) * state
        wanted = mean + ((1 - then) / (1 - now) * (1 - alpha)).sqrt() * fresh
        torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)
