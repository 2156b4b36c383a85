# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Scores of the samples that a codec gives back."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ..metrics.segmentation import SegmentationScores
from ..metrics.spectral import lit_pixels, mean_spectral_angle
from ..pairs.tiles import Tiles
from ..pairs.valid import valid_pixels
from .base import Codec, Sample

_BATCH = 64


class ReconstructionScores(nn.Module):
    """Errors after encoding and decoding, over all pixels seen by all processes.

    They are means over pixels, not over batches, so they do not depend on how samples
    were put into batches. Missing values do not count, nor angles where a band is
    missing.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        """Start with nothing seen."""
        super().__init__()
        names = ('l1', 'squares', 'sad', 'mask')
        self.means: Any = nn.ModuleDict({name: MeanMetric() for name in names})
        self.classes = SegmentationScores(num_classes, ignore_index=-1)

    def update(self, codec: Codec, sample: Sample) -> None:
        """Reconstruct a batch and add its errors.

        Args:
            codec: The codec, used without sampling the posterior.
            sample: A batch that :meth:`Codec.encode` takes, with ``image`` and
                ``mask``.
        """
        decoded, logits = codec.roundtrip(sample)
        mask = sample['mask'].reshape(len(logits), *logits.shape[-2:])
        mask = mask.where(codec.labelled(mask), -1)
        self.classes.update(decoded['mask'].reshape(mask.shape), mask)
        valid = sample['image'].isfinite()
        real, fake = (codec.spec.reflectance(s['image']) for s in (sample, decoded))
        scaled = [codec.prepare(s)[0].reshape(real.shape) for s in (sample, decoded)]
        whole = valid_pixels(real)
        drawn, wanted = (image.movedim(-3, -1)[whole] for image in (fake, real))
        count = int(valid.sum())
        self._add('l1', (scaled[1] - scaled[0])[valid].abs().mean(), count)
        self._add('squares', (fake - real)[valid].square().mean(), count)
        sad = mean_spectral_angle(drawn, wanted)
        self._add('sad', sad, int(lit_pixels(wanted).sum()))
        self._add('mask', codec.mask_loss(logits, mask), int((mask >= 0).sum()))

    def compute(self) -> dict[str, Tensor]:
        """Finish the means.

        Returns:
            ``rmse`` (reflectance), ``sad`` (radians), ``mask`` (the mask loss),
            ``miou`` and ``mask_accuracy`` in 0..1, and ``loss``, the stage-1 loss at
            its usual weights without the KL term. NaN where nothing could be measured.
        """
        means = {name: metric.compute() for name, metric in self.means.items()}
        classes = self.classes.compute()
        # a part without a single pixel to measure says nothing
        l1, sad, mask = (means[name].nan_to_num(0) for name in ('l1', 'sad', 'mask'))
        return {
            'rmse': means['squares'].sqrt(),
            'sad': means['sad'],
            'mask': means['mask'],
            'miou': classes['miou'],
            'mask_accuracy': classes['accuracy'],
            'loss': l1 + 0.1 * sad + mask,
        }

    def reset(self) -> None:
        """Forget everything seen."""
        for metric in (*self.means.values(), self.classes):
            metric.reset()

    def _add(self, name: str, value: Tensor, weight: int) -> None:
        if weight:
            self.means[name].update(value, weight)


def mask_fidelity(codec: Codec, tiles: Tiles) -> float:
    """Score the masks that a codec gives back, in 0..1.

    Args:
        codec: The codec.
        tiles: Labelled tiles of a size that the codec can encode.

    Returns:
        Share of right pixels among labelled ones; with several dates F1 of change,
        since a blank mask has most pixels right there. NaN if nothing can be scored.
    """
    scores = ReconstructionScores(codec.spec.num_classes)
    parts = (torch.split(part, _BATCH) for part in (tiles.images, tiles.masks))
    for images, masks in zip(*parts, strict=True):
        scores.update(codec, {'image': images, 'mask': masks})
    found = scores.classes.compute()
    several = codec.spec.dates > 1
    return float(found['class_f1'][1] if several else found['accuracy'])
