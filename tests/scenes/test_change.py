# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from functools import cache

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from torchgeo_specdm.bands import TEN_BANDS
from torchgeo_specdm.philox import philox
from torchgeo_specdm.scenes.change import change_spec, develop, make_change_scene
from torchgeo_specdm.scenes.land import COVERS, MINIMUM_UNIT, Land, lay_out

RED, NEAR_INFRARED = (TEN_BANDS.index(band) for band in ('B04', 'B08'))
NUMBER = 200
WOODS = ('deciduous_wood', 'coniferous_wood')
BUILT = ('road', 'building', 'garden')
CROPS = ('cereals', 'maize', 'rapeseed', 'bare_soil')
#: Scene 12 of seed 0: mean digital number of each date and band, pixels of change.
MEANS = [
    [611.1, 803.2, 576.1, 2420.0, 768.6, 1774.3, 2361.8, 2426.6, 1480.2, 936.0],
    [934.9, 1088.6, 1099.9, 1968.2, 1215.7, 1641.3, 1903.5, 1996.5, 1921.1, 1454.5],
]
CHANGED = 242


@cache
def scenes() -> tuple[NDArray, NDArray]:
    """Images (200, 2, 10, 64, 64) as reflectance and masks (200, 64, 64)."""
    made = [make_change_scene(0, index) for index in range(NUMBER)]
    image = np.stack([image for image, _ in made]) * np.float32(1e-4)
    return image, np.stack([mask for _, mask in made])


@cache
def lands(index: int, size: int = 64) -> tuple[Land, Land]:
    """The place of a scene of seed 0 at its two dates."""
    place, years = (Generator(philox(0, index, i)) for i in (0, 3))
    return develop(years, lay_out(place, size, True))


def is_one_of(cover: NDArray, names: tuple[str, ...]) -> NDArray:
    return np.isin(cover, [COVERS.index(name) for name in names])


def difference() -> NDArray:
    """Mean absolute difference of the bands of two dates, (200, 64, 64)."""
    image, _ = scenes()
    return np.abs(image[:, 1] - image[:, 0]).mean(1)


def test_spec() -> None:
    spec = change_spec()
    assert spec.bands == TEN_BANDS
    assert spec.classes == ('no change', 'change')
    assert (spec.scale, spec.dtype, spec.dates) == (1e-4, 'uint16', 2)
    assert len(set(spec.colors)) == 2


class TestMakeChangeScene:
    @pytest.mark.parametrize('size', [16, 32, 50, 256])
    def test_shape_type_and_range(self, size: int) -> None:
        image, mask = make_change_scene(3, 2, size)
        assert image.shape == (2, 10, size, size)
        assert image.dtype == np.uint16
        assert mask.shape == (size, size)
        assert mask.dtype == np.uint8
        assert image.min() >= 1
        assert image.max() < 15000
        assert mask.max() <= 1

    def test_same_arguments_same_scene(self) -> None:
        # among many others or alone
        image, masks = scenes()
        for index in (5, 0):
            alone, mask = make_change_scene(0, index)
            np.testing.assert_array_equal(alone * np.float32(1e-4), image[index])
            np.testing.assert_array_equal(mask, masks[index])

    @pytest.mark.parametrize('other', [(0, 1), (1, 0), (1, 1), (2**63, 0)])
    def test_other_key_other_place(self, other: tuple[int, int]) -> None:
        image, other_image = make_change_scene(0, 0)[0], make_change_scene(*other)[0]
        assert (image != other_image).mean() > 0.95
        near, other_near = image[0, NEAR_INFRARED], other_image[0, NEAR_INFRARED]
        assert abs(np.corrcoef(near.ravel(), other_near.ravel())[0, 1]) < 0.3

    def test_frozen_values(self) -> None:
        # A changed number means that everybody's scenes changed: say so in the notes.
        # The tolerances allow for the last bits of another processor's arithmetic.
        image, mask = make_change_scene(0, 12)
        np.testing.assert_allclose(image.mean((2, 3)), MEANS, atol=2)
        assert mask.sum() == pytest.approx(CHANGED, abs=8)


