# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The codec without an autoencoder: pixels and label bits, folded into channels."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ..pairs.spec import SampleSpec
from .base import Codec, Reconstruction, Sample, image_streams


def fold_pixels(pixels: Tensor, side: int) -> Tensor:
    """Move squares of pixels (B, C, H, W) into channels (B, C x side x side, h, w).

    As :func:`torch.nn.functional.pixel_unshuffle` does, which takes three times as long
    on a CPU.
    """
    return rearrange(pixels, 'b c (h i) (w j) -> b (c i j) h w', i=side, j=side)


def unfold_cells(cells: Tensor, side: int) -> Tensor:
    """Undo :func:`fold_pixels`."""
    return rearrange(cells, 'b (c i j) h w -> b c (h i) (w j)', i=side, j=side)


class FoldedCodec(Codec):
    """Channels of single pixels and label bits, folded into channels of cells.

    Class k is the binary code of k in -1 and +1 (analog bits, arXiv 2208.04202).

    Args:
        spec: Description of a sample.
        settings: The constructor arguments of the subclass, to be saved.
        depth: Channels of a pixel of one date.
        fold: Side of the square of pixels that becomes one latent cell.
    """

    codes: Tensor

    def __init__(
        self, spec: SampleSpec, settings: Mapping[str, Any], depth: int, fold: int
    ) -> None:
        """Make the table of codes."""
        bits = max(1, math.ceil(math.log2(spec.num_classes)))
        streams = image_streams(spec, depth * fold**2)
        super().__init__(spec, settings, {**streams, 'mask': bits * fold**2}, fold)
        self.depth = depth
        numbers = torch.arange(spec.num_classes)[:, None]
        codes = (numbers >> torch.arange(bits)) % 2 * 2.0 - 1
        self.register_buffer('codes', codes)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Change scaled images (N, C, H, W) before they are folded."""
        return images

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Undo :meth:`to_pixels`."""
        return pixels

    def to_latent(self, images: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Codec.to_latent`; a pixel without a label gets code 0."""
        known = self.labelled(mask)
        bits = self.codes[mask.where(known, 0)] * known[..., None]
        pixels = self.to_pixels(images.flatten(0, 1))
        pixels = rearrange(pixels, '(b t) c h w -> b (t c) h w', t=self.spec.dates)
        pixels = torch.cat([pixels, bits.movedim(-1, 1)], 1)
        return fold_pixels(pixels, self.factor)

    def from_latent(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Codec.from_latent`; the score of a class is code agreement."""
        pixels = unfold_cells(latent, self.factor)
        depth, dates = self.spec.dates * self.depth, self.spec.dates
        images = rearrange(pixels[:, :depth], 'b (t c) h w -> (b t) c h w', t=dates)
        images = self.from_pixels(images)
        bits = pixels[:, depth:].clamp(-1, 1)
        return (
            rearrange(images, '(b t) c h w -> b t c h w', t=dates),
            torch.einsum('bchw,kc->bkhw', bits, self.codes.to(bits.dtype)),
        )

    def reconstruct(self, images: Tensor, mask: Tensor) -> Reconstruction:
        """See :meth:`Codec.reconstruct`; exact, with no posterior to pull."""
        output = self.from_latent(self.to_latent(images, mask))
        return Reconstruction(*output, images.new_zeros(()))

    def fit_statistics(self, batches: Iterable[Sample]) -> None:
        """See :meth:`Codec.fit_statistics`; label bits keep their -1 and +1.

        Standardised, the bit of a rare class would lie many standard deviations out.
        """
        super().fit_statistics(batches)
        self.latent_mean[self.streams['mask']] = 0
        self.latent_std[self.streams['mask']] = 1


class PixelCodec(FoldedCodec):
    """Bands and label bits, ``fold`` x ``fold`` pixels moved into channels.

    In the spirit of SatSynth (arXiv 2403.16605). It decodes exactly and has nothing to
    train, which makes it the better choice for few patches and minutes of computing
    (docs/notes/autoencoder.md). The denoiser must predict the clean sample: epsilon and
    v give noise on such latents.

    Args:
        spec: Description of a sample.
        fold: Side of the square of pixels that becomes one latent cell.
    """

    name: ClassVar[str] = 'pixels'
    trainable: ClassVar[bool] = False

    def __init__(self, spec: SampleSpec, fold: int = 4) -> None:
        """Fold all bands."""
        super().__init__(spec, {'fold': fold}, spec.num_bands, fold)
