# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from torchgeo_specdm.study.runs import Run, differences, read_runs, write_runs

NAMES = ['water', 'roads, rails', 'so-called "waste" land', "crop's\nfield", 'Bäume']


def a_run(ratio: float = 1, seed: int = 0, miou: float = 0.5) -> Run:
    iou: dict[str, float | None] = dict.fromkeys(NAMES, 0.1)
    return Run(ratio, seed, 400, miou, 0.6, 0.7, iou | {'water': None})


class TestTable:
    def test_is_read_back_as_it_was(self, tmp_path: Path) -> None:
        runs = [a_run(0), a_run(0.5, 1, 1 / 3), a_run(5, 2, 1e-7)]
        path = tmp_path / 'new' / 'runs.csv'
        write_runs(path, runs)
        assert read_runs(path) == runs
        write_runs(path, runs[:1])
        assert read_runs(path) == runs[:1]

    def test_any_csv_reader_reads_it(self, tmp_path: Path) -> None:
        write_runs(tmp_path / 'runs.csv', [a_run()])
        with (tmp_path / 'runs.csv').open(encoding='utf-8', newline='') as file:
            head, line = csv.reader(file)
        assert head[:6] == ['ratio', 'seed', 'updates', 'miou', 'f1', 'accuracy']
        assert head[6:] == [f'iou/{name}' for name in NAMES]
        assert line == ['1', '0', '400', '0.5', '0.6', '0.7', '', *['0.1'] * 4]

    def test_no_file_is_no_run(self, tmp_path: Path) -> None:
        assert read_runs(tmp_path / 'runs.csv') == []

    @pytest.mark.parametrize('line', ['1,0,400', '1,0,many,0.5,0.6,0.7,,0,0,0,0', 'x'])
    def test_refuses_a_torn_line(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / 'runs.csv'
        write_runs(path, [replace(a_run(), iou={'a': 0.1})])
        path.write_text(path.read_text() + line)
        with pytest.raises(ValueError, match=r'runs\.csv, line 3: this is no run'):
            read_runs(path)


class TestDifferences:
    def test_pairs_by_seed_whatever_the_order(self) -> None:
        runs = [a_run(3, 1, 0.5), a_run(0, 0, 0.2), a_run(0, 1, 0.4), a_run(3, 0, 0.3)]
        found = differences(runs)
        assert list(found) == [3]
        assert found[3] == pytest.approx((0.1, 0.1, 0.1, 2))

    def test_a_seed_without_baseline_is_left_out(self) -> None:
        runs = [a_run(0, 0, 0.2), a_run(1, 0, 0.3), a_run(1, 1, 0.9), a_run(5, 0, 0.1)]
        found = differences(runs)
        assert [(r, round(d.mean, 6), d.pairs) for r, d in found.items()] == [
            (1, 0.1, 1),
            (5, -0.1, 1),
        ]
