# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from torchgeo_specdm.datasets.scenes import make_scene
from torchgeo_specdm.metrics import fidelity
from torchgeo_specdm.metrics.fidelity import (
    RandomFeatures,
    distance_with_floor,
    frechet_distance,
    image_features,
    mask_features,
)

#: Features are computed in single precision.
CLOSE: dict[str, float] = {'rtol': 1e-4, 'atol': 1e-5}


def white(samples: int, features: int, seed: int = 0) -> Tensor:
    """Samples whose mean is 0 and whose covariance is the unit matrix, exactly."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    q, _ = torch.linalg.qr(x - x.mean(0))
    return q * (samples - 1) ** 0.5


def correlated(samples: int, features: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    return x @ mix + mix[0]


def by_scipy(first: Tensor, second: Tensor) -> float:
    a, b = (np.cov(x.numpy(), rowvar=False) for x in (first, second))
    shift = (first.mean(0) - second.mean(0)).square().sum().item()
    return shift + float(np.trace(a + b - 2 * np.real(sqrtm(a @ b))))


class TestFrechetDistance:
    def test_two_gaussians_of_one_feature(self) -> None:
        x = white(50, 1)
        assert frechet_distance(3 + 2 * x, 5 * x) == pytest.approx(3**2 + (5 - 2) ** 2)

    def test_two_gaussians_of_common_axes(self) -> None:
        turn, _ = torch.linalg.qr(correlated(4, 4, 0))
        a, b = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 2, 1, 0])
        first = white(60, 4, 1) * a @ turn
        second = white(70, 4, 2) * b @ turn + torch.tensor([0.0, 1, 0, 2])
        expected = 5 + (a - b).square().sum().item()
        assert frechet_distance(first, second) == pytest.approx(expected)

    @pytest.mark.parametrize('samples', [200, 20])
    def test_agrees_with_scipy(self, samples: int) -> None:
        # with 20 samples of 32 features the covariances have no full rank
        first, second = correlated(samples, 32, 1), correlated(samples, 32, 2)
        expected = by_scipy(first, second)
        assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)

    def test_is_a_distance(self) -> None:
        first, second = correlated(40, 8, 1), correlated(40, 8, 2)
        there, back = frechet_distance(first, second), frechet_distance(second, first)
        assert there == pytest.approx(back)
        assert 0 <= frechet_distance(first, first) < 1e-6 < there

    def test_refuses_a_single_sample(self) -> None:
        with pytest.raises(ValueError, match=r'5 and 1 samples.*two or more'):
            frechet_distance(torch.rand(5, 3), torch.rand(1, 3))


class TestDistanceWithFloor:
    def test_tiles_of_a_sample_stay_on_one_side(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        groups = [0] * 5 + [1] * 3 + [2] * 4 + [3] * 4
        # the feature of a tile is the number of its sample
        real = torch.tensor(groups, dtype=torch.float64)[:, None]
        sides: list[tuple[list[float], list[float]]] = []

        def record(first: Tensor, second: Tensor) -> float:
            unscaled = (first * real.std(), second * real.std())
            sides.append(tuple(x.flatten().round().tolist() for x in unscaled))
            return float(len(sides))

        monkeypatch.setattr(fidelity, 'frechet_distance', record)
        found = distance_with_floor(real, torch.full((50, 1), 9.0), groups, repeats=6)
        assert len(sides) == 12
        for (half, fake), (again, other) in zip(sides[::2], sides[1::2], strict=True):
            assert half == again and set(fake) == {9}
            assert len(half) == len(fake) == len(other) >= 7
            assert len({*half} | {*other}) == 4 and not {*half} & {*other}
        assert found.value == pytest.approx(np.mean(range(1, 12, 2)))
        assert found.floor == pytest.approx(np.mean(range(2, 13, 2)))

    def test_equal_distributions_are_at_the_floor(self) -> None:
        real, fake = correlated(200, 6, 1), correlated(400, 6, 1)[200:]
        found = distance_with_floor(real, fake, range(200))
        assert found.value == pytest.approx(found.floor, rel=0.5)
        assert found.samples == 100
        assert found == distance_with_floor(real, fake, range(200))

    def test_scale_of_features_does_not_matter(self) -> None:
        real, fake = correlated(60, 6, 1), correlated(60, 6, 2)
        stretch = torch.tensor([1, 10, 1e3, 1, 1e-3, 5])
        plain = distance_with_floor(real, fake, range(60))
        stretched = distance_with_floor(real * stretch, fake * stretch, range(60))
        assert plain.value == pytest.approx(stretched.value)

    def test_a_feature_without_spread_does_not_explode(self) -> None:
        real, fake = correlated(60, 2, 1), correlated(60, 2, 1) + 0.1
        real[:, 1] = 7
        assert distance_with_floor(real, fake, range(60)).value < 1e3

    def test_few_synthetic_samples_set_the_count(self) -> None:
        real = correlated(60, 2, 1)
        assert distance_with_floor(real, real[:9], range(60)).samples == 9

    def test_refuses_one_sample(self) -> None:
        real = correlated(9, 2, 1)
        with pytest.raises(
            ValueError, match=r'All 9 real tiles.*1 sample.*two or more'
        ):
            distance_with_floor(real, real, [3] * 9)


class TestRandomFeatures:
    def test_are_the_same_whatever_the_global_seed(self) -> None:
        planes = torch.rand(3, 4, 16, 16)
        torch.manual_seed(1)
        first = RandomFeatures(4)(planes)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(first, RandomFeatures(4)(planes))
        assert torch.equal(state, torch.get_rng_state())
        assert first.shape == (3, 64) and first.dtype == torch.float64

    def test_batches_do_not_matter(self) -> None:
        # one more than a batch, so the last one is a single tile
        images = torch.rand(65, 3, 16, 16)
        mean, std = torch.full((3,), 0.5), torch.full((3,), 0.3)
        whole = image_features(images, mean, std)
        each = [image_features(image[None], mean, std) for image in images]
        torch.testing.assert_close(whole, torch.cat(each), **CLOSE)
        masks = torch.randint(3, (65, 16, 16))
        each = [mask_features(mask[None], 3) for mask in masks]
        torch.testing.assert_close(mask_features(masks, 3), torch.cat(each), **CLOSE)

    def test_normalisation_makes_units_equal(self) -> None:
        images = torch.rand(4, 3, 16, 16)
        mean, std = torch.rand(3), torch.rand(3) + 0.5
        a = image_features(images, mean, std)
        b = image_features(images * 10_000, mean * 10_000, std * 10_000)
        torch.testing.assert_close(a, b, **CLOSE)

    def test_pixels_without_a_label_say_nothing(self) -> None:
        nothing = mask_features(torch.full((2, 16, 16), 255), 3)
        assert nothing.abs().max() == 0
        mask = torch.randint(3, (1, 16, 16))
        assert mask_features(mask, 3).abs().max() > 0


@pytest.fixture(scope='module')
def scenes() -> tuple[Tensor, Tensor]:
    """A hundred demo scenes."""
    made = [make_scene(0, i, 32) for i in range(100)]
    images = torch.stack(
        [torch.from_numpy(image.astype(np.float32)) for image, _ in made]
    )
    return images, torch.stack([torch.from_numpy(mask).long() for _, mask in made])


def shuffled(images: Tensor) -> Tensor:
    order = torch.randperm(32 * 32, generator=torch.Generator().manual_seed(0))
    return images.flatten(2)[..., order].reshape(images.shape)


SPOILED = {
    'pixels shuffled': shuffled,
    'blocks of 8 pixels': lambda x: interpolate(avg_pool2d(x, 8), scale_factor=8),
    'bands swapped': lambda x: x.roll(1, 1),
    'darker': lambda x: 0.7 * x,
}


class TestOnScenes:
    @pytest.mark.parametrize('how', SPOILED)
    def test_spoiled_images_are_further_away(
        self, scenes: tuple[Tensor, Tensor], how: str
    ) -> None:
        images, _ = scenes
        real, fake = images[:50], images[50:]
        mean, std = real.mean((0, 2, 3)), real.std((0, 2, 3))
        features = image_features(real, mean, std)
        good, bad = (
            distance_with_floor(features, image_features(x, mean, std), range(50))
            for x in (fake, SPOILED[how](fake))
        )
        assert good.value < 1.5 * good.floor
        assert bad.floor == good.floor
        assert bad.value > 1.3 * good.value

    @pytest.mark.parametrize(
        'how', ['another mix', 'pixels shuffled', 'classes swapped']
    )
    def test_spoiled_masks_are_further_away(
        self, scenes: tuple[Tensor, Tensor], how: str
    ) -> None:
        _, masks = scenes
        real, fake = masks[:50], masks[50:]
        spoiled = {
            # fields become water
            'another mix': fake.where(fake != 0, 3),
            'pixels shuffled': shuffled(fake[:, None])[:, 0],
            'classes swapped': (fake + 1) % 6,
        }
        features = mask_features(real, 6)
        good, bad = (
            distance_with_floor(features, mask_features(x, 6), range(50))
            for x in (fake, spoiled[how])
        )
        assert good.value < 1.5 * good.floor
        assert bad.value > 1.3 * good.value

    def test_blur_is_hardly_noticed(self, scenes: tuple[Tensor, Tensor]) -> None:
        # why the report shows these distances with pictures only
        images, _ = scenes
        mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
        real = image_features(images[:50], mean, std)
        blurred = avg_pool2d(images[50:], 5, 1, 2, count_include_pad=False)
        values = [
            distance_with_floor(real, image_features(x, mean, std), range(50)).value
            for x in (images[50:], blurred)
        ]
        assert 1.02 < values[1] / values[0] < 1.6


def test_frozen_value() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(60, 4, 16, 16, generator=random)
    masks = torch.randint(3, (60, 16, 16), generator=random)
    features = image_features(images, torch.zeros(4), torch.ones(4))
    values = [
        frechet_distance(x[:30], x[30:]) for x in (features, mask_features(masks, 3))
    ]
    assert values == pytest.approx([11.88809, 1.511851], rel=1e-4)
