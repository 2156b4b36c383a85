# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Do masks fit their images? A network trained on real pairs is the judge."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .segmentation import SegmentationScores

_BATCH = 64


class Agreement(NamedTuple):
    """How a judge's reading of the images agrees with the masks.

    Attributes:
        miou: Mean IoU over classes that occur, in 0..1.
        accuracy: Share of pixels, in 0..1.
        class_f1: F1 of each class, in 0..1; NaN if it does not occur.
    """

    miou: float
    accuracy: float
    class_f1: list[float]


@torch.no_grad()
def judge_agreement(
    judge: nn.Module, images: Tensor, masks: Tensor, num_classes: int
) -> Agreement:
    """Let a segmenter or change detector read images and compare with their masks.

    Args:
        judge: Takes normalised images (B, C, H, W), or (B, T, C, H, W) with T dates,
            and gives class scores (B, K, H, W).
        images: Normalised as the judge was trained, (N, C, H, W) or (N, T, C, H, W).
        masks: Class positions (N, H, W); values that are no class do not count.
        num_classes: Number of classes K.

    Returns:
        The agreement.
    """
    training = judge.training
    judge.eval()
    scores = SegmentationScores(num_classes, ignore_index=-1)
    for start in range(0, len(images), _BATCH):
        mask = masks[start : start + _BATCH]
        mask = mask.where((mask >= 0) & (mask < num_classes), -1)
        reading = judge(images[start : start + _BATCH]).argmax(1).cpu()
        scores.update(reading, mask)
    judge.train(training)
    found = scores.compute()
    miou, accuracy = float(found['miou']), float(found['accuracy'])
    return Agreement(miou, accuracy, found['class_f1'].tolist())


def calibrated(value: float, shuffled: float, real: float) -> float:
    """Place an agreement between chance and real data.

    Args:
        value: Agreement of the synthetic pairs.
        shuffled: Agreement when each image gets another pair's mask.
        real: Agreement on held-out real pairs.

    Returns:
        0 for shuffled pairs, 1 for real ones; NaN if those do not differ.
    """
    return (value - shuffled) / (real - shuffled) if real > shuffled else float('nan')
