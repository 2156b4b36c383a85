# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The YAMLs that users copy run, all four steps, on data in the true formats."""

import csv
import json
import math
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from torchgeo.main import main

from torchgeo_specdm import PairFolder, SampleSpec
from torchgeo_specdm.cli import main as specdm
from torchgeo_specdm.datasets.oscd import oscd_spec
from torchgeo_specdm.pairs.writer import PairWriter
from torchgeo_specdm.scenes.writing import write_scenes
from torchgeo_specdm.study.controls import CONTROLS
from torchgeo_specdm.study.design import Study

from .data.oscd import IMAGES, make_oscd
from .data.segmunich import make_segmunich

EXPERIMENTS = Path(__file__).parents[1] / 'experiments'
PAINTED = EXPERIMENTS / 'oscd' / 'painted.yaml'
STUDIES = [*sorted(EXPERIMENTS.glob('*/study.yaml')), PAINTED]
#: Its arms are run in tests/study/test_synthetic.py.
HARM = EXPERIMENTS / 'hls' / 'harm.yaml'
HLS_BANDS = ('Coastal', 'Blue', 'Green', 'Red', 'NIR', 'SWIR1', 'SWIR2')


def write_like_hls(data: Path) -> None:
    """Seven bands, int16 with negative values, pixels without a label, and images."""
    root, others = data / 'hls_worldcover', data / 'hls_unlabelled' / 'images'
    random = np.random.default_rng(0)
    classes = tuple(f'class {i}' for i in range(11))
    spec = SampleSpec(HLS_BANDS, classes, dtype='int16', ignore_index=255)
    writer = PairWriter(root, spec, {}, {'seed': 0})
    names = {'train': 8, 'val': 2, 'test': 2}
    for index in range(sum(names.values())):
        blocks = random.integers(0, 11, (4, 4)).repeat(16, 0).repeat(16, 1)
        image = (blocks * 300 - 100 + random.normal(0, 50, (7, 64, 64))).round()
        blocks[:4] = 255
        writer.write(f'{index:04d}', image, blocks, {'index': index})
    start = 0
    for split, count in names.items():
        ids = [f'{i:04d}\n' for i in range(start, start + count)]
        (root / f'{split}.txt').write_text(''.join(ids))
        start += count
    writer.finish('fake')
    others.mkdir(parents=True)
    for path in [*(root / 'images').iterdir()][:3]:
        with rasterio.open(path) as source:
            values, profile = source.read(), source.profile
        with rasterio.open(others / path.name, 'w', **profile) as band:
            band.write(values[:, ::-1] + 10)


def write_like_oscd(root: Path) -> None:
    """Three cities, of which no two look alike."""
    sizes = {'bercy': (128, 128), 'paris': (64, 96)}
    make_oscd(root, sizes, {'rio': (64, 100)})
    for number, city in enumerate((*sizes, 'rio')):
        for path in (root / IMAGES / city).rglob('*.tif'):
            with rasterio.open(path, 'r+') as band:
                band.write(band.read() + 40 * number)


DATA: dict[str, Callable[[Path], Any]] = {
    'demo': lambda root: write_scenes(root / 'demo', (8, 2, 2), size=32),
    'hls': write_like_hls,
    'segmunich': lambda root: make_segmunich(root / 'segmunich', size=32),
    'oscd': lambda root: write_like_oscd(root / 'oscd'),
}
#: The YAMLs of the last step.
NETWORKS = {'oscd': ('changeformer', 'fcsiamdiff', 'siamcrnn')}
#: Settings of a real datamodule that make its training crops small.
SMALL = {'segmunich': [], 'oscd': [('patch_size', '64'), ('crop_size', '32')]}


def losses(logs: Path) -> list[float]:
    """The training losses of a run, step by step."""
    with (logs / 'log' / 'metrics.csv').open() as file:
        rows = [row['train_loss'] for row in csv.DictReader(file)]
    return [float(value) for value in rows if value]


def logged_to(logs: Path) -> list[str]:
    """Options for a log that can be read; Lightning's choice depends on TensorBoard."""
    options = {'save_dir': logs, 'name': '', 'version': 'log'}
    return [
        '--trainer.logger=lightning.pytorch.loggers.CSVLogger',
        *(
            f'--trainer.logger.init_args.{key}={value}'
            for key, value in options.items()
        ),
    ]


def require_trained(logs: Path, steps: int, falling: bool) -> None:
    """Steps were taken, losses are finite, and they fall."""
    found = losses(logs)
    assert len(found) == steps and all(math.isfinite(loss) for loss in found)
    last = torch.load(logs / 'last.ckpt', weights_only=True)
    # what chooses the best one saves no other
    assert 0 < last['global_step'] <= steps
    if falling:
        third = steps // 3
        assert np.mean(found[-third:]) < np.mean(found[:third])


