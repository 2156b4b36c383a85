# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""PFSegNet for any number of bands and any image size, and its loss."""

import math
from typing import Any, Literal, TypeAlias, get_args

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..choices import require_choice
from .pointflow import PointFlow, Points, resize
from .segformer import AnySize, Stem, band_mapper

#: Encoders of PFSegNet; the first two are published.
Encoder: TypeAlias = Literal['resnet50s', 'resnet101s', 'resnet18', 'resnet34']

#: Channels of the pyramid, and sides of the grids that its top is averaged to.
_WIDTH = 256
_BINS = (1, 2, 3, 6)

#: Dilation of the 3 x 3 convolutions of the last two stages, strided ones included.
_DILATIONS = {'layer3': 2, 'layer4': 4}

#: Edge logits of an image: one map for each level of the pyramid but its top.
_LEVELS = 3

#: Weight of each edge loss beside the segmentation loss.
_EDGE_WEIGHT = 25.0

#: Pixels whose class has at least this probability are easy; this share is kept though.
_EASY = 0.7
_MIN_KEPT = 1 / 16


class PFSegNet(AnySize):
    """PFSegNet (Li et al. 2021), for any bands and sizes.

    A ResNet with dilated last stages, at 1/4 to 1/32 of the image; a pyramid pooling
    module on its last map; and from coarse to fine three times a
    :class:`~torchgeo_specdm.models.pointflow.PointFlow`, which also finds edges. All
    levels together give the logits.

    Sizes that are no multiple of 32 are padded and cropped back. A batch of one image
    cannot train, as the pyramid pooling normalises one value a channel. On images of
    128 pixels the dilated convolutions of the last stage see little but their centre,
    as published for images of 896. Source of the widths and counts:
    docs/notes/networks.md.
    """

    def __init__(
        self,
        backbone: Encoder = 'resnet50s',
        in_channels: int = 3,
        num_classes: int = 2,
        stem: Stem = 'widen',
        weights: bool = False,
        rgb: tuple[int, int, int] | None = None,
        points: Points = 'scaled',
    ) -> None:
        """Initialize a new PFSegNet instance.

        Args:
            backbone: ``'resnet50s'`` or ``'resnet101s'``, with a stem of three
                convolutions, as published; or ``'resnet18'`` or ``'resnet34'`` for
                small data.
            in_channels: Number of bands.
            num_classes: Number of classes.
            stem: ``'widen'`` or ``'map'`` (see
                :func:`~torchgeo_specdm.models.segformer.segformer`).
            weights: Whether to fetch timm's ImageNet weights for the encoder (network
                access). They expect each channel with mean 0 and standard deviation 1
                over the data set.
            rgb: Bands that a ``'map'`` stem starts from; at random if None.
            points: Number of points that flow at each level: ``'scaled'`` to the image,
                or as in the ``'paper'`` (see
                :func:`~torchgeo_specdm.models.pointflow.point_counts`).

        Raises:
            ValueError: If a choice is not known.
        """
        require_choice('backbone', backbone, get_args(Encoder))
        require_choice('points', points, get_args(Points))
        mapper = band_mapper(stem, in_channels, rgb)
        bands = in_channels if mapper is None else 3
        network = _Network(_encoder(backbone, bands, weights), num_classes, points)
        super().__init__(network, in_channels, mapper)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of a batch.

        Args:
            image: Normalised image, float (B, C, H, W).

        Returns:
            Logits of each class, (B, K, H, W).

        Raises:
            ValueError: If the image has another shape or number of bands, or is alone
                in a training batch.
        """
        return self.forward_with_edges(image)[0]

    def forward_with_edges(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute also what the training needs (see :func:`pfsegnet_loss`).

        Args:
            image: Normalised image, float (B, C, H, W).

        Returns:
            Logits of each class, (B, K, H, W), and of being an edge, (B, 3, H, W), from
            the coarsest level to the finest.

        Raises:
            ValueError: As :meth:`forward`.
        """
        both = super().forward(image)
        return both[:, :-_LEVELS], both[:, -_LEVELS:]


