# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The trust in a folder of generated pairs: measures, filter, report."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torchgeo.datamodules import BaseDataModule

from ..datamodules.pairs import PairFolderDataModule
from ..datasets.pairs import PairFolder
from ..files import CONFIG, read_yaml, write_text
from ..objects import Config, make_object
from ..settings import content_hash, require_same_settings
from ..tasks.support.networks import default_network
from ..tasks.support.progress import StepProgressBar
from ..tasks.support.trainer import fast_bfloat16
from .datamodule import TrustDataModule
from .filter_summary import FilterSummary
from .filtering import filter_pairs
from .judges import load_judges
from .lights import blind_judges
from .measures import MEASURES, read_measures
from .relabel import relabel
from .scores import TRUST
from .task import TrustTask

#: What was measured, and with what.
SETTINGS = 'settings.json'
_PATCHES = 'torchgeo_specdm.PairFolderDataModule'


def measure_pairs(
    synthetic: Path,
    real: Config,
    out: Path,
    generator: Path | None = None,
    judge: Config | None = None,
    updates: int = 1600,
) -> TrustDataModule:
    """Measure a generated folder, unless that is done.

    Args:
        synthetic: The folder of pairs.
        real: The real datamodule, ``class_path`` and ``init_args``.
        out: Folder of :class:`TrustTask` to write to.
        generator: Folder that stage 2 wrote, for the measures of its codec.
        judge: The task that judges are; a small one for the number of dates if None.
        updates: Most optimiser steps of a judge; fewer are enough where more teach it
            nothing.

    Returns:
        Both sides, set up.

    Raises:
        FileExistsError: If *out* holds measures of something else.
    """
    network = judge or default_network(PairFolder(synthetic).spec)
    settings = {
        'synthetic': f'{synthetic.name} {content_hash(synthetic)}',
        'real': real,
        'judge': network,
        'updates': updates,
    }
    require_same_settings(out / SETTINGS, settings)
    data = TrustDataModule(make_object(real, BaseDataModule), synthetic)
    there = read_measures(out) if (out / MEASURES).exists() else {}
    if there and (generator is None or 'reconstruction' in there):
        data.prepare_data()
        data.setup('test')
        return data
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / SETTINGS, json.dumps({'settings': settings}, indent=2) + '\n')
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
            datamodule, or with these under ``data``, and maybe a ``spec``.
        patch_size: Side of the training crops of a folder; None for whole patches.
        batch_size: Batch size where *source* is a folder; less if it has fewer training
            samples.

    Returns:
        ``class_path`` and ``init_args``.

    Raises:
        ValueError: If the YAML describes no datamodule.
    """
    path = Path(source)
    if not path.is_file():
        # judges learn from a handful of samples too
        training = PairFolderDataModule(source, batch_size=1).split_ids()['train']
        given: dict[str, Any] = {
            'root': str(path.absolute()),
            'batch_size': min(batch_size, len(training)),
        }
        if patch_size is not None:
            given['patch_size'] = patch_size
        return {'class_path': _PATCHES, 'init_args': given}
    found = read_yaml(path)
    # spec is no part of a datamodule, wherever it stands
    config = found.get('data', {k: v for k, v in found.items() if k != 'spec'})
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
    updates: int = 1600,
    pixels: bool = False,
    **options: Any,
) -> FilterSummary:
    """Write the trustworthy part of a generated folder, and a random control.

    Args:
        folder: The folder of pairs.
        real: The real datamodule, ``class_path`` and ``init_args``.
        out: The folder to write to.
        trust: Folder of the measures, made if it is not there.
        updates: Most optimiser steps of a judge; fewer are enough where more teach it
            nothing.
        pixels: Whether to leave out doubtful pixels instead of whole samples.
        **options: Options of :func:`~torchgeo_specdm.trust.filtering.filter_pairs`.

    Returns:
        What is left.

    Raises:
        ValueError: If it is to go by judges that cannot read real pairs.
    """
    data = measure_pairs(folder, real, trust, updates=updates)
    blind = blind_judges(read_measures(trust))
    if blind and (pixels or 'agreement' in options.get('by', TRUST)):
        raise ValueError(
            f'{trust}: {blind} (--updates above {updates}, and another --trust), or go '
            'by other scores (--by edges spectrum).'
        )
    readings = None
    if pixels:
        count = len([*(trust / 'judges').glob(f'*/{CONFIG}')])
        scaling = data.mean, data.std
        judges = load_judges(
            trust / 'judges', count, default_network(data.spec), data.spec, *scaling
        )
        readings = trust / 'readings'
        relabel(folder, readings, judges, data.mean, data.std, f'{count} judges')
    return filter_pairs(folder, out, trust / 'scores', readings=readings, **options)
