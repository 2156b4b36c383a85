# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Procedural labelled scenes in the manner of Sentinel-2: a demo and a test bed.

Nothing here was measured: land is laid out from noise, spectra are smooth curves with the
known features of their materials. Use the scenes to try and to test the software, never
as evidence about real land. :func:`lay_out` makes a place (what covers each pixel, of
which parcel it is); :func:`render` looks at it on a day of the year, under a sun and an
atmosphere. One pixel is 10 m.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..bands import SENTINEL2_WAVELENGTHS, TEN_BANDS
from ..pairs.spec import SampleSpec
from ..philox import philox
from .materials import absorb, materials, step

Field = NDArray[np.float64]
Ids = NDArray[np.intp]
Mask = NDArray[np.uint8]
Where = NDArray[np.bool_]

#: Parts of the mask below this many pixels are given to their neighbours.
MINIMUM_UNIT = 9

# What can cover a pixel: the hard classes in order, then gardens (mapped as grassland).
# "to" is the easy class. "early" ("late" from day "turn") hides "ground" by the share
# "full", reached around day "up". The share varies by "vary" between parcels, by "wild"
# and "rows" between pixels; brightness by "grit"; "tall" (in pixels) throws shadows.
_TABLE = """
name            colour early   late    ground  to full  up turn vary wild rows grit tall
cereals         e8c862 crop    straw   soil     0  .92  90  188  .06  .03  .03  .02   .0
maize           f0a030 crop    straw   soil     0  .85 146  262  .07  .03  .06  .03   .1
rapeseed        f6ec3c bloom   crop    soil     0  .94  80  148  .05  .03  .02  .02   .0
bare_soil       a87c58 grass   straw   soil     5  .10  90  190  .07  .04  .03  .03   .0
grassland       a3cc70 grass   straw   soil     1  .84  75  215  .09  .06  .01  .04   .0
orchard         966eaa foliage straw   grass    0  .52 108  295  .10  .07  .18  .06   .2
deciduous_wood  469646 foliage straw   shade    2  .80 112  295  .04  .07  .00  .08  1.2
coniferous_wood 14543c needle  needle  shade    2  .85   0  999  .05  .08  .00  .08  1.4
wetland         6ebab2 reed    straw   turbid   1  .66 118  270  .08  .16  .00  .05   .1
water           3a7cc4 clear   clear   turbid   3  .60   0  999  .28  .03  .00  .02   .0
road            46464c asphalt asphalt gravel   4  .92   0  999  .04  .05  .00  .05   .0
building        cc3636 tile    tile    cement   4  .55   0  999  .42  .10  .00  .14   .4
quarry          d6c8be gravel  gravel  soil     5  .80   0  999  .10  .16  .00  .08   .0
garden          a3cc70 grass   grass   asphalt  1  .74  75  999  .06  .16  .00  .12   .1
"""
_COVER = {k: v for k, *v in zip(*(row.split() for row in _TABLE.strip().splitlines()))}
_NUMBER = {k: np.array(v, float) for k, v in [*_COVER.items()][5:]}
_EASY = {'cropland': 'e2be5c', 'grassland': 'a3cc70', 'forest': '2a6e3e'}
_EASY |= {'water': '3a7cc4', 'built-up': 'cc463e', 'bare soil': 'a87c58'}
#: Names of what can cover a pixel, in the order of their numbers in :attr:`Land.cover`.
COVERS = tuple(_COVER['name'])
_GRASSLAND, _DECIDUOUS, _CONIFEROUS, _WETLAND, _WATER = 4, 6, 7, 8, 9
_ROAD, _BUILDING, _QUARRY, _GARDEN, _EASY_BUILT_UP = 10, 11, 12, 13, 4


class Blocks(NamedTuple):
    """Groups of fields of one direction; arrays (size, size), distances in pixels."""

    x: Field
    y: Field
    own: Ids
    lane: Field  # distance to the nearest lane between two blocks
    across: Field
    along: Field


@dataclass
class Land:
    """One place, whatever the day; arrays are (size, size) where not said otherwise."""

    labels: Mask  #: class of the mask
    cover: Ids  #: row of the table of covers, 0..13, finer than the easy classes
    parcels: Ids  #: number of the parcel, stand, roof or water body, from 0
    blocks: Blocks  #: groups of fields, with the direction of their rows
    relief: Field  #: height of the ground in pixels
    texture: Field  #: (3, size, size) unit normal: crowns, patches, bright soil
    habits: Field  #: (6, parcels) unit normal: how a parcel departs from its cover


