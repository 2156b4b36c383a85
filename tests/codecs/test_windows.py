# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from torchgeo_specdm.codecs.windows import in_windows, window_starts
from torchgeo_specdm.metrics.stitching import seam_strength


@pytest.mark.parametrize(
    ('length', 'window', 'unit', 'starts'),
    [
        (8, 8, 1, [0]),
        (9, 8, 1, [0, 1]),
        (16, 8, 1, [0, 4, 8]),
        (18, 8, 1, [0, 4, 8, 10]),
        # cells of 4 pixels: half of a window of 12 is no multiple
        (32, 12, 4, [0, 4, 8, 12, 16, 20]),
        (3, 1, 1, [0, 1, 2]),
    ],
)
def test_window_starts(length: int, window: int, unit: int, starts: list[int]) -> None:
    assert window_starts(length, window, unit) == starts
    assert all(start % unit == 0 for start in starts)


class TestFusion:
    @pytest.mark.parametrize('size', [(8, 12), (16, 12), (20, 28), (44, 60)])
    @pytest.mark.parametrize(
        'network',
        [
            torch.sin,
            lambda x: avg_pool2d(x, 4),
            lambda x: interpolate(x, scale_factor=2.0),
        ],
    )
    def test_of_what_does_not_look_around_is_exact(
        self, network: Callable[[Tensor], Tensor], size: tuple[int, int]
    ) -> None:
        torch.manual_seed(0)
        whole = torch.randn(2, 3, *size)
        fused = in_windows(network, [whole], (8, 12), 4)
        torch.testing.assert_close(fused, network(whole))

    def test_windows_are_few_at_a_time_and_of_one_size(self) -> None:
        seen = []

        def network(image: Tensor, mask: Tensor, time: Tensor) -> Tensor:
            assert mask.shape == (len(image), 8, 8)
            assert time.shape == (len(image), 2)
            seen.append(image.shape)
            return image + mask[:, None] + time[:, :1, None, None]

        image, mask = torch.rand(2, 3, 100, 40), torch.rand(2, 100, 40)
        time = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
        fused = in_windows(network, [image, mask], (8, 8), conditions=[time])
        wanted = image + mask[:, None] + time[:, :1, None, None]
        torch.testing.assert_close(fused, wanted)
        assert max(shape[0] for shape in seen) == 16
        assert {shape[1:] for shape in seen} == {(3, 8, 8)}

    def test_no_seam_is_left_of_blind_rims(self) -> None:
        def network(image: Tensor) -> Tensor:
            # dark where it has seen no surroundings, as at padded convolutions
            return avg_pool2d(image + 0.5, 5, 1, 2)

        random = torch.Generator().manual_seed(0)
        whole = torch.randn(1, 3, 256, 192, generator=random)
        fused = in_windows(network, [whole], (16, 16))[0]
        borders = ([*range(8, 256, 8)], [*range(8, 192, 8)])
        assert seam_strength(fused, borders) == pytest.approx(1, abs=0.05)
        tiles = rearrange(whole, '1 c (r h) (s w) -> (r s) c h w', h=16, w=16)
        tiles = rearrange(network(tiles), '(r s) c h w -> c (r h) (s w)', r=16)
        assert seam_strength(tiles, borders) > 1.3
