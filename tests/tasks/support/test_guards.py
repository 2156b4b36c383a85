# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset
from torchgeo.main import main

from torchgeo_specdm.compat import BaseTask
from torchgeo_specdm.tasks.support import guards
from torchgeo_specdm.tasks.support.guards import StepGuard, require_writable

from ...conftest import quiet_trainer
from ...processes import run_command

CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 1
  enable_progress_bar: false
model:
  class_path: tests.tasks.support.test_guards.MeanTask
data:
  class_path: tests.tasks.support.test_guards.PointsDataModule
"""


class Points(NonGeoDataset):
    """Images of one pixel; those from ``bad`` on are NaN."""

    def __init__(self, length: int, bad: int) -> None:
        self.values = torch.arange(length, dtype=torch.float32) / 10
        self.values[bad:] = torch.nan

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'image': self.values[index].reshape(1, 1, 1)}


class PointsDataModule(NonGeoDataModule):
    mean = torch.tensor(0.0)
    std = torch.tensor(1.0)

    def __init__(self, batch_size: int = 2, samples: int = 8, bad: int = 100) -> None:
        super().__init__(Points, batch_size, length=samples, bad=bad)

    def setup(self, stage: str) -> None:
        self.train_dataset = Points(**self.kwargs)


class MeanTask(StepGuard, BaseTask):
    """Learns the mean of the pixels."""

    def configure_models(self) -> None:
        self.model = nn.Linear(1, 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.model(batch['image']).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    root: Path, ckpt_path: str | None = None, samples: int = 8, **options: Any
) -> Trainer:
    bad = options.pop('bad', 100)
    task = options.pop('task', None) or MeanTask()
    given = {'max_epochs': 1, 'enable_checkpointing': True} | options
    trainer = quiet_trainer(root, **given)
    data = PointsDataModule(samples=samples, bad=bad)
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A folder that cannot be made, not even by the superuser."""
    (tmp_path / 'file').write_text('not a folder')
    return tmp_path / 'file' / 'below'


class TestSteps:
    def test_a_run_with_steps_passes(self, tmp_path: Path) -> None:
        trainer = fit(tmp_path)
        assert trainer.global_step == 4
        assert list((tmp_path / 'checkpoints').iterdir())

    def test_smoke_run_passes(self, tmp_path: Path) -> None:
        assert fit(tmp_path, fast_dev_run=True).global_step == 1

    @pytest.mark.parametrize(
        'options',
        [{'samples': 1}, {'limit_train_batches': 0}, {'max_epochs': 0}],
        ids=str,
    )
    def test_refuses_no_step(self, tmp_path: Path, options: dict[str, Any]) -> None:
        with pytest.raises(RuntimeError, match=r'nothing was trained: 0 steps'):
            fit(tmp_path, **options)

    @pytest.mark.parametrize('kind', ['bf16', '16'])
    def test_refuses_pixels_of_half_precision(self, tmp_path: Path, kind: str) -> None:
        with pytest.raises(
            ValueError, match=rf'={kind}-true would .* Use {kind}-mixed'
        ):
            fit(tmp_path, precision=f'{kind}-true')

    def test_refuses_to_go_on_without_batches(self, tmp_path: Path) -> None:
        fit(tmp_path)
        (checkpoint,) = (tmp_path / 'checkpoints').iterdir()
        with pytest.raises(RuntimeError, match=r'4 steps from 0 training batches'):
            fit(tmp_path, str(checkpoint), samples=1, max_epochs=2)

    def test_a_finished_run_may_be_resumed(self, tmp_path: Path) -> None:
        fit(tmp_path)
        (checkpoint,) = (tmp_path / 'checkpoints').iterdir()
        assert fit(tmp_path, str(checkpoint)).global_step == 4


class SettledTask(MeanTask):
    def __init__(self, lr: float, roots: list[Path], settings: dict[str, Any]) -> None:
        super().__init__()


class TestCheckpoint:
    def test_hyperparameters_of_any_type_are_loaded(self, tmp_path: Path) -> None:
        given = {'widths': (np.int64(3), np.arange(2)), 'folder': tmp_path}
        task = SettledTask(np.float64(0.1), [tmp_path], given)
        trainer = fit(tmp_path, task=task)
        assert trainer.global_step == 4
        (checkpoint,) = (tmp_path / 'checkpoints').iterdir()
        loaded = SettledTask.load_from_checkpoint(checkpoint)
        assert loaded.hparams['lr'] == 0.1
        assert loaded.hparams['roots'] == [str(tmp_path)]
        plain = {'widths': [3, [0, 1]], 'folder': str(tmp_path)}
        assert loaded.hparams['settings'] == plain


