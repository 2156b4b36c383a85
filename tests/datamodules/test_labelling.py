# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Masks for given images, with their confidence."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor

from tests.data.pairs import write_tiff
from torchgeo_specdm import PairFolder, SyntheticAugmentedDataModule
from torchgeo_specdm.datamodules.labelling import LabellingDataModule
from torchgeo_specdm.pairs.manifest import read_manifest
from torchgeo_specdm.tasks.support.drawing import label_images

from ..conftest import PAIR_BANDS, PAIR_SPECTRA, Run, pairs
from ..diffusion.oracle import COVARIANCE, oracle_generator
from .generating import draw

PLACE = {'crs': 'EPSG:32632', 'transform': from_origin(6e5, 5e6, 10, 10)}


def read(path: Path) -> tuple[Tensor, dict[str, str]]:
    with rasterio.open(path) as source:
        assert source.crs == PLACE['crs'] and source.transform == PLACE['transform']
        return torch.from_numpy(source.read().astype(np.float32)), source.tags()


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of blocks that lie somewhere, the second with missing pixels."""
    root = tmp_path_factory.mktemp('scenes')
    random = np.random.default_rng(3)
    for name, size in (('alp', 32), ('bay', 48)):
        mask = random.integers(0, 4, (2, 2)).repeat(size // 2, 0).repeat(size // 2, 1)
        image = PAIR_SPECTRA[mask].transpose(2, 0, 1).astype(np.uint16)
        image[:, : 5 * (name == 'bay')] = 0
        write_tiff(root / f'{name}.tif', image, PAIR_BANDS, nodata=0, **PLACE)
    return root


@pytest.fixture(scope='module')
def labelled(
    images: Path, diffusion_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp('labelled')
    data = LabellingDataModule(str(root / 'set'), str(images), draws=3, batch_size=2)
    draw(diffusion_run, data, root)
    return root / 'set'


def test_images_are_kept_where_they_lie(images: Path, labelled: Path) -> None:
    assert [row['id'] for row in read_manifest(labelled)] == ['alp', 'bay']
    for name in ('alp', 'bay'):
        (real, _), (kept, tags) = (
            read(root / f'{name}.tif') for root in (images, labelled / 'images')
        )
        missing = real == 0
        assert torch.equal(kept.where(~missing, 0), real)
        assert tags['SYNTHETIC'] == 'NO'
        mask, tags = read(labelled / 'masks' / f'{name}.tif')
        assert tags['SYNTHETIC'] == 'YES'
        # no label where there is nothing to see
        assert torch.equal(mask[0] == 255, missing.all(0))
        assert set(mask.unique().tolist()) <= {0, 1, 2, 3, 255}
    assert len(PairFolder(labelled)) == 2


def test_confidence_is_the_share_of_draws_that_agree(labelled: Path) -> None:
    found, tags = read(labelled / 'confidence' / 'bay.tif')
    thirds = (found * 3).round()
    torch.testing.assert_close(thirds / 3, found)
    # an untrained network is sure of nothing, yet the best of three has one vote
    assert {*thirds.unique().tolist()} == {1.0, 2.0, 3.0}
    assert tags['SAMPLE'] == 'bay'


def test_all_that_is_written_says_so(labelled: Path, images: Path) -> None:
    card = (labelled / 'README.md').read_text()
    assert 'The images are real, and their masks were drawn' in card
    assert f'masks for the images of {images}, 3 for each' in card


def test_scored_images_are_a_leak(
    pair_folder: Path, diffusion_run: Run, tmp_path: Path
) -> None:
    data = LabellingDataModule(str(tmp_path / 'set'), str(pair_folder), draws=1)
    draw(diffusion_run, data, tmp_path)
    # all 24, whatever the lists say: their masks are not looked at
    assert len(PairFolder(tmp_path / 'set')) == 24
    mixed = SyntheticAugmentedDataModule(pairs(pair_folder), str(tmp_path / 'set'))
    with pytest.raises(ValueError, match=r'4 val samples of .* are among those'):
        mixed.setup('fit')


def test_frequency_of_classes_is_their_chance() -> None:
    generator = oracle_generator(size=8)
    first = torch.linspace(-2, 3, 64).reshape(1, 1, 1, 8, 8)
    image = torch.cat([first, torch.full_like(first, -1.0)], 1)
    found = label_images(generator, [0], 100, {'seed': 0, 'given': {'image': image}})
    slope = COVARIANCE[2, :2] @ COVARIANCE[:2, :2].inverse()
    mean = 0.2 + slope[0] * (first.flatten() - 0.5)
    std = (COVARIANCE[2, 2] - slope @ COVARIANCE[:2, 2]).sqrt()
    chance = torch.distributions.Normal(0, 1).cdf(mean / std)
    sure = chance.maximum(1 - chance)
    assert float((found['confidence'].flatten() - sure).abs().mean()) < 0.06
    clear = (chance - 0.5).abs() > 0.2
    assert torch.equal((chance > 0.5)[clear].long(), found['mask'].flatten()[clear])
    assert torch.equal(found['image'], image)
    # more draws do not change those that there were
    few = label_images(generator, [0], 2, {'seed': 0, 'given': {'image': image}})
    assert {*few['confidence'].unique().tolist()} == {0.5, 1.0}


@pytest.mark.parametrize('draws', [0, 1001])
def test_draws(draws: int) -> None:
    with pytest.raises(ValueError, match=f'draws={draws} must be from 1 to 1000'):
        LabellingDataModule('out', 'images', draws)