class Look(NamedTuple):
    """The circumstances of one image."""

    day: float  #: day of the year, 1..365
    azimuth: float  #: direction of the sun in degrees, clockwise from north
    elevation: float  #: height of the sun above the horizon in degrees, 20..70
    haze: float  #: reflectance that the air adds at 500 nm, 0..0.03


def scene_spec(hard: bool = False) -> SampleSpec:
    """Describe the scenes of :func:`make_scene`.

    Args:
        hard: Thirteen classes with thin roads and small buildings instead of six.

    Returns:
        Ten Sentinel-2 bands in digital numbers (reflectance times 10000).
    """
    palette = dict(zip(_COVER['name'][:-1], _COVER['colour'])) if hard else _EASY
    colors = tuple((r, g, b) for r, g, b in map(bytes.fromhex, palette.values()))
    names = tuple(name.replace('_', ' ') for name in palette)
    return SampleSpec(TEN_BANDS, names, scale=1e-4, dtype='uint16', colors=colors)


def make_scene(
    seed: int, index: int, size: int = 64, hard: bool = False
) -> tuple[NDArray[np.uint16], Mask]:
    """Make one labelled scene, which depends on the arguments alone.

    Args:
        seed: Another seed is another part of the world, 0 or more.
        index: Number of the scene, 0 or more.
        size: Width and height in pixels of 10 m, at least 16.
        hard: Thirteen classes instead of six, see :func:`scene_spec`.

    Returns:
        The image, (10, size, size) digital numbers in 1..65535, and the mask,
        (size, size) class numbers.

    Raises:
        ValueError: If the size is below 16.
    """
    # Two counters, because another look at a place must leave the place as it is.
    place, air = (Generator(philox(seed, index, i)) for i in range(2))
    land = lay_out(place, size, hard)
    # A morning between the middle of May and July, when crops differ most.
    day, azimuth, elevation, haze = air.uniform((135, 140, 50, 0), (200, 165, 64, 0.02))
    return render(land, Look(day, azimuth, elevation, haze), air), land.labels


def lay_out(rng: Generator, size: int, hard: bool) -> Land:
    """Make a place: fields first, then what people and water put over them.

    Args:
        rng: Source of all randomness of the place.
        size: Width and height in pixels.
        hard: Smaller fields, lanes and quarries, and labels of thirteen classes.

    Returns:
        The place, in which no part of the mask is below :data:`MINIMUM_UNIT` pixels.

    Raises:
        ValueError: If the size is below 16.
    """
    if size < 16:
        raise ValueError(
            f'size={size} must be at least 16 pixels, or no parcel fits in a scene. '
            'Use 64, or 256 for a whole village.'
        )
    blocks = _blocks(rng, size)
    cover, fields = _fields(rng, blocks, hard)
    parcels = fields.copy()
    _plant(rng, blocks, cover, parcels)
    if hard and rng.random() < 0.4:
        quarry = _blobs(rng, blocks, 1, 6, 11) < 0
        cover[quarry], parcels[quarry] = _QUARRY, -5
    town = _settle(rng, blocks, fields)
    build(rng, blocks, town, cover, parcels)
    lakes = rng.binomial(2, 0.35) if size < 128 else rng.poisson(size**2 / 130**2)
    river, lake = _river(rng, blocks), _blobs(rng, blocks, lakes, 7, 15)
    wet = 3 * noise(rng, size, 7) + 3 * noise(rng, size, 16)
    marsh = (np.minimum(river, lake) < wet) & ~town
    bridge = (blocks.lane < 1.15) & (lake >= 0) & hard
    layers = (bridge, _ROAD), (lake < 0, _WATER), (river < 0, _WATER), (marsh, _WETLAND)
    # Last first: lanes bridge rivers, not lakes.
    for number, (where, kind) in reversed([*enumerate(layers, 1)]):
        cover[where], parcels[where] = kind, -number
    labels = np.where(cover == _GARDEN, _GRASSLAND, cover).astype(np.uint8)
    if not hard:
        easy = np.where(town & (cover != _WATER), _EASY_BUILT_UP, _NUMBER['to'][cover])
        votes = (easy == np.arange(6)[:, None, None]).astype(float)
        labels = blur(votes, 1.0).argmax(0).astype(np.uint8)
    parcels = np.unique(parcels, return_inverse=True)[1].reshape(size, size)
    fine, patches, broad = (noise(rng, size, scale) for scale in (1.1, 4.5, 28))
    texture = np.stack([fine, patches, 0.5 * patches + 0.8 * broad])
    relief = 0.7 * noise(rng, size, 22)
    habits = rng.standard_normal((6, parcels.max() + 1))
    return Land(_sieve(labels), cover, parcels, blocks, relief, texture, habits)


