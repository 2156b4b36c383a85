# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from pathlib import Path

import pytest

from tests.trust.scores import score
from torchgeo_specdm.trust.scores import ScoreFiles, read_scores


def write(folder: Path, rank: int, name: str, indices: list[int]) -> ScoreFiles:
    files = ScoreFiles(folder, rank)
    for index in indices:
        files.write(name, score(index, edges=index / 10))
    files.close()
    return files


def test_merges_in_order_of_index(tmp_path: Path) -> None:
    # as a distributed sampler deals, with numbers that are no order of text
    first = write(tmp_path, 0, 'real', list(range(0, 25, 3)))
    write(tmp_path, 1, 'real', list(range(1, 25, 3)))
    write(tmp_path, 2, 'real', list(range(2, 25, 3)))
    path = first.merge('real', 3)
    rows = read_scores(path)
    assert rows == [score(i, edges=i / 10) for i in range(25)]
    # nothing else is left
    assert list(tmp_path.iterdir()) == [path] == [tmp_path / 'real.jsonl']


def test_sets_are_kept_apart(tmp_path: Path) -> None:
    files = ScoreFiles(tmp_path, 0)
    for index in range(4):
        files.write('real' if index % 2 else 'synthetic', score(index))
    files.close()
    found = {n: (read_scores(files.merge(n, 1))) for n in ('real', 'synthetic')}
    assert found == {'real': [score(1), score(3)], 'synthetic': [score(0), score(2)]}


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null(tmp_path: Path, value: float) -> None:
    files = ScoreFiles(tmp_path, 0)
    row = score(0, edges=value, id='nan', turn=3)
    files.write('real', row)
    files.close()
    text = files.merge('real', 1).read_text()
    expected = row | {'edges': None}
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert (read_scores(tmp_path / 'real.jsonl')) == [expected]


@pytest.mark.parametrize('empty', [0, 1])
def test_a_process_without_samples(tmp_path: Path, empty: int) -> None:
    write(tmp_path, 1 - empty, 'held_out', [0, 1])
    files = write(tmp_path, empty, 'held_out', [])
    assert [r['index'] for r in read_scores(files.merge('held_out', 2))] == [0, 1]
    # a set that none of them saw
    assert (read_scores(files.merge('synthetic', 2))) == []


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    for indices in ([0, 1, 2], [0, 1]):
        path = write(tmp_path, 0, 'real', indices).merge('real', 1)
    assert [row['index'] for row in read_scores(path)] == [0, 1]


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 0, 'real', [0, 2, 4])
    write(tmp_path, 1, 'real', [1, 3])
    path = write(tmp_path, 0, 'real', [0, 1]).merge('real', 1)
    assert [row['index'] for row in read_scores(path)] == [0, 1]


def test_what_a_killed_process_left_does_not_get_in(tmp_path: Path) -> None:
    write(tmp_path, 0, 'real', [0])
    write(tmp_path, 1, 'real', [3])
    # the next run has no sample for the second process
    first = write(tmp_path, 0, 'real', [0])
    write(tmp_path, 1, 'real', [])
    assert [row['index'] for row in read_scores(first.merge('real', 2))] == [0]


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"id": "a"', 'line 2 is not valid JSON'),
        ('[]', r'line 2 has the content=\[\], but it must be'),
        ('', 'line 2 is not valid JSON'),
        (json.dumps(score(1, edges=math.nan)), 'edges=nan, but it must be a finite'),
        (json.dumps(score(1, edges='0.5')), "edges='0.5', but it must be a valid num"),
        (json.dumps({'id': 'a', 'agreement': 1}), 'line 2 lacks index'),
    ],
)
def test_broken_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / 'real.jsonl'
    path.write_text(f'{json.dumps(score(0))}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        (read_scores(path))
