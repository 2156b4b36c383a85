# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One self-contained HTML page that says whether synthetic data helped."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jinja2 import Environment, PackageLoader, Template
from torchgeo.datamodules import NonGeoDataModule

from ..datasets.pairs import PairFolder
from ..diffusion import Generator
from ..files import write_text
from ..metrics.tiles import Tiles, cut_tiles
from ..study.design import arm_label
from ..study.runs import Run, by_arm, differences
from ..study.verdicts import NAMES, verdicts
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
    datamodule: NonGeoDataModule,
    runs: Sequence[Run],
    measures: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Path:
    """Write ``report.html`` and ``pairs.png``.

    Args:
        out: Folder with ``diffusion/`` and ``synthetic/``.
        datamodule: The real data.
        runs: Of one network, all finished.
        measures: From :func:`torchgeo_specdm.study.measures.measure`.
        facts: Settings of the run (see the quickstart), the ``score`` that is compared
            among them.

    Returns:
        The path of the page.
    """
    generator = Generator.load(out / 'diffusion')
    spec, score = generator.codec.spec, facts['score']
    datamodule.setup('test')
    rows = example_rows(generator, datamodule, PairFolder(out / 'synthetic'))
    grid = pair_grid(rows, spec, _SHOWN)
    save(grid, out / 'pairs.png')
    pictures = {
        'pairs': as_data_uri(grid),
        'dots': as_data_uri(score_dots(runs, score)),
        'spectra': as_data_uri(class_spectra_figure(measures['spectra'], spec)),
        'areas': as_data_uri(class_areas(measures['area'], spec)),
    }
    text = _template().render(
        verdicts=verdicts(runs, score),
        score_name=NAMES[score],
        arms=_arms(runs, score),
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


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader('torchgeo_specdm.reporting', '.'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['number'] = number
    return environment.get_template('report.html.j2')


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


def _arms(runs: Sequence[Run], score: str) -> list[dict[str, Any]]:
    """One line of the table for each arm and ratio, in points."""
    lines, found = [], differences(runs, score)
    for key in by_arm(runs):
        here = [run for run in runs if (run.arm, run.ratio) == key]
        scores = [100 * run.score(score) for run in here]
        lines.append(
            {
                'name': arm_label(*key),
                'score': mean(scores),
                'spread': stdev(scores) if len(scores) > 1 else None,
                'means': {
                    name: 100 * mean(run.score(name) for run in here)
                    for name in ('miou', 'f1', 'accuracy')
                    if name != score
                },
                'difference': found.get(key),
            }
        )
    return lines


def _classes(runs: Sequence[Run]) -> list[tuple[str, list[float | None]]]:
    """Mean IoU of each class for each arm and ratio, in points."""
    lines = []
    for name in runs[0].iou:
        row: list[float | None] = []
        for key in by_arm(runs):
            values = [r.iou[name] for r in runs if (r.arm, r.ratio) == key]
            known = [v for v in values if v is not None]
            row.append(100 * mean(known) if known else None)
        lines.append((name, row))
    return lines
