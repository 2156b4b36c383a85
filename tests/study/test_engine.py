# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.study.worlds import (
    SPEC,
    cell,
    pairs_data,
    read_study,
    tiny_task,
    watched,
    write_yaml,
)
from torchgeo_specdm import PairFolderDataModule
from torchgeo_specdm.cli import main
from torchgeo_specdm.study.design import REAL, Cell, Study
from torchgeo_specdm.study.engine import Engine
from torchgeo_specdm.study.runs import Run, logged_scores, write_run
from torchgeo_specdm.study.verdicts import verdicts
from torchgeo_specdm.tasks.support.plateau import enough_updates, settled

Output = pytest.CaptureFixture[str]


def mixed(**changes: Any) -> dict[str, Any]:
    return {'generator': 'own', 'ratios': [4], 'real_share': 0.5, **changes}


class TestPlanted:
    def test_what_must_help_helps(
        self, world: Path, tmp_path: Path, capsys: Output
    ) -> None:
        arms = {'synthetic': mixed(), 'cutmix': {'batch_mix': 'cutmix'}}
        given = {'arms': arms, 'generators': {'own': {'pairs': str(world / 'right')}}}
        path = write_yaml(tmp_path, world / 'poor', seeds=3, updates=15, **given)
        assert main(['study', str(path)]) == 0
        page = (tmp_path / 'out' / 'study.md').read_text()
        assert page in capsys.readouterr().out
        said = [line for line in page.splitlines() if line.startswith('- ')]
        (synthetic,) = [line for line in said if line.startswith('- 4x synthetic')]
        assert 'points (3 seeds): it helps; cutmix gives ' in synthetic
        # what stands for itself cannot show classes that no sample has
        (rival,) = [line for line in said if line.startswith('- cutmix')]
        assert ': it helps' not in rival
        study = Study.read(path)
        for run in Engine(study).finished(study.cells()):
            assert run.iou.keys() == set(SPEC.classes)
            known = [v for v in run.iou.values() if v is not None]
            assert run.score('miou') == pytest.approx(sum(known) / len(known), abs=1e-6)

    def test_what_must_harm_harms(self, world: Path, tmp_path: Path) -> None:
        study = read_study(
            tmp_path,
            world / 'rich',
            seeds=3,
            updates=25,
            arms={'synthetic': mixed(real_share=0.25)},
            generators={'own': {'pairs': str(world / 'wrong')}},
        )
        (sentence,) = verdicts(Engine(study).run(study.cells()))
        assert sentence.startswith('4x synthetic changes mIoU by -')
        assert 'it harms' in sentence


class TestAlike:
    """Arms differ in what they must differ in, and in nothing else."""

    @pytest.fixture
    def study(self, world: Path, tmp_path: Path) -> Study:
        return read_study(
            tmp_path,
            world / 'rich',
            data=pairs_data(world / 'rich', 2),
            seeds=[0, 1, 2],
            subsets=2,
            sizes=[2, 4],
            updates=1,
            arms={'mix': mixed(), 'cutmix': {'batch_mix': 'cutmix'}},
            generators={'own': {'pairs': str(world / 'right')}},
        )

    def test_weights_and_samples(self, study: Study) -> None:
        engine, seen = watched(study)
        cells = [c for c in study.cells() if c.size == 2 or c.arm != 'cutmix']
        runs = engine.run(cells)
        assert [run.cell for run in runs] == cells and not any(r.reason for r in runs)
        assert [run.subset for run in runs] == [c.seed % 2 for c in cells]
        by_cell = dict(zip(cells, seen, strict=True))
        for seed in study.seeds:
            # one network and one real set for all arms of a seed
            weights = {by_cell[c].weights for c in cells if c.seed == seed}
            assert len(weights) == 1
            small, large = (
                {frozenset(by_cell[c].real) for c in cells if c[3:] == (size, seed)}
                for size in (2, 4)
            )
            assert len(small) == len(large) == 1
            assert {len(s) for s in small | large} == {2, 4}
            assert set.union(*map(set, small)) < set.union(*map(set, large))
        real = {c.seed: by_cell[c] for c in cells if (c.arm, c.size) == (REAL, 2)}
        assert len({watch.weights for watch in real.values()}) == 3
        # seeds 0 and 2 share a subset, seed 1 has another
        assert real[0].real == real[2].real != real[1].real
        assert real[0].batches != real[2].batches
        plain, mix = (by_cell[cell(study, arm)] for arm in (REAL, 'mix'))
        assert plain.counts == (2, 0) and mix.counts == (2, 8)
        # by chance, none of the two samples of a batch is mixed by CutMix
        batches = {
            tuple(by_cell[cell(study, arm, seed)].batches[0] for seed in study.seeds)
            for arm in (REAL, 'mix', 'cutmix')
        }
        assert len(batches) == 3

    def test_a_cell_depends_on_itself_alone(self, study: Study, tmp_path: Path) -> None:
        cells = [cell(study, 'cutmix', 1), cell(study, 'mix', 1)]
        before = [cell(study, REAL), cell(study, 'mix'), *cells[::-1]]
        first = [replace(run, seconds=0) for run in Engine(study).run(before)]
        torch.rand(7)
        alone = replace(study, out=tmp_path / 'alone')
        again = [replace(run, seconds=0) for run in Engine(alone).run(cells)]
        assert all(run in first for run in again)
        assert all(run.scores['miou'] is not None for run in again)

    def test_more_seeds_change_no_subset(self, study: Study) -> None:
        fewer = replace(study, seeds=(1, 2))
        for c in fewer.cells():
            assert fewer.subset(c) == study.subset(c)

    def test_ratio_one_is_one_point_zero(self, world: Path, tmp_path: Path) -> None:
        own = {'own': {'pairs': str(world / 'right')}}
        for number, ratios in enumerate(([1], [1.0])):
            arms = {'mix': mixed(ratios=ratios)}
            study = read_study(
                tmp_path, world / 'rich', seeds=1, arms=arms, generators=own
            )
            engine, seen = watched(study)
            engine.run(study.cells())
            assert len(seen) == (2, 0)[number]


