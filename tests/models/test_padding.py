# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_specdm.models.padding import pad_to_32


class TestPadTo32:
    @pytest.mark.parametrize('lead', [(2, 3), (2, 2, 3), (1, 1, 2, 1)])
    @pytest.mark.parametrize(
        'size, padded', [((5, 7), (32, 32)), ((1, 1), (32, 32)), ((33, 64), (64, 64))]
    )
    def test_repeats_the_last_row_and_column(
        self, lead: tuple[int, ...], size: tuple[int, int], padded: tuple[int, int]
    ) -> None:
        image = torch.rand(*lead, *size)
        found = pad_to_32(image)
        rows = torch.arange(padded[0]).clamp(max=size[0] - 1)
        columns = torch.arange(padded[1]).clamp(max=size[1] - 1)
        assert found.shape == (*lead, *padded)
        assert torch.equal(found, image[..., rows[:, None], columns])

    def test_multiples_are_returned_as_they_are(self) -> None:
        image = torch.rand(1, 2, 3, 32, 64)
        assert pad_to_32(image) is image
