# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from tests.conftest import quiet_trainer
from tests.study.worlds import TinyTask
from torchgeo_specdm import SelfTraining
from torchgeo_specdm.compat import SemanticSegmentationTask

NO_LABEL = 255
Samples = list[dict[str, Tensor]]


def world(count: int, signs: Sequence[float], labelled: bool, seed: int) -> Samples:
    """Blocks of two classes; a band of sign 1 shows them, one of sign 0 does not."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 2, (count, 4, 4), generator=random)
    mask = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
    image = (2 * mask[:, None] - 1) * torch.tensor(signs)[:, None, None]
    image = image + 0.3 * torch.randn(image.shape, generator=random)
    shown = mask if labelled else torch.full_like(mask, NO_LABEL)
    return [{'image': i, 'mask': m} for i, m in zip(image, shown, strict=True)]


class Batches(Callback):
    """The batches that a task is trained on."""

    def __init__(self) -> None:
        self.seen: Samples = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.seen.append({key: value.clone() for key, value in args[2].items()})


def fit(
    task: LightningModule,
    samples: Samples,
    root: Path,
    steps: int,
    *callbacks: Callback,
) -> LightningModule:
    loader = DataLoader(samples, batch_size=len(samples))
    trainer = quiet_trainer(
        root, max_steps=steps, callbacks=list(callbacks), gradient_clip_val=1.0
    )
    trainer.fit(task, loader)
    assert trainer.global_step == steps
    assert math.isfinite(trainer.callback_metrics['train_loss'])
    return task


def tiny(**changes: Any) -> TinyTask:
    torch.manual_seed(0)
    given = {'lr': 1e-2, 'head_lr_factor': 1.0, 'ignore_index': NO_LABEL, **changes}
    return TinyTask(in_channels=2, num_classes=2, **given)


class TestKnownWorld:
    def test_images_alone_teach_what_no_label_shows(self, tmp_path: Path) -> None:
        """Labels come with band 1 alone, images with both, and band 2 is tested."""
        samples = world(8, (1, 0), True, 0) + world(8, (1, 1), False, 1)
        test = world(8, (0, 1), True, 2)
        right = {}
        for name, callbacks in {'plain': [], 'self': [SelfTraining()]}.items():
            task = fit(tiny(), samples, tmp_path, 40, *callbacks).eval()
            with torch.no_grad():
                found = task(torch.stack([s['image'] for s in test])).argmax(1)
            wanted = torch.stack([s['mask'] for s in test])
            right[name] = float((found == wanted).float().mean())
        assert right['plain'] < 0.75 and right['self'] > 0.95

    def test_labels_are_those_that_the_network_is_sure_of(self, tmp_path: Path) -> None:
        samples = world(2, (1, 1), True, 0) + world(4, (1, 1), False, 1)
        samples[2]['image'][0, 0, 0] = torch.nan
        before = [{k: v.clone() for k, v in s.items()} for s in samples]
        # no step changes the network; one of four pixels is just as sure as the line
        task = tiny(lr=1e-30)
        images = torch.stack([s['image'] for s in samples[2:]])
        with torch.no_grad():
            sure, label = task(images).softmax(1).max(1)
        line = float(sure.nanmedian())
        batches = Batches()
        fit(task, samples, tmp_path, 1, SelfTraining(line), batches)
        (batch,) = batches.seen
        for key in ('image', 'mask'):
            # what has labels, and what the loader holds, stays as it was
            assert batch[key][:2].equal(torch.stack([s[key] for s in before[:2]]))
            assert all(
                a[key].equal(b[key]) or key == 'image'
                for a, b in zip(samples, before, strict=True)
            )
        assert task.training
        read = batch['mask'][2:]
        # a pixel is of its own image or, where a rectangle was pasted, of another
        wanted = label.where(sure > line, NO_LABEL)
        wanted[0, 0, 0] = NO_LABEL
        own = (read == wanted).flatten(1).float().mean(1)
        assert own.mean() > 0.5 and (own == 1).any()
        assert {*read.unique().tolist()} == {0, 1, NO_LABEL}
        # the view keeps the geometry, in another light
        strong = batch['image'][2:][own == 1][0]
        weak = images[own == 1][0]
        assert not torch.allclose(strong, weak, atol=0.1, equal_nan=True)
        both = torch.stack([strong[1].flatten(), weak[1].flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.8

    def test_torchgeos_task_in_bfloat16(self, tmp_path: Path) -> None:
        task = SemanticSegmentationTask(
            model='fcn',
            in_channels=2,
            num_classes=2,
            num_filters=4,
            ignore_index=NO_LABEL,
        )
        samples = world(2, (1, 1), True, 0) + world(2, (1, 1), False, 1)
        batches = Batches()
        trainer = quiet_trainer(
            tmp_path,
            max_steps=2,
            precision='bf16-mixed',
            callbacks=[SelfTraining(0.0), batches],
        )
        # its schedule follows the validation loss
        scored = DataLoader(samples[:2], batch_size=2)
        trainer.fit(task, DataLoader(samples, batch_size=4), scored)
        assert trainer.global_step == 2
        assert trainer.callback_metrics['train_pseudo_labelled'] == 1
        assert all((b['mask'] < 2).all() for b in batches.seen)


class TestRefusals:
    @pytest.mark.parametrize('threshold', [-0.1, 1.0])
    def test_no_probability(self, threshold: float) -> None:
        with pytest.raises(ValueError, match=f'threshold={threshold} is a probab'):
            SelfTraining(threshold)

    def test_a_task_without_a_value_for_no_label(self, tmp_path: Path) -> None:
        samples = world(2, (1, 1), True, 0)
        with pytest.raises(ValueError, match='ignore_index=None of TinyTask must be'):
            fit(tiny(ignore_index=None), samples, tmp_path, 1, SelfTraining())

    def test_no_image_without_labels(self, tmp_path: Path) -> None:
        samples = world(2, (1, 1), True, 0)
        with pytest.raises(RuntimeError, match='SelfTraining saw 0 images without'):
            fit(tiny(), samples, tmp_path, 1, SelfTraining())

    def test_a_task_of_one_logit(self, tmp_path: Path) -> None:
        samples = world(2, (1, 1), False, 0)
        task = tiny()
        assert task.model is not None
        task.model.head = torch.nn.Conv2d(32, 1, 1)  # type: ignore[assignment]
        with pytest.raises(ValueError, match=r'TinyTask gives \(2, 1, 16, 16\), but'):
            fit(task, samples, tmp_path, 1, SelfTraining())
