# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor
from torchgeo.datamodules import LandCoverAIDataModule
from torchgeo.main import main

from tests.conftest import quiet_trainer
from torchgeo_specdm import SampleSpec, SyntheticAugmentedDataModule
from torchgeo_specdm.datamodules.batch_mixing import (
    BatchMixDataModule,
    copy_paste,
    cut_mix,
)

from .torchgeo_fakes import (
    CODED,
    CodedDataModule,
    OtherDataModule,
    Recorder,
    coded_mask,
    tiny_task,
    write_coded_pairs,
    write_coded_splits,
    write_config,
    write_landcoverai,
)

COUNT, HEIGHT, WIDTH = 6, 12, 16
METHODS = pytest.mark.parametrize('method', ['cutmix', 'copy_paste'])
DATES = pytest.mark.parametrize('dates', [None, 1, 2, 3])


def coordinates(dates: int | None, classes: int, layer: bool) -> dict[str, Tensor]:
    """Bands are sample, row and column, each date adds 100; labels are at random."""
    axes = (torch.arange(n) for n in (COUNT, HEIGHT, WIDTH))
    image = torch.stack(torch.meshgrid(*axes, indexing='ij'), 1).float()
    if dates is not None:
        image = torch.stack([image + 100 * t for t in range(dates)], 1)
    random = torch.Generator().manual_seed(1)
    mask = torch.randint(classes, (COUNT, HEIGHT, WIDTH), generator=random)
    return {'image': image, 'mask': mask[:, None] if layer else mask}


def donors_of(batch: dict[str, Tensor], mixed: dict[str, Tensor]) -> Tensor:
    """From which sample each pixel comes, (B, H, W); it must have its label along."""
    image, mask = mixed['image'], mixed['mask']
    if image.ndim == 5:
        shift = 100 * torch.arange(image.shape[1]).view(1, -1, 1, 1, 1)
        # all dates come from one place
        assert torch.equal(image - shift, (image - shift)[:, :1].expand_as(image))
        image = image[:, 0]
    sample, row, column = image.long().unbind(1)
    assert torch.equal(row, torch.arange(HEIGHT)[None, :, None].expand_as(row))
    assert torch.equal(column, torch.arange(WIDTH).expand_as(column))
    assert mask.shape == batch['mask'].shape and mask.dtype == batch['mask'].dtype
    labels, before = (m.reshape(-1, HEIGHT, WIDTH) for m in (mask, batch['mask']))
    assert torch.equal(labels, before[sample, row, column])
    return sample


def pasted_in(sample: Tensor, at: int) -> tuple[Tensor, int | None]:
    """Which pixels of a sample are another's, and whose; one other at the most."""
    pasted = sample[at] != at
    others = sample[at][pasted].unique().tolist()
    assert len(others) <= 1
    return pasted, others[0] if others else None


@DATES
@pytest.mark.parametrize('layer', [False, True])
def test_cutmix_pastes_aligned_rectangles(dates: int | None, layer: bool) -> None:
    batch = coordinates(dates, 4, layer) | {'index': torch.arange(COUNT)}
    before = {key: value.clone() for key, value in batch.items()}
    shares, corners, pairs = [], set(), set()
    for seed in range(60):
        torch.manual_seed(seed)
        mixed = cut_mix(batch, 1.0)
        sample = donors_of(batch, mixed)
        assert mixed['index'] is batch['index']
        for at in range(COUNT):
            pasted, other = pasted_in(sample, at)
            rows, columns = pasted.any(1), pasted.any(0)
            assert torch.equal(pasted, rows[:, None] & columns)
            for side in (rows, columns):
                (inside,) = side.nonzero(as_tuple=True)
                assert len(inside) == 0 or inside[-1] - inside[0] + 1 == len(inside)
            shares.append(float(pasted.float().mean()))
            if other is not None:
                corners.add(tuple(pasted.nonzero()[0].tolist()))
                pairs.add((at, other))
    assert all(torch.equal(batch[key], before[key]) for key in batch)
    # the area is uniform, every other sample gives, and rectangles lie anywhere
    assert torch.tensor(shares).mean() == pytest.approx(0.5, abs=0.05)
    assert torch.tensor(shares).std() == pytest.approx(12**-0.5, abs=0.04)
    assert len(pairs) == COUNT * (COUNT - 1) and len(corners) > 40


