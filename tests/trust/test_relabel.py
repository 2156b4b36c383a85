# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor, nn

from tests.conftest import PAIR_CLASSES, PAIR_SPECTRA, write_pair_folder
from tests.data.pairs import digests, make_pairs
from tests.processes import die_at_rename, in_child
from torchgeo_specdm import (
    MultispectralSegmentationTask,
    PairFolder,
    PairFolderDataModule,
    SampleSpec,
    SyntheticAugmentedDataModule,
)
from torchgeo_specdm.pairs.facts import fingerprints
from torchgeo_specdm.pairs.fingerprint import write_seen_samples
from torchgeo_specdm.pairs.manifest import read_manifest
from torchgeo_specdm.pairs.writer import PairWriter
from torchgeo_specdm.trust.relabel import relabel

COUNT, SIZE, IGNORED = 7, 8, 255
SPEC = SampleSpec(
    bands=('B02', 'B03', 'B04', 'B08', 'B11', 'B12'),
    classes=PAIR_CLASSES,
    ignore_index=IGNORED,
)
MEAN, STD = torch.full((6,), 1000.0), torch.full((6,), 500.0)


class Oracle(nn.Module):
    """Knows the spectrum of each class, whatever the light; counts what it reads."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        spectra = torch.from_numpy(PAIR_SPECTRA).float()
        self.register_buffer('directions', spectra / spectra.norm(dim=1, keepdim=True))
        self.sharpness = sharpness
        self.batches: list[int] = []
        # would change what is read, were it not for evaluation mode
        self.drop = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        images = images if images.ndim == 4 else images[:, 0]
        pixels = images * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1)
        pixels = pixels / pixels.norm(dim=1, keepdim=True)
        scores = torch.einsum('bchw,kc->bkhw', pixels, self.directions)
        return self.drop(self.sharpness * scores)


def write_source(root: Path, dates: int = 1, count: int = COUNT) -> Path:
    """What a generator might have written: right images, masks of its own."""
    random = np.random.default_rng(0)
    spec = SampleSpec.from_dict(SPEC.to_dict() | {'dates': dates})
    writer = PairWriter(root, spec, {'synthetic': True, 'codec': 'test'}, {'seed': 3})
    for i in range(count):
        light = random.uniform(0.5, 1.5, (dates, 1, SIZE, SIZE))
        image = PAIR_SPECTRA[truth(i)].transpose(2, 0, 1) * light
        mask = random.integers(0, len(PAIR_CLASSES), (SIZE, SIZE))
        mask[0] = IGNORED
        record = {'index': i, 'seed': 3, 'alignment': 0.5}
        writer.write(f'{i:06d}', image if dates > 1 else image[0], mask, record)
    writer.finish('A test.')
    write_seen_samples(root, ['00ff', 'aa11'])
    return root


def truth(number: int) -> Any:
    """The classes that the image of a sample shows, (H, W)."""
    random = np.random.default_rng([7, number])
    return random.integers(0, len(PAIR_CLASSES), (SIZE, SIZE))


def run(source: Path, out: Path, predict: Any = None, **settings: Any) -> Path:
    given: dict[str, Any] = {'by': 'oracle', 'batch_size': 3} | settings
    given = {'mean': MEAN, 'std': STD} | given
    relabel(source, out, Oracle() if predict is None else predict, **given)
    return out


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / 'source')


class TestFolder:
    @pytest.mark.parametrize('dates', [1, 2, 3])
    def test_perfect_network_reads_the_truth(self, tmp_path: Path, dates: int) -> None:
        source = write_source(tmp_path / 'source', dates)
        out = run(source, tmp_path / 'out')
        before, after = PairFolder(source), PairFolder(out)
        assert after.ids == before.ids and after.spec == before.spec
        for i in range(COUNT):
            assert torch.equal(after[i]['image'], before[i]['image'])
            labels = torch.from_numpy(truth(i)).reshape(before[i]['mask'].shape)
            assert torch.equal(after[i]['mask'], labels)
        for path in (source / 'images').iterdir():
            assert (out / 'images' / path.name).read_bytes() == path.read_bytes()
        assert len([*out.rglob('*.tif')]) == COUNT * (dates + 1)

    def test_says_what_it_is(self, source: Path, tmp_path: Path) -> None:
        out = run(source, tmp_path / 'out')
        provenance = PairFolder(out).provenance
        assert provenance['relabelled'] is True and provenance['synthetic'] is True
        assert provenance['relabelled_by'] == 'oracle' and provenance['codec'] == 'test'
        assert provenance['origin'] == {'seed': 3}
        assert provenance['relabelled_from'] == str(source)
        assert PairWriter(out, SPEC, {}, provenance['settings']).done() == {
            *range(COUNT)
        }
        for i, row in enumerate(read_manifest(out)):
            assert row['index'] == i and row['seed'] == 3 and row['accepted']
            # a score of the old mask says nothing of the new one
            assert 'alignment' not in row
        with rasterio.open(out / 'masks' / '000000.tif') as mask:
            tags = mask.tags()
        assert tags['RELABELLED'] == tags['SYNTHETIC'] == 'YES'
        card = (out / 'README.md').read_text()
        assert f'{COUNT} image patches of `{source}`' in card and '(oracle)' in card

    def test_rejected_samples_stay_out(self, source: Path, tmp_path: Path) -> None:
        lines = read_manifest(source)
        lines[2]['accepted'] = False
        text = ''.join(json.dumps(row) + '\n' for row in lines)
        (source / 'manifest.jsonl').write_text(text)
        out = run(source, tmp_path / 'out')
        assert len(PairFolder(out)) == COUNT - 1
        assert not (out / 'images' / '000002.tif').exists()

    def test_only_training_samples_of_a_folder_with_lists(self, tmp_path: Path) -> None:
        # test images must not end up in training data
        source = write_pair_folder(tmp_path / 'source')
        out = run(source, tmp_path / 'out')
        assert PairFolder(out).ids == sorted(PairFolder(source, 'train').ids)
        data = PairFolderDataModule(str(out), batch_size=2)
        data.setup('fit')

    def test_codes_become_positions(self, source: Path, tmp_path: Path) -> None:
        description = json.loads((source / 'dataset.json').read_text())
        description['codes'] = [10, 20, 30, 40]
        (source / 'dataset.json').write_text(json.dumps(description))
        for path in (source / 'masks').iterdir():
            with rasterio.open(path, 'r+') as mask:
                mask.write(np.full((1, SIZE, SIZE), 20, np.uint8))
        out = run(source, tmp_path / 'out')
        assert torch.equal(PairFolder(out)[1]['mask'], torch.from_numpy(truth(1)))

    def test_plain_folder_keeps_its_files(self, tmp_path: Path) -> None:
        # float64 and tags would not survive being written again
        source = make_pairs(tmp_path / 'source', dtype='float64', nodata=-1)

        def first(images: Tensor) -> Tensor:
            return torch.stack([images[:, 0] * 0 + k for k in (0, 2, 1)], 1)

        kwargs = {'mean': torch.tensor(0), 'std': torch.tensor(255)}
        out = run(source, tmp_path / 'out', first, **kwargs)
        for path in (source / 'images').iterdir():
            assert (out / 'images' / path.name).read_bytes() == path.read_bytes()
        assert PairFolder(out)[0]['mask'].unique().tolist() == [1]
        assert not (out / 'training_samples.txt').exists()


class TestNetwork:
    def test_mode_is_given_back(self, source: Path, tmp_path: Path) -> None:
        oracle = Oracle()
        oracle.drop.eval()
        run(source, tmp_path / 'out', oracle)
        assert oracle.training and not oracle.drop.training
        assert oracle.batches == [3, 3, 1]

    def test_task_and_its_statistics(self, source: Path, tmp_path: Path) -> None:
        torch.manual_seed(0)
        task = MultispectralSegmentationTask(in_channels=6, num_classes=4)
        out = run(source, tmp_path / 'out', task)
        images = torch.stack([PairFolder(source)[i]['image'] for i in range(3)])
        task.eval()
        with torch.no_grad():
            wanted = task((images - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)).argmax(1)
        masks = torch.stack([PairFolder(out)[i]['mask'] for i in range(3)])
        assert torch.equal(masks, wanted)

    def test_no_graph_is_kept(self, source: Path, tmp_path: Path) -> None:
        weight = torch.ones(1, requires_grad=True)

        def predict(images: Tensor) -> Tensor:
            scores = images[:, :4] * weight
            assert not scores.requires_grad
            return scores

        run(source, tmp_path / 'out', predict)


class TestLeaks:
    def test_generator_that_saw_test_samples_is_still_found(
        self, tmp_path: Path
    ) -> None:
        real = PairFolderDataModule(str(write_pair_folder(tmp_path / 'real')), 8)
        real.setup('test')
        source = write_source(tmp_path / 'source')
        write_seen_samples(source, fingerprints(real.test_dataset))
        out = run(source, tmp_path / 'out')
        mixed = SyntheticAugmentedDataModule(
            PairFolderDataModule(str(tmp_path / 'real'), 8), out, real_limit=7
        )
        with pytest.raises(ValueError, match='4 test samples of PairFolderDataModule'):
            mixed.setup('fit')


class TestInterruption:
    @pytest.mark.parametrize('renames', range(1, 2 * COUNT + 4))
    def test_killed_run_is_finished_by_the_same_call(
        self, source: Path, tmp_path: Path, renames: int
    ) -> None:
        wanted = digests(run(source, tmp_path / 'whole'))
        out = tmp_path / 'out'

        def die() -> None:
            die_at_rename(renames)
            run(source, out)

        assert in_child(die) == -signal.SIGKILL
        assert len([*out.rglob('*.part')]) == 1
        assert digests(run(source, out)) == wanted

    def test_nothing_is_read_twice(self, source: Path, tmp_path: Path) -> None:
        out = run(source, tmp_path / 'out')
        wanted = digests(out)
        kept = (out / 'images' / '000003.tif').stat().st_mtime_ns
        (out / 'masks' / '000004.tif').unlink()
        oracle = Oracle()
        run(source, out, oracle)
        assert digests(out) == wanted
        # the whole batch of the lost one, but only that is written
        assert oracle.batches == [3]
        assert (out / 'images' / '000003.tif').stat().st_mtime_ns == kept

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'by': 'another'}, "by: 'oracle' there, 'another' here"),
            ({'mean': MEAN + 1}, 'network: '),
            ({'batch_size': 2}, 'batch_size: 3 there, 2 here'),
        ],
    )
    def test_another_run_needs_another_folder(
        self, source: Path, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        out = run(source, tmp_path / 'out')
        before = digests(out)
        with pytest.raises(FileExistsError, match=message):
            run(source, out, **change)
        trained = Oracle()
        trained.directions += 0.1
        with pytest.raises(FileExistsError, match='network: '):
            run(source, out, trained)
        with (source / 'images' / '000006.tif').open('ab') as image:
            image.write(b' ')
        with pytest.raises(FileExistsError, match='samples: '):
            run(source, out)
        assert digests(out) == before

    def test_the_source_is_not_overwritten(self, source: Path) -> None:
        before = digests(source)
        with pytest.raises(FileExistsError, match='begun with other settings'):
            run(source, source)
        assert digests(source) == before


class TestArguments:
    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'batch_size': 0}, 'batch_size=0 must be 1 or more'),
            ({'mean': MEAN[:4]}, 'mean and std have 4 and 6 values, but .* 6 bands'),
        ],
    )
    def test_refused(
        self, source: Path, tmp_path: Path, settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            run(source, tmp_path / 'out', **settings)
        assert not (tmp_path / 'out').exists()

    @pytest.mark.parametrize(
        ('predict', 'message'),
        [
            (lambda x: x, r'shape \(3, 6, 8, 8\) for samples 000000 to 000002'),
            (lambda x: x[:, :4, ::2], r'but must give \(3, 4, 8, 8\)'),
            (lambda x: x[:, :4] * torch.nan, '768 scores that are NaN or infinite'),
        ],
    )
    def test_scores_of_another_form(
        self, source: Path, tmp_path: Path, predict: Any, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            run(source, tmp_path / 'out', predict)
        assert not [*(tmp_path / 'out').rglob('*.tif')]

    def test_no_source(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match='does not exist'):
            run(tmp_path / 'nowhere', tmp_path / 'out')
