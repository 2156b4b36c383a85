# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Fixtures that more than one test file uses."""

import errno
import gc
import json
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torchgeo.datamodules import BaseDataModule

from tests.data.pairs import write_tiff
from tests.study.fakes import open_data, pixel_codec, write_generator
from torchgeo_specdm import (
    LatentDataModule,
    PairFolder,
    PairFolderDataModule,
    SpecDMTask,
)
from torchgeo_specdm.pairs import cache

matplotlib.use('agg')
torch.set_num_threads(1)
# processes that tests start compute with as many, or their floats would differ
os.environ['OMP_NUM_THREADS'] = '1'

# nothing that tests write must outlive a power cut
os.fsync = lambda file: None

_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: Any) -> None:
    """Refuse what a machine without a network could not do."""
    if isinstance(address, tuple) and address[0] not in ('127.0.0.1', '::1'):
        raise OSError(errno.ENETUNREACH, f'tests use no network, not even {address}')
    _connect(self, address)


socket.socket.connect = _connect_here  # type: ignore[method-assign]

PAIR_BANDS = ('B02', 'B03', 'B04', 'B08', 'B11', 'B12')
PAIR_CLASSES = ('water', 'forest', 'crops', 'town')
#: Digital numbers of each class (rows) in each band.
PAIR_SPECTRA = np.array(
    [
        [900, 700, 400, 200, 120, 80],
        [300, 500, 350, 3200, 1500, 700],
        [600, 900, 800, 2600, 2400, 1600],
        [1500, 1700, 1900, 2200, 2500, 2300],
    ]
)
PAIR_SIZE = 32
PAIR_LISTS = {'train': 16, 'val': 4, 'test': 4}


def pytest_collection_finish() -> None:
    """Look for no garbage in what was imported: a study looks for some at each run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept of the files of tests is theirs alone."""
    cache.HOME = tmp_path_factory.mktemp('cache')
    return cache.HOME


@pytest.fixture(autouse=True)
def settings_of_gdal() -> None:
    """TorchGeo's command line leaves settings for GDAL behind, even in fixtures."""
    for name in [*os.environ]:
        if name.startswith('GDAL_'):
            del os.environ[name]


