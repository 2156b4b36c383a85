# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The KL autoencoder that the learned codecs are made of."""

from collections.abc import Sequence

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class PatchAutoencoder(nn.Module):
    """A KL autoencoder of diffusers behind a space-to-depth stem.

    The stem moves ``stem`` x ``stem`` pixels into channels before the first
    convolution. With a stem of 2 and two levels, training halves the error of three
    levels without a stem in equal time (docs/notes/autoencoder.md); 1 is the published
    architecture.

    Args:
        channels: Channels of the input and the output.
        latents: Channels of the latent.
        widths: Channels of each level; one halving between two levels.
        layers: Residual blocks of each level.
        stem: Side of the square of pixels that is moved into channels.
        groups: Groups of the group norms; must divide every width.
        attention: Whether the middle blocks attend.

    Raises:
        ValueError: If *groups* does not divide every width.
    """

    def __init__(
        self,
        channels: int,
        latents: int,
        widths: Sequence[int],
        layers: int,
        stem: int,
        groups: int,
        attention: bool,
    ) -> None:
        """Build the network."""
        super().__init__()
        if any(width % groups for width in widths):
            raise ValueError(
                f'widths={list(widths)} must be multiples of groups={groups}, the '
                'groups of the group norms. Change either.'
            )
        self.stem = stem
        self.factor: int = stem * 2 ** (len(widths) - 1)
        self.network = AutoencoderKL(
            in_channels=channels * stem**2,
            out_channels=channels * stem**2,
            latent_channels=latents,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            norm_num_groups=groups,
            down_block_types=('DownEncoderBlock2D',) * len(widths),
            up_block_types=('UpDecoderBlock2D',) * len(widths),
            mid_block_add_attention=attention,
        )

    def encode(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        """Posterior over latents (B, D, h, w) of pixels (B, C, H, W)."""
        output = self.network.encode(pixel_unshuffle(pixels, self.stem))
        posterior: DiagonalGaussianDistribution = output.latent_dist
        return posterior

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, C, H, W) of latents (B, D, h, w)."""
        return pixel_shuffle(self.network.decode(latent).sample, self.stem)


def mean_kl(
    posterior: DiagonalGaussianDistribution, chosen: Tensor | None = None
) -> Tensor:
    """KL divergence from a unit Gaussian, as a mean over all latent elements.

    In float32, because the squares of half-precision means overflow.

    Args:
        posterior: Posterior of B samples.
        chosen: Whether each sample counts, bool (B,); all do if None.

    Returns:
        The mean, a scalar; 0 if no sample counts.
    """
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    if chosen is None:
        return kl.mean()
    return kl.flatten(1).mean(1).where(chosen, 0).sum() / chosen.sum().clamp(min=1)
