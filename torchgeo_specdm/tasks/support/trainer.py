# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A trainer for runs that are one of many."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.plugins import MixedPrecision


def small_trainer(
    updates: int, settings: Mapping[str, Any], callbacks: Sequence[Callback]
) -> Trainer:
    """A trainer that writes no files and does not validate on its way.

    Args:
        updates: Optimiser steps.
        settings: Arguments of Lightning's trainer that replace ours.
        callbacks: Callbacks of the run; progress bars are left out where *settings* ask
            for none.

    Returns:
        The trainer.
    """
    given: dict[str, Any] = {
        # one run is too small to share, and all must be trained alike
        'devices': 1,
        'logger': False,
        'enable_checkpointing': False,
        'enable_model_summary': False,
        'num_sanity_val_steps': 0,
        'limit_val_batches': 0,
        **settings,
    }
    if given.get('enable_progress_bar') is False:
        # Lightning refuses a bar then, which whoever made it could not know
        callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
    return Trainer(**given, callbacks=list(callbacks), max_steps=updates)


def can_fuse(trainer: Trainer) -> bool:
    """Whether AdamW may take its step in one piece, a third of the time on a CPU.

    Lightning does not clip the gradients of fused optimisers in mixed precision.

    Args:
        trainer: The trainer, its strategy set up.
    """
    mixed = isinstance(trainer.precision_plugin, MixedPrecision)
    fused = trainer.strategy.root_device.type in ('cpu', 'cuda')
    return fused and not (mixed and trainer.gradient_clip_val)


def fast_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 faster than in float32."""
    if torch.cuda.is_available():
        # what a GPU emulates is slow
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path('/proc/cpuinfo')
    text = flags.read_text(encoding='utf-8') if flags.exists() else ''
    # without AMX steps take 1.1 to 1.6 times as long (docs/notes/diffusion.md), and
    # emulation elsewhere several times
    return 'amx_bf16' in text
