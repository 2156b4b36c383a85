# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchgeo.datamodules import NonGeoDataModule

from tests.conftest import calls_of
from tests.datamodules.change_world import SPEC, write_painter, write_scenes
from tests.study.fakes import open_data
from tests.study.worlds import Watch, cell, pairs_data, read_study, tiny_recipe, watched
from torchgeo_specdm import PairFolder
from torchgeo_specdm.objects import make_object
from torchgeo_specdm.pairs.facts import fingerprints
from torchgeo_specdm.pairs.fingerprint import read_seen_samples, write_seen_samples
from torchgeo_specdm.reporting.study import write_study
from torchgeo_specdm.study import synthetic
from torchgeo_specdm.study.configs import subset_config
from torchgeo_specdm.study.design import REAL, Study
from torchgeo_specdm.study.engine import Engine

#: Every way to train: (settings, real and synthetic samples and steps of each phase).
ARMS: dict[str, tuple[dict[str, Any], list[tuple[int, int, int]]]] = {
    'even': ({}, [(8, 8, 3)]),
    'share': ({'real_share': 0.5}, [(8, 8, 3)]),
    'pretrain': ({'use': 'pretrain'}, [(0, 8, 2), (8, 0, 1)]),
    'only': ({'use': 'only'}, [(0, 8, 3)]),
    'masks': ({'source': 'masks'}, [(8, 8, 3)]),
    'vary': ({'source': 'vary', 'strength': 0.3}, [(8, 8, 3)]),
    'reconstructed': ({'source': 'reconstructed'}, [(8, 8, 3)]),
    'blurred': ({'source': 'blurred'}, [(8, 8, 3)]),
    'shifted': ({'source': 'shifted'}, [(8, 8, 3)]),
    'quilts': ({'generator': None, 'source': 'quilts', 'ratios': [1]}, [(8, 8, 3)]),
    # the network that reads the masks is trained first
    'relabel': ({'relabel': True}, [(8, 0, 3), (8, 8, 3)]),
    'cutmix': ({'generator': None, 'batch_mix': 'cutmix'}, [(8, 0, 3)]),
    'copy_paste': ({'generator': None, 'batch_mix': 'copy_paste'}, [(8, 0, 3)]),
    'self-training': ({'generator': None, 'unlabelled': ['rest']}, [(8, 8, 3)]),
    'retrieval': (
        {'generator': None, 'unlabelled': ['rest'], 'nearest': 5},
        [(8, 5, 3)],
    ),
    'images alone': ({'use': 'unlabelled', 'real_share': 0.25}, [(8, 8, 3)]),
    'longer': ({'generator': None, 'longer': 2}, [(8, 0, 6)]),
}


def arm(**changes: Any) -> dict[str, Any]:
    """An arm with a generator, unless that is None."""
    synthetic = changes.get('generator', 'own') is not None
    return {'generator': 'own', **({'ratios': [1]} if synthetic else {}), **changes}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope='module')
def done(
    pair_folder: Path, untrained: Path, tmp_path_factory: Any
) -> tuple[Study, dict[str, list[Watch]]]:
    """A study with every arm, and its trainings by arm."""
    study = read_study(
        tmp_path_factory.mktemp('uses'),
        pair_folder,
        data=pairs_data(pair_folder, 4),
        arms={name: arm(**given) for name, (given, _) in ARMS.items()},
        generators={'own': {'folder': str(untrained)}},
        sizes=[8],
        seeds=1,
        updates=3,
    )
    engine, seen = watched(study)
    found = {}
    for c in study.cells():
        del seen[:]
        (run,) = engine.run([c])
        assert not run.reason and run.scores['miou'] is not None
        found[c.arm] = list(seen)
    return study, found


