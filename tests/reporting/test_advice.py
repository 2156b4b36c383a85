# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest

from torchgeo_specdm.reporting.advice import (
    Evidence,
    absolute_scores,
    advice,
    caveats,
    outcome,
)
from torchgeo_specdm.study.design import REAL
from torchgeo_specdm.study.runs import Run

RISING = [[100, 0.2], [200, 0.3], [400, 0.4]]
SETTLED = [[100, 0.3], [200, 0.3], [400, 0.3]]


def evidence(
    *gains: float, start: float = 0.4, seeds: int = 3, **more: Any
) -> Evidence:
    """Runs of real only and of a ratio for each gain, with a little noise."""
    runs = []
    for seed in range(seeds):
        for ratio, gain in enumerate([0.0, *gains]):
            score = start + gain + 0.02 * seed + 0.001 * seed * ratio
            arm = 'synthetic' if ratio else REAL
            runs.append(Run('net', arm, ratio, 0, seed, 0, 200, {'miou': score}))
    return Evidence(runs, **more)


@pytest.mark.parametrize(
    'found, state',
    [
        (evidence(-0.1, 0.1), 'good'),
        (evidence(0.1, curve=RISING), 'doubtful'),
        (evidence(0.1, curve=SETTLED), 'good'),
        (evidence(0.0, -0.1), 'bad'),
        (evidence(0.0), 'doubtful'),
        (evidence(0.1, seeds=1), 'not measured'),
        (evidence(0.1, start=0.001), 'not measured'),
        (evidence(), 'not measured'),
        (Evidence(), 'not measured'),
    ],
)
def test_outcome(found: Evidence, state: str) -> None:
    assert outcome(found) == state


def test_rivals_give_no_colour() -> None:
    found = evidence(-0.1)
    better = [Run('net', 'cutmix', 0, 0, i, 0, 200, {'miou': 0.9}) for i in range(3)]
    assert outcome(Evidence([*found.runs, *better])) == 'bad'


def test_absolute_scores() -> None:
    said = absolute_scores(evidence(0.1))
    assert said == 'mIoU in points: real only 42.0 ± 2.0, 1x synthetic 52.1 ± 2.1.'
    assert '±' not in absolute_scores(evidence(0.1, seeds=1))
    assert absolute_scores(Evidence()) == ''


@pytest.mark.parametrize(
    'found, said',
    [
        (evidence(0.1, curve=RISING), 'Real-only was still rising'),
        (evidence(0.1, seeds=1), '1 seed is few'),
        (evidence(0.1, all_labels=True), 'saw more labels'),
        (
            evidence(0.1, 0.1, 0.1, 0.1, 0.1, pixel_share=0.25),
            '5x by count is 1.25x by',
        ),
        (
            evidence(
                measures={
                    'alignment': {'judges': {'settled': False, 'curve': [[9, 0.5]]}}
                }
            ),
            'judges are too weak',
        ),
    ],
)
def test_each_caveat(found: Evidence, said: str) -> None:
    assert [said in sentence for sentence in caveats(found)].count(True) == 1


def test_nothing_speaks_against_it() -> None:
    assert caveats(evidence(0.1, seeds=5, curve=SETTLED)) == []


SOFT = {
    'detail': {'synthetic': {'power': {'above 1/4': 0.1}}},
    'memorisation': {'pixels': {'alarm': True, 'share': 0.5, 'expected': 0.0}},
    'alignment': {'calibrated': 0.3},
}


@pytest.mark.parametrize(
    'found, said',
    [
        (Evidence(), ['torchgeo-specdm study']),
        (evidence(0.1, start=0.001), ['has not learned its task']),
        (evidence(0.1), ['Use them: 1x synthetic']),
        (
            evidence(0.1, curve=RISING),
            ['More updates first', 'More seeds', 'do not use'],
        ),
        (evidence(-0.1), ['Do not mix', 'do not use them']),
        (evidence(0.0, seeds=1), ['More seeds: one run', 'do not use them']),
        (
            evidence(-0.1, measures=SOFT),
            ['Do not mix', '--unlabelled', '--masks', 'reproduced', 'do not use them'],
        ),
    ],
)
def test_advice(found: Evidence, said: list[str]) -> None:
    sentences = advice(found)
    assert len(sentences) == len(said)
    assert all(part in text for part, text in zip(said, sentences, strict=True))


def test_images_without_labels_are_not_asked_for_twice() -> None:
    (weak,) = [
        s
        for s in advice(evidence(-0.1, measures=SOFT, unlabelled=True))
        if 'Images' in s
    ]
    assert '--unlabelled' not in weak and 'longer' in weak
