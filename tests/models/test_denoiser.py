# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.study.fakes import open_data, pixel_codec, write_generator
from tests.study.worlds import cell, read_study, write_world
from torchgeo_specdm import MultispectralSegmentationTask
from torchgeo_specdm.models.denoiser import DenoiserSegmenter
from torchgeo_specdm.pairs.facts import fingerprints
from torchgeo_specdm.pairs.fingerprint import write_seen_samples
from torchgeo_specdm.study.design import REAL
from torchgeo_specdm.study.engine import Engine

TASK = 'torchgeo_specdm.MultispectralSegmentationTask'


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of four classes with spectra of their own."""
    return write_world(tmp_path_factory.mktemp('world'))


@pytest.fixture(scope='module')
def generator(
    world: Path, tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A generator that has not learned anything, of the world's bands."""
    out = tmp_path_factory.mktemp('denoiser') / 'diffusion'
    return write_generator(pixel_codec(open_data(world / 'rich')), tiny_settings, out)


def task(generator: Path, **changes: Any) -> MultispectralSegmentationTask:
    torch.manual_seed(0)
    given = {'in_channels': 4, 'num_classes': 4, **changes}
    return MultispectralSegmentationTask('denoiser', str(generator), **given)


@pytest.mark.parametrize('frozen, steps', [(True, 40), (False, 15)])
def test_learns_a_world_with_known_classes(
    world: Path, tmp_path: Path, generator: Path, frozen: bool, steps: int
) -> None:
    given = {'model': 'denoiser', 'backbone': str(generator), 'freeze_backbone': frozen}
    given |= {'lr': 1e-3, 'head_lr_factor': 10.0}
    study = read_study(
        tmp_path,
        world / 'rich',
        models={'net': {'class_path': TASK, 'init_args': given}},
        seeds=1,
    )
    model, datamodule, trainer = Engine(study).train(cell(study, REAL), steps)
    assert trainer.global_step == steps
    (scores,) = trainer.test(model, datamodule, verbose=False)
    # colours tell classes apart, and a quarter is right by chance
    assert scores['test_miou'] > 0.7
    fresh, learned = task(generator).model, model.model
    assert isinstance(fresh, DenoiserSegmenter) and isinstance(learned, type(fresh))
    before, after = fresh.encoder.state_dict(), learned.encoder.state_dict()
    same = all(before[name].equal(after[name]) for name in before)
    assert same == frozen
    # the scaling of the data is part of the weights
    again = task(generator)
    again.load_state_dict(model.state_dict())
    image = torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        assert again.eval()(image).equal(model.eval()(image))


def test_any_size_and_each_image_alone(generator: Path) -> None:
    network = task(generator).eval()
    image = torch.randn(2, 4, 30, 41)
    with torch.no_grad():
        logits = network(image)
        alone = network(image[1:])
    assert logits.shape == (2, 4, 30, 41)
    assert torch.allclose(logits[1:], alone, atol=1e-5)


def test_refuses_one_that_saw_test_samples(
    world: Path, tmp_path: Path, tiny_settings: dict[str, Any]
) -> None:
    data = open_data(world / 'rich')
    leaking = write_generator(pixel_codec(data), tiny_settings, tmp_path / 'leaking')
    write_seen_samples(leaking, fingerprints(data.test_dataset))
    given = {'model': 'denoiser', 'backbone': str(leaking)}
    models = {'net': {'class_path': TASK, 'init_args': given}}
    study = read_study(tmp_path, world / 'rich', models=models, seeds=1)
    (run,) = Engine(study).run(study.cells())
    assert '8 test samples of SyntheticAugmentedDataModule are among' in run.reason


def test_refuses_settings_of_other_networks(generator: Path) -> None:
    with pytest.raises(ValueError, match="weights=True and stem='widen' are of other"):
        task(generator, weights=True)
