# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset
from torchgeo.main import main

from torchgeo_specdm.datasets.spec import SampleSpec
from torchgeo_specdm.models.segformer import BandMapper
from torchgeo_specdm.tasks.segmentation import MultispectralSegmentationTask

CLASSES = ('water', 'forest', 'city')
IGNORED = 255


class Blocks(NonGeoDataset):
    """Blocks of 8 x 8 pixels; the class can be read from the four bands."""

    def __init__(
        self, length: int, seed: int, size: int = 32, ignored: bool = False
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.randint(2, (length, size // 8, size // 8), generator=generator)
        # the class 'city' never occurs
        self.masks = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
        noise = torch.randn(length, 4, size, size, generator=generator)
        signal = 2.0 * self.masks[:, None] - 1
        self.images = signal * torch.tensor([1.0, -1, 1, 0])[:, None, None] + noise / 4
        if ignored:
            self.masks = torch.full_like(self.masks, IGNORED)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'image': self.images[index], 'mask': self.masks[index]}


class BlocksDataModule(NonGeoDataModule):
    mean = torch.tensor(0.0)
    std = torch.tensor(1.0)

    def __init__(
        self,
        batch_size: int = 8,
        train: int = 32,
        size: int = 32,
        ignored: bool = False,
        dates: int = 1,
    ) -> None:
        super().__init__(Blocks, batch_size)
        self.train = train
        self.blocks = {'size': size, 'ignored': ignored}
        self.spec = SampleSpec(
            ('B02', 'B03', 'B04', 'B08'), CLASSES, dates=dates, ignore_index=IGNORED
        )

    def setup(self, stage: str) -> None:
        self.train_dataset = Blocks(self.train, 0, **self.blocks)
        self.val_dataset = Blocks(8, 1, **self.blocks)
        self.test_dataset = Blocks(8, 2, **self.blocks)
        self.predict_dataset = Blocks(4, 3, **self.blocks)


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.values.append(float(trainer.callback_metrics['train_loss']))


def fit(
    task: LightningModule, datamodule: NonGeoDataModule, **kwargs: Any
) -> tuple[Trainer, list[float]]:
    """Fit with a fixed seed; a step was made and all losses are finite."""
    losses = Losses()
    kwargs = {'logger': False, 'enable_checkpointing': False, **kwargs}
    trainer = Trainer(
        accelerator='cpu',
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs | {'callbacks': [losses, *kwargs.get('callbacks', [])]},
    )
    trainer.fit(task, datamodule=datamodule)
    assert trainer.global_step > 0
    assert len(losses.values) == trainer.global_step
    assert all(map(math.isfinite, losses.values))
    return trainer, losses.values
