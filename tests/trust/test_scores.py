# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from pathlib import Path
from typing import Any

import pytest

from torchgeo_specdm.trust.scores import ScoreFiles


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder: Path, rank: int, name: str, indices: list[int]) -> ScoreFiles:
    files = ScoreFiles(folder, rank)
    for index in indices:
        files.write(name, {'index': index, 'score': index / 10})
    files.close()
    return files


def test_merges_in_order_of_index(tmp_path: Path) -> None:
    # as a distributed sampler deals, with numbers that are no order of text
    first = write(tmp_path, 0, 'real', list(range(0, 25, 3)))
    write(tmp_path, 1, 'real', list(range(1, 25, 3)))
    write(tmp_path, 2, 'real', list(range(2, 25, 3)))
    path = first.merge('real', 3)
    rows = rows_of(path)
    assert rows == [{'index': i, 'score': i / 10} for i in range(25)]
    # nothing else is left
    assert list(tmp_path.iterdir()) == [path] == [tmp_path / 'real.jsonl']


def test_sets_are_kept_apart(tmp_path: Path) -> None:
    files = ScoreFiles(tmp_path, 0)
    for index in range(4):
        files.write('real' if index % 2 else 'synthetic', {'index': index})
    files.close()
    found = {n: rows_of(files.merge(n, 1)) for n in ('real', 'synthetic')}
    assert found['real'] == [{'index': 1}, {'index': 3}]
    assert found['synthetic'] == [{'index': 0}, {'index': 2}]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null(tmp_path: Path, value: float) -> None:
    files = ScoreFiles(tmp_path, 0)
    row = {'index': 0, 'bad': value, 'good': 0.5, 'id': 'nan', 'turn': 3}
    files.write('real', row)
    files.close()
    text = files.merge('real', 1).read_text()
    expected = row | {'bad': None}
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert rows_of(tmp_path / 'real.jsonl') == [expected]


@pytest.mark.parametrize('empty', [0, 1])
def test_a_process_without_samples(tmp_path: Path, empty: int) -> None:
    write(tmp_path, 1 - empty, 'held_out', [0, 1])
    files = write(tmp_path, empty, 'held_out', [])
    assert [r['index'] for r in rows_of(files.merge('held_out', 2))] == [0, 1]
    # a set that none of them saw
    assert rows_of(files.merge('synthetic', 2)) == []


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    for indices in ([0, 1, 2], [0, 1]):
        path = write(tmp_path, 0, 'real', indices).merge('real', 1)
    assert [row['index'] for row in rows_of(path)] == [0, 1]


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 0, 'real', [0, 2, 4])
    write(tmp_path, 1, 'real', [1, 3])
    path = write(tmp_path, 0, 'real', [0, 1]).merge('real', 1)
    assert [row['index'] for row in rows_of(path)] == [0, 1]


def test_what_a_killed_process_left_does_not_get_in(tmp_path: Path) -> None:
    write(tmp_path, 0, 'real', [0])
    write(tmp_path, 1, 'real', [3])
    # the next run has no sample for the second process
    first = write(tmp_path, 0, 'real', [0])
    write(tmp_path, 1, 'real', [])
    assert [row['index'] for row in rows_of(first.merge('real', 2))] == [0]
