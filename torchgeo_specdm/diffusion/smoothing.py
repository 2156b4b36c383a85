# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Masks with as many boundaries as real ones have."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

#: Passes that are tried at the most.
_MOST_PASSES = 12


def smooth_masks(masks: Tensor, num_classes: int, passes: int) -> Tensor:
    """Give each pixel the class that most of its 3 x 3 neighbours have.

    Args:
        masks: Class positions (..., H, W), integer.
        num_classes: Number of classes.
        passes: Number of times; 0 changes nothing.

    Returns:
        Masks of the same shape and type. Where classes are as frequent as that of the
        pixel, it keeps its own.
    """
    planes = masks.reshape(-1, 1, *masks.shape[-2:])
    for _ in range(passes):
        best, most = planes, torch.zeros_like(planes, dtype=torch.float32)
        # one class after the other: a scene may fill much of the memory
        for position in range(num_classes):
            own = (planes == position).float()
            # whole numbers, and half a vote more for the pixel's own class
            around = pad(own, (1, 1, 1, 1), mode='replicate')
            votes = avg_pool2d(around, 3, 1, divisor_override=1) + own / 2
            best = best.where(votes <= most, position)
            most = most.maximum(votes)
        planes = best
    return planes.reshape(masks.shape)


def boundary_share(masks: Tensor, num_classes: int) -> float:
    """Share of neighbouring pixels that are of two classes.

    Args:
        masks: Class positions (..., H, W); other values are no label.
        num_classes: Number of classes.

    Returns:
        From 0 to 1, over pairs of pixels that both have a label; NaN without any.
    """
    known = (masks >= 0) & (masks < num_classes)
    pairs = boundaries = 0
    for first, second in (
        ((..., slice(1, None), slice(None)), (..., slice(-1), slice(None))),
        ((..., slice(1, None)), (..., slice(-1))),
    ):
        both = known[first] & known[second]
        pairs += int(both.sum())
        boundaries += int((both & (masks[first] != masks[second])).sum())
    return boundaries / pairs if pairs else float('nan')


def find_passes(drawn: Tensor, real: Sequence[Tensor], num_classes: int) -> int:
    """Passes of :func:`smooth_masks` that bring drawn masks nearest to real ones.

    Args:
        drawn: Class positions (N, H, W).
        real: Class positions (..., H, W), with or without labels, one or more.
        num_classes: Number of classes.

    Returns:
        The number of passes after which the share of boundaries is nearest to the mean
        of real masks, and 0 if no real mask has a label.
    """
    shares = torch.tensor([boundary_share(mask, num_classes) for mask in real])
    wanted = float(shares.nanmean())
    apart = [abs(boundary_share(drawn, num_classes) - wanted)]
    for _ in range(_MOST_PASSES):
        drawn = smooth_masks(drawn, num_classes, 1)
        apart.append(abs(boundary_share(drawn, num_classes) - wanted))
    # the first of equals, and NaN is never the least
    return min(range(len(apart)), key=lambda passes: apart[passes])
