# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One progress bar over all steps of a run, with the time left."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from ...bars import bar


class StepProgressBar(ProgressBar):
    """Shows steps done, the time left and the loss on a single line.

    Lightning's own bars count one epoch at a time, which says little about a run of
    many short epochs.

    Args:
        title: Name of the work.
    """

    def __init__(self, title: str = 'training') -> None:
        """Initialize a new StepProgressBar instance."""
        super().__init__()
        self.title = title
        self._bar: Any = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing, as on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where a resumed run goes on."""
        # infinite where only max_time ends the run
        steps = float(trainer.estimated_stepping_batches)
        self._open(int(steps) if math.isfinite(steps) else None, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        """Move the bar to the current step."""
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)
            # a GPU has to be waited for when a loss is asked for
            if self._bar.n % 10 == 0 and 'train_loss' in trainer.callback_metrics:
                loss = float(trainer.callback_metrics['train_loss'])
                self._bar.set_postfix_str(f'loss {loss:.3f}', refresh=False)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar over all batches."""
        self._open(int(sum(trainer.num_predict_batches)), 0)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        """Move the bar by one batch."""
        if self._bar is not None:
            self._bar.update()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar over all batches of all sets."""
        self._open(int(sum(trainer.num_test_batches)), 0)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        """Move the bar by one batch."""
        if self._bar is not None:
            self._bar.update()

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Close the bar at the end."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar after an error or Ctrl-C, which skip the teardown."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, total: int | None, done: int) -> None:
        if self._enabled:
            self._bar = bar(title=self.title, total=total, initial=done)
