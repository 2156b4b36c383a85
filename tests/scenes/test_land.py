# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from torchgeo_specdm.bands import TEN_BANDS
from torchgeo_specdm.scenes.land import (
    MINIMUM_UNIT,
    Look,
    lay_out,
    make_scene,
    render,
    scene_spec,
)

RED, NEAR_INFRARED, SHORT_WAVE = (TEN_BANDS.index(b) for b in ('B04', 'B08', 'B11'))
NUMBER = 60
#: Scene 0 of seed 0: mean digital number of each band, pixels of each class.
MEANS = [706.5, 931.3, 753.3, 2712.7, 964.4, 2016.5, 2638.9, 2728.2, 1901.6, 1423.6]
COUNTS = [687, 507, 1387, 451, 321, 743]


@cache
def pixels(seed: int, hard: bool = False) -> tuple[NDArray, NDArray]:
    """Spectra (10, n) as reflectance and masks (scenes, 64, 64) of many scenes."""
    scenes = [make_scene(seed, index, 64, hard) for index in range(NUMBER)]
    image = np.stack([image for image, _ in scenes], 1)
    return image.reshape(10, -1) * 1e-4, np.stack([mask for _, mask in scenes])


def class_of(name: str, hard: bool = False) -> int:
    return scene_spec(hard).classes.index(name)


def part_sizes(mask: NDArray) -> list[int]:
    """Sizes of 4-connected parts, by flooding: slow, but nothing of the source."""
    left, sizes = set(np.ndindex(mask.shape)), []
    while left:
        todo, sizes = [left.pop()], [*sizes, 0]
        while todo:
            row, col = todo.pop()
            sizes[-1] += 1
            for near in (
                (row + 1, col),
                (row - 1, col),
                (row, col + 1),
                (row, col - 1),
            ):
                if near in left and mask[near] == mask[row, col]:
                    left.remove(near)
                    todo.append(near)
    return sizes


def nearest_mean_accuracy(hard: bool) -> float:
    """Share of right pixels of one seed, with class means of another."""
    image, masks = pixels(0, hard)
    classes = range(scene_spec(hard).num_classes)
    means = [image[:, masks.ravel() == k].mean(1) for k in classes]
    image, masks = pixels(1, hard)
    away = np.stack([((image - mean[:, None]) ** 2).sum(0) for mean in means])
    return float((away.argmin(0) == masks.ravel()).mean())


class TestSceneSpec:
    @pytest.mark.parametrize(('hard', 'classes'), [(False, 6), (True, 13)])
    def test_spec(self, hard: bool, classes: int) -> None:
        spec = scene_spec(hard)
        assert spec.bands == TEN_BANDS
        assert spec.num_classes == len(set(spec.colors)) == classes
        assert (spec.scale, spec.dtype, spec.dates) == (1e-4, 'uint16', 1)


class TestMakeScene:
    @pytest.mark.parametrize('hard', [False, True])
    @pytest.mark.parametrize('size', [16, 50, 64, 128])
    def test_shape_type_and_range(self, size: int, hard: bool) -> None:
        image, mask = make_scene(3, 2, size, hard)
        assert image.shape == (10, size, size)
        assert image.dtype == np.uint16
        assert mask.shape == (size, size)
        assert mask.dtype == np.uint8
        assert image.min() >= 1
        assert image.max() < 15000
        assert mask.max() < scene_spec(hard).num_classes

    def test_same_arguments_same_scene(self) -> None:
        first, again = make_scene(7, 5), make_scene(7, 5)
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])

    @pytest.mark.parametrize('other', [(0, 1), (1, 0), (1, 1), (2**63, 0)])
    def test_other_key_other_place(self, other: tuple[int, int]) -> None:
        image, mask = make_scene(0, 0)
        other_image, other_mask = make_scene(*other)
        assert (mask != other_mask).mean() > 0.3
        assert (image != other_image).mean() > 0.95

    def test_seed_and_index_are_not_exchangeable(self) -> None:
        assert (make_scene(0, 1)[1] != make_scene(1, 0)[1]).mean() > 0.3

    def test_frozen_values(self) -> None:
        # A changed number means that everybody's scenes changed: say so in the notes.
        # The tolerances allow for the last bits of another processor's arithmetic.
        image, mask = make_scene(0, 0)
        np.testing.assert_allclose(image.mean((1, 2)), MEANS, atol=2)
        np.testing.assert_allclose(np.bincount(mask.ravel()), COUNTS, atol=8)

    @pytest.mark.parametrize('hard', [False, True])
    def test_all_classes_appear(self, hard: bool) -> None:
        _, masks = pixels(0, hard)
        shares = np.bincount(masks.ravel()) / masks.size
        assert len(shares) == scene_spec(hard).num_classes
        assert shares.min() > (0.005 if hard else 0.05)
        assert shares.max() < 0.3

    def test_easy_classes_are_in_most_scenes(self) -> None:
        _, masks = pixels(0)
        here = [[(mask == k).mean() > 0.01 for k in range(6)] for mask in masks]
        assert np.mean(here, 0).min() > 0.6

    @pytest.mark.parametrize('hard', [False, True])
    def test_no_small_parts(self, hard: bool) -> None:
        _, masks = pixels(0, hard)
        assert min(min(part_sizes(mask)) for mask in masks[:30]) >= MINIMUM_UNIT

    def test_size_too_small(self) -> None:
        for size in (15, 0, -64):
            with pytest.raises(ValueError, match=f'size={size} must be at least 16'):
                make_scene(0, 0, size)


