# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from torchgeo_specdm.datamodules.support.retrieval import nearest_images


class Images(NonGeoDataset):
    def __init__(self, *images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'image': self.images[index]}


def image(seed: int, level: float = 0.0, grain: float = 1.0, side: int = 24) -> Tensor:
    """Three bands of a level, with pixels that differ by a grain."""
    noise = torch.randn(3, side, side, generator=torch.manual_seed(seed))
    return 1000 + 100 * level + 20 * grain * noise


LABELLED = Images(*(image(i, level=i % 2) for i in range(6)))


class TestNearestImages:
    def test_are_those_of_a_like_spectrum(self) -> None:
        many = Images(image(10, 9), image(11, 0), image(12, -7), image(13, 1))
        assert nearest_images(LABELLED, many, 2) == [1, 3]
        assert nearest_images(LABELLED, many, 3) == [1, 2, 3]

    def test_are_those_of_a_like_texture(self) -> None:
        many = Images(image(10, grain=0), image(11), image(12, grain=9))
        assert nearest_images(LABELLED, many, 1) == [1]

    def test_one_like_sample_is_enough(self) -> None:
        labelled = Images(*(image(i, level=20 * (i == 0)) for i in range(9)))
        # far from most, but not from one of them
        assert nearest_images(labelled, Images(image(20, 9), image(21, 20)), 1) == [1]

    def test_may_have_another_size(self) -> None:
        many = Images(image(10, 9, side=64), image(11, side=64))
        assert nearest_images(LABELLED, many, 1) == [1]

    def test_missing_pixels_do_not_count(self) -> None:
        hole, empty = image(10), torch.full((3, 24, 24), torch.nan)
        hole[:, :8] = torch.nan
        many = Images(empty, image(11, 2), hole)
        assert nearest_images(LABELLED, many, 1) == [2]
        assert nearest_images(LABELLED, many, 2) == [1, 2]

    def test_images_too_small_come_last(self) -> None:
        many = Images(image(10, side=5), image(11, 2))
        assert nearest_images(LABELLED, many, 1) == [1]

    @pytest.mark.parametrize('side', [5, 24])
    def test_labelled_samples_must_be_known(self, side: int) -> None:
        holes = image(10, side=side)
        holes[:, ::6, ::2] = torch.nan
        with pytest.raises(ValueError, match='none of the labelled samples has one'):
            nearest_images(Images(holes, holes), LABELLED, 2)

    def test_dates_are_compared_in_their_order(self) -> None:
        def dates(seed: int, *levels: float) -> Tensor:
            return torch.stack([image(seed + i, x) for i, x in enumerate(levels)])

        labelled = Images(*(dates(9 * i, 0, 5) for i in range(4)))
        many = Images(dates(50, 5, 0), dates(60, 0, 5), dates(70, 5, 5))
        assert nearest_images(labelled, many, 1) == [1]

    @pytest.mark.parametrize('count', [0, 4])
    def test_count(self, count: int) -> None:
        with pytest.raises(ValueError, match=f'nearest={count} must be at least 1 and'):
            nearest_images(LABELLED, Images(*(image(i) for i in range(3))), count)
