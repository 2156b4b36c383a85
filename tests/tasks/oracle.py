# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A judge that knows the truth, so that tests know what it must say."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..conftest import PAIR_SPECTRA

ORACLE: dict[str, Any] = {'class_path': 'tests.tasks.oracle.Oracle'}


class Oracle(LightningModule):
    """Tells the class of a pixel by its spectrum, whatever the light."""

    def __init__(self, in_channels: int = 6, num_classes: int = 4) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer('mean', torch.zeros(in_channels, 1, 1))
        self.register_buffer('std', torch.ones(in_channels, 1, 1))
        spectra = torch.from_numpy(PAIR_SPECTRA).float()
        self.register_buffer('directions', spectra / spectra.norm(dim=1, keepdim=True))

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule
        self.mean, self.std = (v.view(-1, 1, 1) for v in (data.mean, data.std))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images * self.std + self.mean
        pixels = pixels / pixels.norm(dim=1, keepdim=True)
        scores = torch.einsum('bchw,kc->bkhw', pixels, self.directions)
        return scores + 0 * self.weight

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self(batch['image']).mean()

    def configure_optimizers(self) -> Optimizer:
        return SGD([self.weight], 0.1)
