# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from torchgeo_specdm.pairs.spec import DTYPES, SampleSpec

FULL = SampleSpec(
    bands=('B04', 'B03'),
    classes=('land', 'water'),
    dates=2,
    scale=0.5,
    dtype='int16',
    nodata=-9999,
    ignore_index=255,
    colors=((1, 2, 3), (4, 5, 6)),
)


def make(**values: Any) -> SampleSpec:
    return SampleSpec(**({'bands': ('a', 'b'), 'classes': ('x', 'y')} | values))


class TestPlainTypes:
    def test_json_round_trip(self) -> None:
        text = json.dumps(FULL.to_dict() | {'provenance': {}, 'unknown': 1})
        again = SampleSpec.from_dict(json.loads(text))
        assert again == FULL
        assert hash(again) == hash(FULL)

    def test_numpy_values_become_plain(self) -> None:
        spec = make(
            dates=np.int64(2),
            scale=np.float32(0.5),
            dtype=np.dtype('<i2'),
            nodata=np.int16(-1),
            ignore_index=np.uint8(9),
            colors=np.zeros((2, 3), int),
        )
        assert json.loads(json.dumps(spec.to_dict()))['dtype'] == 'int16'
        for name, kind in (('dates', int), ('scale', float), ('nodata', float)):
            assert type(getattr(spec, name)) is kind

    def test_frozen(self) -> None:
        with pytest.raises(FrozenInstanceError):
            FULL.dates = 1  # type: ignore[misc]


class TestRefusals:
    @pytest.mark.parametrize(
        ('field', 'value'),
        [
            ('bands', []),
            ('bands', ['B02', 'B02']),
            ('bands', 'B02'),
            ('bands', ['B02', '']),
            ('bands', 3),
            ('classes', ['a', 2]),
            ('classes', [{'name': 'water'}]),
            ('dates', 0),
            ('dates', 1.5),
            ('dates', True),
            ('scale', 0),
            ('scale', -1e-4),
            ('scale', float('nan')),
            ('scale', float('inf')),
            ('scale', '1e-4'),
            ('dtype', 'uint12'),
            ('dtype', 'complex64'),
            ('dtype', None),
            ('nodata', float('nan')),
            ('nodata', -9999),
            ('nodata', 0.5),
            ('nodata', 'none'),
            ('ignore_index', 1),
            ('ignore_index', 255.5),
            ('colors', [[0, 0, 0]]),
            ('colors', [[0, 0], [1, 1]]),
            ('colors', [[0, 0, 256], [1, 1, 1]]),
            ('colors', ['red', 'blue']),
            ('colors', 7),
        ],
    )
    def test_wrong_value(self, field: str, value: Any) -> None:
        # one sentence that starts with the field, or with the number of colors
        with pytest.raises(ValueError, match=rf'^({field}=|1 colors for 2 classes)'):
            make(**{field: value})

    def test_missing(self) -> None:
        with pytest.raises(ValueError, match=r"\['classes'\] are missing"):
            SampleSpec.from_dict({'bands': ['a']})

    @pytest.mark.parametrize('dtype', DTYPES)
    def test_nodata_must_fit(self, dtype: str) -> None:
        assert make(dtype=dtype, nodata=0).nodata == 0
        if dtype.startswith('f'):
            assert make(dtype=dtype, nodata=-0.5).nodata == -0.5
        else:
            for value in (np.iinfo(dtype).min - 1, np.iinfo(dtype).max + 1):
                with pytest.raises(ValueError, match=f'is no {dtype}'):
                    make(dtype=dtype, nodata=value)


class TestMatch:
    def test_equal(self) -> None:
        FULL.require_match(SampleSpec.from_dict(FULL.to_dict()), 'ours', 'theirs')

    def test_names_all_that_differ(self) -> None:
        other = make(bands=('B03', 'B04'), classes=FULL.classes, scale=0.25, dates=2)
        with pytest.raises(ValueError) as error:
            FULL.require_match(other, 'the codec', 'the data')
        message = str(error.value)
        assert "bands: ['B04', 'B03'] in the codec, ['B03', 'B04'] in" in message
        assert 'scale: 0.5 in the codec, 0.25 in the data' in message
        assert 'classes' not in message.split('Use')[0]
        with pytest.raises(ValueError, match='int16'):
            FULL.require_match(make(), 'a', 'b', ('dtype',))


class TestColors:
    def test_names_that_maps_know(self) -> None:
        names = ['Tree cover', 'sth', 'Built-up', 'Herbaceous wetland', 'pine forest']
        tree, other, built, wetland, forest = make(classes=names).colors
        assert max(tree) == tree[1] and max(built) == built[0]
        assert max(wetland) == wetland[2]
        # shades of one green
        assert forest[1] < tree[1] and max(forest) == forest[1]
        assert other == make(classes=['0', '1', '2', '3', '4']).colors[1]
        given = make(classes=['forest', 'lake'], colors=[[1, 2, 3], [4, 5, 6]])
        assert given.colors == ((1, 2, 3), (4, 5, 6))

    def test_hues_differ(self) -> None:
        colors = make(classes=[str(i) for i in range(40)]).colors
        assert len({*colors}) == 40
        assert np.min(colors) >= 0 and np.max(colors) <= 255
