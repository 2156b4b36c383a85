# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The part of a GPU that training and drawing by the command line use.

python experiments/benchmarks/gpu_product.py product --out FOLDER (gpu.sh runs it, too)

Makes patches, learns both stages from them by ``torchgeo fit``, draws pairs by
``torchgeo-specdm generate``, and writes seconds to FOLDER/product.json and profiles of
the steps to FOLDER/profile-STAGE.txt.
"""

import time

BEGAN = time.time()

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from gpu import SPEC, device, note, read_options, seconds, turn, wait
from lightning.pytorch import Callback
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torchgeo.main import main as torchgeo

from torchgeo_specdm.cli import main as specdm
from torchgeo_specdm.diffusion.generator import Generator
from torchgeo_specdm.pairs.writer import PairWriter

#: Steps before those that are timed, and those that are profiled behind them.
WARM_UP, PROFILED = 8, 3
#: Rows of a profile.
SHOWN = 12


def main(arguments: list[str] | None = None) -> None:
    options = read_options(__doc__, ['product'], arguments)
    write_patches(options.out / 'patches', options.patches, options.size)
    for stage in ('autoencoder', 'diffusion'):
        learn(options, stage)
    draw(options)


def write_patches(root: Path, count: int, size: int) -> None:
    """Blocks of classes, as many pairs to learn from as asked for."""
    random = np.random.default_rng(0)
    writer = PairWriter(root, SPEC, {}, {'size': size})
    names = [f'{index:05d}\n' for index in range(count + 4)]
    for index, name in enumerate(names):
        shape = len(SPEC.bands), size, size
        mask = random.integers(0, len(SPEC.classes), (size // 8, size // 8))
        mask = mask.repeat(8, 0).repeat(8, 1)
        image = 300 * mask + random.normal(1000, 50, shape)
        writer.write(name.strip(), image.round(), mask, {'index': index})
    for split, ids in {
        'train': names[:count],
        'val': names[count : count + 2],
        'test': names[count + 2 :],
    }.items():
        (root / f'{split}.txt').write_text(''.join(ids))
    writer.finish('Patches of a benchmark.\n')


def learn(options: argparse.Namespace, stage: str) -> None:
    """Train a stage as its YAML in experiments does, and time its steps."""
    pairs: Any = {
        'class_path': 'torchgeo_specdm.PairFolderDataModule',
        'init_args': {
            'root': str(options.out / 'patches'),
            'batch_size': options.batch,
            'patch_size': options.size,
        },
    }
    latents: Any = {
        'class_path': 'torchgeo_specdm.LatentDataModule',
        'init_args': {'real': pairs, 'passes': 4, 'batch_size': options.latents},
    }
    first = stage == 'autoencoder'
    clock = {'out': str(options.out), 'stage': stage, 'steps': options.steps}
    config = {
        'seed_everything': 0,
        'trainer': {
            'max_steps': WARM_UP + options.steps + PROFILED,
            'plugins': {'class_path': 'torchgeo_specdm.AutoPrecision'},
            'gradient_clip_val': 1.0,
            'limit_val_batches': 0,
            'num_sanity_val_steps': 0,
            'logger': False,
            'enable_checkpointing': False,
            'default_root_dir': str(options.out / f'logs-{stage}'),
            'callbacks': [{'class_path': 'gpu_product.Clock', 'init_args': clock}],
        },
        'model': {
            'class_path': 'torchgeo_specdm.SpecDMTask',
            'init_args': {
                'stage': stage,
                'codec': 'two_stream' if first else str(options.out / 'autoencoder'),
                'preset': options.preset,
                'out': str(options.out / stage),
            },
        },
        'data': pairs if first else latents,
    }
    path = options.out / f'{stage}.yaml'
    path.write_text(yaml.safe_dump(config))
    began = BEGAN if first else time.time()
    torchgeo(['fit', '--config', str(path)])
    clocked = json.loads((options.out / f'clock-{stage}.json').read_text())
    start = 'process' if first else 'stage'
    note(
        options,
        **{
            f'{stage}, product': clocked['seconds'],
            f's to the first step of {stage}, from the start of the {start}': (
                clocked['first'] - began
            ),
            f'share of a step of {stage} in which the device is idle': clocked['idle'],
            f'kernels in a step of {stage}': clocked['kernels'],
            f'operations of PyTorch in a step of {stage}': clocked['operations'],
        },
    )


class Clock(Callback):
    """Times and profiles steps of a training.

    Args:
        out: Folder of results.
        stage: Name of the stage.
        steps: Steps that are timed.
    """

    def __init__(self, out: str, stage: str, steps: int) -> None:
        self.out, self.stage, self.steps = Path(out), stage, steps
        self.found: dict[str, float] = {}
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self.profile = profile(activities=activities)
        self.turn = turn(self.out)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        done = trainer.global_step - WARM_UP
        if done == 1 - WARM_UP:
            wait()
            self.found['first'] = time.time()
        if done == 0:
            self.turn.__enter__()
            wait()
            self.began = time.perf_counter()
        elif done == self.steps:
            wait()
            self.found['seconds'] = (time.perf_counter() - self.began) / self.steps
            self.profile.start()
        elif done == self.steps + PROFILED:
            wait()
            self.profile.stop()
            self.turn.__exit__(None, None, None)
            self.write()

    def write(self) -> None:
        averages = self.profile.key_averages()
        # an annotation covers kernels that are there by themselves
        kernels = [
            x
            for x in averages
            if x.device_type != DeviceType.CPU and not x.is_user_annotation
        ]
        busy = sum(x.self_device_time_total for x in kernels) / PROFILED / 1e6
        own = [x.count for x in averages if x.key.startswith('aten::')]
        self.found |= {
            'idle': 1 - busy / self.found['seconds'] if kernels else float('nan'),
            'kernels': sum(x.count for x in kernels) / PROFILED,
            'operations': sum(own) / PROFILED,
        }
        text = json.dumps(self.found)
        (self.out / f'clock-{self.stage}.json').write_text(text)
        lines = [f'ms a step, of {1000 * self.found["seconds"]:.1f} unprofiled']
        for title, field in (
            ('device', 'self_device_time_total'),
            ('host', 'self_cpu_time_total'),
        ):
            chosen = kernels if title == 'device' else averages
            for x in sorted(chosen, key=lambda x: -getattr(x, field))[:SHOWN]:
                taken, times = getattr(x, field) / PROFILED / 1000, x.count / PROFILED
                lines.append(f'{title:6} {taken:8.3f} {times:7.1f} x {x.key[:90]}')
        path = self.out / f'profile-{self.stage}.txt'
        path.write_text('\n'.join(lines) + '\n')


def draw(options: argparse.Namespace) -> None:
    """Draw and write pairs; what two runs have in common is their start."""
    folder, count = options.out / 'diffusion', options.latents
    generator: Any = Generator.load(folder).to(device())
    steps, codec = generator.config['sampling']['steps'], generator.codec
    cells = codec.latent_size(options.size, options.size)
    latent = torch.randn(count, codec.latent_channels, *cells, device=device())
    times = torch.full((count, len(codec.streams)), 500, device=device())

    def forwards() -> None:
        with torch.no_grad():
            generator.denoiser(latent, times)

    with turn(options.out):
        bare = steps * seconds(forwards, 3) / count
        taken = []
        for batches in (1, 3):
            started = time.perf_counter()
            specdm(
                [
                    *('generate', '--generator', str(folder)),
                    *('--out', str(options.out / f'drawn-{batches}')),
                    *('--count', str(batches * count), '--batch-size', str(count)),
                ]
            )
            taken.append(time.perf_counter() - started)
    product = (taken[1] - taken[0]) / 2 / count
    note(
        options,
        **{
            f'ms of {steps} bare forwards for a sample': 1000 * bare,
            'ms for a sample drawn and written': 1000 * product,
            'of the speed of bare forwards': bare / product,
        },
    )


if __name__ == '__main__':
    main()
