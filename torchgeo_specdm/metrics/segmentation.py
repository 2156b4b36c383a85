# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Scores of a segmentation, all from one confusion matrix."""

import torch
from torch import Tensor
from torchmetrics import Metric


class SegmentationScores(Metric):
    """Mean IoU, mean F1, accuracy and the scores of each class over all pixels seen.

    Pixels are counted over the whole epoch and all processes, and the scores are
    computed once from the counts: they are not means of batches. A class that is
    neither in the masks nor in the predictions has no score: it is NaN in the list of
    classes and left out of the means, where a 0 or a 1 would move them
    (docs/notes/torchgeo.md). With nothing scored at all, everything is NaN.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    confusion: Tensor

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        """Initialize a new SegmentationScores instance.

        Args:
            num_classes: Number of classes.
            ignore_index: Mask value of pixels that do not count. If it is one of the
                classes, that class has no score either.
        """
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.long)
        self.add_state('confusion', zeros, dist_reduce_fx='sum')

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            prediction: Class ids, integer of any shape.
            mask: True class ids or ``ignore_index``, integer of the same shape.

        Raises:
            ValueError: If the shapes differ.
        """
        if prediction.shape != mask.shape:
            raise ValueError(
                f'prediction of shape {tuple(prediction.shape)} and mask of shape '
                f'{tuple(mask.shape)} must be class ids of the same shape. Take the '
                'argmax of logits, and drop axes of length one.'
            )
        if self.ignore_index is not None:
            labelled = mask != self.ignore_index
            prediction, mask = prediction[labelled], mask[labelled]
        pairs = (mask * self.num_classes + prediction).flatten()
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.confusion += counts.view_as(self.confusion)

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores of all pixels counted.

        Returns:
            ``miou``, ``f1`` (means over the classes that occur) and ``accuracy`` (share
            of right pixels), each in 0..1 or NaN; ``iou``, ``class_f1``, ``precision``
            and ``recall``, (num_classes,), likewise; and ``pixels``, integer
            (num_classes,), how many each class has in the masks.
        """
        right = self.confusion.diagonal()
        pixels = self.confusion.sum(1)
        predicted = self.confusion.sum(0)
        union = pixels + predicted - right
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_classes:
            # no pixel can be right there, so wrong predictions would make it a 0
            union = union.clone()
            union[self.ignore_index] = 0
        # 0 / 0 is the NaN of an absent class
        iou = torch.where(union > 0, right, 0) / union
        f1 = 2 * iou / (1 + iou)
        return {
            'miou': iou.nanmean(),
            'f1': f1.nanmean(),
            'accuracy': right.sum() / pixels.sum(),
            'iou': iou,
            'class_f1': f1,
            # of a class that is never predicted, nothing can be said
            'precision': right / torch.where(union > 0, predicted, 0),
            'recall': right / torch.where(union > 0, pixels, 0),
            'pixels': pixels,
        }


def count_labelled(mask: Tensor, num_classes: int, ignore_index: int | None) -> int:
    """Count the labelled pixels, and refuse values that are no class.

    Args:
        mask: Class ids or ``ignore_index``, integer of any shape.
        num_classes: Number of classes.
        ignore_index: Mask value of pixels without a label, or None.

    Returns:
        Number of pixels that are not ``ignore_index``.

    Raises:
        ValueError: If there is another value outside the classes.
    """
    labelled = torch.ones_like(mask, dtype=torch.bool)
    if ignore_index is not None:
        labelled = mask != ignore_index
    wrong = labelled & ((mask < 0) | (mask >= num_classes))
    if wrong.any():
        raise ValueError(
            f'the mask has the values {sorted(set(mask[wrong].tolist()))[:8]}, but '
            f'only {list(range(num_classes))} and ignore_index={ignore_index} are '
            'allowed. Map the values in the data set, or set num_classes or '
            'ignore_index.'
        )
    return int(labelled.sum())
