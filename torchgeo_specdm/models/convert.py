# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Weights of other trainings, renamed and reordered for networks of this package."""

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..files import write_tensors
from .changeformer import mit_name

State: TypeAlias = dict[str, Tensor]

#: Where published checkpoints keep their weights, if not at the top.
_ENTRIES = ('state_dict', 'model_G_state_dict')

#: Patterns of published names, and what stands in their place.
_Rules: TypeAlias = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
_SIAMCRNN: _Rules = (
    (r'^encoder_1\.', 'encoder.'),
    (r'^convlstm_(\d)\.cell_list\.0\.', lambda m: f'cells.{int(m[1]) - 1}.'),
    (r'^smooth_layer_(\d)\.', lambda m: f'smooth.{3 - int(m[1])}.'),
    (r'^main_clf_1\.', 'head.'),
)
_PFSEGNET: _Rules = (
    (r'^layer0\.0\.', 'network.encoder.conv1.'),
    (r'^layer0\.1\.', 'network.encoder.bn1.'),
    (r'^layer(\d)\.', r'network.encoder.layer\1.'),
    (r'^head\.ppm\.stages\.', 'network.context.means.'),
    (r'^head\.ppm\.bottleneck\.', 'network.context.merge.'),
    (r'^head\.fpn_in\.', 'network.laterals.'),
    (r'^head\.fpn_out\.(\d)\.0\.', r'network.smooth.\1.'),
    (r'^head\.fpn_out_align\.', 'network.flows.'),
    (r'\.down_h\.', '.coarse_match.'),
    (r'\.down_l\.', '.fine_match.'),
    (r'\.point_matcher\.match_conv\.', '.certainty.'),
    (r'\.edge_final\.', '.edge.'),
    (r'^head\.conv_last\.0\.', 'network.fuse.'),
    (r'^head\.conv_last\.1\.', 'network.head.'),
)
#: Residual blocks of each level of LDM's UNet, and heads of each attention.
_UNET_DEPTH, _UNET_HEADS = 2, 8
#: Layers of a residual block of LDM's UNet, those of its attention, and the rest.
_UNET_LAYERS = {
    'in_layers.0': 'norm1',
    'in_layers.2': 'conv1',
    'emb_layers.1': 'time_emb_proj',
    'out_layers.0': 'norm2',
    'out_layers.3': 'conv2',
    'skip_connection': 'conv_shortcut',
    'norm': 'group_norm',
    'proj_out': 'to_out.0',
}
_UNET_ENDS = {
    'time_embed.0': 'time_embedding.linear_1',
    'time_embed.2': 'time_embedding.linear_2',
    'input_blocks.0.0': 'conv_in',
    'middle_block.0': 'mid_block.resnets.0',
    'middle_block.1': 'mid_block.attentions.0',
    'middle_block.2': 'mid_block.resnets.1',
    'out.0': 'conv_norm_out',
    'out.2': 'conv_out',
}
_UNET_KEY = 'model.diffusion_model.'
_UNET_AVERAGED = 'model_ema.diffusion_model'
_FIRST_STAGE = 'first_stage_model.'
_OWN_KEY = 'model.'


def changeformer_weights(state: Mapping[str, Tensor]) -> State:
    """Weights of the released ChangeFormer V3.

    Args:
        state: State dict with ``Tenc.`` and ``TDec.``. Blocks that the released network
            holds and never calls are left out.

    Returns:
        State dict of :class:`~torchgeo_specdm.models.ChangeFormer` with ``mit_b2``.

    Raises:
        ValueError: If the state dict has another layout.
    """
    found: State = {}
    for name, value in state.items():
        match name.split('.'):
            case ['Tenc', part, *_] if part.startswith(('patch_block', 'pnorm')):
                continue
            case ['Tenc', *path]:
                found[f'encoder.{mit_name(".".join(path))}'] = value
            case ['TDec', 'linear_fuse', kind]:
                found[f'fuse.{kind}'] = value
            case ['TDec', 'pix_shuffle_conv', kind]:
                found[f'head.{kind}'] = value
            case ['TDec', level, 'proj', 'weight']:
                # a linear layer there, a 1 x 1 convolution here
                found[f'projections.{_level(level)}.weight'] = value[..., None, None]
            case ['TDec', level, 'proj', 'bias']:
                found[f'projections.{_level(level)}.bias'] = value
            case _:
                raise _unknown(name, 'ChangeFormer V3')
    return found


def siamcrnn_weights(state: Mapping[str, Tensor]) -> State:
    """Weights of the released, fully convolutional SiamCRNN.

    Args:
        state: State dict with ``encoder_1.``, ``convlstm_1.`` and so on.

    Returns:
        State dict of :class:`~torchgeo_specdm.models.SiamCRNN` with the same ResNet.

    Raises:
        ValueError: If the state dict has another layout.
    """
    return _rename(state, _SIAMCRNN, 'SiamCRNN')