class TestFolder:
    def test_finished_runs_are_kept(self, world: Path, tmp_path: Path) -> None:
        study = read_study(tmp_path, world / 'rich')
        first = Engine(study).run(study.cells())
        paths = sorted((study.out / 'runs').iterdir())
        assert len(paths) == 2
        paths[0].unlink()
        # a new arm and a new seed may come; what is there is not done again
        more = read_study(
            tmp_path, world / 'rich', seeds=3, arms={'long': {'longer': 2}}
        )
        engine, seen = watched(more)
        runs = engine.run(more.cells())
        assert len(seen) == len(runs) - 1 == 5
        assert replace(runs[0], seconds=0) == replace(first[0], seconds=0)
        assert runs[1] == first[1]

    @pytest.mark.parametrize(
        'change, said',
        [
            ({'models': {'net': tiny_task(lr=0.1)}}, 'models: net'),
            ({'arms': {'mix': mixed(real_share=0.25)}}, 'arms: mix'),
            ({'generators': {'own': {'pairs': 'elsewhere'}}}, 'generators: own'),
            ({'budget': 'epochs'}, 'budget'),
            ({'subsets': 2}, 'subsets'),
            ({}, 'pairs: own'),
        ],
    )
    def test_refuses_another_study(
        self, world: Path, tmp_path: Path, change: dict[str, Any], said: str
    ) -> None:
        pairs = tmp_path / 'pairs'
        pairs.mkdir()
        (pairs / 'manifest.jsonl').write_text('old')
        given = {
            'arms': {'mix': mixed()},
            'generators': {'own': {'pairs': str(pairs)}},
            'seeds': 2,
        }
        Engine(read_study(tmp_path, world / 'rich', **given)).run([])
        if not change:
            (pairs / 'manifest.jsonl').write_text('new')
        match = f'begun with other settings .*{said}'
        with pytest.raises(FileExistsError, match=match):
            Engine(read_study(tmp_path, world / 'rich', **given | change))

    def test_looking_leaves_nothing(self, world: Path, tmp_path: Path) -> None:
        study = read_study(tmp_path, world / 'rich')
        assert Engine(study).finished(study.cells()) == []
        assert not study.out.exists()

    @pytest.mark.parametrize(
        'before, now, left',
        [
            ((600,), 600, ['20 min left, at the pace of earlier starts', '10 min']),
            ((600, 9e4, 600), 6, ['20 min left, at the pace of earlier starts', '6 s']),
        ],
        ids=['alike', 'paused, and on another load'],
    )
    def test_time_left_is_that_of_missing_runs(
        self,
        world: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        before: tuple[float, ...],
        now: float,
        left: list[str],
    ) -> None:
        def measure(self: Engine, cell: Cell, seconds: float = now) -> None:
            run = Run(*cell, 0, study.updates, {'miou': 0.5}, seconds=seconds)
            write_run(study.out, run)

        study = read_study(tmp_path, world / 'rich', seeds=len(before) + 2)
        said, cells = list[str](), study.cells()
        monkeypatch.setattr(Engine, '_measure', measure)
        for finished, seconds in zip(cells, before, strict=False):
            measure(Engine(study), finished, seconds)
        Engine(study, say=said.append).run(cells)
        for line, time in zip(said, left, strict=True):
            assert f' (about {time}' in line


