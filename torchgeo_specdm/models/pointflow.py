# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Point flow: a coarse map passes on what it knows, at a few points only."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: How many points flow: in proportion to the map, or as published whatever its size.
Points: TypeAlias = Literal['scaled', 'paper']

#: Channels in which two maps are compared, cells on each side for the best and for the
#: mean certainty, and points at edges (docs/notes/networks.md).
_MATCH = 64
_REGIONS = 14
_MEANS = 9
_EDGES = 128


class PointFlow(nn.Module):
    """Mix points of a coarse map into a fine one (Li et al. 2021).

    Two sets of points are chosen on the coarse map: where its own edge logits are
    highest, and where both maps match best, one in each cell of a grid. Each point of
    the fine map then takes in the coarse points of its set by attention, without
    learned projections or scaling. All other pixels of the fine map stay as they are;
    where a point is in both sets, the match counts.

    The choice has no gradient: edge logits learn from a loss of their own, the
    certainty of a match from the features that it scales. Source:
    docs/notes/networks.md.
    """

    def __init__(self, width: int, points: Points = 'scaled') -> None:
        """Initialize a new PointFlow instance.

        Args:
            width: Channels of both maps.
            points: ``'scaled'`` or ``'paper'`` (see :func:`point_counts`).
        """
        super().__init__()
        self.points = points
        self.coarse_match = nn.Conv2d(width, _MATCH, 1)
        self.fine_match = nn.Conv2d(width, _MATCH, 1)
        self.certainty = nn.Conv2d(2 * _MATCH, 1, 3, padding=1)
        self.edge = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 1, 3, padding=1, bias=False),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Let the points of a coarse map flow into a fine one.

        Args:
            coarse: Float (B, D, h, w).
            fine: Float (B, D, 2h, 2w).

        Returns:
            The fine map with its points replaced, and the edge logits of the coarse
            map, (B, 1, h, w).
        """
        grid = coarse.shape[-2:]
        regions, means, edge_points = point_counts(grid[0], grid[1], self.points)
        matches = [self.coarse_match(coarse), self.fine_match(resize(fine, grid))]
        certainty = self.certainty(torch.cat(matches, dim=1)).sigmoid()

        smooth = F.adaptive_avg_pool2d(certainty, means)
        edges: Tensor = self.edge(coarse * (1 - resize(smooth, grid)))
        chosen = edges.flatten(1).topk(edge_points).indices
        # what reading the fine map at the centres of the coarse pixels gives
        halved = F.avg_pool2d(fine, 2)
        flowed = _write(fine, chosen, _flow(coarse, halved, chosen))

        best, matched = F.adaptive_max_pool2d(certainty, regions, return_indices=True)
        salient = coarse * (1 + resize(best, grid))
        matched = matched.flatten(1)
        corners = fine[..., ::2, ::2]
        return _write(flowed, matched, _flow(salient, corners, matched)), edges


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps bilinearly with their corners aligned, as PFSegNet does throughout.

    Args:
        features: Float (B, D, h, w).
        size: Height and width to resize to.

    Returns:
        Float (B, D, height, width).
    """
    return F.interpolate(features, tuple(size), mode='bilinear', align_corners=True)


def point_counts(height: int, width: int, points: Points) -> tuple[int, int, int]:
    """Count the points that flow from a coarse map.

    ``'paper'`` is 14, 9 and 128 (at most all pixels), made for images of 896 pixels. On
    the maps of 128 pixels that is every pixel of the two coarsest and half of the
    third: no choice is left. ``'scaled'`` takes at most a quarter of the pixels as
    matches and a quarter as edges: 2, 2, 4 on 4 x 4 pixels, 4, 4, 16 on 8 x 8, and 8,
    8, 64 on 16 x 16. From 28 x 28, images of 896 pixels, both are the same.

    Args:
        height: Height of the coarse map.
        width: Width of the coarse map.
        points: ``'scaled'`` or ``'paper'``.

    Returns:
        Cells on each side of the grid for the best match, cells on each side for the
        mean certainty, and points at edges; each at least 1.
    """
    area = height * width
    if points == 'paper':
        return _REGIONS, _MEANS, min(_EDGES, area)
    side = max(1, min(height, width) // 2)
    return min(_REGIONS, side), min(_MEANS, side), min(_EDGES, max(1, area // 4))


def _flow(coarse: Tensor, fine: Tensor, points: Tensor) -> Tensor:
    """The new fine points, (B, P, D), of two maps of the same size."""
    source, target = _read(coarse, points), _read(fine, points)
    # sums in float32 also in half precision, where unscaled products overflow
    mixed = F.scaled_dot_product_attention(target, source, source, scale=1.0)
    return mixed + target


def _read(features: Tensor, points: Tensor) -> Tensor:
    """Features (B, P, D) of a map (B, D, h, w) at points (B, P), row by row."""
    index = points[:, None].expand(-1, features.shape[1], -1)
    return features.flatten(2).gather(2, index).mT


def _write(fine: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """Replace the top left of the 2 x 2 pixels of each coarse point."""
    width = fine.shape[-1]
    rows, columns = points // (width // 2), points % (width // 2)
    index = (2 * rows * width + 2 * columns)[:, None].expand(-1, fine.shape[1], -1)
    return fine.flatten(2).scatter(2, index, values.mT.to(fine.dtype)).view_as(fine)
