# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One self-contained HTML page that says whether synthetic data helped."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jinja2 import Environment, PackageLoader
from torchgeo.datamodules import NonGeoDataModule

from ..datasets.pairs import PairFolder
from ..diffusion import Generator
from ..files import write_text
from ..metrics.tiles import Tiles, cut_tiles
from ..study.comparison import Comparison
from ..study.runs import Run, differences
from ..study.statistics import verdict
from .figures import (
    as_data_uri,
    class_areas,
    class_spectra_figure,
    pair_grid,
    save,
    score_dots,
)

_SHOWN = 8


def write_report(
    out: Path,
    comparison: Comparison,
    runs: Sequence[Run],
    measures: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Path:
    """Write ``report.html`` and ``pairs.png``.

    Args:
        out: Folder with ``diffusion/`` and ``synthetic/``.
        comparison: Knows the real data.
        runs: What it measured.
        measures: From :func:`torchgeo_specdm.study.measures.measure`.
        facts: Settings of the run (see the quickstart).

    Returns:
        The path of the page.
    """
    generator = Generator.load(out / 'diffusion')
    spec = generator.codec.spec
    datamodule = comparison.real()
    datamodule.setup('test')
    rows = example_rows(generator, datamodule, PairFolder(out / 'synthetic'))
    grid = pair_grid(rows, spec, _SHOWN)
    save(grid, out / 'pairs.png')
    pictures = {
        'pairs': as_data_uri(grid),
        'dots': as_data_uri(score_dots(runs)),
        'spectra': as_data_uri(class_spectra_figure(measures['spectra'], spec)),
        'areas': as_data_uri(class_areas(measures['area'], spec)),
    }
    found = differences(runs)
    environment = Environment(
        loader=PackageLoader('torchgeo_specdm.reporting', '.'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['number'] = number
    text = environment.get_template('report.html.j2').render(
        verdicts=[verdict(ratio, d) for ratio, d in found.items()],
        arms=_arms(runs, found),
        classes=_classes(runs),
        pictures=pictures,
        m=measures,
        spec=spec,
        training=generator.config.get('training', {}),
        seeds=len({run.seed for run in runs}),
        **facts,
    )
    path = out / 'report.html'
    write_text(path, text)
    return path


def number(value: float | None, form: str = '.1f', factor: float = 1) -> str:
    """A number as it is shown; a dash for what is none.

    Args:
        value: A number, NaN, an infinity or None.
        form: Format specification.
        factor: What to multiply with, 100 for points.

    Returns:
        The text, with a true minus sign.
    """
    if value is None or not math.isfinite(value):
        return '\N{EN DASH}'
    return format(factor * value, form).replace('-', '\N{MINUS SIGN}')


def example_rows(
    generator: Generator, datamodule: NonGeoDataModule, synthetic: PairFolder
) -> dict[str, Tiles]:
    """Real, reconstructed and generated tiles; what is shown is not chosen."""
    size = min(synthetic[0]['mask'].shape[-2:])
    real = cut_tiles(datamodule.test_dataset, size, _SHOWN)
    decoded, _ = generator.codec.roundtrip({'image': real.images, 'mask': real.masks})
    return {
        'real': real,
        'reconstructed': real._replace(
            images=decoded['image'], masks=decoded['mask'].reshape(real.masks.shape)
        ),
        'generated': cut_tiles(synthetic, size, _SHOWN),
    }


def _arms(runs: Sequence[Run], found: Mapping[float, Any]) -> list[dict[str, Any]]:
    """One line of the table for each ratio, in points."""
    lines = []
    for ratio in sorted({run.ratio for run in runs}):
        here = [run for run in runs if run.ratio == ratio]
        scores = [100 * run.miou for run in here]
        lines.append(
            {
                'name': 'real only' if ratio == 0 else f'real + {ratio:g}x synthetic',
                'miou': mean(scores),
                'spread': stdev(scores) if len(scores) > 1 else None,
                'f1': 100 * mean(run.f1 for run in here),
                'accuracy': 100 * mean(run.accuracy for run in here),
                'difference': found.get(ratio),
            }
        )
    return lines


def _classes(runs: Sequence[Run]) -> list[tuple[str, list[float | None]]]:
    """Mean IoU of each class for each ratio, in points."""
    ratios = sorted({run.ratio for run in runs})
    table = []
    for name in runs[0].iou:
        row: list[float | None] = []
        for ratio in ratios:
            values = [r.iou[name] for r in runs if r.ratio == ratio]
            known = [v for v in values if v is not None]
            row.append(100 * mean(known) if known else None)
        table.append((name, row))
    return table
