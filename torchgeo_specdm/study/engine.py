# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Runs a study step by step; what is finished is not done again."""

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from ..bars import duration
from ..datamodules.unlabelled import UnlabelledDataModule
from ..files import read_json, sha256, write_text
from ..pairs.manifest import MANIFEST
from ..settings import Begun, require_same_settings
from ..tasks.support.stopping import was_interrupted
from .design import REAL, Cell, Step
from .runs import Run, logged_scores, read_run, run_path, write_run
from .trainings import Trainings


@dataclass
class Engine(Trainings):
    """Trains and tests the cells of a study, and makes what they need.

    The test set is read once, at the end of each run.

    Attributes:
        say: Tells people what is being done.
    """

    say: Callable[[str], None] = print
    #: Steps that were tried, with the reason of those that failed.
    _tried: dict[Step, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a folder that was begun with another study."""
        super().__post_init__()
        path, settings = self.study.out / 'study.json', self._settings()
        there = read_json(path, Begun)['settings'] if path.exists() else {}
        # seeds, sizes, and arms or networks of other names may be added
        require_same_settings(path, {k: settings.get(k, v) for k, v in there.items()})
        self._wanted = there | settings

    def begin(self) -> None:
        """Make the folder of results, and write down what it is of."""
        self.study.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({'settings': self._wanted}, indent=2)
        write_text(self.study.out / 'study.json', text + '\n')

    def run(self, cells: Sequence[Cell], retry: bool = False) -> list[Run]:
        """Train and test what is missing.

        Args:
            cells: Cells of the study.
            retry: Whether to do failed runs again.

        Returns:
            All runs of these cells, in their order; a failed one has a reason.
        """
        self.begin()
        self._tried.clear()
        before, missing = self.finished(cells), self.missing(cells, retry)
        done: list[Run] = []
        for number, cell in enumerate(missing):
            left = self._time_left(before, done, missing[number:])
            self.say(f'[{number + 1}/{len(missing)}] {cell.title}{left}')
            started = time.monotonic()
            try:
                self.require(self.step(cell))
            except Exception as error:
                if was_interrupted(error):
                    raise KeyboardInterrupt from error
                self.fail(cell, describe_error(error), time.monotonic() - started)
            done += self.finished([cell])
            _return_memory()
        return self.finished(cells)

    def missing(self, cells: Sequence[Cell], retry: bool = False) -> list[Cell]:
        """The cells that have no run, or a failed one that is to be done again."""
        runs = {cell: self._read(cell) for cell in cells}
        return [c for c, run in runs.items() if run is None or (run.reason and retry)]

    def finished(self, cells: Sequence[Cell]) -> list[Run]:
        """The runs of these cells that are there, whoever did them."""
        found = map(self._read, cells)
        return [run for run in found if run is not None]

    def step(self, cell: Cell) -> Step:
        """The step that trains and tests a cell."""
        return Step('run', str(tuple(cell)), cell)

    def needs(self, step: Step) -> list[Step]:
        """The steps that must be done before another one.

        Args:
            step: A step of the study.
        """
        if step.kind not in ('run', 'reading'):
            return self.sets.needs(step)
        found, cell, arm = list[Step](), step.cell, self.study.arm(step.cell)
        if self.study.most_updates:
            found.append(Step('pilot', f'{cell.model}-{cell.size}', cell))
        if arm.synthetic:
            pairs = self.sets.pairs(cell)
            read = f'{pairs.name} by {cell.model}, {cell.size}, seed {cell.seed}'
            reading = arm.relabel and step.kind == 'run'
            found.append(Step('reading', read, cell) if reading else pairs)
        return found

    def require(self, step: Step) -> None:
        """Do a step after all that it needs, each once.

        Args:
            step: A step of the study.

        Raises:
            RuntimeError: If a step has failed before.
        """
        for need in self.needs(step):
            self.require(need)
        if step not in self._tried:
            try:
                self.make(step)
            except Exception as error:
                # not the error itself, which would hold all that it came through
                self._tried[step] = describe_error(error)
                raise
            self._tried[step] = ''
        if self._tried[step]:
            raise RuntimeError(self._tried[step])

    def make(self, step: Step) -> None:
        """Do a step; all that it needs is there.

        Args:
            step: A step of the study.
        """
        match step.kind:
            case 'run':
                self._measure(step.cell)
            case 'pilot':
                self.pilot(step.cell.model, step.cell.size)
            case 'reading':
                # the network of the same model, samples and seed, on real ones alone
                teacher = step.cell._replace(arm=REAL, ratio=0.0)
                updates = self.updates(teacher)
                train = partial(self.train, teacher, updates)
                self.sets.read(step.cell, updates, train)
            case _:
                self.sets.make(step)

    def fail(self, cell: Cell, reason: str, seconds: float = 0.0) -> None:
        """Write a failed run: one must not end the grid, whose table has its reason.

        Args:
            cell: A cell of the study.
            reason: The error, in the run or in a step that it needs.
            seconds: Seconds that it took.
        """
        self.say(f'  failed: {reason}')
        known, subset = self.known_updates(cell) or 0, self.study.subset(cell)
        run = Run(*cell, subset, known, seconds=seconds, reason=reason)
        write_run(self.study.out, run)

    def _measure(self, cell: Cell) -> None:
        """Train and test a cell, and write the run."""
        started, updates = time.monotonic(), self.updates(cell)
        task, datamodule, trainer = self.train(cell, updates)
        split = self.scored_split()
        score = trainer.test if split == 'test' else trainer.validate
        (found,) = score(task, datamodule, verbose=False)
        scores, iou = logged_scores(found, split, self.study.score)
        seconds, subset = time.monotonic() - started, self.study.subset(cell)
        # a backbone may have seen some, too
        images = getattr(task.model, 'unlabelled', 0)
        if self.study.arm(cell).synthetic:
            images += self.sets.unlabelled(cell)
        elif isinstance(datamodule, UnlabelledDataModule):
            images += datamodule.counts[1]
        measured = (subset, updates, scores, iou, seconds)
        write_run(self.study.out, Run(*cell, *measured, split=split, unlabelled=images))

    def _read(self, cell: Cell) -> Run | None:
        """The run of a cell, if it is there; one whose pilot failed has 0 updates."""
        updates = self.known_updates(cell) or 0
        return read_run(run_path(self.study.out, cell, updates))

    def _settings(self) -> dict[str, Any]:
        """All that must not change within one folder, each part under a name."""
        study: dict[str, Any] = json.loads(json.dumps(asdict(self.study), default=str))
        names = ('data', 'spec', 'subsets', 'budget', 'protocol', 'trainer')
        settings = {name: study[name] for name in names}
        for kind in ('models', 'generators', 'arms'):
            settings |= {f'{kind}: {name}': v for name, v in study[kind].items()}
        for name, recipe in self.study.generators.items():
            manifest = Path(recipe.pairs or '') / MANIFEST
            if recipe.pairs is not None and manifest.exists():
                settings[f'pairs: {name}'] = sha256(manifest)[:16]
        return settings

    def _time_left(
        self, before: Sequence[Run], done: Sequence[Run], cells: Sequence[Cell]
    ) -> str:
        """Estimate the time left from runs of the same model, if it can of this start."""
        known, now = {c: self.known_updates(c) for c in cells}, _pace(done)
        pace = _pace(before) | now
        if not all(c.model in pace and u for c, u in known.items()):
            return ''
        seconds = sum(pace[c.model] * (updates or 0) for c, updates in known.items())
        # another machine may have made them, or one with other work
        measured = all(cell.model in now for cell in cells)
        said = '' if measured else ', at the pace of earlier starts'
        return f' (about {duration(seconds)} left{said})'


def _pace(runs: Sequence[Run]) -> dict[str, float]:
    """Seconds for an update of each model; one run that was paused does not count."""
    taken: dict[str, list[float]] = {}
    for run in runs:
        if not run.reason:
            taken.setdefault(run.model, []).append(run.seconds / run.updates)
    return {model: median(paces) for model, paces in taken.items()}


def describe_error(error: BaseException) -> str:
    """The text of an error in one line; its name if it has none."""
    return ' '.join(str(error).split()) or type(error).__name__


def _return_memory() -> None:
    """Give freed memory back to the system, which glibc does not do by itself.

    Tensors of many sizes leave holes: in a grid of small networks each run added 40 MB
    to the process, all of it free.
    """
    gc.collect()
    if sys.platform == 'linux':
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', lambda pad: None)
        trim(0)
