# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Published autoencoders of images, to begin the image branch of a codec with."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..codecs import TwoStreamCodec
from ..pairs.spec import SampleSpec
from .convert import ldm_autoencoder_weights, read_weights

#: Layers whose channels are those of the bands.
_FIRST, _LAST = 'encoder.conv_in.weight', 'decoder.conv_out'
#: First layer behind the latents.
_SECOND = 'decoder.conv_in.weight'
#: Begin of the names in files that ``torchgeo-specdm convert`` wrote.
_CONVERTED = 'network.'
#: Groups of all group norms of LDM, which weights do not tell.
_LDM_GROUPS = 32


class _Published(NamedTuple):
    """Weights by diffusers' names, and the groups of their norms if they are known."""

    state: dict[str, Tensor]
    groups: int | None


def begin_images(codec: TwoStreamCodec, settings: Mapping[str, Any]) -> None:
    """Let the image branch of a codec begin with published weights.

    Bands that the weights do not know have no influence in the beginning, and are
    painted as the mean of those that they do.

    Args:
        codec: Untrained codec.
        settings: ``path``, a folder of diffusers' ``AutoencoderKL``, a file of its
            weights, or a checkpoint of LDM, or None to do nothing; ``bands``, the band
            of the data that each channel of the weights is, None for one that the data
            lack, or None for all bands in their order; ``range``, the reflectances that
            the weights take as -1 and +1, or None for those that each band has;
            ``frozen``, whether the branch is not trained further.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If the weights are no such autoencoder, would unpickle code, or do
            not fit the codec or the bands.
    """
    if settings['path'] is None:
        return
    path, spec = Path(settings['path']), codec.spec
    published = _read(path)
    _require_fit(codec, published, path)
    bands = _bands(settings, spec, published.state[_FIRST].shape[1])
    if settings['range'] is not None:
        _scale(codec, settings['range'])
    codec.image_branch.network.load_state_dict(
        _for_bands(published.state, bands, spec.bands)
    )
    codec.image_branch.requires_grad_(not settings['frozen'])
    kept = 'stays' if settings['frozen'] else 'begins with'
    rank_zero_info(f'The image branch {kept} {path}, whose channels are {bands}.')


