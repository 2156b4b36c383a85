# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest

from torchgeo_specdm.bands import (
    TEN_BANDS,
    TRUE_COLOUR,
    band_wavelengths,
    channel,
    composites,
    index_channels,
    parse_wavelength,
    true_colour,
)

NIR, SWIR = 'near infrared', 'shortwave infrared'


@pytest.mark.parametrize(
    ('names', 'wanted'),
    [
        (('b8a', 'B01', 'NDVI'), (864.7, 442.7, None)),
        # without the zero
        (('B2', 'B3', 'B4', 'B8'), (492.4, 559.8, 664.6, 832.8)),
        # Landsat's numbers say as much as Sentinel-2's up to red, and no more
        (('B3', 'B4', 'B5', 'B6', 'B7'), (559.8, 664.6, None, None, None)),
        (('SR_B2', 'SR_B4', 'SR_B5', 'SR_B6'), (482.0, 654.6, 864.7, 1608.9)),
        (('SR_B1', 'SR_B4', 'SR_B5', 'SR_B7'), (485.0, 830.0, 1650.0, 2215.0)),
        (('SR_B1', 'ST_B10', 'SR_QA'), (485.0, None, None)),
        # Landsat without a prefix: all bands of 5, and of 8 with thermal ones
        (('B1', 'B2', 'B3', 'B4', 'B5', 'B7'), (485, 560, 660, 830, 1650, 2215)),
        (
            [f'B{i}' for i in range(1, 12)],
            (443, 482, 561.4, 654.6, 864.7, 1608.9, 2200.7, None, None, None, None),
        ),
        (('B2', 'B3', 'B4', 'B10'), (492.4, 559.8, 664.6, None)),
        (('B02', 'B03', 'B11', 'B12'), (492.4, 559.8, 1613.7, 2202.4)),
        # among other words
        (('B02 (Blue)', 'B03 - Green', 'B04_10m', 'T32_B8A'), (490, 560, 664.6, 864.7)),
        (('Band 4 - Red', 'Band 5 - NIR', 'NDVI'), (665, 842, None)),
        (('Vegetation Red Edge', 'Red Edge 2', 'narrow NIR'), (705, 740, 865)),
        (('nir09', 'NIR2', 'SWIR-1 (band 11)'), (945, 950, 1610)),
        (('scored', 'Infra-red', 'b', 'a b'), (None, None, 490, None)),
        (('Coastal', 'NIR_Narrow', 'SWIR 1', 'swir22'), (443, 865, 1610, 2200)),
        (('650 nm', '0.65 um', 'Band 7 (2201.0 Nanometers)'), (650, 650, 2201)),
        # numbers of a file, not of a satellite
        (('VV', 'VH', 'band_1'), (None, None, None)),
        (('B1', 'B2', 'B3', 'B4', 'DSM'), (None,) * 5),
        ([f'B{i}' for i in range(1, 9)], (None,) * 8),
        # of Pleiades, ASTER, Hyperion and MODIS, not of Sentinel-2
        (('B0', 'B1', 'B2', 'B3'), (None,) * 4),
        (('B01', 'B02', 'B3N', 'B08'), (None,) * 4),
        (('B008', 'B010', 'B12'), (None,) * 3),
        (('B8', 'B12', 'B13'), (None,) * 3),
        (('sur_refl_b01', 'sur_refl_b02', 'sur_refl_b07'), (645, 858.5, 2130)),
        # of WorldView-3, and of others
        (('NIR2', 'SWIR-1', 'SWIR-5', 'SWIR8'), (950, 1210, 2165, 2330)),
        (('BAND_R', 'BAND_NIR', 'SWIR-1', 'swir 4 and 5'), (665, 842, 1610, None)),
        # a number behind a word, which is no year, date or size
        (('Red edge-740', 'Blue-444', 'nir_850'), (740, 444, 850)),
        (
            ('red_2020', 'swir1 20200101', 'Red 10m', 'B04_2020-01'),
            (665, 1610, 665, 664.6),
        ),
    ],
)
def test_wavelengths(names: tuple[str, ...], wanted: tuple[float | None, ...]) -> None:
    assert band_wavelengths(names) == wanted


@pytest.mark.parametrize(
    ('names', 'wanted'),
    [
        (TEN_BANDS, (2, 1, 0)),
        (('Coastal', 'Blue', 'Green', 'Red', 'NIR'), (3, 2, 1)),
        (('B4', 'B3', 'B2', 'B5'), (0, 1, 2)),
        (('R', 'G', 'B'), (0, 1, 2)),
        # names that say nothing: by position
        (('x', 'y', 'z'), (0, 1, 2)),
        (('w', 'x', 'y', 'z'), (2, 1, 0)),
        (('VV', 'VH'), (0, 0, 0)),
        # the bands nearest to 665, 560 and 490 nm of 198 ones
        ([f'{427 + 10 * i} nm' for i in range(198)], (24, 13, 6)),
    ],
)
def test_true_colour(names: tuple[str, ...], wanted: tuple[int, int, int]) -> None:
    assert true_colour(band_wavelengths(names)) == wanted


