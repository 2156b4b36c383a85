# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Costs of drawing, finishing and opening as folders of pairs grow.

python experiments/benchmarks/growth.py --out runs/growth --counts 1000 10000 100000

Draws a few tiny pairs with an untrained generator, links them to folders of so many,
and measures each step in a process of its own: processor time and peak memory.
"""

import argparse
import json
import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer

from torchgeo_specdm import GenerationDataModule, Generator, PairFolder, SpecDMTask
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.pairs.cache import pack_facts
from torchgeo_specdm.pairs.manifest import MANIFEST, require_unchanged
from torchgeo_specdm.pairs.spec import SampleSpec

SIDE = 16
#: Pairs that are drawn; all others are links to them.
DRAWN = 64
SPEC = SampleSpec(bands=('B04', 'B08'), classes=('water', 'land', 'built'))


class Cost(NamedTuple):
    """Time and memory that a step took."""

    seconds: float  #: of all processors
    megabytes: float  #: at most at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--counts', type=int, nargs='+', default=[1000, 10_000])
    options = parser.parse_args()
    for count in options.counts:
        for step, cost in measure(options.out, count).items():
            print(f'{count:>7} {step:<14} {cost.seconds:8.2f} s', end=' ')
            print(f'{cost.megabytes:6.0f} MB', flush=True)


def measure(out: Path, count: int) -> dict[str, Cost]:
    """The cost of each step with so many pairs.

    Args:
        out: Folder to write to.
        count: Number of pairs.

    Returns:
        By the name of the step.
    """
    generator, folder = out / 'generator', out / f'{count}'
    shutil.rmtree(folder, ignore_errors=True)
    if not generator.exists():
        write_generator(generator)
    draw(generator, folder, DRAWN)
    link_pairs(folder, count - DRAWN)
    costs = {
        'draw the last': in_own_process(lambda: draw(generator, folder, count)),
        'draw nothing': in_own_process(lambda: draw(generator, folder, count)),
    }
    in_own_process(lambda: remember(folder))
    return costs | {'open again': in_own_process(lambda: PairFolder(folder).verify())}


def write_generator(folder: Path) -> None:
    """Write an untrained generator of two bands."""
    torch.manual_seed(0)
    codec = make_codec('pixels', SPEC, {'fold': 2})
    images = torch.rand(8, 2, SIDE, SIDE) * 1000
    masks = torch.randint(3, (8, SIDE, SIDE))
    codec.fit_scaling(images)
    codec.fit_statistics([{'image': images, 'mask': masks}])
    config = {
        'stage': 'diffusion',
        'process': {'prediction': 'sample'},
        'denoiser': {'widths': [8, 8], 'attention': [False, False], 'groups': 4},
        'sampling': {'sampler': 'dpm', 'steps': 2},
        'patch_size': [SIDE, SIDE],
    }
    Generator.build(codec, config).save(folder)


def draw(generator: Path, out: Path, count: int, batch_size: int = DRAWN) -> None:
    """Draw what is missing of a folder of so many pairs."""
    trainer = Trainer(
        accelerator='cpu',
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
    )
    task = SpecDMTask('diffusion', generator=str(generator))
    trainer.predict(task, GenerationDataModule(str(out), count, batch_size=batch_size))


def link_pairs(folder: Path, count: int) -> None:
    """Add links to the drawn pairs, and their lines, until there are so many."""
    rows = [json.loads(line) for line in (folder / MANIFEST).open()]
    with (folder / MANIFEST).open('a') as file:
        for index in range(len(rows), count):
            row: dict[str, Any] = rows[index % len(rows)]
            name = f'{index:06d}'
            files = {}
            for path, digest in row['files'].items():
                files[path.replace(row['id'], name)] = digest
                os.link(folder / path, folder / path.replace(row['id'], name))
            line = row | {'id': name, 'index': index, 'files': files}
            file.write(json.dumps(line) + '\n')


def remember(folder: Path) -> None:
    """Keep what a first opening learns; the facts of links are those of the drawn."""
    pairs = PairFolder(folder)
    facts = [pack_facts(pairs.facts(index)) for index in range(DRAWN)]
    pairs._cache.keep({n: facts[i % DRAWN] for i, n in enumerate(pairs.ids)})
    require_unchanged(folder)


def in_own_process(step: Callable[[], object]) -> Cost:
    """Run a step in a child that begins with what is imported here.

    Args:
        step: The step.

    Returns:
        Its cost.

    Raises:
        RuntimeError: If it fails.
    """
    child = os.fork()
    if not child:
        status = 1
        try:
            step()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f'A step ended with status {status}.')
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == '__main__':
    main()
