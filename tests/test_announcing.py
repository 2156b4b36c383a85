# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import os
from typing import Any

import pytest

from torchgeo_specdm.announcing import Announcer, tell

Output = pytest.CaptureFixture[str]


def plan(network: int, seconds: float = 0.1) -> dict[str, Any]:
    names = ('autoencoder', 'diffusion', 'network', 'sample')
    return {
        'steps': {'autoencoder': 600, 'diffusion': 1200, 'network': network},
        'seconds': dict.fromkeys(names, seconds),
    }


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'getloadavg', lambda: (0.0, 0.0, 0.0))


def test_a_plan_that_fits(capsys: Output) -> None:
    Announcer(learned=True).plan(plan(500), 20, 12, 500)
    said = capsys.readouterr().out
    assert 'Plan for --minutes 20: about 19 min in all' in said
    lines = said.splitlines()
    assert '  stage 1, the codec: 600 steps' in lines[2] and '60 s' in lines[2]
    assert '12 networks, at most 500 updates each' in lines[7]
    assert len(lines) == 9 and max(map(len, lines)) <= 80


def test_too_few_minutes(capsys: Output) -> None:
    Announcer(learned=True).plan(plan(40), 4, 12, 500)
    said = ' '.join(capsys.readouterr().out.split())
    assert (
        '--minutes 4 is less than the fewest steps of each part take: it will be'
        in said
    )
    assert '--minutes 26 is the least' in said


def test_other_work_is_said(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'getloadavg', lambda: (1000.0, 0.0, 0.0))
    Announcer(learned=True).plan(plan(500), 20, 12, 500)
    assert 'This machine has other work' in capsys.readouterr().out


@pytest.mark.parametrize('learned', [True, False])
def test_parts(learned: bool, capsys: Output) -> None:
    announce = Announcer(learned)
    announce.part('data', 'Making scenes', 10)
    found = plan(500)
    if not learned:
        del found['steps']['autoencoder']
    announce.plan(found, 20, 12, 500)
    announce.part('stage 2', 'Stage 2')
    announce.part('networks', 'Training', 30)
    first, *_, second, third = capsys.readouterr().out.splitlines()
    count = 8 if learned else 7
    assert first == f'1/{count} Making scenes (about 10 s)'
    assert second.startswith(f'{count - 4}/{count} Stage 2 (about 2.0 min; ')
    assert third == f'{count}/{count} Training (about 30 s; 30 s left)'


def test_long_sentences_are_broken(capsys: Output) -> None:
    tell('word ' * 40)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
