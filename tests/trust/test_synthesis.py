# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.study.fakes import Change, open_data, pixel_codec, write_changed
from tests.study.worlds import write_world
from torchgeo_specdm.trust.datamodule import TrustDataModule
from torchgeo_specdm.trust.synthesis import measure_synthesis


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp('world'))


def measure(world: Path, out: Path, change: Change) -> dict[str, Any]:
    real = open_data(world / 'rich')
    data = TrustDataModule(real, write_changed(real, out, change))
    data.setup('test')
    return measure_synthesis(data, pixel_codec(real))


def test_copies_are_as_good_as_real(world: Path, tmp_path: Path) -> None:
    found = measure(world, tmp_path / 'copies', lambda image, mask: (image, mask))
    assert found['counts'] == {'train': 8, 'held_out': 8, 'synthetic': 8}
    # whole digital numbers are written
    assert found['spectra']['synthetic']['msad'] < 1e-3
    assert found['area']['train'] == found['area']['synthetic']
    for name in ('image', 'mask'):
        distance = found['fidelity'][name]['frechet']
        assert 0 <= distance['value'] < 1.5 * distance['floor']
    # nothing is lost by folded pixels
    assert found['reconstruction']['rmse'] < 1e-4
    assert found['reconstruction']['mask_accuracy'] == 1


def test_what_is_wrong_is_seen(world: Path, tmp_path: Path) -> None:
    def change(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        image = image.clone()
        image[3] = image[0]
        return image, mask * 0

    found = measure(world, tmp_path / 'wrong', change)
    assert found['spectra']['synthetic']['msad'] > 0.2
    assert found['area']['synthetic'] == [1, 0, 0, 0]
    for name in ('image', 'mask'):
        distance = found['fidelity'][name]['frechet']
        assert distance['value'] > 2 * distance['floor']
