# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Missing values: NaN in a sample, and filled before a network sees them."""

import torch
from torch import Tensor


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
    """Fill missing values of standardised bands with 0, the mean of the band.

    The mean pulls a network neither way, and costs nothing; neighbouring values would
    look like a measurement.

    Args:
        planes: Bands of mean 0, any shape, NaN where missing.

    Returns:
        The same without NaN; infinite values stay, for a loss to stop at.
    """
    return planes.where(~planes.isnan(), 0)