def _blocks(rng: Generator, size: int) -> Blocks:
    """Cells of about 36 pixels around jittered points."""
    # Start anywhere in a cell, or every scene has its points at the same places.
    y, x = np.mgrid[:size, :size] / 36 + 2 + rng.random((2, 1, 1))
    y, x = (v + noise(rng, size, 28) / 12 + noise(rng, size, 9) / 72 for v in (y, x))
    edge = size // 36 + 6
    points = np.indices((edge, edge)).reshape(2, -1).astype(float)
    points += rng.uniform(0.1, 0.9, points.shape)
    cell = y.astype(np.intp) * edge + x.astype(np.intp)
    cells = np.stack([cell + i * edge + j for i in (-1, 0, 1) for j in (-1, 0, 1)])
    away = np.hypot(*(np.stack([y, x])[:, None] - points[:, cells]))
    order = np.argsort(away, axis=0)[:2]
    own, other = np.take_along_axis(cells, order, 0)
    near, far = np.take_along_axis(away, order, 0)
    lane = 18 * (far**2 - near**2) / np.hypot(*(points[:, own] - points[:, other]))
    # Not every border has a lane; a sum, because both sides must agree.
    lots = rng.random(edge**2)
    lane[lots[own] + lots[other] > 1.1] = np.inf
    turn = rng.uniform(0, np.pi, edge**2)[own]
    y, x, cos, sin = 36 * y, 36 * x, np.cos(turn), np.sin(turn)
    return Blocks(x, y, own, lane, x * cos + y * sin, y * cos - x * sin)


def _fields(rng: Generator, blocks: Blocks, hard: bool) -> tuple[Ids, Ids]:
    """Cut every block into strips and these into parcels with one crop each."""
    total = blocks.own.max() + 1
    wide = rng.uniform(*((5, 12) if hard else (9, 16)), total)[blocks.own]
    strip = blocks.across / wide
    # Makes strips of unequal width; the slope stays positive.
    strip += 0.3 * np.sin(2.4 * strip + 7 * rng.random(total)[blocks.own])
    strips = _number(blocks.own, np.floor(strip))
    total = strips.max() + 1
    long = rng.uniform(*((10, 34) if hard else (16, 40)), total)[strips]
    fields = _number(strips, np.floor(blocks.along / long + rng.random(total)[strips]))
    usual = (20, 15, 11, 14, 28, 12) if hard else (19, 9, 7, 27, 34, 4)
    # Regions differ in what they grow.
    share = np.array(usual) * np.exp(0.5 * rng.standard_normal(6))
    crops = rng.choice(6, fields.max() + 1, p=share / share.sum())
    return crops[fields], fields


def _plant(rng: Generator, blocks: Blocks, cover: Ids, parcels: Ids) -> None:
    """Grow woods that partly keep to parcels, with stands of two kinds."""
    size = len(cover)
    score = sum(w * noise(rng, size, s) for w, s in ((1, 20), (0.35, 6), (0.15, 2.5)))
    score += 0.6 * rng.standard_normal(parcels.max() + 1)[parcels]
    wood = score > np.quantile(score, 1 - rng.uniform(0.08, 0.42))
    kind = noise(rng, size, 16) + 0.5 * noise(rng, size, 5)
    kind += 0.7 * rng.standard_normal(blocks.own.max() + 1)[blocks.own]
    cover[wood] = np.where(kind > 0, _CONIFEROUS, _DECIDUOUS)[wood]
    parcels[wood] = (-10 - 2 * blocks.own - (kind > 0))[wood]


