# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Spectra, class areas, errors of the denoiser and training curves."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..pairs.spec import SampleSpec
from ..pairs.units import quantity
from .figures import SMALL, TEXT, WIDTH, legend_above, panel, tidy

_COLORS = {'train': '#3f6aa8', 'held_out': '#a9c1de', 'synthetic': '#d9822b'}
_NAMES = {'train': 'real, training', 'held_out': 'real, test', 'synthetic': 'synthetic'}
_STYLES = {'train': '-', 'synthetic': '--'}
#: Inches that a panel needs beside others.
_PANEL = 2.0
#: Letters of a title that fit above it.
_TITLE = 24
#: Bands whose names can be read; more are shown by their wavelengths.
_MOST_NAMED = 20
#: Times the usual step between bands from where on a spectrum has a gap.
_GAP = 4


def class_spectra_figure(
    spectra: Mapping[str, Any], spec: SampleSpec, width: float = WIDTH
) -> Figure:
    """Mean spectrum of each class with its spread: real (line) and synthetic (dashes).

    Args:
        spectra: ``names`` of the classes (with several dates, of each at each date),
            and ``curves``: for ``train`` and ``synthetic`` ``mean`` and ``std`` of
            reflectance, a list over the bands for each name; None is not plotted.
            ``synthetic`` may hold ``per_class``, angles in radians by name.
        spec: Description of the samples.
        width: Width of the figure in inches.

    Returns:
        The figure.
    """
    waves = np.array(spec.wavelengths, float)
    known = not np.isnan(waves).any()
    order = np.argsort(waves) if known else np.arange(spec.num_bands)
    by_wavelength = known and spec.num_bands > _MOST_NAMED
    x = waves[order] if by_wavelength else np.arange(spec.num_bands)
    steps = np.diff(x) if by_wavelength else np.ones(1)
    gaps = np.flatnonzero(steps > _GAP * np.median(steps)) + 1
    # a class that neither side has would be an empty panel
    classes = range(len(spectra['names']))
    chosen = [
        k
        for k in classes
        if any(np.isfinite(_curve(spectra, s, 'mean', k)).any() for s in _STYLES)
    ] or list(classes)
    names = [spectra['names'][k] for k in chosen]
    angles = (spectra.get('synthetic') or {}).get('per_class') or {}
    # with several dates, all classes of a date are on a line where they fit
    most = 3 if spec.dates == 1 else spec.num_classes
    columns = max(1, min(len(names), most, int(width / _PANEL)))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(width, 1.9 * lines + 0.3),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout='constrained',
    )
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for k, (axis, name) in enumerate(zip(axes.flat, names, strict=False)):
        for side, style in _STYLES.items():
            # no line across a gap
            mean, std = (
                np.insert(_curve(spectra, side, part, chosen[k])[order], gaps, np.nan)
                for part in ('mean', 'std')
            )
            color, across = _COLORS[side], np.insert(x, gaps, x[gaps])
            axis.plot(across, mean, style, color=color, label=_NAMES[side])
            axis.fill_between(
                across, mean - std, mean + std, color=color, alpha=0.25, lw=0
            )
        angle = angles.get(name)
        said = '' if angle is None else f': {angle:.3f} rad'
        title = textwrap.fill(f'{name}{said}', _TITLE)
        axis.set_title(title, fontsize=SMALL, parse_math=False)
        if not by_wavelength:
            # hundreds of names cannot be read
            shown = range(0, spec.num_bands, -(-spec.num_bands // 12))
            labels = [spec.bands[order[i]] for i in shown]
            axis.set_xticks(shown, labels, rotation=90, parse_math=False)
        # under the lowest panel of each column, since the last line may lack some
        axis.tick_params(labelbottom=k + columns >= len(names))
        tidy(axis)
    legend_above(figure, width)
    if by_wavelength:
        figure.supxlabel('nm', fontsize=TEXT)
    figure.supylabel(quantity(spec), fontsize=TEXT)
    return figure


def _curve(
    spectra: Mapping[str, Any], side: str, part: str, row: int
) -> NDArray[np.float64]:
    """One curve over the bands; NaN where nothing was measured."""
    return np.array(spectra['curves'][side][part][row], float)


def class_areas(
    area: Mapping[str, Any], spec: SampleSpec, width: float = WIDTH
) -> Figure:
    """Share of each class in real and in synthetic masks.

    Args:
        area: Shares in 0..1, a list over the classes for each of ``train``,
            ``held_out`` and ``synthetic``, or for each of other sets by their names.
        spec: Description of the samples.
        width: Width of the figure in inches.

    Returns:
        The figure.
    """
    positions = np.arange(spec.num_classes)
    figure, axis = panel(width)
    sides = [side for side in _COLORS if area.get(side)] or list(area)
    colors = _COLORS if sides[0] in _COLORS else {}
    for shift, side in enumerate(sides):
        heights = [100 * v for v in area[side]]
        where = positions + 0.27 * (shift - (len(sides) - 1) / 2)
        label = _NAMES.get(side, side)
        axis.bar(where, heights, 0.26, label=label, color=colors.get(side))
    axis.set_xticks(positions, spec.classes, fontsize=SMALL, parse_math=False)
    if spec.num_classes > 6 * width / WIDTH:
        plt.setp(axis.get_xticklabels(), rotation=30, ha='right')
    axis.set_ylabel('% of pixels', fontsize=TEXT)
    tidy(axis)
    legend_above(figure, width)
    return figure


def training_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], width: float = WIDTH
) -> Figure:
    """Logged values of one stage over its steps.

    Args:
        curves: Curves by name, (step, value) in order.
        width: Width of the figure in inches.

    Returns:
        The figure; its scale is logarithmic if all values are above zero.
    """
    figure, axis = panel(width)
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        marker = 'o' if len(points) < 20 else ''
        # an underscore would hide the name, and a dollar begin a formula
        label = name.replace('$', r'\$')
        axis.plot(
            steps, values, marker=marker, markersize=3, linewidth=1.1, label=label
        )
    if all(value > 0 for points in curves.values() for _, value in points):
        axis.set_yscale('log')
    axis.set_xlabel('steps', fontsize=TEXT)
    tidy(axis)
    legend_above(figure, width)
    return figure


def denoising_errors(
    errors: Mapping[str, Mapping[str, Sequence[float]]], width: float = WIDTH
) -> Figure:
    """Errors of the denoiser by stream and level of noise, and of simpler estimates.

    Args:
        errors: By stream, ``log_snr`` and the mean squared errors ``network``,
            ``noisy`` and ``linear`` of the clean latents.
        width: Width of the figure in inches.

    Returns:
        The figure, with a logarithmic scale.
    """
    figure, axis = panel(width)
    for number, (stream, found) in enumerate(errors.items()):
        for name, style in (('network', 'o-'), ('linear', '--'), ('noisy', ':')):
            axis.plot(
                found['log_snr'],
                found[name],
                style,
                color=f'C{number}',
                markersize=3,
                linewidth=1.1,
                label=f'{stream}, {name}'.replace('$', r'\$'),
            )
    axis.set_yscale('log')
    axis.set_xlabel('log signal-to-noise ratio', fontsize=TEXT)
    tidy(axis)
    legend_above(figure, width)
    return figure
