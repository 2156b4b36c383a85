# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The pictures of a report."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..datasets.plotting import show_image, show_mask
from ..datasets.spec import SampleSpec
from ..metrics.tiles import Tiles
from ..study.comparison import Run


def pair_grid(rows: Mapping[str, Tiles], spec: SampleSpec, columns: int = 8) -> Figure:
    """Pairs side by side, all images stretched alike.

    Args:
        rows: Title of each row and its tiles; the first row sets the stretch.
        spec: What the samples are.
        columns: Pairs in a row.

    Returns:
        The figure: for each row the images, and their masks below.
    """
    first = next(iter(rows.values()))
    bands = first.images[:, list(spec.rgb)].float().numpy()
    low, high = (float(v) for v in np.percentile(bands, (2, 98)))
    figure, axes = plt.subplots(
        2 * len(rows),
        columns,
        figsize=(1.25 * columns, 2.5 * len(rows) + 0.3),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    for row, (title, tiles) in enumerate(rows.items()):
        axes[2 * row, 0].set_ylabel(title)
        axes[2 * row + 1, 0].set_ylabel('labels')
        for column in range(min(columns, len(tiles.images))):
            image = show_image(tiles.images[column], spec, (low, high))
            axes[2 * row, column].imshow(image, interpolation='nearest')
            mask = show_mask(tiles.masks[column], spec)
            axes[2 * row + 1, column].imshow(mask, interpolation='nearest')
    handles = [
        Patch(color=(red / 255, green / 255, blue / 255))
        for red, green, blue in spec.colors
    ]
    figure.legend(
        handles,
        spec.classes,
        loc='lower center',
        ncols=min(len(handles), 6),
        fontsize=8,
        frameon=False,
        bbox_to_anchor=(0.5, -0.02 - 0.03 * (len(handles) > 6)),
    )
    figure.tight_layout(pad=0.3)
    return figure


def score_dots(runs: Sequence[Run]) -> Figure:
    """Test mIoU of each run, one line a seed, so that pairs can be seen."""
    ratios = sorted({run.ratio for run in runs})
    figure, axis = plt.subplots(figsize=(5.5, 3.2))
    for seed in sorted({run.seed for run in runs}):
        points = sorted((r.ratio, r.miou) for r in runs if r.seed == seed)
        axis.plot(
            [ratios.index(x) for x, _ in points],
            [100 * y for _, y in points],
            'o-',
            linewidth=0.8,
            label=f'seed {seed}',
        )
    names = ['real only' if r == 0 else f'+ {r:g}x synthetic' for r in ratios]
    axis.set_xticks(range(len(ratios)), names)
    axis.set_ylabel('test mIoU in points')
    axis.legend(frameon=False, fontsize=8)
    axis.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    return figure


def class_spectra_figure(spectra: Mapping[str, Any], spec: SampleSpec) -> Figure:
    """Mean spectrum of each class: real (line) and synthetic (dashes)."""
    waves = spec.wavelengths
    order = np.arange(spec.num_bands)
    if None not in waves:
        order = np.argsort(np.array(waves, float))
    labels = [spec.bands[i] for i in order]
    classes = range(spec.num_classes)
    columns = min(spec.num_classes, 3)
    lines = -(-spec.num_classes // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3 * columns, 2.1 * lines), squeeze=False, sharey=True
    )
    for axis in axes.flat[spec.num_classes :]:
        axis.set_visible(False)
    for axis, k in zip(axes.flat, classes, strict=False):
        color = tuple(c / 255 for c in spec.colors[k])
        for name, style in (('train', '-'), ('synthetic', '--')):
            values = np.array(spectra['means'][name][k], float)[order]
            axis.plot(values, style, color=color, label=name)
        angle = spectra['per_class'][spec.classes[k]]
        axis.set_title(f'{spec.classes[k]}: {angle:.3f} rad', fontsize=9)
        axis.set_xticks(range(len(labels)), labels, fontsize=6, rotation=60)
        axis.spines[['top', 'right']].set_visible(False)
    axes[0, 0].set_ylabel('reflectance')
    axes[0, 0].legend(
        ['real', 'synthetic'], frameon=False, fontsize=7, loc='upper left'
    )
    figure.tight_layout()
    return figure


def class_areas(area: Mapping[str, Any], spec: SampleSpec) -> Figure:
    """Share of each class in real and in synthetic masks."""
    places = np.arange(spec.num_classes)
    figure, axis = plt.subplots(figsize=(max(5.0, 0.8 * spec.num_classes), 2.8))
    for shift, (name, color) in enumerate(
        (('train', '#4a6fa5'), ('held_out', '#a8c0dd'), ('synthetic', '#d9822b'))
    ):
        axis.bar(
            places + 0.27 * (shift - 1),
            [100 * v for v in area[name]],
            0.26,
            label={'train': 'real, training', 'held_out': 'real, test'}.get(name, name),
            color=color,
        )
    axis.set_xticks(places, spec.classes, rotation=30, ha='right', fontsize=8)
    axis.set_ylabel('% of pixels')
    axis.legend(frameon=False, fontsize=8)
    axis.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    return figure


def as_data_uri(figure: Figure) -> str:
    """A figure as a PNG inside an HTML page; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110, bbox_inches='tight')
    plt.close(figure)
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
