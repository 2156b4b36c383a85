# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Helpers of training beside the loss: averaged weights and a falling step size."""

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

#: From this step on, averages move at every few steps only: each time costs 1.5 % of a
#: small step, and an average over hundreds of steps does not notice.
_SETTLED, _EVERY = 100, 4


def move_average(
    average: tuple[Tensor, ...], trained: tuple[Tensor, ...], step: int, decay: float
) -> None:
    """Move averaged weights towards the trained ones, in place.

    After the first hundred steps that happens at every fourth step, by as much as in
    four steps.

    Args:
        average: Parameters of a copy of the network.
        trained: Parameters of the network after a training step, in the same order.
        step: Number of training steps so far, from 1.
        decay: The share that stays of the old average, once *step* is large.
    """
    if step > _SETTLED and step % _EVERY:
        return
    # LDM's ramp: early averages forget the random start quickly
    decay = min(decay, (1 + step) / (10 + step))
    if step > _SETTLED:
        decay **= _EVERY
    update: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    update(average, trained, step)


def warm_up_and_decay(
    optimizer: Optimizer, warmup: float, total: float, decay: bool = True
) -> LambdaLR:
    """A linear warm-up and a cosine decay to 0 over the whole run.

    Args:
        optimizer: Has the highest step size.
        warmup: Steps of the warm-up; at most a tenth of the run is used.
        total: Steps of the run; infinite for a run without decay.
        decay: Whether the step size falls; LDM keeps it after the warm-up.

    Returns:
        A scheduler to be stepped with each batch.
    """
    warmup = min(warmup, total / 10)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if not decay:
            return 1.0
        done = (step - warmup) / max(total - warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1)))

    return LambdaLR(optimizer, factor)
