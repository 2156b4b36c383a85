# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The codec of linear mixing: few pure spectra, and how much of each is in a pixel."""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ..pairs.spec import SampleSpec
from ..pairs.valid import valid_pixels
from .pixels import FoldedCodec

#: Pixels that endmembers are learned from.
_MOST_PIXELS = 20_000
#: Turns of learning: abundances for the endmembers, then endmembers for them.
_TURNS = 10
#: Steps of the search for the best abundances of a pixel.
_STEPS = 50


class AbundanceCodec(FoldedCodec):
    """Abundances of learned endmembers, and label bits as in :class:`~.PixelCodec`.

    In the spirit of UnmixDiff (Yu et al., TGRS 2024) and Unmixing before Fusion (Yu et
    al., CVPR 2024). From them: the latent is the abundances of a pixel, 0 or more with
    the sum 1; the decoder is a linear mix of endmembers; and a diffusion model on the
    abundances, so that every spectrum that is drawn lies between the endmembers.
    Different here: endmembers and abundances are found by least squares instead of an
    autoencoder, in seconds and without a stage 1; abundances of neighbouring pixels are
    folded into channels; labels are drawn with them; and dates share endmembers.

    A pixel costs as many numbers as there are endmembers, however many bands it has: 4
    instead of 198 for four materials, with an error of the size of the noise
    (docs/notes/autoencoder.md). It pays for tens of bands and more.

    Args:
        spec: Description of a sample.
        endmembers: Pure spectra.
        fold: Side of the square of pixels that becomes one latent cell; 1 for
            abundances at full resolution.

    Raises:
        ValueError: If there are fewer than two endmembers.
    """

    name: ClassVar[str] = 'abundances'
    trainable: ClassVar[bool] = False

    #: Scaled spectra (endmembers, bands).
    endmembers: Tensor

    def __init__(self, spec: SampleSpec, endmembers: int = 8, fold: int = 4) -> None:
        """Prepare endmembers that are still to be learned."""
        if endmembers < 2:
            raise ValueError(
                f'endmembers={endmembers} must be 2 or more, for a mix has two parts.'
            )
        settings = {'endmembers': endmembers, 'fold': fold}
        super().__init__(spec, settings, endmembers, fold)
        self.register_buffer('endmembers', torch.zeros(endmembers, spec.num_bands))

    def fit_scaling(self, images: Tensor) -> None:
        """Measure the band scaling, and learn the endmembers.

        Args:
            images: Digital numbers (N, C, H, W) of training samples.
        """
        super().fit_scaling(images)
        pixels = rearrange(images, 'n c h w -> (n h w) c')
        pixels = pixels[valid_pixels(images).flatten()]
        pixels = pixels[:: len(pixels) // _MOST_PIXELS + 1].to(self.center)
        # a few outliers must not become endmembers
        scaled = ((pixels - self.center) / self.half_range).clamp(-1.5, 1.5)
        found = purest(scaled, len(self.endmembers))
        for _ in range(_TURNS):
            shares = unmix(scaled, found)
            found = torch.linalg.pinv(shares) @ scaled
        self.endmembers.copy_(found)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Unmix scaled images (N, C, H, W) into abundances (N, endmembers, H, W)."""
        spectra = rearrange(images, 'n c h w -> (n h w) c')
        shares = unmix(spectra, self.endmembers.to(spectra.dtype))
        return rearrange(
            shares, '(n h w) k -> n k h w', h=images.shape[2], w=images.shape[3]
        )

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Mix; abundances that were drawn off the simplex are brought back to it."""
        shares = nearest_shares(pixels.movedim(1, -1))
        return (shares @ self.endmembers.to(shares.dtype)).movedim(-1, 1)


def purest(pixels: Tensor, count: int) -> Tensor:
    """Find pixels that the others are mixes of, by successive projection.

    The pixel farthest from the mean comes first. Each further one is farthest from the
    plane through all those before it, as corners of a simplex are.

    Args:
        pixels: Spectra (N, C).
        count: Number of spectra to find.

    Returns:
        Their spectra (count, C).
    """
    left = pixels - pixels.mean(0)
    found = [int(left.square().sum(1).argmax())]
    left = pixels - pixels[found[0]]
    for _ in range(count - 1):
        distances = left.square().sum(1)
        found.append(int(distances.argmax()))
        # no direction is left where all pixels are mixes of those found
        direction = left[found[-1]] / distances.max().sqrt().clamp(min=1e-6)
        left = left - (left @ direction)[:, None] * direction
    return pixels[found]


def unmix(spectra: Tensor, endmembers: Tensor) -> Tensor:
    """Find the mix of endmembers that is nearest to each spectrum.

    Args:
        spectra: (N, C).
        endmembers: (K, C).

    Returns:
        Abundances (N, K), 0 or more, with the sum 1.
    """
    products = endmembers @ endmembers.T
    aims = spectra @ endmembers.T
    # the longest step that cannot overshoot
    step = 1 / torch.linalg.matrix_norm(products.float(), 2).clamp(min=1e-6)
    shares = aims.new_full(aims.shape, 1 / len(endmembers))
    for _ in range(_STEPS):
        shares = nearest_shares(shares - step * (shares @ products - aims))
    return shares


def nearest_shares(values: Tensor) -> Tensor:
    """Project onto the simplex: the nearest values of 0 or more with the sum 1.

    Args:
        values: Any (..., K).

    Returns:
        Shares (..., K).
    """
    falling = values.sort(-1, descending=True).values
    excess = falling.cumsum(-1) - 1
    numbers = torch.arange(1, values.shape[-1] + 1, device=values.device)
    # how many shares stay above 0
    kept = (falling * numbers > excess).sum(-1, keepdim=True).clamp(min=1)
    return (values - excess.gather(-1, kept - 1) / kept).clamp(min=0)
