# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch
from torch import nn

from torchgeo_specdm.models import PFSegNet
from torchgeo_specdm.models.pfsegnet import pfsegnet_loss
from torchgeo_specdm.tasks.segmentation import MultispectralSegmentationTask

from .test_segmentation import IGNORED, BlocksDataModule, batch_of, fit, toy_task


def pf_task(**kwargs: Any) -> MultispectralSegmentationTask:
    return toy_task(**{'model': 'pfsegnet', 'backbone': 'resnet18', **kwargs})


def known_task(**kwargs: Any) -> MultispectralSegmentationTask:
    return pf_task(in_channels=4, num_classes=3, ignore_index=IGNORED, **kwargs)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class TestTraining:
    def test_learns_and_scores(self) -> None:
        task = pf_task()
        trainer, losses = fit(task, BlocksDataModule(), max_epochs=4)
        assert sum(losses[-4:]) < sum(losses[:4])
        assert float(trainer.callback_metrics['val_miou']) > 0.8
        # without the edges, which are most of the loss that is trained on
        assert float(trainer.callback_metrics['val_loss']) < losses[-1] / 10

    def test_odd_sizes_mapped_bands_and_dice(self) -> None:
        task = pf_task(stem='map', loss='ce+dice', class_weights=[1.0, 2.0, 3.0])
        _, losses = fit(task, BlocksDataModule(size=40, train=16), max_epochs=6)
        assert sum(losses[-2:]) < sum(losses[:2])

    def test_batches_without_labels(self) -> None:
        data = BlocksDataModule(ignored=True, train=16)
        trainer, losses = fit(pf_task(), data, max_epochs=1)
        assert losses == [0, 0]
        assert trainer.callback_metrics['train_unlabelled_batches'] == 2

    def test_a_batch_of_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r'batch of one image.*batch_size of 2'):
            fit(pf_task(), BlocksDataModule(batch_size=1, train=2), max_epochs=1)


class TestLoss:
    def test_training_has_its_own(self) -> None:
        weights = [1.0, 2.0, 3.0]
        task = known_task(class_weights=weights).eval()
        blocks = torch.randint(3, (2, 2, 2)).repeat_interleave(16, 1)
        batch = batch_of(blocks.repeat_interleave(16, 2))
        batch['mask'][0, 0] = IGNORED
        assert isinstance(task.model, PFSegNet)
        logits, edges = task.model.forward_with_edges(batch['image'])
        given = torch.tensor(weights)
        expected = pfsegnet_loss(logits, edges, batch['mask'], given, IGNORED)
        loss, labelled = task.training_loss(batch)
        torch.testing.assert_close(loss, expected)
        assert labelled == 2 * 32 * 32 - 32

        # that of validation and test is the one of all networks
        found, logits, _, _ = task._step(batch)
        cross_entropy = nn.CrossEntropyLoss(given, ignore_index=IGNORED)
        torch.testing.assert_close(found, cross_entropy(logits, batch['mask']))
        assert loss > 2 * found

    def test_half_precision(self) -> None:
        task = known_task()
        with torch.autocast('cpu', torch.bfloat16):
            loss, _ = task.training_loss(batch_of(torch.randint(3, (2, 32, 32))))
        loss.backward()
        assert loss.dtype == torch.float32
        gradients = [p.grad for p in task.parameters()]
        assert all(x is not None and x.isfinite().all() for x in gradients)

    def test_loss_of_a_half_precision_network_is_not(self) -> None:
        task = known_task().bfloat16().eval()
        batch = batch_of(torch.randint(3, (2, 32, 32)))
        batch['image'] = batch['image'].bfloat16()
        assert isinstance(task.model, PFSegNet)
        logits, edges = task.model.forward_with_edges(batch['image'])
        expected = pfsegnet_loss(logits.float(), edges.float(), batch['mask'])
        assert torch.equal(task.training_loss(batch)[0], expected)

    def test_refuses_values_outside(self) -> None:
        with pytest.raises(ValueError, match=r'\[3\].*\[0, 1, 2\].*num_classes'):
            known_task().training_loss(batch_of(torch.full((2, 32, 32), 3)))


def test_groups() -> None:
    task = known_task(lr=1e-3, head_lr_factor=10.0)
    groups = task._parameter_groups()
    rate = {id(p): group['lr'] for group in groups for p in group['params']}
    assert rate.keys() == {id(p) for p in task.parameters()}
    assert isinstance(task.model, PFSegNet)
    encoder = {id(p) for p in task.model.network.get_submodule('encoder').parameters()}
    assert {rate[key] for key in encoder} == {1e-3}
    assert {rate[key] for key in rate.keys() - encoder} == {1e-2}


def test_default_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone='mit_b0' must be.*'resnet50s'"):
        toy_task(model='pfsegnet', in_channels=4, num_classes=3)
