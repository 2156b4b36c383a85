# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The steps of a quickstart as configurations of TorchGeo's command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..objects import Config

#: Steps between two checkpoints that an interrupted training goes on from.
_SAVED_EVERY = 200


def pairs_config(
    root: Path, plan: Mapping[str, Any], seed: int, bands: Sequence[str] | None = None
) -> Config:
    """The real data: a folder of pairs.

    Args:
        root: The folder.
        plan: Plan from :func:`torchgeo_specdm.study.planning.make_plan`.
        seed: Seed of the split, if there are no lists.
        bands: Names of the bands to use; None for all.

    Returns:
        ``class_path`` and ``init_args``.
    """
    settings = {
        'root': str(root),
        **({} if bands is None else {'bands': list(bands)}),
        'batch_size': plan['batch_size'],
        'patch_size': plan['patch_size'],
        'seed': seed,
    }
    return _object('torchgeo_specdm.PairFolderDataModule', **settings)


def subset_config(real: Config, size: int, seed: int) -> Config:
    """A fixed random subset of the real training samples.

    Args:
        real: The real data.
        size: Number of samples; 0 for all of them.
        seed: Chooses them.

    Returns:
        ``class_path`` and ``init_args``.
    """
    if not size:
        return real
    return _object(
        'torchgeo_specdm.SyntheticAugmentedDataModule',
        real=real,
        ratio=0,
        real_limit=size,
        seed=seed,
    )


def unlabelled_config(real: Config, folder: Path | None) -> Config:
    """The real data with images without labels, for both stages.

    Args:
        real: The real data.
        folder: Folder of images without labels; None for none.

    Returns:
        ``class_path`` and ``init_args``.
    """
    if folder is None:
        return real
    return _object(
        'torchgeo_specdm.UnlabelledDataModule', real=real, unlabelled=str(folder)
    )


def latents_config(real: Config, plan: Mapping[str, Any], cached: bool) -> Config:
    """The real data as latents, for stage 2.

    Args:
        real: The real data.
        plan: ``passes`` and ``latent_batch_size``.
        cached: Whether the codec is learned, so that latents are worth a cache.

    Returns:
        ``class_path`` and ``init_args``.
    """
    return _object(
        'torchgeo_specdm.LatentDataModule',
        real=real,
        passes=plan['passes'] if cached else None,
        batch_size=plan['latent_batch_size'],
    )


def stage_config(
    stage: str, codec: str, data: Config, out: Path, plan: Mapping[str, Any], seed: int
) -> Config:
    """A training of :class:`torchgeo_specdm.SpecDMTask`, for ``torchgeo fit``.

    Args:
        stage: ``autoencoder`` or ``diffusion``.
        codec: ``two_stream``, ``single_stream`` or ``pixels``.
        data: The datamodule.
        out: Folder of results; the stage writes to ``out/stage``.
        plan: ``steps`` of the stage, ``precision``, and maybe ``preset``,
            ``settings`` and ``spec`` of the task.
        seed: Seed of the training.

    Returns:
        The configuration.
    """
    logs = str(out / 'logs' / stage)
    saving = {
        'dirpath': logs,
        'save_last': True,
        'save_top_k': 0,
        'every_n_train_steps': _SAVED_EVERY,
    }
    trainer = {
        'max_steps': plan['steps'][stage],
        'devices': 1,
        'precision': plan['precision'],
        'gradient_clip_val': 1.0,
        # about 100 steps
        'check_val_every_n_epoch': 1,
        'num_sanity_val_steps': 0,
        'enable_model_summary': False,
        'log_every_n_steps': 10,
        'default_root_dir': logs,
        'logger': _object(
            'lightning.pytorch.loggers.CSVLogger', save_dir=logs, name='', version=''
        ),
        'callbacks': [
            _progress(stage),
            _object('lightning.pytorch.callbacks.ModelCheckpoint', **saving),
        ],
    }
    given = {key: plan[key] for key in ('preset', 'settings', 'spec') if key in plan}
    task = _object(
        'torchgeo_specdm.SpecDMTask',
        stage=stage,
        codec=codec,
        out=str(out / stage),
        **given,
    )
    return {'seed_everything': seed, 'trainer': trainer, 'model': task, 'data': data}


def generation_config(
    generator: Path, out: Path, count: int, seed: int, **source: Any
) -> Config:
    """Drawing labelled pairs, for ``torchgeo predict``.

    Args:
        generator: Folder that stage 2 wrote.
        out: Folder to write the pairs to.
        count: Number of pairs.
        seed: Seed of the generated set.
        **source: ``masks``, ``vary`` or ``change``, and ``strength``, of the
            datamodule.

    Returns:
        The configuration.
    """
    kind = 'GenerationDataModule'
    if 'change' in source:
        kind = 'datamodules.painting.ChangeDataModule'
    elif source:
        # a study draws more samples than there are masks; those of change are moved
        source['augment'] = True
    return {
        'seed_everything': seed,
        'trainer': {
            'devices': 1,
            'logger': False,
            'callbacks': [_progress('generating')],
            'default_root_dir': str(out.parent / 'logs' / 'generate'),
        },
        'model': _object(
            'torchgeo_specdm.SpecDMTask', stage='diffusion', generator=str(generator)
        ),
        'data': _object(
            f'torchgeo_specdm.{kind}',
            out=str(out),
            count=count,
            seed=seed,
            batch_size=50,
            **source,
        ),
    }


def mixed_config(
    real: Config, network: Config, out: Path, updates: int, share: float, seed: int
) -> Config:
    """One mixed run of the comparison, for ``torchgeo fit`` and ``torchgeo test``.

    Args:
        real: The real data.
        network: The task.
        out: Folder of results, with ``out/synthetic``.
        updates: Optimiser steps.
        share: Share of real samples in each batch.
        seed: Seed of the training.

    Returns:
        The configuration.
    """
    mixed = _object(
        'torchgeo_specdm.SyntheticAugmentedDataModule',
        synthetic=str(out / 'synthetic'),
        ratio=1,
        real_share=share,
        real=real,
    )
    trainer = {
        'max_steps': updates,
        'devices': 1,
        'num_sanity_val_steps': 0,
        'default_root_dir': str(out / 'logs' / 'train'),
    }
    return {
        'seed_everything': seed,
        'trainer': trainer,
        'model': network,
        'data': mixed,
    }


def _object(path: str, **arguments: Any) -> Config:
    return {'class_path': path, 'init_args': arguments}


def _progress(title: str) -> Config:
    return _object(
        'torchgeo_specdm.tasks.support.progress.StepProgressBar', title=title
    )
