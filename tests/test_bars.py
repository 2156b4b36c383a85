# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import sys

import pytest

from torchgeo_specdm import bars
from torchgeo_specdm.bars import bar, duration


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    for _ in bar(range(3), 'drawing'):
        pass
    return capsys.readouterr().err


def test_short_work_leaves_nothing_in_a_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert shown(capsys) == ''


def test_states_are_lines_of_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, '_FILE_PACE', 0)
    said = shown(capsys)
    assert '\r' not in said and '|' not in said
    lines = said.splitlines()
    assert len(lines) > 2 and max(map(len, lines)) < 80
    assert all(line.startswith('  drawing: ') for line in lines)
    assert lines[-1].startswith('  drawing: 3/3 ')


def test_a_terminal_has_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    said = shown(capsys)
    assert said.startswith('\r  drawing: 0/3 |') and '  drawing: 3/3 |' in said


def test_hidden(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, '_FILE_PACE', 0)
    assert [*bar(range(2), hidden=True)] == [0, 1]
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    'seconds, said',
    [
        (0.2, '1 s'),
        (89, '89 s'),
        (150, '2.5 min'),
        (1200, '20 min'),
        (704 * 60, '12 h'),
        (9000, '2.5 h'),
        (1e6, '12 days'),
    ],
)
def test_durations_are_read(seconds: float, said: str) -> None:
    assert duration(seconds) == said
