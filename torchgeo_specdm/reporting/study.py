# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The results of a study: a table of runs, a summary, figures, and its verdicts."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt

from ..files import write_text
from ..study.design import Study, arm_label
from ..study.runs import Run, by_arm, differences, images_without_labels, table
from ..study.verdicts import NAMES, noise, rivals_of, verdicts
from .figures import class_changes, save, score_dots

#: Stands for a score that no run has.
_NOTHING = '\N{EN DASH}'
_PAPER = (
    "Generators saw all labels of the training set, more than the networks: the paper's "
    'protocol.'
)


def write_study(study: Study, runs: Sequence[Run]) -> Path:
    """Write ``runs.csv``, ``study.md`` and the figures of a study.

    Args:
        study: The study that was run.
        runs: Finished runs, failed ones included.

    Returns:
        The path of ``study.md``.
    """
    lines = ['# Does it help?', '', *_settings(study, runs)]
    write_text(study.out / 'runs.csv', table(runs))
    for model in study.models:
        for size in study.sizes:
            own = [run for run in runs if (run.model, run.size) == (model, size)]
            if not own:
                continue
            name = f'{model}, {size or "all"} real samples'
            stem = re.sub('[^A-Za-z0-9]+', '-', f'{model}-{size or "all"}')
            figures = {
                'scores': score_dots(own, study.score),
                'classes': class_changes(own),
            }
            for kind, figure in figures.items():
                save(figure, study.out / f'{stem}-{kind}.png')
                plt.close(figure)
            lines += [f'## {name}', '', noise(own, study.score), '']
            said = verdicts(own, study.score, rivals_of(study))
            lines += [f'- {sentence}' for sentence in said]
            lines += ['', *_table(own, study.score), '']
            lines += [f'![Scores]({stem}-scores.png)']
            lines += [f'![Classes]({stem}-classes.png)', '']
            lines += [
                f'- failed: {run.cell.title}: {run.reason}' for run in own if run.reason
            ]
    path = study.out / 'study.md'
    write_text(path, '\n'.join(lines).rstrip() + '\n')
    return path


def _settings(study: Study, runs: Sequence[Run]) -> list[str]:
    """Sentences that a reader has to know before any number."""
    budget = {
        'updates': f'{study.updates} updates for every run',
        'epochs': 'equal epochs: synthetic arms train longer, which favours them',
    }[study.budget]
    if study.most_updates:
        budget += f' or more, up to {study.most_updates}, as validation asked for'
    for name, arm in study.arms.items():
        if arm.longer != 1:
            budget += f', {arm.longer:g} times as many for {name}'
    split = 'validation' if any(run.split == 'val' for run in runs) else 'test'
    said = (
        f'{len(study.seeds)} seeds, {study.subsets} real subset(s), each with '
        f'generators of its own, {budget}. Differences are paired by seed, with 95 % '
        f"intervals of Student's t; scores in points on the {split} split."
    )
    if any(run.unlabelled for run in runs):
        said += ' Protocol: the same labels for every row, and U real images without labels.'
    if study.protocol == 'all_labels':
        return [said, '', f'**{_PAPER}**', '']
    return [said, '']


def _table(runs: Sequence[Run], score: str) -> list[str]:
    """One line for each arm and ratio, as Markdown."""
    others = [n for n in NAMES if n != score and any(by_arm(runs, n).values())]
    titles = [NAMES[name] for name in (score, *others)]
    images = images_without_labels(runs)
    heads = ['arm', *(['U'] if images else []), 'runs', *titles]
    lines = [
        f'| {" | ".join(heads)} | {titles[0]} against real only |',
        '|---' * (1 + len(heads)) + '|',
    ]
    found = differences(runs, score)
    for key, scored in by_arm(runs, score).items():
        cells = [str(images[key])] if images else []
        cells += [str(len(scored)), _spread(list(scored.values()))]
        for name in others:
            values = by_arm(runs, name)[key]
            cells.append(f'{100 * mean(values.values()):.1f}' if values else _NOTHING)
        if key in found:
            d = found[key]
            said = f'{100 * d.mean:+.1f}'
            if d.pairs > 1:
                said += f' [{100 * d.low:+.1f}, {100 * d.high:+.1f}]'
            cells.append(said)
        else:
            cells.append('')
        lines.append(f'| {arm_label(*key)} | {" | ".join(cells)} |')
    return lines


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in points."""
    if not values:
        return _NOTHING
    said = f'{100 * mean(values):.1f}'
    return (
        f'{said} \N{PLUS-MINUS SIGN} {100 * stdev(values):.1f}'
        if len(values) > 1
        else said
    )
