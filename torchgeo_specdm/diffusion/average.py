# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The moving average of a network's weights, which samples are drawn with."""

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def move_average(average: nn.Module, trained: nn.Module, step: int, decay: float) -> None:
    """Move averaged weights towards the trained ones, in place.

    Args:
        average: A copy of the network.
        trained: The network after a training step.
        step: Number of training steps so far, from 1.
        decay: The share that stays of the old average, once *step* is large.
    """
    # LDM's ramp: early averages forget the random start quickly
    decay = min(decay, (1 + step) / (10 + step))
    update = get_ema_multi_avg_fn(decay)
    update(tuple(average.parameters()), tuple(trained.parameters()), step)
