# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import hashlib
import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from tests.datamodules.torchgeo_fakes import (
    CodedDataModule,
    write_coded_pairs,
    write_coded_splits,
)
from tests.processes import die_at_rename, in_child
from torchgeo_specdm import PairFolder, SampleSpec, SyntheticAugmentedDataModule
from torchgeo_specdm.datasets.fingerprint import write_seen_samples
from torchgeo_specdm.synthesis.choosing import TRUST, balance, choose, read_scores
from torchgeo_specdm.synthesis.filter_summary import summary_text
from torchgeo_specdm.synthesis.filtering import filter_pairs
from torchgeo_specdm.synthesis.relabel import relabel
from torchgeo_specdm.synthesis.writing import PairWriter

COUNT, SIZE, IGNORED = 12, 8, 255
SPEC = SampleSpec(('B02', 'B03'), ('a', 'b', 'c'), ignore_index=IGNORED)
KEYS = ('agreement', 'edges', 'spectrum', 'distance', 'feature_distance')
#: Samples that are not to be trusted, and why.
BAD = {2: {'agreement': 0.1}, 5: {'edges': 0.2, 'spectrum': 0.1}, 7: {'distance': 0.0}}
GOOD = [i for i in range(COUNT) if i not in BAD]


def score(number: int, **values: Any) -> dict[str, Any]:
    given = dict.fromkeys(KEYS[:3], 0.9) | dict.fromkeys(KEYS[3:], 2.0)
    row = {'index': number, 'id': f'{number:06d}', 'nearest': '000031'}
    return row | given | values


def real_rows(count: int = 60) -> list[dict[str, Any]]:
    """Real scores from 0.5 to 0.9, and distances from 1 to 3."""
    steps = np.linspace(0, 1, count)
    return [
        score(i, **dict.fromkeys(KEYS[:3], 0.5 + 0.4 * x))
        | dict.fromkeys(KEYS[3:], 1 + 2 * x)
        for i, x in enumerate(steps.tolist())
    ]


def write_scores(
    root: Path, synthetic: list[dict[str, Any]], real: list[dict[str, Any]]
) -> Path:
    root.mkdir(exist_ok=True)
    for name, rows in (('synthetic', synthetic), ('real', real)):
        text = ''.join(json.dumps(row) + '\n' for row in rows)
        (root / f'{name}.jsonl').write_text(text)
    return root


def write_source(root: Path, spec: SampleSpec = SPEC, count: int = COUNT) -> Path:
    random = np.random.default_rng(0)
    writer = PairWriter(root, spec, {'synthetic': True}, {'seed': 3})
    dates = () if spec.dates == 1 else (spec.dates,)
    for i in range(count):
        image = random.integers(0, 5000, (*dates, 2, SIZE, SIZE))
        mask = random.integers(0, 3, (SIZE, SIZE))
        if spec.ignore_index is not None:
            mask[0] = IGNORED
        writer.write(f'{i:06d}', image, mask, {'index': i, 'seed': 3})
    writer.finish('A test.')
    write_seen_samples(root, ['00ff', 'aa11'])
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / 'source')


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    rows = [score(i, **BAD.get(i, {})) for i in range(COUNT)]
    # the order of the lines says nothing
    return write_scores(tmp_path / 'scores', rows[::-1], real_rows())


def digests(*roots: Path) -> dict[str, str]:
    return {
        f'{number}/{path.relative_to(root)}': hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for number, root in enumerate(roots)
        for path in root.rglob('*')
        if path.is_file()
    }


