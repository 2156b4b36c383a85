# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Procedural scenes with two dates and a mask of change: a demo and a test bed.

As in :mod:`.scenes` nothing was measured. A place is looked at on two days of different
years. Season, sun, haze, the crops on the fields and the level of the water differ too,
but labelled is only what a map of change would hold: what was built, dug or felled.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from ..bands import TEN_BANDS
from ..pairs.spec import SampleSpec
from ..philox import philox
from .land import (
    COVERS,
    MINIMUM_UNIT,
    Blocks,
    Field,
    Ids,
    Land,
    Look,
    Mask,
    Where,
    blur,
    build,
    lay_out,
    noise,
    render,
)

# Changes planned for a scene of 64 x 64 pixels (some find no place), and the share of
# scenes of any size in which nobody plans anything.
_USUAL = 2.2
_CALM = 0.2
# What passes into another kind is change: 0 farmed land, marsh and water, which come
# and go with the year; 1 woods; 2 roads, houses and their yards; 3 quarries.
_KINDS = {'deciduous_wood': 1, 'coniferous_wood': 1, 'quarry': 3}
_KINDS |= {'road': 2, 'building': 2, 'garden': 2}
_KIND = np.array([_KINDS.get(name, 0) for name in COVERS])
_BARE_SOIL, _GRASSLAND, _WETLAND, _WATER = map(
    COVERS.index, ('bare_soil', 'grassland', 'wetland', 'water')
)
_ROAD, _BUILDING, _QUARRY, _GARDEN = map(
    COVERS.index, ('road', 'building', 'quarry', 'garden')
)
_FARMED = [COVERS.index('orchard'), _GRASSLAND, *range(_BARE_SOIL + 1)]
#: Crops of another year on a parcel, with bare soil and some land left to grass.
_CROPS = {'cereals': 0.3, 'maize': 0.2, 'rapeseed': 0.1}
_CROPS |= {'bare_soil': 0.32, 'grassland': 0.08}


@dataclass
class _Site:
    """A place while people work on it; arrays are (size, size) and changed in place."""

    rng: Generator
    at: Blocks
    cover: Ids
    parcels: Ids

    @property
    def farmed(self) -> Where:
        return np.isin(self.cover, _FARMED)

    @property
    def wooded(self) -> Where:
        return np.asarray(_KIND[self.cover] == 1)

    def pick(self, weight: Field) -> tuple[int, int]:
        """Row and column of a pixel chosen by weight; any if all weigh nothing."""
        total = weight.cumsum()
        spot = np.searchsorted(total, self.rng.random() * total[-1], 'right')
        row, col = divmod(min(int(spot), weight.size - 1), len(weight))
        return row, col

    def rectangle(self, spot: tuple[int, int], wide: float, long: float) -> Where:
        """Along the fields of one block, around a pixel."""
        at = self.at
        inside = (np.abs(at.across - at.across[spot]) < wide / 2) & (
            np.abs(at.along - at.along[spot]) < long / 2
        )
        return np.asarray(inside & (at.own == at.own[spot]))

    def take(self, where: Where, cover: int) -> None:
        """Make one new parcel with one cover; new parcels have negative numbers."""
        self.cover[where] = cover
        self.parcels[where] = min(self.parcels.min(), -1) - 1


def change_spec() -> SampleSpec:
    """Describe the scenes of :func:`make_change_scene`.

    Returns:
        Two dates of ten Sentinel-2 bands in digital numbers (reflectance times 10000).
    """
    return SampleSpec(
        TEN_BANDS,
        ('no change', 'change'),
        dates=2,
        scale=1e-4,
        dtype='uint16',
        colors=((30, 34, 42), (255, 196, 0)),
    )


def make_change_scene(
    seed: int, index: int, size: int = 64
) -> tuple[NDArray[np.uint16], Mask]:
    """Make one labelled scene with two dates, which depends on the arguments alone.

    The first date shows the place of ``make_scene(seed, index, size, hard=True)``.

    Args:
        seed: Another seed is another part of the world, 0 or more.
        index: Number of the scene, 0 or more.
        size: Width and height in pixels of 10 m, at least 16.

    Returns:
        The images, (2, 10, size, size) digital numbers in 1..65535, and the mask,
        (size, size), 1 where the second date shows a change and 0 elsewhere.

    Raises:
        ValueError: If the size is below 16.
    """
    # The first counter is that of the places in scenes, the second their air.
    place, first, second, years = (Generator(philox(seed, index, i)) for i in range(4))
    lands = develop(years, lay_out(place, size, True))
    # From March to the middle of October, 40 days or more apart.
    day = years.uniform(0, 230)
    days = 60 + day, 60 + (day + years.uniform(40, 190)) % 230
    image = np.stack(
        [
            render(land, _look(air, day), air)
            for air, land, day in zip((first, second), lands, days, strict=True)
        ]
    )
    return image, lands[1].labels