class TestUses:
    @pytest.mark.parametrize('name', ARMS)
    def test_samples_and_steps(self, done: Any, name: str) -> None:
        phases = [(*w.counts, w.steps) for w in done[1][name]]
        assert phases == ARMS[name][1]

    def test_all_begin_with_the_same_weights(self, done: Any) -> None:
        first = {watches[0].weights for watches in done[1].values()}
        assert len(first) == 1
        # the second phase goes on with the network of the first
        before, after = done[1]['pretrain']
        assert before.weights != after.weights
        # the network that reads masks is not the one that learns from them
        assert len({watch.weights for watch in done[1]['relabel']}) == 1

    def test_real_samples_are_those_of_real_only(self, done: Any) -> None:
        (plain,) = done[1][REAL]
        for watches in done[1].values():
            for watch in watches:
                assert watch.real in (plain.real, set())

    def test_images_without_labels_are_counted(self, done: Any) -> None:
        study = done[0]
        runs = Engine(study).finished(study.cells())
        assert {r.arm: r.unlabelled for r in runs if r.unlabelled} == {
            'self-training': 8,
            'retrieval': 5,
        }
        page = write_study(study, runs).read_text()
        assert 'the same labels for every row, and U real images without' in page
        assert '| self-training | 8 | 1 | ' in page and '| real only | 0 | 1 |' in page

    def test_what_is_trained_on_differs(self, done: Any) -> None:
        last = {name: tuple(w[-1].batches) for name, w in done[1].items()}
        # longer training begins as real only does
        assert last.pop('longer')[:3] == last[REAL]
        assert len(set(last.values())) == len(last)

    def test_pairs_are_drawn_once_for_all_that_use_them(self, done: Any) -> None:
        home = done[0].out / 'sets' / '8-0'
        kept = [name for name in names(home) if name not in ('configs', 'logs')]
        assert kept == [
            'own-blurred',
            'own-joint',
            'own-joint-read-by-net-0-3',
            'own-masks',
            'own-reconstructed',
            'own-shifted',
            'own-vary-0.3',
            'real',
            'real-quilts',
        ]
        assert len(PairFolder(home / 'own-joint')) == 8

    def test_masks_of_real_samples_are_kept(self, done: Any) -> None:
        home = done[0].out / 'sets' / '8-0'
        real = PairFolder(home / 'real')
        assert len(real) == 8
        for name in ('own-masks', 'own-vary-0.3'):
            drawn = PairFolder(home / name)
            for i in range(8):
                mask, wanted = drawn[i]['mask'], real[i]['mask']
                # turned or flipped, but the same
                assert mask.unique(return_counts=True)[1].tolist() == (
                    wanted.unique(return_counts=True)[1].tolist()
                )
                assert not drawn[i]['image'].equal(real[i]['image'])

    def test_masks_are_read_by_the_network_of_real_only(self, done: Any) -> None:
        study = done[0]
        home = study.out / 'sets' / '8-0'
        drawn = PairFolder(home / 'own-joint')
        read = PairFolder(home / 'own-joint-read-by-net-0-3')
        task, datamodule, _ = Engine(study).train(cell(study, REAL), 3)
        images = torch.stack([drawn[i]['image'] for i in range(8)])
        assert images.equal(torch.stack([read[i]['image'] for i in range(8)]))
        mean, std = (
            torch.as_tensor(v).float().reshape(-1, 1, 1)
            for v in (datamodule.mean, datamodule.std)
        )
        with torch.no_grad():
            wanted = task.eval()((images - mean) / std).argmax(1)
        found = torch.stack([read[i]['mask'] for i in range(8)])
        assert (found == wanted).float().mean() > 0.999
        assert not found.equal(torch.stack([drawn[i]['mask'] for i in range(8)]))


def test_change_is_painted_into_the_real_samples(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / 'real', 5)
    for split, ids in (('train', '0\n1\n2\n'), ('val', '3\n'), ('test', '4\n')):
        (scenes / f'{split}.txt').write_text(ids)
    (scenes / 'dataset.json').write_text(json.dumps(SPEC.to_dict()))
    change = {
        'class_path': 'torchgeo_specdm.MultispectralChangeDetectionTask',
        'init_args': {'model': 'siamcrnn', 'backbone': 'resnet18'},
    }
    study = read_study(
        tmp_path,
        scenes,
        data=pairs_data(scenes, 2),
        models={'net': change},
        generators={'own': {'folder': str(write_painter(tmp_path / 'painter'))}},
        arms={'painted': arm(source='change', strength=1, ratios=[2])},
        seeds=1,
    )
    engine, seen = watched(study)
    (run,) = engine.run([c for c in study.cells() if c.arm == 'painted'])
    assert not run.reason and [(*w.counts, w.steps) for w in seen] == [(3, 6, 2)]
    home = study.out / 'sets' / 'all-0'
    real, painted = PairFolder(home / 'real'), PairFolder(home / 'own-change-1')
    assert len(painted) == 6
    for i in range(6):
        before, after = real[i % 3], painted[i]
        new = (after['mask'][0] == 1) & (before['mask'][0] == 0)
        # clouds are missing in both
        same = after['image'].nan_to_num(-1) == before['image'].nan_to_num(-1)
        assert bool(same[0].all()) and bool(same[1][:, ~new].all())
        assert bool(new.any()) and not bool(same[1][:, new].all())


