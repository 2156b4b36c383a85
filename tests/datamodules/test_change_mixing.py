# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Real and synthetic pairs of several dates in one training set."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import PAIR_CLASSES, quiet_trainer, write_pair_folder
from tests.data.oscd import make_oscd
from tests.datamodules.torchgeo_fakes import Recorder
from torchgeo_specdm import (
    OSCDDataModule,
    PairFolderDataModule,
    SampleSpec,
    SyntheticAugmentedDataModule,
)
from torchgeo_specdm.compat import ChangeDetectionTask
from torchgeo_specdm.datasets.oscd import oscd_spec
from torchgeo_specdm.pairs.writer import PairWriter

BANDS = ('B02', 'B03', 'B04', 'B8A')


@pytest.fixture(scope='module')
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('oscd')
    sizes = {'bercy': (80, 96), 'bordeaux': (64, 64), 'paris': (80, 80)}
    make_oscd(root, sizes, {'rio': (64, 100)}, BANDS)
    return root


def coordinates(spec: SampleSpec, size: int, shift: int) -> tuple[Any, Any]:
    """Bands are row and column, and every date adds 100; the mask is a sum of both."""
    rows, columns = np.indices((size, size))
    planes = [(rows, columns)[band % 2] for band in range(spec.num_bands)]
    image = np.stack([np.stack(planes) + 100 * t + shift for t in range(spec.dates)])
    return image, (rows + 2 * columns) % spec.num_classes


def write_synthetic(root: Path, spec: SampleSpec, size: int, count: int = 12) -> Path:
    writer = PairWriter(root, spec, {}, {})
    for index in range(count):
        image, mask = coordinates(spec, size, 200)
        writer.write(f'{index:03d}', image, mask, {'index': index})
    writer.finish('A test.')
    return root


def oscd(root: Path, **settings: Any) -> OSCDDataModule:
    given = {'batch_size': 4, 'bands': BANDS, 'patch_size': 48, 'overlap': 0.5}
    return OSCDDataModule(str(root), **given | {'crop_size': 32} | settings)


def test_torchgeo_change_detection_unchanged(cities: Path, tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / 'synthetic', oscd_spec(BANDS), 32)
    task = ChangeDetectionTask(
        model='fcsiamdiff', backbone='resnet18', in_channels=len(BANDS), loss='bce'
    )
    recorder = Recorder()
    trainer = quiet_trainer(max_epochs=1, callbacks=[recorder])
    datamodule = SyntheticAugmentedDataModule(oscd(cities), folder, 1.2)
    trainer.fit(task, datamodule=datamodule)
    assert trainer.global_step > 0 and all(map(math.isfinite, recorder.losses))
    assert datamodule.counts == (10, 12)
    assert math.isfinite(trainer.callback_metrics['val_loss'])
    for batch in recorder.batches:
        assert batch.keys() == {'image', 'mask'}
        assert batch['image'].shape == (4, 2, 4, 32, 32)
        assert batch['mask'].shape == (4, 1, 32, 32)
    (tested,) = trainer.test(task, datamodule=datamodule, verbose=False)
    assert math.isfinite(tested['test_loss'])


def require_aligned(image: Tensor, mask: Tensor, shift: int = 0) -> None:
    """Rows and columns in each date still tell the mask."""
    dates = torch.arange(image.shape[1]).view(-1, 1, 1, 1)
    place = image - 100 * dates - shift
    assert torch.equal(place[:, :1], place[:, -1:])
    rows, columns = place[:, 0, 0], place[:, 0, 1]
    assert torch.equal(mask[:, 0], ((rows + 2 * columns) % len(PAIR_CLASSES)).long())


@pytest.mark.parametrize('dates', [2, 3])
def test_dates_and_mask_stay_aligned(dates: int, tmp_path: Path) -> None:
    real = write_pair_folder(tmp_path / 'real', dates)
    description = json.loads((real / 'dataset.json').read_text())
    spec = SampleSpec.from_dict(description)
    # larger than the real patches, so that they are cropped twice
    folder = write_synthetic(tmp_path / 'synthetic', spec, 48)
    datamodule = SyntheticAugmentedDataModule(
        PairFolderDataModule(str(real), batch_size=6, patch_size=16),
        folder,
        real_limit=0,
    )
    recorder = Recorder()
    trainer = quiet_trainer(max_epochs=4, callbacks=[recorder])

    class Task(ChangeDetectionTask):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return next(self.parameters()).sum() * 0.0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    task = Task(model='unet', backbone='resnet18', in_channels=6)
    task.configure_optimizers = lambda: torch.optim.SGD(task.parameters(), 1e-3)
    trainer.fit(task, datamodule=datamodule)
    assert trainer.global_step == 8
    mean, std = (v.view(-1, 1, 1) for v in (datamodule.mean, datamodule.std))
    corners = set()
    for batch in recorder.batches:
        image = (batch['image'] * std + mean).round()
        assert image.shape == (6, dates, 6, 16, 16)
        require_aligned(image, batch['mask'], shift=200)
        corners |= {tuple(x) for x in image[:, 0, :2, 0, 0].tolist()}
    # the crops, flips and turns did move them
    assert len(corners) > 20
