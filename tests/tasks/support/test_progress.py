# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.conftest import quiet_trainer
from torchgeo_specdm.tasks.support import progress
from torchgeo_specdm.tasks.support.progress import StepProgressBar


class Bar:
    """Stands in for tqdm and notes what it is told."""

    made: list['Bar']

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.n = options['initial']
        self.open = True
        self.postfix = ''
        self.made.append(self)

    def update(self, count: int = 1) -> None:
        assert self.open
        self.n += count

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.postfix = text

    def close(self) -> None:
        self.open = False


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    monkeypatch.setattr(Bar, 'made', [], raising=False)
    monkeypatch.setattr(progress, 'bar', Bar)
    return Bar.made


class Task(LightningModule):
    """Learns nothing, in steps."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.fail_at = fail_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise RuntimeError('it failed')
        loss: Tensor = self.layer(batch).mean()
        self.log('train_loss', torch.tensor(0.25))
        return loss

    def predict_step(
        self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path: Path, bar: StepProgressBar, **settings: Any) -> Trainer:
    return quiet_trainer(
        tmp_path, **{'callbacks': [bar], 'enable_progress_bar': True} | settings
    )


def loader(count: int = 4) -> DataLoader[Tensor]:
    return DataLoader(torch.ones(count, 1))  # type: ignore[arg-type]


def test_one_bar_over_the_steps_of_all_epochs(tmp_path: Path, bars: list[Bar]) -> None:
    bar = StepProgressBar('stage 1')
    trainer(tmp_path, bar, max_steps=10).fit(Task(), loader())
    (made,) = bars
    assert made.options['total'] == made.n == 10
    assert made.options['initial'] == 0 and made.options['title'] == 'stage 1'
    assert made.postfix == 'loss 0.250'
    assert not made.open


def test_a_resumed_run_goes_on(tmp_path: Path, bars: list[Bar]) -> None:
    first = trainer(tmp_path, StepProgressBar(), max_steps=4, enable_checkpointing=True)
    first.fit(Task(), loader())
    (path,) = tmp_path.rglob('*.ckpt')
    second = trainer(tmp_path, StepProgressBar(), max_steps=12)
    second.fit(Task(), loader(), ckpt_path=str(path))
    assert bars[1].options['initial'] == 4
    assert bars[1].options['total'] == bars[1].n == 12


def test_accumulated_batches_are_one_step(tmp_path: Path, bars: list[Bar]) -> None:
    settings = {'max_steps': 3, 'accumulate_grad_batches': 2}
    trainer(tmp_path, StepProgressBar(), **settings).fit(Task(), loader())
    assert bars[0].options['total'] == bars[0].n == 3


def test_an_endless_run_has_no_total(tmp_path: Path, bars: list[Bar]) -> None:
    settings = {'max_steps': -1, 'max_epochs': -1, 'max_time': {'seconds': 0.2}}
    trainer(tmp_path, StepProgressBar(), **settings).fit(Task(), loader())
    assert bars[0].options['total'] is None
    assert bars[0].n > 0


def test_prediction_counts_batches(tmp_path: Path, bars: list[Bar]) -> None:
    bar = StepProgressBar('generating')
    trainer(tmp_path, bar).predict(Task(), [loader(3), loader(2)])
    assert bars[0].options['total'] == bars[0].n == 5
    assert not bars[0].open


def test_is_closed_after_an_error(tmp_path: Path, bars: list[Bar]) -> None:
    with pytest.raises(RuntimeError, match='it failed'):
        trainer(tmp_path, StepProgressBar(), max_steps=10).fit(
            Task(fail_at=2), loader()
        )
    assert bars[0].n == 2 and not bars[0].open


def test_says_nothing_when_disabled(tmp_path: Path, bars: list[Bar]) -> None:
    # Lightning disables it on all processes but the first
    bar = StepProgressBar()
    quiet = trainer(tmp_path, bar, max_steps=2)
    bar.disable()
    quiet.fit(Task(), loader())
    quiet.predict(Task(), loader())
    assert bars == []
    bar.enable()
    quiet.predict(Task(), loader())
    assert len(bars) == 1
