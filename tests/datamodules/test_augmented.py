# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import Dataset, RandomSampler
from torchgeo.datamodules import (
    BaseDataModule,
    DeepGlobeLandCoverDataModule,
    GeoDataModule,
    LandCoverAIDataModule,
    NonGeoDataModule,
    SEN12MSDataModule,
)
from torchgeo.datasets import DeepGlobeLandCover, LandCoverAI
from torchgeo.main import main

from torchgeo_specdm.datamodules.augmented import SyntheticAugmentedDataModule
from torchgeo_specdm.datamodules.mixing import MixSampler, subset
from torchgeo_specdm.datasets.fingerprint import fingerprint, write_seen_samples
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.datasets.spec import SampleSpec

from .torchgeo_fakes import (
    CODED,
    CodedDataModule,
    Recorder,
    coded_mask,
    coded_numbers,
    quiet_trainer,
    tiny_task,
    write_coded_pairs,
    write_coded_splits,
    write_deepglobe,
    write_landcoverai,
    write_random_pairs,
    write_sen12ms,
    write_tiff,
)

RGB = ('R', 'G', 'B')
SEN12MS_BANDS = SEN12MSDataModule('').kwargs['bands']
# decibels and digital numbers
SEN12MS_LOW = np.array([-25, -25] + [0] * 13)[:, None, None]
SEN12MS_HIGH = np.array([0, 0] + [3000] * 13)[:, None, None]


@pytest.fixture(scope='module')
def real_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coded_splits(tmp_path_factory.mktemp('real') / 'pairs')


@pytest.fixture(scope='module')
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('synthetic') / 'pairs'
    return write_coded_pairs(root, 2000, 40)


def landcoverai(tmp_path: Path) -> tuple[NonGeoDataModule, Path, int]:
    spec = SampleSpec(bands=RGB, classes=LandCoverAI.classes, dtype='uint8')
    synthetic = write_random_pairs(tmp_path / 'pairs', spec)
    root = write_landcoverai(tmp_path / 'real')
    return LandCoverAIDataModule(root=root, batch_size=4), synthetic, 5


def deepglobe(tmp_path: Path) -> tuple[NonGeoDataModule, Path, int]:
    # patches of the size of the crop, as a generator trained behind it writes them
    spec = SampleSpec(bands=RGB, classes=DeepGlobeLandCover.classes, dtype='uint8')
    synthetic = write_random_pairs(tmp_path / 'pairs', spec, size=32)
    root = write_deepglobe(tmp_path / 'real', size=48)
    return (
        DeepGlobeLandCoverDataModule(root=root, batch_size=4, patch_size=32),
        synthetic,
        7,
    )


def sen12ms(tmp_path: Path) -> tuple[NonGeoDataModule, Path, int]:
    classes = tuple(f'igbp {i}' for i in range(18))
    spec = SampleSpec(bands=SEN12MS_BANDS, classes=classes, dtype='float32')
    synthetic = write_random_pairs(
        tmp_path / 'pairs', spec, count=12, low=SEN12MS_LOW, high=SEN12MS_HIGH
    )
    root = write_sen12ms(tmp_path / 'real')
    real = SEN12MSDataModule(root=root, batch_size=4, checksum=False)
    return real, synthetic, 11


TORCHGEO = pytest.mark.parametrize('make', [landcoverai, deepglobe, sen12ms])
Make = Callable[[Path], tuple[NonGeoDataModule, Path, int]]


def batches(datamodule: BaseDataModule) -> list[list[int]]:
    """Who is in each batch of coded samples, without a trainer."""
    return [
        coded_numbers(batch['image'] / 255) for batch in datamodule.train_dataloader()
    ]


def is_real(number: int) -> bool:
    return number < 2000


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
    datamodule = SyntheticAugmentedDataModule(inner, ratio=0, equal_updates=True)
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


@pytest.mark.parametrize('pad', [False, True])
def test_crop_to_equal_size_changes_nothing(pad: bool) -> None:
    batch = {'image': torch.randn(4, 3, 32, 32), 'mask': torch.arange(4 * 1024) % 7}
    batch['mask'] = batch['mask'].reshape(4, 32, 32)
    crop = K.RandomCrop((32, 32), pad_if_needed=pad)
    cropped = K.AugmentationSequential(crop, data_keys=None, keepdim=True)(batch)
    assert torch.equal(cropped['image'], batch['image'])
    assert torch.equal(cropped['mask'], batch['mask'])


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


class Other(Dataset[Any]):
    """Samples with further keys, another mask rank and other types."""

    def __init__(self, length: int = 8) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            'image': torch.full((2, 32, 32), 512.0 + index, dtype=torch.float64),
            'mask': torch.zeros(1, 32, 32, dtype=torch.int32),
            'index': index,
        }


class OtherDataModule(NonGeoDataModule):
    def __init__(self, length: int = 8, **kwargs: Any) -> None:
        super().__init__(Other, **kwargs)
        self.length = length

    def setup(self, stage: str) -> None:
        self.train_dataset = Other(self.length)
        self.val_dataset = Other(1)
        self.mean, self.std = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])


def test_keys_types_and_rank_are_those_of_the_real_samples(
    synthetic_root: Path,
) -> None:
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


def test_subsets_are_frozen() -> None:
    # drift of the generator would change published splits
    assert subset(4, 20, 0, 0) == [0, 2, 11, 17]
    assert subset(4, 20, 0, 1) != subset(4, 20, 0, 0) != subset(4, 20, 1, 0)


@pytest.mark.parametrize(('share', 'batch_size'), [(0.5, 4), (0.5, 5), (0.3, 4)])
def test_real_share_of_every_batch(
    real_root: Path, synthetic_root: Path, share: float, batch_size: int
) -> None:
    real = CodedDataModule(real_root, batch_size=batch_size)
    datamodule = SyntheticAugmentedDataModule(
        real, synthetic_root, ratio=4, real_share=share
    )
    datamodule.setup('fit')
    made = datamodule.train_dataloader()
    counts = []
    for epoch in range(5):
        made.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in made:
            numbers = coded_numbers(batch['image'] / 255)
            assert len(numbers) == batch_size
            counts.append(sum(map(is_real, numbers)))
    assert len(counts) == 5 * (40 // batch_size)
    assert {math.floor(share * batch_size), math.ceil(share * batch_size)} == {*counts}
    assert sum(counts) == math.floor(share * batch_size * len(counts))


def test_equal_updates(real_root: Path, synthetic_root: Path) -> None:
    datamodule = SyntheticAugmentedDataModule(
        CodedDataModule(real_root), synthetic_root, ratio=4, equal_updates=True
    )
    recorder = Recorder()
    trainer = quiet_trainer(max_epochs=5, callbacks=[recorder])
    trainer.fit(tiny_task(2, 5), datamodule=datamodule)
    # 8 real samples are 2 batches; 5 epochs see each of the 40 samples once
    assert trainer.global_step == 5 * 2
    seen = [n for batch in recorder.numbers for n in batch]
    assert len(set(seen)) == len(seen) == 40


def test_order_follows_the_global_seed(real_root: Path, synthetic_root: Path) -> None:
    def order(seed: int, epochs: int = 2) -> list[list[int]]:
        seed_everything(seed)
        recorder = Recorder()
        datamodule = SyntheticAugmentedDataModule(
            CodedDataModule(real_root), synthetic_root
        )
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[recorder])
        trainer.fit(tiny_task(2, 5), datamodule=datamodule)
        return recorder.numbers

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    assert first[:4] != first[4:]
    assert sorted(np.ravel(first[:4])) == sorted(np.ravel(first[4:]))


@pytest.mark.parametrize('workers', [0, 1])
def test_resumed_run_goes_on_with_the_next_epoch(
    tmp_path: Path, real_root: Path, synthetic_root: Path, workers: int
) -> None:
    def fit(epochs: int, ckpt_path: Path | None) -> list[list[int]]:
        seed_everything(0)
        recorder = Recorder()
        trainer = quiet_trainer(
            max_epochs=epochs, callbacks=[recorder], limit_val_batches=0
        )
        real = CodedDataModule(real_root, num_workers=workers)
        datamodule = SyntheticAugmentedDataModule(real, synthetic_root)
        task = tiny_task(2, 5)
        # without validation there is no loss for the schedule to follow
        task.configure_optimizers = lambda: torch.optim.SGD(task.parameters(), 0.1)
        trainer.fit(task, datamodule=datamodule, ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f'{epochs}.ckpt')
        return recorder.numbers

    whole = fit(2, None)
    begun = fit(1, None)
    assert begun + fit(2, tmp_path / '1.ckpt') == whole


def test_processes_share_the_batches() -> None:
    for share in (None, 0.5, 0.25):
        alone = MixSampler(10, 14, 4, 6, share, seed=3)
        pair = [MixSampler(10, 14, 4, 3, share, 3, 2, rank) for rank in (0, 1)]
        for epoch in range(3):
            for sampler in (alone, *pair):
                sampler.set_epoch(epoch)
            single = np.reshape(list(alone), (6, 4))
            for rank, sampler in enumerate(pair):
                assert len(sampler) == 12
                assert np.array_equal(
                    np.reshape(list(sampler), (3, 4)), single[rank::2]
                )


def test_two_processes(tmp_path: Path, real_root: Path, synthetic_root: Path) -> None:
    command = [sys.executable, '-m', 'tests.datamodules.torchgeo_fakes']
    command += [str(real_root), str(synthetic_root), str(tmp_path)]
    result = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=os.environ | {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    ranks = [json.loads((tmp_path / f'rank_{i}.json').read_text()) for i in (0, 1)]
    assert [rank['steps'] for rank in ranks] == [4, 4]
    for batch in ranks[0]['numbers'] + ranks[1]['numbers']:
        assert sum(map(is_real, batch)) == 2 == len(batch) / 2
    for epoch in (slice(0, 2), slice(2, 4)):
        seen = [n for rank in ranks for batch in rank['numbers'][epoch] for n in batch]
        assert len(set(seen)) == len(seen) == 16
        assert {n for n in seen if is_real(n)} == set(range(1000, 1008))


def test_spawned_workers(real_root: Path, synthetic_root: Path) -> None:
    datamodule = SyntheticAugmentedDataModule(
        CodedDataModule(real_root, num_workers=1), synthetic_root
    )
    pickle.loads(pickle.dumps(datamodule))
    datamodule.setup('fit')
    made = datamodule.train_dataloader()
    assert made.persistent_workers
    made.multiprocessing_context = 'spawn'
    found = sorted(n for b in made for n in coded_numbers(b['image'] / 255))
    assert len(set(found)) == len(found) == 16


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({'ratio': -1.0}, 'ratio=-1.0 must be'),
    ({'ratio': math.nan}, 'ratio=nan must be'),
    ({'ratio': math.inf}, 'ratio=inf must be'),
    ({'ratio': True}, 'ratio=True must be'),
    ({'ratio': '3x'}, "ratio='3x' must be"),
    ({'real_limit': -1}, 'real_limit=-1 must be'),
    ({'real_limit': 2.5}, 'real_limit=2.5 must be'),
    ({'synthetic_limit': 0}, 'synthetic_limit=0 must be'),
    ({'synthetic_limit': True}, 'synthetic_limit=True must be'),
    ({'seed': -1}, 'seed=-1 must be'),
    ({'real_share': 0.0}, 'real_share=0.0 must lie between'),
    ({'real_share': 1.0}, 'real_share=1.0 must lie between'),
    ({'real_share': math.nan}, 'real_share=nan must lie between'),
    ({'real_limit': 0, 'real_share': 0.5}, 'leaves no real samples'),
    ({'real_limit': 0, 'equal_updates': True}, 'leaves no real samples'),
    ({'ratio': 0, 'real_share': 0.5}, 'leaves no synthetic samples'),
    ({'ratio': 0, 'synthetic_limit': 5}, 'leaves no synthetic samples'),
    ({'synthetic': None}, 'synthetic=None gives no samples'),
]


@pytest.mark.parametrize(('options', 'message'), BAD_OPTIONS)
def test_refuses_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticAugmentedDataModule(
            OtherDataModule(), **({'synthetic': 'folder'} | options)
        )


def test_refuses_other_modules() -> None:
    geo = GeoDataModule(Other, batch_size=1)  # type: ignore[arg-type]
    for real in (geo, BaseDataModule(Other)):
        with pytest.raises(TypeError, match=f'real={type(real).__name__} must be'):
            SyntheticAugmentedDataModule(real, ratio=0)


BAD_COUNTS: list[tuple[dict[str, Any], int, str]] = [
    ({'ratio': 6.0}, 4, 'ratio=6.0 of 8 real samples needs 48 .* has 40 .*--count 48'),
    ({'ratio': 0.1}, 4, 'needs 0 synthetic samples, .*at least 1'),
    ({'synthetic_limit': 41}, 4, 'synthetic_limit=41 needs 41 .* has 40'),
    ({'real_limit': 9}, 4, 'has 8 training samples, but real_limit=9 needs 9'),
    ({}, 17, '16 training samples do not fill one batch_size=17'),
    ({'equal_updates': True}, 9, '8 real training samples do not fill'),
    ({'ratio': 0}, 9, '8 training samples do not fill one batch_size=9'),
    ({'ratio': 0, 'real_limit': 3}, 4, '3 training samples do not fill'),
]


