# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Colours of classes that nobody has chosen a colour for."""

import colorsys
import re
from collections.abc import Iterator, Sequence

Color = tuple[int, int, int]

#: Words in the names of classes and their colour: where there is one, that of Dynamic
#: World (Brown et al. 2022, doi:10.1038/s41597-022-01307-4). The first line that has a
#: word of the name counts.
_USUAL: tuple[tuple[str, Color], ...] = (
    ('wetland marsh swamp bog mangrove mangroves flooded', (122, 135, 198)),
    ('water river rivers lake lakes pond sea ocean flood', (65, 155, 223)),
    ('tree trees forest forests wood woods woodland', (57, 125, 73)),
    ('grass grassland meadow meadows pasture lawn', (136, 176, 83)),
    ('crop crops cropland farmland agriculture agricultural', (228, 150, 53)),
    ('shrub shrubs shrubland scrub bush bushes', (223, 195, 90)),
    ('road roads street streets asphalt pavement', (90, 90, 98)),
    ('built building buildings urban roof roofs house houses', (196, 40, 27)),
    ('bare barren soil sand rock', (165, 155, 143)),
    ('snow ice glacier', (179, 159, 225)),
)
#: Brightness of a class over that of the one before it, where both have one colour.
_DARKER = 0.65


def usual_colors(classes: Sequence[str]) -> tuple[Color, ...]:
    """Colours that maps usually have for classes of such names.

    Args:
        classes: Names, in English to be recognised.

    Returns:
        (red, green, blue) in 0..255 of each class: for classes of one kind, such as two
        forests, shades of one colour; for names that tell nothing, hues of their own.
    """
    return tuple(_colors(classes))


def _colors(classes: Sequence[str]) -> Iterator[Color]:
    taken: list[Color] = []
    for position, name in enumerate(classes):
        words = {*re.findall('[a-z]+', name.lower())}
        kind = next((c for known, c in _USUAL if words & {*known.split()}), None)
        if kind is None:
            yield _hue(position, len(classes))
            continue
        shade = _DARKER ** taken.count(kind)
        red, green, blue = (round(shade * part) for part in kind)
        taken.append(kind)
        yield red, green, blue


def _hue(position: int, count: int) -> Color:
    """One of evenly spread hues of two brightnesses, so that neighbours differ."""
    parts = colorsys.hsv_to_rgb(position / count, 0.65, 0.9 - 0.3 * (position % 2))
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue
