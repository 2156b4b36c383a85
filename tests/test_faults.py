# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Each measure reacts to the fault that it is for, and to real pairs with no alarm."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from experiments.faults import COLUMNS, measure_faults, table
from torchgeo_specdm.datasets.scenes import scene_spec
from torchgeo_specdm.synthesis.demo import write_scenes

SIZE = 32
COUNT = 60
UPDATES = 150


class Judge(LightningModule):
    """Small enough to learn in seconds."""

    def __init__(self, in_channels: int = 0, num_classes: int = 0) -> None:
        super().__init__()
        spec = scene_spec()
        self.network = nn.Sequential(
            nn.Conv2d(in_channels or spec.num_bands, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, num_classes or spec.num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch['image']), batch['mask'])

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), 1e-2)


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp('faults')
    write_scenes(out / 'scenes', (120, 60, 60), SIZE)
    given = {'root': str(out / 'scenes'), 'batch_size': 16, 'fold': [0, 3]}
    real = {
        'class_path': 'torchgeo_specdm.PairFolderDataModule',
        'init_args': given,
    }
    judge = {'class_path': 'tests.test_faults.Judge'}
    return measure_faults(real, out, SIZE, COUNT, UPDATES, judge)


def test_print(found: Any) -> None:
    print(table(found))