@pytest.mark.parametrize(('options', 'batch_size', 'message'), BAD_COUNTS)
def test_refuses_counts(
    real_root: Path,
    synthetic_root: Path,
    options: dict[str, Any],
    batch_size: int,
    message: str,
) -> None:
    datamodule = SyntheticAugmentedDataModule(
        CodedDataModule(real_root, batch_size), synthetic_root, **options
    )
    with pytest.raises(ValueError, match=message):
        datamodule.setup('fit')


def test_refuses_missing_data(tmp_path: Path, synthetic_root: Path) -> None:
    datamodule = SyntheticAugmentedDataModule(OtherDataModule(), tmp_path / 'none')
    with pytest.raises(
        FileNotFoundError, match=r'none is no folder of pairs.*generate'
    ):
        datamodule.setup('fit')
    datamodule = SyntheticAugmentedDataModule(OtherDataModule(0), synthetic_root)
    with pytest.raises(ValueError, match='has 0 training samples'):
        datamodule.setup('fit')


class NoMask(Other):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'image': torch.zeros(2, 32, 32), 'label': 1}


class TwoMasks(Other):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {'mask': torch.zeros(2, 32, 32)}


class Fixed(NonGeoDataModule):
    """Trains on the data set that it is given, or has none."""

    def __init__(self, dataset: Dataset[Any] | None) -> None:
        super().__init__(Other, batch_size=4)
        self.fixed = dataset

    def setup(self, stage: str) -> None:
        self.train_dataset = self.fixed


@pytest.mark.parametrize(
    ('dataset', 'message'),
    [
        (NoMask(), r"keys \['image', 'label'\], but mixing needs image and mask"),
        (TwoMasks(), r"\.tif has the shapes .*mask \(2, 'H', 'W'\)"),
        (None, 'Fixed has no training set'),
    ],
)
def test_refuses_real_samples(
    synthetic_root: Path, dataset: Dataset[Any] | None, message: str
) -> None:
    datamodule = SyntheticAugmentedDataModule(Fixed(dataset), synthetic_root)
    with pytest.raises(ValueError, match=message):
        datamodule.setup('fit')


def coded_spec(**kwargs: Any) -> SampleSpec:
    return SampleSpec.from_dict(CODED.to_dict() | {'colors': ()} | kwargs)


@pytest.mark.parametrize(
    ('spec', 'high', 'message'),
    [
        (coded_spec(bands=RGB), 1000, r'0\.tif has the shapes image \(3, 32, 32\)'),
        (coded_spec(dates=2), 1000, r'0_1\.tif has the shapes image \(2, 2, 32, 32\)'),
        (coded_spec(bands=('B02', 'B04')), 1000, r"bands: \['B02', 'B03'\] in Coded"),
        (coded_spec(classes=('a', 'b')), 1000, 'differ in classes'),
        (coded_spec(scale=1.0), 1000, 'differ in scale'),
        (coded_spec(dtype='float32'), 0.1, r'different units.*B02 5.*and 0\.0'),
        (coded_spec(), 65000, 'different units.*factor of 10'),
    ],
)
def test_refuses_another_kind(
    tmp_path: Path, real_root: Path, spec: SampleSpec, high: float, message: str
) -> None:
    synthetic = write_random_pairs(tmp_path / 'pairs', spec, high=high)
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(real_root), synthetic)
    with pytest.raises(ValueError, match=message):
        datamodule.setup('fit')


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ({'classes': ('a', 'b', 'c', 'd', 'e')}, 'differ in classes'),
        ({'bands': ('R', 'G', 'B', 'N')}, r'has the shapes image \(4, 32, 32\)'),
    ],
)
def test_refuses_other_names_than_the_data_set(
    tmp_path: Path, names: dict[str, Any], message: str
) -> None:
    known = {'bands': RGB, 'classes': LandCoverAI.classes, 'dtype': 'uint8'} | names
    synthetic = write_random_pairs(tmp_path / 'pairs', SampleSpec(**known))
    real = LandCoverAIDataModule(root=write_landcoverai(tmp_path / 'real'))
    real.batch_size = 4
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    with pytest.raises(ValueError, match=message):
        datamodule.setup('fit')


def test_refuses_other_band_order(tmp_path: Path) -> None:
    spec = SampleSpec(
        bands=SEN12MS_BANDS[::-1],
        classes=tuple(f'igbp {i}' for i in range(18)),
        dtype='float32',
    )
    synthetic = write_random_pairs(tmp_path / 'pairs', spec, count=12, high=3000)
    real = SEN12MSDataModule(
        root=write_sen12ms(tmp_path / 'real'), batch_size=4, checksum=False
    )
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    with pytest.raises(ValueError, match=r"bands: \['VV', 'VH', .*\['B12', 'B11'"):
        datamodule.setup('fit')


