# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Does memory grow with the number of samples scored, and do processes agree?

python experiments/benchmarks/trust.py --out runs/benchmark --counts 1000 10000

Draws scenes, links them to folders of so many "generated" pairs, and measures each
folder by ``torchgeo test`` on one and on two processes. Prints the peak memory of the
largest process, the time, and the largest relative difference of any number.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from torchgeo_specdm.pairs.layout import DESCRIPTION
from torchgeo_specdm.scenes.writing import write_scenes

_DISTINCT = 500
_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--counts', type=int, nargs='+', default=[1000, 10_000])
    parser.add_argument('--updates', type=int, default=20)
    options = parser.parse_args()
    out = options.out.absolute()
    write_scenes(out / 'real', (100, 20, 50), _SIZE, seed=0)
    write_scenes(out / 'drawn', (_DISTINCT, 1, 1), _SIZE, seed=1)
    for count in options.counts:
        link_pairs(out / 'drawn', out / f'set-{count}', count)
        found = []
        for processes in (1, 2):
            folder = out / f'trust-{count}-{processes}'
            shutil.rmtree(folder, ignore_errors=True)
            config = write_config(out, count, processes, folder, options.updates)
            started = time.monotonic()
            memory = run(config)
            minutes = (time.monotonic() - started) / 60
            print(
                f'{count} samples, {processes} processes: peak {memory:.0f} MB, '
                f'{minutes:.1f} min',
                flush=True,
            )
            found.append(numbers(json.loads((folder / 'measures.json').read_text())))
        first, second = found
        assert first.keys() == second.keys()
        worst = max(abs(first[k] - second[k]) / max(abs(first[k]), 1e-9) for k in first)
        print(f'{count} samples: {len(first)} numbers differ by at most {worst:.1e}')


def link_pairs(source: Path, out: Path, count: int) -> None:
    """A folder of as many pairs as wanted, the files of *source* again and again."""
    for kind in ('images', 'masks'):
        (out / kind).mkdir(parents=True, exist_ok=True)
        files = sorted((source / kind).iterdir())
        for number in range(count):
            target = out / kind / f'{number:06d}.tif'
            if not target.exists():
                os.link(files[number % len(files)], target)
    shutil.copy(source / DESCRIPTION, out)


def write_config(
    out: Path, count: int, processes: int, folder: Path, updates: int
) -> Path:
    """A YAML of ``torchgeo test``."""
    config = {
        'trainer': {
            'accelerator': 'cpu',
            'devices': processes,
            'strategy': 'auto' if processes == 1 else 'ddp',
            'logger': False,
            'enable_progress_bar': False,
            'default_root_dir': str(folder),
        },
        'model': {
            'class_path': 'torchgeo_specdm.TrustTask',
            'init_args': {
                'out': str(folder),
                'updates': updates,
                'judge': {
                    'class_path': 'torchgeo_specdm.MultispectralSegmentationTask',
                    'init_args': {'model': 'segformer', 'backbone': 'mit_b0'},
                },
            },
        },
        'data': {
            'class_path': 'torchgeo_specdm.TrustDataModule',
            'init_args': {
                'synthetic': str(out / f'set-{count}'),
                'real': {
                    'class_path': 'torchgeo_specdm.PairFolderDataModule',
                    'init_args': {'root': str(out / 'real')},
                },
            },
        },
    }
    path = out / f'{count}-{processes}.yaml'
    path.write_text(yaml.safe_dump(config))
    return path


def run(config: Path) -> float:
    """Run ``torchgeo test``; the peak memory of its largest process in MB."""
    torchgeo = str(Path(sys.executable).with_name('torchgeo'))
    child = os.spawnv(
        os.P_NOWAIT, torchgeo, ['torchgeo', 'test', '--config', str(config)]
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f'torchgeo test ended with status {status}.')
    return usage.ru_maxrss / 1024


def numbers(value: Any, name: str = '') -> dict[str, float]:
    """All numbers of nested measures by their path."""
    if isinstance(value, dict):
        parts: Any = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        known = isinstance(value, int | float)
        return {name: float(value)} if known else {}
    return {
        k: v for key, part in parts for k, v in numbers(part, f'{name}/{key}').items()
    }


if __name__ == '__main__':
    main()
