# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The size of a study before it begins."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar

from ..bars import duration
from .design import REAL, Cell
from .engine import Engine

#: Steps that are timed for each network, and how many at the start do not count.
_TIMED, _WARM_UP = 8, 3


class _Clock(Callback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def alone(self, title: str) -> list[Callback]:
        # one that shows nothing keeps Lightning's own away
        return [self, ProgressBar()]

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.ends.append(time.monotonic())


def describe_grid(engine: Engine, cells: Sequence[Cell]) -> str:
    """Show the grid, and time a few steps of each network here.

    Args:
        engine: Engine of the study.
        cells: Cells that it would run.

    Returns:
        Lines of text. Learning generators and drawing pairs is not in the time.
    """
    study = engine.study
    lines, total = [f'{len(cells)} runs in {study.out}:'], 0.0
    for model in study.models:
        own = [cell for cell in cells if cell.model == model]
        if not own:
            continue
        clock = _Clock()
        probe = Engine(study, clock.alone, lambda said: None)
        first = Cell(model, REAL, 0.0, own[0].size, study.seeds[0])
        probe.train(first, _TIMED)
        pace = (clock.ends[-1] - clock.ends[_WARM_UP - 1]) / (_TIMED - _WARM_UP)
        arms = Counter((cell.arm, cell.ratio) for cell in own)
        updates = sum(engine.scaled(cell, study.updates) for cell in own)
        total += pace * updates
        lines.append(
            f'  {model}: {len(own)} runs of {len(arms)} arms, {updates} updates in '
            f'all, {pace:.2f} s each'
        )
    lines.append(f'about {duration(total)} on this machine, without generators')
    if study.most_updates:
        lines.append('(more if validation asks for more updates)')
    return '\n'.join(lines)