class TestFailures:
    def test_an_error_without_a_text_is_a_failure(
        self, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: Engine, cell: Cell, updates: int) -> None:
            raise OSError if cell.seed else RuntimeError('two\nlines')

        monkeypatch.setattr(Engine, 'train', fail)
        study = read_study(tmp_path, world / 'rich')
        runs = Engine(study).run(study.cells())
        assert [run.reason for run in runs] == ['two lines', 'OSError']

    def test_ctrl_c_is_none(self, world: Path, tmp_path: Path) -> None:
        class Pressed(Callback):
            def on_train_batch_end(self, *rest: Any) -> None:
                raise KeyboardInterrupt

            def on_exception(self, *rest: Any) -> None:
                raise RuntimeError('cleaning up failed')

        study = read_study(tmp_path, world / 'rich', updates=1)
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(KeyboardInterrupt):
                Engine(study, lambda title: [Pressed()]).run(study.cells())
        finally:
            # Lightning ignores Ctrl-C for good once it has seen it
            signal.signal(signal.SIGINT, before)
        assert not (study.out / 'runs').exists()

    def test_weights_lost_at_the_last_step(self, world: Path, tmp_path: Path) -> None:
        # the only loss is computed before the only step
        lost = {'lost': tiny_task(lr=1e30, warmup=0.0)}
        study = read_study(tmp_path, world / 'rich', models=lost, updates=1, seeds=1)
        (run,) = Engine(study).run(study.cells())
        assert 'test_loss is nan, but must be a number' in run.reason
        assert run.scores == run.iou == {}

    def test_a_score_that_the_task_does_not_have(
        self, world: Path, tmp_path: Path
    ) -> None:
        study = read_study(tmp_path, world / 'rich', score='change_f1', seeds=1)
        (run,) = Engine(study).run(study.cells())
        assert "score='change_f1' is none that this task has" in run.reason

    def test_a_class_that_is_not_there(self, world: Path, tmp_path: Path) -> None:
        wrong = {'net': {'class_path': 'torchgeo_specdm.Nothing'}}
        study = read_study(tmp_path, world / 'rich', models=wrong, seeds=1)
        (run,) = Engine(study).run(study.cells())
        assert (
            "class_path='torchgeo_specdm.Nothing' gives no LightningModule"
            in run.reason
        )

    def test_classes_keep_their_names(self) -> None:
        found = {'test_loss': 1.0, 'test_miou': 0.5, 'test_iou/forest loss': 0.5}
        scores, iou = logged_scores(found, 'test', 'miou')
        assert scores == {'miou': 0.5} and iou == {'forest loss': 0.5}


class NoFolds(PairFolderDataModule):
    """A datamodule that cannot be divided anew."""

    def __init__(self, root: str, batch_size: int) -> None:
        super().__init__(root, batch_size)


