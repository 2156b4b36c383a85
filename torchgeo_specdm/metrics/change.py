# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Do the dates of a sample differ where its mask says so?"""

from typing import NamedTuple

import torch
from torch import Tensor

#: Tiles whose differences are in memory at once.
_BATCH = 64
#: Bins of the histograms that the detection rate is computed from.
_BINS = 4096


class ChangeEvidence(NamedTuple):
    """How much the dates differ inside and outside the mask of change.

    Attributes:
        inside: Mean absolute difference of reflectance over changed pixels and bands;
            NaN without changed pixels.
        outside: The same over unchanged pixels.
        detection: Chance that a changed pixel differs more than an unchanged one, in
            0..1 (area under the ROC curve); 0.5 is no evidence.
        changed: Share of changed pixels among labelled ones, in 0..1.
        pixels: Number of labelled pixels.
    """

    inside: float
    outside: float
    detection: float
    changed: float
    pixels: int


def change_evidence(images: Tensor, masks: Tensor, scale: float) -> ChangeEvidence:
    """Measure the difference between dates inside and outside the mask.

    Weather, season and sun differ everywhere, so the difference outside is above 0
    for real pairs too: compare the ratio with that of real ones.

    Args:
        images: Digital numbers (N, T, C, H, W) with T >= 2 dates; the mean difference
            of successive dates is taken.
        masks: (N, H, W), 1 is change and 0 is none; other values do not count.
        scale: Reflectance is the digital number times this factor.

    Returns:
        The evidence.
    """
    counts = torch.zeros(2, _BINS, dtype=torch.float64)
    sums = torch.zeros(2, dtype=torch.float64)
    parts = zip(torch.split(images, _BATCH), torch.split(masks, _BATCH), strict=True)
    for part, labels in parts:
        # mean over dates and bands: (n, H, W)
        difference = (part.float().diff(dim=1).abs() * scale).mean((1, 2))
        for value in (0, 1):
            chosen = difference[labels == value]
            sums[value] += chosen.double().sum()
            # a logarithmic scale holds the faint differences and the strong ones
            bins = (chosen.clamp(1e-6, 10).log10() + 6) / 7 * (_BINS - 1)
            counts[value] += torch.bincount(bins.long(), minlength=_BINS)
    unchanged, changed = counts
    total = counts.sum(1)
    means = sums / total
    below = unchanged.cumsum(0) - unchanged / 2
    pairs = total[0] * total[1]
    return ChangeEvidence(
        inside=float(means[1]),
        outside=float(means[0]),
        detection=float((changed * below).sum() / pairs),
        changed=float(total[1] / total.sum()),
        pixels=int(total.sum()),
    )
