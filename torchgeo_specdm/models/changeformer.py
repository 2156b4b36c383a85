# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""ChangeFormer for any number of bands and any image size."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers.drop import DropPath
from torch import Tensor, nn

from ..choices import require_choice
from .padding import check_pair, pad_to_32

#: The encoders to choose from; ChangeFormer V3 has the shape of ``mit_b2``.
Backbone: TypeAlias = Literal['mit_b0', 'mit_b2']

# Of the four stages, from 1/4 to 1/32 of the image (docs/notes/networks.md).
_WIDTHS = {'mit_b0': (32, 64, 160, 256), 'mit_b2': (64, 128, 320, 512)}
_DEPTHS = {'mit_b0': (2, 2, 2, 2), 'mit_b2': (3, 4, 6, 3)}
_REDUCTIONS = (8, 4, 2, 1)
#: MiT has five heads in its third stage, ChangeFormer four.
_HEADS = (1, 2, 4, 8)

#: Share of the samples that skip the last block; it grows linearly from 0.
_DROP_PATH = 0.1

#: What MiT calls the layers of a block and those of a stage, and what they are here.
_MIT_NAMES = {
    'norm1': 'attention_norm',
    'attn.q': 'attention.query',
    'attn.kv': 'attention.key_value',
    'attn.sr': 'attention.reduce',
    'attn.norm': 'attention.reduce_norm',
    'attn.proj': 'attention.output',
    'norm2': 'mlp_norm',
    'mlp.fc1': 'mlp.expand',
    'mlp.dwconv.dwconv': 'mlp.depthwise',
    'mlp.fc2': 'mlp.contract',
    'proj': 'embed',
    'norm': 'embed_norm',
}


class ChangeFormer(nn.Module):
    """ChangeFormer V3 (Bandara and Patel 2022), for any bands and sizes.

    One encoder sees each date. At each of its four scales, the features of both dates
    are brought to the same width and subtracted; the network knows the absolute
    difference only, so the order of the dates does not matter. A convolution on the
    differences of all scales, at 1/4 of the image, gives the logits of 4 x 4 pixels at
    once.

    Sizes that are no multiple of 32 are padded and cropped back. Blocks that the
    released network holds and never calls (8.4 M of its 32.7 M parameters) are left
    out. Source of the widths and counts: docs/notes/networks.md.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        relu_logits: bool = False,
        width: int = 64,
        weights: bool = False,
        backbone: Backbone = 'mit_b2',
    ) -> None:
        """Initialize a new ChangeFormer instance.

        Args:
            in_channels: Number of bands of each date.
            num_classes: Number of classes.
            relu_logits: Whether to cut logits off at 0, as the released network does.
                A pixel with all its logits cut off learns nothing.
            width: Channels of the differences at each scale.
            weights: Whether to fetch ImageNet weights of MiT for the encoder (network
                access; licensed by NVIDIA for research only). More bands than three get
                the RGB kernels in turn, scaled by 3 / bands. They expect each channel
                with mean 0 and standard deviation 1 over the data set.
            backbone: ``'mit_b2'`` as published, or ``'mit_b0'``, of a seventh of the
                parameters, for few data and small machines.

        Raises:
            ValueError: If the backbone is not known.
        """
        require_choice('backbone', backbone, get_args(Backbone))
        super().__init__()
        self.in_channels = in_channels
        self.relu_logits = relu_logits
        self.encoder = _Encoder(in_channels, backbone=backbone)
        self.projections = nn.ModuleList(
            nn.Conv2d(w, width, 1) for w in _WIDTHS[backbone]
        )
        self.fuse = nn.Conv2d(width * len(self.projections), width, 1)
        self.head = nn.Conv2d(width, 16 * num_classes, 3, padding=1)
        self.apply(_init)
        if weights:
            mit = smp.encoders.get_encoder(
                backbone, in_channels=in_channels, weights='imagenet'
            )
            _load_mit(self.encoder, mit.state_dict())

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of a batch.

        Args:
            image: Normalised image of two dates, float (B, 2, C, H, W).

        Returns:
            Logits of each class, (B, K, H, W); at least 0 with ``relu_logits``.

        Raises:
            ValueError: If the image has another shape, number of dates or bands.
        """
        check_pair(image, self.in_channels)
        height, width = image.shape[-2:]
        features = self.encoder(pad_to_32(image).flatten(0, 1))
        grid = features[0].shape[-2:]
        differences = []
        for projection, feature in zip(self.projections, features, strict=True):
            before, after = projection(feature).unflatten(0, (-1, 2)).unbind(1)
            # resizing is linear: one for the difference instead of one for each date
            difference = F.interpolate(before - after, grid, mode='bilinear')
            differences.append(difference.abs())
        logits = self.head(self.fuse(torch.cat(differences[::-1], dim=1)))
        if self.relu_logits:
            logits = F.relu(logits)
        return F.pixel_shuffle(logits, 4)[..., :height, :width]


