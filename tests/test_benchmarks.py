# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The benchmarks run; what they measure is no test's business."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / 'experiments' / 'benchmarks'


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmark of ratios uses one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr('torchgeo_specdm.pairs.cache.HOME', tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    ratios = importlib.import_module('ratios')
    # these need the imports of further processes
    parts = [part for part in ratios.PARTS if part not in ('starting', 'stages')]
    ratios.main(['--out', str(tmp_path), '--small', '--only', *parts])
    printed = capsys.readouterr().out
    rows = [line.split('|') for line in printed.splitlines() if line.startswith('|')]
    values = [float(row[2]) for row in rows[2:]]
    assert len(values) == 14 and all(value > 0 for value in values)
    assert {row[5].strip() for row in rows[2:]} <= {'met', 'not met'}
