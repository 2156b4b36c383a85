# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Spectral angles, in radians, on reflectance, and spectral indices."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..pairs.spec import SampleSpec

#: Reflectance norm below which a spectrum has no direction (blank borders).
_DARK = 1e-4

#: The bands a and b of the indices (a - b) / (a + b): of plants, of water (McFeeters,
#: 1996) and of built-up land (Zha et al., 2003).
INDICES: Mapping[str, tuple[str, str]] = {
    'ndvi': ('nir', 'red'),
    'ndwi': ('green', 'nir'),
    'ndbi': ('swir1', 'nir'),
}


class _Colour(NamedTuple):
    """Which bands may stand for a colour: nanometres, tolerance, and plain names."""

    center: float
    within: float
    names: tuple[str, ...]


# from nir, the red edge of Sentinel-2 (B07, 783 nm) is too far, and B09 (945 nm), which
# sees water vapour
_COLOURS = {
    'green': _Colour(560, 30, ('green', 'g')),
    'red': _Colour(665, 30, ('red', 'r')),
    'nir': _Colour(842, 45, ('nir', 'nirbroad', 'nirnarrow', 'nir08')),
    'swir1': _Colour(1610, 70, ('swir1', 'swir16')),
}


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


def index_channels(spec: SampleSpec) -> dict[str, tuple[int, int]]:
    """Find the two channels of each index of :data:`INDICES`.

    A colour is the band whose known wavelength is nearest to it and near enough (842 nm
    for nir, within 45), else the one named by a word (``NIR``, ``SWIR_1``). A mere
    number says nothing: ``B5`` is nir on Landsat 8 and red edge on Sentinel-2. Where
    Landsat's bands are named ``B02`` to ``B07``, as Sentinel-2's are, no band is near
    enough to nir, and all three indices are left out.

    Args:
        spec: Tells the bands.

    Returns:
        The channels a and b of each index whose bands are there.
    """
    found = {}
    for name, colours in INDICES.items():
        a, b = (_channel(spec, _COLOURS[colour]) for colour in colours)
        if a is not None and b is not None:
            found[name] = (a, b)
    return found


def normalized_difference(a: Tensor, b: Tensor) -> Tensor:
    """The index (a - b) / (a + b) of two bands.

    A number below 0, as atmospheric correction leaves in dark water, counts as 0: the
    index stays in -1..1, where a sum near 0 would give any number.

    Args:
        a: Reflectance or digital numbers, any shape.
        b: Likewise.

    Returns:
        -1..1, of the same shape; NaN where both are 0.
    """
    a, b = a.clamp(min=0), b.clamp(min=0)
    return (a - b) / (a + b)


def _channel(spec: SampleSpec, colour: _Colour) -> int | None:
    distances = [
        (abs(wave - colour.center), i)
        for i, wave in enumerate(spec.wavelengths)
        if wave is not None and abs(wave - colour.center) <= colour.within
    ]
    if distances:
        return min(distances)[1]
    words = [''.join(c for c in band.lower() if c.isalnum()) for band in spec.bands]
    return next((words.index(name) for name in colour.names if name in words), None)


def _unit(spectra: Tensor, dim: int) -> Tensor:
    spectra = spectra.float()
    # a floor instead of a summand: unit vectors must have one length, or dark
    # spectra seem to be apart
    squares = spectra.square().sum(dim, keepdim=True).clamp(min=_DARK**2)
    return spectra * squares.rsqrt()
