# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The only table of bands: names, wavelengths, colours, composites and indices.

A band is known by its central wavelength in nanometres. Names are turned into
wavelengths here, and everything else (true colour, composites, indices, the axis of
spectra) goes by wavelength.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Wavelengths = Sequence[float | None]

#: Central wavelengths of the Sentinel-2A bands in nanometres (ESA, MSI user guide).
SENTINEL2_WAVELENGTHS: Mapping[str, float] = {
    'B01': 442.7,
    'B02': 492.4,
    'B03': 559.8,
    'B04': 664.6,
    'B05': 704.1,
    'B06': 740.5,
    'B07': 782.8,
    'B08': 832.8,
    'B8A': 864.7,
    'B09': 945.1,
    'B10': 1373.5,
    'B11': 1613.7,
    'B12': 2202.4,
}
#: The ten bands, in file order, that SegMunich holds and that OSCD is read with.
TEN_BANDS = ('B02', 'B03', 'B04', 'B08', 'B05', 'B06', 'B07', 'B8A', 'B11', 'B12')

#: Operational Land Imager of Landsat 8 and 9 (USGS).
_LANDSAT8 = {1: 443.0, 2: 482.0, 3: 561.4, 4: 654.6, 5: 864.7, 6: 1608.9, 7: 2200.7}
#: Thematic Mapper of Landsat 4, 5 and 7 (USGS).
_LANDSAT4 = {1: 485.0, 2: 560.0, 3: 660.0, 4: 830.0, 5: 1650.0, 7: 2215.0}
#: Landsat by all the numbers of its bands, where names have nothing else.
_PLAIN_LANDSAT: Mapping[frozenset[str | None], Mapping[int, float]] = {
    frozenset('123457'): _LANDSAT4,
    frozenset((*'123456789', '10', '11')): _LANDSAT8,
}
#: Numbers that tell nothing of Sentinel-2 alone: on Landsat, they are other bands.
_AMBIGUOUS = ('5', '6', '7', '9', '10', '11')
#: Numbers that Sentinel-2 and Landsat have.
_KNOWN_NUMBERS = frozenset((*map(str, range(1, 13)), '8A'))
#: Numbers 1, 2, 3 to here may be positions of bands as well: up to 6 on PlanetScope,
#: RapidEye or a drone, up to 8 on PlanetScope and WorldView.
_POSITIONS = (1, 2, 3, 4, 5, 6, 8)
#: Shortwave bands of WorldView-3, on which SWIR-1 is no band of 1610 nm.
_WORLDVIEW3: Mapping[str, float] = {
    f'swir{number}': wave
    for number, wave in enumerate((1210, 1570, 1660, 1730, 2165, 2205, 2260, 2330), 1)
}
#: Bands of these words, in lower case without anything but letters and digits. Landsat,
#: HLS, NAIP and PlanetScope are delivered with them.
_WORDS: Mapping[str, float] = {
    **dict.fromkeys(('coastal', 'coastalblue', 'coastalaerosol', 'aerosol'), 443),
    **dict.fromkeys(('b', 'blue'), 490),
    'greeni': 531,
    **dict.fromkeys(('g', 'green', 'greenii'), 560),
    'yellow': 610,
    **dict.fromkeys(('r', 'red'), 665),
    **dict.fromkeys(('rededge', 'rededge1', 're', 're1'), 705),
    **dict.fromkeys(('rededge2', 're2'), 740),
    **dict.fromkeys(('rededge3', 're3'), 783),
    **dict.fromkeys(('n', 'nir', 'nir1', 'nirbroad', 'nirwide', 'nearinfrared'), 842),
    **dict.fromkeys(('nirnarrow', 'nir08', 'narrownir', 'rededge4', 're4'), 865),
    **dict.fromkeys(('watervapor', 'watervapour', 'nir09'), 945),
    'nir2': 950,
    'cirrus': 1374,
    **dict.fromkeys(('swir1', 'swir16'), 1610),
    **dict.fromkeys(('swir', 'swir2', 'swir22'), 2200),
    # of MODIS, whose numbers are not those of Sentinel-2
    **{
        f'surreflb{number:02d}': wave
        for number, wave in enumerate((645, 858.5, 469, 555, 1240, 1640, 2130), 1)
    },
}
_NUMBER = r'\d+(?:[.,]\d+)?'
_UNIT = r'[\s_]*(nm|nano|um|\u00b5m|\u03bcm|micro)'
#: ``650 nm``, ``0.65 um``, ``Band 3 (559.8 Nanometers)``, ``b4_665nm``, ``0,65 \u00b5m``,
#: ``450-520 nm``, ``450 \u00b1 16 nm``.
_UNITS = re.compile(
    rf'(?:({_NUMBER})(?:{_UNIT}\w*)?\s*(-|\u2013|to|\u00b1|\+/-)\s*)?({_NUMBER}){_UNIT}',
    re.IGNORECASE,
)
#: ``Prs_VNIR_406.99``, ``Wavelength: 401.9``: nanometres with decimals.
_DECIMALS = re.compile(r'(?<![\d.])(\d{3,4}\.\d+)(?![\d.])')
#: Nanometres between a word and the number behind it, which is no year then.
_MOST_APART = 100
#: Numbers below are no nanometres of light, but micrometres.
_LEAST_NANOMETRES = 100
_NUMBERED = re.compile(r'(sr_)?b0?(\d{1,2}|8a)', re.IGNORECASE)
#: ``B3N`` of ASTER.
_OTHER_NUMBERED = re.compile(r'b\d+[b-z]', re.IGNORECASE)
#: ``B04_10m``, ``B2 (blue)``, ``T32TQM_B8A``: such a name among other words.
_AMONG_WORDS = re.compile(
    rf'(?<![a-z0-9])({_NUMBERED.pattern})(?![a-z0-9])', re.IGNORECASE
)
#: Words of a name, and how many of them may be one of :data:`_WORDS`.
_TOKENS = re.compile(r'[a-z]+|\d+')
_MOST_TOKENS = 3
#: ``Rrs_490``, ``wavelength=490``: letters and a number.
_LABELLED = re.compile(r'(\D*[a-z]\D*?)(\d{3,4}(?:\.\d+)?)', re.IGNORECASE)


