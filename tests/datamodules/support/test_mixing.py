# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from torchgeo_specdm import PairFolder
from torchgeo_specdm.datamodules.augmented import SyntheticAugmentedDataModule
from torchgeo_specdm.datamodules.support.mixing import (
    MatchedSamples,
    MixSampler,
    subset,
)
from torchgeo_specdm.pairs.facts import SampleForm

from ...conftest import quiet_trainer
from ...processes import run_ranks
from ..torchgeo_fakes import (
    CodedDataModule,
    Recorder,
    coded_numbers,
    is_real,
    tiny_task,
)


def test_subsets_are_frozen() -> None:
    # drift of the generator would change published splits
    assert subset(4, 20, 0, 0) == [0, 2, 11, 17]
    assert subset(4, 20, 0, 1) != subset(4, 20, 0, 0) != subset(4, 20, 1, 0)


@pytest.mark.parametrize('dtype', [torch.bool, torch.int8])
def test_labels_that_real_masks_cannot_hold(
    synthetic_root: Path, dtype: torch.dtype
) -> None:
    folder = PairFolder(synthetic_root)
    sample = folder[0]
    folder.transforms = lambda sample: sample | {'mask': sample['mask'] * 0 + 255}
    form = SampleForm((2,), (), sample['image'].dtype, dtype, (32, 32))
    with pytest.raises(ValueError, match=r'has labels up to 255.*cannot hold'):
        MatchedSamples(folder, [0], form)[0]


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
    def train() -> None:
        seed_everything(0)
        recorder = Recorder()
        trainer = quiet_trainer(
            strategy='ddp', devices=2, max_epochs=2, callbacks=[recorder]
        )
        datamodule = SyntheticAugmentedDataModule(
            CodedDataModule(real_root), synthetic_root, real_share=0.5
        )
        trainer.fit(tiny_task(2, 5), datamodule=datamodule)
        found = {'steps': trainer.global_step, 'numbers': recorder.numbers}
        (tmp_path / f'rank_{trainer.global_rank}.json').write_text(json.dumps(found))

    run_ranks(train, tmp_path)
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
