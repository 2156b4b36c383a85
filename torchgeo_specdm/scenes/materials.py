# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Reflectance curves of the demo scenes' materials: smooth, with known features.

Nothing here was measured (see :mod:`.scenes`).
"""

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]


def materials(waves: Field) -> dict[str, Field]:
    """Reflectance of pure materials, one value for each wavelength in nm."""
    pigment, water = absorb(waves)

    def leaf(plateau: float, green: float, wet: float) -> Field:
        return plateau * np.exp(-green * pigment - wet * water)

    def rise(top: float, start: float, length: float) -> Field:
        return top * (1 - np.exp((start - waves) / length))

    return {
        'crop': leaf(0.48, 2.75, 1.0),
        'grass': leaf(0.38, 1.95, 0.75),
        'foliage': leaf(0.41, 2.70, 1.0),
        'needle': leaf(0.23, 2.30, 1.2),
        'reed': leaf(0.30, 1.90, 1.1),
        'shade': leaf(0.10, 1.80, 0.9),
        'bloom': leaf(0.46, 2.40, 0.9) + 0.09 * bump(waves, 610, 70),
        'straw': rise(0.42, 340, 420) * (1 - 0.3 * bump(waves, 2150, 250)),
        'soil': rise(0.34, 300, 600) * (1 - 0.12 * bump(waves, 2200, 120)),
        'gravel': rise(0.40, 200, 450),
        'clear': 0.04 * np.exp((490 - waves) / 130),
        'turbid': 0.085 * bump(waves, 560, 120) + 0.03 * np.exp(-waves / 700),
        'tile': 0.03 + rise(0.22, 400, 450),
        'cement': 0.13 + rise(0.08, 400, 500),
        'asphalt': 0.075 + 2e-5 * waves,
    }


def absorb(waves: Field) -> tuple[Field, Field]:
    """Absorption by leaf pigments up to the red edge at 715 nm, and by liquid water."""
    pigment = step((715 - waves) / 15) * (1 - 0.3 * bump(waves, 555, 35))
    return pigment, 0.75 * step((waves - 1350) / 60) + 0.8 * step((waves - 1900) / 60)


def bump(waves: Field, centre: float, width: float) -> Field:
    """A Gaussian of height one at *centre*, in nm."""
    return np.asarray(np.exp(-(((waves - centre) / width) ** 2)))


def step(value: Field) -> Field:
    """A smooth step from 0 to 1 around 0."""
    return np.asarray(1 / (1 + np.exp(-value.clip(-40, 40))))
