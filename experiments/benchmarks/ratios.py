# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Costs of this software beside the bare networks, as ratios with their bars.

python experiments/benchmarks/ratios.py --out runs/benchmark

Both sides of a ratio are measured in turn in one process, several times; printed are
medians and ranges. Times are those of all processors that a process used, so that they
hold on a shared machine. Everything is made here: procedural scenes, untrained networks.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import diffusers
import torch
import yaml
from growth import Cost, draw, in_own_process, measure
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import Dataset

from torchgeo_specdm import (
    Generator,
    MultispectralSegmentationTask,
    PairFolder,
    PairFolderDataModule,
    SpecDMTask,
    SyntheticAugmentedDataModule,
)
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.pairs import cache
from torchgeo_specdm.pairs.facts import fingerprints
from torchgeo_specdm.pairs.fingerprint import write_seen_samples
from torchgeo_specdm.presets import generator_settings, load_preset
from torchgeo_specdm.scenes.writing import write_scenes


class Row(NamedTuple):
    """A line of the table."""

    what: str
    values: list[float]
    bar: float
    at_most: bool  #: whether the bar is an upper one

    def __str__(self) -> str:
        """The line, in Markdown."""
        value = median(self.values)
        met = value <= self.bar if self.at_most else value >= self.bar
        spread = f'{min(self.values):.3g} to {max(self.values):.3g}'
        bar = f'{"at most" if self.at_most else "at least"} {self.bar:g}'
        spread = spread if len(self.values) > 1 else 'once'
        verdict = 'met' if met else 'not met'
        return f'| {self.what} | {value:.3g} | {spread} | {bar} | {verdict} |'


class Settings(NamedTuple):
    """Sizes of what is measured."""

    out: Path
    side: int = 64  #: pixels of a patch
    scenes: int = 160  #: for training
    batch: int = 16
    steps: int = 8  #: of a training that is timed
    rounds: int = 3
    blocks: int = 20  #: of five steps of both stages
    drawn: int = 64
    many: int = 1000  #: steps of DDPM
    counts: tuple[int, ...] = (1000, 10_000, 40_000, 100_000)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--only', nargs='+', choices=[*PARTS], default=[*PARTS])
    parser.add_argument('--small', action='store_true', help='try it in seconds')
    options = parser.parse_args(arguments)
    settings = Settings(options.out.absolute())
    if options.small:
        small = Settings(options.out.absolute(), 16, 20, 4, 2, 1, 2, 8, 20, (70, 80))
        settings = small
    torch.set_num_threads(1)
    # nothing may be remembered of runs before
    cache.HOME = settings.out / 'cache'
    os.environ['XDG_CACHE_HOME'] = str(settings.out)
    print(f'{platform.machine()}, {os.cpu_count()} processors, torch', end=' ')
    print(f'{torch.__version__}, one thread\n')
    print('| what | median | range | bar | |\n|---|---|---|---|---|', flush=True)
    for part in options.only:
        for row in PARTS[part](settings):
            print(row, flush=True)


def in_turn(
    rounds: int, ours: Callable[[], object], theirs: Callable[[], object]
) -> list[float]:
    """Ratios of processor time, each of two runs that follow each other."""
    return [processor_time(ours) / processor_time(theirs) for _ in range(rounds)]


def processor_time(run: Callable[[], object]) -> float:
    """Seconds of all processors that a run takes."""
    started = time.process_time()
    run()
    return time.process_time() - started


def scenes(settings: Settings) -> PairFolderDataModule:
    """Procedural scenes."""
    root = settings.out / f'scenes-{settings.side}'
    counts = settings.scenes, settings.batch, settings.batch
    if not (root / 'README.md').exists():
        write_scenes(root, counts, settings.side, seed=0)
    return PairFolderDataModule(str(root), batch_size=settings.batch)


class Clock(Callback):
    """Notes the time at the end of each step."""

    def __init__(self, warm_up: int) -> None:
        self.times: list[float] = []
        self.warm_up = warm_up

    def on_train_batch_end(self, *args: Any) -> None:
        """Note it."""
        self.times.append(time.process_time())

    @property
    def step(self) -> float:
        """Mean seconds of a step after the first ones."""
        timed = self.times[self.warm_up :]
        return (timed[-1] - timed[0]) / (len(timed) - 1)


def product_step(settings: Settings, task: LightningModule, data: Any) -> float:
    """Seconds of a step of Lightning's trainer, after the first epoch."""
    epoch = settings.scenes // settings.batch
    clock = Clock(epoch)
    trainer = Trainer(
        max_steps=epoch + settings.steps + 1,
        accelerator='cpu',
        logger=False,
        callbacks=[clock],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=settings.out,
    )
    trainer.fit(task, data)
    return clock.step


