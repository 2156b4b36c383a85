# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""TorchGeo's crops of several dates: every image must keep its own mask."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchgeo.datamodules import LEVIRCDDataModule

from tests.conftest import quiet_trainer
from tests.datamodules.torchgeo_fakes import Recorder
from torchgeo_specdm import (
    LatentDataModule,
    MultispectralChangeDetectionTask,
    SpecDMTask,
    SyntheticAugmentedDataModule,
)
from torchgeo_specdm.compat import ChangeDetectionTask

SIZE = 48
#: Masks by sample, row and column, all different.
MASKS = np.random.default_rng(0).integers(0, 2, (8, SIZE, SIZE), np.uint8)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LEVIR-CD whose pixels tell row, column, and sample and date."""
    root = tmp_path_factory.mktemp('levircd')
    grid = np.indices((SIZE, SIZE), np.uint8)
    for split in ('train', 'val', 'test'):
        for number, mask in enumerate(MASKS):
            name = f'{split}_{number}.png'
            for date, folder in enumerate(('A', 'B')):
                (root / folder).mkdir(exist_ok=True)
                own = np.full_like(grid[:1], 10 * number + date)
                image = np.concatenate([grid, own]).transpose(1, 2, 0)
                Image.fromarray(image).save(root / folder / name)
            (root / 'label').mkdir(exist_ok=True)
            Image.fromarray(255 * mask).save(root / 'label' / name)
    return root


def require_aligned(batch: dict[str, Tensor], size: int = 32) -> None:
    """Both dates of a batch (B, 2, 3, H, W), in 0..255, show what the mask is of."""
    image, mask = batch['image'].round().long(), batch['mask']
    assert image.shape[1:] == (2, 3, size, size) and mask.ndim == 4
    rows, columns, own = image.unbind(2)
    assert (own[:, 1] - own[:, 0] == 1).all()
    wanted = torch.from_numpy(MASKS)[own // 10, rows, columns]
    assert torch.equal(wanted, mask.expand_as(wanted).to(torch.uint8))


@pytest.mark.parametrize('wrapped', [True, False])
def test_training_and_validation(root: Path, wrapped: bool) -> None:
    real: Any = LEVIRCDDataModule(root=root, batch_size=4, patch_size=32)
    # TorchGeo's task needs the datamodule around it, ours sees to it by itself
    kind: Any = ChangeDetectionTask if wrapped else MultispectralChangeDetectionTask
    own = {'loss': 'bce'} if wrapped else {'num_classes': 2}
    task = kind(model='fcsiamdiff', backbone='resnet18', in_channels=3, **own)
    recorder = Recorder()
    trainer = quiet_trainer(max_epochs=1, callbacks=[recorder], limit_val_batches=1)
    data = SyntheticAugmentedDataModule(real, ratio=0) if wrapped else real
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 2 and all(map(math.isfinite, recorder.losses))
    for batch in recorder.batches:
        require_aligned(batch | {'image': 255 * batch['image']})
    assert math.isfinite(trainer.callback_metrics['val_loss'])


def test_cached_latents(
    root: Path, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    real = LEVIRCDDataModule(root=root, batch_size=4, patch_size=32)
    data = LatentDataModule(real, passes=2)
    out = str(tmp_path / 'generator')
    task = SpecDMTask('diffusion', out, 'pixels', 'tiny', tiny_settings)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 1
    latents: Any = data.train_dataset
    assert len(latents) == 16
    require_aligned(task.codec.decode(latents.latents.float()))