def test_warns_if_one_band_differs(tmp_path: Path) -> None:
    spec = coded_spec(bands=RGB)
    high = np.array([1000, 1000, 20])[:, None, None]
    synthetic = write_random_pairs(tmp_path / 'pairs', spec, high=high)
    root = write_random_pairs(tmp_path / 'real', spec, high=1000, count=16)
    for split in ('train', 'val', 'test'):
        (root / f'{split}.txt').write_text(''.join(f'{i:04d}\n' for i in range(8)))
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(root), synthetic)
    with pytest.warns(UserWarning, match=r'in some bands: B 5\d\d.* and \d'):
        datamodule.setup('fit')


def test_plain_folder_needs_no_names(tmp_path: Path) -> None:
    root = tmp_path / 'plain'
    random = np.random.default_rng(0)
    for i in range(8):
        for kind, array in (
            ('images', random.integers(0, 256, (3, 32, 32), np.uint8)),
            ('masks', random.integers(0, 4, (1, 32, 32), np.uint8)),
        ):
            (root / kind).mkdir(parents=True, exist_ok=True)
            write_tiff(root / kind / f'{i}.tif', array)
    real = LandCoverAIDataModule(root=write_landcoverai(tmp_path / 'real'))
    real.batch_size = 4
    datamodule = SyntheticAugmentedDataModule(real, root)
    datamodule.setup('fit')
    assert datamodule.counts == (8, 8)
    array = np.full((1, 32, 32), 5, np.uint8)
    write_tiff(root / 'masks' / '0.tif', array)
    with pytest.raises(ValueError, match=r"'Road'\] in LandCover.*'class_5'\] in"):
        datamodule.setup('fit')


def test_refuses_patches_smaller_than_the_crop(tmp_path: Path, real_root: Path) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8, size=24)
    real = CodedDataModule(real_root, patch_size=32)
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    with pytest.raises(ValueError, match=r'crops to \(32, 32\) .* only \(24, 24\)'):
        datamodule.setup('fit')


def test_names_the_file_of_another_size(tmp_path: Path, real_root: Path) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    for kind, count in (('images', 2), ('masks', 1)):
        array = np.ones((count, 16, 16), np.uint16)
        write_tiff(synthetic / kind / '0007.tif', array)
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(real_root), synthetic)
    datamodule.setup('fit')
    with pytest.raises(ValueError, match=r'0007\.tif has the shapes .*\(32, 32\)'):
        list(datamodule.train_dataloader())


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_refuses_leaks(tmp_path: Path, real_root: Path, split: str) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    seen = PairFolder(real_root, split=split)  # type: ignore[arg-type]
    write_seen_samples(synthetic, [fingerprint(seen[i]) or '' for i in range(3)])
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(real_root), synthetic)
    if split == 'train':
        datamodule.setup('fit')
        return
    with pytest.raises(ValueError, match=f'3 {split} samples .*generator .*training'):
        datamodule.setup('fit')
    assert datamodule.real.test_dataset is None
    datamodule = SyntheticAugmentedDataModule(
        CodedDataModule(real_root), synthetic, leak_check=False
    )
    datamodule.setup('fit')


def test_leak_check_without_test_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_coded_splits(tmp_path / 'real')
    (root / 'test.txt').unlink()
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    write_seen_samples(synthetic, ['0123456789abcdef'])
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(root), synthetic)
    with caplog.at_level('INFO'):
        datamodule.setup('fit')
    assert 'test set is not there' in caplog.text


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


CONFIG = """
trainer: {{max_epochs: 1, accelerator: cpu, devices: 1, logger: false,
  enable_checkpointing: false, enable_progress_bar: false}}
model:
  class_path: torchgeo_specdm.compat.SemanticSegmentationTask
  init_args: {{model: fcn, in_channels: 3, num_classes: 5, num_filters: 4}}
data:
  class_path: torchgeo_specdm.datamodules.augmented.SyntheticAugmentedDataModule
  init_args:
    real:
      class_path: torchgeo.datamodules.LandCoverAIDataModule
      init_args: {{batch_size: 4}}
      dict_kwargs: {{root: {real}}}
    synthetic: {synthetic}
"""


def test_command_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, synthetic, _ = landcoverai(tmp_path)
    config = tmp_path / 'config.yaml'
    config.write_text(CONFIG.format(real=tmp_path / 'real', synthetic=synthetic))
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
