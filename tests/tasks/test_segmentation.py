# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset
from torchgeo.main import main
from torchvision.models._api import WeightsEnum

from tests.conftest import Losses, quiet_trainer
from torchgeo_specdm.models.segformer import BandMapper
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.tasks.segmentation import MultispectralSegmentationTask

CLASSES = ('water', 'forest', 'city')
IGNORED = 255
#: One with a loss of its own too.
NETWORKS = ({}, {'model': 'pfsegnet', 'backbone': 'resnet18'})


class Blocks(NonGeoDataset):
    """Blocks of 8 x 8 pixels; the class can be read from the four bands."""

    def __init__(
        self, length: int, seed: int, size: int = 32, ignored: bool = False
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.randint(2, (length, size // 8, size // 8), generator=generator)
        # the class 'city' never occurs
        self.masks = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
        noise = torch.randn(length, 4, size, size, generator=generator)
        signal = 2.0 * self.masks[:, None] - 1
        self.images = signal * torch.tensor([1.0, -1, 1, 0])[:, None, None] + noise / 4
        if ignored:
            self.masks = torch.full_like(self.masks, IGNORED)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'image': self.images[index], 'mask': self.masks[index]}


class BlocksDataModule(NonGeoDataModule):
    mean = torch.tensor(0.0)
    std = torch.tensor(1.0)

    def __init__(
        self,
        batch_size: int = 8,
        train: int = 32,
        size: int = 32,
        ignored: bool = False,
        dates: int = 1,
    ) -> None:
        super().__init__(Blocks, batch_size)
        self.train = train
        self.blocks = {'size': size, 'ignored': ignored}
        self.spec = SampleSpec(
            ('B02', 'B03', 'B04', 'B08'), CLASSES, dates=dates, ignore_index=IGNORED
        )

    def setup(self, stage: str) -> None:
        self.train_dataset = Blocks(self.train, 0, **self.blocks)
        self.val_dataset = Blocks(8, 1, **self.blocks)
        self.test_dataset = Blocks(8, 2, **self.blocks)
        self.predict_dataset = Blocks(4, 3, **self.blocks)


def fit(
    task: LightningModule, datamodule: NonGeoDataModule, **kwargs: Any
) -> tuple[Trainer, list[float]]:
    """Fit with a fixed seed; a step was made and all losses are finite."""
    losses = Losses()
    callbacks = [losses, *kwargs.pop('callbacks', [])]
    trainer = quiet_trainer(callbacks=callbacks, **kwargs)
    trainer.fit(task, datamodule=datamodule)
    assert trainer.global_step > 0
    assert len(losses.values) == trainer.global_step
    assert all(map(math.isfinite, losses.values))
    return trainer, losses.values


def toy_task(**kwargs: Any) -> MultispectralSegmentationTask:
    options: dict[str, Any] = {'lr': 1e-3, 'head_lr_factor': 1.0, **kwargs}
    return MultispectralSegmentationTask(**options)


def known_task(**kwargs: Any) -> MultispectralSegmentationTask:
    return toy_task(in_channels=4, num_classes=3, **kwargs)


def batch_of(mask: Tensor) -> dict[str, Tensor]:
    return {'image': torch.rand(len(mask), 4, *mask.shape[-2:]), 'mask': mask}


@pytest.fixture(autouse=True)
def seed() -> None:
    seed_everything(0)


class TestTraining:
    def test_learns_and_scores(self, tmp_path: Path) -> None:
        task, data = toy_task(), BlocksDataModule()
        callbacks = [ModelCheckpoint(tmp_path, monitor=task.monitor, mode=task.mode)]
        trainer, losses = fit(
            task, data, max_epochs=10, callbacks=callbacks, enable_checkpointing=True
        )
        assert losses[0] > 0.5
        assert max(losses[-4:]) < losses[0] / 4
        assert float(trainer.callback_metrics['val_miou']) > 0.8

        (tested,) = trainer.test(task, data, verbose=False)
        names = {'loss', 'miou', 'f1', 'accuracy', *(f'iou/{name}' for name in CLASSES)}
        assert set(tested) == {f'test_{name}' for name in names}
        scores = [tested[f'test_iou/{name}'] for name in CLASSES]
        # no mask has a city: NaN, or 0 where one is predicted
        assert math.isnan(scores[-1]) or scores[-1] == 0
        assert tested['test_miou'] == pytest.approx(np.nanmean(scores))

        (predicted,) = trainer.predict(task, data.predict_dataloader())
        assert predicted.dtype == torch.int64
        assert predicted.shape == (4, 32, 32)
        right = (predicted == data.predict_dataset.masks).float().mean()
        assert right > 0.8

        path = callbacks[0].best_model_path
        loaded = MultispectralSegmentationTask.load_from_checkpoint(path)
        task.load_state_dict(torch.load(path)['state_dict'])
        images = data.test_dataset.images
        with torch.no_grad():
            assert torch.equal(loaded.eval()(images), task.eval()(images))
        assert loaded.hparams['in_channels'] == 4
        assert loaded.hparams['num_classes'] == 3
        assert loaded.hparams['ignore_index'] == IGNORED

    @pytest.mark.parametrize(
        'options',
        [
            {'stem': 'map'},
            {'loss': 'ce+dice', 'class_weights': [1.0, 2.0, 3.0]},
            {'model': 'unet', 'backbone': 'resnet18', 'stem': 'map'},
            {'model': 'deeplabv3+', 'backbone': 'resnet18'},
        ],
        ids=str,
    )
    def test_choices(self, options: dict[str, Any]) -> None:
        task = toy_task(**options)
        # an odd size, which none of the networks takes by itself
        _, losses = fit(task, BlocksDataModule(size=40), max_epochs=2)
        assert losses[-1] < losses[0]

    def test_batches_without_labels(self) -> None:
        data = BlocksDataModule(ignored=True)
        trainer, losses = fit(toy_task(loss='ce+dice'), data, max_epochs=1)
        assert losses == [0, 0, 0, 0]
        assert trainer.callback_metrics['train_unlabelled_batches'] == 4
        assert trainer.callback_metrics['val_miou'].isnan()

    def test_schedule(self) -> None:
        task = toy_task(lr=1e-3, head_lr_factor=10.0, warmup=0.25)
        rates = Rates()
        fit(task, BlocksDataModule(), max_epochs=2, callbacks=[rates])
        share = [1e-6, 0.5 * 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
        backbone, head = (list(x) for x in zip(*rates.values, strict=True))
        assert backbone == pytest.approx([1e-3 * x for x in share], rel=1e-4)
        assert head == pytest.approx([1e-2 * x for x in share], rel=1e-4)

    def test_endless_run_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r'max_epochs=-1 give the run no end'):
            fit(toy_task(), BlocksDataModule(), max_epochs=-1)

    def test_command_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(Path(__file__).parent)
        monkeypatch.chdir(tmp_path)
        Path('config.yaml').write_text(CONFIG)
        main(['fit', '--config=config.yaml'])
        (run,) = Path('runs').iterdir()
        assert 'in_channels: 4' in (run / 'hparams.yaml').read_text()
        assert 'val_iou/forest' in (run / 'metrics.csv').read_text()
        (checkpoint,) = (run / 'checkpoints').glob('*step=4*')
        main(['test', '--config=config.yaml', f'--ckpt_path={checkpoint}'])
        MultispectralSegmentationTask.load_from_checkpoint(checkpoint)


CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 1
  enable_progress_bar: false
  logger:
    class_path: CSVLogger
    init_args: {save_dir: ., name: runs}
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {monitor: val_miou, mode: max}
model:
  class_path: torchgeo_specdm.tasks.segmentation.MultispectralSegmentationTask
  init_args:
    lr: 1e-3
data:
  class_path: test_segmentation.BlocksDataModule
"""


class Rates(Callback):
    """Keeps the learning rates of backbone and head at every step."""

    def __init__(self) -> None:
        self.values: list[tuple[float, float]] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        rates = [group['lr'] for group in trainer.optimizers[0].param_groups]
        self.values.append((min(rates), max(rates)))


class TestOptimizer:
    def test_groups(self) -> None:
        task = known_task(lr=1e-3, head_lr_factor=10.0, stem='map')
        groups = task._parameter_groups()
        kinds = {(group['lr'], group['weight_decay']) for group in groups}
        assert kinds == {(1e-3, 0.01), (1e-3, 0.0), (1e-2, 0.01), (1e-2, 0.0)}
        grouped = [id(p) for group in groups for p in group['params']]
        assert sorted(grouped) == sorted(id(p) for p in task.parameters())

        rate, decay = (
            {id(p): group[key] for group in groups for p in group['params']}
            for key in ('lr', 'weight_decay')
        )
        mapper, encoder = task.model.mapper, task.model.network.encoder
        assert isinstance(mapper, BandMapper)
        assert rate[id(mapper.weight)] == 1e-2
        assert {rate[id(p)] for p in encoder.parameters()} == {1e-3}
        norm = encoder.norm1
        assert isinstance(norm, nn.LayerNorm)
        assert {decay[id(p)] for p in norm.parameters()} == {0.0}


class TestLoss:
    def test_cross_entropy(self) -> None:
        task = known_task(ignore_index=IGNORED, class_weights=[1.0, 2.0, 3.0]).eval()
        batch = batch_of(torch.randint(3, (2, 32, 32)))
        batch['mask'][0, 0] = IGNORED
        loss, logits, _, labelled = task._step(batch)
        weights = torch.tensor([1.0, 2.0, 3.0])
        expected = nn.CrossEntropyLoss(weights, ignore_index=IGNORED)
        torch.testing.assert_close(loss, expected(logits, batch['mask']))
        assert labelled == 2 * 32 * 32 - 32

    @pytest.mark.parametrize('given', NETWORKS)
    def test_dice_is_added(self, given: dict[str, Any]) -> None:
        batch = batch_of(torch.randint(3, (2, 1, 32, 32)))
        both = known_task(loss='ce+dice', **given).eval()
        single = known_task(**given).eval()
        single.load_state_dict(both.state_dict())
        difference = both.training_loss(batch)[0] - single.training_loss(batch)[0]
        assert 0 < float(difference.detach()) < 1

    @pytest.mark.parametrize('given', NETWORKS)
    def test_no_label_has_a_gradient(self, given: dict[str, Any]) -> None:
        task = known_task(ignore_index=IGNORED, **given)
        loss, labelled = task.training_loss(batch_of(torch.full((2, 32, 32), IGNORED)))
        loss.backward()
        assert loss == labelled == 0
        assert all(p.grad is not None and not p.grad.any() for p in task.parameters())

    def test_mask_may_have_a_channel(self) -> None:
        task = known_task().eval()
        batch = batch_of(torch.randint(3, (2, 32, 32)))
        with_channel = batch | {'mask': batch['mask'][:, None]}
        assert torch.equal(task._step(batch)[0], task._step(with_channel)[0])

    def test_half_precision(self) -> None:
        task = known_task()
        with torch.autocast('cpu', torch.bfloat16):
            loss, logits, *_ = task._step(batch_of(torch.randint(3, (2, 32, 32))))
        assert loss.dtype == logits.dtype == torch.float32

    @pytest.mark.parametrize('value', [-1, 3, IGNORED])
    def test_refuses_values_outside(self, value: int) -> None:
        mask = torch.zeros(2, 32, 32, dtype=torch.long)
        mask[1, 5, 5] = value
        with pytest.raises(ValueError, match=rf'\[{value}\].*\[0, 1, 2\].*num_classes'):
            known_task().training_step(batch_of(mask), 0)


class TestArguments:
    @pytest.mark.parametrize(
        'name, value, choice',
        [
            ('model', 'segfromer', 'segformer'),
            ('stem', 'wide', 'widen'),
            ('loss', 'dice', 'ce+dice'),
            ('backbone', 'mit_b9', 'mit_b5'),
        ],
    )
    def test_refuses_typos(self, name: str, value: str, choice: str) -> None:
        with pytest.raises(
            ValueError, match=rf"{name}='{value}'.*'{re.escape(choice)}'"
        ):
            known_task(**{name: value})

    @pytest.mark.parametrize('warmup', [-0.1, 1.0, 1500])
    def test_refuses_warmup(self, warmup: float) -> None:
        with pytest.raises(ValueError, match=rf'warmup={warmup} is a share'):
            toy_task(warmup=warmup)

    @pytest.mark.parametrize('weights', [[1.0, 2.0], [1.0, 0.0, 1.0], [1.0, -1.0, 1.0]])
    def test_refuses_class_weights(self, weights: list[float]) -> None:
        with pytest.raises(ValueError, match=r'one positive number for each of 3'):
            known_task(class_weights=weights)

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
        known_task(backbone='mit_b0')
        with pytest.raises(RuntimeError, match='weights of mit_b0 cannot be fetched'):
            known_task(backbone='mit_b0', weights=True)

    def test_weights_of_torchgeo(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = smp.encoders.get_encoder('resnet18', in_channels=13, weights=None)
        monkeypatch.setattr(
            WeightsEnum, 'get_state_dict', lambda self, **options: made.state_dict()
        )
        given = {'model': 'unet', 'backbone': 'resnet18', 'num_classes': 3}
        given |= {'weights': 'ResNet18_Weights.SENTINEL2_ALL_MOCO'}
        task = MultispectralSegmentationTask(
            in_channels=13, freeze_backbone=True, **given
        )
        encoder = task.model.network.encoder
        assert encoder.conv1.weight.equal(made.conv1.weight)
        assert not any(p.requires_grad for p in encoder.parameters())
        assert any(p.requires_grad for p in task.parameters())
        with pytest.raises(ValueError, match=r'resnet18 and 4 bands .*size mismatch'):
            MultispectralSegmentationTask(in_channels=4, **given)
        with pytest.raises(ValueError, match=r"weights='ResNet18_Weights\.MARS' must"):
            known_task(weights='ResNet18_Weights.MARS')

    def test_begins_with_another_training(self, tmp_path: Path) -> None:
        path = tmp_path / 'last.ckpt'
        other = toy_task()
        trainer, _ = fit(other, BlocksDataModule(), max_epochs=1)
        trainer.save_checkpoint(path)
        with pytest.warns(UserWarning, match='start untrained: .*segmentation_head'):
            task = toy_task(in_channels=4, num_classes=7, weights=str(path))
        trained, begun = (t.model.network.state_dict() for t in (other, task))
        same = {name for name in trained if trained[name].equal(begun[name])}
        assert {name.split('.')[0] for name in trained.keys() - same} == {
            'segmentation_head'
        }
        with pytest.raises(ValueError, match='has no weights of a Segformer with this'):
            known_task(backbone='mit_b1', weights=str(path))
        with pytest.raises(ValueError, match=r'weights=.* cannot be read .*No such'):
            known_task(weights=str(tmp_path / 'none.ckpt'))

    def test_hyperparameters_are_plain(self) -> None:
        task = known_task(class_weights=[1.0, 2.0, 3.0])
        plain = (str, int, float, bool, list, type(None))
        assert all(isinstance(value, plain) for value in task.hparams.values())
        assert 'weights' not in task.hparams
        assert 'class_weights' not in task.state_dict()


class TestSpec:
    def set_up(self, task: LightningModule, **changes: Any) -> None:
        data = BlocksDataModule()
        data.spec = replace(data.spec, **changes)
        task.trainer = Trainer(logger=False, accelerator='cpu')
        task.trainer.datamodule = data
        task.setup('fit')

    def test_fills_in_what_is_missing(self) -> None:
        task = toy_task(stem='map')
        assert task.model is None
        self.set_up(task)
        assert task.hparams['in_channels'] == 4
        assert task.hparams['num_classes'] == 3
        assert task.hparams['ignore_index'] == IGNORED
        assert task.hparams == task.hparams_initial
        assert task.val_scores.ignore_index == IGNORED
        # the mapper starts from B04, B03, B02
        image = torch.rand(1, 4, 32, 32)
        assert torch.equal(task.model.mapper(image), image[:, [2, 1, 0]])

    def test_given_network_is_kept(self) -> None:
        task = known_task()
        model = task.model
        self.set_up(task)
        assert task.model is model
        assert task.val_scores.ignore_index == IGNORED

    def test_given_ignore_index_is_kept(self) -> None:
        task = known_task(ignore_index=0)
        self.set_up(task)
        assert task.hparams['ignore_index'] == 0

    @pytest.mark.parametrize('name', ['in_channels', 'num_classes'])
    def test_refuses_other_data(self, name: str) -> None:
        task = toy_task(**{name: 7})
        with pytest.raises(ValueError, match=rf'{name}=7 of the task .*, [34] \(.*B02'):
            self.set_up(task)

    def test_refuses_more_dates(self) -> None:
        with pytest.raises(ValueError, match=r'dates=2 .*change detection'):
            self.set_up(toy_task(), dates=2)

    def test_refuses_class_weights_of_other_data(self) -> None:
        with pytest.raises(ValueError, match=r'one positive number for each of 3'):
            self.set_up(toy_task(class_weights=[1.0, 2.0]))

    def test_needs_a_spec_or_numbers(self) -> None:
        loader = DataLoader(Blocks(4, 0), batch_size=4)
        match = r'in_channels=None and num_classes=3 must be known.*`spec`'
        with pytest.raises(ValueError, match=match):
            quiet_trainer().fit(toy_task(num_classes=3), loader)

    def test_class_ids_without_a_spec(self) -> None:
        loader = DataLoader(Blocks(4, 0), batch_size=4)
        (scores,) = quiet_trainer().validate(known_task(), loader, verbose=False)
        assert {'val_iou/0', 'val_iou/1', 'val_iou/2'} <= set(scores)
