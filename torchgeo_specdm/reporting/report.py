# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One self-contained HTML page that says whether synthetic data can be trusted."""

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, Template
from matplotlib.figure import Figure

from ..bands import composites
from ..files import write_text
from ..pairs.spec import SampleSpec
from ..pairs.tiles import Tiles
from ..study.verdicts import NAMES, verdicts
from ..trust.lights import codec_sentences, lights
from ..trust.looks import denoiser_sentences
from ..trust.numbers import number, short
from .advice import Evidence, absolute_scores, advice, caveats, outcome
from .figures import NARROW, WIDTH, as_data_uri, score_dots
from .pictures import Pair, picture_side, show_pairs, stretch
from .tables import (
    EXPLAINED,
    MOST_SAMPLES,
    comparison_tables,
    measure_tables,
    sample_table,
)
from .trust_figures import (
    class_areas,
    class_spectra_figure,
    denoising_errors,
    training_curves,
)

#: Points of a training curve: more cannot be told apart on a page.
_POINTS = 400

#: (step, value) of each logged name.
Curves = dict[str, list[tuple[float, float]]]


class Captioned(NamedTuple):
    """Tiles, with a few words for each.

    Attributes:
        tiles: Tiles that are shown.
        captions: Caption of each tile.
    """

    tiles: Tiles
    captions: Sequence[str]


class Neighbours(NamedTuple):
    """Generated tiles beside their nearest training windows.

    Attributes:
        generated: N tiles.
        training: N tiles, turned and flipped as they are nearest.
        captions: Caption of each pair, with its distance.
    """

    generated: Tiles
    training: Tiles
    captions: Sequence[str]


@dataclass(frozen=True)
class ReportContent:
    """The content of a page; empty parts have no section.

    Attributes:
        title: Name of the data.
        spec: Description of a sample.
        scores: Lines of ``scores/synthetic.jsonl``, in any order.
        rows: Title of each row of pairs and its tiles, such as ``real``,
            ``reconstructed`` and ``generated``; the first sets the stretch of all.
        best: Generated samples of the best scores.
        worst: Generated samples of the worst scores.
        nearest: Generated samples that are nearest to training samples.
        curves: Training curves of each stage, as :func:`read_curves` gives them.
        evidence: Runs of one network and one real size, and what bears on them.
        settings: Plain values; texts of several lines (YAML) are folded.
        made: Facts to name when citing: date, versions, command, seeds.
        notes: Sentences that a reader needs before any number.
    """

    title: str
    spec: SampleSpec
    scores: Sequence[Mapping[str, Any]] = ()
    rows: Mapping[str, Tiles] = field(default_factory=dict)
    best: Captioned | None = None
    worst: Captioned | None = None
    nearest: Neighbours | None = None
    curves: Mapping[str, Curves] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    settings: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(out: Path, content: ReportContent) -> Path:
    """Write the page, which needs no other file and no network.

    Args:
        out: The HTML file; its folder exists.
        content: Content of the page.

    Returns:
        The path of the page.
    """
    evidence = content.evidence
    runs, score, measures = evidence.runs, evidence.score, evidence.measures
    values: dict[str, str] = {}
    many: dict[str, str] = {}
    for name, value in content.settings.items():
        text = _plain(value)
        (many if '\n' in text else values)[name] = text
    columns, samples = sample_table(content.scores)
    tables = comparison_tables(runs, score) if runs else []
    text = _template().render(
        title=content.title,
        spec=content.spec,
        m=measures,
        outcome=outcome(evidence).split()[0],
        caveats=caveats(evidence),
        verdicts=verdicts(runs, score)[::-1] if runs else [],
        absolute=absolute_scores(evidence),
        advice=advice(evidence),
        score_name=NAMES.get(score, score),
        lights=lights(measures),
        codec=codec_sentences(measures),
        denoiser=denoiser_sentences(measures.get('denoising') or {}),
        charts=_charts(content),
        **_pictures(content),
        comparison=tables,
        tables=measure_tables(measures),
        columns=columns,
        explained=[text for name, text in EXPLAINED.items() if name in columns],
        samples=samples,
        cut=len(content.scores) if len(content.scores) > MOST_SAMPLES else 0,
        settings=values,
        texts=many,
        made={name: _plain(value) for name, value in content.made.items()},
        notes=content.notes,
    )
    write_text(out, text)
    return out


