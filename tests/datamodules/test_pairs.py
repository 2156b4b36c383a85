# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from matplotlib.figure import Figure
from torch import Tensor

from tests.data.pairs import image_of, make_pairs, write_tiff
from torchgeo_specdm.compat import SemanticSegmentationTask
from torchgeo_specdm.datamodules.pairs import PairFolderDataModule
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.tasks.segmentation import MultispectralSegmentationTask

from ..conftest import quiet_trainer

SPLITS = ('train', 'val', 'test')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / 'Flächen für München', 20)


def write_lists(root: Path, **lists: list[int]) -> None:
    for split, numbers in lists.items():
        text = ''.join(f'{i:04d}\n' for i in numbers)
        (root / f'{split}.txt').write_text(text)


def write_places(root: Path, places: list[Any]) -> None:
    lines = ''.join(f'{i:04d},{place}\r\n' for i, place in enumerate(places))
    (root / 'places.csv').write_text('\ufeffid,place\r\n' + lines, newline='')


def numbers(root: Path, **kwargs: Any) -> dict[str, list[int]]:
    """The samples of each split."""
    module = PairFolderDataModule(str(root), **({'batch_size': 1} | kwargs))
    module.setup('fit')
    found = {'train': module.train_dataset, 'val': module.val_dataset}
    try:
        module.setup('test')
        found['test'] = module.test_dataset
    except ValueError:
        pass
    return {split: [int(x) for x in found[split].ids] for split in found}


