# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Making codecs by name, and their folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn
from typing_extensions import TypedDict

from ..files import WEIGHTS, Settings, load_weights, read_config, save_module
from ..pairs.spec import SampleSpec
from .abundances import AbundanceCodec
from .base import Codec
from .pixels import PixelCodec
from .single_stream import SingleStreamCodec
from .two_stream import TwoStreamCodec

#: The codecs by their name in configurations.
CODECS: dict[str, type[Codec]] = {
    codec.name: codec
    for codec in (TwoStreamCodec, SingleStreamCodec, PixelCodec, AbundanceCodec)
}
_LEARNABLE = sorted(name for name, codec in CODECS.items() if codec.trainable)


def make_codec(name: str, spec: SampleSpec, settings: Mapping[str, Any]) -> Codec:
    """Make an untrained codec.

    Args:
        name: Name of the codec, one of :data:`CODECS`.
        spec: Description of a sample.
        settings: Constructor arguments of the codec.

    Returns:
        The codec.

    Raises:
        ValueError: If the name or a setting is unknown.
    """
    if name not in CODECS:
        raise ValueError(
            f'codec={name!r} must be one of {sorted(CODECS)}, or the folder that '
            'stage 1 wrote.'
        )
    try:
        return CODECS[name](spec, **settings)
    except TypeError as error:
        raise ValueError(
            f'The {name} codec does not take these settings: {error}. Its docstring '
            'lists them.'
        ) from error


def require_learnable(name: str) -> None:
    """Refuse a codec that stage autoencoder cannot learn.

    Args:
        name: Codec that the user asked for.

    Raises:
        ValueError: With the codecs that can be learned.
    """
    if name not in _LEARNABLE:
        raise ValueError(
            f'codec={name!r} has nothing to learn in stage autoencoder, which takes '
            f'one of {_LEARNABLE}. pixels needs no stage 1: go on with stage diffusion.'
        )


def require_learned(name: str) -> None:
    """Refuse a codec that stage diffusion cannot build on.

    Args:
        name: Codec that the user asked for: a folder, or the name of a codec that has
            nothing to learn.

    Raises:
        FileNotFoundError: If the folder has no codec.
        ValueError: If the codec is not learned, or the folder of another stage.
    """
    if name in _LEARNABLE:
        raise ValueError(
            f'codec={name!r} is no learned codec, as stage diffusion needs it. Give '
            'the folder that stage autoencoder wrote as model.init_args.codec (its '
            'checkpoint, given as --ckpt_path, only resumes that stage), or use '
            'codec=pixels.'
        )
    if name not in CODECS:
        read_config(Path(name), 'autoencoder', CodecConfig)


class CodecConfig(TypedDict):
    """Content of ``config.json`` of stage 1."""

    stage: Literal['autoencoder']
    codec: str
    settings: Settings
    spec: dict[str, Any]


def codec_to_config(codec: Codec) -> dict[str, Any]:
    """Describe a codec in plain JSON types, for :func:`codec_from_config`."""
    return {
        'stage': 'autoencoder',
        'codec': codec.name,
        'settings': codec.settings,
        'spec': codec.spec.to_dict(),
    }


def codec_from_config(config: Mapping[str, Any]) -> Codec:
    """Make a codec without its weights.

    Args:
        config: Configuration from :func:`codec_to_config`.

    Returns:
        The codec.

    Raises:
        ValueError: If a part is missing or wrong.
    """
    try:
        spec = SampleSpec.from_dict(config['spec'])
        return make_codec(config['codec'], spec, config['settings'])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'The description of a codec lacks {error}. Copy its folder again.'
        ) from error


def save_codec(codec: Codec, folder: Path) -> None:
    """Write a codec as ``config.json`` and ``model.safetensors``."""
    save_module(folder, codec_to_config(codec), codec)


def load_codec(folder: str | Path) -> Codec:
    """Read what :func:`save_codec` wrote, for inference.

    Raises:
        FileNotFoundError: If the folder has no codec.
        ValueError: If the folder comes from another stage, or is broken.
    """
    folder = Path(folder)
    codec = codec_from_config(read_config(folder, 'autoencoder', CodecConfig))
    load_state(codec, folder)
    for name in ('half_range', 'latent_std'):
        least = float(getattr(codec, name).min())
        if least <= 0:
            raise ValueError(
                f'{folder / WEIGHTS} has {name}={least:g}, but all must be above 0: '
                'they are measured on the training samples. Train this stage again.'
            )
    return codec.eval().requires_grad_(False)


def load_state(module: nn.Module, folder: Path) -> None:
    """Read the weights of a folder into a module.

    Args:
        module: Module made from the ``config.json`` of the folder.
        folder: Has ``model.safetensors``.

    Raises:
        ValueError: If the weights are broken, those of another module, or not
            finite.
    """
    try:
        module.load_state_dict(load_weights(folder))
    except RuntimeError as error:
        raise ValueError(
            f'The weights of {folder} do not fit its config.json ({error}). Copy the '
            'folder again.'
        ) from error
    for name, value in module.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(
                f'{folder / WEIGHTS} has values in {name} that are not finite, so '
                'nothing would be that is made with them. The training diverged or '
                'did not end: train this stage again.'
            )
