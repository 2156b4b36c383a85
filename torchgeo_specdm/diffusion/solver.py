# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""From noise back to data: the samplers, all by one scheduler of diffusers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import (
    DPMSolverMultistepScheduler,
)
from torch import Tensor

Sampler = Literal['dpm', 'sde', 'ddim', 'ddpm']

#: Samplers that need fresh noise at each step.
STOCHASTIC: tuple[Sampler, ...] = ('sde', 'ddpm')

#: Order and kind of the solver. Of first order, DPM-Solver++ is DDIM, and its
#: stochastic form is the posterior of DDPM. The schedulers that diffusers names so
#: guess the next time from the number of steps, and miss it where T is no multiple.
_SOLVERS: dict[Sampler, tuple[int, str]] = {
    'dpm': (2, 'dpmsolver++'),
    'sde': (2, 'sde-dpmsolver++'),
    'ddim': (1, 'dpmsolver++'),
    'ddpm': (1, 'sde-dpmsolver++'),
}


def make_solver(
    sampler: Sampler, steps: int, strength: float, schedule: Mapping[str, Any]
) -> DPMSolverMultistepScheduler:
    """A scheduler that is told the clean sample at each step.

    Its last step leads to the clean sample itself, without remaining noise.

    Args:
        sampler: ``dpm``, ``sde``, ``ddim`` or ``ddpm`` (see :meth:`Generator.sample`).
        steps: Number of steps from noise alone.
        strength: Time to begin at, as a share of all times; later steps are the same.
        schedule: The :attr:`JointProcess.schedule`.

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
    times = falling_times(steps, solver.alphas_cumprod)
    start = max(1, round(strength * times[0]))
    times = [start, *(time for time in times if time < start)]
    solver.set_timesteps(timesteps=[time - 1 for time in times])
    return solver


def advance(
    solvers: Sequence[DPMSolverMultistepScheduler],
    moment: Tensor,
    state: Tensor,
    estimate: Tensor,
    fresh: Tensor | None,
) -> None:
    """Take a step of the sampler in place, in as many strips of rows as solvers.

    A step needs several times the memory of what it works on, so that of a scene is
    taken strip by strip. It looks at each number by itself: strips change no bit.

    Args:
        solvers: All of equal settings; each remembers the estimates of its strip, as views.
        moment: The time of *state*, one of their ``timesteps``.
        state: Noisy latents (B, D, h, w), in units of the signal scale.
        estimate: The clean latents that the network sees in them, in the same units.
        fresh: Standard normal noise of the same shape; None for samplers without.
    """
    wholes = [whole for whole in (state, estimate, fresh) if whole is not None]
    strips = [whole.chunk(len(solvers), -2) for whole in wholes]
    for solver, strip, seen, *noise in zip(solvers, *strips, strict=True):
        (moved,) = solver.step(
            seen,
            moment,
            strip,
            variance_noise=next(iter(noise), None),
            return_dict=False,
        )
        strip.copy_(moved)


def falling_times(steps: int, products: Tensor) -> list[int]:
    """The times of a sampler, in equal steps of the logarithm of noise over signal.

    With equal steps of time, the last one starts from much noise and leads to the mean
    of what is possible there: 20 steps then keep 96 % of the standard deviation of
    white noise of variance one, and 76 % behind a signal scale of 0.35. With these
    they keep all of it.

    Args:
        steps: Number of steps, at most as many as there are times.
        products: Squared signal level of each time from 1 to T.

    Returns:
        Different times from T down to 1.
    """
    levels = (1 / products.double() - 1).log()
    wanted = torch.linspace(levels[-1], levels[0], steps, dtype=torch.float64)
    nearest = (levels - wanted[:, None]).abs().argmin(1) + 1
    times: list[int] = nearest.tolist()
    for i in range(1, steps):
        times[i] = min(times[i], times[i - 1] - 1)
    # where whole numbers are too coarse, all of them down to 1 are taken
    return [max(time, steps - i) for i, time in enumerate(times)]
