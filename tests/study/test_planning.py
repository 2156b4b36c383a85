# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from typing import Any

import pytest
import torch

from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.study import planning
from torchgeo_specdm.study.planning import (
    SETTLING,
    expected_seconds,
    least_minutes,
    make_plan,
    time_steps,
)

SPEC = SampleSpec(('B02', 'B03', 'B04', 'B08'), ('water', 'land', 'town'))
SECONDS = {'autoencoder': 0.1, 'diffusion': 0.2, 'network': 0.05}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Steps that take the time of SECONDS; the calls."""
    calls: list[tuple[Any, ...]] = []

    def fake(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        return SECONDS

    monkeypatch.setattr(planning, 'time_steps', fake)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    return calls


def plan(
    minutes: float = 12, size: int = 128, samples: int = 100, **kwargs: Any
) -> Any:
    return make_plan(SPEC, {}, (size, size), samples, minutes, 12, **kwargs)


def used(found: Any) -> float:
    """Minutes of all trainings: the grid, three pilots of 1.75 and the judge."""
    steps = found['steps']
    seconds = sum(steps[name] * SECONDS[name] for name in steps if name != 'network')
    return float(seconds + (12 + 2.75) * steps['network'] * SECONDS['network']) / 60


@pytest.mark.usefixtures('timed')
class TestMakePlan:
    @pytest.mark.parametrize('minutes', [8, 12, 60])
    @pytest.mark.parametrize('learned', [True, False])
    def test_fits_the_minutes(self, minutes: float, learned: bool) -> None:
        found = plan(minutes, learned=learned)
        assert 0.7 * minutes < used(found) < 0.9 * minutes
        assert ('autoencoder' in found['steps']) == learned

    def test_few_minutes_still_learn_something(self) -> None:
        steps = {'autoencoder': 100, 'diffusion': 200, 'network': 40}
        assert plan(0.01)['steps'] == steps

    def test_many_minutes_do_not_go_on_for_ever(self) -> None:
        steps = {'autoencoder': 20_000, 'diffusion': 50_000, 'network': 20_000}
        assert plan(1e6)['steps'] == steps

    @pytest.mark.parametrize(
        'minutes, size, gpu, expected',
        [
            (12, 128, False, 32),
            (29.9, 128, False, 32),
            (30, 128, False, 64),
            (30, 64, False, 64),
            (30, 48, False, 32),
            (12, 128, True, 64),
            (12, 32, True, 32),
        ],
    )
    def test_patch_size_by_time_and_patches(
        self,
        monkeypatch: pytest.MonkeyPatch,
        minutes: float,
        size: int,
        gpu: bool,
        expected: int,
    ) -> None:
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda **_: False)
        assert plan(minutes, size)['patch_size'] == expected

    def test_times_what_it_plans(self, timed: list[tuple[Any, ...]]) -> None:
        found = plan(30, samples=10)
        assert timed == [(SPEC, {}, 64, 10, 32, 'two_stream')]
        assert found['batch_size'] == found['samples'] == 10
        assert found['latent_batch_size'] == 32
        assert found['seconds'] == SECONDS | {'sample': found['seconds']['sample']}
        assert 0.01 < found['seconds']['sample'] < 0.2

    @pytest.mark.parametrize('samples, passes', [(10, 16), (2000, 10), (50_000, 1)])
    def test_cache_of_latents_does_not_grow(self, samples: int, passes: int) -> None:
        assert plan(samples=samples)['passes'] == passes


@pytest.mark.parametrize('codec', ['two_stream', 'pixels'])
def test_time_steps_takes_real_steps(codec: str) -> None:
    network = {
        'class_path': 'torchgeo_specdm.MultispectralSegmentationTask',
        'init_args': {'backbone': 'mit_b0'},
    }
    found = time_steps(SPEC, network, 32, 2, 2, codec)
    assert found.keys() == SECONDS.keys()
    assert all(0 < seconds < math.inf for seconds in found.values())


@pytest.mark.usefixtures('timed')
@pytest.mark.parametrize('learned', [True, False])
def test_a_plan_takes_its_minutes(learned: bool) -> None:
    parts = expected_seconds(plan(60, learned=learned), 12, 500)
    assert ('stage 1' in parts) == learned
    assert 0.8 * 3600 < sum(parts.values()) < 1.1 * 3600


@pytest.mark.usefixtures('timed')
def test_least_minutes() -> None:
    least = least_minutes(plan(12), 12)
    assert plan(0.99 * least)['steps']['network'] < SETTLING
    assert plan(1.01 * least)['steps']['network'] >= SETTLING


def test_other_work_does_not_slow_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, passed = iter(range(100)), iter(range(0, 10_000, 100))
    monkeypatch.setattr(planning.time, 'thread_time', lambda: next(computed))
    monkeypatch.setattr(planning.time, 'perf_counter', lambda: next(passed))
    layer = torch.nn.Linear(1, 1)
    seconds = planning._seconds(
        layer, lambda: layer(torch.ones(1, 1)).sum(), half=False
    )
    assert seconds == pytest.approx(1.15)


def test_seconds_are_those_of_whole_steps() -> None:
    layer = torch.nn.Linear(1, 1)
    before = layer.weight.clone()
    calls = []

    def loss() -> torch.Tensor:
        calls.append(layer.weight.clone())
        value: torch.Tensor = layer(torch.ones(1, 1)).sum()
        return value

    assert planning._seconds(layer, loss, half=False, count=5) > 0
    # the optimizer moved the weights between any two of them
    weights = [w.item() for w in (before, *calls[1:], layer.weight)]
    assert len(weights) == len(set(weights)) == 6
