# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Spectral angles, in radians, on reflectance."""

import torch
from torch import Tensor

#: Reflectance norm below which a spectrum has no direction (blank borders).
_DARK = 1e-4


def spectral_angle(prediction: Tensor, target: Tensor, dim: int = 1) -> Tensor:
    """Angle between spectra (the SAD of the SpecDM paper, Eq. 1).

    Computed in float32 as ``2 atan2(|u - v|, |u + v|)`` of the unit vectors, which is
    exact for small angles, where the arc cosine of half a million identical spectra
    gives 1e-4 to 5e-4 instead of 0, and has a finite gradient everywhere.

    Args:
        prediction: Reflectance, not centred, any shape.
        target: Reflectance of the same shape.
        dim: The dimension of the bands.

    Returns:
        Radians in 0..pi; the shape without *dim*.
    """
    u, v = _unit(prediction, dim), _unit(target, dim)
    apart = ((u - v).square().sum(dim) + 1e-12).sqrt()
    together = ((u + v).square().sum(dim) + 1e-12).sqrt()
    return 2 * torch.atan2(apart, together)


def mean_spectral_angle(prediction: Tensor, target: Tensor, dim: int = 1) -> Tensor:
    """Mean angle over the pixels whose target spectrum is not blank.

    Args:
        prediction: Reflectance, not centred, any shape.
        target: Reflectance of the same shape.
        dim: The dimension of the bands.

    Returns:
        Radians, a scalar; 0 if all targets are blank.
    """
    lit = lit_pixels(target, dim)
    angles = spectral_angle(prediction, target, dim)
    return (angles * lit).sum() / lit.sum().clamp(min=1)


def lit_pixels(target: Tensor, dim: int = 1) -> Tensor:
    """Where a spectrum has a direction, so that an angle to it means something.

    Args:
        target: Reflectance, not centred, any shape.
        dim: The dimension of the bands.

    Returns:
        Boolean, the shape without *dim*.
    """
    return target.float().square().sum(dim) > _DARK**2


def class_spectra(images: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """Sum the spectra of each class, to be added over batches.

    Args:
        images: Reflectance (B, C, H, W).
        masks: Class positions (B, H, W); other values are left out.
        num_classes: Number of classes K.

    Returns:
        float64 (K, C + 1): the sums over pixels, and the pixel count in the last
        column.
    """
    spectra = images.movedim(1, -1).reshape(-1, images.shape[1]).double()
    labels = masks.reshape(-1)
    known = (labels >= 0) & (labels < num_classes)
    ones = torch.ones_like(spectra[:, :1])
    sums = spectra.new_zeros(num_classes, spectra.shape[1] + 1)
    return sums.index_add_(0, labels[known], torch.cat([spectra, ones], 1)[known])


def class_spectral_angle(real: Tensor, synthetic: Tensor) -> Tensor:
    """Angle between the mean spectra of each class (mSAD is the mean over classes).

    Args:
        real: From :func:`class_spectra`.
        synthetic: Likewise.

    Returns:
        Radians (K,); NaN for a class that one side lacks.
    """
    means = [sums[:, :-1] / sums[:, -1:] for sums in (real, synthetic)]
    return spectral_angle(means[0], means[1])


def _unit(spectra: Tensor, dim: int) -> Tensor:
    spectra = spectra.float()
    # a floor instead of a summand: unit vectors must have one length, or dark
    # spectra seem to be apart
    squares = spectra.square().sum(dim, keepdim=True).clamp(min=_DARK**2)
    return spectra * squares.rsqrt()
