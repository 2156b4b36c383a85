# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datamodules import NonGeoDataModule

from torchgeo_specdm import InMemoryDataModule
from torchgeo_specdm.datasets.pairs import PairFolder

from ..conftest import pairs
from .test_subset import fit


class Numbers(Dataset[dict[str, Tensor]]):
    """Eight images, each of its number."""

    def __init__(self) -> None:
        self.read: Counter[int] = Counter()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read[index] += 1
        return {
            'image': torch.full((1, 4, 4), float(index)),
            'mask': torch.zeros(4, 4).long(),
        }


class NumbersDataModule(NonGeoDataModule):
    mean, std = torch.zeros(1), torch.ones(1)

    def __init__(self) -> None:
        super().__init__(Numbers, batch_size=4)  # type: ignore[arg-type]

    def setup(self, stage: str) -> None:
        self.train_dataset, self.val_dataset = Numbers(), Numbers()


def test_any_datamodule_reads_its_training_samples_once(tmp_path: Path) -> None:
    real = NumbersDataModule()
    recorder = fit(InMemoryDataModule(real), tmp_path, steps=6)
    dataset: Any = real.train_dataset
    assert dataset.dataset.read == dict.fromkeys(range(8), 1)
    # whole passes, in another order each
    passes = [
        torch.cat([batch['image'][:, 0, 0, 0] for batch in recorder.trained[i : i + 2]])
        for i in (0, 2, 4)
    ]
    assert all(sorted(p.tolist()) == list(range(8)) for p in passes)
    assert not torch.equal(passes[0], passes[1])


def test_folder_reads_its_samples_once(
    pair_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    load = PairFolder._load

    def count(self: PairFolder, name: str) -> dict[str, Tensor]:
        read[name] += 1
        return load(self, name)

    data = pairs(pair_folder)
    data.prepare_data()
    monkeypatch.setattr(PairFolder, '_load', count)
    recorder = fit(data, tmp_path, steps=6)
    assert len(recorder.validated) > 1
    # 16 to train on and 4 to validate on
    assert len(read) == 20 and {*read.values()} == {1}
