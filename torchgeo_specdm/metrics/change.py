# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Do the dates of a sample differ where its mask says so?"""

import torch
from torch import Tensor
from torchmetrics import Metric

from ..pairs.spec import SampleSpec

#: Bins of the histograms that the detection rate is computed from.
_BINS = 4096


class ChangeEvidence(Metric):
    """Difference of the dates inside and outside the mask of change.

    Weather, season and sun differ everywhere, so the difference outside is above 0
    for real pairs too: compare the ratio with that of real ones.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    counts: Tensor
    sums: Tensor

    def __init__(self, spec: SampleSpec) -> None:
        """Initialize a new ChangeEvidence instance.

        Args:
            spec: Description of the samples; its units are used.
        """
        super().__init__()
        self.spec = spec
        zeros = torch.zeros(2, _BINS, dtype=torch.float64)
        self.add_state('counts', zeros, dist_reduce_fx='sum')
        self.add_state('sums', torch.zeros(2).double(), dist_reduce_fx='sum')

    def update(self, images: Tensor, masks: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            images: Digital numbers (B, T, C, H, W) with T >= 2 dates; the mean
                difference of successive dates is taken.
            masks: (B, H, W), 1 is change and 0 is none; other values do not count.
        """
        # mean over dates and bands: (B, H, W)
        steps = images.float().diff(dim=1).abs()
        difference = self.spec.reflectance(steps, difference=True).mean((1, 2))
        # a pixel that misses a date tells nothing
        masks = masks.where(difference.isfinite(), -1)
        for value in (0, 1):
            chosen = difference[masks == value]
            self.sums[value] += chosen.double().sum()
            # a logarithmic scale holds the faint differences and the strong ones
            bins = (chosen.clamp(1e-6, 10).log10() + 6) / 7 * (_BINS - 1)
            self.counts[value] += torch.bincount(bins.long(), minlength=_BINS)

    def compute(self) -> dict[str, float]:
        """Compare what lies inside with what lies outside.

        Returns:
            ``inside`` and ``outside``, the mean absolute difference of reflectance over
            changed and unchanged pixels and bands; ``detection``, the chance in 0..1
            that a changed pixel differs more than an unchanged one (area under the ROC
            curve; 0.5 is no evidence); ``changed``, the share of changed pixels among
            labelled ones in 0..1; and ``pixels``, the number of labelled ones. NaN
            where a side has no pixel.
        """
        unchanged, changed = self.counts
        total = self.counts.sum(1)
        outside, inside = (self.sums / total).tolist()
        below = unchanged.cumsum(0) - unchanged / 2
        return {
            'inside': inside,
            'outside': outside,
            'detection': float((changed * below).sum() / (total[0] * total[1])),
            'changed': float(total[1] / total.sum()),
            'pixels': int(total.sum()),
        }
