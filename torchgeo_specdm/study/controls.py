# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Pairs made from real ones that take the harm of a generator apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..datasets.pairs import PairFolder
from ..diffusion import Generator
from ..metrics.edges import EdgeAgreement
from ..pairs.tiles import TileDataset
from ..pairs.writer import PairWriter
from .quilts import Pair, quilt

Control = Literal['reconstructed', 'blurred', 'shifted', 'quilts']
CONTROLS: tuple[str, ...] = get_args(Control)
#: Pairs of a side that are looked at, and bins of frequency up to a cycle a pixel.
_LOOKED_AT, _BINS = 200, 64
#: Pixels that masks may be moved by.
_FURTHEST = 8
_CARD = """# Control of a study

Real training pairs, {what}. They are no measure of a generator's pairs by themselves:
beside them, they tell which of their faults costs how much.
"""
_WHAT = {
    'reconstructed': "with their images as the generator's codec gives them back",
    'blurred': "with their images as poor in detail as the generator's",
    'shifted': "with their masks as far off the edges of their images as the generator's",
    'quilts': 'stitched to new ones',
}

Made = tuple[Tensor, Tensor]


def make_controls(
    control: str,
    real: Path,
    out: Path,
    count: int,
    seed: int,
    reference: Path | None = None,
) -> Path:
    """Write control pairs, or what is missing of them.

    Args:
        control: One of :data:`CONTROLS`.
        real: Folder of the real training pairs.
        out: Folder to write to.
        count: Number of pairs; real ones are used again and again, in turn.
        seed: Seed of what is chosen at random.
        reference: Folder of the generator for ``reconstructed``, of its pairs for
            ``blurred`` and ``shifted``; None for ``quilts``.

    Returns:
        The folder of pairs.
    """
    pairs = PairFolder(real)
    make = _maker(control, pairs, seed, reference)
    settings = {'control': control, 'real': pairs.digest(), 'seed': seed}
    writer = PairWriter(out, pairs.spec, {}, settings)
    writer.clean()
    done = writer.done()
    for index in range(count):
        if index not in done:
            image, mask = make(index)
            mask = mask.reshape(mask.shape[-2:])
            name, missing = f'{index:06d}', image.isnan().numpy()
            writer.write(
                name, image.numpy(), mask.numpy(), {'index': index}, missing=missing
            )
    writer.finish(_CARD.format(what=_WHAT[control]))
    return out


def _maker(
    control: str, pairs: PairFolder, seed: int, reference: Path | None
) -> Callable[[int], Made]:
    """The function that makes the pair of an index."""
    if control == 'quilts':
        return _quilts(pairs, seed)
    assert reference is not None
    if control == 'reconstructed':
        codec = Generator.load(reference).codec

        def reconstruct(index: int) -> Made:
            sample = pairs[index % len(pairs)]
            batch = {name: sample[name][None] for name in ('image', 'mask')}
            return codec.roundtrip(batch)[0]['image'][0], sample['mask']

        return reconstruct
    drawn = PairFolder(reference)
    if control == 'blurred':
        gains = blur_gains(pairs, drawn)

        def soften(index: int) -> Made:
            sample = pairs[index % len(pairs)]
            return filter_image(sample['image'], gains), sample['mask']

        return soften
    distance = border_distance(pairs, drawn)

    def shift(index: int) -> Made:
        sample = pairs[index % len(pairs)]
        return sample['image'], move_mask(sample['mask'], distance, index)

    return shift


def _quilts(pairs: PairFolder, seed: int) -> Callable[[int], Made]:
    samples = [pairs[index] for index in range(len(pairs))]
    shape = samples[0]['image'].shape
    parts = [
        Pair(
            sample['image'].reshape(-1, *shape[-2:]).numpy(),
            sample['mask'].reshape(shape[-2:]).numpy(),
        )
        for sample in samples
    ]

    def stitch(index: int) -> Made:
        made = quilt(parts, np.random.default_rng([seed, index]))
        return torch.from_numpy(made.image).reshape(shape), torch.from_numpy(made.mask)

    return stitch


