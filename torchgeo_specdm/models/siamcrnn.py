# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""SiamCRNN for any number of bands and any image size."""

from typing import Any, Literal, TypeAlias, get_args

import timm
import torch.nn.functional as F
from torch import Tensor, nn
from torchgeo.models.convlstm import ConvLSTMCell

from ..choices import require_choice
from .padding import check_pair, pad_to_32

#: Encoders of SiamCRNN.
ResNet: TypeAlias = Literal['resnet18', 'resnet34', 'resnet50', 'resnet101']

#: Channels of the memory at each scale, and so of the pyramid (docs/notes/networks.md).
_WIDTH = 128


class SiamCRNN(nn.Module):
    """SiamCRNN (Chen et al. 2020) in its fully convolutional form, for any bands.

    One ResNet sees each date. At each of its four scales, at 1/4, 1/8, 1/16 and 1/16
    of the image, a convolutional LSTM reads the first date, then the second: the order
    of the dates matters. A pyramid adds its last states from coarse to fine.

    Sizes that are no multiple of 32 are padded and cropped back. Both dates share a
    batch, so BatchNorm takes its statistics over both; a batch of one pair can train.
    Source of the widths and counts: docs/notes/networks.md.

    To keep 1/16, the last stage of the ResNet dilates the first 3 x 3 convolution of
    each block by 2, as the released code does. That has ResNet-18 and 34 only; a block
    of ResNet-50 and 101 has one such convolution.
    """

    def __init__(
        self,
        backbone: ResNet = 'resnet18',
        in_channels: int = 3,
        num_classes: int = 2,
        weights: bool = False,
    ) -> None:
        """Initialize a new SiamCRNN instance.

        Args:
            backbone: Name of the encoder.
            in_channels: Number of bands of each date.
            num_classes: Number of classes.
            weights: Whether to fetch timm's ImageNet weights for the encoder (network
                access). More bands than three get the RGB kernels in turn, scaled by
                3 / bands. They expect each channel with mean 0 and standard deviation
                1 over the data set.

        Raises:
            ValueError: If the backbone is not known.
        """
        require_choice('backbone', backbone, get_args(ResNet))
        super().__init__()
        self.in_channels = in_channels
        encoder: Any = timm.create_model(
            backbone,
            pretrained=weights,
            features_only=True,
            out_indices=(1, 2, 3, 4),
            output_stride=16,
            in_chans=in_channels,
            # as torchvision, whose ResNet the released code follows
            zero_init_last=False,
        )
        widths = encoder.feature_info.channels()
        for block in encoder.get_submodule('layer4'):
            _dilate_first(block)
        self.encoder = encoder
        # the cell, as ConvLSTM itself takes and returns something else in 0.10
        self.cells = nn.ModuleList(ConvLSTMCell(w, _WIDTH, (3, 3)) for w in widths)
        self.smooth = nn.ModuleList(_smooth() for _ in widths[1:])
        self.head = nn.Conv2d(_WIDTH, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of a batch.

        Args:
            image: Normalised image of two dates, float (B, 2, C, H, W).

        Returns:
            Logits of each class, (B, K, H, W).

        Raises:
            ValueError: If the image has another shape, number of dates or bands.
        """
        check_pair(image, self.in_channels)
        height, width = image.shape[-2:]
        image = pad_to_32(image)
        features = self.encoder(image.flatten(0, 1))
        states = [
            _last_state(cell, feature.unflatten(0, (-1, 2)))
            for cell, feature in zip(self.cells, features, strict=True)
        ]
        pyramid = states.pop()
        for smooth, state in zip(self.smooth, reversed(states), strict=True):
            larger = F.interpolate(pyramid, state.shape[-2:], mode='bilinear')
            pyramid = smooth(larger + state)
        logits = F.interpolate(self.head(pyramid), image.shape[-2:], mode='bilinear')
        return logits[..., :height, :width]


def _dilate_first(block: nn.Module) -> None:
    """Dilate the first 3 x 3 convolution of a block by 2, and no other."""
    dilation = 2
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.dilation = layer.padding = (dilation, dilation)
            dilation = 1


def _smooth() -> nn.Sequential:
    """The layers that follow each addition in the pyramid."""
    return nn.Sequential(
        # BatchNorm takes the bias out again; the released network counts it
        nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
        nn.BatchNorm2d(_WIDTH),
        nn.ReLU(inplace=True),
    )


def _last_state(cell: nn.Module, features: Tensor) -> Tensor:
    """Read the dates of features (B, T, D, H, W); the hidden state (B, 128, H, W)."""
    batch, _, _, height, width = features.shape
    hidden = memory = features.new_zeros(batch, _WIDTH, height, width)
    for date in features.unbind(1):
        hidden, memory = cell(date, (hidden, memory))
    return hidden