class _Colour(NamedTuple):
    """Nanometres: the wavelength that is best, and the range of those that will do."""

    best: float
    low: float
    high: float


# red edge (B07, 783 nm) and water vapour (B09, 945 nm) are not near infrared
_COLOURS = {
    'blue': _Colour(490, 440, 515),
    'green': _Colour(560, 520, 600),
    'red': _Colour(665, 620, 690),
    'nir': _Colour(842, 797, 900),
    'swir1': _Colour(1610, 1500, 1750),
    'swir2': _Colour(2200, 2000, 2400),
}
TRUE_COLOUR = 'true colour'
#: What is shown instead where no names or wavelengths tell red, green and blue.
ANY_COLOUR = 'first bands'
#: Colours shown as red, green and blue; the first composite of a name that the bands
#: allow counts.
_COMPOSITES = (
    ('near infrared', ('nir', 'red', 'green')),
    ('shortwave infrared', ('swir2', 'nir', 'red')),
    ('shortwave infrared', ('swir1', 'nir', 'red')),
)
#: Colours a and b of the indices (a - b) / (a + b): of plants, of water (McFeeters,
#: 1996) and of built-up land (Zha et al., 2003).
INDICES: Mapping[str, tuple[str, str]] = {
    'ndvi': ('nir', 'red'),
    'ndwi': ('green', 'nir'),
    'ndbi': ('swir1', 'nir'),
}