def test_change_needs_two_dates_before_anything_is_learned(
    pair_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = calls_of(monkeypatch, synthetic, 'learn_stage')
    study = read_study(
        tmp_path,
        pair_folder,
        arms={'painted': arm(source='change')},
        generators={'own': tiny_recipe({})},
        seeds=1,
    )
    engine, seen = watched(study)
    (run,) = engine.run([c for c in study.cells() if c.arm == 'painted'])
    assert 'Change is painted between 2 dates with 2 classes' in run.reason
    assert 'the data of the study have 1 date(s)' in run.reason
    assert not learned and not seen


def test_each_size_reads_masks_of_its_own(pair_folder: Path, tmp_path: Path) -> None:
    # pairs that the user brings serve all sizes, and nothing is written beside them
    study = read_study(
        tmp_path,
        pair_folder,
        data=pairs_data(pair_folder, 4),
        arms={'relabel': arm(relabel=True, ratios=[0.5])},
        generators={'own': {'pairs': str(pair_folder)}},
        sizes=[8, 16],
        seeds=1,
    )
    before = names(pair_folder.parent)
    engine, _ = watched(study)
    # these are real pairs, of its test set too
    leaking = engine.run([c for c in study.cells() if c.arm == 'relabel'])
    assert len(leaking) == 2 and names(pair_folder.parent) == before
    read = [
        PairFolder(study.out / 'sets' / unit / 'own-joint-read-by-net-0-2')
        for unit in ('8-0', '16-0')
    ]
    assert any(not read[0][i]['mask'].equal(read[1][i]['mask']) for i in range(16))


@pytest.mark.parametrize('budget, steps', [('updates', 4), ('epochs', 10)])
def test_budget(world: Path, tmp_path: Path, budget: str, steps: int) -> None:
    study = read_study(
        tmp_path,
        world / 'rich',
        arms={'mix': arm(ratios=[1.5])},
        generators={'own': {'pairs': str(world / 'right')}},
        budget=budget,
        updates=4,
        seeds=1,
    )
    engine, seen = watched(study)
    runs = engine.run(study.cells())
    assert [watch.steps for watch in seen] == [4, steps] == [r.updates for r in runs]
    assert ('equal epochs' in write_study(study, runs).read_text()) == (steps > 4)


def test_ratios_are_rounded_as_in_the_mix(world: Path, tmp_path: Path) -> None:
    arms = {'mix': arm(ratios=[0.29])}
    own = {'own': {'pairs': str(world / 'right')}}
    study = read_study(tmp_path, world / 'rich', arms=arms, generators=own)
    engine = Engine(study)
    assert engine.sets.count(cell(study, 'mix', size=100)) == 29


def test_leaks_are_looked_for_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = shutil.copytree(world / 'right', tmp_path / 'pairs')
    write_seen_samples(pairs, fingerprints(open_data(world / 'rich').test_dataset))
    hashed = calls_of(monkeypatch, synthetic, 'hash_held_out')
    study = read_study(
        tmp_path,
        world / 'rich',
        arms={'mix': arm(ratios=[1, 2]), 'only': arm(use='only')},
        generators={'own': {'pairs': str(pairs)}},
    )
    runs = Engine(study).run(study.cells())
    assert len(hashed) == 1 and len(runs) == 8
    said = '8 test samples of PairFolderDataModule are among those that the generator'
    assert [run.reason.startswith(said) for run in runs] == [False] * 2 + [True] * 6


class TestLearned:
    """Generators that the study learns by itself."""

    @pytest.fixture
    def study(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> Study:
        recipe = tiny_recipe(tiny_settings)
        return read_study(
            tmp_path,
            pair_folder,
            data=pairs_data(pair_folder, 4),
            arms={'mix': arm(ratios=[0.5])},
            generators={'own': recipe},
            sizes=[4, 8],
        )

    @staticmethod
    def learned(study: Study) -> list[str]:
        """Every generator in the folder of results."""
        return sorted(
            path.parent.parent.relative_to(study.out / 'sets').as_posix()
            for path in study.out.glob('sets/*/*/diffusion/config.json')
        )

    def test_sees_the_same_labels_only(self, study: Study) -> None:
        study = replace(study, subsets=2)
        cells = [cell(study, 'mix', seed, size=8) for seed in (0, 1)]
        runs = Engine(study).run(cells)
        assert not any(run.reason for run in runs)
        assert self.learned(study) == ['8-0/own', '8-1/own']
        found = []
        for number in (0, 1):
            subset = make_object(subset_config(study.data, 8, number), NonGeoDataModule)
            subset.setup('fit')
            wanted = {*fingerprints(subset.train_dataset)}
            home = study.out / 'sets' / f'8-{number}'
            assert read_seen_samples(home / 'own' / 'diffusion') == wanted
            assert read_seen_samples(home / 'own-joint') == wanted
            assert len(wanted) == 8
            found.append(wanted)
        assert found[0] != found[1]
        assert 'saw all labels' not in write_study(study, runs).read_text()

    def test_sees_all_labels_where_asked(self, study: Study) -> None:
        study = replace(study, protocol='all_labels', seeds=(0,))
        runs = Engine(study).run([c for c in study.cells() if c.arm == 'mix'])
        assert not any(run.reason for run in runs) and len(runs) == 2
        assert self.learned(study) == ['pool-0/own']
        pool = study.out / 'sets' / 'pool-0'
        assert len(read_seen_samples(pool / 'own' / 'diffusion')) == 16
        # as many as the largest size needs
        assert len(PairFolder(pool / 'own-joint')) == 4
        page = write_study(study, runs).read_text()
        assert '**Generators saw all labels of the training set' in page

    def test_one_that_cannot_be_learned_is_a_row(
        self, study: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = calls_of(monkeypatch, synthetic, 'learn_stage')
        recipe = replace(study.generators['own'], preset='nothing')
        study = replace(study, generators={'own': recipe}, sizes=(4,))
        runs = Engine(study).run(study.cells())
        # it is the generator of both seeds
        assert [('nothing' in run.reason) for run in runs] == [False, False, True, True]
        assert len(tried) == 1
