# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Checks and padding of the images that networks take."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_32(image: Tensor) -> Tensor:
    """Extend an image to a height and width divisible by 32.

    Copies of the border are added at the right and lower edge, however many it takes.

    Args:
        image: Any values, float (..., C, H, W) with at least four dimensions.

    Returns:
        The extended image; the same tensor where nothing is missing.
    """
    height, width = image.shape[-2:]
    right, below = -width % 32, -height % 32
    if not right and not below:
        return image
    # PyTorch copies borders of four dimensions at most
    flat = F.pad(image.flatten(0, -4), (0, right, 0, below), mode='replicate')
    return flat.view(*image.shape[:-2], height + below, width + right)


def check_pair(image: Tensor, in_channels: int) -> None:
    """Refuse what is not a batch of two dates.

    Args:
        image: Anything.
        in_channels: Number of bands of each date.

    Raises:
        ValueError: If the shape is not (B, 2, in_channels, H, W).
    """
    if image.ndim != 5 or image.shape[1:3] != (2, in_channels):
        raise ValueError(
            f'image of shape {tuple(image.shape)} must be (B, 2, {in_channels}, H, W), '
            'two dates of one place. Stack the dates in dimension 1 and give '
            'in_channels of the network the number of bands of one date.'
        )