def read_curves(logs: Path) -> dict[str, Curves]:
    """Read what Lightning's CSVLogger has written.

    Args:
        logs: Folder with one folder for each stage, which hold ``metrics.csv`` at any
            depth; of several (a stage that was resumed) the later wins where both have
            a step.

    Returns:
        Curves of each stage, of at most 400 points (means of neighbours); learning
        rates and scores of single classes are left out.
    """
    found: dict[str, dict[str, dict[float, float]]] = {}
    for path in sorted(logs.glob('*/**/metrics.csv'), key=_natural):
        stage = found.setdefault(path.relative_to(logs).parts[0], {})
        with path.open(encoding='utf-8', newline='') as file:
            for line in csv.DictReader(file):
                for name, text in line.items():
                    wanted = name not in ('epoch', 'step') and '/' not in name
                    if wanted and not name.startswith('lr') and text:
                        curve = stage.setdefault(name, {})
                        curve[float(line['step'])] = float(text)
    curves = {
        stage: {
            name: _thinned([p for p in sorted(points.items()) if math.isfinite(p[1])])
            for name, points in named.items()
        }
        for stage, named in found.items()
    }
    return {stage: {n: p for n, p in c.items() if p} for stage, c in curves.items()}


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort ``version_10`` behind ``version_9``."""
    parts = re.split(r'(\d+)', str(path))
    return [(int(p), '') if p.isdigit() else (0, p) for p in parts]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbours, so that few enough are left."""
    size = -(-len(points) // _POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(value for _, value in g) / len(g)) for g in groups]


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader('torchgeo_specdm.reporting', '.'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {'number': number, 'short': short}
    return environment.get_template('report.html.j2')


def _plain(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, Mapping):
        return ', '.join(f'{name}: {_plain(part)}' for name, part in value.items())
    if isinstance(value, list | tuple):
        return ', '.join(_plain(part) for part in value)
    return f'{value:g}' if isinstance(value, float) else str(value)


def _charts(content: ReportContent) -> dict[str, Any]:
    """Each chart for wide and for narrow screens."""
    found: dict[str, Any] = {'curves': {}}
    evidence, spec = content.evidence, content.spec
    runs, measures = evidence.runs, evidence.measures
    spectra, area = measures.get('spectra') or {}, measures.get('area') or {}
    if runs:
        found['dots'] = _chart(lambda w: score_dots(runs, evidence.score, w))
    if spectra.get('curves') and spectra.get('names'):
        found['spectra'] = _chart(lambda w: class_spectra_figure(spectra, spec, w))
    if area.get('train') and area.get('synthetic'):
        found['areas'] = _chart(lambda w: class_areas(area, spec, w))
    if denoising := measures.get('denoising'):
        found['denoising'] = _chart(partial(denoising_errors, denoising))
    for stage, curves in content.curves.items():
        if curves:
            found['curves'][stage] = _chart(partial(training_curves, curves))
    return found


def _chart(plot: Callable[[float], Figure]) -> dict[str, str]:
    """A chart in both widths, as data URIs."""
    return {'wide': as_data_uri(plot(WIDTH)), 'narrow': as_data_uri(plot(NARROW))}


def _pictures(content: ReportContent) -> dict[str, Any]:
    """Galleries of pairs, one for each combination of bands, and the chosen samples."""
    spec = content.spec
    chosen = {
        'best': [content.best] if content.best else [],
        'worst': [content.worst] if content.worst else [],
        'nearest': _sides(content.nearest),
    }
    combinations = composites(spec.wavelengths)
    shown = [(tiles, len(combinations)) for tiles in content.rows.values()]
    shown += [(group.tiles, 1) for groups in chosen.values() for group in groups]
    if not shown:
        return {'galleries': [], 'best': [], 'worst': [], 'nearest': []}
    side = picture_side(shown)
    # all are stretched alike, or brightness could not be compared
    reference = shown[0][0]
    limits = {
        name: stretch(reference, channels, spec)
        for name, channels in combinations.items()
    }
    galleries = [
        {
            'name': name,
            'bands': ', '.join(spec.bands[channel] for channel in channels),
            'rows': {
                title: show_pairs(tiles, spec, channels, limits[name], side)
                for title, tiles in content.rows.items()
            },
        }
        for name, channels in combinations.items()
        if content.rows
    ]
    name, channels = next(iter(combinations.items()))
    found: dict[str, list[list[Pair]]] = {
        key: [
            show_pairs(g.tiles, spec, channels, limits[name], side, g.captions)
            for g in groups
        ]
        for key, groups in chosen.items()
    }
    return {'galleries': galleries, **found}


def _sides(nearest: Neighbours | None) -> list[Captioned]:
    """Generated tiles with their captions, and the training ones."""
    if nearest is None:
        return []
    generated, training, captions = nearest
    blank = [''] * len(captions)
    return [Captioned(generated, captions), Captioned(training, blank)]