def write_pair_folder(root: Path, dates: int = 1, seed: int = 0) -> Path:
    """Write GeoTIFFs of blocks: every class has its spectrum, every date its light."""
    random = np.random.default_rng(seed)
    names = [f'{i:03d}' for i in range(sum(PAIR_LISTS.values()))]
    for name in names:
        blocks = random.integers(0, len(PAIR_CLASSES), (2, 2))
        mask = blocks.repeat(PAIR_SIZE // 2, 0).repeat(PAIR_SIZE // 2, 1)
        for date in range(dates):
            light = random.uniform(0.8, 1.2)
            image = PAIR_SPECTRA[mask].transpose(2, 0, 1) * light
            image = image + random.normal(0, 20, image.shape)
            stem = name if dates == 1 else f'{name}_{date + 1}'
            tile = image.clip(0, 65535).astype(np.uint16)
            write_tiff(root / 'images' / f'{stem}.tif', tile, PAIR_BANDS)
        # a strip without labels, as real masks have
        mask[0, :3] = 255
        path = root / 'masks' / f'{name}.tif'
        write_tiff(path, mask[None].astype(np.uint8), ['class'])
    start = 0
    for split, count in PAIR_LISTS.items():
        listed = names[start : start + count]
        (root / f'{split}.txt').write_text('\n'.join(listed) + '\n')
        start += count
    description: dict[str, Any] = {
        'bands': PAIR_BANDS,
        'classes': PAIR_CLASSES,
        'dates': dates,
        'scale': 1e-4,
        'dtype': 'uint16',
        'ignore_index': 255,
    }
    (root / 'dataset.json').write_text(json.dumps(description))
    return root


@pytest.fixture(scope='session')
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 labelled patches of 32 pixels: 6 bands, 4 classes, 3 lists."""
    root = write_pair_folder(tmp_path_factory.mktemp('pairs') / 'folder')
    assert len(PairFolder(root)) == sum(PAIR_LISTS.values())
    return root


@pytest.fixture(scope='session')
def tiny_settings() -> dict[str, Any]:
    """Settings of networks that learn a little in seconds."""
    branch = {'layers': 1, 'stem': 2, 'groups': 8, 'attention': False}
    return {
        'autoencoder': {'lr': 5e-3, 'warmup': 0},
        'diffusion': {'lr': 3e-3, 'warmup': 0, 'ema': 0.9},
        'denoiser': {
            'widths': [16, 32],
            'attention': [False, False],
            'layers': 1,
            'groups': 8,
            'head_dim': 16,
        },
        'sampling': {'steps': 4},
        'two_stream': {
            'codec': {
                'image_widths': [16, 32],
                'mask_widths': [16, 32],
                'image_latents': 4,
                'mask_latents': 2,
                **branch,
            }
        },
        'single_stream': {'codec': {'widths': [16, 32], 'latents': 6, **branch}},
    }


def quiet_trainer(root: Path | None = None, **overrides: Any) -> Trainer:
    """A trainer on one core that writes nothing but what is asked of it."""
    settings: dict[str, Any] = {
        'default_root_dir': root,
        'accelerator': 'cpu',
        'logger': False,
        'enable_checkpointing': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'log_every_n_steps': 1,
    }
    return Trainer(**settings | overrides)


def calls_of(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> list[tuple[Any, ...]]:
    """The arguments of all calls of a function, or method, from now on."""
    calls, call = list[tuple[Any, ...]](), getattr(owner, name)

    def count(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return call(*arguments, **named)

    monkeypatch.setattr(owner, name, count)
    return calls


class Run(NamedTuple):
    """A training that has ended."""

    #: The folder that it wrote.
    out: Path
    #: Lightning's checkpoint of the last epoch.
    checkpoint: Path
    task: SpecDMTask
    trainer: Trainer
    #: The loss of each step.
    losses: list[float]


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        outputs = args[2]
        self.values.append(float(outputs['loss'].detach()))


def train(
    task: SpecDMTask,
    data: BaseDataModule,
    root: Path,
    epochs: int,
    validate_every: int | None = None,
    resume: Path | None = None,
) -> Run:
    """Fit a task through Lightning, from a checkpoint if there is one."""
    losses = Losses()
    checkpoint = ModelCheckpoint(root / 'checkpoints', save_last=True)
    trainer = quiet_trainer(
        root,
        max_epochs=epochs,
        enable_checkpointing=True,
        callbacks=[losses, checkpoint],
        check_val_every_n_epoch=validate_every or epochs,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, data, ckpt_path=resume)
    # a run that takes no step proves nothing
    assert trainer.global_step > 0
    assert task.out is not None
    last = Path(checkpoint.last_model_path)
    return Run(Path(task.out), last, task, trainer, losses.values)


@pytest.fixture(scope='session')
def autoencoder_run(
    pair_folder: Path,
    tiny_settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Stage autoencoder: a two-stream codec after 16 steps."""
    seed_everything(0, verbose=False)
    root = tmp_path_factory.mktemp('autoencoder')
    task = SpecDMTask('autoencoder', str(root / 'codec'), settings=tiny_settings)
    data = PairFolderDataModule(str(pair_folder), batch_size=8)
    return train(task, data, root, epochs=8)


@pytest.fixture(scope='session')
def diffusion_run(
    pair_folder: Path,
    autoencoder_run: Run,
    tiny_settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Stage diffusion on cached latents: a two-stream generator after 16 steps."""
    seed_everything(0, verbose=False)
    root = tmp_path_factory.mktemp('diffusion')
    codec = str(autoencoder_run.out)
    task = SpecDMTask(
        'diffusion', str(root / 'generator'), codec, 'tiny', tiny_settings
    )
    data = LatentDataModule(PairFolderDataModule(str(pair_folder), batch_size=8), 2)
    return train(task, data, root, epochs=4)


@pytest.fixture(scope='session')
def untrained(
    pair_folder: Path,
    tiny_settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a generator of the 24 patches that never learned anything."""
    out = tmp_path_factory.mktemp('untrained') / 'generator'
    return write_generator(pixel_codec(open_data(pair_folder)), tiny_settings, out)


@pytest.fixture
def pixels(tiny_settings: dict[str, Any], tmp_path: Path) -> SpecDMTask:
    """Stage diffusion of pixels, untrained; it writes to ``g``."""
    return SpecDMTask('diffusion', str(tmp_path / 'g'), 'pixels', 'tiny', tiny_settings)


def pairs(folder: Path, **settings: Any) -> PairFolderDataModule:
    """The datamodule of a folder, two batches in an epoch."""
    return PairFolderDataModule(str(folder), **{'batch_size': 8} | settings)
