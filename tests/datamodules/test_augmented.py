# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import RandomSampler
from torchgeo.datamodules import (
    BaseDataModule,
    DeepGlobeLandCoverDataModule,
    LandCoverAIDataModule,
    NonGeoDataModule,
)
from torchgeo.main import main

from tests.conftest import calls_of, quiet_trainer, write_pair_folder
from torchgeo_specdm.datamodules.augmented import SyntheticAugmentedDataModule
from torchgeo_specdm.datamodules.pairs import PairFolderDataModule
from torchgeo_specdm.datasets import pairs as dataset
from torchgeo_specdm.pairs.fingerprint import write_seen_samples
from torchgeo_specdm.pairs.spec import SampleSpec

from .torchgeo_fakes import (
    CODED,
    RGB,
    CodedDataModule,
    Other,
    OtherDataModule,
    Recorder,
    coded_mask,
    coded_numbers,
    deepglobe,
    is_real,
    landcoverai,
    sen12ms,
    tiny_task,
    write_coded_pairs,
    write_coded_splits,
    write_config,
    write_landcoverai,
    write_random_pairs,
)

TORCHGEO = pytest.mark.parametrize('make', [landcoverai, deepglobe, sen12ms])
Make = Callable[[Path], tuple[NonGeoDataModule, Path, int]]


def batches(datamodule: BaseDataModule) -> list[list[int]]:
    """Who is in each batch of coded samples, without a trainer."""
    return [
        coded_numbers(batch['image'] / 255) for batch in datamodule.train_dataloader()
    ]


@TORCHGEO
def test_torchgeo_modules_and_task(make: Make, tmp_path: Path) -> None:
    real, synthetic, num_classes = make(tmp_path)
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    recorder = Recorder()
    trainer = quiet_trainer(max_epochs=1, callbacks=[recorder])
    seed_everything(0)
    datamodule.prepare_data()
    channels = {LandCoverAIDataModule: 3, DeepGlobeLandCoverDataModule: 3}
    task = tiny_task(channels.get(type(real), 15), num_classes)
    trainer.fit(task, datamodule=datamodule)

    count = len(real.train_dataset)
    assert datamodule.counts == (count, count)
    assert trainer.global_step == 2 * count // 4 == len(recorder.batches)
    assert all(math.isfinite(loss) for loss in recorder.losses)
    assert math.isfinite(float(trainer.callback_metrics['val_loss']))
    for batch in recorder.batches:
        assert batch.keys() == {'image', 'mask'}
        assert batch['image'].dtype == torch.float32
        # normalised by the real module: the range of the bare one
        assert 0 <= batch['image'].min() and batch['image'].max() <= 1
        assert batch['image'].shape[-2:] == batch['mask'].shape[-2:] == (32, 32)
        assert batch['mask'].dtype == torch.int64
        assert 0 <= batch['mask'].min() and batch['mask'].max() < num_classes
    assert datamodule.val_dataset is real.val_dataset
    assert torch.equal(torch.as_tensor(datamodule.std), torch.as_tensor(real.std))
    assert trainer.validate(task, datamodule=datamodule, verbose=False)
    assert trainer.test(task, datamodule=datamodule, verbose=False)


def test_plots_as_the_real_module(tmp_path: Path) -> None:
    # the logger of a quick run answers to every name, so the task plots
    real, synthetic, num_classes = landcoverai(tmp_path)
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    trainer = quiet_trainer(fast_dev_run=True)
    trainer.fit(tiny_task(3, num_classes), datamodule=datamodule)
    assert trainer.global_step == 1
    sample = {key: value.clone() for key, value in real.val_dataset[0].items()}
    assert datamodule.plot(sample) is not None


def run(datamodule: BaseDataModule) -> tuple[Recorder, dict[str, torch.Tensor]]:
    seed_everything(5)
    recorder = Recorder()
    task = tiny_task(3, 5)
    trainer = quiet_trainer(max_epochs=2, callbacks=[recorder])
    trainer.fit(task, datamodule=datamodule)
    assert trainer.global_step > 0
    return recorder, task.state_dict()