def pfsegnet_loss(
    logits: Tensor,
    edges: Tensor,
    mask: Tensor,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
    width: int = 2,
) -> Tensor:
    """The loss that PFSegNet is trained with.

    Cross-entropy of the hard pixels, and 25 times the edge loss of each level.

    Args:
        logits: Logits of each class, float (B, K, H, W).
        edges: Logits of being an edge, float (B, L, H, W).
        mask: Class ids or ``ignore_index``, int64 (B, H, W), at least one labelled.
        class_weights: Weight of each class in the cross-entropy, (K,).
        ignore_index: Mask value of pixels without a label, or None.
        width: Pixels across an edge. The published 8, for aerial images, would be most
            of a Sentinel-2 patch.

    Returns:
        The loss, scalar.

    Raises:
        ValueError: If the width is not an even number of at least 2.
    """
    target = mask_to_edges(mask, width, ignore_index)
    labelled = _labelled(mask, ignore_index)
    loss = hard_cross_entropy(logits, mask, class_weights, ignore_index)
    return loss + _EDGE_WEIGHT * edge_loss(edges, target, labelled)


def mask_to_edges(
    mask: Tensor, width: int = 2, ignore_index: int | None = None
) -> Tensor:
    """Find the pixels along the lines where classes meet.

    A pixel without a label makes no edge and is none.

    Args:
        mask: Class ids or ``ignore_index``, integer (B, H, W).
        width: Pixels across an edge, half of them on each side.
        ignore_index: Mask value of pixels without a label, or None.

    Returns:
        Whether each pixel is part of an edge, bool (B, H, W).

    Raises:
        ValueError: If the width is not an even number of at least 2.
    """
    if width < 2 or width % 2:
        raise ValueError(
            f'width={width} of an edge must be an even number of pixels, as half of it '
            'lies on each side. Use 2, or 8 as published.'
        )
    labels = mask[:, None].float()
    unknown = ~_labelled(mask, ignore_index)[:, None]
    # at each corner of the pixels, the highest and lowest of the labels around it
    highest = F.max_pool2d(labels.masked_fill(unknown, -math.inf), 2, 1, 1)
    lowest = -F.max_pool2d((-labels).masked_fill(unknown, -math.inf), 2, 1, 1)
    corners = (highest > lowest).float()
    near = F.max_pool2d(corners, width, 1, width // 2 - 1)
    return (near.bool() & ~unknown)[:, 0]


def edge_loss(edges: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """Binary cross-entropy in which edges and all else weigh the same.

    Edges are weighted with the share of the other pixels in the batch, and the others
    with the share of the edges; without an edge the loss is 0.

    Args:
        edges: Logits of being an edge, float (B, L, H, W).
        target: Whether a pixel is part of an edge, bool (B, H, W).
        labelled: Whether it is known, bool (B, H, W); other pixels do not count.

    Returns:
        Mean over the labelled pixels, summed over the levels; scalar.
    """
    share = (target & labelled).sum() / labelled.sum()
    balance = torch.where(target, 1 - share, share) * labelled
    expected = target[:, None].to(edges.dtype).expand_as(edges)
    losses = F.binary_cross_entropy_with_logits(edges, expected, reduction='none')
    return (losses * balance[:, None]).sum() / labelled.sum()


def hard_cross_entropy(
    logits: Tensor,
    mask: Tensor,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Cross-entropy of the pixels that are hard.

    Hard are those whose class has a probability below 0.7, and at least the hardest
    sixteenth of the labelled pixels. The published least is 10,000 pixels, which is
    more than half of a patch of 128 pixels, and 1/160 of two of 896.

    Args:
        logits: Logits of each class, float (B, K, H, W).
        mask: Class ids or ``ignore_index``, int64 (B, H, W), at least one labelled.
        class_weights: Weight of each class in the mean, (K,).
        ignore_index: Mask value of pixels without a label, or None.

    Returns:
        Mean over the hard pixels, scalar.
    """
    ignored = -100 if ignore_index is None else ignore_index
    with torch.no_grad():
        losses = F.cross_entropy(logits, mask, ignore_index=ignored, reduction='none')
        found = losses[mask != ignored]
        least = found.topk(math.ceil(_MIN_KEPT * len(found))).values[-1]
        hard = losses >= least.clamp(max=-math.log(_EASY))
    mask = mask.where(hard, ignored)
    return F.cross_entropy(logits, mask, weight=class_weights, ignore_index=ignored)


def _labelled(mask: Tensor, ignore_index: int | None) -> Tensor:
    """Whether each pixel has a label, bool of the shape of the mask."""
    if ignore_index is None:
        return torch.ones_like(mask, dtype=torch.bool)
    return mask != ignore_index


class _Network(nn.Module):
    """From images (B, C, H, W), sizes divisible by 32, to logits (B, K + 3, H, W)."""

    def __init__(self, encoder: Any, num_classes: int, points: Points) -> None:
        super().__init__()
        *widths, deepest = encoder.feature_info.channels()
        self.encoder = encoder
        self.context = _Context(deepest)
        self.laterals = nn.ModuleList(_layers(w, 1, bias=True) for w in widths)
        self.flows = nn.ModuleList(PointFlow(_WIDTH, points) for _ in widths)
        self.smooth = nn.ModuleList(_layers(_WIDTH, 3) for _ in widths)
        self.fuse = _layers((1 + len(widths)) * _WIDTH, 3)
        self.head = nn.Conv2d(_WIDTH, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        if self.training and len(image) == 1:
            raise ValueError(
                'a batch of one image leaves one value a channel in the pyramid '
                'pooling, which batch normalisation cannot be trained on. Use a '
                'batch_size of 2 or more.'
            )
        *features, deepest = self.encoder(image)
        above = self.context(deepest)
        pyramid, edges = [above], []
        for level in reversed(range(_LEVELS)):
            fine = self.laterals[level](features[level])
            flowed, edge = self.flows[level](above, fine)
            above = fine + flowed
            pyramid.append(self.smooth[level](above))
            edges.append(edge)
        grid, size = above.shape[-2:], image.shape[-2:]
        finest = [resize(x, grid) for x in reversed(pyramid)]
        logits = self.head(self.fuse(torch.cat(finest, dim=1)))
        return torch.cat([resize(x, size) for x in (logits, *edges)], dim=1)


class _Context(nn.Module):
    """Pyramid pooling: a map beside its means over ever smaller areas."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.means = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(side),
                nn.Conv2d(in_channels, _WIDTH, 1, bias=False),
                nn.BatchNorm2d(_WIDTH),
            )
            for side in _BINS
        )
        self.merge = _layers(in_channels + len(_BINS) * _WIDTH, 1)
        self.drop = nn.Dropout2d(0.1)

    def forward(self, features: Tensor) -> Tensor:
        size = features.shape[-2:]
        means = [resize(mean(features), size) for mean in self.means]
        merged: Tensor = self.drop(self.merge(torch.cat([*means, features], dim=1)))
        return merged


def _layers(in_channels: int, kernel: int, bias: bool = False) -> nn.Sequential:
    """A convolution to the width of the pyramid, and what follows it."""
    return nn.Sequential(
        nn.Conv2d(in_channels, _WIDTH, kernel, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(_WIDTH),
        nn.ReLU(inplace=True),
    )


def _encoder(backbone: str, in_channels: int, weights: bool) -> Any:
    """The ResNet, from images to its maps at 1/4, 1/8, 1/16 and 1/32."""
    encoder: Any = timm.create_model(
        backbone,
        pretrained=weights,
        features_only=True,
        out_indices=(1, 2, 3, 4),
        in_chans=in_channels,
        zero_init_last=False,
    )
    for stage, dilation in _DILATIONS.items():
        for layer in encoder.get_submodule(stage).modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (dilation, dilation)
    return encoder
