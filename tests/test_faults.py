# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Each measure reacts to the fault that it is for, and to real pairs with no alarm."""

from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from experiments.faults import COLUMNS, measure_faults, table
from torchgeo_specdm import PairFolder
from torchgeo_specdm.metrics.features import RandomFeatures
from torchgeo_specdm.scenes.land import scene_spec
from torchgeo_specdm.scenes.writing import write_scenes

SIZE = 24
COUNT = 50
UPDATES = 120


class Judge(LightningModule):
    """Small enough to learn in seconds."""

    def __init__(self, in_channels: int = 0, num_classes: int = 0) -> None:
        super().__init__()
        spec = scene_spec()
        self.network = nn.Sequential(
            nn.Conv2d(in_channels or spec.num_bands, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, num_classes or spec.num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch['image']), batch['mask'])

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), 1e-2)


def once(function: Callable[..., Any], key: Callable[..., Any]) -> Any:
    """A function that remembers what it gave for a key."""
    known: dict[Any, Any] = {}

    def remember(*arguments: Any) -> Any:
        name = key(*arguments)
        if name not in known:
            known[name] = function(*arguments)
        return copy(known[name])

    return remember


def file_of(folder: PairFolder, name: str) -> Path:
    return folder.root / name


def hash_of(planes: Tensor) -> tuple[Any, ...]:
    return *planes.shape, hash(planes.numpy().tobytes())


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    out = tmp_path_factory.mktemp('faults')
    write_scenes(out / 'scenes', (2 * COUNT, COUNT, COUNT), SIZE)
    given = {'root': str(out / 'scenes'), 'batch_size': 16, 'fold': [0, 3]}
    real = {'class_path': 'torchgeo_specdm.PairFolderDataModule', 'init_args': given}
    judge = {'class_path': 'tests.test_faults.Judge'}
    with pytest.MonkeyPatch.context() as patch:
        # fifteen runs over the same real pairs: look at each of them once
        patch.setattr(PairFolder, '_load', once(PairFolder._load, file_of))
        see = once(RandomFeatures.forward, lambda network, planes: hash_of(planes))
        patch.setattr(RandomFeatures, 'forward', see)
        # the splits share nothing
        patch.setattr('torchgeo_specdm.trust.task._MOST_PAIRS', 0)
        # judges good enough for a test, without the search for their plateau
        patch.setattr('torchgeo_specdm.trust.judges._SHORTEST', 1)
        patch.setattr('torchgeo_specdm.trust.task.settled', lambda curve: True)
        yield measure_faults(real, out, SIZE, COUNT, UPDATES, judge)


@pytest.fixture
def values(found: Any) -> Callable[[str], dict[str, float]]:
    """Numbers of the one fault whose name begins so."""

    def pick(fault: str) -> dict[str, float]:
        (name,) = (name for name in found if name.startswith(fault))
        return found[name]['values']

    return pick


def lights_of(found: Any, fault: str) -> list[str]:
    (name,) = (name for name in found if name.startswith(fault))
    return [state for state, _ in found[name]['lights'].values()]


def test_real_pairs_raise_no_alarm(found: Any, values: Any) -> None:
    assert lights_of(found, 'none') == ['good', 'good', 'good']
    real = values('none')
    assert max(real[name] for name in ('FD', 'FD texture', 'FD mask')) < 1.5
    assert min(real[name] for name in ('prec', 'rec', 'cov')) > 0.8
    assert real['mSAD'] < 0.03
    for name in ('gain', 'spread', 'judge', 'edges', 'LDA', 'steps', 'lines'):
        assert real[name] == pytest.approx(1, abs=0.1), name
    # of the band that agrees least
    assert real['bands'] > 0.8
    assert real['gone'] == real['alarm'] == 0
    assert not any(found['none (real pairs)']['reaction'].values())


def test_copies(found: Any, values: Any) -> None:
    copied = values('a fifth copied')
    assert copied['near'] >= 0.19 and copied['alarm'] == 2
    assert lights_of(found, 'a fifth copied') == ['good', 'good', 'bad']