class _Encoder(nn.Module):
    """The four stages of MiT (Xie et al. 2021), with any heads.

    From (B, C, H, W) to maps of the widths of the backbone at 1/4, 1/8, 1/16 and 1/32
    of the image.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Sequence[int] = _HEADS,
        backbone: Backbone = 'mit_b2',
    ) -> None:
        super().__init__()
        widths, depths = _WIDTHS[backbone], _DEPTHS[backbone]
        last = sum(depths) - 1
        rates = [_DROP_PATH * block / last for block in range(last + 1)]
        stages: list[_Stage] = []
        for width, depth, reduction, number in zip(
            widths, depths, _REDUCTIONS, heads, strict=True
        ):
            blocks = [_Block(width, number, reduction, r) for r in rates[:depth]]
            stages.append(_Stage(in_channels, blocks, width, first=not stages))
            in_channels, rates = width, rates[depth:]
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features


class _Stage(nn.Module):
    """Overlapping patches of a map, and the blocks that follow them."""

    def __init__(
        self, in_channels: int, blocks: Sequence['_Block'], width: int, first: bool
    ) -> None:
        super().__init__()
        kernel, stride = (7, 4) if first else (3, 2)
        self.embed = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2)
        # MiT has an epsilon of 1e-5 here and after a reduction, 1e-6 elsewhere
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        grid = self.embed_norm(self.embed(image).movedim(1, -1))
        normed: Tensor = self.norm(self.blocks(grid))
        return normed.movedim(-1, 1)


class _Block(nn.Module):
    """Attention, then two linear layers around a convolution; (B, H, W, D) to same."""

    def __init__(self, width: int, heads: int, reduction: int, drop: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = _Attention(width, heads, reduction)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _FeedForward(width)
        self.drop_path = DropPath(drop)

    def forward(self, grid: Tensor) -> Tensor:
        grid = grid + self.drop_path(self.attention(self.attention_norm(grid)))
        mixed: Tensor = grid + self.drop_path(self.mlp(self.mlp_norm(grid)))
        return mixed


class _Attention(nn.Module):
    """Attention of all positions to those of a smaller map; (B, H, W, D) to same."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.reduce: nn.Conv2d | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(width, width, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(width)

    def forward(self, grid: Tensor) -> Tensor:
        seen = grid
        if self.reduce is not None:
            seen = self.reduce_norm(_convolve(self.reduce, grid))
        query = rearrange(self.query(grid), 'b h w (n d) -> b n (h w) d', n=self.heads)
        key, value = rearrange(
            self.key_value(seen),
            'b h w (two n d) -> two b n (h w) d',
            two=2,
            n=self.heads,
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = rearrange(mixed, 'b n (h w) d -> b h w (n d)', h=grid.shape[1])
        output: Tensor = self.output(mixed)
        return output


class _FeedForward(nn.Module):
    """Two linear layers around a depthwise convolution; (B, H, W, D) to same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.expand = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, grid: Tensor) -> Tensor:
        hidden = _convolve(self.depthwise, self.expand(grid))
        contracted: Tensor = self.contract(F.gelu(hidden))
        return contracted


def _convolve(layer: nn.Conv2d, grid: Tensor) -> Tensor:
    """Apply a convolution to a map with its channels last."""
    convolved: Tensor = layer(grid.movedim(-1, 1))
    return convolved.movedim(1, -1)


def _init(module: nn.Module) -> None:
    """Start as the released training does: normal with 0.02, biases at 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _load_mit(encoder: _Encoder, state: Mapping[str, Tensor]) -> None:
    """Copy the parameters of smp's MiT with as many bands."""
    encoder.load_state_dict({mit_name(name): value for name, value in state.items()})


def mit_name(name: str) -> str:
    """Rename a parameter of MiT.

    Args:
        name: Name that smp and the authors of ChangeFormer use, such as
            ``block1.0.attn.q.weight``.

    Returns:
        Its name in the encoder of :class:`ChangeFormer`.
    """
    part, *path, kind = name.split('.')
    stage = f'stages.{int(part[-1]) - 1}'
    match part[:-1]:
        case 'block':
            block, *layer = path
            return f'{stage}.blocks.{block}.{_MIT_NAMES[".".join(layer)]}.{kind}'
        case 'patch_embed':
            return f'{stage}.{_MIT_NAMES[path[0]]}.{kind}'
    return f'{stage}.norm.{kind}'
