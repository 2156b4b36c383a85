# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A training that is stopped loses nothing."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

#: What a shell says of a process that SIGTERM has ended.
_TERMINATED = 128 + signal.SIGTERM


class SaveWhenStopped(Callback):
    """Saves a checkpoint when Ctrl-C, SIGTERM or an error ends a training.

    The first Ctrl-C ends the training after the step in hand, whose weights are whole;
    a second one ends it at once, and nothing is saved then. The checkpoint is
    ``last.ckpt`` in the folder of the trainer's first ``ModelCheckpoint``; a trainer
    without one saves nothing.
    """

    def __init__(self) -> None:
        """Initialize a new SaveWhenStopped instance."""
        self._running = False
        self._asked = False
        self._before: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C."""
        self._running, self._asked = True, False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        """Stop if Ctrl-C has asked for it, on all processes alike."""
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            self._asked = True
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give Ctrl-C back: there are no more steps to wait for."""
        self._give_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save what was learned, and exit as a process that was stopped."""
        if isinstance(exception, SIGTERMException):
            # it would be 0, as if the training had succeeded
            exception.code = _TERMINATED
        at_once = isinstance(exception, KeyboardInterrupt) and not self._asked
        # an error of one process alone finds no other to save with
        alone = trainer.world_size > 1 and isinstance(exception, Exception)
        trained = self._running and trainer.global_step > 0
        # an attribute that Lightning sets from afar, so it has no type
        trial = getattr(trainer, 'fast_dev_run', False)
        if trained and not (trial or at_once or alone):
            self._save(trainer, pl_module)
        self._running = False
        # Lightning ignores Ctrl-C for good from the first one on
        self._give_back()

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Forget the training."""
        self._running = False

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        saver = trainer.checkpoint_callback
        if not isinstance(saver, ModelCheckpoint) or saver.dirpath is None:
            return
        if not all(bool(p.isfinite().all()) for p in pl_module.parameters()):
            return
        path = Path(saver.dirpath) / f'{saver.CHECKPOINT_NAME_LAST}.ckpt'
        try:
            trainer.save_checkpoint(path)
        except (OSError, RuntimeError) as error:
            # what stopped the training is said in any case, and matters more
            rank_zero_warn(f'Step {trainer.global_step} could not be saved: {error}')
        else:
            rank_zero_info(
                f'Step {trainer.global_step} is saved. Go on from it with --ckpt_path '
                f'{path}'
            )

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt
        self._asked = True
        rank_zero_info('Stopping after this step. Ctrl-C once more stops at once.')

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


def was_interrupted(error: BaseException | None) -> bool:
    """Whether an error came up while Ctrl-C was being answered.

    Cleaning up after Ctrl-C may fail in its turn, and the error that is seen then says
    nothing of it.

    Args:
        error: The error, or None.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
