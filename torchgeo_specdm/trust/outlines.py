# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Maps of what a patch shows by which its place is found again."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..pairs.spec import SampleSpec
from ..pairs.valid import labelled_pixels

#: Side in pixels of what gradients are compared with, to make dim land count as much.
_AROUND = 9


def edges(image: Tensor, factor: int) -> Tensor:
    """Strength of edges relative to what is around, which stays when land changes.

    Args:
        image: Any numbers (C, H, W) or (T, C, H, W), NaN where missing.
        factor: Side of the squares of pixels that are averaged before.

    Returns:
        (T, H / factor, W / factor) in -3..3; 0 where missing.
    """
    dates = image.float().reshape(-1, *image.shape[-3:])
    shown = dates.isfinite().all(1, keepdim=True)
    dates = F.avg_pool2d(torch.where(shown, dates, 0), factor)
    # whoever borders on a missing pixel has no gradient
    missing = F.max_pool2d((~shown).float(), factor)
    known = 1 - F.max_pool2d(missing, 3, 1, 1)
    padded = F.pad(dates, (1, 1, 1, 1), mode='replicate')
    right = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    steps = (right**2 + down**2).sqrt() * known
    tiny = torch.finfo(steps.dtype).tiny
    # each band counts alike, whatever its contrast
    steps = (steps / steps.std((-1, -2), keepdim=True).clamp_min(tiny)).mean(
        1, keepdim=True
    )
    weight = _around(known).clamp_min(tiny)
    mean = _around(steps) / weight
    spread = (_around(steps**2) / weight - mean**2).clamp_min(0).sqrt()
    # far below the spread of the whole, there is nothing but rounding
    least = 1e-3 * steps.std((-1, -2), keepdim=True) + tiny
    relative = (steps - mean) / (spread + least)
    # a bright roof must not outweigh all else
    return (relative.clamp(-3, 3) * known)[:, 0]


def labels(
    mask: Tensor | None, image: Tensor, spec: SampleSpec | None, factor: int
) -> Tensor:
    """Classes of every so-manieth pixel.

    Args:
        mask: (H, W) or (1, H, W); None for none.
        image: Edges (T, h, w) of the image, from :func:`edges`.
        spec: Description of the sample; None if not known: then masks below 0 or of 255
            are no label.
        factor: Pixels from one to the next.

    Returns:
        Class positions (h, w), -1 for no label; nothing but -1 with several dates.
    """
    height, width = image.shape[-2:]
    if mask is None or len(image) > 1:
        return torch.full((height, width), -1)
    mask = mask.reshape(mask.shape[-2:])[::factor, ::factor][:height, :width].long()
    classes = 255 if spec is None else spec.num_classes
    return torch.where(labelled_pixels(mask, classes), mask, -1)


def borders(masks: Tensor) -> Tensor:
    """Where classes border on each other, less what is usual around.

    Args:
        masks: Class positions (N, h, w), -1 for no label.

    Returns:
        (N, 1, h, w); 0 without a label.
    """
    found = torch.zeros(masks.shape)
    for axis in (1, 2):
        size = masks.shape[axis] - 1
        here, beside = masks.narrow(axis, 0, size), masks.narrow(axis, 1, size)
        changes = (here != beside) & (here >= 0) & (beside >= 0)
        found.narrow(axis, 0, size)[changes] = 1
    return (found[:, None] - _around(found[:, None])) * (masks >= 0)[:, None]


def _around(values: Tensor) -> Tensor:
    """Mean over the square around each pixel, (N, 1, h, w)."""
    return F.avg_pool2d(values, _AROUND, 1, _AROUND // 2, count_include_pad=False)