def stages(settings: Settings) -> Iterator[Row]:
    """Steps of both stages, by a script of their own; the range of 80 % of its turns."""
    script = str(Path(__file__).with_name('step.py'))
    sizes = {'size': settings.side, 'batch': settings.batch, 'blocks': settings.blocks}
    options = [f'--{name}={value}' for name, value in sizes.items()]
    command = [sys.executable, script, '--out', str(settings.out / 'step'), *options]
    table = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    for line in table.stdout.splitlines():
        if line.startswith('| stage'):
            name, *_, ratio, spread = line.strip('| ').split(' | ')
            low, high = spread.split(', ')
            values = [float(low), float(ratio), float(high)]
            yield Row(f'{name}: product step / bare step', values, 1.05, True)


def segmenter(settings: Settings) -> Iterator[Row]:
    """A step of the segmentation task, and of its network and optimiser alone."""
    ratios = []
    for _ in range(settings.rounds):
        data = scenes(settings)
        task = MultispectralSegmentationTask(model='segformer', backbone='mit_b0')
        ours = product_step(settings, task, data)
        batch = next(iter(data.train_dataloader()))
        image, mask = batch['image'] / 10_000, batch['mask']
        network: Any = task.model
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
        task.train()

        def bare(
            network: Any = network,
            optimizer: torch.optim.Optimizer = optimizer,
            image: torch.Tensor = image,
            mask: torch.Tensor = mask,
        ) -> None:
            for _ in range(settings.steps):
                optimizer.zero_grad()
                loss: Any = nn.functional.cross_entropy(network(image), mask)
                loss.backward()
                optimizer.step()

        bare()
        ratios.append(ours / (processor_time(bare) / settings.steps))
    yield Row('segmenter: product step / bare step', ratios, 1.05, True)


class InMemory(PairFolderDataModule):
    """The same samples, read once."""

    def setup(self, stage: str) -> None:
        """Keep the training samples."""
        super().setup(stage)
        dataset: Any = self.train_dataset
        self.train_dataset = Kept([dataset[i] for i in range(len(dataset))])