class TestPilot:
    @staticmethod
    def pilot(
        study: Study, monkeypatch: pytest.MonkeyPatch, scores: dict[int, float]
    ) -> tuple[Engine, list[int]]:
        """An engine whose validation mIoU depends on the updates alone."""
        trained: list[int] = []

        class FakeTrainer:
            def __init__(self, score: float) -> None:
                self.score = score

            def validate(self, *args: Any, **kwargs: Any) -> list[dict[str, float]]:
                return [{'val_miou': self.score, 'val_loss': 0.1}]

        def fake(self: Engine, cell: Cell, updates: int) -> Any:
            assert cell.arm == REAL and cell.seed == study.seeds[0]
            trained.append(updates)
            return None, None, FakeTrainer(scores[updates])

        monkeypatch.setattr(Engine, 'train', fake)
        return Engine(study), trained

    @pytest.fixture
    def study(self, world: Path, tmp_path: Path) -> Study:
        return read_study(tmp_path, world / 'rich', updates=10, most_updates=170)

    @pytest.mark.parametrize(
        'scores, enough, done',
        [
            # doubling from 40 on adds next to nothing, twice
            ({10: 0.1, 20: 0.3, 40: 0.5, 80: 0.49, 160: 0.505}, 40, True),
            ({10: 0.1, 20: 0.3, 40: 0.305, 80: 0.309, 160: 0.9}, 20, True),
            # or only once
            ({10: 0.1, 20: 0.3, 40: 0.5, 80: 0.505, 160: 0.9}, 160, False),
            # it still rises at the end
            ({10: 0.1, 20: 0.3, 40: 0.5, 80: 0.6, 160: 0.7}, 160, False),
            # a network that has not begun to learn is not settled
            ({10: 0.0, 20: 0.0, 40: 0.0, 80: 0.6, 160: 0.605}, 160, False),
            ({10: 0.0, 20: 0.0, 40: 0.0, 80: 0.04, 160: 0.03}, 160, False),
        ],
    )
    def test_doubles_until_it_stops_rising(
        self,
        study: Study,
        monkeypatch: pytest.MonkeyPatch,
        scores: dict[int, float],
        enough: int,
        done: bool,
    ) -> None:
        engine, trained = self.pilot(study, monkeypatch, scores)
        assert engine.updates(cell(study, REAL)) == enough
        assert trained == [10, 20, 40, 80, 160][: len(trained)]
        curve = engine.pilot('net', 0)
        assert curve == [(u, scores[u]) for u in trained]
        assert settled(curve) == done and enough_updates(curve) == enough

    def test_is_kept_and_goes_on(
        self, study: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scores = {10: 0.1, 20: 0.3, 40: 0.5, 80: 0.502, 160: 0.503}
        few = replace(study, most_updates=39)
        engine, trained = self.pilot(few, monkeypatch, scores)
        assert engine.updates(cell(study, REAL)) == 20 and trained == [10, 20]
        engine, trained = self.pilot(study, monkeypatch, scores)
        assert engine.updates(cell(study, REAL)) == 40 and trained == [40, 80, 160]
        engine, trained = self.pilot(study, monkeypatch, {})
        assert engine.updates(cell(study, REAL, 1)) == 40 and trained == []

    def test_a_whole_study(self, world: Path, tmp_path: Path) -> None:
        study = read_study(
            tmp_path,
            world / 'rich',
            most_updates=4,
            arms={'long': {'longer': 1.5}},
            seeds=1,
        )
        engine, seen = watched(study)
        runs = engine.run(study.cells())
        assert [w.steps for w in seen] == [2, 4, 4, 6]
        assert [run.updates for run in runs] == [4, 6]
        engine, seen = watched(study)
        assert engine.run(study.cells()) == runs and seen == []

    def test_folds(self, world: Path, tmp_path: Path) -> None:
        keys = {'most_updates': 2, 'folds': 2, 'seeds': 1}
        data = pairs_data(world / 'rich', batch_size=4)
        study = read_study(tmp_path, world / 'rich', data=data, **keys)
        engine, seen = watched(study)
        engine.pilot('net', 0)
        # ten samples that are not for test, in two halves
        assert [len(w.real) for w in seen] == [5, 5]
        assert len(seen[0].real | seen[1].real) == 10
        assert len(engine.real().fold or ()) == 0
        engine.run(study.cells())
        assert len(seen[2].real) == 8

    def test_folds_need_a_datamodule_that_has_them(
        self, world: Path, tmp_path: Path
    ) -> None:
        given = {'root': str(world / 'rich'), 'batch_size': 4}
        data = {'class_path': f'{__name__}.NoFolds', 'init_args': given}
        study = read_study(
            tmp_path, world / 'rich', data=data, most_updates=2, folds=2, seeds=1
        )
        with pytest.raises(ValueError, match=r'folds=2 needs .* fold, but .*NoFolds'):
            Engine(study).pilot('net', 0)

    def test_one_that_fails_is_a_row(self, world: Path, tmp_path: Path) -> None:
        models = {'lost': tiny_task(lr=1e30), 'net': tiny_task()}
        study = read_study(
            tmp_path, world / 'rich', models=models, most_updates=4, seeds=1
        )
        engine = Engine(study)
        lost, net = engine.run(study.cells())
        assert 'training loss is nan' in lost.reason and lost.updates == 0
        assert net.updates == 4 and not net.reason
        assert engine.finished(study.cells()) == [lost, net]
        kept = json.loads((study.out / 'pilots' / 'net-0.json').read_text())
        assert [u for u, _ in kept['curve']] == [2, 4]


def test_a_run_that_is_no_file_of_ours(world: Path, tmp_path: Path) -> None:
    study = read_study(tmp_path, world / 'rich', seeds=1)
    Engine(study).run(study.cells())
    (path,) = (study.out / 'runs').iterdir()
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r'is not valid JSON.*delete it'):
        Engine(study).run(study.cells())


def test_judge_reads_images(world: Path, tmp_path: Path) -> None:
    study = read_study(tmp_path, world / 'poor')
    task, datamodule, _ = Engine(study).train(study.cells()[0], 1)
    assert task.eval()(torch.zeros(1, 4, 32, 32)).shape == (1, 4, 32, 32)
    assert datamodule.counts == (8, 0)  # type: ignore[attr-defined]
