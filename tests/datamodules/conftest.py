# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Folders of coded samples, real and synthetic."""

from pathlib import Path

import pytest

from .torchgeo_fakes import write_coded_pairs, write_coded_splits


@pytest.fixture(scope='session')
def real_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8, 4 and 4 samples to train, validate and test on."""
    return write_coded_splits(tmp_path_factory.mktemp('real') / 'pairs')


@pytest.fixture(scope='session')
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 samples, numbered from 2000."""
    root = tmp_path_factory.mktemp('synthetic') / 'pairs'
    return write_coded_pairs(root, 2000, 40)