def _read(path: Path) -> _Published:
    """Read published weights of any layout that is known."""
    if not path.exists():
        raise FileNotFoundError(
            f'image_weights.path={str(path)!r} does not exist. Give a folder of an '
            'AutoencoderKL of diffusers, or a checkpoint of LDM.'
        )
    if path.is_dir():
        try:
            network, missed = AutoencoderKL.from_pretrained(
                path,
                # pickles may run foreign code
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise ValueError(
                f'{path} is no folder of an AutoencoderKL of diffusers with '
                f'safetensors ({error}). Write it with save_pretrained.'
            ) from error
        lost = [name for names in missed.values() for name in names]
        if lost:
            raise ValueError(
                f'{path} has other weights than its config.json says, such as '
                f'{lost[0]}. Copy the folder again.'
            )
        return _Published(network.state_dict(), network.config.norm_num_groups)
    state = read_weights(path)
    plain = {name.removeprefix(_CONVERTED): v for name, v in state.items()}
    if any(name.startswith('encoder.down_blocks') for name in plain):
        return _Published(plain, None)
    found = ldm_autoencoder_weights(state)
    plain = {name.removeprefix(_CONVERTED): v for name, v in found.items()}
    return _Published(plain, _LDM_GROUPS)


def _require_fit(codec: TwoStreamCodec, published: _Published, path: Path) -> None:
    """Refuse weights of another network, with the settings that they need."""
    state, levels, layers = published.state, 0, 0
    if not {_FIRST, _SECOND} <= {*state}:
        raise _unknown(path, 'all', _FIRST)
    while f'encoder.down_blocks.{levels}.resnets.0.conv1.weight' in state:
        levels += 1
    while f'encoder.down_blocks.0.resnets.{layers}.conv1.weight' in state:
        layers += 1
    wanted = {
        'image_widths': [
            len(state[f'encoder.down_blocks.{level}.resnets.0.conv1.weight'])
            for level in range(levels)
        ],
        'image_latents': state[_SECOND].shape[1],
        'layers': layers,
        'stem': 1,
        'groups': published.groups or codec.settings['groups'],
        'attention': any(name.startswith('encoder.mid_block.att') for name in state),
    }
    different = {n: v for n, v in wanted.items() if codec.settings[n] != v}
    if different:
        raise ValueError(
            f'{path} needs other settings of the codec than '
            f'{ {name: codec.settings[name] for name in different} }. Set settings: '
            f'{{two_stream: {{codec: {different}}}}}, and mask_widths with '
            f'{levels} levels.'
        )
    own = codec.image_branch.network.state_dict()
    free = {_FIRST, f'{_LAST}.weight', f'{_LAST}.bias'}
    other = sorted(
        name
        for name in {*state} | {*own}
        if name not in state
        or name not in own
        or (state[name].shape != own[name].shape and name not in free)
    )
    if other:
        raise _unknown(path, len(other), other[0])


def _unknown(path: Path, count: int | str, name: str) -> ValueError:
    return ValueError(
        f'{path} has no KL autoencoder as LDM and diffusers make it: {count} layers '
        f'differ, such as {name}. Give the weights of one.'
    )


def _bands(
    settings: Mapping[str, Any], spec: SampleSpec, channels: int
) -> list[str | None]:
    """The band of the data that each channel of the weights is."""
    bands = [*(spec.bands if settings['bands'] is None else settings['bands'])]
    known = [band for band in bands if band is not None]
    if len(bands) != channels or not {*known} <= {*spec.bands} or not known:
        raise ValueError(
            f'image_weights.bands={bands} must name a band of the data, or null, for '
            f'each of the {channels} channels of the weights; the data have '
            f'{list(spec.bands)}.'
        )
    if len({*known}) < len(known):
        raise ValueError(
            f'image_weights.bands={bands} has a band twice. Put null for one of them.'
        )
    if settings['frozen'] and not len(bands) == len(known) == spec.num_bands:
        raise ValueError(
            f'image_weights.frozen=True keeps what is known of {bands}, but the data '
            f'have {list(spec.bands)}, and other bands have to be learned. Train it '
            'further (frozen: false), or take the same bands.'
        )
    return bands


def _scale(codec: TwoStreamCodec, limits: Any) -> None:
    """Set the band scaling by the reflectances that become -1 and +1."""
    several = limits if isinstance(limits, list | tuple) else ()
    numbers = [value for value in several if isinstance(value, int | float)]
    low, high = numbers if len(several) == len(numbers) == 2 else (math.nan, math.nan)
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f'image_weights.range={limits} must be two reflectances, the lower one '
            'first. Sentinel-2 weights often take [0, 1].'
        )
    spec = codec.spec
    scale, offset = (torch.tensor(v) for v in (spec.scale, spec.offset))
    codec.center.copy_(((high + low) / 2 - offset) / scale)
    codec.half_range.copy_((high - low) / 2 / scale)


def _for_bands(
    state: Mapping[str, Tensor], bands: Sequence[str | None], wanted: Sequence[str]
) -> dict[str, Tensor]:
    """Weights whose channels are the bands of the data, in their order."""
    first, last = state[_FIRST], [f'{_LAST}.{kind}' for kind in ('weight', 'bias')]
    found = dict(state)
    shape = (len(first), len(wanted), *first.shape[2:])
    found[_FIRST] = first.new_zeros(shape)
    for name in last:
        mean = state[name].mean(0, keepdim=True)
        found[name] = mean.repeat(len(wanted), *(1 for _ in mean.shape[1:]))
    for position, band in enumerate(wanted):
        if band in bands:
            channel = bands.index(band)
            found[_FIRST][:, position] = first[:, channel]
            for name in last:
                found[name][position] = state[name][channel]
    return found
