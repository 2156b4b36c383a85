# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The report of a run or of a generated folder."""

from pathlib import Path

from ..files import read_json, read_text
from ..objects import Config
from ..study.design import REAL
from ..study.runs import Run, read_run
from ..trust.measuring import SETTINGS, measure_pairs
from .collect import collect_measures
from .figures import pair_grid, save
from .report import ReportContent, read_curves, write_report

#: What a run says of itself in its report: ``settings`` and ``notes``.
FACTS = 'facts.json'


def report_folder(
    path: Path,
    real: Config | None = None,
    trust: Path | None = None,
    generator: Path | None = None,
    study: Path | None = None,
    updates: int = 1600,
) -> Path:
    """Write ``report.html`` and ``pairs.png`` for a run or a generated folder.

    Args:
        path: Folder that a quickstart wrote (it has ``synthetic`` and may have
            ``diffusion``, ``trust``, ``comparison``, ``logs``, ``configs``), or a
            folder of pairs.
        real: The real datamodule; that of the measures if None.
        trust: Folder of the measures, made if it is not there; None for ``trust`` in a
            run, else ``<path>-trust``.
        generator: Folder that stage 2 wrote.
        study: Folder of a study of these pairs, for the verdict.
        updates: Most optimiser steps of a judge.

    Returns:
        The path of the page: in the run, or beside the measures.

    Raises:
        ValueError: If nothing was measured and *real* is None.
    """
    is_run = (path / 'synthetic').is_dir()
    folder = path / 'synthetic' if is_run else path
    if is_run:
        trust = trust or path / 'trust'
        generator = generator or _if_there(path / 'diffusion')
        study = study or _if_there(path / 'comparison')
    trust = trust or path.with_name(f'{path.name}-trust')
    judge = None
    if real is None:
        if not (trust / SETTINGS).exists():
            raise ValueError(
                f'{trust} has no measures of {folder} yet, and they need real pairs to '
                'compare with. Give --real, a folder of pairs or a YAML.'
            )
        there = read_json(trust / SETTINGS)['settings']
        real, judge, updates = there['real'], there['judge'], there['updates']
    data = measure_pairs(folder, real, trust, generator, judge, updates)
    facts = read_json(path / FACTS) if is_run and (path / FACTS).exists() else {}
    content = ReportContent(
        title=facts.get('title', str(folder)),
        **collect_measures(trust, data, generator),
        curves=read_curves(path / 'logs'),
        runs=[] if study is None else _runs(study),
        score='change_f1' if data.spec.dates > 1 else 'miou',
        settings=facts.get('settings', {}) | _texts(path / 'configs'),
        notes=facts.get('notes', []),
    )
    out = (path if is_run else trust) / 'report.html'
    save(pair_grid(content.rows, content.spec), out.with_name('pairs.png'))
    return write_report(out, content)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _texts(folder: Path) -> dict[str, str]:
    """YAMLs by name."""
    return {path.name: read_text(path) for path in sorted(folder.glob('*.yaml'))}


def _runs(study: Path) -> list[Run]:
    """The finished runs of the first network and real size of a study."""
    found = [read_run(path) for path in sorted((study / 'runs').glob('*.json'))]
    runs = [run for run in found if run is not None and not run.reason]
    if not runs:
        raise ValueError(f'{study} has 0 finished runs. Run the study first.')
    first = (runs[0].model, runs[0].size)
    # real only first, as everywhere
    runs.sort(key=lambda run: (run.arm != REAL, run.arm, run.ratio, run.seed))
    return [run for run in runs if (run.model, run.size) == first]
