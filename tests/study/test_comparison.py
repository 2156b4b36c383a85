# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from torchgeo_specdm import PairFolderDataModule, SampleSpec
from torchgeo_specdm.study.comparison import Comparison, enough_updates, settled
from torchgeo_specdm.study.runs import Run, differences, read_runs
from torchgeo_specdm.study.statistics import verdict
from torchgeo_specdm.synthesis.writing import PairWriter


def tiny_task(**changes: Any) -> dict[str, Any]:
    arguments = {'backbone': 'mit_b0', 'lr': 2e-3, 'head_lr_factor': 1.0, **changes}
    path = 'torchgeo_specdm.MultispectralSegmentationTask'
    return {'class_path': path, 'init_args': arguments}


SPEC = SampleSpec(('B02', 'B03', 'B04', 'B08'), ('water', 'forest', 'crops', 'town'))
SPECTRA = np.array(
    [
        [900, 700, 400, 200],
        [300, 500, 350, 3200],
        [600, 900, 800, 2600],
        [1500, 1700, 1900, 2200],
    ]
)
Sample = tuple[np.ndarray, np.ndarray]


class Steps(Callback):
    """Notes the optimiser steps of each training by its title."""

    def __init__(self, title: str, taken: list[tuple[str, int]]) -> None:
        self.title = title
        self.taken = taken

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.taken.append((self.title, trainer.global_step))


def comparison(tmp_path: Path, **settings: Any) -> Comparison:
    """A comparison that must not open its data."""

    def real() -> PairFolderDataModule:
        raise AssertionError('a training began')

    given = {'task': tiny_task(), 'ratios': (0, 1), 'seeds': (0, 1), **settings}
    return Comparison(real, tmp_path / 'synthetic', tmp_path / 'out', **given)


def a_run(ratio: float, seed: int, updates: int) -> Run:
    score = 0.1 * ratio + 0.01 * seed
    return Run(ratio, seed, updates, score, score, score, {'a, b': score, 'c': None})


class TestGrid:
    @pytest.fixture
    def trained(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int, int]]:
        """What was trained, by ratio, seed and updates."""
        calls: list[tuple[float, int, int]] = []

        def fake(self: Comparison, ratio: float, seed: int, updates: int) -> Run:
            calls.append((ratio, seed, updates))
            return a_run(ratio, seed, updates)

        monkeypatch.setattr(Comparison, '_measure', fake)
        return calls

    def test_every_ratio_for_every_seed(self, tmp_path: Path, trained: Any) -> None:
        study = comparison(tmp_path, ratios=(0, 1, 5), seeds=(3, 4))
        assert study.missing(40) == 6
        runs = study.run(40)
        grid = [(r, s, 40) for s in (3, 4) for r in (0, 1, 5)]
        assert trained == grid == [(r.ratio, r.seed, r.updates) for r in runs]
        assert study.missing(40) == 0

    def test_finished_runs_are_not_run_again(
        self, tmp_path: Path, trained: Any
    ) -> None:
        study = comparison(tmp_path)
        first = study.run(40)
        path = tmp_path / 'out' / 'runs.csv'
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(''.join(lines[:2] + lines[3:]))
        del trained[:]
        assert study.missing(40) == 1
        assert study.run(40) == first
        assert trained == [(1, 0, 40)]
        # all of them are in the table again
        table = sorted(read_runs(path), key=lambda run: (run.seed, run.ratio))
        assert table == first
        del trained[:]
        assert study.run(40) == first
        assert trained == []

    def test_runs_of_other_updates_stay_apart(
        self, tmp_path: Path, trained: Any
    ) -> None:
        study = comparison(tmp_path)
        study.run(40)
        runs = study.run(80)
        assert {run.updates for run in runs} == {80}
        assert len(trained) == 8
        assert len(read_runs(tmp_path / 'out' / 'runs.csv')) == 8

    def test_more_seeds_add_runs(self, tmp_path: Path, trained: Any) -> None:
        comparison(tmp_path).run(40)
        del trained[:]
        runs = comparison(tmp_path, seeds=(1, 2)).run(40)
        assert trained == [(0, 2, 40), (1, 2, 40)]
        assert [(run.ratio, run.seed) for run in runs] == [
            (0, 1),
            (1, 1),
            (0, 2),
            (1, 2),
        ]

    def test_an_interruption_leaves_a_readable_table(
        self, tmp_path: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = Comparison._measure

        def interrupted(self: Comparison, ratio: float, seed: int, updates: int) -> Run:
            if len(trained) == 3:
                raise KeyboardInterrupt
            return whole(self, ratio, seed, updates)

        study = comparison(tmp_path)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Comparison, '_measure', interrupted)
            study.run(40)
        assert len(read_runs(tmp_path / 'out' / 'runs.csv')) == 3
        assert len(study.run(40)) == 4
        assert len(trained) == 4

    @pytest.mark.parametrize(
        'change',
        [{'task': tiny_task(lr=0.1)}, {'real_share': 0.25}, {'synthetic': 'new'}],
    )
    def test_refuses_another_experiment_in_its_folder(
        self, tmp_path: Path, trained: Any, change: dict[str, Any]
    ) -> None:
        (tmp_path / 'synthetic').mkdir()
        comparison(tmp_path).run(40)
        if 'synthetic' in change:
            (tmp_path / 'synthetic' / 'manifest.jsonl').write_text(
                change.pop('synthetic')
            )
        with pytest.raises(FileExistsError, match=r'begun with other settings.*there'):
            comparison(tmp_path, **change).run(40)
        assert len(trained) == 4

    def test_refuses_a_grid_without_baseline(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'ratios=\[1, 3\] must hold 0'):
            comparison(tmp_path, ratios=(1, 3))