def develop(rng: Generator, land: Land) -> tuple[Land, Land]:
    """Let some years pass over a place.

    Args:
        rng: Source of all that happens.
        land: The place.

    Returns:
        The place at the first and at the second date. The labels of both are the mask
        of change between the covers, whose parts have :data:`.scenes.MINIMUM_UNIT`
        pixels or more.
    """
    first = land.cover.copy(), land.parcels.copy()
    second = _rotate(rng, land), land.parcels.copy()
    site = _Site(rng, land.blocks, second[0].copy(), second[1].copy())
    # The edge of a small scene cuts some off, so the number grows less than the area.
    number = rng.poisson(_USUAL * (len(land.cover) / 64) ** 1.75)
    number *= rng.random() > _CALM
    for choice in rng.choice(len(_WORKS), number, p=[share for share, *_ in _WORKS]):
        _, find, work = _WORKS[choice]
        lot = find(site)
        if lot.any():
            work(site, lot)
    change = _without_small(_KIND[site.cover] != _KIND[land.cover])
    second[0][change], second[1][change] = site.cover[change], site.parcels[change]
    # The level of the water is low at one of the dates.
    low = (first, second)[rng.integers(2)]
    shore = _shore(rng, land) & (low[0] == _WATER)
    low[0][shore], low[1][shore] = _BARE_SOIL, min(second[1].min(), 0) - 1
    return _name_parcels(rng, land, first, second, change.astype(np.uint8))


def _look(rng: Generator, day: float) -> Look:
    """A morning at 50 degrees north."""
    elevation = 38 + 23 * np.sin(2 * np.pi * (day - 81) / 365)
    azimuth, haze = rng.uniform((140, 0), (165, 0.03))
    return Look(day, azimuth, elevation, haze)


def _rotate(rng: Generator, land: Land) -> Ids:
    """The covers of another year: other crops, a little grassland ploughed."""
    total = land.parcels.max() + 1
    share = np.array([*_CROPS.values()])
    crops = np.array([COVERS.index(name) for name in _CROPS])
    crop = rng.choice(crops, total, p=share)[land.parcels]
    fate = rng.random(total)[land.parcels]
    turned = (land.cover <= _BARE_SOIL) & (fate < rng.uniform(0.6, 1.0))
    turned |= (land.cover == _GRASSLAND) & (fate < 0.2)
    return np.where(turned, crop, land.cover)


def _shore(rng: Generator, land: Land) -> Where:
    """Pixels that fall dry at low water: up to two pixels wide, but no marsh."""
    wet = np.isin(land.cover, (_WATER, _WETLAND, _ROAD)).astype(float)
    level = blur(wet, 1.2) + 0.05 * noise(rng, len(wet), 6)
    return np.asarray((land.cover == _WATER) & (level < rng.uniform(0.4, 0.8)))


def _without_small(change: Where) -> Where:
    """Leave out parts below the minimum unit; parts touch along edges."""
    parts, _ = ndimage.label(change)
    return np.asarray(change & (np.bincount(parts.ravel())[parts] >= MINIMUM_UNIT))


def _name_parcels(
    rng: Generator,
    land: Land,
    first: tuple[Ids, Ids],
    second: tuple[Ids, Ids],
    change: Mask,
) -> tuple[Land, Land]:
    """Number the new parcels behind the old ones and give them habits."""
    parcels = np.stack([first[1], second[1]])
    new, old = parcels < 0, land.habits.shape[1]
    names, numbers = np.unique(parcels[new], return_inverse=True)
    parcels[new] = old + numbers
    habits = np.hstack([land.habits, rng.standard_normal((6, len(names)))])
    # Roofs and trees stay as they are, but no two years are alike on fields and water.
    yearly = np.unique(land.parcels[_KIND[land.cover] == 0])
    later = habits.copy()
    later[:, yearly] *= 0.6
    later[:, yearly] += 0.8 * rng.standard_normal((6, len(yearly)))
    return (
        replace(land, labels=change, cover=first[0], parcels=parcels[0], habits=habits),
        replace(land, labels=change, cover=second[0], parcels=parcels[1], habits=later),
    )