def test_shuffled_masks(found: Any, values: Any) -> None:
    shuffled = values('masks shuffled')
    for name in ('judge', 'edges', 'LDA'):
        assert abs(shuffled[name]) < 0.25, name
    assert shuffled['mSAD'] > 0.1
    # each side alone is as good as real
    assert shuffled['FD'] == values('none')['FD']
    assert lights_of(found, 'masks shuffled')[1] == 'bad'


def test_moved_masks(found: Any, values: Any) -> None:
    real, near, far = (
        values(f) for f in ('none', 'masks moved by 2', 'masks moved by 8')
    )
    for name in ('judge', 'edges', 'LDA'):
        assert real[name] - 0.1 > near[name] > far[name] + 0.1, name
    # two pixels are most of an edge
    assert near['edges'] < 0.6 and far['edges'] < 0.3
    assert lights_of(found, 'masks moved by 2')[1] == 'doubtful'
    assert lights_of(found, 'masks moved by 8')[1] == 'bad'


def test_swapped_bands(found: Any, values: Any) -> None:
    swapped, real = values('red and blue'), values('none')
    assert swapped['mSAD'] > real['mSAD'] + 0.05
    assert swapped['LDA'] < 0.7 and swapped['judge'] < 0.7
    assert swapped['FD'] > 3 and swapped['cov'] < real['cov'] - 0.3
    assert swapped['gain'] == pytest.approx(real['gain'])
    assert lights_of(found, 'red and blue')[:2] == ['bad', 'bad']


def test_gain(found: Any, values: Any) -> None:
    gained, real = values('gain'), values('none')
    assert gained['gain'] == pytest.approx(1.1 * real['gain'], rel=1e-3)
    # no angle, no edge and no detail but its power sees it
    assert gained['mSAD'] == pytest.approx(real['mSAD'], abs=1e-3)
    for name in ('steps', 'bands', 'form'):
        assert gained[name] == pytest.approx(real[name], abs=0.01)
    assert lights_of(found, 'gain')[0] != 'good'


@pytest.mark.parametrize(
    'fault, word, name, change',
    [
        ('blurred', 'soft', 'fine', -0.5),
        ('averaged', 'blocky', 'steps', 1),
        ('eight components', 'blocky', 'steps', 0.5),
        ('noise', 'grainy', 'fine', 1),
        ('grid', 'blocky', 'steps', 0.15),
        ('phases', 'without structure', 'form', -0.5),
    ],
)
def test_detail(
    found: Any, values: Any, fault: str, word: str, name: str, change: float
) -> None:
    off = values(fault)[name] - values('none')[name]
    assert off <= change if change < 0 else off >= change
    # random features hardly see any of them
    assert values(fault)['FD'] < 1.5
    assert fault == 'grid' or values(fault)['FD texture'] > 1.5
    (looks,) = (row['lights'] for key, row in found.items() if key.startswith(fault))
    state, sentence = looks['looks real']
    assert state in ('doubtful', 'bad') and f'they are {word}: ' in sentence


def test_missing_class(values: Any) -> None:
    lost = values('one class missing')
    assert lost['gone'] == 1 and lost['area'] > values('none')['area']
    assert lost['alarm'] == 0


def test_collapse(found: Any, values: Any) -> None:
    collapsed, real = values('collapsed'), values('none')
    assert collapsed['rec'] < 0.2 and collapsed['cov'] < real['cov'] / 2
    assert collapsed['alarm'] == 0
    assert lights_of(found, 'collapsed')[0] == 'bad'


def test_table(found: Any) -> None:
    lines = table(found).splitlines()
    assert lines[0].count('|') == lines[5].count('|') == 2 + len(COLUMNS) + 3
    assert len([line for line in lines if line.startswith('|')]) == 2 + len(found)
    assert '**' not in lines[2] and all(
        '**' in line for line in lines[3 : 2 + len(found)]
    )
