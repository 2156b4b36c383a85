# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.metrics.sharpness import Sharpness, compare_sharpness

SPEC = SampleSpec(('B02', 'B03', 'B04'), ('water', 'land'))


def fields(count: int, seed: int = 0, sigma: float = 2.0) -> Tensor:
    """Smooth fields with a little noise, whole digital numbers."""
    random = torch.Generator().manual_seed(seed)
    coarse = gaussian_blur(torch.randn(count, 3, 40, 40, generator=random), 13, sigma)
    noise = torch.randn(count, 3, 40, 40, generator=random)
    return (1000 + 2000 * coarse + 20 * noise).round()


def sharpness(images: Tensor, spec: SampleSpec = SPEC) -> Tensor:
    metric = Sharpness(spec)
    metric.update(images)
    return metric.compute()


def test_by_hand() -> None:
    # a parabola along the columns: second difference 2, central difference 4x
    image = torch.arange(6.0).square().expand(1, 3, 5, 6)
    found = sharpness(image)
    assert found.shape == (1, 3)
    torch.testing.assert_close(found, torch.full((1, 3), 2 / 10).double())


def test_blur_and_noise_show_and_light_does_not() -> None:
    real, other = sharpness(fields(20)), fields(20, seed=1)
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(0))

    def ratio(images: Tensor) -> float:
        return float(compare_sharpness(real, sharpness(images)).mean())

    assert ratio(other) == pytest.approx(1, abs=0.05)
    assert ratio(1.3 * other + 500) == pytest.approx(ratio(other))
    assert ratio(gaussian_blur(other, 5, 0.7)) < 0.75
    assert ratio(other + 40 * noise) > 1.3


def test_bands_count_apart() -> None:
    images = fields(8)
    changed = images.clone()
    changed[:, 1] = gaussian_blur(images[:, 1:2], 5, 1.0)[:, 0]
    ratios = compare_sharpness(sharpness(images), sharpness(changed))
    assert ratios[0] == ratios[2] == 1 and ratios[1] < 0.7


def test_batches_and_processes_add_up() -> None:
    images = fields(9)
    parts = [Sharpness(SPEC) for _ in range(2)]
    parts[0].update(images[:2])
    parts[0].update(images[2:5])
    parts[1].update(images[5:])
    parts[0].merge_state(parts[1])
    assert torch.equal(parts[0].compute(), sharpness(images))


def test_dates_count_apart() -> None:
    spec = SampleSpec(SPEC.bands, ('no change', 'change'), dates=2)
    first = fields(4)
    images = torch.stack([first, gaussian_blur(first, 5, 1.0)], 1)
    found = sharpness(images, spec)
    assert found.shape == (2, 3)
    assert torch.equal(found[:1], sharpness(first))
    assert (found[1] < 0.7 * found[0]).all()


def test_missing_pixels_do_not_count() -> None:
    spec = SampleSpec(SPEC.bands, SPEC.classes, nodata=0)
    images = fields(4)
    holed = images.clone()
    holed[:, :, 10:14, 20:30] = 0
    ratios = compare_sharpness(sharpness(images), sharpness(holed, spec))
    torch.testing.assert_close(ratios, torch.ones(3).double(), atol=0.05, rtol=0)
    # the seam of the hole would be the sharpest edge
    assert (compare_sharpness(sharpness(images), sharpness(holed)) != ratios).all()


def test_flat_images_have_none() -> None:
    flat = sharpness(torch.ones(2, 3, 8, 8))
    assert flat.isnan().all()
    assert math.isnan(float(compare_sharpness(flat, sharpness(fields(2)))[0]))


def test_other_bands_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r'shape \(2, 4, 8, 8\) must be \(B, 3, H, W\)'
    ):
        Sharpness(SPEC).update(torch.zeros(2, 4, 8, 8))