def test_ratio_zero_is_the_real_module(tmp_path: Path) -> None:
    root = write_landcoverai(tmp_path / 'real')
    bare = LandCoverAIDataModule(root=root, batch_size=4)
    inner = LandCoverAIDataModule(root=root, batch_size=4)
    datamodule = SyntheticAugmentedDataModule(
        inner, ratio=0, real_share=0.5, equal_updates=True
    )
    (ours, our_weights), (theirs, their_weights) = run(datamodule), run(bare)
    assert len(ours.batches) == len(theirs.batches) == 4
    for mine, other in zip(ours.batches, theirs.batches, strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)
    assert ours.losses == theirs.losses
    assert our_weights.keys() == their_weights.keys()
    for key, weight in our_weights.items():
        assert torch.equal(weight, their_weights[key])
    assert datamodule.train_dataset is inner.train_dataset
    inner.setup('validate')
    assert isinstance(datamodule.train_dataloader().sampler, RandomSampler)


@pytest.mark.parametrize(
    ('real_size', 'synthetic_size', 'patch_size'),
    [(48, 32, 32), (32, 48, None), (32, 32, 24)],
)
def test_image_and_mask_stay_aligned(
    tmp_path: Path,
    real_size: int,
    synthetic_size: int,
    patch_size: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = write_coded_splits(tmp_path / 'real', real_size)
    synthetic = write_coded_pairs(tmp_path / 'synthetic', 2000, 8, synthetic_size)
    real = CodedDataModule(root, patch_size=patch_size)
    recorder = Recorder()
    trainer = quiet_trainer(max_epochs=3, callbacks=[recorder])
    with caplog.at_level('INFO'):
        trainer.fit(
            tiny_task(2, 5), datamodule=SyntheticAugmentedDataModule(real, synthetic)
        )
    size = patch_size or 32
    corners = set()
    for batch in recorder.batches:
        assert batch['image'].shape == (4, 2, size, size)
        assert torch.equal(coded_mask(batch['image']), batch['mask'])
        corners |= set(batch['image'][:, 0].amin((1, 2)).tolist())
    assert len(corners) > 8
    cropped = {48: 'Real', 32: 'Synthetic'}[real_size]
    assert (f'{cropped} training samples' in caplog.text) == (
        real_size != synthetic_size
    )
    assert '8 real and 8 synthetic samples, 4 batches of 4' in caplog.text
    assert '12 updates' in caplog.text


def test_dates_and_mask_layers(tmp_path: Path) -> None:
    spec = SampleSpec(bands=RGB, classes=('no', 'yes'), dates=2)
    root = write_random_pairs(tmp_path / 'real', spec, count=12, size=40)
    for split, ids in (('train', range(8)), ('val', range(8, 10)), ('test', (10, 11))):
        (root / f'{split}.txt').write_text(''.join(f'{i:04d}\n' for i in ids))
    synthetic = write_random_pairs(tmp_path / 'synthetic', spec, size=32, seed=8)
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(root), synthetic)
    datamodule.setup('fit')
    for batch in datamodule.train_dataloader():
        assert batch['image'].shape == (4, 2, 3, 32, 32)
        assert batch['mask'].shape == (4, 1, 32, 32)


@pytest.mark.parametrize('others', [{}, {'tags': ['a'], 'missing': None}])
def test_keys_types_and_rank_are_those_of_the_real_samples(
    synthetic_root: Path, others: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Other, 'others', others)
    datamodule = SyntheticAugmentedDataModule(
        OtherDataModule(batch_size=4), synthetic_root, real_share=0.5
    )
    datamodule.setup('fit')
    for batch in datamodule.train_dataloader():
        assert batch.keys() == {'image', 'mask'}
        assert batch['image'].dtype == torch.float64
        assert batch['mask'].dtype == torch.int32
        assert batch['mask'].shape == (4, 1, 32, 32)
        assert (batch['image'][:, 1, 0, 0] >= 2000).sum() == 2
    datamodule.setup('predict')
    assert len(datamodule.predict_dataloader()) == 1
    # measured in setup, after this module was made
    assert datamodule.mean.tolist() == [1, 2]
    assert datamodule.std.tolist() == [3, 4]


