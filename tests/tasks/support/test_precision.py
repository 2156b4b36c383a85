# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from torchgeo_specdm import AutoPrecision
from torchgeo_specdm.tasks.support import precision


class Task(nn.Module):
    """As much of a task as its precision looks at."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.model = nn.Conv2d(8, 8, 3)
        strategy = SimpleNamespace(root_device=torch.device(device))
        self.trainer = SimpleNamespace(strategy=strategy)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A GPU that computes in bfloat16, as far as can be told without one."""
    told: list[str] = []
    monkeypatch.setattr(precision, 'fast_bfloat16', lambda: True)
    monkeypatch.setattr(precision, 'rank_zero_info', told.append)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    before = torch.get_float32_matmul_precision()
    yield told
    torch.set_float32_matmul_precision(before)


def channels_first(task: Any) -> bool:
    return bool(task.model.weight.is_contiguous())


def test_cpu_stays_as_it_is(gpu: list[str]) -> None:
    task, chosen = Task('cpu'), AutoPrecision(True, 'default')
    before = torch.get_float32_matmul_precision()
    assert chosen.convert_module(task) is task
    assert chosen.precision == '32-true' and channels_first(task)
    assert torch.get_float32_matmul_precision() == before
    with chosen.forward_context():
        assert not torch.is_autocast_enabled('cpu')
    assert gpu == ['AutoPrecision: float32 on cpu.']


@pytest.mark.parametrize('fast', [True, False])
def test_gpu(gpu: list[str], monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(precision, 'fast_bfloat16', lambda: fast)
    task, chosen = Task('cuda'), AutoPrecision(channels_last=True)
    chosen.convert_module(task)
    assert chosen.precision == ('bf16-mixed' if fast else '32-true')
    assert torch.get_float32_matmul_precision() == 'high'
    assert not channels_first(task)
    kind = chosen.precision
    wanted = f'{kind} and TF32 on a GPU, channels_last=True, compile=None.'
    assert gpu == [f'AutoPrecision: {wanted}']


def test_compiled_are_the_networks(
    gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    monkeypatch.setattr(nn.Conv2d, 'compile', lambda self, mode: modes.append(mode))
    AutoPrecision(compile='default').convert_module(Task('cuda'))
    task: Any = Task('cuda')
    task.model.networks = [nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)]
    AutoPrecision(compile='max-autotune').convert_module(task)
    assert modes == ['default', 'max-autotune', 'max-autotune']
