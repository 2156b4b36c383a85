# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The two-stream codec of SpecDM: images and masks do not share a parameter."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ..pairs.spec import SampleSpec
from .autoencoder import PatchAutoencoder, mean_kl
from .base import Codec, Reconstruction, image_streams, plain_settings


class TwoStreamCodec(Codec):
    """Two KL autoencoders, one for every date's image, one for one-hot masks.

    Since the streams are separate, the image branch cannot see the mask: it is not
    able to paint the label into the image.

    Args:
        spec: Description of a sample.
        image_widths: Channels of the image branch's levels.
        mask_widths: Channels of the mask branch's levels.
        image_latents: Latent channels of one image; None for as many as its bands need
            (:func:`latents_for`).
        mask_latents: Latent channels of the mask.
        layers: Residual blocks of each level.
        stem: Side of the space-to-depth stem (1: as published).
        groups: Groups of the group norms.
        attention: Whether the middle blocks attend (as published).
        sad_weight: Weight of the spectral angle (lambda in SpecDM, Eq. 1).
        kl_weight: Weight of the KL divergence, a mean over latent elements.

    Raises:
        ValueError: If the branches do not downsample equally.
    """

    name: ClassVar[str] = 'two_stream'

    # but for the spec, a setting of the presets each
    def __init__(
        self,
        spec: SampleSpec,
        image_widths: Sequence[int] = (128, 256, 512),
        mask_widths: Sequence[int] = (128, 256, 512),
        image_latents: int | None = 3,
        mask_latents: int = 3,
        layers: int = 2,
        stem: int = 1,
        groups: int = 32,
        attention: bool = True,
        sad_weight: float = 0.1,
        kl_weight: float = 1e-6,
    ) -> None:
        """Build both branches."""
        if image_latents is None:
            image_latents = latents_for(spec.num_bands)
        settings = plain_settings(locals())
        if len(image_widths) != len(mask_widths):
            raise ValueError(
                f'image_widths={list(image_widths)} and mask_widths='
                f'{list(mask_widths)} must have equally many levels, because their '
                'latents are laid side by side. Drop a level of one.'
            )
        super().__init__(
            spec,
            settings,
            {**image_streams(spec, image_latents), 'mask': mask_latents},
            stem * 2 ** (len(image_widths) - 1),
        )
        common = (layers, stem, groups, attention)
        self.image_branch = PatchAutoencoder(
            spec.num_bands, image_latents, image_widths, *common
        )
        self.mask_branch = PatchAutoencoder(
            spec.num_classes, mask_latents, mask_widths, *common
        )

    def to_latent(self, images: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Codec.to_latent`."""
        image = self.image_branch.encode(images.flatten(0, 1)).mode()
        return self._join(image, self.mask_branch.encode(self.one_hot(mask)).mode())

    def from_latent(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Codec.from_latent`."""
        images = rearrange(
            latent[:, : self.streams['mask'].start],
            'b (t d) h w -> (b t) d h w',
            t=self.spec.dates,
        )
        images = self.image_branch.decode(images)
        return (
            rearrange(images, '(b t) c h w -> b t c h w', t=self.spec.dates),
            self.mask_branch.decode(latent[:, self.streams['mask']]),
        )

    def reconstruct(self, images: Tensor, mask: Tensor) -> Reconstruction:
        """See :meth:`Codec.reconstruct`."""
        image = self.image_branch.encode(images.flatten(0, 1))
        label = self.mask_branch.encode(self.one_hot(mask))
        latent = self._join(image.sample(), label.sample())
        # a mask without any label is no mask to learn
        known = self.labelled(mask).flatten(1).any(1)
        kl = mean_kl(image) + mean_kl(label, known)
        return Reconstruction(*self.from_latent(latent), kl)

    def _join(self, image: Tensor, mask: Tensor) -> Tensor:
        """Lay the dates (B x T, d, h, w) and the mask (B, d, h, w) side by side."""
        dates = rearrange(image, '(b t) d h w -> b (t d) h w', t=self.spec.dates)
        return torch.cat([dates, mask], 1)


def latents_for(bands: int) -> int:
    """Latent channels that an image of so many bands needs.

    Bands of one sensor say much the same, so they grow with the root of their number
    only (docs/notes/autoencoder.md).

    Args:
        bands: Number of bands.

    Returns:
        A multiple of 4: 8 up to 24 bands, 16 for 50, 28 for 200.
    """
    return max(8, 4 * round(math.sqrt(bands) / 2))
