# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Measure a generated set and compare real with real + 1x, 3x, 5x, as one command.

python experiments/compare.py --data data/hls_worldcover --generator runs/hls/pixels \
    --synthetic runs/hls/synthetic_pixels --out runs/hls/compare --updates 800
"""

import argparse
import json
from pathlib import Path

from torchgeo_specdm import Generator, PairFolder, PairFolderDataModule
from torchgeo_specdm.files import write_text
from torchgeo_specdm.reporting.figures import pair_grid
from torchgeo_specdm.reporting.report import example_rows
from torchgeo_specdm.study.comparison import Comparison
from torchgeo_specdm.study.measures import measure
from torchgeo_specdm.study.runs import differences
from torchgeo_specdm.study.statistics import verdict
from torchgeo_specdm.tasks.progress import StepProgressBar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', required=True, help='folder of real pairs')
    parser.add_argument('--generator', type=Path, required=True)
    parser.add_argument('--synthetic', type=Path, required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--updates', type=int, required=True)
    parser.add_argument('--patch-size', type=int, default=64)
    parser.add_argument('--ratios', type=float, nargs='+', default=[0, 1, 3, 5])
    parser.add_argument('--seeds', type=int, nargs='*', default=[0, 1, 2])
    parser.add_argument('--precision', default='32-true', help='or bf16-mixed')
    options = parser.parse_args()

    def real() -> PairFolderDataModule:
        return PairFolderDataModule(
            options.data, batch_size=16, patch_size=options.patch_size
        )

    comparison = Comparison(
        real=real,
        synthetic=options.synthetic,
        out=options.out,
        ratios=options.ratios,
        seeds=options.seeds,
        task={'backbone': 'mit_b0', 'lr': 1e-3, 'head_lr_factor': 1.0},
        trainer={'precision': options.precision},
        callbacks=lambda title: [StepProgressBar(title)],
    )
    options.out.mkdir(parents=True, exist_ok=True)
    judge, datamodule = comparison.judge(options.updates)
    datamodule.setup('test')
    found = measure(options.generator, options.synthetic, datamodule, judge)
    write_text(options.out / 'measures.json', json.dumps(found, indent=2))
    generator = Generator.load(options.generator)
    rows = example_rows(generator, datamodule, PairFolder(options.synthetic))
    grid = pair_grid(rows, generator.codec.spec)
    grid.savefig(options.out / 'pairs.png', dpi=110, bbox_inches='tight')
    if options.seeds:
        for ratio, difference in differences(comparison.run(options.updates)).items():
            print(verdict(ratio, difference))


if __name__ == '__main__':
    main()
