# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Small worlds in which it is known whether synthetic samples help, and studies."""

import csv
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from torchgeo_specdm import MultispectralSegmentationTask, SampleSpec
from torchgeo_specdm.pairs.writer import PairWriter
from torchgeo_specdm.study.design import Cell, Study
from torchgeo_specdm.study.engine import Engine

SPEC = SampleSpec(('B02', 'B03', 'B04', 'B08'), ('water', 'forest', 'crops', 'town'))
SPECTRA = np.array(
    [
        [900, 700, 400, 200],
        [300, 500, 350, 3200],
        [600, 900, 800, 2600],
        [1500, 1700, 1900, 2200],
    ]
)
Sample = tuple[NDArray[np.float64], NDArray[np.int64]]


def write_world(root: Path) -> Path:
    """Two real data sets, and two sets of many "synthetic" pairs of the same world.

    The eight training samples of ``poor`` show half of the classes and those of
    ``rich`` all of them. The pairs of ``right`` are as real as the test samples, so
    they must help the poor; in ``wrong``, every class bears the name of the next one,
    so they must harm the rich.
    """
    random = np.random.default_rng(0)
    everything = range(len(SPECTRA))
    for name, classes in (('poor', (0, 1)), ('rich', everything)):
        train = [draw(random, classes) for _ in range(8)]
        write(root / name, train + [draw(random, everything) for _ in range(10)])
        for split, numbers in (('train', (0, 8)), ('val', (8, 10)), ('test', (10, 18))):
            ids = ''.join(f'{i:03d}\n' for i in range(*numbers))
            (root / name / f'{split}.txt').write_text(ids)
    pairs = [draw(random, everything) for _ in range(32)]
    write(root / 'right', pairs)
    wrong = [(image, (mask + 1) % len(SPECTRA)) for image, mask in pairs]
    write(root / 'wrong', wrong)
    return root


def draw(random: np.random.Generator, classes: Sequence[int]) -> Sample:
    """Blocks of classes under a light of their own, with noise."""
    mask = random.choice(classes, (4, 4)).repeat(8, 0).repeat(8, 1)
    light = random.uniform(0.8, 1.2)
    image = SPECTRA[mask].transpose(2, 0, 1) * light
    return image + random.normal(0, 100, image.shape), mask


def write(root: Path, samples: list[Sample]) -> None:
    """A folder of pairs."""
    writer = PairWriter(root, SPEC, {}, {})
    for i, (image, mask) in enumerate(samples):
        writer.write(f'{i:03d}', image, mask, {'index': i})
    writer.finish('A test.')


class TinyTask(MultispectralSegmentationTask):
    """A network of two layers, which is enough for these worlds."""

    def build_network(self) -> nn.Module:
        bands, classes = self.hparams['in_channels'], self.hparams['num_classes']
        encoder = nn.Sequential(nn.Conv2d(bands, 32, 3, padding=1), nn.ReLU())
        return nn.Sequential(
            OrderedDict(encoder=encoder, head=nn.Conv2d(32, classes, 1))
        )


def tiny_task(**changes: Any) -> dict[str, Any]:
    """The smallest network there is."""
    arguments = {'lr': 1e-2, 'head_lr_factor': 1.0, **changes}
    return {'class_path': f'{__name__}.{TinyTask.__name__}', 'init_args': arguments}


def pairs_data(folder: Path, batch_size: int = 8) -> dict[str, Any]:
    """A folder of pairs as a datamodule."""
    given = {'root': str(folder), 'batch_size': batch_size}
    return {'class_path': 'torchgeo_specdm.PairFolderDataModule', 'init_args': given}


def write_yaml(root: Path, folder: Path, **keys: Any) -> Path:
    """The YAML of a small study; a key of None is left out."""
    quiet = {'enable_progress_bar': False, 'accelerator': 'cpu'}
    study = {
        'out': str(root / 'out'),
        'data': pairs_data(folder),
        'models': {'net': tiny_task()},
        'seeds': 2,
        'updates': 2,
        'trainer': quiet,
        **keys,
    }
    root.mkdir(parents=True, exist_ok=True)
    path = root / 'study.yaml'
    given = {key: value for key, value in study.items() if value is not None}
    path.write_text(yaml.safe_dump(given))
    return path


def read_study(root: Path, folder: Path, **keys: Any) -> Study:
    """A small study, read from its YAML."""
    return Study.read(write_yaml(root, folder, **keys))


class Watch(Callback):
    """What a training begins with and is given."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.steps = 0
        #: Hash of the initial weights, of each real sample and of each batch.
        self.weights = ''
        self.real: set[str] = set()
        self.batches: list[str] = []
        self.counts = (0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = pl_module.state_dict()
        self.weights = digest(*state.values())
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        dataset = datamodule.train_dataset
        # what mixes batches wraps what mixes sets
        inner = datamodule if hasattr(datamodule, 'counts') else datamodule.real
        self.counts = inner.counts
        self.real = {digest(dataset[i]['image']) for i in range(inner.counts[0])}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(digest(batch['image'], batch['mask']))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps = trainer.global_step


def digest(*tensors: Tensor) -> str:
    """A hash of numbers."""
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.detach().cpu().numpy().tobytes())
    return content.hexdigest()[:12]


def watched(study: Study) -> tuple[Engine, list[Watch]]:
    """An engine, and all trainings that it will do."""
    seen: list[Watch] = []

    def callbacks(title: str) -> list[Callback]:
        seen.append(Watch(title))
        return [seen[-1]]

    return Engine(study, callbacks, lambda said: None), seen


def tiny_recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """A generator of folded pixels that is learned in two steps."""
    return {
        'codec': 'pixels',
        'settings': {**settings, 'pixels': {'codec': {'fold': 4}}},
        'diffusion': 2,
        'passes': 2,
        'batch_size': 4,
    }


def cell(study: Study, arm: str, seed: int = 0, **changes: Any) -> Cell:
    """The first cell of an arm and a seed."""
    found = next(c for c in study.cells() if (c.arm, c.seed) == (arm, seed))
    return found._replace(**changes)


def table_of(out: Path) -> list[list[str]]:
    """The table of a study without its seconds."""
    with (out / 'runs.csv').open(encoding='utf-8', newline='') as file:
        head, *lines = csv.reader(file)
    place = head.index('seconds')
    return [line[:place] + line[place + 1 :] for line in [head, *lines]]
