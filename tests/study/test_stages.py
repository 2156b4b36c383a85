# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Stages that are stopped, and the same command after that."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from torchgeo_specdm import (
    MultispectralChangeDetectionTask,
    MultispectralSegmentationTask,
    SpecDMTask,
)
from torchgeo_specdm.codecs import load_codec
from torchgeo_specdm.study.configs import pairs_config
from torchgeo_specdm.study.stages import learn_stage
from torchgeo_specdm.trust.task import TrustTask


@pytest.fixture
def learn(
    pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
) -> Callable[[], Path]:
    """Four steps of stage autoencoder."""
    plan = {
        'steps': {'autoencoder': 4},
        'precision': '32-true',
        'settings': tiny_settings,
        'batch_size': 8,
        'patch_size': 32,
    }
    data = pairs_config(pair_folder, plan, 0)
    return lambda: learn_stage('autoencoder', 'two_stream', data, tmp_path, plan, 0)


def test_a_stage_that_is_stopped_loses_no_step(
    learn: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    whole = SpecDMTask.training_step

    def step(task: SpecDMTask, *arguments: Any) -> Tensor:
        taken.append(task.global_step)
        if taken == [0, 1, 2]:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(task, *arguments)

    def full(*arguments: Any) -> None:
        raise SafetensorError('No space left on device')

    monkeypatch.setattr(SpecDMTask, 'training_step', step)
    with pytest.raises(SystemExit):
        learn()
    assert taken == [0, 1, 2]
    # then a disk is full when all is learned
    with monkeypatch.context() as patch:
        patch.setattr('torchgeo_specdm.files.save_file', full)
        with pytest.raises(OSError, match=r'model\.safetensors could not be written'):
            learn()
    load_codec(learn())
    assert taken == [0, 1, 2, 3]


class Planted(SpecDMTask):
    """A class that the folder of a stranger names."""

    made = False

    def __init__(self, **arguments: Any) -> None:
        Planted.made = True


HERE = f'{__name__}.Planted'
TASKS = (
    SpecDMTask,
    TrustTask,
    MultispectralSegmentationTask,
    MultispectralChangeDetectionTask,
)
OURS = 'torchgeo_specdm.tasks.specdm.SpecDMTask'


@pytest.mark.parametrize(
    'given, said',
    [
        ({'_class_path': HERE}, r"last\.ckpt names the class \['tests.*Delete it"),
        ({'class_path': HERE, 'init_args': {}}, r'last\.ckpt names the class'),
        # an argument of a class that may be built
        (
            {
                '_class_path': OURS,
                'stage': 'autoencoder',
                'settings': {'denoiser': {'class_path': HERE}},
            },
            r"settings \['denoiser\.class_path'\] do not exist",
        ),
    ],
)
def test_a_checkpoint_runs_no_code(
    learn: Callable[[], Path], tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    path = tmp_path / 'logs' / 'autoencoder' / 'last.ckpt'
    path.parent.mkdir(parents=True)
    torch.save({'hyper_parameters': given}, path)
    with pytest.raises(ValueError, match=said):
        learn()
    assert not Planted.made


@pytest.mark.parametrize('task', TASKS)
def test_no_argument_of_a_task_can_be_any_object(task: Any) -> None:
    # jsonargparse builds what is called so, if it names a class
    for name, hint in get_type_hints(task.__init__).items():
        assert 'Any' not in str(hint), name


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04' * 99])
def test_a_damaged_checkpoint_is_named(
    learn: Callable[[], Path], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / 'logs' / 'autoencoder' / 'last.ckpt'
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'{path} is no whole checkpoint .*Delete it'):
        learn()