@DATES
@pytest.mark.parametrize('layer', [False, True])
def test_copy_paste_pastes_one_whole_class(dates: int | None, layer: bool) -> None:
    several = dates is not None and dates > 1
    batch = coordinates(dates, 2 if several else 4, layer)
    labels = batch['mask'].reshape(COUNT, HEIGHT, WIDTH)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        sample = donors_of(batch, copy_paste(batch, 1.0))
        for at in range(COUNT):
            pasted, other = pasted_in(sample, at)
            assert other is not None
            (label,) = labels[other][pasted].unique().tolist()
            # all of the class, and nothing else
            assert torch.equal(pasted, labels[other] == label)
            seen.add((other, label))
    # with several dates 0 is no change
    assert seen == {
        (i, k) for i in range(COUNT) for k in ([1] if several else range(4))
    }


def test_rare_classes_are_as_likely_as_common_ones() -> None:
    batch = coordinates(None, 2, False)
    batch['mask'][:] = 0
    batch['mask'][:, 0, 0] = 3
    torch.manual_seed(0)
    rare = 0
    for _ in range(200):
        sample = donors_of(batch, copy_paste(batch, 1.0))
        own = torch.arange(COUNT)[:, None, None]
        rare += int(((sample != own).flatten(1).sum(1) == 1).sum())
    assert rare / (200 * COUNT) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize('ignored', [255, -1, 0])
def test_unlabelled_pixels_are_never_pasted(ignored: int) -> None:
    batch = coordinates(None, 4, False)
    # one sample has nothing to give
    batch['mask'][2] = ignored
    batch['mask'][:, :5] = ignored
    for seed in range(20):
        torch.manual_seed(seed)
        sample = donors_of(batch, copy_paste(batch, 1.0, ignored))
        assert torch.equal(sample[:, :5], batch['image'][:, 0, :5].long())
        assert all(pasted_in(sample, at)[1] not in (None, 2) for at in range(COUNT))
    batch['mask'][:] = ignored
    mixed = copy_paste(batch, 1.0, ignored)
    assert all(torch.equal(mixed[key], batch[key]) for key in batch)


def test_a_sample_that_alone_can_give_takes_nothing() -> None:
    batch = coordinates(2, 2, True)
    batch['mask'][:] = 0
    batch['mask'][3, 0, 2:4] = 1
    sample = donors_of(batch, copy_paste(batch, 1.0))
    assert [pasted_in(sample, at)[1] for at in range(COUNT)] == [3, 3, 3, None, 3, 3]


@pytest.mark.parametrize('mix', [cut_mix, copy_paste])
def test_probability_is_that_of_each_sample(mix: Callable[..., Any]) -> None:
    batch = coordinates(None, 2, False)
    torch.manual_seed(0)
    changed = [
        pasted_in(donors_of(batch, mix(batch, 0.3)), at)[1] is not None
        for at in range(COUNT)
        for _ in range(150)
    ]
    assert sum(changed) / len(changed) == pytest.approx(0.3, abs=0.05)


def fit(datamodule: Any, **trainer: Any) -> tuple[Recorder, dict[str, Tensor]]:
    seed_everything(5)
    recorder, task = Recorder(), tiny_task(3, 5)
    fitter = quiet_trainer(**{'max_epochs': 2, 'callbacks': [recorder]} | trainer)
    fitter.fit(task, datamodule=datamodule)
    assert fitter.global_step > 0 and all(map(math.isfinite, recorder.losses))
    assert math.isfinite(float(fitter.callback_metrics['val_loss']))
    return recorder, task.state_dict()


def same(ours: Recorder, theirs: Recorder) -> bool:
    pairs = zip(ours.batches, theirs.batches, strict=True)
    return all(
        mine.keys() == other.keys() and torch.equal(mine[key], other[key])
        for mine, other in pairs
        for key in mine
    )