def test_ratio_floors_and_subsets_are_nested(
    real_root: Path, synthetic_root: Path
) -> None:
    def used(side: int, **kwargs: Any) -> set[int]:
        real = CodedDataModule(real_root, batch_size=1)
        datamodule = SyntheticAugmentedDataModule(real, synthetic_root, **kwargs)
        datamodule.setup('fit')
        found = {n for batch in batches(datamodule) for n in batch}
        assert len(found) == sum(datamodule.counts)
        return {n for n in found if is_real(n) == (side == 0)}

    assert len(used(1, ratio=0.5, real_limit=5)) == 2
    assert len(used(1, ratio=1.5, real_limit=3)) == 4
    assert used(1, ratio=1) < used(1, ratio=3) < used(1, ratio=5)
    assert used(0, real_limit=2) < used(0, real_limit=5)
    assert used(0, real_limit=5, ratio=0) == used(0, real_limit=5, ratio=2)
    assert used(0, real_limit=5, seed=1) != used(0, real_limit=5, seed=0)
    assert used(0, real_limit=0) == set()
    assert len(used(1, real_limit=0)) == 40
    assert len(used(1, real_limit=0, synthetic_limit=7)) == 7
    assert len(used(1, real_limit=4, synthetic_limit=7, ratio=2)) == 7
    # 0.29 x 100 is 28.999999999999996 in floating point
    datamodule = SyntheticAugmentedDataModule(
        OtherDataModule(100), synthetic_root, ratio=0.29
    )
    datamodule.setup('fit')
    assert datamodule.counts == (100, 29)


def test_looking_does_not_move_the_random_numbers(
    tmp_path: Path, real_root: Path
) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8, size=48)
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(real_root), synthetic)
    state = torch.get_rng_state()
    datamodule.setup('fit')
    assert torch.equal(torch.get_rng_state(), state)


class HookedDataModule(CodedDataModule):
    """Counts the batches that its own hook sees."""

    transferred = 0

    def transfer_batch_to_device(self, *args: Any) -> Any:
        self.transferred += 1
        return super().transfer_batch_to_device(*args)


def test_hooks_of_the_real_module_and_of_the_task(
    real_root: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, task, seen = HookedDataModule(real_root), tiny_task(2, 5), []

    def on_before_batch_transfer(self: Any, batch: Any, dataloader_idx: int) -> Any:
        seen.append(batch)
        return batch

    monkeypatch.setattr(
        type(task), 'on_before_batch_transfer', on_before_batch_transfer
    )
    trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(task, datamodule=SyntheticAugmentedDataModule(real, synthetic_root))
    # 4 training batches and 1 of validation
    assert real.transferred == len(seen) == 5


def test_command_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, synthetic, _ = landcoverai(tmp_path)
    config = write_config(
        tmp_path / 'config.yaml',
        'augmented.SyntheticAugmentedDataModule',
        tmp_path / 'real',
        f'synthetic: {synthetic}',
    )
    command = ['fit', '--config', str(config), '--data.init_args.real_share', '0.25']
    with caplog.at_level('INFO'):
        main(command)
    assert '8 real and 8 synthetic samples, 4 batches of 4' in caplog.text
    with pytest.raises(ValueError, match=r'ratio=-1\.0 must be'):
        main([*command, '--data.init_args.ratio', '-1'])


def test_spec_is_that_of_the_real_module(real_root: Path) -> None:
    real = CodedDataModule(real_root)
    datamodule = SyntheticAugmentedDataModule(real, ratio=0)
    assert not hasattr(datamodule, 'spec')
    real.spec = CODED
    assert datamodule.spec == CODED


def test_set_up_reads_each_sample_once(
    pair_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic = write_pair_folder(tmp_path / 'pairs', seed=1)
    write_seen_samples(synthetic, ['0123456789abcdef'])
    read = calls_of(monkeypatch, dataset, 'read_codes')
    # other tests may have read the real samples already
    monkeypatch.setattr('torchgeo_specdm.pairs.cache.HOME', tmp_path / 'cache')
    datamodule = SyntheticAugmentedDataModule(
        PairFolderDataModule(str(pair_folder), batch_size=4), synthetic
    )
    datamodule.prepare_data()
    datamodule.setup('fit')
    assert datamodule.counts == (16, 16)
    assert len(read) == len({path for path, *_ in read}) == 48