def blur_gains(real: PairFolder, drawn: PairFolder) -> Tensor:
    """Find how much weaker waves are in generated images than in real ones.

    Args:
        real: Real pairs.
        drawn: Generated pairs, of this size or smaller.

    Returns:
        Amplitude in generated over that in real images, by frequency of up to a cycle
        a pixel, at most 1, of each channel (bins, C) or (bins, T, C).
    """
    size = tuple(drawn[0]['mask'].shape[-2:])
    powers = []
    for folder in (real, drawn):
        images = TileDataset(folder, (size[0], size[1])).spread(_LOOKED_AT).images
        centred = images.double() - images.double().mean((-2, -1), keepdim=True)
        power = torch.fft.fft2(_mirrored(centred)).abs().square().mean(0)
        number = _bin(power.shape[-2:])
        sums = torch.zeros(_BINS, *power.shape[:-2], dtype=power.dtype)
        sums.index_add_(0, number.flatten(), power.flatten(-2).movedim(-1, 0))
        powers.append(sums)
    ratio = powers[1] / powers[0]
    return ratio.where(powers[0] > 0, 1.0).sqrt().clamp(max=1)


def filter_image(image: Tensor, gains: Tensor) -> Tensor:
    """Weaken the waves of an image.

    Args:
        image: Digital numbers (..., H, W).
        gains: From :func:`blur_gains`, (bins, ...).

    Returns:
        The image, its mean unchanged; beyond its rim it is taken as mirrored.
    """
    height, width = image.shape[-2:]
    wide = _mirrored(image.double())
    gain = gains[_bin(wide.shape[-2:])].movedim((0, 1), (-2, -1)).clone()
    gain[..., 0, 0] = 1
    soft: Tensor = torch.fft.ifft2(torch.fft.fft2(wide) * gain).real
    return soft[..., :height, :width].to(image.dtype)


def _mirrored(images: Tensor) -> Tensor:
    """Images (..., 2H, 2W) that go on without a step where they are repeated."""
    wide = torch.cat([images, images.flip(-1)], -1)
    return torch.cat([wide, wide.flip(-2)], -2)


def _bin(size: tuple[int, ...]) -> Tensor:
    """Number of the bin of each frequency (H, W)."""
    rows, columns = (torch.fft.fftfreq(side) for side in size)
    return (torch.hypot(rows[:, None], columns) * _BINS).long()


def border_distance(real: PairFolder, drawn: PairFolder) -> int:
    """Find how far masks must be moved to fit edges as badly as generated ones.

    Args:
        real: Real pairs.
        drawn: Generated pairs.

    Returns:
        Pixels, 0 to 8.
    """
    wanted = _edge_agreement(drawn, 0)
    for distance in range(_FURTHEST):
        if _edge_agreement(real, distance) <= wanted:
            return distance
    return _FURTHEST


def _edge_agreement(pairs: PairFolder, distance: int) -> float:
    agreement = EdgeAgreement(pairs.spec)
    for index in range(min(len(pairs), _LOOKED_AT)):
        sample = pairs[index]
        mask = move_mask(sample['mask'], distance, index)
        agreement.update(sample['image'][None], mask[None])
    return float(agreement.compute()['auc'])


def move_mask(mask: Tensor, distance: int, direction: int) -> Tensor:
    """Move a mask; what enters mirrors its border.

    Args:
        mask: Class positions (H, W) or (1, H, W).
        distance: Pixels, less than a side.
        direction: To the right, down, left or up: the remainder by 4.

    Returns:
        The mask (H, W).
    """
    turned = mask.reshape(mask.shape[-2:]).rot90(direction)
    wide = pad(turned[None].double(), (distance, 0), mode='reflect')[0]
    return wide[:, : turned.shape[1]].long().rot90(-direction)
