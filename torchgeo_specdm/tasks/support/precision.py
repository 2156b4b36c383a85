# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The precision of a training, as its device likes it."""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from .trainer import fast_bfloat16


class AutoPrecision(Precision):
    """Computes as fast as the device can, where that costs nothing.

    For any task, in a configuration of ``torchgeo fit``, in place of
    ``trainer.precision``::

        trainer:
          plugins: {class_path: torchgeo_specdm.AutoPrecision}

    A CPU computes in float32, as without it. A GPU computes in bfloat16 where it can
    without emulating it (compute capability 8.0 and above; weights stay in float32),
    and multiplies what stays in float32 as TF32. What was chosen is in the log.
    """

    def __init__(
        self,
        channels_last: bool = False,
        compile: Literal['default', 'reduce-overhead', 'max-autotune'] | None = None,
    ) -> None:
        """Initialize a new AutoPrecision instance.

        Args:
            channels_last: Whether the channels of a pixel lie side by side in the
                memory of a GPU, which its convolutions like and its group norms do not.
            compile: Mode in which ``torch.compile`` makes kernels of the networks on a
                GPU, which takes a minute or more, so it pays in trainings of hours;
                None for no compiling.
        """
        self.channels_last = channels_last
        self.compile = compile

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Choose, and prepare the networks of a task.

        Args:
            module: The task, its networks made, in a trainer.

        Returns:
            The same task.
        """
        task: Any = module
        device = task.trainer.strategy.root_device.type
        if device != 'cuda':
            rank_zero_info(f'AutoPrecision: float32 on {device}.')
            return module
        if fast_bfloat16():
            self.precision = 'bf16-mixed'
        torch.set_float32_matmul_precision('high')
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        if self.compile:
            for network in getattr(task.model, 'networks', [task.model]):
                network.compile(mode=self.compile)
        rank_zero_info(
            f'AutoPrecision: {self.precision} and TF32 on '
            f'{torch.cuda.get_device_name()}, channels_last={self.channels_last}, '
            f'compile={self.compile}.'
        )
        return module

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Compute in bfloat16 where that was chosen."""
        with (
            torch.autocast('cuda', torch.bfloat16, cache_enabled=False)
            if self.precision == 'bf16-mixed'
            else nullcontext()
        ):
            yield
