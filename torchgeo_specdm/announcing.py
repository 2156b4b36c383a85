# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Announcements of a quickstart: its plan, its parts and the time left."""

import math
import os
import textwrap

from .bars import duration
from .objects import Config
from .study.planning import SETTLING, expected_seconds, least_minutes

#: What is done, in order.
_PARTS = (
    *('data', 'timing', 'stage 1', 'stage 2'),
    *('pairs', 'pilot', 'judges', 'networks'),
)
#: A plan of so many times the minutes does not fit them.
_LATE = 1.2
#: Columns that any terminal has.
_COLUMNS = 80


class Announcer:
    """Prints the plan, and each part with its number and the time left.

    Args:
        learned: Whether there is a stage 1.
    """

    def __init__(self, learned: bool) -> None:
        """Know no time yet."""
        self._parts = [part for part in _PARTS if learned or part != 'stage 1']
        self._seconds: dict[str, float] = {}

    def part(self, name: str, what: str, seconds: float | None = None) -> None:
        """Announce a part.

        Args:
            name: Name of the part.
            what: A few words for what is done.
            seconds: Seconds that it will take; those of the plan if None.
        """
        if seconds is not None:
            self._seconds[name] = seconds
        number = self._parts.index(name)
        said = f'about {duration(self._seconds[name])}'
        if 'networks' in self._seconds:
            left = sum(self._seconds[x] for x in self._parts[number:])
            said += f'; {duration(left)} left'
        print(f'{number + 1}/{len(self._parts)} {what} ({said})', flush=True)

    def plan(self, plan: Config, minutes: float, runs: int, pairs: int) -> None:
        """Print what will be done, how long it takes, and whether that is enough.

        Args:
            plan: A plan of :func:`~torchgeo_specdm.study.planning.make_plan`.
            minutes: Minutes that were asked for.
            runs: Trainings in the grid of the comparison.
            pairs: Samples to draw.
        """
        self._seconds |= expected_seconds(plan, runs, pairs)
        steps, total = plan['steps'], sum(self._seconds.values())
        what = {
            'stage 1': f'stage 1, the codec: {steps.get("autoencoder")} steps',
            'stage 2': f'stage 2, joint diffusion: {steps["diffusion"]} steps',
            'pairs': f'{pairs} labelled pairs',
            'pilot': 'how long a network must train',
            'judges': 'how far the pairs can be trusted',
            'networks': f'{runs} networks, at most {steps["network"]} updates each',
        }
        print(f'\nPlan for --minutes {minutes:g}: about {duration(total)} in all')
        for part, said in what.items():
            if part in self._seconds:
                print(f'  {said:<50} {duration(self._seconds[part]):>8}')
        if total > _LATE * 60 * minutes:
            tell(
                f'--minutes {minutes:g} is less than the fewest steps of each part take: '
                f'it will be about {duration(total)}.'
            )
        if steps['network'] < SETTLING:
            least = math.ceil(least_minutes(plan, runs))
            tell(
                f'With fewer than {SETTLING} updates a verdict does not settle, since '
                'training on real samples alone still improves: --minutes '
                f'{least} is the least for that.'
            )
        if os.getloadavg()[0] > (os.cpu_count() or 1) + 1:
            tell(
                'This machine has other work. The plan is for a machine without, so all '
                'takes longer while that lasts.'
            )
        print(flush=True)


def tell(sentence: str) -> None:
    """Print a sentence on lines that any terminal shows whole."""
    print(textwrap.fill(sentence, _COLUMNS, break_long_words=False), flush=True)
