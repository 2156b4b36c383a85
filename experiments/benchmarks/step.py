# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The cost of a training step beside that of a bare loop over the same network.

python experiments/benchmarks/step.py --out runs/step

After every few steps of a fit, the bare loop (forward, backward and AdamW on one batch,
nothing else) takes as many with a copy of the network, so that both meet the same load.
On a CPU processor time is measured, on a GPU the time of day.
"""

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim import AdamW

from torchgeo_specdm import (
    AutoPrecision,
    LatentDataModule,
    PairFolderDataModule,
    SpecDMTask,
)
from torchgeo_specdm.scenes.writing import write_scenes

#: Steps that are not measured: patches are read, and averages move at each step.
_FIRST = 100
#: Steps of either loop before it is the other one's turn.
_BLOCK = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--preset', default='tiny')
    parser.add_argument('--blocks', type=int, default=20, help='of five steps each')
    parser.add_argument('--size', type=int, default=64, help='pixels of a side')
    parser.add_argument('--batch', type=int, default=16)
    options = parser.parse_args()
    data = options.out / 'data'
    write_scenes(data, (160, 16, 16), options.size)
    seed_everything(0)
    codec = options.out / 'autoencoder'
    table = ['| step | ours, ms | bare, ms | ratio | 10 to 90 % of blocks |']
    table += ['|---|---|---|---|---|']
    for name, stage, given in (
        ('stage 1', 'autoencoder', 'two_stream'),
        ('stage 2, latents of a cache', 'diffusion', str(codec)),
        ('stage 2, pixels', 'diffusion', 'pixels'),
    ):
        real: Any = PairFolderDataModule(str(data), options.batch)
        used = real if stage == 'autoencoder' else LatentDataModule(real)
        out = str(codec if stage == 'autoencoder' else options.out / name)
        task = SpecDMTask(stage, out, given, options.preset)  # type: ignore[arg-type]
        pairs = Paired()
        steps = _FIRST + _BLOCK * options.blocks
        trainer = Trainer(
            max_steps=steps,
            gradient_clip_val=1.0,
            plugins=AutoPrecision(),
            default_root_dir=options.out,
            logger=CSVLogger(options.out),
            callbacks=[pairs, TQDMProgressBar()],
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(task, used)
        table.append(f'| {name} | {pairs.row()} |')
    # progress bars share the output
    print('\n'.join(['', *table]))


class Paired(Callback):
    """Takes turns with a bare loop, and notes the seconds of both."""

    def __init__(self) -> None:
        self.ours: list[float] = []
        self.bare: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: dict[str, Tensor], *rest: Any
    ) -> None:
        if trainer.global_step == 0:
            self.step = bare_step(pl_module, batch)

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        done = trainer.global_step - _FIRST
        if done < 0 or done % _BLOCK:
            return
        if done:
            self.ours.append((now() - self.begun) / _BLOCK)
            begun = now()
            for _ in range(_BLOCK):
                self.step()
            self.bare.append((now() - begun) / _BLOCK)
        self.begun = now()

    def row(self) -> str:
        """The cells of a table."""
        ratios = [one / other for one, other in zip(self.ours, self.bare, strict=True)]
        low, *_, high = quantiles(ratios, n=10)
        ours, bare = (1000 * median(x) for x in (self.ours, self.bare))
        return f'{ours:.1f} | {bare:.1f} | {median(ratios):.3f} | {low:.2f}, {high:.2f}'


def bare_step(task: Any, batch: dict[str, Tensor]) -> Callable[[], None]:
    """A step of a copy of the trained network, on one batch.

    Args:
        task: The task, its networks made.
        batch: A batch as the task gets it.

    Returns:
        The step.
    """
    if task.stage == 'autoencoder':
        network = deepcopy(task.model.codec)
        sample = task._digital(batch)

        def loss() -> Tensor:
            return network.loss(sample)['loss']
    else:
        network = deepcopy(task.model.denoiser)
        process = task.model.generator.process
        latent, _ = task.model._latent(task._digital(batch))
        noise = torch.randn_like(latent)
        times, _ = process.draw_times(len(latent))

        def loss() -> Tensor:
            return (network(latent, times) - noise).square().mean()

    optimizer = AdamW(network.parameters(), 1e-6, fused=True)
    precision = task.trainer.precision_plugin

    def step() -> None:
        with precision.forward_context():
            value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


if __name__ == '__main__':
    main()
