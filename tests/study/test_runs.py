# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchgeo_specdm.study.design import REAL, Cell
from torchgeo_specdm.study.runs import (
    Run,
    by_arm,
    differences,
    read_run,
    run_path,
    table,
    write_run,
)

NAMES = ['water', 'roads, rails', 'so-called "waste" land', "crop's\nfield", 'Bäume']


def a_run(
    arm: str = 'mix', ratio: float = 1, seed: int = 0, miou: float | None = 0.5
) -> Run:
    iou: dict[str, float | None] = dict.fromkeys(NAMES, 0.1)
    ratio = 0 if arm == REAL else ratio
    scores = {'miou': miou, 'f1': 0.6, 'accuracy': 0.7}
    return Run('net', arm, ratio, 0, seed, 0, 400, scores, iou | {'water': None}, 1.25)


def failed(arm: str, ratio: float = 1, seed: int = 0) -> Run:
    return replace(a_run(arm, ratio, seed), scores={}, iou={}, reason='lost')


class TestFiles:
    def test_is_read_back_as_it_was(self, tmp_path: Path) -> None:
        for run in (a_run(), a_run(REAL), a_run('a/b: "c"', 1 / 3), failed('mix', 5)):
            write_run(tmp_path, run)
            path = run_path(tmp_path, run.cell, run.updates)
            assert read_run(path) == run and path.parent == tmp_path / 'runs'
        assert len([*(tmp_path / 'runs').iterdir()]) == 4

    def test_no_two_runs_share_a_file(self, tmp_path: Path) -> None:
        cell = a_run().cell
        others = [
            cell._replace(model='n et'),
            cell._replace(model='n-et'),
            cell._replace(ratio=1.0000001),
            cell._replace(size=1),
            cell._replace(seed=1),
        ]
        paths = {run_path(tmp_path, c, 400) for c in (cell, *others)}
        assert len(paths | {run_path(tmp_path, cell, 40)}) == 7

    def test_no_file_is_no_run(self, tmp_path: Path) -> None:
        assert read_run(run_path(tmp_path, a_run().cell, 400)) is None

    @pytest.mark.parametrize('text', ['', '{"model": "net"', '{}', '[]', '{"x": 1}'])
    def test_refuses_a_torn_file(self, tmp_path: Path, text: str) -> None:
        (tmp_path / 'run.json').write_text(text)
        with pytest.raises(ValueError, match=r'run\.json (lacks|has|is) .*delete it'):
            read_run(tmp_path / 'run.json')

    def test_a_score_that_is_no_number_is_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='not JSON compliant'):
            write_run(tmp_path, a_run(miou=math.nan))
        assert not [*(tmp_path / 'runs').iterdir()]


def test_any_csv_reader_reads_the_table() -> None:
    runs = [a_run(REAL), replace(a_run(ratio=0.5), scores={'miou': 0.5}), failed('mix')]
    head, *lines = csv.reader(io.StringIO(table(runs), newline=''))
    assert head == [
        *('model', 'arm', 'ratio', 'size', 'seed', 'subset', 'updates', 'unlabelled'),
        *('miou', 'f1', 'accuracy', *(f'iou/{name}' for name in NAMES)),
        *('seconds', 'reason'),
    ]
    start = ['net', REAL, '0', '0', '0', '0', '400', '0', '0.5', '0.6', '0.7', '']
    assert lines[0] == [*start, '0.1', '0.1', '0.1', '0.1', '1.2', '']
    assert lines[1][2] == '0.5' and lines[1][9:11] == ['', '']
    assert lines[2][8:-2] == [''] * 8 and lines[2][-1] == 'lost'


class TestDifferences:
    def test_pairs_by_seed_whatever_the_order(self) -> None:
        runs = [
            a_run('mix', 3, 1, 0.5),
            a_run(REAL, 0, 0, 0.2),
            a_run(REAL, 0, 1, 0.4),
            a_run('mix', 3, 0, 0.3),
        ]
        found: Any = differences(runs)
        assert list(found) == [('mix', 3)]
        assert found['mix', 3] == pytest.approx((0.1, 0.1, 0.1, 2))

    def test_what_has_no_pair_is_left_out(self) -> None:
        runs = [
            a_run(REAL, seed=0, miou=0.2),
            a_run(REAL, seed=1, miou=None),
            failed(REAL, seed=2),
            *(a_run('mix', 1, seed, 0.3 + seed) for seed in range(4)),
            a_run('mix', 5, 0, 0.1),
            failed('cutmix', 0, 0),
            a_run('late', 1, 3, 0.9),
        ]
        found = differences(runs)
        assert [(k, round(d.mean, 6), d.pairs) for k, d in found.items()] == [
            (('mix', 1), 0.1, 1),
            (('mix', 5), -0.1, 1),
        ]

    def test_of_another_score(self) -> None:
        runs = [a_run(REAL), replace(a_run(), scores={'miou': 0.1, 'f1': 0.9})]
        found = differences(runs, 'f1')
        assert found['mix', 1].mean == pytest.approx(0.3)
        assert differences(runs, 'change_f1') == {}

    def test_nothing_without_real_only(self) -> None:
        assert differences([a_run()]) == {} and differences([]) == {}


def test_by_arm_keeps_the_order_and_arms_without_a_score() -> None:
    runs = [a_run('b', 5), failed('a'), a_run('b', 5, 1, 0.25), a_run(REAL)]
    assert by_arm(runs) == {
        ('b', 5): {0: 0.5, 1: 0.25},
        ('a', 1): {},
        (REAL, 0): {0: 0.5},
    }
    assert list(by_arm(runs)) == [('b', 5), ('a', 1), (REAL, 0)]
    assert runs[0].cell == Cell('net', 'b', 5, 0, 0)
