# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""TorchGeo's own datamodules and a foreign one, through the verbs that take data."""

import json
import math
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import rasterio
import torch
import yaml
from torch.utils.data import Dataset
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import LandCoverAI, LoveDA

from tests.conftest import train
from tests.datamodules.torchgeo_fakes import (
    write_landcoverai,
    write_levircd,
    write_loveda,
    write_random_pairs,
)
from tests.study.worlds import tiny_task
from torchgeo_specdm import PairFolder, PairFolderDataModule, SpecDMTask, quickstart
from torchgeo_specdm.cli import main
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.study.runs import read_run

#: As ``torchgeo fit`` takes them: short names, and arguments behind ``**kwargs``.
LAND = {'class_path': 'LandCoverAIDataModule', 'init_args': {'batch_size': 4}}
LOVEDA = {'class_path': 'LoveDADataModule', 'init_args': {'batch_size': 4}}
LEVIR = {
    'class_path': 'torchgeo.datamodules.LEVIRCDDataModule',
    'init_args': {'batch_size': 4, 'patch_size': 32},
}
FOREIGN = {
    'class_path': 'tests.test_any_datamodule.ForeignDataModule',
    'init_args': {'batch_size': 4},
}


class Foreign(Dataset[Any]):
    """Samples of a data set that says nothing of itself but what is in them."""

    def __init__(self, root: Path, split: str) -> None:
        self.pairs = PairFolder(root)
        count = {'train': 10, 'val': 3, 'test': 3}[split]
        first = {'train': 0, 'val': 10, 'test': 13}[split]
        self.numbers = range(first, first + count)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.pairs[self.numbers[index]]


