# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Tables and figures beside those of the paper."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..files import write_text
from ..pairs.layout import write_table as write_csv
from ..study.statistics import paired_difference
from ..trust.datamodule import TrustDataModule
from .figures import SMALL, WIDTH, pair_grid, save, tidy
from .trust_figures import class_areas, class_spectra_figure

_SHOWN = 8
_FLOOR = 'real against real (floor)'


class Values(NamedTuple):
    """The numbers of one cell of a table.

    Attributes:
        group: Network and real samples, or ``pairs``.
        row: Title of the row.
        column: Title of the column.
        values: One for each seed or subset, by its name; NaN where there is none.
        paper: The paper's number, on the paper's data; None where it prints none.
        floor: Value of real samples against real ones; None where there is none.
    """

    group: str
    row: str
    column: str
    values: dict[str, float]
    paper: float | None = None
    floor: float | None = None


def write_table(
    out: Path,
    head: Sequence[str],
    cells: Sequence[Values],
    better: Sequence[tuple[str, str]],
    lower: bool = False,
) -> Path:
    """Write a table as Markdown, CSV and figure.

    Args:
        out: Path of all three, without suffix.
        head: Lines of Markdown that come first.
        cells: Cells of all groups, rows and columns.
        better: Pairs of rows of which the paper says that the first is better.
        lower: Whether smaller numbers are better.

    Returns:
        The path of the Markdown page.
    """
    lines = [*head, f'![Numbers]({out.name}.png)', '']
    for group in dict.fromkeys(cell.group for cell in cells):
        own = [cell for cell in cells if cell.group == group]
        lines += [f'## {group}', '', *_markdown(own), '']
        said = [s for pair in better for s in _orderings(own, pair, lower)]
        lines += ["The paper's orderings here:", '', *said, ''] if said else []
    head_of_csv = ('group', 'row', 'column', 'unit', 'value', 'floor', 'paper')
    rows = (
        (cell.group, cell.row, cell.column, unit, value, cell.floor, cell.paper)
        for cell in cells
        for unit, value in cell.values.items()
    )
    write_csv(out.with_suffix('.csv'), head_of_csv, rows)
    figure = _dots(cells)
    save(figure, out.with_suffix('.png'))
    plt.close(figure)
    page = out.with_suffix('.md')
    write_text(page, '\n'.join(lines).rstrip() + '\n')
    return page


def write_figures(
    out: Path,
    head: Sequence[str],
    wanted: Mapping[str, str],
    shown: Mapping[str, tuple[TrustDataModule, dict[str, Any]]],
) -> Path:
    """Write pictures of real and generated pairs, as the paper shows them.

    Args:
        out: Path of the Markdown page, without suffix; figures lie beside it.
        head: Lines of Markdown that come first.
        wanted: ``pairs`` (with changed pixels outlined where there are several dates),
            ``spectra`` (of the last generator) or ``areas`` for each title.
        shown: By title, both sides and measures of each generator, the last one ours.

    Returns:
        The path of the Markdown page.
    """
    *_, (data, measures) = shown.values()
    spec = data.spec
    rows = {'real': data.tiles['held_out'].spread(_SHOWN)}
    rows |= {
        title: sides.tiles['synthetic'].spread(_SHOWN)
        for title, (sides, _) in shown.items()
    }
    areas = {'real': measures['area']['train']}
    areas |= {title: found['area']['synthetic'] for title, (_, found) in shown.items()}
    plotters = {
        'pairs': lambda: pair_grid(rows, spec, outlined=spec.dates > 1),
        'spectra': lambda: class_spectra_figure(measures['spectra'], spec),
        'areas': lambda: class_areas(areas, spec),
    }
    lines = [*head, 'Pairs are evenly spread over each set and not chosen.', '']
    for title, kind in wanted.items():
        name = f'{out.name}-{kind}.png'
        figure = plotters[kind]()
        out.parent.mkdir(parents=True, exist_ok=True)
        save(figure, out.with_name(name))
        plt.close(figure)
        lines += [f'## {title}', '', f'![{title}]({name})', '']
    rows_of_areas = (
        (title, spec.classes[k], share)
        for title, shares in areas.items()
        for k, share in enumerate(shares)
    )
    write_csv(out.with_suffix('.csv'), ('set', 'class', 'share'), rows_of_areas)
    page = out.with_suffix('.md')
    write_text(page, '\n'.join(lines).rstrip() + '\n')
    return page


