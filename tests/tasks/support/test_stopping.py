# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from torchgeo_specdm.tasks.support.stopping import SaveWhenStopped

from ...conftest import quiet_trainer
from .test_guards import MeanTask, PointsDataModule


class At(Callback):
    """Does something in the middle of a step, once."""

    def __init__(self, step: int, action: Callable[[Trainer], None]) -> None:
        self.step = step
        self.action = action

    def on_before_backward(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step:
            self.action(trainer)


def send(number: int) -> Callable[[Trainer], None]:
    return lambda trainer: os.kill(os.getpid(), number)


def fail(trainer: Trainer) -> None:
    raise RuntimeError('the real reason')


def fit(root: Path, at: At, **options: Any) -> None:
    """Four steps, if nothing stops them; a checkpoint after every tenth."""
    saving = ModelCheckpoint(root / 'kept', every_n_train_steps=10)
    callbacks = [SaveWhenStopped(), at, saving]
    given = {'max_epochs': 1, 'enable_checkpointing': True} | options
    trainer = quiet_trainer(root, callbacks=callbacks, **given)
    trainer.fit(MeanTask(), datamodule=PointsDataModule())


def saved(root: Path) -> int | None:
    """The step of the checkpoint, None without one."""
    path = root / 'kept' / 'last.ckpt'
    return torch.load(path)['global_step'] if path.exists() else None


@pytest.fixture(autouse=True)
def handlers() -> Any:
    """What stops a training must not change how the next one is stopped."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def test_ctrl_c_ends_after_the_step_in_hand(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, At(1, send(signal.SIGINT)))
    assert isinstance(stop.value.__context__, KeyboardInterrupt)
    assert saved(tmp_path) == 2


def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    def twice(trainer: Trainer) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        pytest.fail('the step went on')

    with pytest.raises(SystemExit):
        fit(tmp_path, At(1, twice))
    # weights may have been in the middle of a step
    assert saved(tmp_path) is None


def test_sigterm(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, At(1, send(signal.SIGTERM)))
    assert stop.value.code == 143
    assert saved(tmp_path) == 2


@pytest.mark.parametrize('step, kept', [(0, None), (2, 2)])
def test_an_error(tmp_path: Path, step: int, kept: int | None) -> None:
    with pytest.raises(RuntimeError, match='the real reason'):
        fit(tmp_path, At(step, fail))
    assert saved(tmp_path) == kept


def test_an_error_that_saving_meets_too(tmp_path: Path) -> None:
    def lose_folder(trainer: Trainer) -> None:
        (tmp_path / 'kept').write_text('no folder')
        fail(trainer)

    with (
        pytest.warns(UserWarning, match='Step 2 could not be saved'),
        pytest.raises(RuntimeError, match='the real reason'),
    ):
        fit(tmp_path, At(2, lose_folder))


def test_weights_that_are_lost_are_not_saved(tmp_path: Path) -> None:
    def lose_weights(trainer: Trainer) -> None:
        trainer.lightning_module.model.weight.data.fill_(torch.nan)
        fail(trainer)

    with pytest.raises(RuntimeError, match='the real reason'):
        fit(tmp_path, At(2, lose_weights))
    assert saved(tmp_path) is None


def test_nothing_where_no_checkpoints_are_wanted(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match='the real reason'):
        fit(tmp_path, At(2, fail), fast_dev_run=5)
    assert saved(tmp_path) is None
