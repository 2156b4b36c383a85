# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A small copy of OSCD."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.oscd import make_oscd
from torchgeo_specdm.datasets.oscd import OSCD

BANDS = ('B02', 'B03', 'B04', 'B05')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three cities, for tests to break."""
    cities = {'bordeaux': (20, 20), 'paris': (20, 24)}
    make_oscd(tmp_path, cities, {'rio': (20, 20)}, BANDS)
    return tmp_path


def small(root: Path, split: str = 'train', **settings: Any) -> OSCD:
    """Four bands of the fixture *root*."""
    return OSCD(root, split, **{'bands': BANDS, 'patch_size': 16} | settings)