def pfsegnet_weights(state: Mapping[str, Tensor]) -> State:
    """Weights of a released PFSegNet.

    Args:
        state: State dict with ``layer0.`` to ``layer4.`` and ``head.``.

    Returns:
        State dict of :class:`~torchgeo_specdm.models.PFSegNet` with ``resnet50s`` or
        ``resnet101s``.

    Raises:
        ValueError: If the state dict has another layout.
    """
    return _rename(state, _PFSEGNET, 'PFSegNet')


def ldm_unet_weights(state: Mapping[str, Tensor]) -> State:
    """Weights of a released, unconditional LDM whose UNet resamples in blocks.

    Args:
        state: State dict of the whole model, whose averaged weights are taken if they
            are there, or of the UNet alone.

    Returns:
        State dict of :class:`~torchgeo_specdm.diffusion.JointDenoiser` with one time.

    Raises:
        ValueError: If the state dict has another layout.
    """
    found: State = {}
    for name, value in _unet_alone(state).items():
        *path, kind = name.split('.')
        place = _unet_layer(path)
        if place is None:
            raise _unknown(name, 'unconditional LDM')
        if value.ndim == 3:
            # 1 x 1 convolutions over a sequence there, linear layers here
            value = value.squeeze(-1)
        if path[-1] != 'qkv':
            found[f'network.{place}.{kind}'] = value
            continue
        parts = value.reshape(_UNET_HEADS, 3, -1, *value.shape[1:]).unbind(1)
        for letter, part in zip('qkv', parts, strict=True):
            target = place.replace('qkv', f'to_{letter}')
            found[f'network.{target}.{kind}'] = part.flatten(0, 1)
    return found


def ldm_autoencoder_weights(state: Mapping[str, Tensor]) -> State:
    """Weights of a released KL autoencoder of LDM.

    Args:
        state: State dict of the autoencoder, or of a model with it as its first stage.

    Returns:
        State dict of :class:`~torchgeo_specdm.codecs.autoencoder.PatchAutoencoder` with
        a stem of 1 and as many levels.

    Raises:
        ValueError: If the state dict has another layout.
    """
    parts = ('encoder.', 'decoder.', 'quant_conv.', 'post_quant_conv.')
    plain = {name.removeprefix(_FIRST_STAGE): v for name, v in state.items()}
    plain = {name: value for name, value in plain.items() if name.startswith(parts)}
    if 'encoder.conv_in.weight' not in plain:
        raise _unknown(next(iter(state), ''), 'LDM autoencoder')
    numbers = {name.split('.')[2] for name in plain if name.startswith('encoder.down')}
    # of the settings, the converter reads the number of levels alone
    config = {'down_block_types': [''] * len(numbers)}
    config['up_block_types'] = config['down_block_types']
    found: State = convert_ldm_vae_checkpoint(plain, config)  # type: ignore[no-untyped-call]
    return {f'network.{name}': value for name, value in found.items()}


#: What ``torchgeo-specdm convert`` takes, by name.
CONVERTERS: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
    'changeformer': changeformer_weights,
    'siamcrnn': siamcrnn_weights,
    'pfsegnet': pfsegnet_weights,
    'ldm-unet': ldm_unet_weights,
    'ldm-autoencoder': ldm_autoencoder_weights,
}


