# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset

from torchgeo_specdm.compat import BaseTask
from torchgeo_specdm.tasks.guards import StepGuard, require_writable

CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 1
  enable_progress_bar: false
model:
  class_path: test_guards.MeanTask
data:
  class_path: test_guards.PointsDataModule
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
    root: Path, datamodule: PointsDataModule | None = None, **kwargs: Any
) -> Trainer:
    ckpt_path = kwargs.pop('ckpt_path', None)
    options = {'logger': False, 'max_epochs': 1, **kwargs}
    trainer = Trainer(
        accelerator='cpu',
        default_root_dir=root,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(MeanTask(), datamodule=datamodule or PointsDataModule(), **ckpt_path)
    return trainer
