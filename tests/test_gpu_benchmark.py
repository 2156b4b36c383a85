# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The benchmark of GPUs runs through on a CPU, shrunk; its times are of no interest."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / 'experiments' / 'benchmarks'
SHRUNK = [
    *('--preset', 'tiny', '--size', '16', '--patches', '4', '--batch', '2'),
    *('--latents', '2', '--steps', '1', '--matrix', '16'),
]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = import_module('gpu')

    def once(step: Callable[[], Any], count: int) -> float:
        step()
        return 0.001

    monkeypatch.setattr(module, 'seconds', once)
    monkeypatch.setattr(module, 'RULES', module.RULES[:1])
    return module


def test_bare_networks(
    gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ('rates', 'bare', 'table'):
        gpu.main([part, '--out', str(tmp_path), *SHRUNK])
    rows = [r for r in capsys.readouterr().out.splitlines() if r.startswith('| ')]
    # float32, a rule more, and the larger batch, of both stages
    assert len(rows) == 1 + 2 * 3
    assert not [row for row in rows if 'failed' in row or 'nan' in row]
    assert json.loads((tmp_path / 'rates.json').read_text())['channels last'] > 0


def test_what_fails_loses_its_row_alone(gpu: Any, tmp_path: Path) -> None:
    def refuse() -> Any:
        raise RuntimeError('no kernel for this\nand more')

    options = gpu.read_options('', ['bare'], ['bare', '--out', str(tmp_path), *SHRUNK])
    network = gpu.make_networks(options)['diffusion']
    gpu.attempt(options, 'diffusion', network, (), 'float32', refuse)
    gpu.attempt(options, 'diffusion', network, (), 'again')
    found = json.loads((tmp_path / 'bare.json').read_text())
    assert found == {
        'diffusion, float32': 'no kernel for this',
        'diffusion, again': 0.001,
    }


def test_product(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = import_module('gpu_product')
    for name in ('WARM_UP', 'PROFILED'):
        monkeypatch.setattr(product, name, 1)
    product.main(['product', '--out', str(tmp_path), *SHRUNK])
    found = json.loads((tmp_path / 'product.json').read_text())
    assert found['autoencoder, product'] > 0
    assert found['operations of PyTorch in a step of diffusion'] > 500
    assert len([*(tmp_path / 'drawn-3' / 'images').iterdir()]) == 3 * 2
    assert 'aten::' in (tmp_path / 'profile-diffusion.txt').read_text()