def read_weights(checkpoint: Path) -> State:
    """Read the tensors of a published checkpoint.

    Args:
        checkpoint: File of safetensors, or one that PyTorch's ``save`` wrote, of which
            nothing but tensors and plain values is read.

    Returns:
        Tensors by their names.

    Raises:
        ValueError: If the file is broken, or holds other objects.
    """
    if checkpoint.suffix == '.safetensors':
        try:
            return load_file(checkpoint)
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f'{checkpoint} cannot be read ({error}). Download it again.'
            ) from error
    try:
        read: Any = torch.load(checkpoint, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f'{checkpoint} is no checkpoint of PyTorch, is cut off, or holds more than '
            'tensors and plain values, which may run foreign code when they are read. '
            'Where you trust it, save its state dict alone: '
            "torch.save(checkpoint['state_dict'], FILE)."
        ) from error
    for entry in _ENTRIES:
        read = read.get(entry, read) if isinstance(read, Mapping) else {}
    tensors = {
        # a network trained on several GPUs at once has a wrapper around it
        name.removeprefix('module.'): value
        for name, value in read.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise ValueError(
            f'{checkpoint} holds no tensors by name, neither at its top nor under '
            f'{_ENTRIES}. Save its state dict alone.'
        )
    return tensors


def convert_file(network: str, checkpoint: Path, out: Path) -> None:
    """Convert a published checkpoint.

    Args:
        network: One of :data:`CONVERTERS`.
        checkpoint: File of :func:`read_weights`.
        out: The safetensors file to write.

    Raises:
        ValueError: If the checkpoint holds other objects, or another network.
    """
    write_tensors(out, CONVERTERS[network](read_weights(checkpoint)))


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Start a network from the weights of another training.

    Layers of another shape, as the first one for other bands and the last one for other
    classes, stay as they are, with a warning.

    Args:
        network: Network that was trained, apart from its bands and classes.
        path: File that :func:`convert_file` wrote, or a checkpoint of a task of this
            package.

    Raises:
        ValueError: If the file cannot be read, or has the weights of another network.
    """
    try:
        state, wanted = read_weights(Path(path)), network.state_dict()
    except (OSError, ValueError) as error:
        raise ValueError(
            f'weights={str(path)!r} cannot be read ({error}). Name a file that '
            'torchgeo-specdm convert or torchgeo fit wrote, or use true or false.'
        ) from error
    # a task keeps its network under this name, beside what it trains with
    own = [name for name in state if name.startswith(_OWN_KEY)]
    state = {name.removeprefix(_OWN_KEY): state[name] for name in own} or state
    different = sorted(set(state) ^ set(wanted))
    shared = wanted.keys() - different
    other = [n for n in wanted if n in shared and state[n].shape != wanted[n].shape]
    # a smaller backbone of the same kind has the same names
    if different or len(other) > len(wanted) / 2:
        wrong, kind = different or other, type(getattr(network, 'network', network))
        raise ValueError(
            f'{path} has no weights of a {kind.__name__} with this backbone: '
            f'{len(wrong)} layers differ, such as {wrong[0]!r}. Take the weights of '
            'the same network, or give another backbone.'
        )
    if other:
        warnings.warn(
            f'Layers of another shape in {path} start untrained: {", ".join(other)}.',
            stacklevel=2,
        )
    kept = {name: value for name, value in state.items() if name not in other}
    network.load_state_dict(kept, strict=False)


def _rename(state: Mapping[str, Tensor], rules: _Rules, title: str) -> State:
    """Apply every rule to each name; one that none knows is refused."""
    found: State = {}
    for name, value in state.items():
        target = name
        for pattern, replacement in rules:
            target = re.sub(pattern, replacement, target)
        if target == name:
            raise _unknown(name, title)
        found[target] = value
    return found


def _level(name: str) -> int:
    """The place of ``linear_c1`` to ``linear_c4``."""
    return int(name.removeprefix('linear_c')) - 1


def _unet_alone(state: Mapping[str, Tensor]) -> State:
    """The UNet of a whole LDM, averaged if possible; a bare UNet as it is."""
    inner = [name for name in state if name.startswith(_UNET_KEY)]
    if not inner:
        return dict(state)
    found = {}
    for name in inner:
        short = name.removeprefix(_UNET_KEY)
        # names of averaged weights have lost their dots
        averaged = _UNET_AVERAGED + short.replace('.', '')
        found[short] = state.get(averaged, state[name])
    return found


def _unet_layer(path: list[str]) -> str | None:
    """Where diffusers keeps a layer of LDM's UNet; None if there is no such layer."""
    name = '.'.join(path)
    if name in _UNET_ENDS:
        return _UNET_ENDS[name]
    if path[0] == 'middle_block':
        block, layer = _UNET_ENDS.get('.'.join(path[:2])), '.'.join(path[2:])
    elif path[0] in ('input_blocks', 'output_blocks'):
        down, layer = path[0] == 'input_blocks', '.'.join(path[3:])
        # the first input is a convolution; each level ends with its resampling, which
        # is a block of its own on the way down and the last of a block on the way up
        level, number = divmod(int(path[1]) - down, _UNET_DEPTH + 1)
        resamples = (
            number == _UNET_DEPTH if down else path[2] != '0' and 'layers' in layer
        )
        side = 'down' if down else 'up'
        if resamples:
            block = f'{side}_blocks.{level}.{side}samplers.0'
        else:
            kind = 'resnets' if path[2] == '0' else 'attentions'
            block = f'{side}_blocks.{level}.{kind}.{number}'
    else:
        return None
    layer = _UNET_LAYERS.get(layer, 'qkv' if layer == 'qkv' else '')
    return f'{block}.{layer}' if block and layer else None


def _unknown(name: str, title: str) -> ValueError:
    return ValueError(
        f'{name!r} is no weight of a {title} as its authors released it. Give the '
        'checkpoint of that network, or name the network that it belongs to.'
    )
