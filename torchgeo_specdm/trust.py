# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""How far a folder of generated pairs can be trusted: measures, filter, report."""

import json
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer

from .datamodules.trust import TrustDataModule
from .datasets.pairs import PairFolder
from .files import CONFIG, read_json, read_text, write_text
from .objects import Config, make_object
from .reporting.collect import collect_measures
from .reporting.figures import pair_grid, save
from .reporting.lights import blind_judges
from .reporting.report import ReportContent, read_curves, write_report
from .study.configs import NETWORKS
from .study.design import REAL
from .study.planning import fast_bfloat16
from .study.runs import Run, read_run
from .study.settings import content_hash, require_same_settings
from .synthesis.choosing import TRUST
from .synthesis.filter_summary import FilterSummary
from .synthesis.filtering import filter_pairs
from .synthesis.relabel import relabel
from .tasks.judges import load_judges
from .tasks.progress import StepProgressBar
from .tasks.trust import MEASURES, TrustTask

#: What a run says of itself in its report: ``settings`` and ``notes``.
FACTS = 'facts.json'
_SETTINGS = 'settings.json'
_PATCHES = 'torchgeo_specdm.PairFolderDataModule'


def measure_pairs(
    synthetic: Path,
    real: Config,
    out: Path,
    generator: Path | None = None,
    judge: Config | None = None,
    updates: int = 800,
) -> TrustDataModule:
    """Measure a generated folder, unless that is done.

    Args:
        synthetic: The folder of pairs.
        real: The real datamodule, ``class_path`` and ``init_args``.
        out: Folder of :class:`TrustTask` to write to.
        generator: Folder that stage 2 wrote, for the measures of its codec.
        judge: The task that judges are; a small one for the number of dates if None.
        updates: Optimiser steps of each judge.

    Returns:
        Both sides, set up.

    Raises:
        FileExistsError: If *out* holds measures of something else.
    """
    task = 'change' if PairFolder(synthetic).spec.dates > 1 else 'segmentation'
    network = judge or NETWORKS[task]
    settings = {
        'synthetic': f'{synthetic.name} {content_hash(synthetic)}',
        'real': real,
        'judge': network,
        'updates': updates,
    }
    require_same_settings(out / _SETTINGS, settings)
    data = TrustDataModule(make_object(real), synthetic)
    there = read_json(out / MEASURES) if (out / MEASURES).exists() else {}
    if there and (generator is None or 'reconstruction' in there):
        data.prepare_data()
        data.setup('test')
        return data
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / _SETTINGS, json.dumps({'settings': settings}, indent=2) + '\n')
    precision = {'precision': 'bf16-mixed' if fast_bfloat16() else '32-true'}
    folder = None if generator is None else str(generator)
    measuring = TrustTask(str(out), network, folder, updates, trainer=precision)
    # one process: the same numbers as by torchgeo test on several
    trainer = Trainer(devices=1, logger=False, callbacks=[StepProgressBar('measuring')])
    trainer.test(measuring, data, verbose=False)
    return data


def real_config(
    source: str, patch_size: int | None = None, batch_size: int = 16
) -> Config:
    """The real datamodule that a user names.

    Args:
        source: A folder of pairs, or a YAML with ``class_path`` and ``init_args`` of a
            datamodule, or with these under ``data``.
        patch_size: Side of the training crops of a folder; None for whole patches.
        batch_size: Of a folder.

    Returns:
        ``class_path`` and ``init_args``.

    Raises:
        ValueError: If the YAML describes no datamodule.
    """
    path = Path(source)
    if not path.is_file():
        given: dict[str, Any] = {'root': str(path.absolute()), 'batch_size': batch_size}
        if patch_size is not None:
            given['patch_size'] = patch_size
        return {'class_path': _PATCHES, 'init_args': given}
    found = yaml.safe_load(read_text(path))
    config = found.get('data', found) if isinstance(found, dict) else {}
    if not isinstance(config, dict) or 'class_path' not in config:
        raise ValueError(
            f'{path} must hold class_path and init_args of a datamodule, or these '
            'under data. Or name a folder of pairs.'
        )
    return config


def filter_folder(
    folder: Path,
    real: Config,
    out: Path,
    trust: Path,
    updates: int = 800,
    pixels: bool = False,
    **options: Any,
) -> FilterSummary:
    """Write the trustworthy part of a generated folder, and a random control.

    Args:
        folder: The folder of pairs.
        real: The real datamodule, ``class_path`` and ``init_args``.
        out: The folder to write to.
        trust: Folder of the measures, made if it is not there.
        updates: Optimiser steps of each judge.
        pixels: Whether to leave out doubtful pixels instead of whole samples.
        **options: Of :func:`~torchgeo_specdm.synthesis.filtering.filter_pairs`.

    Returns:
        What is left.

    Raises:
        ValueError: If it is to go by judges that cannot read real pairs.
    """
    data = measure_pairs(folder, real, trust, updates=updates)
    blind = blind_judges(read_json(trust / MEASURES))
    if blind and (pixels or 'agreement' in options.get('by', TRUST)):
        raise ValueError(
            f'{trust}: {blind} (--updates above {updates}, and another --trust), or go '
            'by other scores (--by edges spectrum).'
        )
    readings = None
    if pixels:
        count = len([*(trust / 'judges').glob(f'*/{CONFIG}')])
        judges = load_judges(trust / 'judges', count, data.spec, data.mean, data.std)
        readings = trust / 'readings'
        relabel(folder, readings, judges, data.mean, data.std, f'{count} judges')
    return filter_pairs(folder, out, trust / 'scores', readings=readings, **options)


def report_folder(
    path: Path,
    real: Config | None = None,
    trust: Path | None = None,
    generator: Path | None = None,
    study: Path | None = None,
    updates: int = 800,
) -> Path:
    """Write ``report.html`` and ``pairs.png`` for a run or a generated folder.

    Args:
        path: What a quickstart wrote (it has ``synthetic`` and may have ``diffusion``,
            ``trust``, ``comparison``, ``logs``, ``configs``), or a folder of pairs.
        real: The real datamodule; that of the measures if None.
        trust: Folder of the measures, made if it is not there; None for ``trust`` in a
            run, else ``<path>-trust``.
        generator: Folder that stage 2 wrote.
        study: Folder of a study of these pairs, for the verdict.
        updates: Optimiser steps of each judge.

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
        if not (trust / _SETTINGS).exists():
            raise ValueError(
                f'{trust} has no measures of {folder} yet, and they need real pairs to '
                'compare with. Give --real, a folder of pairs or a YAML.'
            )
        there = read_json(trust / _SETTINGS)['settings']
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
