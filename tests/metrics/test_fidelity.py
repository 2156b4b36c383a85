# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from torchgeo_specdm.metrics import fidelity
from torchgeo_specdm.metrics.features import (
    Features,
    RandomFeatures,
    band_planes,
    mask_planes,
)
from torchgeo_specdm.metrics.fidelity import (
    compare_features,
    frechet_distance,
    kernel_distance,
    neighbour_scores,
)
from torchgeo_specdm.scenes.land import make_scene


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


class TestKernelDistance:
    def test_agrees_with_the_definition(self) -> None:
        first, second = correlated(7, 3, 1), correlated(9, 3, 2)

        def kernel(a: Tensor, b: Tensor) -> float:
            return (float(a @ b) / 3 + 1) ** 3

        own = [
            np.mean([kernel(a, b) for a in x for b in x if a is not b])
            for x in (list(first), list(second))
        ]
        between = np.mean([kernel(a, b) for a in first for b in second])
        expected = own[0] + own[1] - 2 * between
        assert kernel_distance(first, second).value == pytest.approx(expected)

    def test_halves_of_one_set_are_at_zero_on_average(self) -> None:
        found = [kernel_distance(*draw(2, 60, seed)) for seed in range(60)]
        values = np.array([x.value for x in found])
        # unbiased, so on both sides of zero
        assert 15 < (values < 0).sum() < 50
        assert abs(values.mean()) < 3 * values.std() / 60**0.5
        # subsets are of half of the samples, so they vary more
        assert 0.7 * values.std() < np.mean([x.std for x in found]) < 4 * values.std()

    def test_a_shift_is_far(self) -> None:
        first, second = draw(2, 60, 0)
        value, std = kernel_distance(first, second + 1)
        assert value > 4 * std > 0

    def test_refuses_a_single_sample(self) -> None:
        with pytest.raises(ValueError, match=r'1 and 5 samples.*two or more'):
            kernel_distance(torch.rand(1, 3), torch.rand(5, 3))


class TestNeighbourScores:
    def test_on_a_line(self) -> None:
        # samples at 0..9: the ball of one at an end reaches 5 far, in the middle 3
        real = torch.arange(10.0, dtype=torch.float64)[:, None]
        # 20 is in no ball, 12.5 in that of 8 (4) or 9 (5), 4.5 in all but 0 and 9
        other = torch.tensor([4.5, 12.5, 20, 20, 20, 20, 20, 20], dtype=torch.float64)
        found = neighbour_scores(real, other[:, None])
        radii = [5, 4, 3, 3, 3, 3, 3, 3, 4, 5]
        balls = [
            sum(abs(y - x) <= r for x, r in enumerate(radii)) for y in other.tolist()
        ]
        assert found['precision'] == 2 / 8
        assert found['density'] == pytest.approx(sum(balls) / 8 / 5)
        assert found['coverage'] == np.mean(
            [any(abs(y - x) <= r for y in other) for x, r in enumerate(radii)]
        )
        # the ball of 4.5 reaches 15.5 to the others, those of 20 reach nothing
        assert found['recall'] == 1

    def test_too_few_samples_have_no_neighbours(self) -> None:
        found = neighbour_scores(torch.rand(5, 2), torch.rand(9, 2))
        assert len(found) == 4 and all(np.isnan(x) for x in found.values())