def manifest(root: Path) -> list[dict[str, Any]]:
    lines = (root / 'manifest.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def names(numbers: list[int]) -> list[str]:
    return [f'{number:06d}' for number in numbers]


class TestChoose:
    def test_bad_samples_go_and_good_ones_stay(self) -> None:
        rows = [score(i, **BAD.get(i, {})) for i in range(COUNT)]
        decision = choose(rows, real_rows())
        assert [i for i, kept in enumerate(decision.accepted) if kept] == GOOD
        assert decision.reasons[5] == ['edges below 0.54', 'spectrum below 0.54']
        assert decision.reasons[7] == ['distance below 1.02']
        assert decision.reasons[0] == []
        assert decision.thresholds['agreement'] == pytest.approx(0.54)
        assert decision.real == pytest.approx(0.9)

    def test_real_samples_raise_no_alarm(self) -> None:
        random = np.random.default_rng(0)
        drawn = [
            [
                score(i, **dict(zip(KEYS, values, strict=True)))
                for i, values in enumerate(random.beta(5, 2, (2000, 5)).tolist())
            ]
            for _ in range(2)
        ]
        decision = choose(*drawn)
        # three scores at 0.9 and two at 0.99
        wanted = 0.9**3 * 0.99**2
        assert np.mean(decision.accepted) == pytest.approx(wanted, abs=0.04)
        assert decision.real == pytest.approx(wanted, abs=0.04)

    @pytest.mark.parametrize('key', KEYS)
    def test_thresholds_come_from_real_samples(self, key: str) -> None:
        rows = [score(0)]
        assert choose(rows, real_rows()).accepted == [True]
        better = [row | {key: row[key] + 2} for row in real_rows()]
        assert choose(rows, better).accepted == [False]

    def test_a_value_at_the_threshold_passes(self) -> None:
        real = [score(i) for i in range(20)]
        assert choose([score(0)], real).accepted == [True]
        assert choose([score(0, edges=0.9 - 1e-9)], real).accepted == [False]

    @pytest.mark.parametrize('key', KEYS)
    def test_null_passes(self, key: str) -> None:
        rows = [score(0, **{key: None}), score(1)]
        assert choose(rows, real_rows()).accepted == [True, True]
        # no reason to refuse either: nothing depends on what nobody has
        real = [row | {key: None} for row in real_rows()]
        assert key not in choose(rows[:1], real).thresholds

    def test_none_does_not_look(self) -> None:
        rows = [score(i, **BAD.get(i, {})) for i in range(COUNT)]
        decision = choose(rows, real_rows(), quantile=None)
        assert [i for i, kept in enumerate(decision.accepted) if not kept] == [7]
        decision = choose(rows, real_rows(), copies=None)
        assert [i for i, kept in enumerate(decision.accepted) if not kept] == [2, 5]

    def test_few_real_samples(self) -> None:
        assert choose([score(0)], real_rows(20)).accepted == [True]
        with pytest.raises(ValueError, match="19 real samples have the score 'agree"):
            choose([score(0)], real_rows(19))
        real = real_rows()
        for row in real[19:]:
            row['edges'] = None
        with pytest.raises(ValueError, match="19 real samples have the score 'edges'"):
            choose([score(0)], real)

    @pytest.mark.parametrize('name', ['quantile', 'copies'])
    @pytest.mark.parametrize('value', [-0.1, 1.0])
    def test_out_of_range(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf'{name}={value} must be 0 or more'):
            choose([score(0)], real_rows(), **{name: value})


def imbalance(areas: Any) -> float:
    """Standard deviation of the class areas over their mean."""
    total = areas.sum(0)[areas.sum(0) > 0]
    return float(total.std() / total.mean())


class TestBalance:
    def test_nearer_to_equal_than_any_random_choice(self) -> None:
        random = np.random.default_rng(0)
        shares = random.dirichlet([8, 4, 2, 0.5, 0.1], 300)
        # a class that no sample has
        shares = np.insert(shares, 2, 0, axis=1)
        chosen = balance(shares, 40)
        assert len({*chosen.tolist()}) == 40 and (np.diff(chosen) > 0).all()
        others = [imbalance(shares[random.choice(300, 40, False)]) for _ in range(1000)]
        assert imbalance(shares[chosen]) < 0.8 * min(others)

    def test_one_of_each_class(self) -> None:
        shares = np.eye(4)[[0, 0, 0, 2, 0, 1, 1, 2, 0]]
        assert balance(shares, 3).tolist() == [0, 3, 5]
        assert balance(shares, 6).tolist() == [0, 1, 3, 5, 6, 7]
        assert balance(shares, 9).tolist() == [*range(9)]

    def test_samples_without_labels_come_last(self) -> None:
        shares = np.array([[0, 0], [1, 0], [0, 0], [1, 0]])
        assert balance(shares, 2).tolist() == [1, 3]
        assert balance(shares, 3).tolist() == [0, 1, 3]

    def test_scale_and_repetition(self) -> None:
        shares = np.random.default_rng(1).integers(0, 4096, (50, 4))
        chosen = balance(shares, 10)
        assert (balance(shares * 2, 10) == chosen).all()
        assert (balance(shares, 10) == chosen).all()

    def test_is_quick(self) -> None:
        shares = np.random.default_rng(0).dirichlet([0.3] * 14, 10_000)
        start = time.process_time()
        assert len(balance(shares, 1000)) == 1000
        assert time.process_time() - start < 5

    @pytest.mark.parametrize('count', [0, 4])
    def test_out_of_range(self, count: int) -> None:
        with pytest.raises(ValueError, match=f'balance={count} must be 1 or more'):
            balance(np.ones((3, 2)), count)


class TestFolder:
    @pytest.mark.parametrize('dates', [1, 2])
    def test_accepted_samples_and_a_control(
        self, tmp_path: Path, scores: Path, dates: int
    ) -> None:
        spec = SampleSpec.from_dict(SPEC.to_dict() | {'dates': dates})
        source = write_source(tmp_path / 'source', spec)
        summary = filter_pairs(source, tmp_path / 'out', scores)
        before, after = PairFolder(source), PairFolder(tmp_path / 'out')
        control = PairFolder(tmp_path / 'out-random')
        assert after.ids == names(GOOD) and after.spec == before.spec
        assert len(control) == len(after) and control.ids != after.ids
        for found in (after, control):
            assert len([*found.root.rglob('*.tif')]) == len(GOOD) * (dates + 1)
            assert (found.root / 'training_samples.txt').read_text() == '00ff\naa11\n'
            assert found.provenance['filtered'] and found.provenance['synthetic']
            assert found.provenance['origin'] == {'seed': 3}
            for path in (found.root / 'images').iterdir():
                wanted = source / 'images' / path.name
                assert path.read_bytes() == wanted.read_bytes()
            for position, name in enumerate(found.ids):
                mask = before[before.ids.index(name)]['mask']
                assert torch.equal(found[position]['mask'], mask)
        assert summary.control == control.root

    def test_manifest_documents_every_sample(self, source: Path, scores: Path) -> None:
        filter_pairs(source, source.parent / 'out', scores)
        rows = manifest(source.parent / 'out')
        assert [row['index'] for row in rows] == [*range(COUNT)]
        for i, row in enumerate(rows):
            wanted = score(i, **BAD.get(i, {}))
            assert row['scores'] == {key: wanted[key] for key in (*KEYS, 'nearest')}
            assert row['accepted'] == (i in GOOD) and row['seed'] == 3
            assert len(row['files']) == (2 if i in GOOD else 0)
        assert rows[5]['reason'] == 'edges below 0.54; spectrum below 0.54'
        rows = manifest(source.parent / 'out-random')
        reasons = {row['reason'] for row in rows if not row['accepted']}
        assert reasons == {'dropped at random'}
        assert all('scores' in row for row in rows)

    def test_summary(self, source: Path, scores: Path) -> None:
        out = source.parent / 'out'
        summary = filter_pairs(source, out, scores)
        assert (summary.accepted, summary.total) == (9, 12)
        assert summary.reasons == {
            'agreement below 0.54': 1,
            'edges below 0.54': 1,
            'spectrum below 0.54': 1,
            'distance below 1.02': 1,
        }
        masks = torch.stack([sample['mask'] for sample in PairFolder(source)])
        for label, name in enumerate(SPEC.classes):
            area = (masks == label).sum((1, 2))
            share = float(area[GOOD].sum() / area.sum())
            assert summary.classes[name] == pytest.approx(share)
        text = summary_text(summary)
        assert '9 of 12 samples kept (75.0%)\n' in text
        assert 'real samples that would pass: 90.0%' in text
        assert 'distance below 1.02: 1' in text
        assert text in (out / 'README.md').read_text()
        assert '9 of the 12' in (summary.control / 'README.md').read_text()

    @pytest.mark.parametrize(
        'by, remedy',
        [
            (TRUST, '--by agreement spectrum leaves it out'),
            (['edges'], 'a lower --quantile asks less'),
        ],
    )
    def test_hint_where_hardly_anything_passes(
        self, source: Path, tmp_path: Path, by: Sequence[str], remedy: str
    ) -> None:
        # softer than real ones, as generators of little training are
        blurred = [score(i, edges=0.1 if i else 0.9) for i in range(COUNT)]
        scores = write_scores(tmp_path / 'scores', blurred, real_rows())
        summary = filter_pairs(source, tmp_path / 'out', scores, by=by)
        assert summary.accepted == 1
        text = summary_text(summary)
        assert '11 of 12 fail by edges, in which real samples are better' in text
        assert text.endswith(remedy)
        # few for another reason
        good = [score(i) for i in range(COUNT)]
        scores = write_scores(tmp_path / 'all', good, real_rows())
        few = filter_pairs(source, tmp_path / 'few', scores, balance=1)
        assert few.accepted == 1 and 'fail by' not in summary_text(few)

    def test_class_that_is_not_there(self, tmp_path: Path, scores: Path) -> None:
        spec = SampleSpec(SPEC.bands, (*SPEC.classes, 'd'), ignore_index=IGNORED)
        source = write_source(tmp_path / 'source', spec)
        summary = filter_pairs(source, tmp_path / 'out', scores)
        assert summary.classes['d'] is None
        assert 'd none there' in summary_text(summary)

    def test_balance(self, source: Path, scores: Path) -> None:
        out = source.parent / 'out'
        summary = filter_pairs(source, out, scores, balance=4)
        masks = torch.stack([sample['mask'] for sample in PairFolder(source)])
        areas = np.array([np.bincount(m[m < 3], minlength=3) for m in masks.numpy()])
        chosen = np.array(GOOD)[balance(areas[GOOD], 4)]
        assert PairFolder(out).ids == names(chosen.tolist())
        assert len(PairFolder(summary.control)) == 4
        assert summary.reasons['not needed for balance'] == 5
        assert summary.accepted == 4
        rows = manifest(out)
        assert sum(r.get('reason') == 'not needed for balance' for r in rows) == 5

    def test_seed_moves_the_control_only(self, source: Path, scores: Path) -> None:
        found = []
        for seed in range(4):
            out = source.parent / f'out{seed}'
            control = filter_pairs(source, out, scores, balance=5, seed=seed).control
            found.append((PairFolder(out).ids, PairFolder(control).ids))
        assert len({tuple(ids) for ids, _ in found}) == 1
        assert len({tuple(ids) for _, ids in found}) > 1

    def test_samples_rejected_before_stay_so(self, tmp_path: Path) -> None:
        source = tmp_path / 'source'
        writer = PairWriter(source, SPEC, {}, {})
        for i in range(4):
            image = np.full((2, SIZE, SIZE), np.nan if i == 1 else i + 1.0)
            mask = np.zeros((SIZE, SIZE), int)
            writer.write(f'{i:06d}', image, mask, {'index': i})
        writer.finish('')
        rows = [score(0), score(2, agreement=0), score(3)]
        scores = write_scores(tmp_path / 'scores', rows, real_rows())
        summary = filter_pairs(source, tmp_path / 'out', scores)
        assert (summary.accepted, summary.total) == (2, 3)
        for root in (tmp_path / 'out', summary.control):
            found = manifest(root)
            assert [row['index'] for row in found] == [0, 1, 2, 3]
            assert found[1]['reason'] == 'non-finite pixels'
            assert len(PairFolder(root)) == 2

    def test_masks_of_a_network_say_so(self, source: Path, scores: Path) -> None:
        read = relabel_with(source, source.parent / 'read', lambda name: 0)
        filter_pairs(read, source.parent / 'out', scores)
        with rasterio.open(source.parent / 'out' / 'masks' / '000000.tif') as mask:
            assert mask.tags()['RELABELLED'] == mask.tags()['SYNTHETIC'] == 'YES'

    def test_mixing(self, tmp_path: Path) -> None:
        real = CodedDataModule(write_coded_splits(tmp_path / 'real'))
        synthetic = write_coded_pairs(tmp_path / 'synthetic', 2000, 20)
        rows = [
            score(i, agreement=0.1 if i < 8 else 0.9) | {'id': f'{i:04d}'}
            for i in range(20)
        ]
        scores = write_scores(tmp_path / 'scores', rows, real_rows())
        summary = filter_pairs(synthetic, tmp_path / 'out', scores)
        seen: dict[Path, set[int]] = {}
        for root in (tmp_path / 'out', summary.control):
            datamodule = SyntheticAugmentedDataModule(real, root, ratio=1.5)
            datamodule.setup('fit')
            assert datamodule.counts == (8, 12)
            seen[root] = {
                int(number)
                for batch in datamodule.train_dataloader()
                for number in batch['image'][:, 1, 0, 0]
            }
        numbers = {n for n in seen[tmp_path / 'out'] if n >= 2000}
        assert numbers == {*range(2008, 2020)}
        assert min(n for n in seen[summary.control] if n >= 2000) < 2008


def relabel_with(source: Path, out: Path, value: Callable[[Tensor], Any]) -> Path:
    """Readings that a function of the image says, (B, C, H, W) to classes."""

    def predict(images: Tensor) -> Tensor:
        labels = torch.as_tensor(value(images)).expand(len(images), SIZE, SIZE)
        return 9 * torch.nn.functional.one_hot(labels.long(), 3).movedim(3, 1).float()

    relabel(source, out, predict, torch.tensor(0.0), torch.tensor(1.0), 'test')
    return out


class TestPixels:
    def run(self, source: Path, scores: Path, **settings: Any) -> Any:
        read = source.parent / 'read'
        relabel_with(source, read, lambda images: images[:, 0] % 3)
        return filter_pairs(
            source, source.parent / 'out', scores, readings=read, **settings
        )

    def test_exactly_the_differing_pixels(self, source: Path, scores: Path) -> None:
        summary = self.run(source, scores)
        # neither agreement nor edges leave samples out, copies do
        kept = [i for i in range(COUNT) if i != 7]
        out = PairFolder(source.parent / 'out')
        assert out.ids == names(kept)
        before, total = PairFolder(source), 0
        for position, number in enumerate(kept):
            mask, image = before[number]['mask'], before[number]['image']
            wanted = mask.where(mask == image[0] % 3, IGNORED)
            assert 0 < int((wanted != IGNORED).sum()) < int((mask != IGNORED).sum())
            assert torch.equal(out[position]['mask'], wanted)
            assert torch.equal(out[position]['image'], image)
            total += int((wanted == 1).sum())
        there = sum(int((sample['mask'] == 1).sum()) for sample in before)
        assert summary.classes['b'] == pytest.approx(total / there)
        assert summary.reasons == {'distance below 1.02': 1}

    def test_control_ignores_as_many_elsewhere(
        self, source: Path, scores: Path
    ) -> None:
        control = PairFolder(self.run(source, scores).control)
        before, differ = PairFolder(source), 0
        for sample, name in zip(control, control.ids, strict=True):
            own = before[int(name)]
            mask, read = own['mask'], own['image'][0] % 3
            doubtful = (mask != read) & (mask != IGNORED)
            ignored = (sample['mask'] == IGNORED) & (mask != IGNORED)
            assert int(ignored.sum()) == int(doubtful.sum())
            assert torch.equal(sample['mask'], mask.where(~ignored, IGNORED))
            differ += int(not torch.equal(ignored, doubtful))
        assert differ > len(control) / 2

    def test_nothing_changes_where_all_agree(self, source: Path, scores: Path) -> None:
        copy = write_source(source.parent / 'copy')
        out = source.parent / 'out'
        filter_pairs(source, out, scores, readings=copy, copies=None)
        for one, other in zip(*map(PairFolder, (out, source)), strict=True):
            assert torch.equal(one['mask'], other['mask'])

    def test_no_label_left(self, tmp_path: Path) -> None:
        source = tmp_path / 'source'
        writer = PairWriter(source, SPEC, {}, {})
        for i in range(3):
            image = np.full((2, SIZE, SIZE), i)
            mask = np.full((SIZE, SIZE), i and 2)
            writer.write(f'{i:06d}', image, mask, {'index': i})
        writer.finish('')
        rows = [score(i) for i in range(3)]
        scores = write_scores(tmp_path / 'scores', rows, real_rows())
        summary = self.run(source, scores)
        # of classes 0, 2, 2 were read 0, 1, 2
        assert PairFolder(tmp_path / 'out').ids == names([0, 2])
        assert summary.reasons == {'no labels left': 1}

    def test_readings_that_do_not_fit(self, tmp_path: Path, scores: Path) -> None:
        source = write_source(tmp_path / 'source')
        out = tmp_path / 'out'
        few = write_source(tmp_path / 'few', count=4)
        with pytest.raises(ValueError, match='lacks 8 samples of'):
            filter_pairs(source, out, scores, readings=few)
        other = write_source(
            tmp_path / 'other', SampleSpec(SPEC.bands, ('x', 'y', 'z'))
        )
        with pytest.raises(ValueError, match="'x', 'y', 'z'"):
            filter_pairs(source, out, scores, readings=other)
        with pytest.raises(ValueError, match='has no ignore index to mark them with'):
            filter_pairs(other, out, scores, readings=other)
        stranger = tmp_path / 'stranger'
        writer = PairWriter(stranger, SPEC, {}, {})
        for i in range(COUNT):
            image, mask = np.full((2, SIZE, SIZE), i), np.zeros((SIZE, SIZE), int)
            writer.write(f'{i:06d}', image, mask, {'index': i})
        with pytest.raises(ValueError, match='was read in another image'):
            filter_pairs(source, out, scores, readings=stranger)
        assert not out.exists()


class TestInterruption:
    # in the first folder, between both, in the second one, and in the cards
    @pytest.mark.parametrize('renames', [2, 3, 7, 22, 23, 41, 44])
    def test_killed_run_is_finished_by_the_same_call(
        self, source: Path, scores: Path, renames: int
    ) -> None:
        def run() -> dict[str, str]:
            out = source.parent / 'out'
            summary = filter_pairs(source, out, scores)
            return digests(out, summary.control)

        wanted = run()
        for root in ('out', 'out-random'):
            (source.parent / root).rename(source.parent / f'whole-{root}')

        def die() -> None:
            die_at_rename(renames)
            run()

        assert in_child(die) == -signal.SIGKILL
        assert run() == wanted

    def test_finished_run_stays(self, source: Path, scores: Path) -> None:
        out = source.parent / 'out'
        control = filter_pairs(source, out, scores).control
        before = digests(out, control)
        path = out / 'images' / '000003.tif'
        written = path.stat().st_mtime_ns
        (out / 'masks' / '000004.tif').unlink()
        filter_pairs(source, out, scores)
        assert digests(out, control) == before
        assert path.stat().st_mtime_ns == written

    @pytest.mark.parametrize(
        'settings', [{'quantile': 0.2}, {'balance': 9}, {'seed': 1}, {'copies': None}]
    )
    def test_other_settings_are_refused(
        self, source: Path, scores: Path, settings: dict[str, Any]
    ) -> None:
        out = source.parent / 'out'
        control = filter_pairs(source, out, scores).control
        before = digests(out, control)
        with pytest.raises(FileExistsError, match='begun with other settings'):
            filter_pairs(source, out, scores, **settings)
        assert digests(out, control) == before

    def test_other_scores_are_refused(self, source: Path, scores: Path) -> None:
        out = source.parent / 'out'
        filter_pairs(source, out, scores)
        rows = [score(i) for i in range(COUNT)]
        write_scores(scores, rows, real_rows())
        with pytest.raises(FileExistsError, match='chosen: '):
            filter_pairs(source, out, scores)

    def test_taken_folders(self, source: Path, scores: Path) -> None:
        before = digests(source)
        with pytest.raises(FileExistsError, match='begun with other settings'):
            filter_pairs(source, source, scores)
        taken = source.parent / 'out-random'
        taken.mkdir()
        (taken / 'notes.txt').write_text('mine')
        with pytest.raises(FileExistsError, match='out-random is not empty'):
            filter_pairs(source, source.parent / 'out', scores)
        assert not [*(source.parent / 'out').rglob('*.tif')]
        assert digests(source) == before


class TestScores:
    @pytest.mark.parametrize(
        ('line', 'message'),
        [
            ('{"id": "a"', 'line 2'),
            ('[]', 'line 2'),
            ('', 'line 2'),
            (json.dumps(score(1, edges=float('nan'))), 'NaN.*finite number or null'),
            (json.dumps(score(1, edges='0.5')), 'finite number or null'),
            (json.dumps({'id': 'a', 'agreement': 1}), 'with id and agreement, edges'),
        ],
    )
    def test_broken_line(self, tmp_path: Path, line: str, message: str) -> None:
        path = tmp_path / 'real.jsonl'
        path.write_text(f'{json.dumps(score(0))}\n{line}\n')
        with pytest.raises(ValueError, match=message):
            read_scores(path)

    def test_of_another_folder(self, source: Path, scores: Path) -> None:
        rows = [score(i) for i in range(1, COUNT + 1)] + [score(3)]
        write_scores(scores, rows, real_rows())
        message = r"lacks 1 .*\['000000'\].*1 that are not.*\['000012'\].* and 1 twice"
        with pytest.raises(ValueError, match=message):
            filter_pairs(source, source.parent / 'out', scores)

    def test_missing(self, source: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r'synthetic\.jsonl does not exist'):
            filter_pairs(source, source.parent / 'out', source.parent)

    def test_no_sample_passes(self, source: Path, scores: Path) -> None:
        rows = [score(i, agreement=0.1) for i in range(COUNT)]
        write_scores(scores, rows, real_rows())
        with pytest.raises(
            ValueError, match=r'0 of the 12 .*agreement below 0\.54: 12'
        ):
            filter_pairs(source, source.parent / 'out', scores)
        assert not (source.parent / 'out').exists()

    def test_options(self, source: Path, scores: Path) -> None:
        out = source.parent / 'out'
        with pytest.raises(ValueError, match='seed=-1 must be 0 or more'):
            filter_pairs(source, out, scores, seed=-1)
        with pytest.raises(
            ValueError, match='balance=10 must be 1 or more and at most 9'
        ):
            filter_pairs(source, out, scores, balance=10)
        assert not out.exists()