class TestLists:
    def test_all(self, root: Path) -> None:
        write_lists(root, train=[5, 1, 9], val=[2, 0], test=[3])
        assert numbers(root) == {'train': [5, 1, 9], 'val': [2, 0], 'test': [3]}

    def test_lists_win_over_places(self, root: Path) -> None:
        write_lists(root, train=[0, 1], val=[2], test=[2])
        write_places(root, [0, 0, *[1] * 18])
        assert numbers(root) == {'train': [0, 1], 'val': [2], 'test': [2]}

    def test_one_place_in_two_lists(self, root: Path) -> None:
        write_lists(root, train=[0, 1], val=[2, 3], test=[4, 5])
        write_places(root, ['a', 'b', 'c', 'b', 'a', *range(15)])
        with pytest.raises(ValueError, match=r"2 samples .*\['0003', '0004'\].*mend"):
            PairFolderDataModule(str(root), batch_size=1).prepare_data()

    @pytest.mark.parametrize(
        ('row', 'hidden', 'accepted'),
        [(8, 0, True), (-8, 0, True), (5, 0, False), (5, 2, False), (5, 3, True)],
    )
    def test_corners_tell_what_both_show(
        self, root: Path, row: int, hidden: int, accepted: bool
    ) -> None:
        write_lists(root, train=[0], val=[1])
        rows = f'id,place,row,column\n0000,a,10,3\n0001,a,{10 + row},3\n'
        (root / 'places.csv').write_text(rows)
        # the first rows of the second one are the last ones of the first
        mask = np.zeros((1, 8, 8), np.uint8)
        mask[:, :hidden] = 255
        write_tiff(root / 'masks' / '0001.tif', mask)
        module = PairFolderDataModule(str(root), batch_size=1)
        if accepted:
            module.prepare_data()
        else:
            with pytest.raises(ValueError, match=r"1 samples .*\['0001'\].*row and"):
                module.prepare_data()

    @pytest.mark.parametrize('split', ['val', 'test'])
    def test_copy_of_a_training_sample(self, root: Path, split: str) -> None:
        lists = {'train': [0, 1], 'val': [2, 3], 'test': [4, 5]}
        write_lists(root, **lists)
        for kind in ('images', 'masks'):
            copied = root / kind / f'{lists[split][1]:04d}.tif'
            copied.write_bytes((root / kind / '0001.tif').read_bytes())
        module = PairFolderDataModule(str(root), batch_size=1)
        with pytest.raises(ValueError, match=rf'1 samples .* copies .*{copied.stem}'):
            module.prepare_data()

    @pytest.mark.parametrize('empty', [False, True])
    def test_no_validation(self, root: Path, empty: bool) -> None:
        write_lists(root, train=[*range(10)], test=[15, 16])
        if empty:
            write_lists(root, val=[])
        found = numbers(root, val_share=0.3)
        assert sorted(found['train'] + found['val']) == [*range(10)]
        assert len(found['val']) == 3
        assert found['test'] == [15, 16]

    def test_no_validation_and_places(self, root: Path) -> None:
        write_lists(root, train=[*range(10)])
        write_places(root, [i // 5 for i in range(20)])
        found = numbers(root)
        assert sorted(map(sorted, found.values())) == [[*range(5)], [*range(5, 10)]]

    def test_no_test(self, root: Path) -> None:
        write_lists(root, train=[0, 1, 2], val=[3])
        module = PairFolderDataModule(str(root), batch_size=1)
        module.setup('validate')
        assert len(module.val_dataset) == 1
        with pytest.raises(ValueError, match=r'no test set: .* Write test\.txt'):
            module.setup('test')

    @pytest.mark.parametrize(
        ('lists', 'message'),
        [
            ({'train': [0, 1], 'val': [1]}, r"2 samples to train on, 1 .*\['0001'\]"),
            ({'train': [0, 1], 'val': [2], 'test': [0]}, r"1 of them .*\['0000'\]"),
            ({'val': [1], 'test': [2]}, r"lists \['val', 'test'\], with 0 samples"),
            ({'train': [0, 77], 'val': [2]}, r"train\.txt, line 2: '0077' has no"),
            ({'train': [0]}, '1 places to share between train, val, but'),
        ],
    )
    def test_wrong(self, root: Path, lists: dict[str, list[int]], message: str) -> None:
        write_lists(root, **lists)
        with pytest.raises(ValueError, match=message):
            PairFolderDataModule(str(root), batch_size=1).setup('fit')

    def test_rejected_samples(self, root: Path) -> None:
        write_lists(root, train=[0, 1, 2], val=[3, 4])
        text = ''.join(f'{{"id": "000{i}", "accepted": false}}\n' for i in (1, 3))
        (root / 'manifest.jsonl').write_text(text)
        assert numbers(root) == {'train': [0, 2], 'val': [4]}


class TestFolds:
    def test_every_sample_is_validated_on_once(self, root: Path) -> None:
        write_lists(root, train=[*range(10)], val=[10, 11], test=[15, 16])
        places = [i // 2 for i in range(20)]
        write_places(root, places)
        seen = []
        for fold in range(3):
            found = numbers(root, fold=(fold, 3))
            assert sorted(found['train'] + found['val']) == [*range(12)]
            assert found['test'] == [15, 16]
            there = [{places[i] for i in found[split]} for split in ('train', 'val')]
            assert not there[0] & there[1]
            assert len(found['val']) == 4
            seen += found['val']
        assert sorted(seen) == [*range(12)]

    def test_too_many(self, root: Path) -> None:
        write_lists(root, train=[*range(10)], val=[10, 11])
        write_places(root, [i // 10 for i in range(20)])
        with pytest.raises(ValueError, match='has 2 places to share between fold 0'):
            numbers(root, fold=(0, 3))

    @pytest.mark.parametrize('fold', [(3, 3), (-1, 3), (0, 0)])
    def test_wrong(self, root: Path, fold: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=r'fold=.* must be \(i, n\)'):
            numbers(root, fold=fold)


class TestRandomSplit:
    def test_shares(self, root: Path) -> None:
        found = numbers(root, val_share=0.1, test_share=0.25)
        assert [len(found[split]) for split in SPLITS] == [13, 2, 5]
        assert sorted(chain(*found.values())) == [*range(20)]

    def test_depends_on_seed_alone(self, root: Path) -> None:
        first = numbers(root)
        torch.manual_seed(7)
        assert numbers(root) == first
        assert numbers(root, seed=1) != first
        # frozen: another machine or version must choose the same
        assert first['val'] == [7, 11, 15] and first['test'] == [8, 9, 13]

    def test_places_stay_together(self, root: Path) -> None:
        places = ['a'] * 9 + ['b'] * 4 + ['c'] * 3 + ['d', 'd', 'e', 'f']
        write_places(root, places)
        for seed in range(5):
            found = numbers(root, val_share=0.2, test_share=0.2, seed=seed)
            there = {s: {places[i] for i in found[s]} for s in SPLITS}
            assert sorted(chain(*found.values())) == [*range(20)]
            assert not there['train'] & there['val'] | there['val'] & there['test']
            assert not there['train'] & there['test']
            # a split by number of places would be far off
            assert [len(found[split]) for split in SPLITS] == [12, 4, 4]

    def test_no_split_is_empty(self, root: Path) -> None:
        write_places(root, ['a'] * 18 + ['b', 'c'])
        found = numbers(root)
        assert [len(found[split]) for split in SPLITS] == [18, 1, 1]

    def test_no_test_share(self, root: Path) -> None:
        assert {*numbers(root, test_share=0)} == {'train', 'val'}

    def test_too_few_places(self, root: Path) -> None:
        write_places(root, ['a', 'b'] * 10)
        with pytest.raises(
            ValueError, match='2 places to share between train, val, test'
        ):
            numbers(root)

    def test_unknown_place(self, root: Path) -> None:
        write_places(root, [0] * 18)
        with pytest.raises(ValueError, match=r"2 samples lie: \['0018', '0019'\]"):
            numbers(root)
        (root / 'places.csv').write_text('id,town\n0000,a\n')
        with pytest.raises(ValueError, match=r"places\.csv has the columns .*'town'"):
            numbers(root)

    @pytest.mark.parametrize(
        ('val', 'test', 'message'),
        [
            (0, 0.1, 'val_share=0 must lie between 0 and 1'),
            (-0.1, 0, 'val_share=-0.1 must lie'),
            (1, 0, 'val_share=1 must lie'),
            (
                0.5,
                0.5,
                'test_share=0.5 must be 0 or more and, with val_share=0.5, less',
            ),
            (0.1, -0.1, 'test_share=-0.1 must be 0 or more'),
        ],
    )
    def test_shares_out_of_range(self, val: float, test: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PairFolderDataModule(val_share=val, test_share=test)


class TestStatistics:
    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
    def test_of_the_training_split(self, root: Path, stage: str) -> None:
        # brighter samples elsewhere must not count
        write_lists(root, train=[0, 1, 2], val=[3], test=[4])
        for i in (3, 4):
            image = 9000 + image_of(torch.zeros(8, 8).numpy(), 4)
            write_tiff(root / 'images' / f'{i:04d}.tif', image.astype('uint16'))
        module = PairFolderDataModule(str(root), 1, bands=['B08', 'B03'])
        module.setup(stage)
        folder = PairFolder(root, 'train', bands=['B08', 'B03'])
        pixels = torch.stack([sample['image'] for sample in folder])
        pixels = pixels.double().movedim(1, 0).flatten(1)
        assert torch.allclose(module.mean.double(), pixels.mean(1), rtol=1e-6)
        assert torch.allclose(module.std.double(), pixels.std(1, correction=0))
        assert module.spec.bands == ('B08', 'B03')
        batch = folder[0]['image'][None]
        wanted = (batch - module.mean[:, None, None]) / module.std[:, None, None]
        assert torch.equal(module.aug({'image': batch})['image'], wanted)

    def test_bands_reach_everything(self, root: Path) -> None:
        module = PairFolderDataModule(str(root), 2, bands=['B08', 'B03'])
        assert module.spec.bands == ('B08', 'B03')
        module.setup('fit')
        module.setup('test')
        assert len(module.mean) == 2
        for split in SPLITS:
            dataset = getattr(module, f'{split}_dataset')
            assert dataset.spec == module.spec
            loader = getattr(module, f'{split}_dataloader')()
            assert next(iter(loader))['image'].shape[1] == 2

    def test_measured_once(self, root: Path) -> None:
        module = PairFolderDataModule(str(root), 2)
        module.setup('fit')
        aug, mean = module.aug, module.mean
        module.setup('validate')
        assert module.aug is aug and module.mean is mean


class TestAugmentation:
    @pytest.mark.parametrize('patch_size', [None, 5])
    @pytest.mark.parametrize('dates', [1, 2])
    def test_masks_fit(
        self, tmp_path: Path, patch_size: int | None, dates: int
    ) -> None:
        make_pairs(tmp_path, 12, dates=dates)
        module = PairFolderDataModule(
            str(tmp_path), 8, bands=['B04', 'B02'], patch_size=patch_size
        )
        module.setup('fit')
        plain = next(iter(module.train_dataloader()))
        torch.manual_seed(0)
        batch = module.train_aug(plain)
        side = patch_size or 8
        several = (dates,) if dates > 1 else ()
        assert batch['image'].shape == (8, *several, 2, side, side)
        assert batch['mask'].shape == (8, *(1 for _ in several), side, side)
        mask = batch['mask'].reshape(8, side, side)
        image = batch['image'].reshape(8, dates, 2, side, side)
        image = image * module.std[:, None, None] + module.mean[:, None, None]
        for date in range(dates):
            for channel, band in enumerate((2, 0)):
                wanted = 1 + mask + 10 * band + 100 * date
                assert torch.allclose(
                    image[:, date, channel], wanted.float(), atol=1e-3
                )
        if patch_size is None:
            moved = (batch['mask'] != plain['mask']).flatten(1).any(1)
            assert 0 < moved.sum() < 9

    def test_validation_is_only_normalised(self, root: Path) -> None:
        module = PairFolderDataModule(str(root), 2, patch_size=4)
        module.setup('fit')
        batch = next(iter(module.val_dataloader()))
        found = module.aug(batch)
        assert torch.equal(found['mask'], batch['mask'])
        assert found['image'].shape == (2, 4, 8, 8)


class TestSizes:
    @pytest.mark.parametrize('dates', [1, 2])
    def test_samples_of_any_size_are_cropped(self, tmp_path: Path, dates: int) -> None:
        make_pairs(tmp_path, 24, size=24, dates=dates)
        make_pairs(tmp_path, 12, size=17, dates=dates)
        with pytest.raises(ValueError, match=r'one size: cut them .*patch_size'):
            PairFolderDataModule(str(tmp_path), 4).prepare_data()
        data = PairFolderDataModule(str(tmp_path), 4, patch_size=16, val_share=0.4)
        trainer = Trainer(logger=False, enable_checkpointing=False)
        trainer.training, data.trainer = True, trainer
        data.prepare_data()
        data.setup('fit')
        for loader in (data.train_dataloader(), data.val_dataloader()):
            for batch in loader:
                batch = data.on_after_batch_transfer(batch, 0)
                assert batch['image'].shape[-2:] == batch['mask'].shape[-2:] == (16, 16)
                # still one pixel, one label
                image = batch['image'][..., :1, :, :] * data.std[0] + data.mean[0]
                first = image if dates == 1 else image[:, 0]
                mask = batch['mask'].reshape(-1, 1, 16, 16)
                assert torch.equal(first.round().long() - 1, mask)
        with pytest.raises(ValueError, match=r'patch_size=18 does not fit .* 17x17'):
            PairFolderDataModule(str(tmp_path), 4, patch_size=18).prepare_data()


class TestRefusals:
    def test_no_step(self, root: Path) -> None:
        with pytest.raises(ValueError, match='14 training samples for batch_size=16'):
            PairFolderDataModule(str(root)).setup('fit')
        # testing needs no full batch
        PairFolderDataModule(str(root)).setup('test')

    def test_large_patch(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r'patch_size=9 does not fit .* 8x8'):
            PairFolderDataModule(str(root), 2, patch_size=9).setup('fit')

    def test_bad_file_before_training(self, root: Path) -> None:
        path = root / 'images' / '0011.tif'
        path.write_bytes(path.read_bytes()[:500])
        module = PairFolderDataModule(str(root), 2)
        with pytest.raises(ValueError, match=r'0011\.tif cannot be read'):
            module.prepare_data()
        # and again, until it is mended
        with pytest.raises(ValueError, match=r'0011\.tif cannot be read'):
            module.prepare_data()

    def test_unknown_band(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"\['B99'\] are not among"):
            _ = PairFolderDataModule(str(root), bands=['B99']).spec


class Recorder(SemanticSegmentationTask):  # type: ignore[misc]
    """TorchGeo's own task, unchanged but for what it remembers."""

    def training_step(self, batch: Any, batch_idx: int, *args: Any) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx, *args)
        self.losses = [*getattr(self, 'losses', []), float(loss.detach())]
        self.range = float(batch['image'].abs().max())
        return loss


class TestFewSamples:
    @pytest.mark.parametrize(('count', 'batch_size'), [(1, 1), (5, 4)])
    def test_batches_of_one(self, root: Path, count: int, batch_size: int) -> None:
        # the fifth sample makes no batch in training, and one of its own in validation
        write_lists(root, train=[*range(count)], val=[*range(10, 10 + count)])
        module = PairFolderDataModule(str(root), batch_size)
        ignored = module.spec.ignore_index
        task = MultispectralSegmentationTask(warmup=0, ignore_index=ignored)
        trainer = quiet_trainer(root, max_epochs=1)
        trainer.fit(task, datamodule=module)
        assert trainer.global_step == 1
        assert math.isfinite(trainer.callback_metrics['train_loss'])
        assert trainer.num_val_batches == [-(-count // batch_size)]
        assert math.isfinite(trainer.callback_metrics['val_loss'])


@pytest.mark.parametrize('lists', [False, True])
def test_fit_and_test(root: Path, lists: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if lists:
        write_lists(root, train=[*range(10)], test=[10, 11])
    seed_everything(0)
    module = PairFolderDataModule(str(root), 4, bands=['B08', 'B03'], patch_size=6)
    task = Recorder(
        model='fcn',
        in_channels=2,
        num_classes=3,
        num_filters=2,
        lr=0.1,
        ignore_index=module.spec.ignore_index,
    )
    figures, plot = [], PairFolder.plot

    def keep(*args: Any, **kwargs: Any) -> Figure:
        figures.append(plot(*args, **kwargs))
        return figures[-1]

    monkeypatch.setattr(PairFolder, 'plot', keep)
    plt.switch_backend('agg')
    # fast_dev_run also plots: its logger takes figures
    for options in ({'fast_dev_run': 2, 'logger': True}, {'max_epochs': 4}):
        trainer = quiet_trainer(**options)
        trainer.fit(task, datamodule=module)
        assert trainer.global_step >= 2
        assert math.isfinite(trainer.callback_metrics['val_loss'])
    assert len(figures[0].axes) == 3
    assert trainer.global_step == 4 * (len(module.train_dataset) // 4)
    assert all(map(math.isfinite, task.losses)) and task.losses[-1] < task.losses[0]
    assert task.range < 10
    scores = trainer.test(task, datamodule=module, verbose=False)
    assert math.isfinite(scores[0]['test_loss'])
