# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Learning generators and drawing pairs through TorchGeo's command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torchgeo.main import main as torchgeo

from ..codecs import CODECS
from ..files import CONFIG, write_text
from ..objects import Config
from .configs import generation_config, latents_config, stage_config

#: Names of the class that a checkpoint of a stage brings along.
_OWN = {'torchgeo_specdm.SpecDMTask', 'torchgeo_specdm.tasks.specdm.SpecDMTask'}
#: What argparse exits with.
_REFUSED = 2


def learn_stage(
    stage: str, codec: str, data: Config, out: Path, plan: Mapping[str, Any], seed: int
) -> Path:
    """Run a stage, from its last checkpoint if there is one, unless it is done.

    Args:
        stage: ``autoencoder`` or ``diffusion``.
        codec: Codec of :class:`~torchgeo_specdm.SpecDMTask`.
        data: The real data; stage 2 takes it as cached latents.
        out: Folder of results.
        plan: ``steps`` of the stage, ``precision``; for stage 2 ``passes`` and
            ``latent_batch_size``; and maybe ``preset`` and ``settings``.
        seed: Seed of the training.

    Returns:
        The folder that the stage wrote.
    """
    folder = out / stage
    if (folder / CONFIG).exists():
        return folder
    if stage == 'diffusion':
        data = latents_config(data, plan, cached=codec not in CODECS)
    config = stage_config(stage, codec, data, out, plan, seed)
    arguments = ['fit', '--config', write_config(out, stage, 'fit', config)]
    last = out / 'logs' / stage / 'last.ckpt'
    if last.exists():
        _require_own(last)
        arguments += ['--ckpt_path', str(last)]
    _run(arguments)
    return folder


def draw_pairs(
    generator: Path, out: Path, count: int, seed: int, **source: Any
) -> Path:
    """Draw labelled pairs, or what is missing of them.

    Args:
        generator: Folder that stage 2 wrote.
        out: Folder to write the pairs to.
        count: Number of pairs.
        seed: Seed of the generated set.
        **source: ``masks``, ``vary`` or ``change``, and ``strength``, of the
            datamodules of generation.

    Returns:
        The folder of pairs.
    """
    config = generation_config(generator, out, count, seed, **source)
    path = write_config(out.parent, f'generate-{out.name}', 'predict', config)
    _run(['predict', '--config', path])
    return out


def _require_own(checkpoint: Path) -> None:
    """Refuse a checkpoint that cannot be read, or that names another class to build.

    Lightning's command line takes the class and its arguments from the checkpoint, but
    a folder of results, which may be somebody else's, must not say which code runs.
    """
    try:
        saved = torch.load(checkpoint, map_location='cpu', weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(
            f'{checkpoint} is no whole checkpoint ({type(error).__name__}). Delete it, '
            'and the stage begins anew.'
        ) from error
    given = saved.get('hyper_parameters', {})
    named = {given[key] for key in ('_class_path', 'class_path') if key in given}
    if not named <= _OWN:
        raise ValueError(
            f'{checkpoint} names the class {sorted(named)} to build, which no stage '
            'has written. Delete it, and the stage begins anew.'
        )


def _run(arguments: list[str]) -> None:
    """Run TorchGeo's command line; a refused configuration is an error as any other.

    Raises:
        ValueError: If the configuration is refused.
    """
    try:
        torchgeo(arguments)
    except SystemExit as stop:
        # Lightning makes an exit of Ctrl-C too, which goes on
        if stop.code != _REFUSED:
            raise
        raise ValueError(
            f'torchgeo {" ".join(arguments)} was refused, as said above. Mend the data '
            'or the generator of the study.'
        ) from stop


def write_config(out: Path, name: str, verb: str, config: Config) -> str:
    """Write a YAML that runs as it is.

    Args:
        out: Folder of results; the file goes to ``out/configs``.
        name: Name of the file.
        verb: Verb of TorchGeo's command line.
        config: Content of the file.

    Returns:
        The path of the file.
    """
    path = out / 'configs' / f'{name}.yaml'
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config, sort_keys=False)
    write_text(path, f'# torchgeo {verb} --config {path}\n{text}')
    return str(path)
