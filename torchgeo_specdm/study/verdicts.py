# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The verdicts of a study: sentences that follow from its intervals by rule."""

from collections.abc import Sequence
from statistics import mean, stdev

from ..tasks.support.plateau import LEARNED
from .design import REAL, Study, arm_label
from .runs import Run, by_arm, differences
from .statistics import Difference, needed_seeds, verdict, visible_effect

#: How scores are called.
NAMES = {
    'miou': 'mIoU',
    'f1': 'F1',
    'accuracy': 'accuracy',
    'change_f1': 'F1 of change',
}
#: The effect, in 0..1, that a study says how many seeds it would need for.
WANTED = 0.01


def verdicts(
    runs: Sequence[Run], score: str = 'miou', rivals: Sequence[str] = ()
) -> list[str]:
    """Say what follows for each arm of one model and one real size.

    Args:
        runs: Runs of one model and one real size.
        score: Name of the score.
        rivals: Arms without synthetic samples; each other arm is set beside the best.

    Returns:
        A sentence for each arm and ratio; a single one if nothing can be said.
    """
    found, name = differences(runs, score), NAMES.get(score, score)
    real = list(by_arm(runs, score).get((REAL, 0.0), {}).values())
    if not real:
        return [f'No run with real samples only has a {name}: nothing can be said.']
    if mean(real) < LEARNED:
        said = (
            f'Real only reaches {100 * mean(real):.1f} points of {name}: the network '
            'has not learned its task, so nothing can be said. Train longer, or with '
            'class weights.'
        )
        return [said]
    beside = _best({key: d for key, d in found.items() if key[0] in rivals})
    return [
        verdict(arm_label(*key), d, name, '' if key[0] in rivals else beside)
        for key, d in found.items()
    ]


def noise(runs: Sequence[Run], score: str = 'miou') -> str:
    """Say which effects the spread of real-only runs lets a study see.

    Args:
        runs: Runs of one model and one real size, real only or more.
        score: Name of the score.

    Returns:
        A sentence.
    """
    real = list(by_arm(runs, score).get((REAL, 0.0), {}).values())
    name = NAMES.get(score, score)
    if len(real) < 2:
        return f'One real-only run does not tell the noise of {name}. Use more seeds.'
    if mean(real) < LEARNED:
        return (
            f'Real only: {name} {100 * mean(real):.1f} points ({len(real)} seeds). Its '
            'spread says nothing of the noise, since it has not learned its task.'
        )
    spread, seeds = stdev(real), len(real)
    visible = visible_effect(spread, seeds)
    said = (
        f'Real only: {name} {100 * mean(real):.1f} \N{PLUS-MINUS SIGN} '
        f'{100 * spread:.1f} points ({seeds} seeds). With so many seeds, effects below '
        f'about {100 * visible:.1f} points cannot be told from noise'
    )
    if visible > WANTED:
        needed = needed_seeds(spread, WANTED)
        said += f'; {100 * WANTED:g} point would need about {needed} seeds'
    return f'{said}.'


def rivals_of(study: Study) -> list[str]:
    """The arms of a study that use no synthetic samples."""
    return [name for name, arm in study.arms.items() if arm.generator is None]


def _best(found: dict[tuple[str, float], Difference]) -> str:
    """The best rival with its interval, in a few words."""
    if not found:
        return ''
    key = max(found, key=lambda k: found[k].mean)
    mean_, low, high = (100 * v for v in found[key][:3])
    interval = f' [{low:+.1f}, {high:+.1f}]' if found[key].pairs > 1 else ''
    return f'{arm_label(*key)} gives {mean_:+.1f}{interval}'
