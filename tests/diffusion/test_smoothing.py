# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch import Tensor

from torchgeo_specdm.diffusion.smoothing import (
    boundary_share,
    find_passes,
    smooth_masks,
)


def fields() -> Tensor:
    """Masks (4, 32, 32) of three classes with straight borders."""
    rows, columns = torch.arange(32)[:, None] // 11, torch.arange(32) // 11
    return ((rows + columns + torch.arange(4)[:, None, None]) % 3).long()


def speckled(share: float) -> Tensor:
    """The same with pixels of other classes, by lot."""
    random = torch.Generator().manual_seed(0)
    masks = fields()
    other = torch.rand(masks.shape, generator=random) < share
    return masks.where(~other, (masks + 1) % 3)


class TestSmoothMasks:
    def test_takes_what_most_neighbours_have(self) -> None:
        mask = torch.tensor([[0, 0, 0, 2], [0, 1, 2, 2], [0, 0, 2, 2]])
        wanted = torch.tensor([[0, 0, 0, 2], [0, 0, 2, 2], [0, 0, 2, 2]])
        assert smooth_masks(mask, 3, 1).tolist() == wanted.tolist()
        assert smooth_masks(mask, 3, 0).equal(mask)

    def test_fewer_votes_change_nothing(self) -> None:
        # four of nine are of the other class
        board = (torch.arange(6)[:, None] + torch.arange(6)) % 2
        assert smooth_masks(board, 2, 1)[1:-1, 1:-1].equal(board[1:-1, 1:-1])

    def test_keeps_shape_and_type(self) -> None:
        masks = speckled(0.1)[:, None]
        smooth = smooth_masks(masks, 3, 2)
        assert smooth.shape == masks.shape and smooth.dtype == masks.dtype
        assert smooth[1].equal(smooth_masks(masks[1:2], 3, 2)[0])

    def test_takes_speckles_away_and_leaves_borders(self) -> None:
        wrong = (speckled(0.1) != fields()).float().mean()
        left = (smooth_masks(speckled(0.1), 3, 1) != fields()).float().mean()
        assert left < wrong / 3


class TestBoundaryShare:
    def test_counts_pairs_of_labels(self) -> None:
        # four of seven pairs have two labels; one of these is a boundary
        mask = torch.tensor([[0, 0, -1], [0, 1, 255]])
        assert boundary_share(mask, 2) == pytest.approx(2 / 4)
        assert boundary_share(torch.zeros(2, 5, 5), 1) == 0

    def test_nothing_is_known(self) -> None:
        assert math.isnan(boundary_share(torch.full((3, 3), -1), 2))


class TestFindPasses:
    @pytest.mark.parametrize('share', [0.0, 0.02])
    def test_leaves_what_is_as_real(self, share: float) -> None:
        assert find_passes(speckled(share), [speckled(share)], 3) == 0

    def test_smooths_until_it_is_as_real(self) -> None:
        passes = find_passes(speckled(0.2), [fields(), fields()], 3)
        assert passes > 0
        smooth = boundary_share(smooth_masks(speckled(0.2), 3, passes), 3)
        rough = boundary_share(speckled(0.2), 3)
        real = boundary_share(fields(), 3)
        assert abs(smooth - real) < 0.2 * (rough - real)

    def test_masks_without_labels_do_not_count(self) -> None:
        unlabelled = torch.full((1, 32, 32), -1)
        assert find_passes(speckled(0.2), [unlabelled], 3) == 0
        some = find_passes(speckled(0.2), [unlabelled, fields()], 3)
        assert some == find_passes(speckled(0.2), [fields()], 3) > 0
