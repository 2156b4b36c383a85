# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.metrics.change import ChangeEvidence

SPEC = SampleSpec(('a', 'b', 'c'), ('no change', 'change'), dates=2, scale=1e-4)


def evidence(images: Tensor, masks: Tensor) -> SimpleNamespace:
    metric = ChangeEvidence(SPEC)
    for part in zip(images.split(30), masks.split(30), strict=True):
        metric.update(*part)
    return SimpleNamespace(**metric.compute())


def pairs(inside: float, outside: float, dates: int = 2) -> tuple[Tensor, Tensor]:
    """Digital numbers that change by so much, with a quarter of changed pixels."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(100, 8, 8).long()
    masks[:, :4, 4:] = 1
    first = 1000 + 100 * torch.randn(100, 3, 8, 8, generator=generator)
    step = torch.where(masks == 1, inside, outside)[:, None]
    images = torch.stack([first + step * t * (-1) ** t for t in range(dates)], 1)
    if dates > 2:
        images = torch.stack([first + step * (t % 2) for t in range(dates)], 1)
    return images, masks


@pytest.mark.parametrize('dates', [2, 3])
def test_known_differences(dates: int) -> None:
    found = evidence(*pairs(500, 100, dates))
    assert found.inside == pytest.approx(0.05, rel=1e-4)
    assert found.outside == pytest.approx(0.01, rel=1e-4)
    assert found.detection == pytest.approx(1)
    assert found.changed == 0.25
    assert found.pixels == 100 * 64


def test_equal_differences_are_no_evidence() -> None:
    images, masks = pairs(0, 0)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    found = evidence(images + 50 * noise, masks)
    assert found.inside == pytest.approx(found.outside, rel=0.05)
    assert found.detection == pytest.approx(0.5, abs=0.02)


def test_shuffled_masks_lose_the_evidence() -> None:
    images, masks = pairs(500, 100)
    turned = masks.flip(-1)
    found = evidence(images, turned)
    assert found.detection < 0.5


def test_unlabelled_pixels_do_not_count() -> None:
    images, masks = pairs(500, 100)
    images[:, 1, :, 0] += 9000
    masks[:, 0] = 255
    assert evidence(images, masks).pixels == 100 * 56
    masks[..., 0] = -1
    assert evidence(images, masks).outside == pytest.approx(0.01, rel=1e-4)


def test_no_change_at_all() -> None:
    images, masks = pairs(500, 100)
    found = evidence(images, torch.zeros_like(masks))
    assert math.isnan(found.inside) and math.isnan(found.detection)
    assert found.changed == 0