def band_wavelengths(names: Sequence[str]) -> tuple[float | None, ...]:
    """Central wavelengths of bands by their names.

    A name may hold the wavelength (``650 nm``), be a word (``Red``, ``NIR_Narrow``) or
    a number. Numbers mean different bands on different satellites, so all names are
    looked at: ``B8A``, ``B12`` or ``B8`` tell Sentinel-2; ``SR_B6`` tells Landsat 8 or
    9, and ``SR_B1`` without it Landsat 4 to 7; ``B20`` and ``B30`` tell the level 1 of
    Landsat 7. Without ``SR_``, ``B1`` to ``B5`` and ``B7`` are those of Landsat 4 to 7,
    and ``B1`` to ``B11`` those of Landsat 8. ``B5`` to ``B7`` and ``B9`` to ``B11``
    alone tell nothing, and have no wavelength; nor do numbers of other satellites
    (``B0``, ``B3N``, ``B13``) or those that may be positions (``B1`` to ``B4``). Names
    that all are numbers from 300 on, or fractions such as ``0.65``, are wavelengths
    themselves; so are increasing numbers behind the same word, such as ``Rrs_490``,
    unless they are without gaps.

    Args:
        names: Names of all bands of an image.

    Returns:
        Nanometres, None for a band that is not known.
    """
    if all(_is_wavelength(name) for name in names):
        return tuple(parse_wavelength(name) for name in names)
    labelled = _labelled_wavelengths(names)
    if labelled:
        return labelled
    names = [_numbered_part(name) for name in names]
    keys = [match and match[2].upper() for match in map(_NUMBERED.fullmatch, names)]
    plain = _PLAIN_LANDSAT.get(frozenset(keys), {})
    is_sentinel2 = bool({'8', '8A', '12'} & {*keys})
    landsat = _LANDSAT8 if '6' in keys or '1' not in keys else _LANDSAT4
    is_level1 = {'20', '30'} <= {*keys}
    is_other = _are_positions(names) or not {*keys} - {None} <= _KNOWN_NUMBERS
    is_other |= any(map(_OTHER_NUMBERED.fullmatch, names))
    is_worldview3 = bool({*map(_plain, names)} & {*_WORLDVIEW3} - {*_WORDS})
    found: list[float | None] = []
    for name, key in zip(names, keys, strict=True):
        if key is not None and is_level1:
            # the second digit tells the gain of thermal bands
            found.append(_LANDSAT4.get(int(key) // 10) if key.endswith('0') else None)
        elif key is not None and plain:
            found.append(plain.get(int(key)))
        elif key is not None and name.lower().startswith('sr_'):
            found.append(landsat.get(int(key)) if key.isdigit() else None)
        elif key is not None:
            known = not is_other and (is_sentinel2 or key not in _AMBIGUOUS)
            found.append(SENTINEL2_WAVELENGTHS.get(f'B{key:>02}') if known else None)
        elif is_worldview3 and _plain(name) in _WORLDVIEW3:
            found.append(_WORLDVIEW3[_plain(name)])
        else:
            found.append(_named_wavelength(name))
    return tuple(found)


def _are_positions(names: Sequence[str]) -> bool:
    """Whether names such as B1 to B4 may just be positions of bands."""
    numbers = {name.upper() for name in names if _NUMBERED.fullmatch(name)}
    return any(numbers == {f'B{i + 1}' for i in range(top)} for top in _POSITIONS)


def stated_wavelength(text: str) -> float | None:
    """The wavelength that a text states by a number with a unit or with decimals.

    Args:
        text: A name or description, such as ``Band 3 (0.56 um)`` or ``450-520 nm``, of
            which the middle counts.

    Returns:
        Nanometres, None if the text states none.
    """
    for first, _, joint, last, unit in _UNITS.findall(text):
        low, high = (float(n.replace(',', '.')) for n in (first or last, last))
        factor = _nanometres(unit)
        if joint in ('\u00b1', '+/-'):
            # a width follows
            high = low
        # of 'Band 4 - 665 nm', the first is no wavelength
        value = round(factor * ((low + high) / 2 if 2 * low > high else high), 3)
        if value >= _LEAST_NANOMETRES:
            return value
    match = _DECIMALS.search(text)
    return float(match[1]) if match and _is_wavelength(match[1]) else None


def _nanometres(unit: str) -> float:
    return 1.0 if unit.strip().lower().startswith('n') else 1000.0


def _named_wavelength(text: str) -> float | None:
    """The wavelength that a name states, or that of the longest words in it."""
    stated = stated_wavelength(text)
    if stated is not None:
        return stated
    plain = _plain(text)
    known = _WORDS.get(plain, _WORDS.get(plain.removeprefix('band')))
    if known is not None:
        return known
    # which is not red
    tokens = _TOKENS.findall(re.sub(r'infra\W?red', 'infrared', text.lower()))
    for length in range(_MOST_TOKENS, 0, -1):
        for start in range(len(tokens) - length + 1):
            word = ''.join(tokens[start : start + length])
            # single letters may mean anything
            if len(word) > 2 and word in _WORDS:
                return _beside(word, (*tokens[start + length :], '')[0])
    return None


def _beside(word: str, number: str) -> float | None:
    """The wavelength of a word with what follows it: ``Red edge-740`` is 740 nm."""
    wave = _WORDS[word]
    if number.isdigit() and abs(int(number) - wave) < _MOST_APART:
        return float(number)
    # a third one is not the second
    return None if word.endswith('ir') and len(number) == 1 and number > '2' else wave


def _plain(text: str) -> str:
    return ''.join(c for c in text.lower() if c.isalnum())


def _numbered_part(name: str) -> str:
    """The number of a band in its name, where nothing else tells the wavelength."""
    if _NUMBERED.fullmatch(name) or _named_wavelength(name) is not None:
        return name
    match = _AMONG_WORDS.search(name)
    return match[0] if match else name


def _labelled_wavelengths(names: Sequence[str]) -> tuple[float, ...]:
    """Numbers behind one word that can but be wavelengths; empty if they are not."""
    matches = [_LABELLED.fullmatch(name.strip()) for name in names]
    words = {match[1] for match in matches if match}
    if None in matches or len(words) != 1:
        return ()
    waves = [float(match[2]) for match in matches if match]
    steps = [after - before for before, after in itertools.pairwise(waves)]
    likely = all(_is_wavelength(str(int(wave))) for wave in waves)
    return tuple(waves) if likely and steps and min(steps) > 1 else ()


def parse_wavelength(text: str, unit: str = '') -> float | None:
    """The wavelength in a field that holds nothing else.

    Args:
        text: A number, maybe with its unit, such as ``650``, ``0.65`` or ``650 nm``.
        unit: Unit of numbers without one, such as ``Micrometers``; a number below 100
            without any counts as micrometres.

    Returns:
        Nanometres, None if there is no such number.
    """
    try:
        value = float(text)
    except ValueError:
        return stated_wavelength(text)
    if not 0 < value < math.inf:
        return None
    if re.match(_UNIT, unit, re.IGNORECASE):
        return value * _nanometres(unit)
    if unit.lower() not in ('', 'unknown'):
        # gigahertz, or just a number
        return None
    return value * 1000 if value < _LEAST_NANOMETRES else value


def _is_wavelength(name: str) -> bool:
    """Whether a name is a number that can but be a wavelength."""
    try:
        value = float(name)
    except ValueError:
        return False
    return 300 <= value < 100_000 or (0.3 <= value < 20 and '.' in name)


def channel(wavelengths: Wavelengths, colour: str) -> int | None:
    """The band that comes nearest to a colour.

    Args:
        wavelengths: Nanometres of each band, None where not known.
        colour: ``blue``, ``green``, ``red``, ``nir``, ``swir1`` or ``swir2``.

    Returns:
        The position of the band; None if no band lies in the range of the colour.
    """
    best, low, high = _COLOURS[colour]
    distances = [
        (abs(wave - best), i)
        for i, wave in enumerate(wavelengths)
        if wave is not None and low <= wave <= high
    ]
    return min(distances)[1] if distances else None


def true_colour(wavelengths: Wavelengths) -> tuple[int, int, int]:
    """Channels to show as red, green and blue.

    Args:
        wavelengths: Nanometres of each band, None where not known.

    Returns:
        The bands nearest to 665, 560 and 490 nm. Where one of these is missing, three
        bands count as red, green and blue, more as ordered by wavelength from blue on,
        and one or two as grey.
    """
    found = _channels(wavelengths, ('red', 'green', 'blue'))
    if found is not None:
        return found
    if len(wavelengths) < 3:
        return (0, 0, 0)
    return (0, 1, 2) if len(wavelengths) == 3 else (2, 1, 0)


def composites(wavelengths: Wavelengths) -> dict[str, tuple[int, int, int]]:
    """Channels to show as red, green and blue, by the name of the composite.

    Args:
        wavelengths: Nanometres of each band, None where not known.

    Returns:
        True colour first, or the first bands, then what the bands allow: near infrared
        (near infrared, red, green) and shortwave infrared (shortwave infrared, near
        infrared, red).
    """
    told = _channels(wavelengths, ('red', 'green', 'blue'))
    name = TRUE_COLOUR if told else ANY_COLOUR
    found = {name: true_colour(wavelengths)}
    for name, colours in _COMPOSITES:
        channels = _channels(wavelengths, colours)
        if channels is not None:
            found.setdefault(name, channels)
    return found


def index_channels(wavelengths: Wavelengths) -> dict[str, tuple[int, int]]:
    """The two channels of each index of :data:`INDICES`.

    Args:
        wavelengths: Nanometres of each band, None where not known.

    Returns:
        The channels a and b of each index whose bands are there.
    """
    found = {}
    for name, colours in INDICES.items():
        a, b = (channel(wavelengths, colour) for colour in colours)
        if a is not None and b is not None:
            found[name] = (a, b)
    return found


def _channels(
    wavelengths: Wavelengths, colours: tuple[str, str, str]
) -> tuple[int, int, int] | None:
    red, green, blue = (channel(wavelengths, colour) for colour in colours)
    if red is None or green is None or blue is None:
        return None
    return red, green, blue
