# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import yaml

from torchgeo_specdm.cli import main
from torchgeo_specdm.study.design import REAL, Arm, Cell, Recipe, Study, arm_label

DATA = {'class_path': 'torchgeo_specdm.PairFolderDataModule', 'init_args': {}}
BASE: dict[str, Any] = {
    'out': 'runs/study',
    'data': DATA,
    'models': {'net': {'class_path': 'torchgeo_specdm.SomeTask'}},
    'generators': {'own': {'pairs': 'pairs'}},
}


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / 'study.yaml'
    values = {k: v for k, v in (BASE | changes).items() if v is not None}
    path.write_text(yaml.safe_dump(values))
    return path


def read(tmp_path: Path, **changes: Any) -> Study:
    return Study.read(write(tmp_path, **changes))


def arms(**settings: Any) -> dict[str, Any]:
    return {'arms': {'mine': settings}}


MIXED = {'generator': 'own', 'ratios': [1]}
#: (what is wrong, what must be said)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({'colour': 1}, 'has colour, which does not exist'),
    ({'data': None}, 'lacks data'),
    ({'out': None}, 'lacks out'),
    ({'out': 3}, 'has out=3, but it must be'),
    (arms(generators='own'), 'has arms.mine.generators, which does not exist'),
    ({'generators': {'own': {'steps': 3}}}, 'has generators.own.steps, which'),
    ({'generators': {'own': {'codec': 'vq'}}}, "codec='vq' must be one of ['two_"),
    ({'arms': ['mine']}, "arms=['mine'], but it must be an object"),
    ({'arms': {'mine': 5}}, 'has arms.mine=5, but it must be an object'),
    (arms(generator='other', ratios=[1]), "draws from generator='other', but the"),
    (arms(generator='own'), 'ratios=[], but synthetic samples and ratios need'),
    (arms(ratios=[1]), 'ratios=[1.0], but synthetic samples and ratios need'),
    (arms(generator='own', ratios=[0]), 'ratios=[0.0], but all must be different'),
    (arms(generator='own', ratios=[1, 1.0]), 'all must be different numbers above'),
    (arms(generator='own', ratios=3), 'has arms.mine.ratios=3, but it must be'),
    (arms(generator='own', ratios=['x']), "ratios.0='x', but it must be a valid num"),
    (arms(**MIXED, source='quilts'), 'quilts are stitched from real pairs alone'),
    (arms(**MIXED, source='reconstructed'), 'only the pairs are there'),
    (arms(use='only'), 'has no generator, but use'),
    (arms(real_share=0.5), 'has no generator, but use'),
    (arms(**MIXED, use='mixed'), "use='mixed', but it must be 'mix', 'pretrain',"),
    (arms(**MIXED, batch_mix='cutmix'), "batch_mix='cutmix' beside a generator"),
    (arms(**MIXED, unlabelled=['x']), "unlabelled=['x'] beside a generator, but a"),
    (arms(batch_mix='cutmix', unlabelled=['x']), "and unlabelled=['x'], but a rival"),
    (arms(nearest=5), 'has nearest=5 and unlabelled=[], but it takes 1 or more of'),
    (
        arms(unlabelled=['x'], nearest=0),
        "has nearest=0 and unlabelled=['x'], but it takes",
    ),
    (arms(unlabelled=['rest']), '(0 in sizes=[0]) no others remain'),
    (arms(**MIXED, use='unlabelled', relabel=True), 'self-training looks at no mask'),
    (arms(use='unlabelled'), 'has no generator, but use'),
    (arms(batch_mix='mixup'), "batch_mix='mixup', but it must be"),
    (arms(**MIXED, source='vary'), "of generator 'own' only the pairs are there"),
    (arms(**MIXED, source='vary', strength=1), 'strength=1.0, but it must lie above'),
    (arms(**MIXED, source='change', strength=0), 'strength=0.0, but it must lie above'),
    (arms(longer=0), 'longer=0'),
    (arms(longer=float('inf')), 'longer=inf'),
    (arms(longer='2'), "longer='2', but it must be a valid number"),
    ({'arms': {REAL: MIXED}}, f'arms has {REAL!r}, which every study has'),
    ({'seeds': [0, 1, 0]}, 'seeds=[0, 1, 0] must hold one or more different'),
    ({'seeds': 0}, 'seeds=[] must hold'),
    ({'seeds': True}, 'has seeds=True, but it must be'),
    ({'sizes': [8, 8]}, 'sizes=[8, 8] must hold'),
    ({'seeds': 10**9}, 'has seeds=1000000000, but it must be'),
    ({'seeds': [2**64]}, 'has seeds.0=18446744073709551616, but it must be'),
    ({'sizes': [-1]}, 'has sizes.0=-1, but it must be greater than or equal to 0'),
    ({'models': {}}, 'models=[] must hold'),
    ({'models': ['net']}, "models=['net'], but it must be an object"),
    ({'subsets': 0}, 'subsets=0 must be 1 or more'),
    ({'subsets': 6}, 'subsets=6 must be 1 or more, with a seed for each'),
    (
        {'seeds': [0, 2, 4], 'subsets': 2},
        'subsets=2 must be 1 or more, with a seed for each',
    ),
    ({'updates': 0}, 'updates=0 must be 1 or more'),
    ({'updates': 1.5}, 'has updates=1.5, but it must be a valid integer'),
    ({'most_updates': 100}, 'most_updates=100 must be 0 for none, or at least'),
    ({'most_updates': -1}, 'most_updates=-1 must be 0 for none'),
    ({'budget': 'hours'}, "has budget='hours', but it must be 'updates' or"),
    ({'protocol': 'paper'}, "has protocol='paper'"),
    ({'score': 'iou'}, "has score='iou'"),
]


