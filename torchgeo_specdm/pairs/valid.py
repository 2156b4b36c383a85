# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Pixels that hold nothing: without a label, or without a measured value.

Missing values are NaN in a sample, and filled before a network sees them.
"""

from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

Masks = TypeVar('Masks', Tensor, NDArray[Any])


def labelled_pixels(masks: Masks, num_classes: int) -> Masks:
    """Where a mask has a class.

    Args:
        masks: Class positions of any shape; values that are none are no label.
        num_classes: Number of classes K.

    Returns:
        Boolean, of the same shape.
    """
    return (masks >= 0) & (masks < num_classes)


def valid_pixels(images: Tensor) -> Tensor:
    """Where all bands of an image were measured.

    Args:
        images: Digital numbers (..., C, H, W), NaN where missing.

    Returns:
        Boolean (..., H, W).
    """
    return images.isfinite().all(-3)


def mark_missing(images: Tensor, nodata: float | None) -> Tensor:
    """Replace a value that means nothing.

    Args:
        images: Digital numbers of any shape.
        nodata: The value, NaN perhaps; None for none.

    Returns:
        float32, NaN where missing.
    """
    images = images.float()
    if nodata is None:
        return images
    # in single precision: -3.4e38 is another number in double precision
    return images.where(images != torch.tensor(nodata, dtype=torch.float32), torch.nan)


def fill_missing(planes: Tensor) -> Tensor:
    """Fill missing values with means of the valid ones around them, plane by plane.

    Means of squares of 2, 4, 8, ... pixels, the smallest square that has a valid pixel
    being taken, and blended linearly (the pull and push of Gortler et al., The
    Lumigraph, 1996). With a constant there, a network reads an edge where none is,
    which costs the pixels beside it (docs/notes/autoencoder.md).

    Args:
        planes: Standardised bands or classes (..., H, W), NaN where missing.

    Returns:
        The same without NaN: 0 where a whole plane is missing. Infinite values stay,
        for a loss to stop at.
    """
    # on a GPU, the answer would have to be waited for
    if planes.device.type == 'cpu' and not bool(planes.isnan().any()):
        return planes
    filled = _spread(planes.reshape(-1, 1, *planes.shape[-2:])).view_as(planes)
    return filled.where(~filled.isnan(), 0)


def _spread(planes: Tensor) -> Tensor:
    """Planes (N, 1, H, W) with holes filled, but for planes of nothing else."""
    if planes.shape[-2:] == (1, 1):
        return planes
    known = ~planes.isnan()
    count = avg_pool2d(known.to(planes), 2, ceil_mode=True)
    coarse = avg_pool2d(planes.where(known, 0), 2, ceil_mode=True) / count
    around = interpolate(_spread(coarse), planes.shape[-2:], mode='bilinear')
    return planes.where(known, around)