@pytest.fixture(scope='module')
def landcover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_landcoverai(tmp_path_factory.mktemp('landcover') / 'real')


@METHODS
def test_torchgeo_module_and_task(landcover: Path, method: Any) -> None:
    def make(probability: float) -> BatchMixDataModule:
        real = LandCoverAIDataModule(root=landcover, batch_size=4)
        return BatchMixDataModule(real, method, probability)

    plain, weights = fit(LandCoverAIDataModule(root=landcover, batch_size=4))
    never, same_weights = fit(make(0))
    assert same(never, plain) and never.losses == plain.losses
    assert all(torch.equal(weights[key], same_weights[key]) for key in weights)
    mixed, _ = fit(make(1.0))
    again, _ = fit(make(1.0))
    assert same(mixed, again) and mixed.losses == again.losses
    assert not same(mixed, plain)
    for batch in mixed.batches:
        assert batch['image'].shape == (4, 3, 32, 32)
        assert batch['mask'].dtype == torch.int64 and batch['mask'].max() < 5


class Watched(CodedDataModule):
    """Keeps what it gives, by stage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.given: dict[str, list[dict[str, Tensor]]] = {}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        stage = self.trainer.state.stage.value
        self.given.setdefault(stage, []).append(batch)
        return batch


@METHODS
def test_only_training_is_mixed(tmp_path: Path, method: Any) -> None:
    real = Watched(write_coded_splits(tmp_path / 'real'))
    datamodule = BatchMixDataModule(real, method, 1.0)
    task, seen = tiny_task(2, 5), []
    # what the task is given, in every stage
    task.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    recorder = Recorder()
    trainer = quiet_trainer(max_epochs=2, callbacks=[recorder])
    trainer.fit(task, datamodule=datamodule)
    trainer.validate(task, datamodule=datamodule, verbose=False)
    trainer.test(task, datamodule=datamodule, verbose=False)
    training = real.given.pop('train')
    held_out = [batch['image'] for given in real.given.values() for batch in given]
    assert len(real.given) >= 3 and len(held_out) == 5
    assert all(any(x is image for x in seen) for image in held_out)
    for given, batch in zip(training, recorder.batches, strict=True):
        assert not torch.equal(batch['image'], given['image'])
        # its own label for each pixel still, after flips
        assert torch.equal(coded_mask(batch['image']), batch['mask'])
    assert datamodule.val_dataset is real.val_dataset
    assert datamodule.test_dataset is real.test_dataset
    assert datamodule.train_dataset is real.train_dataset
    assert datamodule.train_aug is real.train_aug
    assert datamodule.collate_fn is real.collate_fn


@pytest.mark.parametrize(('given', 'ignored'), [(None, 4), (3, 3)])
def test_ignore_index_of_the_spec_or_given(
    tmp_path: Path, given: int | None, ignored: int
) -> None:
    real = CodedDataModule(write_coded_splits(tmp_path))
    real.spec = SampleSpec(CODED.bands, CODED.classes[:4], ignore_index=4)
    datamodule = BatchMixDataModule(real, 'copy_paste', 1.0, given)
    assert datamodule.spec is real.spec
    trainer = quiet_trainer(max_epochs=2, callbacks=[recorder := Recorder()])
    trainer.fit(tiny_task(2, 5), datamodule=datamodule)
    pasted = set()
    for batch in recorder.batches:
        numbers = batch['image'][:, 1]
        own = numbers.flatten(1).mode(1).values[:, None, None]
        pasted |= set(batch['mask'][numbers != own].tolist())
    assert pasted == {*range(5)} - {ignored}


def test_shows_what_the_real_module_finds_in_setup() -> None:
    datamodule = BatchMixDataModule(OtherDataModule(), 'cutmix')
    assert not hasattr(datamodule, 'spec')
    datamodule.setup('fit')
    assert datamodule.mean.tolist() == [1, 2] and datamodule.std.tolist() == [3, 4]
    assert len(datamodule.train_dataset) == 8 and len(datamodule.val_dataset) == 1


@METHODS
def test_batch_of_one_stays(tmp_path: Path, method: Any) -> None:
    real = CodedDataModule(write_coded_splits(tmp_path), batch_size=1)
    datamodule = BatchMixDataModule(real, method, 1.0)
    trainer = quiet_trainer(max_epochs=1, callbacks=[recorder := Recorder()])
    with pytest.warns(UserWarning, match='batch_size=1 of CodedDataModule leaves no'):
        trainer.fit(tiny_task(2, 5), datamodule=datamodule)
    assert len(recorder.batches) == 8
    for batch in recorder.batches:
        assert len(batch['image'][:, 1].unique()) == 1


@METHODS
def test_around_a_mix_and_inside_one(tmp_path: Path, method: Any) -> None:
    root = write_coded_splits(tmp_path / 'real')
    synthetic = write_coded_pairs(tmp_path / 'synthetic', 2000, 8)
    outer = BatchMixDataModule(
        SyntheticAugmentedDataModule(CodedDataModule(root), synthetic), method, 1.0
    )
    inner = SyntheticAugmentedDataModule(
        BatchMixDataModule(CodedDataModule(root), method, 1.0), synthetic
    )
    for datamodule in (outer, inner):
        recorder = Recorder()
        trainer = quiet_trainer(max_epochs=2, callbacks=[recorder])
        trainer.fit(tiny_task(2, 5), datamodule=datamodule)
        assert trainer.global_step == 8
        for batch in recorder.batches:
            assert torch.equal(coded_mask(batch['image']), batch['mask'])
        assert any(
            len(sample.unique()) == 2
            for batch in recorder.batches
            for sample in batch['image'][:, 1]
        )
        assert len({n for numbers in recorder.numbers for n in numbers}) > 8


class Given(OtherDataModule):
    """Gives the batch that it was made with."""

    def __init__(self, batch: dict[str, Any]) -> None:
        super().__init__(batch_size=4)
        self.batch = batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.batch


IMAGE = torch.zeros(4, 2, 8, 8)


@pytest.mark.parametrize(
    ('batch', 'message'),
    [
        ({'image': IMAGE, 'label': 1}, r"keys \['image', 'label'\], but mixing needs"),
        ({'image': IMAGE, 'mask': torch.zeros(4, 2, 8, 8)}, r'masks of \(4, 2, 8, 8\)'),
        ({'image': IMAGE, 'mask': torch.zeros(4, 4, 4)}, r'masks of \(4, 4, 4\)'),
        ({'image': IMAGE[0], 'mask': torch.zeros(2, 8, 8)}, r'images of \(2, 8, 8\)'),
    ],
)
def test_refuses_batches(batch: dict[str, Any], message: str) -> None:
    datamodule = BatchMixDataModule(Given(batch), 'cutmix')
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1, num_sanity_val_steps=0).fit(
            tiny_task(2, 5), datamodule=datamodule
        )


def test_refuses_arguments() -> None:
    real: Any = OtherDataModule()
    method: Any = 'mixup'
    with pytest.raises(ValueError, match=r"method='mixup' must be one of"):
        BatchMixDataModule(real, method)
    for probability in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=f'probability={probability} must lie'):
            BatchMixDataModule(real, 'cutmix', probability)
    real = object()
    with pytest.raises(TypeError, match='real=object must be a NonGeoDataModule'):
        BatchMixDataModule(real, 'cutmix')


def test_command_line(
    tmp_path: Path, landcover: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = []
    monkeypatch.setattr(
        'torchgeo_specdm.datamodules.batch_mixing.copy_paste',
        lambda *given: mixed.append(given[1:]) or copy_paste(*given),
    )
    config = write_config(
        tmp_path / 'config.yaml',
        'batch_mixing.BatchMixDataModule',
        landcover,
        'method: copy_paste',
    )
    main(['fit', '--config', str(config), '--data.init_args.probability', '0.75'])
    assert mixed == [(0.75, None)] * 2