def _markdown(cells: Sequence[Values]) -> list[str]:
    """One line for each row, ours beside the paper's."""
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    by_place = {(cell.row, cell.column): cell for cell in cells}
    titles = [*columns, *(f"{column}, the paper's" for column in columns)]
    lines = [f'| row | n | {" | ".join(titles)} |', '|---' * (2 + len(titles)) + '|']
    for row in rows:
        own = [by_place[row, column] for column in columns]
        count = max(len(_finite(cell)) for cell in own)
        texts = [_spread(_finite(cell)) for cell in own]
        texts += ['' if cell.paper is None else f'{cell.paper:g}' for cell in own]
        lines.append(f'| {row} | {count} | {" | ".join(texts)} |')
    floors = [by_place[rows[0], column].floor for column in columns]
    if any(floor is not None for floor in floors):
        texts = ['' if floor is None else f'{floor:.4g}' for floor in floors]
        lines.append(f'| {_FLOOR} | | {" | ".join([*texts, *[""] * len(columns)])} |')
    return lines


def _orderings(
    cells: Sequence[Values], pair: tuple[str, str], lower: bool
) -> list[str]:
    """A sentence for each column: whether the paper's ordering holds here."""
    said = []
    for column in dict.fromkeys(cell.column for cell in cells):
        first, second = (
            next(c.values for c in cells if (c.row, c.column) == (row, column))
            for row in pair
        )
        both = [
            key
            for key in first
            if math.isfinite(first[key]) and math.isfinite(second.get(key, math.nan))
        ]
        if not both:
            continue
        sign = -1 if lower else 1
        found = paired_difference(
            [sign * first[key] for key in both], [sign * second[key] for key in both]
        )
        shown = [f'{values[both[0]]:.4g}' for values in (first, second)]
        if len(both) < 2 and shown[0] == shown[1]:
            verdict = 'equal to four digits, by one pair'
        elif len(both) < 2:
            verdict = 'yes, by one pair' if found.mean > 0 else 'no, by one pair'
        elif found.low > 0:
            verdict = 'yes'
        else:
            verdict = 'no, the other way' if found.high < 0 else 'cannot be told apart'
        interval = '' if len(both) < 2 else f' [{found.low:+.4g}, {found.high:+.4g}]'
        said.append(
            f'- {pair[0]} before {pair[1]}, {column}: {verdict} (better by '
            f'{found.mean:+.4g}{interval})'
        )
    return said


def _dots(cells: Sequence[Values]) -> Figure:
    """A panel for each column and group: a dot for each value, a line for the floor."""
    panels = list(dict.fromkeys((cell.group, cell.column) for cell in cells))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    rows = list(dict.fromkeys(cell.row for cell in cells))
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(WIDTH, lines * (1.0 + 0.25 * len(rows))),
        squeeze=False,
        layout='constrained',
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (group, column) in zip(axes.flat, panels, strict=False):
        for cell in cells:
            if (cell.group, cell.column) == (group, column):
                place = len(rows) - 1 - rows.index(cell.row)
                values = _finite(cell)
                axis.plot(values, [place] * len(values), 'o', ms=4, color='#3f6aa8')
                if cell.floor is not None:
                    axis.axvline(cell.floor, color='#888888', lw=1, ls=':')
        axis.set_yticks(range(len(rows)), rows[::-1], fontsize=SMALL, parse_math=False)
        axis.locator_params(axis='x', nbins=3)
        axis.ticklabel_format(axis='x', useOffset=False)
        axis.set_title(f'{group}:\n{column}', fontsize=SMALL, parse_math=False)
        tidy(axis)
    return figure


def _finite(cell: Values) -> list[float]:
    return [value for value in cell.values.values() if math.isfinite(value)]


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return '\N{EN DASH}'
    said = f'{mean(values):.4g}'
    return (
        f'{said} \N{PLUS-MINUS SIGN} {stdev(values):.2g}' if len(values) > 1 else said
    )