def _river(rng: Generator, blocks: Blocks) -> Field:
    """Distance to a river in pixels, (size, size), negative in the water."""
    size = len(blocks.x)
    if rng.random() < 0.4:
        return np.full((size, size), np.inf)
    turn, shift = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25) * size
    y, x = blocks.y - blocks.y.mean(), blocks.x - blocks.x.mean()
    # A line bent by noise; over its slope the value is a distance.
    line = y * np.cos(turn) - x * np.sin(turn) + shift + 8 * noise(rng, size, 18)
    away = np.abs(line) / np.hypot(*np.gradient(line)).clip(0.6)
    return np.asarray(away - rng.uniform(1.8, 4.2) - 0.5 * noise(rng, size, 12))


def _blobs(rng: Generator, at: Blocks, number: int, low: float, high: float) -> Field:
    """Distance to things of a radius with wavy edges in pixels, negative inside."""
    size = len(at.x)
    away = np.full((size, size), np.inf)
    for _ in range(number):
        row, col = rng.integers(size, size=2)
        far = np.hypot(at.x - at.x[row, col], at.y - at.y[row, col])
        away = np.minimum(away, far - rng.uniform(low, high))
    return away + 0.4 * low * noise(rng, size, 10) + 0.1 * low * noise(rng, size, 4)


def _settle(rng: Generator, blocks: Blocks, fields: Ids) -> Where:
    """Built-up land, (size, size): around centres, further out along the lanes."""
    size = len(fields)
    if rng.random() < 0.15:
        return np.zeros((size, size), bool)
    score = -_blobs(rng, blocks, max(1, round(size**2 / 110**2)), 5, 12) / 14
    score += 0.6 * np.exp(-blocks.lane / 7) + 0.35 * noise(rng, size, 11)
    score += 0.2 * rng.standard_normal(fields.max() + 1)[fields]
    # A large scene shows the country around the village.
    share = rng.uniform(0.06, 0.31) * min(1.0, (96 / size) ** 0.7)
    return np.asarray(score > np.quantile(score, 1 - share))


