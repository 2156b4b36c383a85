# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Features of images that see blur, grain, cells and missing structure."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from .features import Extractor

#: Scales, each of half the size of the one before.
_SCALES = 3
#: Side in pixels that all scales need.
_SIDE = 2**_SCALES
#: Steps between pixels, in standard deviations of a band, that count as none.
_NO_STEP = 1e-4


class TextureFeatures(Extractor):
    """Texture of each band at three scales; nothing is trained or downloaded.

    The idea is that of Portilla and Simoncelli (2000): an image looks like another if
    the moments of its filtered versions agree. The filters are differences of
    neighbours in four directions, on images averaged over 1, 2 and 4 pixels. At each
    scale there are, for each band,

    * the logarithm of the root mean square of straight differences, which blur lowers
      and noise raises, and that of diagonal ones over it;
    * mean over root mean square of differences, near 0.8 in Gaussian random fields and
      lower where edges stand out;
    * from the second scale on, correlation of their strength with that at the scale
      before: edges are strong at all scales in the same place;

    and the mean correlation of the differences of two bands, which grain lowers.
    Brightness is not seen, which random features see best (docs/notes/trust.md).

    Args:
        channels: Number of bands.
    """

    def __init__(self, channels: int) -> None:
        """Count the features."""
        super().__init__()
        self.num_features = _SCALES * (4 * channels + 1) - channels

    @torch.no_grad()
    def forward(self, planes: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            planes: Standardised bands (B, C, H, W), NaN where missing; those below 8
                pixels are continued by their last row and column.

        Returns:
            Features (B, num_features), float64; NaN for an image with a band in which
            hardly anything is known.
        """
        found: list[Tensor] = []
        down, across = (max(_SIDE - side, 0) for side in planes.shape[-2:])
        planes = pad(planes.double(), (0, across, 0, down), mode='replicate')
        finer = None
        for _ in range(_SCALES):
            steps = _steps(planes)
            mean = steps.abs().nanmean((-2, -1))
            size = steps.square().nanmean((-2, -1)).sqrt()
            depth = (size + _NO_STEP).log()
            straight, diagonal = depth[:, :, :2].mean(2), depth[:, :, 2:].mean(2)
            sparsity = (mean / (size + _NO_STEP)).mean(2)
            found += [straight, diagonal - straight, sparsity]
            strength = steps.abs().mean(2)
            if finer is not None:
                height, width = strength.shape[-2:]
                halved = avg_pool2d(finer, 2)[..., :height, :width]
                found.append(_correlation(halved, strength))
            finer = strength
            found.append(_band_correlation(steps[:, :, 0])[:, None])
            planes = avg_pool2d(planes, 2)
        features = torch.cat(found, 1)
        # a band without two neighbours that are known has no texture
        return features.where(~features.isnan().any(1, keepdim=True), torch.nan)


def _steps(planes: Tensor) -> Tensor:
    """Differences in four directions, the straight ones first (B, C, 4, H-1, W-1)."""
    corner, right = planes[..., :-1, :-1], planes[..., :-1, 1:]
    below, across = planes[..., 1:, :-1], planes[..., 1:, 1:]
    steps = torch.stack(
        [right - corner, below - corner, across - corner, below - right], 2
    )
    # all directions are known at the same places, as at the rim of an image
    return steps.where(~steps.isnan().any(2, keepdim=True), torch.nan)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Of all pixels (B, C, H, W), in -1..1, 0 without variation (B, C)."""
    a, b = (x - x.nanmean((-2, -1), keepdim=True) for x in (first, second))
    spread = (a.square().nanmean((-2, -1)) * b.square().nanmean((-2, -1))).sqrt()
    return (a * b).nanmean((-2, -1)) / (spread + _NO_STEP**2)


def _band_correlation(steps: Tensor) -> Tensor:
    """Mean over all pairs of two bands of (B, C, H, W), in -1..1; 0 of one (B,)."""
    bands = steps.shape[1]
    flat = (steps - steps.nanmean((-2, -1), keepdim=True)).flatten(2).nan_to_num(0)
    unit = flat / (flat.norm(dim=-1, keepdim=True) + _NO_STEP)
    alike = unit @ unit.mT
    both: Tensor = alike.sum((1, 2)) - alike.diagonal(dim1=1, dim2=2).sum(1)
    return both / max(bands * (bands - 1), 1)
