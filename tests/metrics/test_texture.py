# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from experiments.faults import (
    add_noise,
    average_blocks,
    keep_components,
    randomise_phases,
)
from torchgeo_specdm.metrics.features import (
    Extractor,
    Features,
    RandomFeatures,
    band_planes,
)
from torchgeo_specdm.metrics.fidelity import compare_features
from torchgeo_specdm.metrics.texture import TextureFeatures

#: Bound of the light "looks real".
REAL = 1.5


def distance(
    extractor: Extractor, real: Tensor, others: Tensor, other: Tensor
) -> float:
    """Frechet distance over the larger of floor and held-out."""
    mean, std = real.mean((0, 2, 3)), real.std((0, 2, 3))
    sides = (
        Features(extractor(band_planes(x, mean, std)), torch.arange(len(x)))
        for x in (real, other, others)
    )
    found = compare_features(*sides, repeats=3)['frechet']
    return found['value'] / max(found['floor'], found['held_out'])


@pytest.mark.parametrize(
    'plant',
    [
        lambda x: gaussian_blur(x, 7, 1.0),
        average_blocks,
        lambda x: keep_components(x, x, 3),
        add_noise,
        randomise_phases,
    ],
    ids=['blur', 'blocks', 'components', 'noise', 'phases'],
)
def test_sees_what_random_features_do_not(
    scenes: Tensor, plant: Callable[[Tensor], Tensor]
) -> None:
    real, others = scenes[:80], scenes[80:]
    texture, random = TextureFeatures(10), RandomFeatures(10)
    assert distance(texture, real, others, plant(others)) > 2 * REAL
    assert distance(random, real, others, plant(others)) < REAL


def test_real_images_pass(scenes: Tensor) -> None:
    real, others = scenes[:80], scenes[80:]
    for half in (others[::2], others[1::2]):
        assert distance(TextureFeatures(10), real, others, half) < REAL


def test_brightness_and_sign_change_nothing() -> None:
    planes = torch.randn(3, 2, 32, 32)
    found = TextureFeatures(2)(planes)
    assert found.shape == (3, TextureFeatures(2).num_features)
    for same in (planes + 4, -planes):
        torch.testing.assert_close(TextureFeatures(2)(same), found, atol=1e-5, rtol=0)


def test_what_is_missing_is_left_out() -> None:
    planes = torch.randn(3, 2, 32, 32)
    planes[0, :, :, 16:] = torch.nan
    planes[1] = torch.nan
    found = TextureFeatures(2)(planes)
    torch.testing.assert_close(found[:1], TextureFeatures(2)(planes[:1, ..., :16]))
    assert found[1].isnan().all() and found[2].isfinite().all()


def test_a_wave_by_hand() -> None:
    """Columns of 1 and -1: straight steps across of 2, none along."""
    planes = torch.ones(1, 1, 8, 8)
    planes[..., ::2] = -1
    found = TextureFeatures(1)(planes)[0]
    straight, diagonal, sparsity = found[:3]
    # sizes 2 and 0 straight, 2 and 2 diagonal
    assert float(straight) == pytest.approx((np.log(2) + np.log(1e-4)) / 2, abs=1e-3)
    assert float(diagonal) == pytest.approx(np.log(2) - float(straight), abs=1e-3)
    assert float(sparsity) == pytest.approx(3 / 4, abs=1e-3)


@pytest.mark.parametrize('size', [1, 2, 5, 8])
def test_flat_and_small_images_have_finite_features(size: int) -> None:
    for planes in (torch.zeros(2, 3, size, size), torch.randn(2, 3, size, size)):
        found = TextureFeatures(3)(planes)
        assert found.shape == (2, TextureFeatures(3).num_features)
        assert found.isfinite().all()
