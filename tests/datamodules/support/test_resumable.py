# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler
from torchgeo.datamodules import NonGeoDataModule

from torchgeo_specdm.datamodules.support.mixing import MixSampler
from torchgeo_specdm.datamodules.support.resumable import (
    ResumableLoader,
    make_resumable,
    seed_random,
)


class Drawn(Dataset[Tensor]):
    """Samples that draw random numbers themselves."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        drawn = torch.rand(()), np.random.rand(), random.random()
        return torch.tensor([index, *drawn], dtype=torch.float64)


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(1)


class Drawing(NonGeoDataModule):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(Drawn)
        self.options = options

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(Drawn(), **self.options)


def batches(
    options: dict[str, Any],
    done: int = 0,
    epoch: int = 1,
    rank: int = 0,
    seed: int = 0,
    max_steps: int = -1,
) -> list[Tensor]:
    """What a process gets of an epoch, each batch with a number drawn after it."""
    trainer: Any = SimpleNamespace(
        fit_loop=SimpleNamespace(batch_idx=done - 1),
        current_epoch=epoch,
        global_rank=rank,
        max_epochs=1 if max_steps == -1 else -1,
        max_steps=max_steps,
    )
    data = Drawing(options)
    # a datamodule may be given to several trainers
    for _ in range(2):
        make_resumable(data, trainer, lambda: seed)
    loader = data.train_dataloader()
    assert isinstance(loader, ResumableLoader)
    return [torch.cat([batch.flatten(), torch.rand(1)]) for batch in loader]


OPTIONS: dict[str, dict[str, Any]] = {
    'shuffled': {'batch_size': 4, 'shuffle': True},
    'short last batch': {'batch_size': 5, 'shuffle': True},
    'weighted': {'batch_size': 4, 'sampler': WeightedRandomSampler([1, 2] * 6, 12)},
    'mixed': {'batch_size': 4, 'sampler': MixSampler(4, 8, 4, 3, real_share=0.5)},
    'own batches': {'batch_sampler': [[3, 1], [0], [2, 5, 4]]},
    'single samples': {'batch_size': None, 'shuffle': True},
}


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_goes_on_at_any_batch(options: dict[str, Any]) -> None:
    whole = batches(options)
    for done in range(len(whole) + 1):
        torch.manual_seed(done)
        rest = batches(options, done)
        assert len(rest) == len(whole) - done
        assert all(map(torch.equal, whole[done:], rest))


@pytest.mark.parametrize(
    ('options', 'max_steps', 'passes'),
    [
        ('shuffled', 1000, 33),
        ('shuffled', 8, 2),
        ('shuffled', 2, 1),
        ('single samples', 1000, 8),
        ('weighted', 1000, 33),
        ('mixed', 1000, 33),
        ('mixed', 8, 2),
        ('own batches', 1000, 1),
    ],
)
def test_epochs_of_several_passes(options: str, max_steps: int, passes: int) -> None:
    given = OPTIONS[options]
    once, found = batches(given), batches(given, max_steps=max_steps)
    assert len(found) == passes * len(once)
    size = given.get('batch_size') or 1
    samples = torch.cat([batch[: 4 * size : 4] for batch in found]).tolist()
    if passes > 1:
        if options == 'mixed':
            assert sum(sample < 4 for sample in samples) == len(samples) / 2
        elif options != 'weighted':
            assert all(samples.count(i) == passes for i in range(12))
        rest = batches(given, done=5, max_steps=max_steps)
        assert all(map(torch.equal, found[5:], rest))


def test_differs_by_epoch_process_and_seed() -> None:
    options = OPTIONS['shuffled']
    firsts = [
        batches(options, **number)[0]
        for number in ({}, {'epoch': 2}, {'rank': 1}, {'seed': 1})
    ]
    assert len({tuple(first.tolist()) for first in firsts}) == 4
    # and all that is random differs within a batch
    assert len(set(firsts[0].tolist())) == len(firsts[0])


def test_accelerators_are_seeded_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', seeds.append)
    numbers = []
    for present in (False, True):
        monkeypatch.setattr(torch.accelerator, 'is_available', lambda p=present: p)
        seed_random(1, 2)
        numbers.append(torch.rand(2).tolist())
    assert numbers[0] == numbers[1]
    assert seeds == [torch.initial_seed()]


def test_workers_do_not_change_the_order() -> None:
    options = OPTIONS['shuffled']
    kept = batches(options | {'num_workers': 1, 'persistent_workers': True}, done=1)
    for one, other in zip(batches(options, done=1), kept, strict=True):
        assert torch.equal(one[:-1:4], other[:-1:4])


@pytest.mark.parametrize('loader', [['any'], DataLoader(Stream())], ids=type)
def test_other_loaders_are_left_alone(
    loader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drawing, 'train_dataloader', lambda self: loader)
    data = Drawing({})
    make_resumable(data, SimpleNamespace(), lambda: 0)  # type: ignore[arg-type]
    assert data.train_dataloader() is loader
