# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from torchgeo_specdm.reporting.study import write_study
from torchgeo_specdm.study.design import REAL, Arm, Recipe, Study
from torchgeo_specdm.study.runs import Run

DASH = '\N{EN DASH}'


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / 'out').mkdir()
    return Study(
        tmp_path / 'out',
        {},
        {'a net': {}, 'other': {}},
        {'mix': Arm('own', (1.0, 5.0)), 'cutmix': Arm(batch_mix='cutmix')},
        {'own': Recipe(pairs='pairs')},
        sizes=(0, 8),
        seeds=(0, 1, 2),
    )


def finished(study: Study) -> list[Run]:
    """All runs of the first network, of which one arm has failed once."""
    made = []
    for c in study.cells():
        if c.model != 'a net':
            continue
        score = 0.4 + 0.01 * c.seed + 0.02 * c.ratio + 0.001 * c.seed * c.ratio
        score += 0.001 * c.seed if c.arm == 'cutmix' else 0
        scores = {'miou': score, 'f1': score + 0.1, 'accuracy': None}
        iou = {'water': score, 'town': None}
        made.append(Run(*c, 0, 400, scores, iou, 1.0))
    lost = made[-1]
    made[-1] = replace(lost, scores={}, iou={}, reason='the training loss is nan')
    return made


def section(page: str, title: str) -> str:
    (found,) = [part for part in page.split('\n## ') if part.startswith(f'{title}\n')]
    return found


def test_page(study: Study) -> None:
    before = plt.get_fignums()
    path = write_study(study, finished(study))
    assert path == study.out / 'study.md'
    assert plt.get_fignums() == before
    page = path.read_text()
    assert page.startswith('# Does it help?\n\n3 seeds, 1 real subset(s)')
    assert '800 updates for every run' in page and 'saw all labels' not in page
    # a network without a run has no section
    assert page.count('\n## ') == 2
    whole = section(page, 'a net, all real samples')
    assert 'Real only: mIoU 41.0 ± 1.0 points (3 seeds).' in whole
    rows = [line.split(' | ') for line in whole.splitlines() if line[:2] == '| ']
    assert rows[0] == ['| arm', 'runs', 'mIoU', 'F1', 'mIoU against real only |']
    assert rows[1] == ['| real only', '3', '41.0 ± 1.0', '51.0', ' |']
    assert rows[2][:4] == ['| 1x mix', '3', '43.1 ± 1.1', '53.1']
    assert rows[3][4] == '+10.5 [+9.3, +11.7] |'
    assert [row[0] for row in rows[1:]] == [
        '| real only',
        '| 1x mix',
        '| 5x mix',
        '| cutmix',
    ]
    # the best rival is beside each arm with synthetic samples
    said = [line for line in whole.splitlines() if line.startswith('- ')]
    assert said[1].endswith(': it helps; cutmix gives +0.1 [-0.1, +0.3].')
    assert len(said) == 3 and said[2].startswith('- cutmix changes mIoU by +0.1 [')
    for kind in ('scores', 'classes'):
        name = f'a-net-all-{kind}.png'
        assert f']({name})' in whole
        assert (study.out / name).read_bytes().startswith(b'\x89PNG')


def test_failed_runs_are_named_and_not_counted(study: Study) -> None:
    runs = finished(study)
    part = section(write_study(study, runs).read_text(), 'a net, 8 real samples')
    failed = [line for line in part.splitlines() if line.startswith('- failed: ')]
    assert failed == [f'- failed: {runs[-1].cell.title}: the training loss is nan']
    assert '| cutmix | 2 | ' in part
    lines = (study.out / 'runs.csv').read_text().splitlines()
    assert len(lines) == 1 + len(runs) and lines[-1].endswith(
        'the training loss is nan'
    )


def test_an_arm_of_failures_has_dashes(study: Study) -> None:
    runs = [
        replace(r, scores={}, iou={}, reason='lost') if r.arm == 'cutmix' else r
        for r in finished(study)
    ]
    page = write_study(study, runs).read_text()
    assert f'| cutmix | 0 | {DASH} | {DASH} |  |' in page
    assert 'cutmix gives' not in page and 'nan' not in page


def test_nothing_but_failures(study: Study) -> None:
    lost = [replace(r, scores={}, iou={}, reason='lost') for r in finished(study)]
    page = write_study(study, lost).read_text()
    assert 'No run with real samples only has a mIoU' in page
    assert page.count('- failed: ') == len(lost)


def test_one_seed_has_no_interval(study: Study) -> None:
    runs = [run for run in finished(study) if run.seed == 0]
    page = write_study(replace(study, seeds=(0,)), runs).read_text()
    assert '| 5x mix | 1 | 50.0 | 60.0 | +10.0 |' in page
    assert 'inf' not in page and 'in one run: nothing can be said' in page
    assert page.startswith('# Does it help?\n\n1 seeds')


def test_says_what_favours_an_arm(study: Study) -> None:
    told = replace(study, protocol='all_labels', budget='epochs', most_updates=3200)
    page = write_study(told, [r for r in finished(study) if r.arm == REAL]).read_text()
    assert '**Generators saw all labels of the training set, more than' in page
    assert 'synthetic arms train longer, which favours them' in page
    assert 'up to 3200, as validation asked for. ' in page
    arms = {'long': Arm(longer=2), **study.arms}
    page = write_study(replace(study, arms=arms), finished(study)).read_text()
    assert '800 updates for every run, 2 times as many for long. ' in page
