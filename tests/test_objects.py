# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from torchgeo.datamodules import BaseDataModule, LandCoverAIDataModule

from torchgeo_specdm import SyntheticAugmentedDataModule
from torchgeo_specdm.compat import SemanticSegmentationTask
from torchgeo_specdm.objects import make_object

LAND: dict[str, Any] = {
    'class_path': 'LandCoverAIDataModule',
    'init_args': {'batch_size': 4},
    'dict_kwargs': {'root': 'land'},
}
FULL = LAND | {'class_path': 'torchgeo.datamodules.LandCoverAIDataModule'}
WRAPPER = 'torchgeo_specdm.SyntheticAugmentedDataModule'
COMMAND: dict[str, Any] = {
    'class_path': 'subprocess.check_output',
    'init_args': {'args': ['touch', 'planted']},
}


@pytest.mark.parametrize('config', [LAND, FULL])
def test_arguments_behind_kwargs(config: dict[str, Any]) -> None:
    made = make_object(config, BaseDataModule)
    assert isinstance(made, LandCoverAIDataModule)
    assert made.batch_size == 4 and made.kwargs['root'] == 'land'


def test_objects_within_objects() -> None:
    config = {'class_path': WRAPPER, 'init_args': {'real': LAND, 'ratio': 0}}
    made = make_object(config, BaseDataModule, seed=3)
    assert isinstance(made, SyntheticAugmentedDataModule)
    assert made.real.kwargs['root'] == 'land'


def test_tasks() -> None:
    config = {'class_path': 'SemanticSegmentationTask', 'init_args': {'model': 'fcn'}}
    made = make_object(
        config, LightningModule, num_filters=4, in_channels=2, num_classes=3
    )
    assert isinstance(made, SemanticSegmentationTask)
    assert made.hparams['in_channels'] == 2


@pytest.mark.parametrize(
    'config, said',
    [
        ({}, 'class_path=None gives no BaseDataModule'),
        ({'class_path': 7}, 'class_path=7 gives no BaseDataModule'),
        ({'class_path': 'nowhere.X'}, "No module named 'nowhere'"),
        ({'class_path': 'torchgeo.datamodules.Nothing'}, "no attribute 'Nothing'"),
        (LAND | {'init_args': {'root': 'land'}}, "Option 'root' is not accepted"),
        (LAND | {'init_args': {'batch_size': 'many'}}, 'Got value: many'),
        ({'class_path': 'SemanticSegmentationTask'}, 'gives no BaseDataModule'),
    ],
)
def test_refuses(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r'as torchgeo fit takes them\.$') as error:
        make_object(config, BaseDataModule)
    assert said in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'config',
    [COMMAND, {'class_path': WRAPPER, 'init_args': {'real': COMMAND, 'ratio': 0}}],
)
def test_only_the_wanted_kind_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='not correspond to a subclass of BaseDataM'):
        make_object(config, BaseDataModule)
    assert not [*tmp_path.iterdir()]
