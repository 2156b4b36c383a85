# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import SGD, Optimizer

from torchgeo_specdm import PairFolderDataModule
from torchgeo_specdm.datamodules.subset import SubsetDataModule

from ..conftest import pairs, quiet_trainer


class Recorder(LightningModule):
    """Keeps the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> Optimizer:
        return SGD([self.weight], 0.1)


def fit(data: Any, root: Path, steps: int) -> Recorder:
    recorder = Recorder()
    trainer = quiet_trainer(root, max_steps=steps, num_sanity_val_steps=0)
    trainer.fit(recorder, data)
    assert trainer.global_step == steps > 0
    return recorder


def turns(image: Tensor) -> list[Tensor]:
    return [x.rot90(k, (-2, -1)) for x in (image, image.flip(-1)) for k in range(4)]


def whose(image: Tensor, real: PairFolderDataModule) -> list[tuple[int, int]]:
    """Training samples, and their turns, that a normalised image is of."""
    samples: Any = real.train_dataset
    mean, std = (v.view(-1, 1, 1) for v in (real.mean, real.std))
    image = image * std + mean
    return [
        (i, k)
        for i in range(len(samples))
        for k, turned in enumerate(turns(samples[i]['image']))
        # digital numbers
        if torch.equal(turned, image.round())
    ]


@pytest.mark.parametrize('chosen', [[1, 4, 9], [0, 2, 3, 5, 6, 8, 10, 11, 13]])
def test_trains_on_the_chosen_samples_alone(
    pair_folder: Path, tmp_path: Path, chosen: list[int]
) -> None:
    real = pairs(pair_folder)
    recorder = fit(SubsetDataModule(real, chosen), tmp_path, steps=4)
    found = [
        match
        for batch in recorder.trained
        for image in batch['image']
        for match in whose(image, real)
    ]
    # all are recognised, and fewer than a batch of the real one still train
    assert len(found) == 4 * min(8, len(chosen))
    assert {sample for sample, _ in found} == set(chosen)
    # augmented as the real one is
    assert len({turn for _, turn in found}) > 3


def test_image_and_mask_stay_together(pair_folder: Path, tmp_path: Path) -> None:
    real = pairs(pair_folder)
    recorder = fit(SubsetDataModule(real, [3, 7]), tmp_path, steps=3)
    for batch in recorder.trained:
        for image, mask in zip(batch['image'], batch['mask'], strict=True):
            ((sample, turn),) = whose(image, real)
            expected = turns(real.train_dataset[sample]['mask'])[turn]
            assert torch.equal(mask.reshape(expected.shape), expected)


def test_validation_is_that_of_the_real_one(pair_folder: Path, tmp_path: Path) -> None:
    recorders = [
        fit(data, tmp_path, steps=2)
        for data in (pairs(pair_folder), SubsetDataModule(pairs(pair_folder), [2, 5]))
    ]
    whole, subset = (torch.cat([b['image'] for b in r.validated]) for r in recorders)
    # the subset is an epoch in one batch, and validates after each
    assert len(whole) == 4 and len(subset) == 8
    assert torch.equal(subset, whole.repeat(2, 1, 1, 1))
