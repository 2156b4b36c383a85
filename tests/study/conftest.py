# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest

from tests.study.worlds import write_world


@pytest.fixture(scope='session')
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``poor``, ``rich``, ``right`` and ``wrong``."""
    return write_world(tmp_path_factory.mktemp('world'))
