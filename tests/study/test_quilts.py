# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest

from torchgeo_specdm.scenes.land import make_scene
from torchgeo_specdm.study.quilts import Pair, quilt


@pytest.fixture(scope='module')
def scenes() -> list[Pair]:
    made = [make_scene(0, index, 32) for index in range(12)]
    return [
        Pair(image.astype(np.float32), mask.astype(np.int64)) for image, mask in made
    ]


def colours(pair: Pair) -> set[tuple[float, ...]]:
    """All pixels of a pair with their labels."""
    labelled = np.concatenate([pair.image, pair.mask[None]])
    return {tuple(pixel) for pixel in labelled.reshape(len(labelled), -1).T}


def test_every_pixel_is_a_real_one_with_its_label(scenes: list[Pair]) -> None:
    real = set().union(*map(colours, scenes))
    made = [quilt(scenes, np.random.default_rng(seed)) for seed in range(3)]
    for pair in made:
        assert pair.image.shape == scenes[0].image.shape
        assert pair.mask.shape == scenes[0].mask.shape
        assert colours(pair) <= real
        # of several pairs
        sources = [len(colours(pair) & colours(scene)) for scene in scenes]
        assert sum(count > 20 for count in sources) > 2
    assert not np.array_equal(made[0].image, made[1].image)


def test_the_same_seed_gives_the_same_quilt(scenes: list[Pair]) -> None:
    first, second = (quilt(scenes, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)


def test_seams_run_where_pairs_are_alike() -> None:
    """Halves of two colours fit only where their borders meet."""
    mask = np.zeros((24, 24), np.int64)
    mask[:, 12:] = 1
    image = np.stack([100.0 * mask, 50 - 10.0 * mask]).astype(np.float32)
    pairs = [Pair(image, mask)] * 3
    made = quilt(pairs, np.random.default_rng(0))
    np.testing.assert_array_equal(made.image[0], 100 * made.mask)
    # at random, the blocks would not fit together
    changes = np.count_nonzero(np.diff(made.mask)) + np.count_nonzero(
        np.diff(made.mask, axis=0)
    )
    assert changes < 24 * 5


@pytest.mark.parametrize('shape', [(5, 5), (17, 40), (64, 33)])
def test_any_size_is_covered(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    pairs = [
        Pair(
            random.uniform(1, 2, (3, *shape)).astype(np.float32), np.full(shape, number)
        )
        for number in (3, 4)
    ]
    made = quilt(pairs, random)
    assert made.image.min() >= 1 and set(np.unique(made.mask)) <= {3, 4}
