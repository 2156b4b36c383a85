# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The joint denoiser: one UNet over all streams, told the time of each."""

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn


class JointDenoiser(nn.Module):
    """A UNet of diffusers over the concatenated streams.

    The first stream's time enters as the UNet's own; each further one through an
    embedding of its own, added to it.

    Args:
        channels: Channels of the latent.
        num_streams: Number of streams.
        widths: Channels of each level.
        attention: For each level, whether it attends.
        layers: Residual blocks of each level.
        groups: Groups of the group norms; must divide every width.
        head_dim: Channels of an attention head.
        residual_resampling: Down- and upsample in residual blocks and let the time
            scale and shift, as the LDM for churches does (ldm.md, section 2).

    Raises:
        ValueError: If *groups* does not divide every width, or the levels differ.
    """

    def __init__(
        self,
        channels: int,
        num_streams: int,
        widths: Sequence[int] = (192, 384, 384, 768, 768),
        attention: Sequence[bool] = (True, True, True, True, False),
        layers: int = 2,
        groups: int = 32,
        head_dim: int = 24,
        residual_resampling: bool = True,
    ) -> None:
        """Build the network."""
        super().__init__()
        if len(widths) != len(attention) or any(width % groups for width in widths):
            raise ValueError(
                f'widths={list(widths)} must be multiples of groups={groups} and as '
                f'many as attention={list(attention)}. Change one of them.'
            )
        self.divisor = 2 ** (len(widths) - 1)
        kind = 'resnet' if residual_resampling else 'conv'
        plain = (
            ('ResnetDownsampleBlock2D', 'ResnetUpsampleBlock2D')
            if residual_resampling
            else ('DownBlock2D', 'UpBlock2D')
        )
        self.network = UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(widths),
            down_block_types=tuple(
                'AttnDownBlock2D' if attends else plain[0] for attends in attention
            ),
            up_block_types=tuple(
                'AttnUpBlock2D' if attends else plain[1] for attends in attention[::-1]
            ),
            layers_per_block=layers,
            norm_num_groups=groups,
            attention_head_dim=head_dim,
            downsample_type=kind,
            upsample_type=kind,
            resnet_time_scale_shift='scale_shift' if residual_resampling else 'default',
            class_embed_type='identity' if num_streams > 1 else None,
        )
        width = widths[0]
        self.frequencies = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embeddings = nn.ModuleList(
            TimestepEmbedding(width, 4 * width) for _ in range(num_streams - 1)
        )

    def forward(self, latent: Tensor, times: Tensor) -> Tensor:
        """Predict.

        Args:
            latent: Noisy latents of variance one (B, D, h, w).
            times: The time of each stream (B, S), 0 for a clean one.

        Returns:
            The prediction (B, D, h, w).

        Raises:
            ValueError: If the latent's size does not go through the levels.
        """
        if any(side % self.divisor for side in latent.shape[-2:]):
            raise ValueError(
                f'A latent of {tuple(latent.shape[-2:])} cells must be a multiple of '
                f'{self.divisor} for {self.divisor.bit_length()} levels. Use other '
                'patch sizes, or fewer levels.'
            )
        extra = [
            embed(self.frequencies(times[:, i + 1]).to(latent.dtype))
            for i, embed in enumerate(self.embeddings)
        ]
        labels = torch.stack(extra).sum(0) if extra else None
        output: Tensor = self.network(latent, times[:, 0], class_labels=labels).sample
        return output
