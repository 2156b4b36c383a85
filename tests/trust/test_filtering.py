# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from tests.data.pairs import digests
from tests.datamodules.torchgeo_fakes import (
    CodedDataModule,
    write_coded_pairs,
    write_coded_splits,
)
from tests.processes import die_at_rename, in_child
from tests.trust.scores import BAD, COUNT, GOOD, KEYS, real_rows, score, write_scores
from torchgeo_specdm import PairFolder, SampleSpec, SyntheticAugmentedDataModule
from torchgeo_specdm.pairs.fingerprint import write_seen_samples
from torchgeo_specdm.pairs.manifest import read_manifest
from torchgeo_specdm.pairs.writer import PairWriter
from torchgeo_specdm.trust.choosing import TRUST, balance
from torchgeo_specdm.trust.filter_summary import summary_text
from torchgeo_specdm.trust.filtering import filter_pairs
from torchgeo_specdm.trust.relabel import relabel

SIZE, IGNORED = 8, 255
SPEC = SampleSpec(('B02', 'B03'), ('a', 'b', 'c'), ignore_index=IGNORED)


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


def write_plain(root: Path, samples: Sequence[tuple[float, int]]) -> Path:
    """Samples of one value and one class each."""
    writer = PairWriter(root, SPEC, {}, {})
    for i, (value, label) in enumerate(samples):
        image, mask = np.full((2, SIZE, SIZE), value), np.full((SIZE, SIZE), label)
        writer.write(f'{i:06d}', image, mask, {'index': i})
    writer.finish('')
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / 'source')


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    rows = [score(i, **BAD.get(i, {})) for i in range(COUNT)]
    # the order of the lines says nothing
    return write_scores(tmp_path / 'scores', rows[::-1], real_rows())


def names(numbers: list[int]) -> list[str]:
    return [f'{number:06d}' for number in numbers]


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
        rows = read_manifest(source.parent / 'out')
        assert [row['index'] for row in rows] == [*range(COUNT)]
        for i, row in enumerate(rows):
            wanted = score(i, **BAD.get(i, {}))
            assert row['scores'] == {key: wanted[key] for key in (*KEYS, 'nearest')}
            assert row['accepted'] == (i in GOOD) and row['seed'] == 3
            assert len(row['files']) == (2 if i in GOOD else 0)
        assert rows[5]['reason'] == 'edges below 0.54; spectrum below 0.54'
        rows = read_manifest(source.parent / 'out-random')
        reasons = {row['reason'] for row in rows if not row['accepted']}
        assert reasons == {'dropped at random'}
        assert all('scores' in row for row in rows)

    def test_changed_files(self, source: Path, scores: Path) -> None:
        (source / 'images' / '000004.tif').write_bytes(b'')
        with pytest.raises(ValueError, match=r'1 of 24 files .*000004\.tif'):
            filter_pairs(source, source.parent / 'out', scores)

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
        rows = read_manifest(out)
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
        samples = [(1.0, 0), (np.nan, 0), (3.0, 0), (4.0, 0)]
        source = write_plain(tmp_path / 'source', samples)
        rows = [score(0), score(2, agreement=0), score(3)]
        scores = write_scores(tmp_path / 'scores', rows, real_rows())
        summary = filter_pairs(source, tmp_path / 'out', scores)
        assert (summary.accepted, summary.total) == (2, 3)
        for root in (tmp_path / 'out', summary.control):
            found = read_manifest(root)
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
        source = write_plain(tmp_path / 'source', [(0, 0), (1, 2), (2, 2)])
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
        spec = SampleSpec(SPEC.bands, ('x', 'y', 'z'))
        other = write_source(tmp_path / 'other', spec)
        with pytest.raises(ValueError, match="'x', 'y', 'z'"):
            filter_pairs(source, out, scores, readings=other)
        with pytest.raises(
            ValueError, match='has no ignore index to mark doubtful pixels with'
        ):
            filter_pairs(other, out, scores, readings=other)
        samples = [(i, 0) for i in range(COUNT)]
        stranger = write_plain(tmp_path / 'stranger', samples)
        with pytest.raises(ValueError, match='was read in another image'):
            filter_pairs(source, out, scores, readings=stranger)
        assert not out.exists()


class TestInterruption:
    # in the first folder, between both, in the second one, and in the cards
    @pytest.mark.parametrize('renames', [2, 3, 7, 22, 23, 41, 42])
    def test_killed_run_is_finished_by_the_same_call(
        self, source: Path, scores: Path, renames: int
    ) -> None:
        def run() -> list[dict[str, str]]:
            out = source.parent / 'out'
            summary = filter_pairs(source, out, scores)
            return [digests(out), digests(summary.control)]

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
        before = digests(out), digests(control)
        path = out / 'images' / '000003.tif'
        written = path.stat().st_mtime_ns
        (out / 'masks' / '000004.tif').unlink()
        filter_pairs(source, out, scores)
        assert (digests(out), digests(control)) == before
        assert path.stat().st_mtime_ns == written

    @pytest.mark.parametrize(
        'settings', [{'quantile': 0.2}, {'balance': 9}, {'seed': 1}, {'copies': None}]
    )
    def test_other_settings_are_refused(
        self, source: Path, scores: Path, settings: dict[str, Any]
    ) -> None:
        out = source.parent / 'out'
        control = filter_pairs(source, out, scores).control
        before = digests(out), digests(control)
        with pytest.raises(FileExistsError, match='begun with other settings'):
            filter_pairs(source, out, scores, **settings)
        assert (digests(out), digests(control)) == before

    def test_changed_samples_are_refused(self, source: Path, scores: Path) -> None:
        out = source.parent / 'out'
        filter_pairs(source, out, scores)
        with (source / 'masks' / '000000.tif').open('ab') as mask:
            mask.write(b' ')
        # the edit is meant
        (source / 'manifest.jsonl').unlink()
        with pytest.raises(FileExistsError, match='samples: '):
            filter_pairs(source, out, scores)

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
