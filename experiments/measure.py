# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Measure a generated set beside its references, and show it.

python experiments/measure.py experiments/oscd/study.yaml \
    --generator runs/oscd/diffusion --synthetic runs/oscd/synthetic

Writes measures.json and pairs.png. The judge is the first network of the study,
trained on the real samples alone.
"""

import argparse
import json
from pathlib import Path

from torchgeo_specdm import Generator, PairFolder
from torchgeo_specdm.files import write_text
from torchgeo_specdm.reporting.figures import pair_grid, save
from torchgeo_specdm.reporting.report import example_rows
from torchgeo_specdm.study.design import Study
from torchgeo_specdm.study.engine import Engine
from torchgeo_specdm.study.measures import measure
from torchgeo_specdm.tasks.progress import StepProgressBar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('study', help='YAML of the study that the set is for')
    parser.add_argument('--generator', type=Path, required=True)
    parser.add_argument('--synthetic', type=Path, required=True)
    parser.add_argument('--out', type=Path, help='that of the study if left out')
    options = parser.parse_args()
    study = Study.read(options.study)
    engine = Engine(study, lambda title: [StepProgressBar(title)])
    judge = study.cells()[0]
    task, datamodule, _ = engine.train(judge, engine.updates(judge))
    datamodule.setup('test')
    found = measure(options.generator, options.synthetic, datamodule, task.eval())
    out = options.out or study.out
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / 'measures.json', json.dumps(found, indent=2) + '\n')
    generator = Generator.load(options.generator)
    rows = example_rows(generator, datamodule, PairFolder(options.synthetic))
    save(pair_grid(rows, generator.codec.spec), out / 'pairs.png')
    print(f'Written to {out}.')


if __name__ == '__main__':
    main()
