# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torchgeo_specdm.pairs import memory
from torchgeo_specdm.pairs.memory import InMemory, SampleMemory, free_memory


class Samples(Dataset[dict[str, Tensor]]):
    """Counts how often it is read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read.append(index)
        image = torch.full((2, 4, 4), 300.0 + index)
        return {'image': image, 'mask': torch.full((4, 4), index)}


@pytest.mark.parametrize(
    ('value', 'dtype', 'size'),
    [
        (torch.tensor([0.0, 255.0]), torch.float32, 1),
        (torch.tensor([-3.0, 255.0]), torch.float32, 2),
        (torch.tensor([0.0, 65535.0]), torch.float32, 2),
        (torch.tensor([0.0, 65536.0]), torch.float32, 4),
        (torch.tensor([0.5, 1.0]), torch.float32, 4),
        (torch.tensor([torch.nan, 1.0]), torch.float32, 4),
        (torch.tensor([torch.inf, 1.0]), torch.float32, 4),
        (torch.tensor([16777217, 1]), torch.int64, 4),
        (torch.tensor([255, 1]), torch.int64, 1),
        (torch.zeros(2, 0), torch.float32, 4),
    ],
)
def test_equal_in_the_smallest_type(value: Tensor, dtype: Any, size: int) -> None:
    kept = SampleMemory()
    sample = {'value': value, 'name': 'a'}
    read = [kept.take(0, lambda key: sample) for _ in range(3)]
    assert kept._kept[0]['value'][0].dtype.itemsize == size
    for found in read:
        assert found['value'].dtype == dtype and found['name'] == 'a'
        torch.testing.assert_close(
            found['value'], value, rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize('value', [1.0, 0.5])
def test_may_be_changed(value: float) -> None:
    kept = SampleMemory()
    for _ in range(3):
        found = kept.take(0, lambda key: {'image': torch.full((3,), value)})
        assert found['image'].tolist() == [value] * 3
        found['image'].zero_()


def test_reads_once() -> None:
    samples = Samples()
    data = InMemory(samples, SampleMemory())
    loader = DataLoader(data, batch_size=4)
    epochs = [torch.cat([batch['image'] for batch in loader]) for _ in range(3)]
    assert sorted(samples.read) == list(range(6))
    assert epochs[0][:, 0, 0, 0].tolist() == [300 + i for i in range(6)]
    assert torch.equal(epochs[0], epochs[2])


def test_what_does_not_fit_is_read_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # a sample has 32 pixels of two bytes and 16 of one: 80 bytes
    monkeypatch.setattr(memory, 'free_memory', lambda: 1000)
    samples = Samples()
    data = InMemory(samples, SampleMemory(processes=2))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [int(data[i]['mask'][0, 0]) for i in range(6)] == list(range(6))
    assert samples.read == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5]
    (told,) = caplog.messages
    assert told.startswith('3 samples fill the')


def test_free_memory() -> None:
    # of the machine that the tests run on
    assert 1e6 < free_memory() < 1e15
