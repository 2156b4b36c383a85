# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Files of every form that is read, each broken in many ways, none with a traceback."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.data.pairs import make_pairs
from torchgeo_specdm.codecs.storage import CodecConfig
from torchgeo_specdm.diffusion.generator import GeneratorConfig
from torchgeo_specdm.files import read_config, read_json
from torchgeo_specdm.pairs.description import describe
from torchgeo_specdm.reporting.folder import Facts, MeasuredFile
from torchgeo_specdm.settings import require_same_settings
from torchgeo_specdm.study.planning import PlanFile
from torchgeo_specdm.study.runs import read_run
from torchgeo_specdm.tasks.support.plateau import CurveFile
from torchgeo_specdm.trust.measures import read_measures

HUGE = 10**400


class Form(NamedTuple):
    """A file, how it is read, what it may hold, and what it may not."""

    name: str
    read: Callable[[Path], Any]
    whole: dict[str, Any]
    #: Dotted place of each wrong value.
    wrong: list[tuple[str, Any]]
    #: What it must have.
    needed: tuple[str, ...] = ()


def form(kind: Any) -> Callable[[Path], Any]:
    return lambda path: read_json(path, kind)


FORMS = [
    Form(
        'dataset.json',
        lambda path: describe(path.parent),
        {'bands': ['B02', 'B03'], 'classes': ['a', 'b'], 'codes': [0, 1]},
        [
            ('bands', 'B02'),
            ('bands', [1, 2]),
            ('bands', {}),
            ('classes', []),
            ('dates', 10**9),
            ('dates', 0),
            ('dates', True),
            ('scale', HUGE),
            ('scale', float('inf')),
            ('scale', '1'),
            ('nodata', HUGE),
            ('nodata', -(10**400)),
            ('dtype', 'object'),
            ('dtype', 7),
            ('ignore_index', 2**70),
            ('colors', [[0, 0, float('inf')], [1, 1, 1]]),
            ('colors', 3),
            ('codes', 'ab'),
            ('codes', [0, 2**70]),
            ('codes', 10**9),
            ('provenance', []),
        ],
        ('bands', 'classes'),
    ),
    Form(
        'config.json',
        lambda path: read_config(path.parent, 'autoencoder', CodecConfig),
        {
            'stage': 'autoencoder',
            'codec': 'pixels',
            'settings': {'fold': 4},
            'spec': {'bands': ['B02'], 'classes': ['a', 'b']},
        },
        [
            ('stage', 7),
            ('stage', 'diffusion'),
            ('codec', None),
            ('settings', []),
            ('settings', {'widths': [10**9]}),
            ('settings', {'deep': {'fold': HUGE}}),
            ('settings', {'lr': float('nan')}),
            ('spec', 'spec'),
        ],
        ('stage', 'codec', 'settings', 'spec'),
    ),
    Form(
        'config.json',
        lambda path: read_config(path.parent, 'diffusion', GeneratorConfig),
        {
            'stage': 'diffusion',
            'process': {'prediction': 'v'},
            'denoiser': {'widths': [16, 32]},
            'sampling': {'sampler': 'sde', 'steps': 20, 'clip': None},
            'patch_size': [32, 32],
            'training': {'samples': 16},
        },
        [
            ('process', {'num_steps': 10**12}),
            ('denoiser', {'widths': [16, 10**6]}),
            ('sampling', {'sampler': 'magic', 'steps': 20}),
            ('sampling.steps', 0),
            ('sampling.steps', 2**64),
            ('sampling.clip', float('inf')),
            ('sampling.guidance', 'much'),
            ('patch_size', 32),
            ('patch_size', [32]),
            ('patch_size', [32, 10**9]),
            ('training', 'many'),
        ],
        ('stage', 'process', 'denoiser', 'sampling', 'patch_size'),
    ),
    Form(
        'plan.json',
        lambda path: require_same_settings(path, {'seed': 0}),
        {'settings': {'seed': 0}},
        [('settings', None), ('settings', [0])],
        ('settings',),
    ),
    Form(
        'plan.json',
        form(PlanFile),
        {
            'plan': {
                'precision': '32-true',
                'samples': 8,
                'patch_size': 32,
                'batch_size': 8,
                'latent_batch_size': 8,
                'passes': 1,
                'steps': {'network': 8},
                'seconds': {'network': 0.1},
            }
        },
        [
            ('plan', 7),
            ('plan.precision', '8'),
            ('plan.samples', 0),
            ('plan.patch_size', 10**12),
            ('plan.steps', [8]),
            ('plan.steps', {'network': 2**70}),
            ('plan.seconds', {'network': 'slow'}),
        ],
        ('plan',),
    ),
    Form(
        'pilot.json',
        form(CurveFile),
        {'curve': [[800, 0.5], [1600, 1]]},
        [
            ('curve', 1),
            ('curve', [800, 0.5]),
            ('curve', [[0, 0.5]]),
            ('curve', [[800]]),
            ('curve', [['800', 0.5]]),
            ('curve', [[800, float('nan')]]),
        ],
        ('curve',),
    ),
    Form(
        'run.json',
        read_run,
        {
            'model': 'net',
            'arm': 'real only',
            'ratio': 0,
            'size': 8,
            'seed': 0,
            'subset': 0,
            'updates': 8,
            'scores': {'miou': 0.5, 'f1': None},
            'iou': {},
            'seconds': 1,
            'reason': '',
        },
        [
            ('model', {}),
            ('ratio', 'one'),
            ('size', -1),
            ('seed', 2**64),
            ('subset', 0.5),
            ('updates', None),
            ('scores', [0.5]),
            ('scores', {'miou': 'good'}),
            ('iou', {'a': {}}),
            ('seconds', float('inf')),
            ('reason', None),
        ],
        ('model', 'arm', 'ratio', 'size', 'seed', 'subset', 'updates'),
    ),
    Form(
        'facts.json',
        form(Facts),
        {'title': 'Scenes', 'settings': {'steps': 8}, 'notes': ['A note.']},
        [('title', 7), ('settings', 'all'), ('notes', 'A note.'), ('notes', [{}])],
    ),
    Form(
        'settings.json',
        form(MeasuredFile),
        {
            'settings': {
                'real': {
                    'class_path': 'torchgeo_specdm.PairFolderDataModule',
                    'init_args': {'root': 'real', 'batch_size': 16, 'patch_size': 32},
                },
                'updates': 800,
            }
        },
        [
            ('settings', []),
            ('settings.updates', 2**64),
            ('settings.real', 'real'),
            ('settings.real.class_path', 'subprocess.check_output'),
            ('settings.real.init_args', {'args': ['touch', 'planted']}),
            ('settings.real.init_args.root', 7),
            ('settings.real.init_args.seed', -1),
            ('settings.real.init_args.num_workers', 10**6),
        ],
        ('settings',),
    ),
    Form(
        'measures.json',
        lambda path: read_measures(path.parent),
        {
            'fidelity': {'image': {'frechet': {'value': 1.5, 'floor': None}}},
            'alignment': {'score': 'accuracy', 'judge': {'real': {'iou': [0.5]}}},
            'memorisation': {'pixels': {'alarm': False}, 'nearest': []},
            'area': {'missing': []},
        },
        [
            ('fidelity', []),
            ('fidelity.image', 1),
            ('fidelity.image.frechet', {'value': 'far'}),
            ('alignment.judge', {'real': []}),
            ('memorisation.nearest', [{'index': 'first'}]),
            ('memorisation.nearest', 3),
            ('area.missing', 'water'),
            ('spectra', {'curves': {'train': {'mean': 1}}}),
            ('counts', {'train': -1}),
        ],
    ),
]
IDS = [f'{number}-{one.name}' for number, one in enumerate(FORMS)]
NO_OBJECT = ('', '{', '[]', '7', 'null', '"text"', '\0', '[' * 100_000, '1' * 10_000)
CASES = [
    pytest.param(one, place, value, id=f'{name}-{place}-{number}')
    for one, name in zip(FORMS, IDS, strict=True)
    for number, (place, value) in enumerate(one.wrong)
]


