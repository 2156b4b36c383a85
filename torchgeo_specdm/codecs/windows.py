# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks for patches of one size, applied to scenes of any larger size."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import torch
from torch import Tensor

#: Windows that go through a network at a time, whatever the size of the scene.
_AT_ONCE = 16


def in_windows(
    network: Callable[..., Tensor],
    wholes: Sequence[Tensor],
    window: tuple[int, int] | None = None,
    unit: int = 1,
    conditions: Sequence[Tensor] = (),
) -> Tensor:
    """Apply a network to overlapping windows, and fuse what it returns.

    Windows overlap by half, and each counts less towards its rim, where a network has
    seen half of the surroundings, by a squared sine. A linear fall leaves seams
    (docs/notes/diffusion.md). A denoiser that is fused at each of its steps draws
    one seamless scene in this way (MultiDiffusion, arXiv 2302.08113): all windows go on
    from the same noisy latent, so where they overlap they differ little.

    A sample is never put together with others of its batch, so it does not depend on
    them, and memory grows by no more than the result.

    Args:
        network: From windows (N, ..., h, w) of each whole, and the conditions of their
            samples, to (N, D, h', w'), where h' and w' may be larger or smaller.
        wholes: Tensors (B, ..., H, W) of one height and width.
        window: Height and width that the network is made for, at most those of the
            wholes. If they are equal, or this is None, the batch goes through as it is.
        unit: Windows begin at multiples of this, for networks that make cells smaller.
        conditions: Tensors (B, ...) that are not cut into windows.

    Returns:
        What the network returns for the wholes (B, D, H', W').
    """
    height, width = wholes[0].shape[-2:]
    if window is None or window == (height, width):
        return network(*wholes, *conditions)
    starts = (
        window_starts(height, window[0], unit),
        window_starts(width, window[1], unit),
    )
    fused: Tensor | None = None
    for sample in range(len(wholes[0])):
        for corners in _chunks([*product(*starts)]):
            places = _places(corners, window)
            cut = [torch.stack([w[sample][place] for place in places]) for w in wholes]
            own = [c[sample].expand(len(corners), *c.shape[1:]) for c in conditions]
            parts = network(*cut, *own).float()
            # cells are larger or smaller than those that went in
            size = parts.shape[-2:]
            factor = Fraction(size[0], window[0])
            if fused is None:
                whole = [int(side * factor) for side in (height, width)]
                fused = parts.new_zeros(len(wholes[0]), parts.shape[1], *whole)
            weighted = parts * _shares(size[0])[:, None].to(parts)
            weighted *= _shares(size[1]).to(parts)
            corners = [(int(y * factor), int(x * factor)) for y, x in corners]
            for place, part in zip(_places(corners, size), weighted, strict=True):
                fused[sample][place] += part
    assert fused is not None
    # in place, and one side after the other: a scene may fill much of the memory
    fused /= _sums(starts[0], size[0], factor)[:, None].to(fused)
    fused /= _sums(starts[1], size[1], factor).to(fused)
    return fused


def window_starts(length: int, window: int, unit: int = 1) -> list[int]:
    """Where windows that overlap by half begin along one side.

    Args:
        length: Size of the whole, a multiple of *unit*.
        window: Size of a window, a multiple of *unit* and at most *length*.
        unit: Each start is a multiple of this.

    Returns:
        Starts from 0; the last window ends with the whole, and overlaps the one before
        it by more than half where it has to.
    """
    step = max(window // unit // 2, 1) * unit
    return [*range(0, length - window, step), length - window]


def _shares(side: int) -> Tensor:
    """Weight of a window's rows or columns: a squared sine, above 0."""
    return torch.sin(math.pi * (torch.arange(side) + 0.5) / side).square()


def _sums(starts: Sequence[int], side: int, factor: Fraction) -> Tensor:
    """Sum of the weights of all windows in each row or column of the whole."""
    sums = torch.zeros(int(starts[-1] * factor) + side)
    for start in starts:
        first = int(start * factor)
        sums[first : first + side] += _shares(side)
    return sums


def _places(
    corners: Sequence[tuple[int, int]], size: Sequence[int]
) -> list[tuple[Any, slice, slice]]:
    """Windows as indices of tensors (..., H, W)."""
    return [(..., slice(y, y + size[0]), slice(x, x + size[1])) for y, x in corners]


def _chunks(corners: Sequence[tuple[int, int]]) -> list[Sequence[tuple[int, int]]]:
    return [corners[i : i + _AT_ONCE] for i in range(0, len(corners), _AT_ONCE)]
