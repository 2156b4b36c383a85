# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""From noise back to data: the samplers, all by one scheduler of diffusers."""

from collections.abc import Mapping
from typing import Any, Literal

from diffusers.schedulers.scheduling_dpmsolver_multistep import (
    DPMSolverMultistepScheduler,
)

Sampler = Literal['dpm', 'ddim', 'ddpm']

#: Order and kind of the solver. Of first order, DPM-Solver++ is DDIM, and its
#: stochastic form is the posterior of DDPM. The schedulers that diffusers names so
#: guess the next time from the number of steps, and miss it where T is no multiple.
_SOLVERS: dict[Sampler, tuple[int, str]] = {
    'dpm': (2, 'dpmsolver++'),
    'ddim': (1, 'dpmsolver++'),
    'ddpm': (1, 'sde-dpmsolver++'),
}


def make_solver(
    sampler: Sampler, steps: int, strength: float, schedule: Mapping[str, Any]
) -> DPMSolverMultistepScheduler:
    """A scheduler that is told the clean sample at each step.

    Its last step leads to the clean sample itself, without remaining noise.

    Args:
        sampler: See :meth:`Generator.sample`.
        steps: Number of steps from noise alone.
        strength: Where to begin, as a share of all times; later steps are the same.
        schedule: From :attr:`JointProcess.schedule`.

    Returns:
        The scheduler with its ``timesteps``, falling, 0 for the least noise.
    """
    order, kind = _SOLVERS[sampler]
    solver: DPMSolverMultistepScheduler = DPMSolverMultistepScheduler(
        solver_order=order,
        algorithm_type=kind,
        prediction_type='sample',
        final_sigmas_type='zero',
        **schedule,
    )
    times = falling_times(steps, schedule['num_train_timesteps'])
    start = max(1, round(strength * times[0]))
    times = [start, *(time for time in times if time < start)]
    solver.set_timesteps(timesteps=[time - 1 for time in times])
    return solver


def falling_times(steps: int, last: int) -> list[int]:
    """The times of a sampler, dense where little noise is left.

    They fall with the square of the steps left. With equal steps, the last one starts
    from much noise and leads to the mean of what is possible there: 20 steps then keep
    96 % of the standard deviation of white noise of variance one, and 76 % behind a
    signal scale of 0.35. With these they keep all of it.

    Args:
        steps: How many, at most *last*.
        last: The time that is noise alone.

    Returns:
        Different times from *last* down to 1.
    """
    share = [1 - i / max(steps - 1, 1) for i in range(steps)]
    times = [round(1 + (last - 1) * left**2) for left in share]
    for i in range(1, steps):
        times[i] = min(times[i], times[i - 1] - 1)
    # where squares are closer than whole numbers, all numbers down to 1 are taken
    return [max(time, steps - i) for i, time in enumerate(times)]