class TestLoss:
    def test_refuses_the_first_that_is_not_finite(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r'loss is nan at step 0 \(epoch 0\)'):
            fit(tmp_path, bad=0)

    def test_names_the_step(self, tmp_path: Path) -> None:
        # one sample out of 80 is NaN, so the step depends on the shuffling
        torch.manual_seed(0)
        with pytest.raises(RuntimeError, match=r'loss is nan at step ([1-9]|[1-3]\d) '):
            fit(tmp_path, samples=80, bad=79)

    @pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
    def test_each_value(self, value: str) -> None:
        task = MeanTask()
        with pytest.raises(RuntimeError, match=rf'loss is {value} .*must be finite'):
            task.on_before_backward(torch.tensor(float(value)))

    def test_finite_passes(self) -> None:
        MeanTask().on_before_backward(torch.tensor(1e30))

    @pytest.mark.parametrize(
        ('every', 'steps'),
        [(10, '(10|20|30)'), (1000, 40)],
        ids=['seldom', 'at the end'],
    )
    def test_device_that_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, steps: Any
    ) -> None:
        monkeypatch.setattr(guards, '_look_every', lambda loss: every)
        torch.manual_seed(0)
        saver = ModelCheckpoint(tmp_path, save_top_k=-1)
        found = rf'loss is (nan at|NaN or infinite before) step {steps} '
        with pytest.raises(RuntimeError, match=found):
            fit(tmp_path, samples=80, bad=79, callbacks=[saver])
        assert not list(tmp_path.glob('*.ckpt'))

    def test_nothing_spoilt_is_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guards, '_look_every', lambda loss: 1000)
        saver = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1)
        with pytest.raises(RuntimeError, match='loss is NaN or infinite before step'):
            fit(tmp_path, samples=80, bad=70, callbacks=[saver])
        for path in tmp_path.glob('*.ckpt'):
            weights = torch.load(path)['state_dict'].values()
            assert all(bool(value.isfinite().all()) for value in weights)


class TestFolders:
    def test_leaves_nothing_behind(self, tmp_path: Path) -> None:
        require_writable(tmp_path / 'not' / 'yet')
        require_writable(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_refuses_below_a_file(self, blocked: Path) -> None:
        with pytest.raises(RuntimeError, match=r'below.*Not a directory.*dirpath'):
            require_writable(blocked)

    @pytest.mark.skipif(os.geteuid() == 0, reason='the superuser may write anywhere')
    def test_refuses_read_only(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(RuntimeError, match=r'Permission denied'):
            require_writable(tmp_path / 'below')

    def test_refuses_checkpoint_folder(self, tmp_path: Path, blocked: Path) -> None:
        with pytest.raises(RuntimeError, match=r'cannot write to .*below'):
            fit(tmp_path, callbacks=[ModelCheckpoint(dirpath=blocked)])

    def test_refuses_log_folder(self, tmp_path: Path, blocked: Path) -> None:
        with pytest.raises(RuntimeError, match=r'cannot write to .*below'):
            fit(tmp_path, logger=CSVLogger(blocked), enable_checkpointing=False)

    def test_refuses_root_folder(self, blocked: Path) -> None:
        with pytest.raises(RuntimeError, match=r'cannot write to .*below'):
            fit(blocked)

    def test_root_folder_without_a_writer_passes(self, blocked: Path) -> None:
        assert fit(blocked, enable_checkpointing=False).global_step == 4
        assert fit(blocked, fast_dev_run=True).global_step == 1

    def test_remote_folder_is_not_tried(self, tmp_path: Path) -> None:
        callback = ModelCheckpoint(dirpath='memory://specdm')
        assert fit(tmp_path, callbacks=[callback]).global_step == 4

    def test_only_training_writes(self, blocked: Path) -> None:
        trainer = Trainer(default_root_dir=blocked, logger=False)
        task = MeanTask()
        task.trainer = trainer
        task.prepare_data()


class TestCommandLine:
    @pytest.mark.parametrize(
        'option, value, sentence',
        [
            ('samples', 1, 'nothing was trained: 0 steps from 0 training batches'),
            ('bad', 0, 'the training loss is nan at step 0'),
        ],
    )
    def test_exit_code_and_last_line(
        self, tmp_path: Path, option: str, value: int, sentence: str
    ) -> None:
        (tmp_path / 'config.yaml').write_text(CONFIG)
        arguments = [
            f'--config={tmp_path / "config.yaml"}',
            f'--trainer.default_root_dir={tmp_path}',
            f'--data.init_args.{option}={value}',
        ]
        code, said = run_command(main, ['fit', *arguments], tmp_path / 'said.txt')
        assert code == 1
        assert said.splitlines()[-1].startswith(f'RuntimeError: {sentence}')
