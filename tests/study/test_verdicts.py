# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from torchgeo_specdm.study.design import REAL, Arm, Recipe, Study
from torchgeo_specdm.study.runs import Run
from torchgeo_specdm.study.verdicts import noise, rivals_of, verdicts


def runs_of(arm: str, ratio: float, scores: Sequence[float | None]) -> list[Run]:
    return [
        Run('net', arm, ratio, 0, seed, 0, 9, {'miou': score, 'change_f1': score})
        for seed, score in enumerate(scores)
    ]


BASE = runs_of(REAL, 0, (0.40, 0.42, 0.44))
MIX = runs_of('mix', 5, (0.45, 0.48, 0.49))
CUTMIX = runs_of('cutmix', 0, (0.41, 0.44, 0.46))
LONGER = runs_of('longer', 0, (0.41, 0.42, 0.44))


class TestVerdicts:
    def test_the_best_rival_is_beside(self) -> None:
        rivals = ['cutmix', 'longer']
        mix, cutmix, longer = verdicts(BASE + MIX + CUTMIX + LONGER, 'miou', rivals)
        interval = r'\[[+-]\d+\.\d, [+-]\d+\.\d\]'
        assert re.fullmatch(
            rf'5x mix changes mIoU by \+5\.3 {interval} points \(3 seeds\): it helps; '
            rf'cutmix gives \+1\.7 {interval}\.',
            mix,
        )
        # rivals stand alone
        assert cutmix.startswith('cutmix changes mIoU by +1.7 [')
        assert 'gives' not in cutmix + longer

    def test_without_rivals_nothing_is_beside(self) -> None:
        (said,) = verdicts(BASE + MIX)
        assert said.endswith('it helps.')

    def test_one_run_says_nothing_but_names_the_rival(self) -> None:
        runs = BASE[:1] + MIX[:1] + CUTMIX[:1]
        mix, _ = verdicts(runs, 'change_f1', ['cutmix'])
        assert mix == (
            '5x mix changes F1 of change by +5.0 points in one run: nothing can be said; '
            'cutmix gives +1.0. Run more seeds.'
        )

    @pytest.mark.parametrize('base', [[], runs_of(REAL, 0, (None, None))])
    def test_no_real_only_is_said(self, base: list[Run]) -> None:
        (said,) = verdicts(base + MIX)
        assert 'No run with real samples only has a mIoU' in said

    def test_a_network_that_learned_nothing_says_nothing(self) -> None:
        (said,) = verdicts(runs_of(REAL, 0, (0.01, 0.02)) + MIX)
        assert 'has not learned its task' in said and '1.5 points of mIoU' in said

    def test_failed_runs_are_left_out(self) -> None:
        lost = Run('net', 'mix', 5, 0, 3, 0, 9, reason='lost')
        more = runs_of(REAL, 0, (0.40, 0.42, 0.44, 0.46))
        (said,) = verdicts([*more, *MIX, lost])
        assert '(3 seeds)' in said


class TestNoise:
    def test_says_what_can_be_seen(self) -> None:
        # t(2) = 4.303; 4.303 x 2 points x sqrt(2 / 3)
        said = noise(BASE)
        assert said.startswith('Real only: mIoU 42.0 ± 2.0 points (3 seeds). ')
        assert (
            'effects below about 7.0 points cannot be told from noise; 1 point' in said
        )
        # 1.97 x 2 x sqrt(2 / 32) is 1.02, of 33 seeds it is 1.0
        seeds = int(re.findall(r'about (\d+) seeds', said)[0])
        assert 30 <= seeds <= 35

    def test_little_noise_needs_no_more_seeds(self) -> None:
        said = noise(runs_of(REAL, 0, (0.4, 0.4001, 0.4002)))
        assert said.endswith('cannot be told from noise.')

    def test_a_network_that_learned_nothing_has_no_noise(self) -> None:
        said = noise(runs_of(REAL, 0, (0.0, 0.0, 0.0)))
        assert said.startswith('Real only: mIoU 0.0 points (3 seeds). Its spread says')

    def test_one_run_tells_nothing(self) -> None:
        assert noise(BASE[:1] + MIX) == (
            'One real-only run does not tell the noise of mIoU. Use more seeds.'
        )


def test_rivals_use_no_generator() -> None:
    arms = {'a': Arm('own', (1.0,)), 'b': Arm(batch_mix='cutmix'), 'c': Arm(longer=2)}
    study = Study(
        Path('out'), {}, {'net': {}}, arms=arms, generators={'own': Recipe(pairs='x')}
    )
    assert rivals_of(study) == ['b', 'c']
