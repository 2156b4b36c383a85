# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The report of a run or of a generated folder."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from ..datasets.pairs import PairFolder
from ..files import Count, Positive, Seed, read_json, read_text
from ..objects import Config
from ..pairs.card import training_data
from ..settings import Begun
from ..study.design import REAL
from ..study.runs import Run, pilot_path, read_pilot, read_run
from ..tasks.support.plateau import Curve
from ..trust.measures import MEASURES
from ..trust.measuring import SETTINGS, measure_pairs
from .advice import Evidence
from .collect import collect_measures
from .figures import pair_grid, save
from .report import ReportContent, read_curves, write_report

#: What a run says of itself in its report.
FACTS = 'facts.json'


class Facts(TypedDict, total=False):
    """Facts of a run in its report."""

    title: str
    settings: dict[str, Any]
    made: dict[str, str]
    notes: list[str]


@with_config(ConfigDict(extra='forbid'))
class PairsArguments(TypedDict):
    """Plain arguments of our own datamodule."""

    root: str
    batch_size: Positive
    patch_size: NotRequired[Positive]
    seed: NotRequired[Seed]


class Pairs(TypedDict):
    """A folder of real pairs: the one datamodule that a folder of results may name."""

    class_path: Literal['torchgeo_specdm.PairFolderDataModule']
    init_args: PairsArguments


class Measured(TypedDict):
    """The settings of the measures, as far as a report needs them."""

    real: Pairs
    updates: Count


class MeasuredFile(TypedDict):
    """Content of ``settings.json``."""

    settings: Measured


def report_folder(
    path: Path,
    real: Config | None = None,
    trust: Path | None = None,
    generator: Path | None = None,
    study: Path | None = None,
    updates: int = 1600,
) -> Path:
    """Write ``report.html`` and ``pairs.png`` for a run or a generated folder.

    A folder of results never names code: without *real*, the measures may name a
    folder of pairs, which is data, and no other datamodule.

    Args:
        path: Folder that a quickstart wrote (it has ``synthetic`` and may have
            ``diffusion``, ``trust``, ``comparison``, ``logs``, ``configs``), or a
            folder of pairs.
        real: The real datamodule; the folder of pairs of the measures if None.
        trust: Folder of the measures, made if it is not there; None for ``trust`` in a
            run, else ``<path>-trust``.
        generator: Folder that stage 2 wrote.
        study: Folder of a study of these pairs, for the verdict.
        updates: Most optimiser steps of a judge.

    Returns:
        The path of the page: in the run, or beside the measures.

    Raises:
        ValueError: If *real* is None, and nothing was measured or not with a folder
            of pairs.
    """
    is_run = (path / 'synthetic').is_dir()
    folder = path / 'synthetic' if is_run else path
    if is_run:
        trust = trust or path / 'trust'
        generator = generator or _if_there(path / 'diffusion')
        study = study or _if_there(path / 'comparison')
    trust = trust or path.with_name(f'{path.name}-trust')
    if real is None:
        if not (trust / SETTINGS).exists():
            raise ValueError(
                f'{trust} has no measures of {folder} yet, and they need real pairs to '
                'compare with. Give --real, a folder of pairs or a YAML.'
            )
        real, updates = _read_measured(trust / SETTINGS)
    data = measure_pairs(folder, real, trust, generator, updates=updates)
    facts: Facts = {}
    if is_run and (path / FACTS).exists():
        facts = read_json(path / FACTS, Facts)
    collected = collect_measures(trust, data, generator)
    synthetic, real_tiles = data.tiles['synthetic'], data.tiles['train']
    provenance = PairFolder(folder).provenance
    runs = [] if study is None else _runs(study)
    content = ReportContent(
        title=facts.get('title', str(folder)),
        curves=read_curves(path / 'logs'),
        evidence=Evidence(
            runs,
            'change_f1' if data.spec.dates > 1 else 'miou',
            collected.pop('measures'),
            [] if study is None else _pilot(study, runs[0]),
            math.prod(synthetic.size) / math.prod(real_tiles.whole),
            study is not None and _saw_all_labels(study),
            bool((provenance.get('training') or {}).get('unlabelled')),
        ),
        settings=_learned_from(provenance)
        | facts.get('settings', {})
        | _texts(path / 'configs'),
        made=_made(trust, provenance, runs) | facts.get('made', {}),
        notes=facts.get('notes', []),
        **collected,
    )
    out = (path if is_run else trust) / 'report.html'
    save(pair_grid(content.rows, content.spec), out.with_name('pairs.png'))
    return write_report(out, content)


def _read_measured(path: Path) -> tuple[Config, int]:
    """The folder of real pairs that measures were made with, and the judges' steps."""
    try:
        there = read_json(path, MeasuredFile)['settings']
    except ValueError as error:
        raise ValueError(
            f'{error} Without --real only a folder of pairs is read, since results are '
            'data and must not name code: give --real with the YAML of the real data.'
        ) from error
    return dict(there['real']), there['updates']


def _made(
    trust: Path, provenance: Mapping[str, Any], runs: Sequence[Run]
) -> dict[str, Any]:
    """When and with what the measures were made, to be cited."""
    # that of the page would change each time that it is written again
    day = date.fromtimestamp((trust / MEASURES).stat().st_mtime)
    names = ('torchgeo_specdm', 'torchgeo', 'torch', 'lightning')
    found: dict[str, Any] = {
        'measured on': day.isoformat(),
        'versions': {name: version(name) for name in names}
        | {'Python': python_version()},
    }
    settings = provenance.get('settings')
    if isinstance(settings, dict) and 'seed' in settings:
        found['seed of the pairs'] = settings['seed']
    if runs:
        found['seeds of the networks'] = sorted({run.seed for run in runs})
    return found


def _pilot(study: Path, run: Run) -> Curve:
    """Scores of real only by updates, if these chose those of a run."""
    return read_pilot(pilot_path(study, run.model, run.size))


def _saw_all_labels(study: Path) -> bool:
    """Whether the generators of a study saw more labels than its networks."""
    path = study / 'study.json'
    settings = read_json(path, Begun)['settings'] if path.exists() else {}
    return settings.get('protocol') == 'all_labels'


def _learned_from(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Say what a generator learned from, if one drew the pairs."""
    training = provenance.get('training')
    if not isinstance(training, dict):
        return {}
    return {'generator learned from': training_data(training)}


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