class Kept(Dataset[dict[str, torch.Tensor]]):
    """Samples in memory."""

    def __init__(self, samples: list[dict[str, torch.Tensor]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.samples[index]


def reading(settings: Settings) -> Iterator[Row]:
    """Stage 1 with the shipped datamodule, and with samples in memory."""
    root = str(scenes(settings).root)
    ratios = []
    for _ in range(settings.rounds):
        files, memory = (
            product_step(
                settings,
                SpecDMTask('autoencoder', out=str(settings.out / 'codec')),
                kind(root, batch_size=settings.batch),
            )
            for kind in (PairFolderDataModule, InMemory)
        )
        ratios.append(memory / files)
    what = 'stage 1: samples a second with the shipped datamodule / in memory'
    yield Row(what, ratios, 0.9, False)


def write_generator(settings: Settings) -> Path:
    """Write a generator of the preset tiny that has learned nothing."""
    out = settings.out / f'generator-{settings.side}'
    if out.exists():
        return out
    data = scenes(settings)
    data.setup('fit')
    samples: Any = data.train_dataset
    batch = {
        key: torch.stack([samples[i][key] for i in range(8)]) for key in samples[0]
    }
    preset = load_preset('tiny')
    codec = make_codec('two_stream', data.spec, preset['two_stream']['codec'])
    codec.fit_scaling(batch['image'])
    codec.fit_statistics([batch])
    config = generator_settings(preset, 'two_stream')
    size = [settings.side, settings.side]
    config |= {'stage': 'diffusion', 'patch_size': size}
    Generator.build(codec, config).save(out)
    write_seen_samples(out, fingerprints(samples, images=True))
    return out


def drawing(settings: Settings) -> Iterator[Row]:
    """Drawing into a folder, bare forwards, DDPM and the pipeline of diffusers."""
    folder = write_generator(settings)
    generator = Generator.load(folder)
    shape = generator.codec.latent_channels, *generator._window
    network = generator.denoiser.network

    @torch.no_grad()
    def forwards() -> None:
        noise = torch.randn(settings.batch, *shape)
        times = torch.full((settings.batch, len(generator.codec.streams)), 500)
        for _ in range(20 * settings.drawn // settings.batch):
            generator.denoiser(noise, times)

    def product() -> None:
        number = len(list(settings.out.glob('drawn-*')))
        draw(folder, settings.out / f'drawn-{number}', settings.drawn, settings.batch)

    forwards()
    ratios = in_turn(settings.rounds, forwards, product)
    yield Row('drawing: bare forwards / product, with files', ratios, 0.8, False)

    few = range(2)
    ratios = in_turn(
        1,
        lambda: generator.sample(few, 0, 'sde', 20),
        lambda: generator.sample(few, 0, 'ddpm', settings.many),
    )
    # the share of steps, and a fifth for what is done once
    what = f'drawing: 20 steps of sde / {settings.many} of ddpm'
    yield Row(what, ratios, 1.2 * 20 / settings.many, True)

    config = {k: v for k, v in network.config.items() if not k.startswith('_')}
    config |= {'sample_size': shape[1:], 'class_embed_type': None}
    # whose classes have no types
    library: Any = diffusers
    unet = library.UNet2DModel(**config).eval()
    pipeline = library.DDIMPipeline(unet, library.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    ratios = in_turn(
        settings.rounds,
        lambda: pipeline(settings.batch, num_inference_steps=20, output_type='np'),
        lambda: generator.sample(range(settings.batch), 0, 'ddim', 20),
    )
    yield Row("drawing: diffusers' DDIM pipeline / ours, decoded", ratios, 0.8, False)


def mixing(settings: Settings) -> Iterator[Row]:
    """Set-up of a mixed run, and one read of its samples."""
    folder, synthetic = write_generator(settings), settings.out / 'synthetic'
    draw(folder, synthetic, settings.scenes, settings.batch)
    root = str(scenes(settings).root)

    def set_up() -> None:
        real = PairFolderDataModule(root, batch_size=settings.batch)
        data = SyntheticAugmentedDataModule(real, synthetic)
        data.prepare_data()
        data.setup('fit')

    def read() -> None:
        for pairs in (PairFolder(root), PairFolder(synthetic)):
            for index in range(len(pairs)):
                pairs[index]

    read()
    first = in_own_process(set_up).seconds / in_own_process(read).seconds
    yield Row('set-up of a mixed run / one read of its data', [first], 1.2, True)
    ratios = [
        in_own_process(set_up).seconds / in_own_process(read).seconds
        for _ in range(settings.rounds)
    ]
    yield Row('the same, once the files are known', ratios, 1.2, True)


def starting(settings: Settings) -> Iterator[Row]:
    """Seconds to the help, and to the first step."""
    command = Path(sys.executable).with_name('torchgeo-specdm')
    costs = [run([str(command), '-h']) for _ in range(settings.rounds)]
    seconds = [cost.seconds for cost in costs]
    yield Row('`torchgeo-specdm -h`, seconds', seconds, 1, True)
    config = settings.out / 'first.yaml'
    model = {'stage': 'autoencoder', 'out': str(settings.out / 'first')}
    data = {'root': str(scenes(settings).root), 'batch_size': settings.batch}
    trainer = {'max_steps': 1, 'accelerator': 'cpu', 'logger': False}
    trainer |= {'limit_val_batches': 0, 'default_root_dir': str(settings.out)}
    content: dict[str, Any] = {
        'trainer': trainer,
        'model': {'class_path': 'torchgeo_specdm.SpecDMTask', 'init_args': model},
        'data': {'class_path': 'torchgeo_specdm.PairFolderDataModule'},
    }
    content['data']['init_args'] = data
    config.write_text(yaml.safe_dump(content))
    torchgeo = Path(sys.executable).with_name('torchgeo')
    cost = run([str(torchgeo), 'fit', '--config', str(config)])
    yield Row(
        '`torchgeo fit` of one step of stage 1, seconds', [cost.seconds], 30, True
    )


def run(command: list[str]) -> Cost:
    """The cost of a command, whose output is thrown away."""

    def replace() -> None:
        with Path(os.devnull).open('w') as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        os.execv(command[0], command)

    return in_own_process(replace)


def growing(settings: Settings) -> Iterator[Row]:
    """Folders of more and more pairs."""
    found = {
        count: measure(settings.out / 'growth', count) for count in settings.counts
    }
    least, most = min(found), max(found)
    for step in found[least]:
        base = found[least][step].megabytes
        for count in settings.counts[1:]:
            what = f'{step}: memory at {count:,} pairs / at {least:,}'
            yield Row(what, [found[count][step].megabytes / base], 1.1, True)
        times = found[most][step].seconds / found[least][step].seconds
        what = f'{step}: time at {most:,} pairs / at {least:,}, over that of pairs'
        yield Row(what, [times * least / most], 1.1, True)
    second = settings.counts[-2]
    seconds = found[second]['open again'].seconds
    yield Row(f'opening {second:,} pairs again, seconds', [seconds], 10, True)


PARTS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    'starting': starting,
    'stages': stages,
    'segmenter': segmenter,
    'reading': reading,
    'drawing': drawing,
    'mixing': mixing,
    'growing': growing,
}


if __name__ == '__main__':
    main()