class ForeignDataModule(NonGeoDataModule):
    """Passes its arguments on, as 58 of the 60 of TorchGeo do."""

    def __init__(
        self, batch_size: int = 1, num_workers: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(Foreign, batch_size, num_workers, **kwargs)


def write_foreign(root: Path) -> Path:
    spec = SampleSpec(('R', 'G', 'B'), ('field', 'town'), dtype='uint8')
    return write_random_pairs(root, spec, count=16)


@pytest.fixture(scope='module')
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the YAML of a datamodule, and its files once."""
    root = tmp_path_factory.mktemp('real')
    writers = {
        'LandCoverAIDataModule': partial(write_landcoverai, train=20),
        'LoveDADataModule': write_loveda,
        'LEVIRCDDataModule': partial(write_levircd, train=20),
        'ForeignDataModule': write_foreign,
    }

    def write(config: dict[str, Any], **keys: Any) -> Path:
        name = config['class_path'].rsplit('.', 1)[-1]
        if not (root / name).exists():
            writers[name](root / name)
        data = config | {'dict_kwargs': {'root': str(root / name)}}
        path = root / f'{name}.yaml'
        path.write_text(yaml.safe_dump({'data': data, **keys}))
        return path

    return write


@pytest.mark.parametrize('config', [LAND, LOVEDA, LEVIR, FOREIGN])
def test_overlap(
    make: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
) -> None:
    assert main(['overlap', str(make(config))]) == 0
    assert '0 of 4 val samples show' in capsys.readouterr().out or config is FOREIGN


def short_plan(*arguments: Any) -> dict[str, Any]:
    """A plan that was not timed: one step of each kind."""
    return {
        'samples': arguments[3],
        'patch_size': 32,
        'batch_size': 4,
        'precision': '32-true',
        'latent_batch_size': 4,
        'passes': 1,
        'steps': {'diffusion': 1, 'network': 1},
        'seconds': dict.fromkeys(('autoencoder', 'diffusion', 'network', 'sample'), 0),
    }


@pytest.mark.parametrize(
    'config, spec, counts',
    [
        (LAND, {}, (20, 4, 4)),
        # without a labelled test set, that for validation is the test set
        (LOVEDA, {}, (19, 5, 4)),
        (LEVIR, {}, (20, 4, 4)),
        (FOREIGN, {'classes': ['field', 'town']}, (10, 3, 3)),
    ],
)
def test_quickstart(
    make: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
    spec: dict[str, Any],
    counts: tuple[int, int, int],
) -> None:
    monkeypatch.setattr(quickstart, 'make_plan', short_plan)
    monkeypatch.setattr(quickstart, '_RATIOS', (1.0,))
    monkeypatch.setattr(quickstart, '_SEEDS', 2)
    monkeypatch.setitem(quickstart.NETWORKS, 'segmentation', tiny_task())
    out, task = tmp_path / 'out', 'change' if config is LEVIR else 'segmentation'
    command = ['quickstart', '--data', str(make(config, spec=spec)), '--task', task]
    command += ['--codec', 'pixels', '--out', str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f'Report: {out / "report.html"}' in said
    page = (out / 'report.html').read_text(encoding='utf-8')
    assert f'{counts[0]} labelled training' in page
    assert ('labelled test set' in page) == (config is LOVEDA)
    pairs = PairFolderDataModule(str(out / 'real'))
    assert tuple(map(len, pairs.split_ids().values())) == counts
    assert len(PairFolder(out / 'synthetic')) == counts[0]
    # real ones are as they were, and not called drawn
    with rasterio.open(next((out / 'real' / 'images').iterdir())) as file:
        assert file.tags()['SYNTHETIC'] == 'NO' and file.dtypes[0] == 'uint8'
    train, val, test = counts
    assert f'{train} patches to train on, {val} to validate and {test} to test.' in said
    if config is FOREIGN:
        (more,) = [line for line in said.splitlines() if line.startswith('More pairs')]
        more = more.replace(
            '--out MORE --count 100', f'--out {tmp_path}/more --count 2'
        )
        assert main(shlex.split(more.split(': ')[1])[1:]) == 0
        assert len(PairFolder(tmp_path / 'more')) == 2


def test_a_training_says_what_samples_are_taken_for(
    make: Callable[..., Path],
    tmp_path: Path,
    tiny_settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = make(FOREIGN).with_name('ForeignDataModule')
    given: dict[str, Any] = {'codec': 'pixels', 'settings': tiny_settings}
    for data, spec in (
        (ForeignDataModule(4, root=root), {'classes': ['field', 'town']}),
        (PairFolderDataModule(str(root), batch_size=4), None),
    ):
        task = SpecDMTask('diffusion', str(tmp_path / 'out'), spec=spec, **given)
        with caplog.at_level('INFO'):
            run = train(task, data, tmp_path, epochs=1)
        assert all(map(math.isfinite, run.losses))
    said = [text for text in caplog.messages if 'is taken for' in text]
    assert len(said) == 1 and said[0].startswith('ForeignDataModule is taken for uint8')
    assert 'R, G, B and the classes field, town.' in said[0]


def run_study(out: Path, config: dict[str, Any], **keys: Any) -> list[Any]:
    task = 'ChangeDetection' if config['class_path'] == LEVIR['class_path'] else ''
    model = {
        'class_path': f'torchgeo_specdm.Multispectral{task or "Segmentation"}Task',
        'init_args': {
            'model': 'siamcrnn' if task else 'unet',
            'backbone': 'resnet18',
            **keys.pop('sizes'),
        },
    }
    quiet = {'enable_progress_bar': False, 'accelerator': 'cpu'}
    study = {
        'out': str(out / 'out'),
        'data': config,
        'models': {'net': model},
        'seeds': 1,
        'updates': 1,
        'trainer': quiet,
        'generators': {
            'own': {'codec': 'pixels', 'diffusion': 1, 'passes': 1, 'batch_size': 4}
        },
        **keys,
    }
    path = out / 'study.yaml'
    path.write_text(yaml.safe_dump(study))
    assert main(['study', str(path)]) == 0
    return [read_run(p) for p in sorted((out / 'out' / 'runs').glob('*.json'))]


@pytest.mark.parametrize(
    'config, classes, source, split',
    [
        (LAND, 5, 'vary', 'test'),
        (LOVEDA, 8, 'joint', 'val'),
        (LEVIR, 2, 'joint', 'test'),
        (FOREIGN, 2, 'masks', 'test'),
    ],
)
def test_study(
    make: Callable[..., Path],
    tmp_path: Path,
    config: dict[str, Any],
    classes: int,
    source: str,
    split: str,
) -> None:
    data = yaml.safe_load(make(config).read_text())['data']
    spec = {'classes': ['field', 'town']} if config is FOREIGN else {}
    arm = {'generator': 'own', 'ratios': [1], 'source': source}
    found = run_study(
        tmp_path,
        data,
        spec=spec,
        sizes={'in_channels': 3, 'num_classes': classes},
        arms={'mix': arm},
    )
    assert len(found) == 2
    for run in found:
        assert run.reason == '' and run.split == split
        assert 0 <= run.scores['miou'] <= 1


@pytest.mark.parametrize('config, dates', [(LAND, 1), (LOVEDA, 1), (LEVIR, 2)])
def test_filter_and_report(
    make: Callable[..., Path], tmp_path: Path, config: dict[str, Any], dates: int
) -> None:
    classes = LoveDA.classes if config is LOVEDA else LandCoverAI.classes
    classes = ('no change', 'change') if dates == 2 else classes
    spec = SampleSpec(('R', 'G', 'B'), classes, dates, dtype='uint8', scale=1 / 255)
    drawn = write_random_pairs(tmp_path / 'drawn', spec, 20, seed=1)
    real = ['--real', str(make(config)), '--updates', '1']
    assert main(['report', str(drawn), *real]) == 0
    page = (tmp_path / 'drawn-trust' / 'report.html').read_text(encoding='utf-8')
    assert 'looks real' in page.lower()
    measures = json.loads((tmp_path / 'drawn-trust' / 'measures.json').read_text())
    assert measures['counts']['held_out'] == 4
    # a judge of one update tells nothing
    chosen = ['--by', 'spectrum', '--quantile', '0', '--out', str(tmp_path / 'kept')]
    assert main(['filter', str(drawn), *real, *chosen]) == 0
    assert len(PairFolder(tmp_path / 'kept')) > 0
