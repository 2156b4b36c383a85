# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The form of ``measures.json``, which holds what was measured."""

from pathlib import Path
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict

from ..files import OPEN, Count, read_json
from .scores import Measure, Neighbour

MEASURES = 'measures.json'

#: Of each side, class, date, band or score.
Measures = dict[str, Measure]


@with_config(OPEN)
class Fidelity(TypedDict, total=False):
    """Distances of the images or masks of a set from the real ones, by side."""

    frechet: Measures
    kernel: Measures
    precision: Measures
    recall: Measures
    density: Measures
    coverage: Measures
    samples: Count


@with_config(OPEN)
class Detail(TypedDict, total=False):
    """Detail of each side over that of the real training images."""

    held_out: dict[str, Measure | Measures]
    synthetic: dict[str, Measure | Measures]
    reconstructed: dict[str, Measure | Measures]
    per_band: dict[str, dict[str, Measures]]


@with_config(OPEN)
class Alignment(TypedDict, total=False):
    """Agreement of images and masks, by side."""

    score: str
    judge: dict[str, dict[str, Measure | list[Measure]]]
    calibrated: Measure
    per_class: dict[str, Measures]
    edges: Measures
    spectrum: Measures
    transparency: Measure
    swapped: Measures


@with_config(OPEN)
class Spectra(TypedDict, total=False):
    """Spectra of a set against those of the real training samples."""

    msad: Measure
    spread: Measure
    gain: Measure
    classes: Count
    per_class: Measures
    spread_per_class: Measures
    gain_per_class: Measures
    indices: dict[str, dict[str, list[Measure]]]
    index_shift: Measures


@with_config(OPEN)
class AllSpectra(TypedDict, total=False):
    """Spectra of all sides."""

    held_out: Spectra
    synthetic: Spectra
    reconstructed: Spectra
    names: list[str]
    curves: dict[str, dict[str, list[list[Measure]]]]


@with_config(OPEN)
class Area(TypedDict, total=False):
    """Share of each class in each side."""

    train: list[Measure]
    synthetic: list[Measure]
    held_out: list[Measure]
    total_variation: Measure
    total_variation_held_out: Measure
    missing: list[str]
    missing_held_out: list[str]
    missing_share: Measure


@with_config(OPEN)
class Nearness(TypedDict, total=False):
    """Distances of samples to training samples."""

    share: Measure
    expected: Measure
    threshold: Measure
    chance: Measure
    median_ratio: Measure
    alarm: bool | None
    samples: Count
    references: Count


@with_config(OPEN)
class Memorisation(TypedDict, total=False):
    """Nearness in pixels and in features, and the nearest samples."""

    pixels: Nearness
    features: Nearness
    nearest: list[Neighbour]


@with_config(OPEN)
class AllMeasures(TypedDict, total=False):
    """Content of ``measures.json``."""

    fidelity: dict[str, Fidelity]
    detail: Detail
    spectra: AllSpectra
    area: Area
    alignment: Alignment
    change: dict[str, Measures | None]
    reconstruction: Measures
    memorisation: Memorisation
    overlap: dict[str, dict[str, Count]]
    counts: dict[str, Count]


def read_measures(folder: Path) -> dict[str, Any]:
    """Read ``measures.json``.

    Args:
        folder: Folder that :class:`~torchgeo_specdm.TrustTask` wrote.

    Returns:
        Its content; what was not measured is missing or None.

    Raises:
        ValueError: If it is of another form; the message names file and entry.
    """
    return dict(read_json(folder / MEASURES, AllMeasures))
