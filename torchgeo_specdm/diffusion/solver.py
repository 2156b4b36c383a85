# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""From noise back to data: the samplers, all by one scheduler of diffusers."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from diffusers import DPMSolverMultistepScheduler

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
        strength: Where to begin, as a share of all times; the steps are as long.
        schedule: From :attr:`JointProcess.schedule`.

    Returns:
        The scheduler with its ``timesteps``, falling, 0 for the least noise.
    """
    order, kind = _SOLVERS[sampler]
    solver = DPMSolverMultistepScheduler(
        solver_order=order,
        algorithm_type=kind,
        prediction_type='sample',
        final_sigmas_type='zero',
        **schedule,
    )
    start = max(1, round(strength * schedule['num_train_timesteps']))
    count = min(start, max(1, math.ceil(strength * steps)))
    solver.set_timesteps(
        timesteps=[round(start * (1 - i / count)) - 1 for i in range(count)]
    )
    return solver
