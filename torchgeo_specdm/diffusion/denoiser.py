# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The joint denoiser: one UNet over all streams, told the time of each."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from ..codecs import fold_pixels, unfold_cells

#: Brings times to about 1.
_TIMES = 1000
#: Heads of each attention of LDM's UNet, whatever its width.
_HEADS = 8


class JointDenoiser(nn.Module):
    """A UNet of diffusers over the concatenated streams.

    The first stream's time enters as the UNet's own; each further one through an
    embedding of its own, added to it.

    Args:
        channels: Channels of the latent.
        num_times: Number of streams with a time of their own; 1 if all share one, which
            is the network as published.
        widths: Channels of each level.
        attention: Whether each level attends.
        layers: Residual blocks of each level.
        groups: Groups of the group norms; must divide every width.
        head_dim: Channels of an attention head; must divide the widths that attend,
            and the last one, which always does. None takes eight heads at every level,
            as LDM does.
        residual_resampling: Down- and upsample in residual blocks and let the time
            scale and shift, as the LDM for churches does (docs/notes/diffusion.md).
        fold: Side of the square of pixels that a cell of the latent holds.
        detail: Channels of three convolutions over pixels, which see the noisy pixels
            and those that the UNet predicts, and add what cells are too coarse for;
            0 for none, as published.

    The last layer of each residual block, of each attention and of the network starts
    at zero, as in LDM: at first every block passes on what it gets.

    Raises:
        ValueError: If *groups* or *head_dim* do not divide the widths, or the levels
            differ.
    """

    # but for three that the codec tells, a setting of the presets each
    def __init__(
        self,
        channels: int,
        num_times: int,
        widths: Sequence[int] = (192, 384, 384, 768, 768),
        attention: Sequence[bool] = (True, True, True, True, False),
        layers: int = 2,
        groups: int = 32,
        head_dim: int | None = None,
        residual_resampling: bool = True,
        fold: int = 1,
        detail: int = 0,
    ) -> None:
        """Build the network."""
        super().__init__()
        _check_widths(widths, attention, groups, head_dim)
        self.divisor = 2 ** (len(widths) - 1)
        self.network = UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            norm_num_groups=groups,
            # diffusers has no norm here where times scale and shift; LDM has
            attn_norm_num_groups=groups,
            attention_head_dim=head_dim or widths[0] // _HEADS,
            class_embed_type='identity' if num_times > 1 else None,
            **_blocks(attention, residual_resampling),
        )
        if head_dim is None:
            _set_heads(self.network)
        _start_at_zero(self.network)
        width = widths[0]
        self.frequencies = Timesteps(
            width, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        self.embeddings = nn.ModuleList(
            TimestepEmbedding(width, 4 * width) for _ in range(num_times - 1)
        )
        self.fold = fold
        self.detail = (
            _detail(channels // fold**2, num_times, detail) if detail else None
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
        self.require_size(latent.shape[-2], latent.shape[-1])
        extra = [
            embed(self.frequencies(times[:, i + 1]).to(latent.dtype))
            for i, embed in enumerate(self.embeddings)
        ]
        labels = torch.stack(extra).sum(0) if extra else None
        output: Tensor = self.network(latent, times[:, 0], class_labels=labels).sample
        if self.detail is None:
            return output
        noisy, coarse = (unfold_cells(part, self.fold) for part in (latent, output))
        planes = (times[..., None, None] / _TIMES).to(noisy)
        planes = planes.expand(-1, -1, *noisy.shape[-2:])
        added = self.detail(torch.cat([noisy, coarse, planes], 1))
        return output + fold_pixels(added, self.fold)

    def require_size(self, height: int, width: int) -> None:
        """Refuse a latent whose size does not go through the levels.

        Args:
            height: Cells.
            width: Cells.

        Raises:
            ValueError: If a side is no multiple of the halvings.
        """
        if height % self.divisor or width % self.divisor:
            raise ValueError(
                f'A latent of {height} x {width} cells does not go through the '
                f'{self.divisor.bit_length()} levels of the denoiser: both sides must '
                f'be multiples of {self.divisor}. Use patches of another size, or '
                'fewer levels.'
            )


def _detail(channels: int, times: int, width: int) -> nn.Sequential:
    """Convolutions over pixels that begin by adding nothing."""
    last = nn.Conv2d(width, channels, 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(
        nn.Conv2d(2 * channels + times, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.SiLU(),
        last,
    )


def _set_heads(network: nn.Module) -> None:
    """Give each attention eight heads, which UNet2DModel knows no setting for."""
    for layer in network.modules():
        if isinstance(layer, Attention):
            layer.heads = _HEADS
            layer.scale = (layer.inner_dim // _HEADS) ** -0.5


def _start_at_zero(network: UNet2DModel) -> None:
    """Zero the last layer of each block and of the network."""
    last: list[nn.Module] = [network.conv_out]
    for layer in network.modules():
        if isinstance(layer, ResnetBlock2D):
            last.append(layer.conv2)
        elif isinstance(layer, Attention):
            last.append(layer.to_out[0])
    for layer in last:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _check_widths(
    widths: Sequence[int], attention: Sequence[bool], groups: int, head_dim: int | None
) -> None:
    if len(widths) != len(attention) or any(width % groups for width in widths):
        raise ValueError(
            f'widths={list(widths)} must be multiples of groups={groups} and as many '
            f'as attention={list(attention)}. Change one of them.'
        )
    attending = [w for w, attends in zip(widths, attention, strict=True) if attends]
    divisor = head_dim or _HEADS
    if any(width % divisor for width in (*attending, widths[-1])):
        raise ValueError(
            f'head_dim={head_dim} (None: {_HEADS} heads) must divide the widths that '
            f'attend, {attending}, and the last one, {widths[-1]}, which always does. '
            'Change either.'
        )


def _blocks(attention: Sequence[bool], residual: bool) -> dict[str, Any]:
    """The arguments of UNet2DModel that choose its blocks."""
    down, up, kind, shift = (
        ('ResnetDownsampleBlock2D', 'ResnetUpsampleBlock2D', 'resnet', 'scale_shift')
        if residual
        else ('DownBlock2D', 'UpBlock2D', 'conv', 'default')
    )
    return {
        'down_block_types': tuple('AttnDownBlock2D' if a else down for a in attention),
        'up_block_types': tuple(
            'AttnUpBlock2D' if a else up for a in reversed(attention)
        ),
        'downsample_type': kind,
        'upsample_type': kind,
        'resnet_time_scale_shift': shift,
    }
