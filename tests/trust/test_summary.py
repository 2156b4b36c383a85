# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math

import pytest
import torch

from torchgeo_specdm.trust.summary import calibrated, nearness, plain


def sides(synthetic: float, real: float, held_out: float) -> dict[str, float]:
    found = {'synthetic': synthetic, 'shuffled': 0.2}
    return found | {'real': real, 'held_out': held_out}


class TestCalibrated:
    @pytest.mark.parametrize(
        'value, expected', [(0.2, 0), (0.8, 1), (0.5, 0.5), (0.1, -1 / 6), (0.92, 1.2)]
    )
    def test_between_shuffled_and_real(self, value: float, expected: float) -> None:
        assert calibrated(sides(value, 0.9, 0.8)) == pytest.approx(expected)
        assert calibrated(sides(value, 0.8, 0.9)) == pytest.approx(expected)

    @pytest.mark.parametrize('real', [0.2, 0.1, math.nan])
    def test_is_nothing_without_a_range(self, real: float) -> None:
        assert math.isnan(calibrated(sides(0.5, real, 0.8)))


class TestNearness:
    REAL = tuple({'distance': 1 + i / 50, 'feature_distance': 1.0} for i in range(50))

    def test_pixels_and_features_on_their_own(self) -> None:
        copied = [{'distance': 0.0, 'feature_distance': 1.5}] * 50
        found = nearness(iter(copied), iter(self.REAL))
        assert found['pixels']['alarm'] and not found['features']['alarm']
        assert found['features']['median_ratio'] == 1.5

    def test_what_is_not_known_is_left_out(self) -> None:
        real = [{'distance': None, 'feature_distance': 1.0}, *self.REAL]
        found = nearness([*self.REAL, {'distance': 9.0, 'feature_distance': 2}], real)
        assert found['pixels']['samples'] == 51
        assert found['pixels']['references'] == 50
        nothing = [{**row, 'distance': None} for row in self.REAL]
        assert list(nearness(self.REAL, nothing)) == ['features']


def test_plain_is_json_without_nan() -> None:
    nested = {
        'tensor': torch.tensor([[1.0, math.nan], [-math.inf, 2]]),
        'parts': (1, True, None, 'text', {'number': math.nan}),
        'mean': torch.tensor(0.5),
    }
    found = json.loads(json.dumps(plain(nested), allow_nan=False))
    assert found == {
        'tensor': [[1, None], [None, 2]],
        'parts': [1, True, None, 'text', {'number': None}],
        'mean': 0.5,
    }
