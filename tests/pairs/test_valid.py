# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch

from torchgeo_specdm.pairs.valid import fill_missing, labelled_pixels


def test_a_label_is_the_position_of_a_class() -> None:
    masks = torch.tensor([[-1, 0, 2, 3, 255]])
    wanted = [[False, True, True, False, False]]
    assert labelled_pixels(masks, 3).tolist() == wanted
    assert labelled_pixels(masks.numpy(), 3).tolist() == wanted


class TestFillMissing:
    @pytest.mark.parametrize(
        'shape', [(16, 16), (3, 9, 13), (2, 3, 4, 1, 7), (2, 5, 1), (4, 1, 1)]
    )
    def test_valid_values_stay_and_nothing_is_missing(
        self, shape: tuple[int, ...]
    ) -> None:
        torch.manual_seed(0)
        whole = torch.randn(shape)
        lost = torch.rand(shape) < 0.4
        filled = fill_missing(whole.where(~lost, torch.nan))
        assert filled.shape == shape and bool(filled.isfinite().all())
        assert torch.equal(filled[~lost], whole[~lost])

    @pytest.mark.parametrize('side', [1, 7, 20])
    def test_holes_go_on_with_what_lies_around(self, side: int) -> None:
        planes = torch.stack(
            [torch.full((32, 32), 3.0), torch.arange(32.0).repeat(32, 1)]
        )
        # another plane does not take part
        planes = torch.stack([planes, -planes])
        holed = planes.clone()
        holed[..., 6 : 6 + side, 6 : 6 + side] = torch.nan
        apart = (fill_missing(holed) - planes).abs()
        assert float(apart[:, 0].max()) < 1e-5
        # the ramp rises by 1 a pixel
        assert float(apart[:, 1].max()) <= 1 + side / 4

    def test_of_nothing_is_zero(self) -> None:
        planes = torch.stack([torch.full((8, 8), torch.nan), torch.ones(8, 8)])
        filled = fill_missing(planes)
        assert bool((filled[0] == 0).all()) and bool((filled[1] == 1).all())

    def test_what_is_infinite_is_not_hidden(self) -> None:
        planes = torch.tensor([[1.0, math.inf, math.nan, 2.0]])
        assert bool(fill_missing(planes)[0, 1].isinf())