@pytest.mark.parametrize(
    ('names', 'wanted'),
    [
        (TEN_BANDS, {TRUE_COLOUR: (2, 1, 0), NIR: (3, 2, 1), SWIR: (9, 3, 2)}),
        # without the longer shortwave band, the shorter one
        (
            ('B11', 'B04', 'B8A', 'B03', 'B02'),
            {TRUE_COLOUR: (1, 3, 4), NIR: (2, 1, 3), SWIR: (0, 2, 1)},
        ),
        (
            ('Blue', 'Green', 'Red', 'NIR_Narrow'),
            {TRUE_COLOUR: (2, 1, 0), NIR: (3, 2, 1)},
        ),
        (('B2', 'B3', 'B4', 'B8'), {TRUE_COLOUR: (2, 1, 0), NIR: (3, 2, 1)}),
        (('R', 'G', 'B'), {TRUE_COLOUR: (0, 1, 2)}),
        # a sensor without blue, and one that is not known
        (('G', 'R', 'N'), {'first bands': (0, 1, 2), NIR: (2, 1, 0)}),
        (('x', 'y', 'z', 'w'), {'first bands': (2, 1, 0)}),
    ],
)
def test_composites(
    names: tuple[str, ...], wanted: dict[str, tuple[int, int, int]]
) -> None:
    found = composites(band_wavelengths(names))
    assert found == wanted
    # which come first
    assert next(iter(found)) == next(iter(wanted))


@pytest.mark.parametrize(
    ('names', 'wanted'),
    [
        (TEN_BANDS, {'ndvi': (3, 2), 'ndwi': (1, 3), 'ndbi': (8, 3)}),
        (('B04', 'B8A'), {'ndvi': (1, 0)}),
        (('NIR', 'Red', 'SWIR_1'), {'ndvi': (0, 1), 'ndbi': (2, 0)}),
        (('r', 'g', 'b', 'NIR_NARROW'), {'ndvi': (3, 0), 'ndwi': (1, 3)}),
        (('B2', 'B3', 'B4', 'B8'), {'ndvi': (3, 2), 'ndwi': (1, 3)}),
        # Landsat's numbers, or Sentinel-2 without near infrared
        (('B02', 'B03', 'B04', 'B05', 'B06', 'B07'), {}),
        (('B3', 'B4', 'B5', 'B6'), {}),
        (('red', 'green', 'blue'), {}),
    ],
)
def test_indices(names: tuple[str, ...], wanted: dict[str, tuple[int, int]]) -> None:
    assert index_channels(band_wavelengths(names)) == wanted


@pytest.mark.parametrize(
    ('text', 'unit', 'wanted'),
    [
        ('650', '', 650),
        ('0.65', '', 650),
        ('10.9', 'Unknown', 10_900),
        ('650', 'Nanometers', 650),
        ('0.65', 'Micrometers', 650),
        ('2.2', '\u00b5m', 2200),
        ('650.0 nm', '', 650),
        ('0.65um', 'Nanometers', 650),
        # of a list, of a radar, and nothing
        ('12', 'Index', None),
        ('5.4', 'GHz', None),
        ('', '', None),
        ('-1', '', None),
        ('nan', '', None),
        ('VV', '', None),
    ],
)
def test_fields_of_wavelengths(text: str, unit: str, wanted: float | None) -> None:
    assert parse_wavelength(text, unit) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ('names', 'wanted'),
    [
        (('650 nm', 'b_450_nm', 'Band 3 (559.8 Nanometers)'), (650, 450, 559.8)),
        (('0.65 um', '0,45 \u00b5m', '2.2 micrometers'), (650, 450, 2200)),
        (('B4_665nm', 'reflectance_842.5nm', '1.6microns'), (665, 842.5, 1600)),
        (('650NM', '0.865 \u03bcm', '(490 nm)'), (650, 865, 490)),
        (('426.82', '431.3', '2445'), (426.82, 431.3, 2445)),
        (('0.4268', '0.865'), (426.8, 865)),
        (('450-520 nm', '0.77 - 0.89um', '630nm\u2013690nm'), (485, 830, 660)),
        (('450 nm \u00b1 16 nm', '550+/-40 nm', 'Band 4 - 665 nm'), (450, 550, 665)),
        (('FWHM 2.6 nm, 401.9 nm', 'Prs_VNIR_406.99'), (401.9, 406.99)),
        (('Wavelength: 404.4 - FWHM: 2.6', 'v 1.5'), (404.4, None)),
        (('Rrs_412', 'Rrs_443', 'Rrs_490'), (412, 443, 490)),
        (('wavelength=490', 'wavelength=560.5'), (490, 560.5)),
        # numbers of bands
        ([f'band_{i}' for i in range(300, 310)], (None,) * 10),
        (('S2019', 'S2020', 'S2021'), (None,) * 3),
        (('1', '2', '3'), (None, None, None)),
        (('100', '200', '300'), (None, None, None)),
    ],
)
def test_names_that_state_wavelengths(
    names: tuple[str, ...], wanted: tuple[float | None, ...]
) -> None:
    assert band_wavelengths(names) == pytest.approx(wanted)


def test_red_edge_is_no_near_infrared() -> None:
    assert channel((783.0, 945.0, None), 'nir') is None
