# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Nothing trains on nothing: refusals that every task here shares."""

import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ...datamodules.support.preparation import align_dates


class StepGuard(LightningModule):
    """A training that cannot end well stops with an error instead of exit code 0.

    Name it before the base class of the task: ``class MyTask(StepGuard, BaseTask)``. A
    task that overrides one of the hooks below calls ``super()`` in it. Lightning alone
    lets these pass (docs/notes/torchgeo.md):

    * half precision for pixels and losses too (``bf16-true``): it ends in a traceback
      or in numbers of two digits;
    * folders that cannot be written: it drops some of the checkpoint's errors;
    * a loss that is NaN or infinite: it trains on, and saves what comes out;
    * a loader without a batch: it skips the training and reports success;
    * masks of several dates that are cropped apart from their images;
    * numpy's numbers and paths among the hyperparameters: it saves them into a
      checkpoint that cannot be loaded, so they are saved as plain types here.

    On the CPU each loss is looked at. Elsewhere that would make each step wait for the
    device, so losses are looked at every ten steps, before anything is saved or
    validated, and at the end.
    """

    #: 0, and NaN from the first loss on that is no number.
    _fault: Tensor | float = 0.0

    def prepare_data(self) -> None:
        """Refuse folders that cannot be written, before anything is read or made.

        The first hook of all: the loggers and the copy of the configuration are written
        in the setup that follows, and fail there without a remedy.

        Raises:
            RuntimeError: With the folder and the reason.
            ValueError: If all numbers are to be of half precision, the pixels too.
        """
        super().prepare_data()
        if self.trainer.precision in ('bf16-true', '16-true'):
            mixed = self.trainer.precision.replace('true', 'mixed')
            raise ValueError(
                f'trainer.precision={self.trainer.precision} would round pixels and '
                f'losses to a few digits. Use {mixed}, or 32-true.'
            )
        if self.trainer.state.fn == TrainerFn.FITTING:
            for folder in sorted(_folders_to_write(self.trainer)):
                require_writable(folder)

    def setup(self, stage: str) -> None:
        """Let images of several dates and their masks be augmented alike.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        super().setup(stage)
        align_dates(getattr(self.trainer, 'datamodule', None))

    def on_before_backward(self, loss: Tensor) -> None:
        """Refuse a loss that is not a number.

        Args:
            loss: The loss of one batch, scalar.

        Raises:
            RuntimeError: With the step and the value.
        """
        super().on_before_backward(loss)
        loss = loss.detach()
        self._fault = loss * 0 + self._fault
        if self.global_step % _look_every(loss) == 0:
            self._refuse_fault(loss)

    def on_validation_start(self) -> None:
        """Refuse to score weights that a loss has spoilt."""
        super().on_validation_start()
        self._refuse_fault()

    def on_train_end(self) -> None:
        """Refuse to end well where one of the last losses is not a number."""
        super().on_train_end()
        self._refuse_fault()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save hyperparameters as plain types, and no weights that a loss has spoilt.

        Args:
            checkpoint: All that is saved, with the hyperparameters in it.
        """
        super().on_save_checkpoint(checkpoint)
        self._refuse_fault()
        key = self.CHECKPOINT_HYPER_PARAMS_KEY
        if key in checkpoint:
            checkpoint[key] = _plain(checkpoint[key])

    def _refuse_fault(self, loss: Tensor | None = None) -> None:
        """Stop where a loss was no number; it is found but once."""
        fault, self._fault = float(self._fault), 0.0
        if math.isfinite(fault):
            return
        known = loss is not None and not loss.isfinite()
        found = f'{loss} at' if known else 'NaN or infinite before'
        raise RuntimeError(
            f'the training loss is {found} step {self.global_step} (epoch '
            f'{self.current_epoch}), but it must be finite: the weights would be '
            'lost. Look for NaN or infinite pixels in the data, lower lr, or set '
            'trainer.gradient_clip_val or trainer.precision to 32.'
        )

    def on_fit_end(self) -> None:
        """Refuse to call a run without a step a success.

        Raises:
            RuntimeError: If nothing was trained.
        """
        super().on_fit_end()
        batches = self.trainer.num_training_batches
        if self.trainer.global_step == 0 or batches == 0:
            raise RuntimeError(
                f'nothing was trained: {self.trainer.global_step} steps from '
                f'{batches} training batches per epoch, but at least one is needed. '
                'Use a batch_size of at most the number of training samples (incomplete '
                'batches are dropped), and limit_train_batches, max_steps and '
                'max_epochs above 0.'
            )


def _look_every(loss: Tensor) -> int:
    """Steps from one look at the losses to the next; a GPU has to be waited for."""
    return 1 if loss.device.type == 'cpu' else 10


def _plain(value: Any) -> Any:
    """A value in types that PyTorch loads without unpickling code."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def require_writable(folder: str | os.PathLike[str], size: int = 0) -> None:
    """Refuse a folder in which no file can be made, or none large enough.

    A file is really written and removed, because permission bits tell nothing about a
    full disk, a read-only mount or the superuser. Of a folder that does not exist yet,
    the nearest parent that does is tried, so that nothing is left behind.

    Args:
        folder: A local folder; it need not exist.
        size: Bytes that will be written to it, as far as they are known.

    Raises:
        RuntimeError: With the folder and the reason.
    """
    nearest = Path(folder).expanduser().absolute()
    # unlike Path.exists, this is also false below a folder that cannot be entered
    while not os.path.exists(nearest):
        nearest = nearest.parent
    try:
        with tempfile.NamedTemporaryFile(dir=nearest, prefix='.specdm-') as file:
            file.write(b'0')
            file.flush()
    except OSError as error:
        raise RuntimeError(
            f'cannot write to {str(folder)!r} ({error.strerror}: {str(nearest)!r}), but '
            'checkpoints and logs go there. Choose another folder with '
            'trainer.default_root_dir, or with dirpath of ModelCheckpoint or save_dir '
            'of the logger.'
        ) from error

    free = shutil.disk_usage(nearest).free
    if free < size:
        raise RuntimeError(
            f'{free} bytes are free for {str(folder)!r}, but the weights need {size}. '
            'Make room there, or choose a folder on another disk.'
        )


def _folders_to_write(trainer: Trainer) -> set[str]:
    """The local folders that the callbacks and loggers of a trainer will fill."""
    # an attribute that Lightning sets from afar, so it has no type
    if getattr(trainer, 'fast_dev_run', False):
        # neither checkpoints nor logs are written then
        return set()
    root = trainer.default_root_dir
    logs = [logger.save_dir or root for logger in trainer.loggers]
    checkpoints = [
        callback.dirpath or (logs[0] if logs else root)
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
    ]
    # addresses such as s3://bucket are not ours to try
    return {str(x) for x in (*logs, *checkpoints) if '://' not in str(x)}
