# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""State dicts in the layouts of the published networks, filled by a rule.

Names and shapes follow the released code (docs/notes/networks.md), which was run once
with weights filled by the same rule; what it gave is frozen in test_convert.py.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

Layout = dict[str, tuple[int, ...]]


def fill(layout: Layout) -> dict[str, Tensor]:
    """Weights that depend on their names alone, of a size that keeps signals alive."""
    found = {}
    for name, shape in layout.items():
        if name.endswith('num_batches_tracked'):
            found[name] = torch.zeros((), dtype=torch.int64)
            continue
        # the one generator whose numbers NumPy promises never to change
        random = np.random.RandomState(zlib.crc32(name.encode()))
        values = np.asarray(random.random_sample(shape))
        if len(shape) > 1:
            values = (2 * values - 1) * np.sqrt(3 / np.prod(shape[1:]))
        elif name.endswith('weight'):
            values = 0.5 + 0.5 * values
        elif name.endswith('running_var'):
            values = 0.5 + values
        else:
            values = 0.2 * values - 0.1
        found[name] = torch.from_numpy(values).float()
    return found


def noise(*shape: int) -> Tensor:
    """The input that the released code was run on."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal(shape)).float()


def digest(layout: Layout) -> str:
    """Names and shapes in a few characters."""
    lines = sorted(f'{name} {shape}' for name, shape in layout.items())
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:12]


def count(layout: Layout) -> int:
    """Parameters, without what batch normalisation counts."""
    return sum(
        int(np.prod(shape))
        for name, shape in layout.items()
        if 'running' not in name and 'num_batches' not in name
    )


def siamcrnn(bands: int = 10) -> Layout:
    """SiamCRNN with ResNet-34 and two classes."""
    found = _conv('encoder_1.conv1', bands, 64, 7, bias=False)
    found |= _batch_norm('encoder_1.bn1', 64)
    inside = 64
    for stage, (width, depth) in enumerate(
        zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), start=1
    ):
        for block in range(depth):
            name = f'encoder_1.layer{stage}.{block}'
            found |= _bottleneck(name, (inside, width, width), (3, 3))
            inside = width
    for level, width in enumerate((64, 128, 256, 512), start=1):
        found |= _conv(f'convlstm_{level}.cell_list.0.conv', width + 128, 512, 3)
    for level in (1, 2, 3):
        found |= _conv(f'smooth_layer_{level}.0', 128, 128, 3)
        found |= _batch_norm(f'smooth_layer_{level}.1', 128)
    return found | _conv('main_clf_1', 128, 2, 1)


def pfsegnet(classes: int = 4) -> Layout:
    """PFSegNet with its ResNet-50."""
    found: Layout = {}
    for place, (inside, width) in zip(
        (0, 3, 6), ((3, 64), (64, 64), (64, 128)), strict=True
    ):
        found |= _conv(f'layer0.0.{place}', inside, width, 3, bias=False)
    found |= _batch_norm('layer0.0.1', 64) | _batch_norm('layer0.0.4', 64)
    found |= _batch_norm('layer0.1', 128)
    inside = 128
    for stage, (width, depth) in enumerate(
        zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), start=1
    ):
        for block in range(depth):
            widths = (inside, width, width, 4 * width)
            found |= _bottleneck(f'layer{stage}.{block}', widths, (1, 3, 1))
            inside = 4 * width
    for place in range(4):
        stage_name = f'head.ppm.stages.{place}'
        found |= _conv(f'{stage_name}.1', 2048, 256, 1, bias=False)
        found |= _batch_norm(f'{stage_name}.2', 256)
    found |= _conv('head.ppm.bottleneck.0', 3072, 256, 1, bias=False)
    found |= _batch_norm('head.ppm.bottleneck.1', 256)
    for level in range(3):
        found |= _conv(f'head.fpn_in.{level}.0', 256 * 2**level, 256, 1)
        found |= _batch_norm(f'head.fpn_in.{level}.1', 256)
        found |= _conv(f'head.fpn_out.{level}.0.0', 256, 256, 3, bias=False)
        found |= _batch_norm(f'head.fpn_out.{level}.0.1', 256)
        flow = f'head.fpn_out_align.{level}'
        found |= _conv(f'{flow}.point_matcher.match_conv', 128, 1, 3)
        found |= _conv(f'{flow}.down_h', 256, 64, 1) | _conv(
            f'{flow}.down_l', 256, 64, 1
        )
        found |= _conv(f'{flow}.edge_final.0', 256, 256, 3, bias=False)
        found |= _batch_norm(f'{flow}.edge_final.1', 256)
        found |= _conv(f'{flow}.edge_final.3', 256, 1, 3, bias=False)
    found |= _conv('head.conv_last.0.0', 1024, 256, 3, bias=False)
    found |= _batch_norm('head.conv_last.0.1', 256)
    return found | _conv('head.conv_last.1', 256, classes, 1)


def changeformer() -> Layout:
    """ChangeFormer V3, with the blocks that are never called."""
    found: Layout = {}
    widths, inside = (64, 128, 320, 512), 3
    for stage, (width, depth, reduction) in enumerate(
        zip(widths, (3, 4, 6, 3), (8, 4, 2, 1), strict=True), start=1
    ):
        embed = f'Tenc.patch_embed{stage}'
        found |= _conv(f'{embed}.proj', inside, width, 7 if stage == 1 else 3)
        found |= _norm(f'{embed}.norm', width) | _norm(f'Tenc.norm{stage}', width)
        for block in range(depth):
            found |= _mit_block(f'Tenc.block{stage}.{block}', width, reduction)
        if stage > 1:
            name = f'Tenc.patch_block{stage - 1}.0'
            found |= _mit_block(name, width, (8, 4, 2)[stage - 2])
            found |= _norm(f'Tenc.pnorm{stage - 1}', width)
        found |= _linear(f'TDec.linear_c{stage}.proj', width, 64)
        inside = width
    found |= _conv('TDec.linear_fuse', 256, 64, 1)
    return found | _conv('TDec.pix_shuffle_conv', 64, 32, 3)


def ldm_unet(widths: Sequence[int], attention: Sequence[bool], channels: int) -> Layout:
    """An unconditional UNet of LDM that resamples in blocks, two a level."""
    time = 4 * widths[0]
    found = _linear('time_embed.0', widths[0], time) | _linear(
        'time_embed.2', time, time
    )
    found |= _conv('input_blocks.0.0', channels, widths[0], 3)
    skips, inside, number = [widths[0]], widths[0], 1
    for level, width in enumerate(widths):
        for _ in range(2):
            found |= _unet_block(f'input_blocks.{number}.0', inside, width, time)
            if attention[level]:
                found |= _unet_attention(f'input_blocks.{number}.1', width)
            inside, number = width, number + 1
            skips.append(width)
        if level < len(widths) - 1:
            found |= _unet_block(f'input_blocks.{number}.0', width, width, time)
            number += 1
            skips.append(width)
    for place in (0, 2):
        found |= _unet_block(f'middle_block.{place}', inside, inside, time)
    found |= _unet_attention('middle_block.1', inside)
    for number, level in enumerate(
        level for level in _from_last(widths) for _ in range(3)
    ):
        width, name = widths[level], f'output_blocks.{number}'
        found |= _unet_block(f'{name}.0', inside + skips.pop(), width, time)
        if attention[level]:
            found |= _unet_attention(f'{name}.1', width)
        if level and number % 3 == 2:
            place = 1 + attention[level]
            found |= _unet_block(f'{name}.{place}', width, width, time)
        inside = width
    return found | _norm('out.0', widths[0]) | _conv('out.2', widths[0], channels, 3)


def ldm_autoencoder(widths: Sequence[int], channels: int, latents: int = 3) -> Layout:
    """A KL autoencoder of LDM, two blocks a level on the way down."""
    found = _conv('encoder.conv_in', channels, widths[0], 3)
    found |= _conv('decoder.conv_in', latents, widths[-1], 3)
    last = len(widths) - 1
    inside = {'down': widths[0], 'up': widths[-1]}
    for level in range(last + 1):
        for side, place in (('down', level), ('up', last - level)):
            half, width = 'encoder' if side == 'down' else 'decoder', widths[place]
            name = f'{half}.{side}.{place}'
            for block in range(2 + (side == 'up')):
                found |= _ldm_block(f'{name}.block.{block}', inside[side], width)
                inside[side] = width
            if level < last:
                found |= _conv(f'{name}.{side}sample.conv', width, width, 3)
    for half, end, out in (
        ('encoder', widths[-1], 2 * latents),
        ('decoder', widths[0], channels),
    ):
        for place in (1, 2):
            found |= _ldm_block(f'{half}.mid.block_{place}', widths[-1], widths[-1])
        found |= _norm(f'{half}.mid.attn_1.norm', widths[-1])
        for layer in ('q', 'k', 'v', 'proj_out'):
            found |= _conv(f'{half}.mid.attn_1.{layer}', widths[-1], widths[-1], 1)
        found |= _norm(f'{half}.norm_out', end) | _conv(f'{half}.conv_out', end, out, 3)
    found |= _conv('quant_conv', 2 * latents, 2 * latents, 1)
    return found | _conv('post_quant_conv', latents, latents, 1)


def _conv(name: str, inside: int, width: int, side: int, bias: bool = True) -> Layout:
    found: Layout = {f'{name}.weight': (width, inside, side, side)}
    return found | ({f'{name}.bias': (width,)} if bias else {})


def _linear(name: str, inside: int, width: int) -> Layout:
    return {f'{name}.weight': (width, inside), f'{name}.bias': (width,)}


def _norm(name: str, width: int) -> Layout:
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def _batch_norm(name: str, width: int) -> Layout:
    found = _norm(name, width)
    found |= {f'{name}.running_{x}': (width,) for x in ('mean', 'var')}
    return found | {f'{name}.num_batches_tracked': ()}


def _bottleneck(name: str, widths: Sequence[int], sides: Sequence[int]) -> Layout:
    """A residual block of two or three convolutions."""
    found: Layout = {}
    for place, side in enumerate(sides, start=1):
        inside, width = widths[place - 1 : place + 1]
        found |= _conv(f'{name}.conv{place}', inside, width, side, bias=False)
        found |= _batch_norm(f'{name}.bn{place}', width)
    if widths[0] != widths[-1]:
        found |= _conv(f'{name}.downsample.0', widths[0], widths[-1], 1, bias=False)
        found |= _batch_norm(f'{name}.downsample.1', widths[-1])
    return found


def _mit_block(name: str, width: int, reduction: int) -> Layout:
    found = _norm(f'{name}.norm1', width) | _norm(f'{name}.norm2', width)
    found |= _linear(f'{name}.attn.q', width, width)
    found |= _linear(f'{name}.attn.kv', width, 2 * width)
    found |= _linear(f'{name}.attn.proj', width, width)
    if reduction > 1:
        found |= _conv(f'{name}.attn.sr', width, width, reduction)
        found |= _norm(f'{name}.attn.norm', width)
    found |= _linear(f'{name}.mlp.fc1', width, 4 * width)
    found |= _conv(f'{name}.mlp.dwconv.dwconv', 1, 4 * width, 3)
    return found | _linear(f'{name}.mlp.fc2', 4 * width, width)


def _unet_block(name: str, inside: int, width: int, time: int) -> Layout:
    found = _norm(f'{name}.in_layers.0', inside)
    found |= _conv(f'{name}.in_layers.2', inside, width, 3)
    # a scale and a shift for each channel
    found |= _linear(f'{name}.emb_layers.1', time, 2 * width)
    found |= _norm(f'{name}.out_layers.0', width)
    found |= _conv(f'{name}.out_layers.3', width, width, 3)
    return found | (
        _conv(f'{name}.skip_connection', inside, width, 1) if inside != width else {}
    )


def _unet_attention(name: str, width: int) -> Layout:
    return _norm(f'{name}.norm', width) | {
        f'{name}.qkv.weight': (3 * width, width, 1),
        f'{name}.qkv.bias': (3 * width,),
        f'{name}.proj_out.weight': (width, width, 1),
        f'{name}.proj_out.bias': (width,),
    }


def _ldm_block(name: str, inside: int, width: int) -> Layout:
    found = _norm(f'{name}.norm1', inside) | _norm(f'{name}.norm2', width)
    found |= _conv(f'{name}.conv1', inside, width, 3)
    found |= _conv(f'{name}.conv2', width, width, 3)
    return found | (
        _conv(f'{name}.nin_shortcut', inside, width, 1) if inside != width else {}
    )


def _from_last(widths: Sequence[int]) -> Iterator[int]:
    return reversed(range(len(widths)))
