# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch import Tensor, nn

from torchgeo_specdm.metrics.alignment import calibrated, judge_agreement

CLASSES = 4


class Oracle(nn.Module):
    """Reads the class off the first band, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.modes: set[bool] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        self.modes.add(self.training)
        planes = torch.arange(CLASSES).view(-1, 1, 1)
        return -(images[:, :1] - planes).abs()


def pairs(count: int = 70) -> tuple[Tensor, Tensor]:
    """Images whose first band is the mask: whole quarters of one class."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(CLASSES, (count, 2, 2), generator=generator)
    masks = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return torch.stack([masks.float(), torch.rand(masks.shape)], 1), masks


class TestJudgeAgreement:
    def test_an_oracle_agrees(self) -> None:
        images, masks = pairs()
        found = judge_agreement(Oracle(), images, masks, CLASSES)
        assert found[:2] == (1, 1)

    def test_shuffled_pairs_are_near_chance(self) -> None:
        images, masks = pairs()
        found = judge_agreement(Oracle(), images, masks.roll(1, 0), CLASSES)
        assert found.accuracy == pytest.approx(1 / CLASSES, abs=0.06)
        # right and wrong alike: p / (2 - p)
        assert found.miou == pytest.approx(1 / (2 * CLASSES - 1), abs=0.04)

    def test_half_right(self) -> None:
        images, masks = pairs()
        images[:35, 0] = (images[:35, 0] + 1) % CLASSES
        found = judge_agreement(Oracle(), images, masks, CLASSES)
        assert found.accuracy == pytest.approx(0.5)

    @pytest.mark.parametrize('value', [255, -1])
    def test_pixels_without_a_label_do_not_count(self, value: int) -> None:
        images, masks = pairs()
        images[:, 0, :4] = (images[:, 0, :4] + 1) % CLASSES
        assert judge_agreement(Oracle(), images, masks, CLASSES).accuracy == 0.75
        masks[:, :4] = value
        assert judge_agreement(Oracle(), images, masks, CLASSES)[:2] == (1, 1)

    def test_a_class_that_never_occurs_is_left_out(self) -> None:
        images, masks = pairs()
        images[:, 0].clamp_(max=2)
        found = judge_agreement(Oracle(), images, masks.clamp(max=2), CLASSES)
        assert found[:2] == (1, 1)

    @pytest.mark.parametrize('training', [True, False])
    def test_judges_in_evaluation_mode_in_batches(self, training: bool) -> None:
        judge = Oracle().train(training)
        images, masks = pairs()
        judge_agreement(judge, images.requires_grad_(), masks, CLASSES)
        assert sum(judge.batches) == 70 and max(judge.batches) <= 64
        assert judge.modes == {False}
        assert judge.training == training


class TestCalibrated:
    @pytest.mark.parametrize(
        'value, expected', [(0.2, 0), (0.8, 1), (0.5, 0.5), (0.1, -1 / 6), (0.92, 1.2)]
    )
    def test_between_shuffled_and_real(self, value: float, expected: float) -> None:
        assert calibrated(value, 0.2, 0.8) == pytest.approx(expected)

    @pytest.mark.parametrize('real', [0.2, 0.1, math.nan])
    def test_is_nothing_without_a_range(self, real: float) -> None:
        assert math.isnan(calibrated(0.5, 0.2, real))