class TestFindUpdates:
    @staticmethod
    def pilot(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: dict[int, float]
    ) -> tuple[Comparison, list[int]]:
        """A comparison whose validation mIoU depends on the updates alone."""
        trained: list[int] = []

        class FakeTrainer:
            def __init__(self, score: float) -> None:
                self.score = score

            def validate(self, *args: Any, **kwargs: Any) -> list[dict[str, float]]:
                return [{'val_miou': self.score, 'val_loss': 0.1}]

        def fake(self: Comparison, ratio: float, seed: int, updates: int) -> Any:
            assert (ratio, seed) == (0, 0)
            trained.append(updates)
            return None, None, FakeTrainer(scores[updates])

        monkeypatch.setattr(Comparison, '_train', fake)
        return comparison(tmp_path), trained

    @pytest.mark.parametrize(
        'scores, enough, done',
        [
            # doubling from 40 to 80 adds next to nothing
            ({10: 0.1, 20: 0.3, 40: 0.5, 80: 0.505, 160: 0.9}, 40, True),
            ({10: 0.1, 20: 0.3, 40: 0.5, 80: 0.49, 160: 0.9}, 40, True),
            # it still rises at the end
            ({10: 0.1, 20: 0.3, 40: 0.5, 80: 0.6, 160: 0.7}, 160, False),
            # a network that has not begun to learn is not settled
            ({10: 0.1, 20: 0.1, 40: 0.5, 80: 0.6, 160: 0.605}, 80, True),
        ],
    )
    def test_doubles_until_it_stops_rising(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        scores: dict[int, float],
        enough: int,
        done: bool,
    ) -> None:
        study, trained = self.pilot(tmp_path, monkeypatch, scores)
        curve = study.find_updates(10, 170)
        assert curve == [(u, scores[u]) for u in trained]
        assert trained == [10, 20, 40, 80, 160][: len(trained)]
        assert settled(curve) == done and enough_updates(curve) == enough

    def test_never_more_than_allowed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        study, trained = self.pilot(tmp_path, monkeypatch, {10: 0.1, 20: 0.1, 40: 0.1})
        study.find_updates(10, 39)
        assert trained == [10, 20]

    def test_goes_on_where_it_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scores = {10: 0.1, 20: 0.3, 40: 0.5, 80: 0.502}
        study, trained = self.pilot(tmp_path, monkeypatch, scores)
        study.find_updates(10, 20)
        assert trained == [10, 20]
        curve = study.find_updates(10, 80)
        assert trained == [10, 20, 40, 80]
        assert study.find_updates(10, 80) == curve == list(scores.items())
        assert trained == [10, 20, 40, 80]
        found = json.loads((tmp_path / 'out' / 'pilot.json').read_text())
        assert found == [list(point) for point in curve]

    def test_refuses_a_score_that_is_no_number(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        study, _ = self.pilot(tmp_path, monkeypatch, {10: math.nan})
        with pytest.raises(RuntimeError, match='val_miou is nan after the pilot of 10'):
            study.find_updates(10, 20)

    @pytest.mark.parametrize('start', [0, 21])
    def test_refuses_a_start_out_of_range(self, tmp_path: Path, start: int) -> None:
        with pytest.raises(
            ValueError, match=f'start={start} must be 1 or more.*most=20'
        ):
            comparison(tmp_path).find_updates(start, 20)


def draw(random: np.random.Generator, classes: Sequence[int]) -> Sample:
    """Blocks of classes under a light of their own, with noise."""
    mask = random.choice(classes, (4, 4)).repeat(8, 0).repeat(8, 1)
    light = random.uniform(0.8, 1.2)
    image = SPECTRA[mask].transpose(2, 0, 1) * light
    return image + random.normal(0, 100, image.shape), mask


def write(root: Path, samples: list[Sample], shift: int = 0) -> None:
    """A folder of pairs; with a shift, each image has the mask of another one."""
    writer = PairWriter(root, SPEC, {}, {})
    for i, (image, _) in enumerate(samples):
        mask = samples[(i + shift) % len(samples)][1]
        writer.write(f'{i:03d}', image, mask, {'index': i})
    writer.finish('A test.')


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real data sets, and two sets of many "synthetic" pairs of the same world.

    The eight training samples of ``poor`` show half of the classes and those of
    ``rich`` all of them. The pairs of ``right`` are as real as the test samples, so
    they must help the poor; in ``shuffled``, each image has the mask of another one,
    so they must harm the rich.
    """
    root = tmp_path_factory.mktemp('world')
    random = np.random.default_rng(0)
    everything = range(len(SPECTRA))
    for name, classes in (('poor', (0, 1)), ('rich', everything)):
        train = [draw(random, classes) for _ in range(8)]
        write(root / name, train + [draw(random, everything) for _ in range(10)])
        for split, numbers in (('train', (0, 8)), ('val', (8, 10)), ('test', (10, 18))):
            ids = ''.join(f'{i:03d}\n' for i in range(*numbers))
            (root / name / f'{split}.txt').write_text(ids)
    pairs = [draw(random, everything) for _ in range(32)]
    write(root / 'right', pairs)
    write(root / 'shuffled', pairs, shift=1)
    return root


def compare(
    world: Path, out: Path, real: str, synthetic: str, share: float, **settings: Any
) -> Comparison:
    quiet = {'enable_progress_bar': False}
    return Comparison(
        lambda: PairFolderDataModule(str(world / real), batch_size=8),
        world / synthetic,
        out,
        ratios=(0, 4),
        real_share=share,
        **{'task': tiny_task(), 'trainer': quiet, **settings},
    )


class TestTraining:
    def test_what_must_help_helps(self, world: Path, tmp_path: Path) -> None:
        taken: list[tuple[str, int]] = []
        study = compare(
            world,
            tmp_path,
            'poor',
            'right',
            0.5,
            callbacks=lambda title: [Steps(title, taken)],
        )
        runs = study.run(15)
        assert 'it helps' in verdict(4, differences(runs)[4])
        # every arm had the same number of updates
        names = ('real only', '4x synthetic')
        assert taken == [(f'{n}, seed {s}', 15) for s in range(3) for n in names]
        for run in runs:
            assert run.iou.keys() == set(SPEC.classes)
            known = [v for v in run.iou.values() if v is not None]
            assert run.miou == pytest.approx(sum(known) / len(known), abs=1e-6)
        assert read_runs(tmp_path / 'runs.csv') == runs

    def test_what_must_harm_harms(self, world: Path, tmp_path: Path) -> None:
        runs = compare(world, tmp_path, 'rich', 'shuffled', 0.25).run(15)
        assert 'it harms' in verdict(4, differences(runs)[4])

    def test_a_run_depends_on_its_seed_alone(self, world: Path, tmp_path: Path) -> None:
        # the second one goes on after an interruption, in another state of the world
        first = compare(world, tmp_path / 'a', 'poor', 'right', 0.5, seeds=(1,)).run(2)
        torch.rand(7)
        again = compare(world, tmp_path / 'b', 'poor', 'right', 0.5, seeds=(1,))
        # one datamodule for all runs, as in the quickstart
        shared = again.real()
        again.real = lambda: shared
        assert again.run(2) == first

    def test_a_lost_training_is_an_error(self, world: Path, tmp_path: Path) -> None:
        task = tiny_task(lr=1e30)
        study = compare(world, tmp_path, 'poor', 'right', 0.5, task=task)
        with pytest.raises(RuntimeError, match='training loss is nan at step'):
            study.run(4)
        assert read_runs(tmp_path / 'runs.csv') == []

    def test_weights_lost_at_the_last_step_are_an_error(
        self, world: Path, tmp_path: Path
    ) -> None:
        # the only loss is computed before the only step
        task = tiny_task(lr=1e30, warmup=0.0)
        study = compare(world, tmp_path, 'poor', 'right', 0.5, task=task)
        match = 'test_loss is nan after the run of ratio 0 and seed 0'
        with pytest.raises(RuntimeError, match=match):
            study.run(1)

    def test_judge_is_trained_on_real_samples(
        self, world: Path, tmp_path: Path
    ) -> None:
        judge, datamodule = compare(world, tmp_path, 'poor', 'right', 0.5).judge(1)
        assert not judge.training
        assert judge(torch.zeros(1, 4, 32, 32)).shape == (1, 4, 32, 32)
        assert datamodule.counts == (8, 0)
