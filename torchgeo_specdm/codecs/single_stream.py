# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The single-stream baseline: image and mask through one autoencoder."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor

from ..pairs.spec import SampleSpec
from .autoencoder import PatchAutoencoder, mean_kl
from .base import Codec, Reconstruction, plain_settings


class SingleStreamCodec(Codec):
    """One KL autoencoder over bands and labels (the LDM baseline of SpecDM).

    The paper does not say how the mask enters, and it matters
    (docs/notes/autoencoder.md), so both readings are here and outputs name the one they
    used. Its alignment can be false: one decoder may paint the label into the image
    (docs/notes/autoencoder.md).

    Args:
        spec: Description of a sample.
        widths: Channels of the levels.
        latents: Latent channels.
        mask_input: ``one_hot``: K channels and cross-entropy (strong); ``index``: one
            channel with the class number in -1..1 and L1 (weak).
        layers: Residual blocks of each level.
        stem: Side of the space-to-depth stem (1: as published).
        groups: Groups of the group norms.
        attention: Whether the middle blocks attend (as published).
        sad_weight: Weight of the spectral angle.
        kl_weight: Weight of the KL divergence, a mean over latent elements.

    Raises:
        ValueError: If *mask_input* is not one of the two.
    """

    name: ClassVar[str] = 'single_stream'

    # but for the spec, a setting of the presets each
    def __init__(
        self,
        spec: SampleSpec,
        widths: Sequence[int] = (128, 256, 512),
        latents: int = 6,
        mask_input: Literal['one_hot', 'index'] = 'one_hot',
        layers: int = 2,
        stem: int = 1,
        groups: int = 32,
        attention: bool = True,
        sad_weight: float = 0.1,
        kl_weight: float = 1e-6,
    ) -> None:
        """Build the autoencoder."""
        settings = plain_settings(locals())
        if mask_input not in ('one_hot', 'index'):
            raise ValueError(
                f"mask_input={mask_input!r} must be 'one_hot' or 'index'. The paper "
                'names neither; one_hot is the stronger baseline.'
            )
        super().__init__(
            spec, settings, {'image_and_mask': latents}, stem * 2 ** (len(widths) - 1)
        )
        self.mask_channels = spec.num_classes if mask_input == 'one_hot' else 1
        channels = spec.dates * spec.num_bands + self.mask_channels
        self.branch = PatchAutoencoder(
            channels, latents, widths, layers, stem, groups, attention
        )

    def to_latent(self, images: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Codec.to_latent`."""
        latent: Tensor = self.branch.encode(self._join(images, mask)).mode()
        return latent

    def from_latent(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Codec.from_latent`."""
        pixels = self.branch.decode(latent)
        images, mask = (
            pixels[:, : -self.mask_channels],
            pixels[:, -self.mask_channels :],
        )
        images = rearrange(images, 'b (t c) h w -> b t c h w', t=self.spec.dates)
        if self.settings['mask_input'] == 'one_hot':
            return images, mask
        # the nearest class number wins
        return images, -(mask - self._numbers(mask)).abs()

    def reconstruct(self, images: Tensor, mask: Tensor) -> Reconstruction:
        """See :meth:`Codec.reconstruct`."""
        posterior = self.branch.encode(self._join(images, mask))
        output = self.from_latent(posterior.sample())
        return Reconstruction(*output, mean_kl(posterior))

    def mask_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy, or the L1 distance to the true class number."""
        if self.settings['mask_input'] == 'one_hot':
            return super().mask_loss(logits, mask)
        known = self.labelled(mask)
        # a half-precision sum over a batch of masks overflows
        distance = -logits.float().gather(1, mask.where(known, 0)[:, None])[:, 0]
        return (distance * known).sum() / known.sum().clamp(min=1)

    def _join(self, images: Tensor, mask: Tensor) -> Tensor:
        labels = self.one_hot(mask)
        if self.settings['mask_input'] == 'index':
            known = self.labelled(mask)
            top = max(self.spec.num_classes - 1, 1)
            labels = (mask.where(known, 0) / top * 2 - 1)[:, None].to(images.dtype)
        return torch.cat([images.flatten(1, 2), labels], 1)

    def _numbers(self, like: Tensor) -> Tensor:
        """The class numbers in -1..1, (1, K, 1, 1)."""
        numbers = torch.linspace(-1, 1, self.spec.num_classes, device=like.device)
        return numbers.to(like.dtype).view(1, -1, 1, 1)
