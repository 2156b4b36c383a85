# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Spectral angles, in radians, on reflectance, and normalized differences."""

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


def normalized_difference(a: Tensor, b: Tensor) -> Tensor:
    """The index (a - b) / (a + b) of two bands.

    A number below 0, as atmospheric correction leaves in dark water, counts as 0: the
    index stays in -1..1, where a sum near 0 would give any number.

    Args:
        a: Reflectance or digital numbers of the first band, any shape.
        b: Reflectance or digital numbers of the second band, of the same shape.

    Returns:
        -1..1, of the same shape; NaN where both are 0.
    """
    a, b = a.clamp(min=0), b.clamp(min=0)
    return (a - b) / (a + b)


def _unit(spectra: Tensor, dim: int) -> Tensor:
    spectra = spectra.float()
    # a floor instead of a summand: unit vectors must have one length, or dark
    # spectra seem to be apart
    squares = spectra.square().sum(dim, keepdim=True).clamp(min=_DARK**2)
    return spectra * squares.rsqrt()