@pytest.mark.parametrize('name', sorted(DATA))
def test_four_steps(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_settings: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    DATA[name](tmp_path / 'data')
    folder, runs = EXPERIMENTS / name, tmp_path / 'runs' / name
    quiet = [
        *('--trainer.enable_progress_bar', 'false'),
        *('--trainer.enable_model_summary', 'false'),
        *('--trainer.accelerator', 'cpu'),
    ]
    fit = [*quiet, '--trainer.log_every_n_steps', '1']
    if name != 'oscd':
        # checkpoints come with validation; without any, a YAML has to ask for none
        fit += ['--trainer.check_val_every_n_epoch', '1']
    settings = ['--model.init_args.settings', json.dumps(tiny_settings)]
    small = ['--data.init_args.batch_size', '4']
    real = '--data.init_args.real.init_args'
    shrunk = SMALL.get(name, [('patch_size', '32')])
    crop = [text for key, side in shrunk for text in (f'{real}.{key}', side)]

    steps = [*small, '--trainer.max_steps', '12']
    if name == 'oscd':
        sides = [(f'--data.init_args.{key}', side) for key, side in shrunk]
        steps += [text for side in sides for text in side]
    main(
        [
            'fit',
            f'--config={folder}/autoencoder.yaml',
            *fit,
            *logged_to(runs / 'autoencoder'),
            *settings,
            *steps,
        ]
    )
    require_trained(runs / 'autoencoder', 12, falling=True)

    steps = ['--trainer.max_steps', '6', f'{real}.batch_size', '4', *crop, *small]
    passes = ['--data.init_args.passes', '2']
    command = [
        'fit',
        f'--config={folder}/diffusion.yaml',
        *fit,
        *logged_to(runs / 'diffusion'),
        *settings,
    ]
    main([*command, *steps, *passes])
    require_trained(runs / 'diffusion', 6, falling=False)

    count = ['--data.init_args.count', '8']
    command = ['predict', f'--config={folder}/generate.yaml', *quiet, *count]
    main(command)
    assert len(PairFolder(runs / 'synthetic')) == 8

    if name != 'segmunich':
        few = ['--model.init_args.updates', '2', f'{real}.batch_size', '4', *crop]
        # two more than there are
        few += ['--data.init_args.synthetic.init_args.count', '10']
        main(['test', f'--config={folder}/trust.yaml', *quiet, *few])
        measures = json.loads((runs / 'trust' / 'measures.json').read_text())
        assert measures['counts']['synthetic'] == 10
        assert math.isfinite(measures['reconstruction']['rmse'])

    steps = ['--trainer.max_steps', '3', f'{real}.batch_size', '4', *crop]
    few = ['--data.init_args.ratio', '1', '--data.init_args.real_limit', '6']
    for network in NETWORKS.get(name, ('segment',)):
        small = 'resnet18' if network in ('fcsiamdiff', 'siamcrnn') else 'mit_b0'
        backbone = ['--model.init_args.backbone', small]
        config = f'--config={folder}/{network}.yaml'
        logs = logged_to(runs / network)
        main(['fit', config, *fit, *logs, *steps, *few, *backbone])
        require_trained(runs / network, 3, falling=False)
    # without validation there is no best one
    kept = 'last.ckpt' if name == 'oscd' else 'best.ckpt'
    path = str(runs / network / kept)
    main(['test', config, *quiet, *logs, *crop, '--ckpt_path', path])
    if name == 'oscd':
        assert (runs / network / 'maps' / 'rio.tif').exists()
    if name == 'demo':
        alone, tested = shown('README.md', 'runs/demo/real')
        main([*alone, *fit, *logged_to(runs / 'real'), *steps])
        require_trained(runs / 'real', 3, falling=False)
        main([*tested, *quiet, *logs, *crop])
        (mapped,) = shown('docs/howto/scenes.md', 'predict_root')
        main([*mapped[:-1], 'data/demo/images', *quiet, *logs, *crop])
        assert len([*(runs / 'segment' / 'maps').glob('*.tif')]) == 12
        run_the_pages()
        (pixels,) = shown('docs/steps.md', 'codec pixels')
        bare = tiny_settings | {'pixels': {'prior': None}}
        pixels += ['--model.init_args.settings', json.dumps(bare), *passes, *steps]
        main([*pixels, *fit, *logged_to(runs / 'diffusion')])
        require_trained(runs / 'diffusion', 3, falling=False)


def shown(page: str, part: str) -> list[list[str]]:
    """Words of the commands of TorchGeo's on a page that have a part."""
    text = (EXPERIMENTS.parent / page).read_text()
    text = text.replace('experiments/', f'{EXPERIMENTS}/')
    lines = re.findall(rf'^torchgeo (.*{part}\b.*)$', text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def run_the_pages() -> None:
    """The Python of README and reference, on what the four steps left behind."""
    steps = []
    shorter = {
        'ratio=3': 'ratio=1',
        'max_steps=500': 'max_steps=2, accelerator="cpu", logger=False',
        "'data/demo', patch_size=32": "'data/demo', patch_size=32, batch_size=4",
    }
    for page in ('README.md', 'docs/reference/api.md'):
        text = (EXPERIMENTS.parent / page).read_text()
        (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
        for long, short in shorter.items():
            code = code.replace(long, short)
        Path('page.py').write_text(code)
        found = runpy.run_path('page.py')
        assert found['pairs']['image'].shape == (3, 10, 32, 32)
        steps += [found['trainer'].global_step] if 'trainer' in found else []
    assert steps == [2]


@pytest.mark.parametrize(
    'path',
    [
        p
        for p in sorted(EXPERIMENTS.glob('*/*.yaml'))
        if p not in (*STUDIES, HARM) and p.parent.name != 'paper'
    ],
    ids=lambda p: f'{p.parent.name}-{p.stem}',
)
def test_says_how_to_run(path: Path) -> None:
    command = {'generate': 'predict', 'trust': 'test'}.get(path.stem, 'fit')
    head = path.read_text().split('\nseed_everything')[0]
    assert (
        f'torchgeo {command} --config experiments/{path.parent.name}/{path.name}'
        in head
    )


def test_the_study_of_harm_takes_it_apart() -> None:
    sources = {arm.source for arm in Study.read(HARM).arms.values()}
    assert sources == {'joint', 'vary', *CONTROLS}


SHRUNK_DATA = {
    'hls': {'patch_size': 32},
    'segmunich': {},
    'oscd': {'patch_size': 64, 'overlap': 0.5, 'crop_size': 32},
}
SMALL_BACKBONES = {'mit_b5': 'mit_b0', 'resnet50s': 'resnet18', 'resnet101': 'resnet18'}


def shrink(study: dict[str, Any], name: str, settings: dict[str, Any]) -> None:
    """The same arms with one seed, few samples and steps, and small networks."""
    study |= {
        'seeds': 1,
        'subsets': 1,
        'sizes': [4],
        'updates': 2,
        'most_updates': 0,
        'folds': 0,
    }
    study['trainer'] = {'accelerator': 'cpu'}
    if len(study['arms']) > 5:
        # all arms with one network are enough
        study['models'] = dict([*study['models'].items()][:1])
    study['data']['init_args'] |= {'batch_size': 2} | SHRUNK_DATA[name]
    for model in study['models'].values():
        given = model['init_args']
        backbone = SMALL_BACKBONES.get(given.get('backbone'), given.get('backbone'))
        if given['model'] == 'changeformer':
            backbone = 'mit_b0'
        given['backbone'] = backbone
        given.pop('weights', None)
    for recipe in study['generators'].values():
        recipe |= {'preset': 'tiny', 'settings': settings, 'passes': 2, 'batch_size': 4}
        recipe |= {'autoencoder': 2, 'diffusion': 2}
    for arm in study['arms'].values():
        if arm.get('ratios'):
            arm['ratios'] = [1]


@pytest.mark.parametrize('path', STUDIES, ids=lambda p: f'{p.parent.name}-{p.stem}')
def test_studies(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_settings: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    name = path.parent.name
    DATA[name](tmp_path / 'data')
    values = yaml.safe_load(path.read_text())
    whole = Study.read(path)
    shrink(values, name, tiny_settings)
    if path == PAINTED:
        # of the cities that are made
        values['data']['init_args']['test_cities'] = ['rio']
    if 'pairs' in str(values['generators']):
        spec = oscd_spec()
        writer = PairWriter(tmp_path / 'runs' / 'oscd' / 'synthetic', spec, {}, {})
        for index in range(4):
            image = np.random.default_rng(index).integers(0, 2000, (2, 10, 32, 32))
            writer.write(f'{index}', image, image[0, 0] % 2, {'index': index})
        writer.finish('fake')
    Path('small.yaml').write_text(yaml.safe_dump(values))
    assert specdm(['study', 'small.yaml']) == 0
    with (Path(values['out']) / 'runs.csv').open() as file:
        rows = list(csv.DictReader(file))
    arms = {'real only', *whole.arms}
    assert {row['arm'] for row in rows} == arms
    assert len(rows) == len(arms) * len(values['models'])
    assert not any(row['reason'] for row in rows)
    assert all(math.isfinite(float(row['miou'])) for row in rows)
    said = (Path(values['out']) / 'study.md').read_text()
    assert ("the paper's protocol" in said) == (whole.protocol == 'all_labels')
