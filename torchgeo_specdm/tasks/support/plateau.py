# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""For how long a network has to train: until two doublings in a row add nothing."""

from collections.abc import Callable, Iterator, Sequence

from typing_extensions import TypedDict

from ...files import Finite, Positive

#: Below this score, in 0..1, a network has not learned its task.
LEARNED = 0.05
#: Updates that add less than this to the validation score are no rise.
_STILL_RISING = 0.01

#: (updates, validation score) of trainings from the same start.
Curve = list[tuple[Positive, Finite]]


class CurveFile(TypedDict):
    """A JSON file that has a curve."""

    curve: Curve


def doublings(
    measure: Callable[[int], float], first: int, most: int, curve: Curve
) -> Iterator[Curve]:
    """Train for twice as long, again and again, until validation stops rising.

    Args:
        measure: Trains for so many updates from the start, and gives the score, 0..1.
        first: Updates of the first training.
        most: Updates that no training exceeds.
        curve: Curve that is known already, in order; it grows.

    Yields:
        The curve after each training.
    """
    updates = 2 * curve[-1][0] if curve else first
    while updates <= most and not settled(curve):
        curve.append((updates, measure(updates)))
        yield curve
        updates *= 2


def settled(curve: Sequence[Sequence[float]]) -> bool:
    """Whether the last two doublings of a curve added next to nothing.

    Args:
        curve: Updates and scores of trainings, each twice as long as the one before.

    Returns:
        False too for a network that has not begun to learn.
    """
    # one may by chance: on real patches 400, 800 and 1,600 updates scored 29.2, 29.4
    # and 32.4; and change is often not found at all at first
    if len(curve) < 3 or curve[-3][1] < LEARNED:
        return False
    return max(curve[-2][1], curve[-1][1]) - curve[-3][1] < _STILL_RISING


def enough_updates(curve: Sequence[Sequence[float]]) -> int:
    """The updates that a curve asks for: where it stopped rising, or its last."""
    return int(curve[-3][0] if settled(curve) else curve[-1][0])
