# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""SegFormer for any number of bands and any image size."""

from typing import Literal, TypeAlias, get_args

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from ..choices import require_choice
from .padding import pad_to_32

#: How an image with more than three bands gets into a network made for three.
Stem: TypeAlias = Literal['widen', 'map']

#: Width of the head in the paper, for each of its backbones (docs/notes/networks.md).
_HEAD_WIDTHS = {
    'mit_b0': 256,
    'mit_b1': 256,
    'mit_b2': 768,
    'mit_b3': 768,
    'mit_b4': 768,
    'mit_b5': 768,
}


class BandMapper(nn.Conv2d):
    """A learned mix of all bands into three channels, pixel by pixel.

    A 1x1 convolution with bias and nothing else: 3 x bands + 3 parameters. It is what
    the "mapping layer before the backbone" of SpecDM is taken to be; the paper leaves
    kernel, bias and start open (docs/notes/networks.md).
    """

    def __init__(
        self,
        in_channels: int,
        init: Literal['rgb', 'kaiming'] = 'rgb',
        rgb: tuple[int, int, int] | None = None,
    ) -> None:
        """Initialize a new BandMapper instance.

        Args:
            in_channels: Number of bands.
            init: ``'rgb'`` starts as a copy of the bands in ``rgb``; ``'kaiming'``
                starts at random, as PyTorch does.
            rgb: Channels of red, green and blue; only for ``init='rgb'``.

        Raises:
            ValueError: If ``init`` is unknown or ``rgb`` is not three of the channels.
        """
        require_choice('init', init, ('rgb', 'kaiming'))
        super().__init__(in_channels, 3, kernel_size=1, bias=True)
        if init == 'kaiming':
            return
        if rgb is None or len(rgb) != 3 or not set(rgb) <= set(range(in_channels)):
            raise ValueError(
                f'rgb={rgb} must be three channels out of 0..{in_channels - 1}. Give '
                "them, for example SampleSpec.rgb, or use init='kaiming'."
            )
        with torch.no_grad():
            nn.init.zeros_(self.weight)
            for row, channel in enumerate(rgb):
                self.weight[row, channel] = 1.0
            if self.bias is not None:
                nn.init.zeros_(self.bias)


class AnySize(nn.Module):
    """A network that needs sizes divisible by 32, made to take any.

    The image is padded at its right and lower edge with copies of the border, and the
    logits are cropped back. Sizes that need no padding give what the network alone
    gives, to the bit.
    """

    def __init__(
        self, network: nn.Module, in_channels: int, mapper: BandMapper | None = None
    ) -> None:
        """Initialize a new AnySize instance.

        Args:
            network: Takes (B, C, H, W) and returns (B, K, H, W).
            in_channels: Number of bands of the image.
            mapper: Applied before the network, if given.
        """
        super().__init__()
        self.in_channels = in_channels
        self.mapper = mapper
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of a batch.

        Args:
            image: Normalised image, float (B, C, H, W).

        Returns:
            Logits of each class, (B, K, H, W).

        Raises:
            ValueError: If the image has another shape or number of bands.
        """
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(
                f'image of shape {tuple(image.shape)} must be (B, {self.in_channels}, '
                'H, W). Give in_channels of the network the number of bands of the '
                'data.'
            )
        height, width = image.shape[-2:]
        image = pad_to_32(image)
        if self.mapper is not None:
            image = self.mapper(image)
        logits: Tensor = self.network(image)
        return logits[..., :height, :width]


def segformer(
    backbone: str = 'mit_b0',
    in_channels: int = 3,
    num_classes: int = 2,
    stem: Stem = 'widen',
    weights: bool = False,
    rgb: tuple[int, int, int] | None = None,
    head_width: int | None = None,
) -> AnySize:
    """SegFormer (Xie et al. 2021) as in the paper, for any bands and sizes.

    Sizes that are no multiple of 32 are padded and cropped back. Source of the widths
    and counts: docs/notes/networks.md.

    Args:
        backbone: ``'mit_b0'`` ... ``'mit_b5'``, or the ``'tu-...'`` name of a timm
            backbone with features at 1/4 ... 1/32 (``'tu-pvt_v2_b2'`` is a
            permissively licensed stand-in).
        in_channels: Number of bands.
        num_classes: Number of classes.
        stem: ``'widen'`` makes the first layer take all bands (from ImageNet weights:
            the RGB kernels in turn, scaled by 3 / bands); ``'map'`` puts a
            :class:`BandMapper` before an unchanged RGB backbone.
        weights: Whether to fetch ImageNet weights (network access; the MiT weights are
            licensed by NVIDIA for research only). They expect each channel with mean 0
            and standard deviation 1 over the data set.
        rgb: Bands that a ``'map'`` stem starts from; at random if None.
        head_width: Channels of the head; None for the paper's, 256 for B0 and B1 and
            768 for B2 to B5 (256 for other backbones).

    Returns:
        A network from float (B, in_channels, H, W) to logits (B, num_classes, H, W).

    Raises:
        ValueError: If backbone or stem is not known.
    """
    if backbone not in _HEAD_WIDTHS and not backbone.startswith('tu-'):
        raise ValueError(
            f'backbone={backbone!r} is not known to segformer. Use one of '
            f"{list(_HEAD_WIDTHS)} or the 'tu-...' name of a timm backbone."
        )
    mapper = band_mapper(stem, in_channels, rgb)
    network = smp.Segformer(
        encoder_name=backbone,
        encoder_weights='imagenet' if weights else None,
        decoder_segmentation_channels=head_width or _HEAD_WIDTHS.get(backbone, 256),
        in_channels=in_channels if mapper is None else 3,
        classes=num_classes,
    )
    return AnySize(network, in_channels, mapper)


def band_mapper(
    stem: Stem, in_channels: int, rgb: tuple[int, int, int] | None = None
) -> BandMapper | None:
    """The layer that a stem puts before the network.

    Args:
        stem: ``'widen'`` or ``'map'`` (see :func:`segformer`).
        in_channels: Number of bands.
        rgb: Bands that the mapper starts from; at random if None.

    Returns:
        The mapper, or None for ``'widen'``.

    Raises:
        ValueError: If the stem is not known.
    """
    require_choice('stem', stem, get_args(Stem))
    if stem == 'widen':
        return None
    return BandMapper(in_channels, 'rgb' if rgb else 'kaiming', rgb)
