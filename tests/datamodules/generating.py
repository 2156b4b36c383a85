# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Generation through the command line and the Python API."""

import json
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torchgeo.main import main

from torchgeo_specdm import GenerationDataModule, SpecDMTask

from ..conftest import Run, quiet_trainer

#: 11 batches of 4, the last one of 2.
COUNT = 42


def config_of(
    generator: Path, out: Path, trainer: dict[str, Any] | None = None, **data: Any
) -> Path:
    """A configuration for ``torchgeo predict``."""
    quiet = {
        'accelerator': 'cpu',
        'logger': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
    }
    config = {
        'trainer': quiet | {'default_root_dir': str(out.parent)} | (trainer or {}),
        'model': {
            'class_path': 'torchgeo_specdm.SpecDMTask',
            'init_args': {'stage': 'diffusion', 'generator': str(generator)},
        },
        'data': {
            'class_path': 'torchgeo_specdm.GenerationDataModule',
            'init_args': {'out': str(out), 'count': COUNT, 'batch_size': 4} | data,
        },
    }
    path = out.parent / f'{out.name}.yaml'
    path.write_text(json.dumps(config))
    return path


def predict(config: Path) -> None:
    """Run ``torchgeo predict`` in this process, which saves the imports."""
    with warnings.catch_warnings():
        # the CLI does not like to be called with pytest's own arguments around
        warnings.simplefilter('ignore')
        main(['predict', '--config', str(config)])


def draw(run: Run, data: GenerationDataModule, root: Path, **trainer: Any) -> Trainer:
    """Predict through the Python API."""
    task = SpecDMTask('diffusion', generator=str(run.out))
    made = quiet_trainer(root, **trainer)
    made.predict(task, data)
    return made
