# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Stages that are stopped, and the same command after that."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from torch import Tensor

from torchgeo_specdm import SpecDMTask
from torchgeo_specdm.codecs import load_codec
from torchgeo_specdm.study.configs import pairs_config
from torchgeo_specdm.study.stages import learn_stage


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


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04' * 99])
def test_a_damaged_checkpoint_is_named(
    learn: Callable[[], Path], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / 'logs' / 'autoencoder' / 'last.ckpt'
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'{path} is no whole checkpoint .*Delete it'):
        learn()