def draw(sets: int, samples: int, seed: int) -> tuple[Tensor, ...]:
    """Sets of white samples of eight features."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sets, samples, 8, generator=generator, dtype=torch.float64)
    return x.unbind()


def of_places(values: Tensor, each: int = 4) -> Features:
    return Features(values, torch.arange(len(values)) // each)


class TestCompareFeatures:
    def test_equal_sets_are_at_the_floor(self) -> None:
        real, held_out, fake = draw(3, 400, 0)
        found = compare_features(
            of_places(real), of_places(fake), of_places(held_out), of_places(held_out)
        )
        assert found.pop('samples') == 200
        for name, row in found.items():
            if name != 'kernel':
                assert row['value'] == pytest.approx(row['floor'], rel=0.35)
            # what is the same in both is picked alike
            assert row['held_out'] == row['reconstructed']
        kernel = found['kernel']
        assert abs(kernel['value']) < 2 * kernel['std']
        assert abs(kernel['floor']) < 2 * kernel['std']
        assert all(isinstance(x, float) for row in found.values() for x in row.values())

    def test_what_is_not_given_is_left_out(self) -> None:
        real, fake = draw(2, 40, 0)
        found = compare_features(of_places(real), of_places(fake), repeats=2)
        assert found.pop('samples') == 20
        assert found.pop('kernel').keys() == {'value', 'floor', 'std'}
        names = ['frechet', 'precision', 'recall', 'density', 'coverage']
        assert list(found) == names
        assert all(row.keys() == {'value', 'floor'} for row in found.values())

    def test_a_collapsed_set(self) -> None:
        real, fake = draw(2, 400, 0)
        fake = real.mean(0) + 0.01 * fake
        found = compare_features(of_places(real), of_places(fake), repeats=3)
        assert found['precision']['value'] == 1
        assert found['recall']['value'] < 0.01 and found['recall']['floor'] > 0.5
        assert found['coverage']['value'] < 0.5 and found['coverage']['floor'] > 0.9
        assert found['frechet']['value'] > 3 * found['frechet']['floor']

    def test_a_collapse_onto_one_sample(self) -> None:
        real, fake = draw(2, 400, 0)
        fake = real[7] + 0.01 * fake
        found = compare_features(of_places(real), of_places(fake), repeats=3)
        assert found['recall']['value'] < 0.01
        assert found['coverage']['value'] < 0.1

    def test_a_shifted_set(self) -> None:
        real, fake = draw(2, 400, 0)
        found = compare_features(of_places(real), of_places(fake + 5), repeats=3)
        assert found['precision']['value'] == found['coverage']['value'] == 0
        assert found['precision']['floor'] > 0.5
        assert found['kernel']['value'] > 10 * found['kernel']['std']

    def test_units_do_not_matter(self) -> None:
        real, fake, held_out = draw(3, 80, 0)
        fake = fake + 0.5
        stretch = torch.tensor([1, 10, 1e3, 1, 1e-3, 5, 1, 2])
        rows = [
            compare_features(
                *(of_places(x * k + k) for x in (real, fake, held_out)), repeats=2
            )
            for k in (torch.ones(8), stretch)
        ]
        for name in ('frechet', 'kernel', 'density'):
            assert rows[0][name] == pytest.approx(rows[1][name])

    def test_a_feature_without_spread_does_not_explode(self) -> None:
        real, fake = draw(2, 80, 0)
        real[:, 1] = 7
        found = compare_features(of_places(real), of_places(fake), repeats=2)
        assert found['frechet']['value'] < 1e3

    def test_all_sides_have_the_same_count(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counts = set()

        def record(first: Tensor, second: Tensor) -> dict[str, float]:
            counts.update({len(first), len(second)})
            return {'kernel': 0, 'kernel_std': 0}

        monkeypatch.setattr(fidelity, '_compare', record)
        real, fake, few = draw(3, 80, 0)
        # places of very different size, so that halves differ
        places = torch.tensor([0] * 40 + [1] * 20 + [2] * 10 + [3] * 10)
        uneven = Features(real, places)
        found = compare_features(uneven, of_places(fake), repeats=20)
        assert counts == {found['samples']} == {20}
        counts.clear()
        found = compare_features(
            uneven, of_places(fake), of_places(few[:30]), of_places(few[:9])
        )
        assert counts == {found['samples']} == {9}

    def test_samples_of_a_place_stay_on_one_side(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sides: list[list[set[float]]] = []

        def record(first: Tensor, second: Tensor) -> dict[str, float]:
            sides.append([set(x[:, 0].tolist()) for x in (first, second)])
            return {'kernel': 0, 'kernel_std': 0}

        monkeypatch.setattr(fidelity, '_compare', record)
        places = torch.arange(10).repeat_interleave(6)
        # the feature of a sample tells its place
        real = Features(2.0 * places[:, None], places)
        fake = Features(torch.full((60, 1), 999.0), torch.zeros(60, dtype=torch.int64))
        # as if constant, so that it is not scaled
        monkeypatch.setattr(fidelity, '_LEAST_STD', 1e9)
        compare_features(real, fake, repeats=6)
        floors = [pair for pair in sides if len(pair[1]) > 1]
        for half, other in floors:
            assert len(half) == len(other) == 5 and not half & other
        assert len(floors) == 6
        assert len({frozenset(half) for half, _ in floors}) > 3

    def test_codec_alone_tells_reconstructions_from_held_out(self) -> None:
        real, fake, held_out = draw(3, 200, 0)
        blurred = Features(0.7 * held_out, torch.arange(200) // 4)
        found = compare_features(
            of_places(real), of_places(fake), of_places(held_out), blurred
        )
        row = found['frechet']
        assert row['reconstructed'] > 1.3 * row['held_out']
        assert row['held_out'] == pytest.approx(row['floor'], rel=0.2)
        assert found['recall']['reconstructed'] < found['recall']['held_out']

    def test_one_place_or_one_sample_tells_nothing(self) -> None:
        real, fake = (of_places(x) for x in draw(2, 40, 0))
        place = compare_features(Features(*(x[:4] for x in real)), fake)
        sample = compare_features(real, Features(*(x[:1] for x in fake)))
        assert (place.pop('samples'), sample.pop('samples')) == (0, 1)
        for row in (*place.values(), *sample.values()):
            assert np.isnan([*row.values()]).all()


def distance(real: Features, other: Features) -> Any:
    # halves of so few scenes differ by chance
    return compare_features(real, other, repeats=30)['frechet']


def image_features(images: Tensor, mean: Tensor, std: Tensor) -> Features:
    """Each image is a place of its own."""
    values = RandomFeatures(images.shape[1])(band_planes(images, mean, std))
    return of_places(values, each=1)


def mask_features(masks: Tensor, num_classes: int) -> Features:
    values = RandomFeatures(num_classes)(mask_planes(masks, num_classes))
    return of_places(values, each=1)


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
            distance(features, image_features(x, mean, std))
            for x in (fake, SPOILED[how](fake))
        )
        assert good['value'] < 1.5 * good['floor']
        assert bad['floor'] == good['floor']
        assert bad['value'] > 1.2 * good['value']

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
            distance(features, mask_features(x, 6)) for x in (fake, spoiled[how])
        )
        assert good['value'] < 1.5 * good['floor']
        assert bad['value'] > 1.2 * good['value']

    def test_all_numbers_see_swapped_bands(self, scenes: tuple[Tensor, Tensor]) -> None:
        images, _ = scenes
        real, held_out = images[:60], images[60:]
        mean, std = real.mean((0, 2, 3)), real.std((0, 2, 3))
        train, good, swapped = (
            image_features(x, mean, std) for x in (real, held_out, held_out.roll(1, 1))
        )
        found = compare_features(train, swapped, good)
        assert found['samples'] == 30
        row = found['frechet']
        assert row['value'] > 2 * row['held_out'] and row['value'] > 2 * row['floor']
        assert row['held_out'] < 1.5 * row['floor']
        row = found['kernel']
        assert row['value'] > row['std'] > abs(row['held_out'])
        for name in ('precision', 'density', 'coverage'):
            row = found[name]
            assert row['value'] < 0.7 * min(row['held_out'], row['floor'])

    def test_blur_is_hardly_noticed(self, scenes: tuple[Tensor, Tensor]) -> None:
        # why the report shows these distances with pictures only
        images, _ = scenes
        mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
        real = image_features(images[:50], mean, std)
        blurred = avg_pool2d(images[50:], 5, 1, 2, count_include_pad=False)
        sharp, soft = (
            distance(real, image_features(x, mean, std))['value']
            for x in (images[50:], blurred)
        )
        assert 1.02 < soft / sharp < 1.6


def test_frozen_value() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(60, 4, 16, 16, generator=random)
    masks = torch.randint(3, (60, 16, 16), generator=random)
    features = (
        image_features(images, torch.zeros(4), torch.ones(4)),
        mask_features(masks, 3),
    )
    values = [frechet_distance(x.values[:30], x.values[30:]) for x in features]
    assert values == pytest.approx([11.88809, 1.511851], rel=1e-4)