def _parcel(site: _Site) -> Where:
    """A field, or a piece of a long one: rather beside houses, or along a lane."""
    _, numbers, sizes = np.unique(site.parcels, return_inverse=True, return_counts=True)
    extent = sizes[numbers.reshape(site.parcels.shape)]
    town = np.isin(site.cover, (_BUILDING, _GARDEN)).astype(float)
    near = blur(town, 5) + 0.1 * np.exp(-site.at.lane / 4) + 0.002
    spot = site.pick(near * (site.farmed & (extent >= 40)))
    piece = site.rectangle(spot, np.inf, site.rng.uniform(14, 28))
    piece &= site.farmed & (site.parcels == site.parcels[spot])
    return piece


def _roadside(site: _Site) -> Where:
    """A yard of its own on farmed land, where there is a lane beside it."""
    beside: Field = np.exp(-((site.at.lane / 4 - 1) ** 2))
    spot = site.pick((beside + 1e-3) * site.farmed)
    return site.rectangle(spot, *site.rng.uniform(6, 10, 2)) & site.farmed


def _stand(site: _Site) -> Where:
    """A piece of a wood with straight edges."""
    wide, long = site.rng.uniform((7, 10), (13, 20))
    return (
        site.rectangle(site.pick(site.wooded.astype(float)), wide, long) & site.wooded
    )


def _pit(site: _Site) -> Where:
    """A round piece of farmed land or wood, away from houses."""
    at, open_land = site.at, site.farmed | site.wooded
    spot = site.pick(blur(open_land.astype(float), 5) ** 4 * open_land)
    away = np.hypot(at.x - at.x[spot], at.y - at.y[spot])
    away += 1.2 * noise(site.rng, len(away), 5)
    return np.asarray(open_land & (away < site.rng.uniform(5, 9)))


def _course(site: _Site) -> Where:
    """The course of a road through the land, on which fewest houses stand."""
    at, rng = site.at, site.rng
    closed = np.isin(site.cover, (_BUILDING, _GARDEN, _QUARRY))
    y, x = at.y - at.y.mean(), at.x - at.x.mean()
    courses = []
    for turn in rng.uniform(0, np.pi, 6):
        line = y * np.cos(turn) - x * np.sin(turn) + rng.uniform(-0.3, 0.3) * len(y)
        courses.append(np.abs(line) < 1.3)
    hindered = closed | (site.cover == _WATER)
    best = min(courses, key=lambda course: int((course & hindered).sum()))
    return np.asarray(best & ~closed & (site.cover != _ROAD))


def _estate(site: _Site, lot: Where) -> None:
    """Streets, gardens and houses, from a street at the edge of the lot on."""
    across, along = (v - v[lot].min() for v in (site.at.across, site.at.along))
    at = site.at._replace(across=across, along=along)
    build(site.rng, at, lot, site.cover, site.parcels)


def _hall(site: _Site, lot: Where) -> None:
    """One house or hall in a yard."""
    yard = site.rng.choice((_ROAD, _GARDEN))
    hall = lot.copy()
    for value in (site.at.across, site.at.along):
        low, high = site.rng.uniform((0.05, 0.7), (0.25, 0.95))
        low, high = np.quantile(value[lot], (low, high))
        hall &= (value > low) & (value < high)
    site.take(lot, yard)
    site.take(hall, _BUILDING)


def _fell(site: _Site, lot: Where) -> None:
    site.take(lot, site.rng.choice((_BARE_SOIL, _GRASSLAND)))


def _dig(site: _Site, lot: Where) -> None:
    site.take(lot, _QUARRY)


def _pave(site: _Site, lot: Where) -> None:
    site.take(lot, _ROAD)


#: Share of the works, where they take place, and what they do there.
_WORKS: tuple[
    tuple[float, Callable[[_Site], Where], Callable[[_Site, Where], None]], ...
] = (
    (0.30, _parcel, _estate),
    (0.20, _parcel, _hall),
    (0.14, _roadside, _hall),
    (0.21, _stand, _fell),
    (0.05, _stand, _estate),
    (0.05, _pit, _dig),
    (0.05, _course, _pave),
)
