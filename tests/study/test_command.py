# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import start_command
from tests.study.worlds import table_of, tiny_task, write_yaml
from torchgeo_specdm.cli import main

Output = pytest.CaptureFixture[str]


def refused(capsys: Output, *arguments: str) -> str:
    """The sentence of an error: exit code 1, a single line, and no traceback."""
    assert main(['study', *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('torchgeo-specdm: ')
    return line


def mixing(world: Path, **changes: Any) -> dict[str, Any]:
    """A study of four runs in two units."""
    return {
        'arms': {'mix': {'generator': 'own', 'ratios': [1]}},
        'generators': {'own': {'pairs': str(world / 'right')}},
        'subsets': 2,
        **changes,
    }


@pytest.fixture(scope='module')
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The table of an uninterrupted study."""
    root: Path = tmp_path_factory.mktemp('whole')
    path = write_yaml(root, world / 'rich', **mixing(world))
    assert main(['study', str(path)]) == 0
    return table_of(root / 'out')


def test_killed_and_started_again(
    world: Path, tmp_path: Path, whole: list[list[str]], capsys: Output
) -> None:
    path = write_yaml(tmp_path, world / 'rich', **mixing(world))
    process = start_command(main, ['study', path], tmp_path / 'said.txt')
    runs = tmp_path / 'out' / 'runs'
    deadline = time.monotonic() + 90
    while not [*runs.glob('*.json')] and time.monotonic() < deadline:
        time.sleep(0.02)
    # a second one would train the same and write the same files
    assert f'process is at work in {tmp_path / "out"}. Wait' in refused(
        capsys, str(path)
    )
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in runs.glob('*.json')}
    assert 1 <= len(kept) < 4 and not (tmp_path / 'out' / 'runs.csv').exists()
    assert main(['study', str(path)]) == 0
    assert table_of(tmp_path / 'out') == whole
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    said = capsys.readouterr().out
    assert said.count('] net, ') == 4 - len(kept)


def test_a_lost_run_is_a_row(world: Path, tmp_path: Path, capsys: Output) -> None:
    models = {'lost': tiny_task(lr=1e30), 'net': tiny_task()}
    path = str(write_yaml(tmp_path, world / 'rich', models=models, updates=4, seeds=1))
    sentence = refused(capsys, path)
    assert '1 of 2 runs failed, the first: lost, real only' in sentence
    assert 'training loss is nan' in sentence and '--retry' in sentence
    (head, *rows), place = table_of(tmp_path / 'out'), -1
    assert head[place] == 'reason' and [row[0] for row in rows] == ['lost', 'net']
    assert 'training loss is nan' in rows[0][place] and rows[1][place] == ''
    page = (tmp_path / 'out' / 'study.md').read_text()
    assert (
        '- failed: lost, real only, all real pairs, seed 0: the training loss' in page
    )
    lost, net = sorted((tmp_path / 'out' / 'runs').iterdir())
    before = [file.stat().st_mtime_ns for file in (lost, net)]
    # it is kept
    assert refused(capsys, path) == sentence
    assert [file.stat().st_mtime_ns for file in (lost, net)] == before
    # until it is asked for again
    assert refused(capsys, path, '--retry') == sentence
    after = [file.stat().st_mtime_ns for file in (lost, net)]
    assert after[0] > before[0] and after[1] == before[1]
    assert json.loads(lost.read_text())['scores'] == {}


def test_dry_run_shows_the_grid(world: Path, tmp_path: Path, capsys: Output) -> None:
    study = mixing(world, budget='epochs', updates=4)
    path = str(write_yaml(tmp_path, world / 'rich', **study))
    assert main(['study', path, '--dry-run']) == 0
    said = capsys.readouterr().out
    assert said.startswith(f'4 runs in {tmp_path / "out"}:\n')
    assert '  net: 4 runs of 2 arms, 24 updates in all, ' in said
    assert ' s on this machine, without generators' in said
    # not even the settings are kept
    assert not (tmp_path / 'out').exists()


def test_another_study_is_refused(world: Path, tmp_path: Path, capsys: Output) -> None:
    path = str(write_yaml(tmp_path, world / 'rich', seeds=1))
    assert main(['study', path]) == 0
    capsys.readouterr()
    write_yaml(tmp_path, world / 'poor', seeds=1)
    assert 'was begun with other settings (data: ' in refused(capsys, path)


def test_a_file_that_is_no_study(tmp_path: Path, capsys: Output) -> None:
    assert 'nothing.yaml' in refused(capsys, str(tmp_path / 'nothing.yaml'))
