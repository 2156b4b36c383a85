# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Grids of pairs and what a comparison shows, all of one width."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..pairs.plotting import show_image, show_mask, stretch_of
from ..pairs.spec import SampleSpec
from ..pairs.tiles import Tiles
from ..study.design import REAL, arm_label
from ..study.runs import Run, by_arm, differences
from ..study.verdicts import NAMES

#: Width of every figure in inches: texts of different figures are then of one size.
WIDTH = 8.0
#: The same for a phone.
NARROW = 4.2
#: Pixels of an inch: sharp on a screen of twice the usual density.
_DPI = 160
#: Sizes of letters in points.
TEXT = 10
SMALL = 9
#: So many names of arms fit beside each other.
_FLAT = 5
#: Inches that a letter, and the sign before a name, need in a legend.
_LETTER, _SIGN = 0.075, 0.55
#: Letters that fit into the width of a figure at the small size.
_LETTERS = 105
#: Inches to the left of a grid for the titles of its rows, and between its pairs.
_LABEL = 0.3
_GAP = 0.07
_ROW_TITLE: dict[str, Any] = {
    'rotation': 'vertical',
    'va': 'center',
    'ha': 'left',
    'fontsize': TEXT,
}


def pair_grid(
    rows: Mapping[str, Tiles],
    spec: SampleSpec,
    columns: int = 8,
    outlined: bool = False,
) -> Figure:
    """Pairs side by side, each date above its mask, all images stretched alike.

    Args:
        rows: Title of each row and its tiles; the first row sets the stretch.
        spec: Description of the samples.
        columns: Pairs in a row.
        outlined: Whether to put a line around what is of class 1, the changed one, on
            every date.

    Returns:
        The figure.
    """
    limits = stretch_of(next(iter(rows.values())).images, spec.rgb)
    handles, on_a_line = _legend(spec)
    pitch = (WIDTH - _LABEL) / columns
    side = pitch - _GAP
    row_height = (spec.dates + 1) * side + 3 * _GAP
    legend_height = 0.2 * -(-len(handles) // on_a_line) + 0.1
    height = row_height * len(rows) + legend_height
    figure = plt.figure(figsize=(WIDTH, height))
    for row, (title, tiles) in enumerate(rows.items()):
        top = height - row * row_height
        middle = top - (spec.dates + 1) * side / 2
        figure.text(0.05 / WIDTH, middle / height, title, **_ROW_TITLE)
        for column in range(min(columns, len(tiles.images))):
            dates = tiles.images[column].reshape(-1, *tiles.images.shape[-3:])
            cells = [show_image(date, spec, limits) for date in dates]
            cells.append(show_mask(tiles.masks[column], spec))
            # they touch each other, so that a pair is seen as one
            for cell, colors in enumerate(cells, 1):
                left, bottom = _LABEL + column * pitch, top - cell * side
                wide, high = side / WIDTH, side / height
                axis = figure.add_axes((left / WIDTH, bottom / height, wide, high))
                axis.imshow(colors, interpolation='nearest', aspect='auto')
                changed = tiles.masks[column].reshape(colors.shape[:2]) == 1
                if outlined and changed.any() and not changed.all():
                    axis.contour(
                        changed.float(), [0.5], colors='yellow', linewidths=0.6
                    )
                axis.axis('off')
    figure.legend(
        handles=handles,
        loc='lower center',
        ncols=on_a_line,
        fontsize=SMALL,
        frameon=False,
        borderaxespad=0,
    )
    return figure


def score_dots(
    runs: Sequence[Run], score: str = 'miou', width: float = WIDTH
) -> Figure:
    """Test score of each run, one line a seed, so that pairs can be seen.

    Bars show the 95 % interval of each arm's paired difference, above or below the mean
    of real only.

    Args:
        runs: Runs of one network and one real size.
        score: Name of the score.
        width: Width of the figure in inches.

    Returns:
        The figure.
    """
    values = by_arm(runs, score)
    figure, axis = panel(width)
    for seed in sorted({seed for scored in values.values() for seed in scored}):
        points = [
            (position, 100 * scored[seed])
            for position, scored in enumerate(values.values())
            if seed in scored
        ]
        axis.plot(
            *zip(*points, strict=True),
            'o-',
            linewidth=0.8,
            markersize=5,
            label=f'seed {seed}',
        )
    _add_intervals(axis, runs, score)
    names = [arm_label(*key) for key in values]
    axis.set_xticks(range(len(names)), names, fontsize=TEXT, parse_math=False)
    if len(names) > _FLAT * width / WIDTH:
        plt.setp(axis.get_xticklabels(), rotation=30, ha='right')
    axis.set_ylabel(f'test {NAMES.get(score, score)} in points', fontsize=TEXT)
    axis.margins(x=0.08, y=0.12)
    tidy(axis)
    legend_above(figure, width)
    return figure


def _add_intervals(axis: Axes, runs: Sequence[Run], score: str) -> None:
    """Plot paired differences, where there are two pairs or more, with their end."""
    places = list(by_arm(runs, score))
    real = _mean(list(by_arm(runs, score).get((REAL, 0.0), {}).values()))
    label: str | None = 'difference, 95 %'
    for key, d in differences(runs, score).items():
        if d.pairs > 1:
            axis.errorbar(
                places.index(key) + 0.06,
                100 * (real + d.mean),
                yerr=100 * (d.high - d.mean),
                color='gray',
                capsize=4,
                marker='_',
                label=label,
            )
            label = None


def class_changes(runs: Sequence[Run]) -> Figure:
    """Difference of the IoU of each class to real only, by arm; means over seeds.

    Args:
        runs: Runs of one network and one real size.

    Returns:
        The figure.
    """
    means: dict[tuple[str, float], list[float]] = {}
    classes = list(next((run.iou for run in runs if run.iou), {}))
    for key in by_arm(runs):
        own = [run.iou for run in runs if (run.arm, run.ratio) == key and run.iou]
        means[key] = [_mean([iou[name] for iou in own]) for name in classes]
    real = means.pop((REAL, 0.0), [math.nan] * len(classes))
    figure, axis = panel(WIDTH)
    wide = 0.8 / max(len(means), 1)
    for position, (key, values) in enumerate(means.items()):
        heights = [100 * (a - b) for a, b in zip(values, real, strict=True)]
        where = np.arange(len(classes)) + wide * (position - (len(means) - 1) / 2)
        # a dollar would begin a formula
        name = arm_label(*key).replace('$', r'\$')
        axis.bar(where, heights, 0.9 * wide, label=name)
    axis.axhline(0, color='gray', linewidth=0.8)
    axis.set_xticks(range(len(classes)), classes, fontsize=SMALL, parse_math=False)
    if len(classes) > 6:
        plt.setp(axis.get_xticklabels(), rotation=30, ha='right')
    axis.set_ylabel('IoU against real only', fontsize=TEXT)
    tidy(axis)
    legend_above(figure, WIDTH)
    return figure


def _mean(values: Sequence[float | None]) -> float:
    """Mean of what is known; NaN of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def save(figure: Figure, path: Any) -> None:
    """Write a figure as PNG, to a path or a buffer."""
    figure.savefig(path, format='png', dpi=_DPI)


def as_data_uri(figure: Figure) -> str:
    """A figure as a PNG inside an HTML page; the figure is closed."""
    buffer = io.BytesIO()
    save(figure, buffer)
    plt.close(figure)
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()


def panel(width: float) -> tuple[Figure, Axes]:
    """An empty figure of one panel.

    Args:
        width: Width of the figure in inches.
    """
    return plt.subplots(figsize=(width, 2.9), layout='constrained')


def legend_above(figure: Figure, width: float) -> None:
    """Name what is plotted where it hides nothing.

    Args:
        figure: Figure of one panel, or of several that show the same.
        width: Width of the figure in inches.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    entry = _SIGN + _LETTER * max((len(label) for label in labels), default=0)
    columns = max(1, int(width / entry))
    # or many names would leave no room for what they name
    lines = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * max(lines - 1, 0))
    figure.legend(
        handles,
        labels,
        loc='outside upper left',
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
    )


def tidy(axis: Axes) -> None:
    """Leave out what carries nothing."""
    axis.spines[['top', 'right']].set_visible(False)
    axis.tick_params(labelsize=SMALL)


def _legend(spec: SampleSpec) -> tuple[list[Patch], int]:
    """A patch of colour for each class, and how many fit on a line."""
    handles = [
        # a dollar would begin a formula, and an underscore hide the class
        Patch(color=(r / 255, g / 255, b / 255), label=name.replace('$', r'\$'))
        for name, (r, g, b) in zip(spec.classes, spec.colors, strict=True)
    ]
    longest = max(len(name) for name in spec.classes) + 7
    return handles, max(1, min(len(handles), _LETTERS // longest))
