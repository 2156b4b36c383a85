# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch

from torchgeo_specdm import Generator

RECIPE = Path(__file__).parents[1] / 'experiments/prior.py'
#: Values of the classes, of which mixtures are not likely to give another one.
VALUES = torch.tensor([1, 3, 11, 101, 1009, 10007], dtype=torch.int16)


@pytest.fixture(scope='module')
def recipe() -> dict[str, Any]:
    return run_path(str(RECIPE))


def make_scenes(recipe: dict[str, Any], bands: int) -> Any:
    """Scenes whose every band is the value of the class."""
    torch.manual_seed(0)
    scenes = object.__new__(recipe['Scenes'])
    blocks = torch.randint(6, (5, 24, 24), dtype=torch.uint8)
    scenes.masks = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    scenes.images = VALUES[scenes.masks.long()][:, None].repeat(1, bands, 1, 1)
    return scenes


def test_images_and_masks_of_crops_stay_together(recipe: dict[str, Any]) -> None:
    images, masks = recipe['draw_pairs'](make_scenes(recipe, 2), 48, 6)
    assert images.shape == (48, 2, 64, 64) and masks.shape == (48, 64, 64)
    # pixels of one class alone, which crops from further away have fewer of
    pure = torch.isin(images[:, 0], VALUES.float())
    seen = images[:, 0] == VALUES[masks]
    assert float(pure.float().mean()) > 0.6
    assert float(seen[pure].float().mean()) > 0.99


def test_a_moment_of_training_is_saved(recipe: dict[str, Any], tmp_path: Path) -> None:
    scenes = make_scenes(recipe, 10)
    generator = recipe['make_generator'](scenes, None)
    recipe['train'](generator, scenes, 2, 0.5, tmp_path)
    found = Generator.load(tmp_path)
    training = found.config['training']
    assert training['updates'] > 0 and training['scenes'] == 5
    moved = [
        not torch.equal(ours.half(), theirs)
        for ours, theirs in zip(
            recipe['make_generator'](scenes, tmp_path).denoiser.parameters(),
            found.denoiser.parameters(),
            strict=True,
        )
    ]
    assert not any(moved)
    weights = torch.cat([p.flatten() for p in found.denoiser.parameters()])
    assert bool(weights.isfinite().all())