@pytest.mark.parametrize('change, said', WRONG)
def test_refuses(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    said: str,
) -> None:
    assert main(['study', str(write(tmp_path, **change))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('torchgeo-specdm: ') and said in line


def test_what_is_not_given(tmp_path: Path) -> None:
    study = read(tmp_path, generators=None)
    assert study.out == Path('runs/study') and study.data == DATA
    assert study.arms == study.generators == {}
    assert study.seeds == (0, 1, 2, 3, 4) and study.sizes == (0,)
    assert {c.arm for c in study.cells()} == {REAL} and len(study.cells()) == 5


def test_values_are_read(tmp_path: Path) -> None:
    given = arms(generator='own', ratios=[1, 3], use='pretrain', longer=2)
    study = read(tmp_path, **given, seeds=3, sizes=[8, 0])
    assert study.arms == {'mine': Arm('own', (1, 3), 'pretrain', longer=2)}
    assert study.generators == {'own': Recipe(pairs='pairs')}
    assert study.seeds == (0, 1, 2) and study.sizes == (8, 0)


class TestGrid:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        models = {name: {'class_path': 'x.Y'} for name in ('a', 'b')}
        both = {
            'mix': {'generator': 'own', 'ratios': [1, 5]},
            'cutmix': {'batch_mix': 'cutmix'},
        }
        return read(
            tmp_path, models=models, arms=both, sizes=[8, 0], seeds=[0, 1, 2], subsets=2
        )

    def test_every_combination_once_and_real_only_first(self, study: Study) -> None:
        cells = study.cells()
        arms = [(REAL, 0), ('mix', 1), ('mix', 5), ('cutmix', 0)]
        assert {*cells} == {
            Cell(model, arm, ratio, size, seed)
            for model in ('a', 'b')
            for arm, ratio in arms
            for size in (8, 0)
            for seed in (0, 1, 2)
        }
        assert len(cells) == 48
        assert [c.arm == REAL for c in cells] == [True] * 12 + [False] * 36

    def test_names_for_people(self) -> None:
        title = 'net, 5x mix, 8 real pairs, seed 3'
        assert Cell('net', 'mix', 5.0, 8, 3).title == title
        title = 'net, real only, all real pairs, seed 3'
        assert Cell('net', REAL, 0.0, 0, 3).title == title
        assert arm_label('mix', 0.5) == '0.5x mix'