def refused(one: Form, folder: Path, text: str) -> str:
    """What is said of a broken file: a sentence with its name."""
    path = folder / one.name
    path.write_text(text, encoding='utf-8')
    with pytest.raises(ValueError) as error:
        one.read(path)
    said = str(error.value)
    assert str(folder) in said and '\n' not in said and len(said) < 1000
    return said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / 'pairs', 2, ['B02', 'B03'])


@pytest.mark.parametrize('one', FORMS, ids=IDS)
def test_whole(folder: Path, one: Form) -> None:
    (folder / one.name).write_text(json.dumps(one.whole))
    one.read(folder / one.name)


@pytest.mark.parametrize('text', NO_OBJECT, ids=range(len(NO_OBJECT)))
@pytest.mark.parametrize('one', FORMS, ids=IDS)
def test_no_object(folder: Path, one: Form, text: str) -> None:
    refused(one, folder, text)


@pytest.mark.parametrize('one, place, value', CASES)
def test_wrong_value(folder: Path, one: Form, place: str, value: Any) -> None:
    broken = json.loads(json.dumps(one.whole))
    *above, last = place.split('.')
    inner = broken
    for key in above:
        inner = inner[key]
    inner[last] = value
    assert re.search(last, refused(one, folder, json.dumps(broken)))


@pytest.mark.parametrize(
    'one, key',
    [
        pytest.param(one, key, id=f'{name}-{key}')
        for one, name in zip(FORMS, IDS, strict=True)
        for key in one.needed
    ],
)
def test_lacking_value(folder: Path, one: Form, key: str) -> None:
    broken = {name: value for name, value in one.whole.items() if name != key}
    assert key in refused(one, folder, json.dumps(broken))
