# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Rules for what a comparison comes to, what speaks against it and what to do now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from ..study.design import REAL, arm_label
from ..study.runs import Run, by_arm, differences
from ..study.statistics import needed_seeds
from ..study.verdicts import NAMES, WANTED
from ..tasks.support.plateau import LEARNED, settled
from ..trust.lights import blind_judges, lights, unsettled_judges
from ..trust.numbers import State

#: Fewer seeds than these may give another verdict next time.
_FEW_SEEDS = 5
#: Share of a real sample's pixels that a generated one has, below which counts mislead.
_SMALLER = 0.9


@dataclass(frozen=True)
class Evidence:
    """All that is known of a set of pairs.

    Attributes:
        runs: Runs of one network and one real size; none if nothing was compared.
        score: Name of the score that they are compared by.
        measures: Content of ``measures.json``.
        curve: Updates and validation scores of training on real samples alone; empty
            if the updates were chosen otherwise.
        pixel_share: Pixels of a generated sample, of those of a real one.
        all_labels: Whether the generator saw more labels than the networks.
        unlabelled: Whether the generator learned from images without labels, too.
    """

    runs: Sequence[Run] = ()
    score: str = 'miou'
    measures: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[Sequence[float]] = ()
    pixel_share: float = 1.0
    all_labels: bool = False
    unlabelled: bool = False

    @property
    def still_rising(self) -> bool:
        """Whether real only had not stopped improving."""
        return bool(self.curve) and not settled(self.curve)

    @property
    def real(self) -> list[float]:
        """The scores of real only, one for each seed."""
        return list(by_arm(self.runs, self.score).get((REAL, 0.0), {}).values())


def outcome(evidence: Evidence) -> State:
    """Grade a comparison as a whole, for its colour.

    Args:
        evidence: All that is known of the pairs.

    Returns:
        ``good`` if any ratio of synthetic samples helps, ``bad`` if one harms and none
        helps, ``not measured`` if nothing can be said, else ``doubtful``. It is
        ``doubtful``, too, if they help networks that had not finished learning.
    """
    found = [
        d
        for (_, ratio), d in differences(evidence.runs, evidence.score).items()
        if ratio > 0 and d.pairs > 1
    ]
    if not found or mean(evidence.real) < LEARNED:
        return 'not measured'
    if any(d.low > 0 for d in found):
        return 'doubtful' if evidence.still_rising else 'good'
    return 'bad' if any(d.high < 0 for d in found) else 'doubtful'


def absolute_scores(evidence: Evidence) -> str:
    """Say what each arm scores, not only by how much it differs.

    Args:
        evidence: All that is known of the pairs.

    Returns:
        A sentence; empty if nothing was compared.
    """
    said = []
    for key, scored in by_arm(evidence.runs, evidence.score).items():
        values = [100 * value for value in scored.values()]
        if values:
            spread = stdev(values) if len(values) > 1 else None
            known = '' if spread is None else f' \N{PLUS-MINUS SIGN} {spread:.1f}'
            said.append(f'{arm_label(*key)} {mean(values):.1f}{known}')
    name = NAMES.get(evidence.score, evidence.score)
    return f'{name} in points: {", ".join(said)}.' if said else ''


def caveats(evidence: Evidence) -> list[str]:
    """Say what a reader has to know before the verdict.

    Args:
        evidence: All that is known of the pairs.

    Returns:
        Sentences, the most decisive first; none if nothing speaks against it.
    """
    said = []
    if evidence.still_rising:
        said.append(
            'Real-only was still rising on validation at the most updates that the '
            'time allowed, so a longer run may change the verdict, and rather against '
            'synthetic data.'
        )
    weak = blind_judges(evidence.measures) or unsettled_judges(evidence.measures)
    if weak:
        said.append(f'The judges are too weak to tell whether labels fit: {weak}.')
    seeds = len(evidence.real)
    if 0 < seeds < _FEW_SEEDS:
        said.append(
            f'{seeds} seed{"s are" if seeds > 1 else " is"} few: others may give another '
            'verdict.'
        )
    if evidence.all_labels:
        said.append(
            'The generator saw more labels than the networks did, so this does not say '
            'what it would do with as few.'
        )
    share = evidence.pixel_share
    ratios = [run.ratio for run in evidence.runs]
    if ratios and share < _SMALLER:
        most = max(ratios)
        said.append(
            f'A generated sample has {share:.2g} of the pixels of a real one: {most:g}x '
            f'by count is {most * share:.3g}x by area.'
        )
    return said


def advice(evidence: Evidence) -> list[str]:
    """Say what to do now.

    Args:
        evidence: All that is known of the pairs.

    Returns:
        Sentences, the first to do first.
    """
    if not evidence.runs:
        study = 'torchgeo-specdm study, with a YAML as in experiments/'
        return [f'Compare networks with and without these pairs: {study}.']
    state = outcome(evidence)
    if evidence.real and mean(evidence.real) < LEARNED:
        longer = 'give more --minutes, or most_updates in a study'
        return [f'More updates: the network has not learned its task; {longer}.']
    said = []
    if evidence.still_rising:
        said.append(
            'More updates first: give twice the --minutes, or most_updates in a study. '
            'Until then, take no verdict for final.'
        )
    if state == 'good':
        found = differences(evidence.runs, evidence.score)
        best = max((k for k in found if k[1] > 0), key=lambda key: found[key].low)
        said.append(
            f'Use them: {arm_label(*best)} has the surest gain. Train with '
            'SyntheticAugmentedDataModule at that ratio, and confirm it with '
            f'{_FEW_SEEDS} seeds or more, and on places of your own.'
        )
    elif state == 'bad':
        said.append('Do not mix these pairs into a training as they are.')
        said += _another_way(evidence)
    else:
        said += _more_seeds(evidence) + _another_way(evidence)
    return said


def _more_seeds(evidence: Evidence) -> list[str]:
    """The number of seeds that would tell."""
    if len(evidence.real) < 2:
        return ['More seeds: one run does not tell the noise. Run a study with 5.']
    needed = needed_seeds(stdev(evidence.real), WANTED)
    if needed <= len(evidence.real):
        return []
    effect = f'an effect of {100 * WANTED:g} point'
    return [f'More seeds: about {needed} would show {effect}, if there is one.']


def _another_way(evidence: Evidence) -> list[str]:
    """Say what mends the worst light, and how else the generator may be used."""
    states = {light.name: light.state for light in lights(evidence.measures)}
    said = []
    if states['looks real'] in ('bad', 'doubtful'):
        others = (
            ''
            if evidence.unlabelled
            else ', give it images without labels if you have any (quickstart '
            '--unlabelled)'
        )
        said.append(
            f'Images are weak: let the generator learn for longer{others}, or vary real '
            'pairs (generate --vary).'
        )
    if states['labels fit'] in ('bad', 'doubtful'):
        said.append(
            'Labels are weak: draw images for real masks (generate --masks), or keep '
            'only the pairs that can be trusted (filter).'
        )
    if states['not copied'] == 'bad':
        said.append(
            'Training samples were reproduced: give the generator more of them, or '
            'fewer steps.'
        )
    said.append(
        'If the next attempt does not help either, do not use them: label more patches.'
    )
    return said