class TestSpectra:
    def test_vegetation_index(self) -> None:
        image, masks = pixels(0)
        red, infrared = image[RED], image[NEAR_INFRARED]
        index = (infrared - red) / (infrared + red)
        means = {
            name: index[masks.ravel() == class_of(name)].mean()
            for name in scene_spec().classes
        }
        assert means['forest'] > 0.7
        assert means['cropland'] > 0.5
        assert means['grassland'] > 0.5
        assert means['bare soil'] < 0.3
        assert 0.1 < means['built-up'] < 0.5
        assert means['water'] < -0.2
        assert (index[masks.ravel() == class_of('forest')] > 0.5).mean() > 0.95
        assert (index[masks.ravel() == class_of('water')] < 0.1).mean() > 0.85

    def test_shapes_of_the_curves(self) -> None:
        image, masks = pixels(0)
        water, soil, forest = (
            np.median(image[:, masks.ravel() == class_of(name)], 1)
            for name in ('water', 'bare soil', 'forest')
        )
        assert water[SHORT_WAVE] < 0.03
        assert water[NEAR_INFRARED] < 0.03
        visible_to_short_wave = soil[[0, 1, 2, 3, SHORT_WAVE]]
        assert (np.diff(visible_to_short_wave) > 0).all()
        edge = [TEN_BANDS.index(band) for band in ('B04', 'B05', 'B06', 'B07')]
        assert (np.diff(forest[edge]) > 0).all()
        # Leaves are wet: the second short-wave band is the darker one.
        assert forest[-1] < forest[-2] < forest[NEAR_INFRARED]

    @pytest.mark.parametrize(
        ('hard', 'low', 'high'), [(False, 0.60, 0.80), (True, 0.40, 0.60)]
    )
    def test_separable_but_not_perfectly(
        self, hard: bool, low: float, high: float
    ) -> None:
        # Measured: 0.67 easy, 0.49 hard.
        assert low < nearest_mean_accuracy(hard) < high


class TestRender:
    """Two looks at one place: the reason for two functions."""

    def look_at(self, day: float, seed: int = 1) -> NDArray:
        land = lay_out(Generator(Philox(5)), 64, True)
        image = render(land, Look(day, 150, 60, 0.0), Generator(Philox(seed)))
        return image.astype(float)

    def test_layout_does_not_depend_on_the_look(self) -> None:
        first, again = (lay_out(Generator(Philox(5)), 64, True) for _ in range(2))
        np.testing.assert_array_equal(first.labels, again.labels)
        np.testing.assert_array_equal(first.parcels, again.parcels)
        assert first.habits.shape == (6, first.parcels.max() + 1)

    def test_same_day_differs_by_noise_only(self) -> None:
        first, again = self.look_at(160), self.look_at(160, seed=2)
        assert (first != again).mean() > 0.9
        assert np.median(np.abs(first / again - 1)) < 0.1

    def test_cereals_ripen_and_conifers_stay(self) -> None:
        land = lay_out(Generator(Philox(5)), 64, True)
        ratio = self.look_at(205)[RED] / self.look_at(150)[RED]
        cereals = ratio[land.labels == class_of('cereals', True)]
        conifers = ratio[land.labels == class_of('coniferous wood', True)]
        assert np.median(cereals) > 1.5
        assert 0.8 < np.median(conifers) < 1.25

    def test_slopes_towards_the_sun_are_bright(self) -> None:
        land = lay_out(Generator(Philox(5)), 64, False)
        # Falls by 20 m in 100 m to the south, where the image has its last row.
        ramp = np.repeat(-0.2 * np.arange(64.0)[:, None], 64, axis=1)
        land = replace(land, relief=ramp)
        south, north = (
            render(land, Look(160, azimuth, 45, 0.0), Generator(Philox(1)))
            for azimuth in (180, 0)
        )
        assert np.median(south / north) == pytest.approx(1.2 / 0.8, rel=0.1)

    def test_haze_brightens_blue_most(self) -> None:
        land = lay_out(Generator(Philox(5)), 64, False)
        clear, hazy = (
            render(land, Look(160, 150, 60, haze), Generator(Philox(1))).mean((1, 2))
            for haze in (0.0, 0.02)
        )
        added = hazy - clear
        assert 150 < added[0] < 250
        assert added[0] > added[1] > added[2] > added[3] > added[-1] > 0
