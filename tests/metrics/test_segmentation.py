# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_f1_score,
    multiclass_jaccard_index,
)

from torchgeo_specdm.metrics.segmentation import SegmentationScores, count_labelled


def random_ids(seed: int, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Predictions that are right for about half of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 16, 16)
    mask = torch.randint(num_classes, shape, generator=generator)
    guess = torch.randint(num_classes, shape, generator=generator)
    right = torch.rand(shape, generator=generator) < 0.5
    return torch.where(right, mask, guess), mask


class TestSegmentationScores:
    def test_by_hand(self) -> None:
        scores = SegmentationScores(2)
        scores.update(torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 1], [1, 1]]))
        values = scores.compute()
        assert values['iou'].tolist() == pytest.approx([1 / 2, 2 / 3])
        assert values['miou'].item() == pytest.approx(7 / 12)
        assert values['f1'].item() == pytest.approx((2 / 3 + 4 / 5) / 2)
        assert values['accuracy'].item() == 0.75
        assert values['pixels'].tolist() == [1, 3]

    def test_agrees_with_torchmetrics_where_all_classes_occur(self) -> None:
        prediction, mask = random_ids(0)
        scores = SegmentationScores(4)
        scores.update(prediction, mask)
        values = scores.compute()
        iou = multiclass_jaccard_index(prediction, mask, 4, average=None)
        f1 = multiclass_f1_score(prediction, mask, 4, average='macro')
        torch.testing.assert_close(values['iou'], iou)
        torch.testing.assert_close(values['miou'], iou.mean())
        torch.testing.assert_close(values['f1'], f1)
        right = (prediction == mask).float().mean()
        torch.testing.assert_close(values['accuracy'], right)

    def test_batches_are_counted_not_averaged(self) -> None:
        prediction, mask = random_ids(0)
        whole, parts = SegmentationScores(4), SegmentationScores(4)
        whole.update(prediction, mask)
        parts.update(prediction[:1], mask[:1])
        parts.update(prediction[1:], mask[1:])
        assert torch.equal(whole.confusion, parts.confusion)
        assert whole.compute()['miou'] == parts.compute()['miou']

    def test_absent_class_is_nan_and_left_out(self) -> None:
        scores = SegmentationScores(3)
        scores.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        values = scores.compute()
        assert values['iou'][:2].tolist() == [0.5, 0.5]
        assert values['iou'][2].isnan()
        assert values['miou'] == 0.5
        assert values['f1'].item() == pytest.approx(2 / 3)
        assert values['pixels'].tolist() == [1, 2, 0]

    def test_class_only_predicted_is_zero(self) -> None:
        scores = SegmentationScores(2)
        scores.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
        assert scores.compute()['iou'].tolist() == [0.5, 0]

    def test_ignored_pixels_do_not_count(self) -> None:
        prediction, mask = random_ids(0)
        ignored, without = SegmentationScores(4, 255), SegmentationScores(4)
        without.update(prediction[1:], mask[1:])
        mask[0] = 255
        ignored.update(prediction, mask)
        assert torch.equal(ignored.confusion, without.confusion)

    def test_ignored_class_has_no_score(self) -> None:
        scores = SegmentationScores(3, ignore_index=0)
        scores.update(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2]))
        values = scores.compute()
        assert values['iou'][0].isnan()
        assert values['iou'][1:].tolist() == [1, 0.5]
        assert values['miou'] == 0.75
        assert values['accuracy'].item() == pytest.approx(2 / 3)

    def test_nothing_scored_is_nan(self) -> None:
        scores = SegmentationScores(2, 255)
        scores.update(torch.zeros(4, dtype=torch.long), torch.full((4,), 255))
        values = scores.compute()
        assert all(math.isnan(values[key]) for key in ('miou', 'f1', 'accuracy'))
        assert values['iou'].isnan().all()

    def test_reset_forgets(self) -> None:
        scores = SegmentationScores(4)
        scores.update(*random_ids(0))
        scores.reset()
        assert scores.confusion.sum() == 0

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(ValueError, match=r'\(2, 3, 8, 8\).*\(2, 8, 8\).*argmax'):
            SegmentationScores(3).update(torch.ones(2, 3, 8, 8), torch.ones(2, 8, 8))


class TestDistributed:
    def test_two_processes_count_together(self) -> None:
        here, there, together = (SegmentationScores(4) for _ in range(3))
        there.update(*random_ids(1))
        for scores, seed in ((here, 0), (together, 0), (together, 1)):
            scores.update(*random_ids(seed))
        # what torchmetrics gathers from the other process
        here.dist_sync_fn = lambda state, group: [state, there.confusion]
        here.distributed_available_fn = lambda: True
        for key, value in together.compute().items():
            assert torch.equal(here.compute()[key], value), key


class TestCountLabelled:
    @pytest.mark.parametrize('ignore_index, expected', [(None, 4), (2, 3), (255, 4)])
    def test_counts(self, ignore_index: int | None, expected: int) -> None:
        assert count_labelled(torch.tensor([0, 1, 1, 2]), 3, ignore_index) == expected

    @pytest.mark.parametrize('value', [-1, 3, 255])
    def test_refuses_values_outside(self, value: int) -> None:
        mask = torch.tensor([[0, value], [2, 2]])
        match = rf'values \[{value}\].*\[0, 1, 2\] and ignore_index=None'
        with pytest.raises(ValueError, match=match):
            count_labelled(mask, 3, None)

    def test_names_few_of_many_values(self) -> None:
        with pytest.raises(ValueError, match=r'\[3, 4, 5, 6, 7, 8, 9, 10\],'):
            count_labelled(torch.arange(100), 3, None)