def build(rng: Generator, at: Blocks, town: Where, cover: Ids, parcels: Ids) -> None:
    """Put gardens, streets and double rows of houses into the town."""
    size = len(town)
    pitch = rng.choice([5.5, 6.0, 6.5, 9.0], at.own.max() + 1)[at.own]
    house, street, roof = at.own, np.zeros_like(town), noise(rng, size, 5) > -1.2
    for value, houses in ((at.across, 2), (at.along, 5)):
        value = value + 0.7 * noise(rng, size, 8)
        start = value // (houses * pitch + 1.8) * houses
        inside = value % (houses * pitch + 1.8) - 1.8
        street |= inside < 0
        house = _number(house, start + inside // pitch)
        half = rng.uniform(0.26, 0.44, house.max() + 1)[house] * pitch
        roof &= np.abs(inside % pitch - pitch / 2) < half
    roof, street = roof & town, street & town
    cover[town], parcels[town] = _GARDEN, (-(10**6) - at.own)[town]
    cover[roof], parcels[roof] = _BUILDING, (-(10**8) - house)[roof]
    cover[street], parcels[street] = _ROAD, -1


def render(land: Land, look: Look, rng: Generator) -> NDArray[np.uint16]:
    """Look at a place.

    Args:
        land: The place.
        look: Day, sun and air.
        rng: Source of what differs between two looks: growth, haze, sensor noise.

    Returns:
        (10, size, size) digital numbers in TEN_BANDS order, reflectance times 10000,
        in 1..65535.
    """
    size = len(land.cover)
    waves = np.array([SENTINEL2_WAVELENGTHS[band] for band in TEN_BANDS])
    image = _reflect(land, look.day + 2 * noise(rng, size, 5), waves)
    down, right = np.gradient(land.relief + blur(_NUMBER['tall'][land.cover], 0.6))
    azimuth, elevation = np.radians(look.azimuth), np.radians(look.elevation)
    # Slopes that fall towards the sun are bright; trees and roofs shade their foot.
    facing = down * np.cos(azimuth) - right * np.sin(azimuth)
    light = (1 + facing / np.tan(elevation)).clip(0.5, 1.3)
    image *= light * (1 + 0.02 * noise(rng, size, 0.6 * size))
    # Light scatters into neighbours; bands of 20 m see twice as far as those of 10 m.
    sharp = np.isin(TEN_BANDS, ('B02', 'B03', 'B04', 'B08'))
    for bands, sigma in ((sharp, 0.55), (~sharp, 0.95)):
        image[bands] = blur(image[bands], sigma)
    veil = look.haze * (1 + 0.2 * noise(rng, size, 0.5 * size)).clip(0)
    image += veil * (500 / waves[:, None, None]) ** 2
    image *= 1 + 0.012 * rng.standard_normal(image.shape)
    image += 0.0012 * rng.standard_normal(image.shape)
    return np.rint(image * 1e4).clip(1, 65535).astype(np.uint16)


def _reflect(land: Land, day: Field, waves: Field) -> Field:
    """Reflectance of every pixel in flat light, (bands, size, size)."""
    habits, (fine, patches, soil) = land.habits[:, land.parcels], land.texture
    curve_of, cover = materials(waves), land.cover
    early, late, ground = (
        np.stack([curve_of[name] for name in _COVER[role]], 1)[:, cover]
        for role in ('early', 'late', 'ground')
    )
    day = day + 6 * habits[0]
    grown = _NUMBER['full'][cover] * step((day - _NUMBER['up'][cover]) / 9)
    grown += _NUMBER['vary'][cover] * habits[1]
    grown += _NUMBER['wild'][cover] * (fine + patches)
    grown += _NUMBER['rows'][cover] * np.sin(2 * np.pi * land.blocks.across / 2.7)
    bare = 1 - grown.clip(0, 1)
    turned = step((day - _NUMBER['turn'][cover]) / 4)
    image = (1 - bare) * (early + turned * (late - early)) + bare * ground
    # Smooth changes of the curve: brightness, colour, leaf pigments and water.
    ones, tilt = 0 * waves + 1, waves / 900 - 1
    curves = np.stack([ones, tilt, *(-curve for curve in absorb(waves))])
    amounts = habits[2:] * np.array([0.08, 0.06, 0.12, 0.12])[:, None, None]
    amounts[0] += _NUMBER['grit'][cover] * fine + 0.04 * patches + 0.2 * bare * soil
    amounts[3] -= 0.15 * bare * soil
    return np.asarray(image * np.exp(np.tensordot(curves, amounts, (0, 0))))


def noise(rng: Generator, size: int, scale: float) -> Field:
    """Smooth normal field of unit variance with features of about scale pixels."""
    pixels = np.arange(size) / scale + 2 + rng.random()
    knots = int(pixels[-1]) + 4
    weights = np.exp(-((pixels[:, None] - np.arange(knots)) ** 2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return np.asarray(weights @ rng.standard_normal((knots, knots)) @ weights.T)


def blur(values: Field, sigma: float) -> Field:
    """Gaussian blur of (..., size, size) with a width in pixels."""
    pixels = np.arange(values.shape[-1])
    weights = np.exp(-((pixels[:, None] - pixels) ** 2) / (2 * sigma**2))
    weights /= weights.sum(1, keepdims=True)
    return np.asarray(weights @ values @ weights.T)


def _number(first: Ids, second: Field) -> Ids:
    """Number the different pairs of two (size, size) arrays from 0."""
    pair = first * (np.ptp(second) + 1) + second - second.min()
    return np.unique(pair, return_inverse=True)[1].reshape(first.shape)


def _sieve(labels: Mask) -> Mask:
    """Give parts of fewer than :data:`MINIMUM_UNIT` pixels to what is beside them."""
    start = np.ones(labels.shape, bool)
    start[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = start.cumsum().reshape(labels.shape) - 1
    same = labels[1:] == labels[:-1]
    above, below = runs[:-1][same], runs[1:][same]
    root = np.arange(runs.max() + 1)
    # Runs of a row join through the smaller number, until all that touch agree.
    while (root[above] != root[below]).any():
        smaller = np.minimum(root[above], root[below])
        for side in (above, below):
            np.minimum.at(root, root[side], smaller)
        root = root[root]
    hole = np.bincount(root[runs].ravel())[root[runs]] < MINIMUM_UNIT
    labels, places = labels.copy(), np.arange(len(labels))
    while hole.any() and not hole.all():
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            beside = (places + shift).clip(0, len(places) - 1)
            fill = hole & ~hole.take(beside, axis)
            labels[fill] = labels.take(beside, axis)[fill]
            hole &= ~fill
    return labels
