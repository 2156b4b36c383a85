# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest
import torch

from torchgeo_specdm import InMemoryDataModule
from torchgeo_specdm.datasets.pairs import PairFolder

from ..conftest import calls_of, pairs
from .test_subset import fit
from .torchgeo_fakes import Other, OtherDataModule


def test_any_datamodule_reads_its_training_samples_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = calls_of(monkeypatch, Other, '__getitem__')
    data = InMemoryDataModule(OtherDataModule(batch_size=4))
    recorder = fit(data, tmp_path, steps=6)
    assert sorted(index for own, index in read if len(own) == 8) == list(range(8))
    # whole passes, in another order each
    passes = [
        torch.cat([batch['index'] for batch in recorder.trained[i : i + 2]])
        for i in (0, 2, 4)
    ]
    assert all(sorted(p.tolist()) == list(range(8)) for p in passes)
    assert not torch.equal(passes[0], passes[1])


def test_folder_reads_its_samples_once(
    pair_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pairs(pair_folder)
    data.prepare_data()
    read = calls_of(monkeypatch, PairFolder, '_load')
    recorder = fit(data, tmp_path, steps=6)
    assert len(recorder.validated) > 1
    # 16 to train on and 4 to validate on
    assert len(read) == len({name for _, name in read}) == 20