class TestChange:
    def test_share(self) -> None:
        _, masks = scenes()
        shares = masks.mean((1, 2))
        assert 0.02 < shares.mean() < 0.05
        assert shares.max() < 0.4
        assert 0.2 < (shares == 0).mean() < 0.4

    @pytest.mark.parametrize('size', [32, 128])
    def test_share_does_not_depend_on_the_size(self, size: int) -> None:
        number = 200 * 32**2 // size**2 + 20
        masks = [lands(index, size)[1].labels for index in range(number)]
        assert 0.01 < np.mean(masks) < 0.07

    def test_no_small_parts(self) -> None:
        _, masks = scenes()
        for mask in masks:
            parts, number = ndimage.label(mask)
            sizes = np.bincount(parts.ravel())[1:]
            assert number == 0 or sizes.min() >= MINIMUM_UNIT

    def test_mask_is_where_covers_pass_into_another_kind(self) -> None:
        _, masks = scenes()
        for index in range(40):
            first, second = lands(index)
            change = np.zeros((64, 64), bool)
            for kind in (WOODS, BUILT, ('quarry',)):
                change |= is_one_of(first.cover, kind) != is_one_of(second.cover, kind)
            np.testing.assert_array_equal(masks[index], change)
            np.testing.assert_array_equal(masks[index], first.labels)
            # nothing is torn down, and no wood grows
            assert not is_one_of(first.cover[change], (*BUILT, 'quarry', 'water')).any()
            assert not is_one_of(second.cover[change], WOODS).any()

    def test_all_sorts_of_change_happen(self) -> None:
        pairs = [lands(index) for index in range(NUMBER)]
        first, second = (np.stack([pair[i].cover for pair in pairs]) for i in (0, 1))
        change = np.stack([pair[0].labels for pair in pairs]) == 1
        for name in (*BUILT, 'quarry', 'bare_soil', 'grassland'):
            assert is_one_of(second[change], (name,)).mean() > 0.01, name
        assert 0.1 < is_one_of(first[change], WOODS).mean() < 0.6

    def test_crops_and_water_change_without_a_label(self) -> None:
        first, second = (
            np.stack([lands(index)[i].cover for index in range(NUMBER)]) for i in (0, 1)
        )
        _, masks = scenes()
        still = masks == 0
        field = still & is_one_of(first, CROPS)
        assert 0.4 < (first != second)[field].mean() < 0.8
        assert is_one_of(second[field], (*CROPS, 'grassland', 'water')).all()
        water = is_one_of(first, ('water',)) != is_one_of(second, ('water',))
        assert 0.001 < water[still].mean() < 0.05

    def test_roofs_and_woods_keep_their_looks(self) -> None:
        first, second = lands(12)
        same = (first.labels == 0) & is_one_of(first.cover, (*WOODS, *BUILT))
        habits = [land.habits[:, land.parcels[same]] for land in (first, second)]
        np.testing.assert_array_equal(*habits)


class TestImages:
    def test_no_part_of_a_scene_stays_as_it_was(self) -> None:
        away, (_, masks) = difference(), scenes()
        unchanged = masks.any((1, 2)) == 0
        assert unchanged.sum() > 10
        assert np.median(away, (1, 2)).min() > 0.003
        assert away[unchanged].mean() > 0.015

    def test_change_is_more_than_season_but_no_threshold_finds_it(self) -> None:
        away, (_, masks) = difference(), scenes()
        truth = masks == 1
        assert away[truth].mean() > 1.5 * away[~truth].mean()
        # Measured: F1 0.17, precision 0.10 on average over recall; chance is 0.07, 0.03.
        # The area under the curve is 0.81 because roofs, water and conifers stay.
        hits = truth.ravel()[np.argsort(-away, axis=None)].cumsum()
        f1 = 2 * hits / (np.arange(1, truth.size + 1) + truth.sum())
        assert f1.max() < 0.25

    def test_mask_lies_on_what_was_felled(self) -> None:
        # Needles are dark in the red in every season, and the soil below them is not.
        image, masks = scenes()
        first, second = (
            np.stack([lands(index)[i].cover for index in range(NUMBER)]) for i in (0, 1)
        )
        conifers = is_one_of(first, ('coniferous_wood',))
        bare = is_one_of(second, ('bare_soil',))
        brighter = image[:, 1, RED] - image[:, 0, RED]
        felled = brighter[conifers & bare & (masks == 1)]
        kept = brighter[conifers & (masks == 0)]
        assert len(felled) > 300
        assert np.median(felled) > 0.05
        assert abs(np.median(kept)) < 0.01

    @pytest.mark.parametrize('shift', [(2, 0), (-2, 0), (0, 2), (0, -2)])
    def test_mask_is_not_shifted(self, shift: tuple[int, int]) -> None:
        away, (_, masks) = difference(), scenes()
        moved = np.roll(masks, shift, (1, 2))
        contrast, moved_contrast = (
            away[mask == 1].mean() - away[mask == 0].mean() for mask in (masks, moved)
        )
        assert moved_contrast < 0.9 * contrast
