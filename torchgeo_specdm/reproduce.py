# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One command for each table and figure of the paper, on the study that it reads."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from lightning.pytorch.callbacks import Callback
from pydantic import ConfigDict
from torchgeo.datamodules import BaseDataModule
from typing_extensions import TypedDict

from .bars import duration
from .diffusion import Generator
from .files import check_json, read_json, read_yaml, write_text
from .locking import alone_in
from .objects import make_object
from .reporting.paper import Values, write_figures, write_table
from .study.design import Cell, Study
from .study.engine import Engine
from .study.runs import Run
from .trust.datamodule import TrustDataModule
from .trust.measures import AllMeasures
from .trust.synthesis import measure_synthesis


class Kept(TypedDict):
    """Measures of the pairs of a generator, and the seconds that they took."""

    measures: AllMeasures
    seconds: float


@dataclass(frozen=True)
class Part:
    """The part of a table for one of the two tasks.

    Attributes:
        studies: Files of studies, beside that of the table, by the names of their data.
        columns: Where to find each column: a score, or names in the measures joined by
            dots; for figures, what each shows: ``pairs``, ``spectra`` or ``areas``.
        paper: The paper's numbers: for each group (a network, or ``pairs``) and row,
            one for each column.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra='forbid')

    studies: dict[str, str]
    columns: dict[str, str]
    paper: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper, as its YAML says.

    Attributes:
        title: Title, with the number in the paper.
        kind: Scores of networks, measures of generated pairs, or pictures of them.
        rows: Arm and ratio of a study for each row.
        better: Pairs of rows of which the paper says that the first is better.
        parts: By task, ``segmentation`` or ``change``.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra='forbid')

    title: str
    kind: Literal['scores', 'synthesis', 'figures']
    rows: dict[str, tuple[str, float]]
    better: list[tuple[str, str]]
    parts: dict[str, Part]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a table from a YAML.

        Args:
            path: The file.

        Returns:
            The table.

        Raises:
            ValueError: If a key is unknown or missing, or a value does not fit.
        """
        return check_json(json.dumps(read_yaml(path)), cls, str(path))

    def part(self, on: str) -> Part:
        """The part whose studies have these data.

        Args:
            on: Name of the data.

        Returns:
            The part.

        Raises:
            ValueError: If there is none.
        """
        known = [name for part in self.parts.values() for name in part.studies]
        for part in self.parts.values():
            if on in part.studies:
                return part
        raise ValueError(f'on={on!r} is none of the data of this table: {known}.')


def reproduce(
    path: Path,
    on: str,
    features: str = 'random',
    callbacks: Callable[[str], list[Callback]] = lambda title: [],
) -> Path:
    """Run what a table or figure needs, and write it.

    Generators, pairs and runs are those of the study, in its folder: what another table
    needed before is not done again.

    Args:
        path: YAML of the table.
        on: Name of the data, of those that the table has a study for.
        features: Features of images, for Frechet distances: ``random``, or with a
            download ``inception`` or ``sentinel2``.
        callbacks: Makes the callbacks of a training from its title.

    Returns:
        The Markdown page, beside which a CSV and figures lie.

    Raises:
        ValueError: If the table has no study on these data, or the study lacks an arm
            that a row needs.
        RuntimeError: If a run failed.
    """
    table = Table.read(path)
    study = Study.read(path.parent / table.part(on).studies[on])
    with alone_in(study.out):
        engine = Engine(study, callbacks)
        return _write(study.out / path.stem, table, on, engine, features)


def _write(out: Path, table: Table, on: str, engine: Engine, features: str) -> Path:
    """Do what is missing, and write the table or the figures."""
    part, study = table.part(on), engine.study
    cells = row_cells(table, study)
    head = [f'# {table.title}, on {on}', '', *_settings(table, study)]
    if table.kind == 'scores':
        runs = engine.run([cell for row in cells.values() for cell in row])
        _require_done(runs)
        taken = duration(sum(run.seconds for run in runs))
        said = f'{len(runs)} runs, {taken} of training and testing.'
        head += [said, '']
        return write_table(out, head, _scores(table, part, cells, runs), table.better)
    measured = dict(_measured(engine, cells, out, features))
    head += _counts(measured, features)
    if table.kind == 'synthesis':
        values = _measures(table, part, cells, measured)
        return write_table(out, head, values, table.better, lower=True)
    first = {title: row[0] for title, row in cells.items()}
    shown = {
        title: (_open(engine, cell), measured[cell][0]) for title, cell in first.items()
    }
    return write_figures(out, head, part.columns, shown)


def _counts(
    measured: Mapping[Cell, tuple[dict[str, Any], float]], features: str
) -> list[str]:
    """Sentences on the pairs that were measured."""
    taken = duration(sum(seconds for _, seconds in measured.values()))
    counts = next(iter(measured.values()))[0]['counts']
    said = (
        f'Tiles: {counts["train"]} of training, {counts["held_out"]} held out, '
        f'{counts["synthetic"]} of each generator; a Frechet distance has '
        f'equally many on both sides. Features of images: {features}. Generators, '
        f'drawing and measuring took {taken}.'
    )
    return [said, '']


def row_cells(table: Table, study: Study) -> dict[str, list[Cell]]:
    """Find the runs of each row, or a run for each generator that it is about.

    Args:
        table: The table.
        study: The study that it reads.

    Returns:
        Cells of the study by row: for ``scores`` all, else one for each subset (and size,
        where generators see only the labels of the networks).

    Raises:
        ValueError: If the study lacks an arm that a row needs.
    """
    found = {}
    for title, (arm, ratio) in table.rows.items():
        cells = [c for c in study.cells() if (c.arm, c.ratio) == (arm, ratio)]
        if not cells:
            raise ValueError(
                f'{table.title} needs {ratio:g} x {arm!r} for its row {title!r}, but the '
                f'study of {study.out} has no such arm. Add it.'
            )
        if table.kind != 'scores':
            # generators that see all labels are the same for every number of them
            shared = study.protocol == 'all_labels'
            units = {(0 if shared else c.size, study.subset(c)): c for c in cells[::-1]}
            cells = [*units.values()][::-1]
        found[title] = cells
    return found


def _require_done(runs: list[Run]) -> None:
    failed = [run for run in runs if run.reason]
    if failed:
        raise RuntimeError(
            f'{len(failed)} of {len(runs)} runs failed, the first: '
            f'{failed[0].cell.title}: {failed[0].reason} Do them again with '
            'torchgeo-specdm study --retry.'
        )


def _scores(
    table: Table, part: Part, cells: Mapping[str, list[Cell]], runs: list[Run]
) -> list[Values]:
    """Test scores by network, row and column, one for each seed."""
    by_cell = {run.cell: run for run in runs}
    groups = {(cell.model, cell.size) for row in cells.values() for cell in row}
    return [
        Values(
            group=f'{model}, {size or "all"} real samples',
            row=title,
            column=column,
            values={
                f'seed {cell.seed}': by_cell[cell].score(name)
                for cell in row
                if (cell.model, cell.size) == (model, size)
            },
            paper=_paper(part, model, title, column),
        )
        for model, size in sorted(groups)
        for title, row in cells.items()
        for column, name in part.columns.items()
    ]


def _measures(
    table: Table,
    part: Part,
    cells: Mapping[str, list[Cell]],
    measured: Mapping[Cell, tuple[dict[str, Any], float]],
) -> list[Values]:
    """Measures of the pairs by row and column, one for each subset."""
    found = []
    for title, row in cells.items():
        for column, name in part.columns.items():
            values = {
                f'subset {number}': _look_up(measured[cell][0], name)
                for number, cell in enumerate(row)
            }
            floor = None
            if name.endswith('.value'):
                floor = _look_up(measured[row[0]][0], f'{name[:-6]}.floor')
            found.append(
                Values(
                    'pairs',
                    title,
                    column,
                    values,
                    _paper(part, 'pairs', title, column),
                    floor,
                )
            )
    return found


def _measured(
    engine: Engine, cells: Mapping[str, list[Cell]], out: Path, features: str
) -> Iterator[tuple[Cell, tuple[dict[str, Any], float]]]:
    """Measures of the pairs of each cell with the seconds that they took, kept."""
    for cell in dict.fromkeys(cell for row in cells.values() for cell in row):
        arm, subset = engine.study.arm(cell), engine.study.subset(cell)
        if arm.generator is None:
            continue
        name = f'{arm.generator}-{cell.size or "all"}-{subset}-{features}.json'
        path = out.parent / 'measures' / name
        if not path.exists():
            engine.begin()
            engine.say(f'Drawing and measuring {arm.generator}, subset {subset}')
            started = time.monotonic()
            data = _open(engine, cell)
            generator = Generator.load(engine.sets.path('generator', cell))
            found = measure_synthesis(data, generator.codec, features)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = {'measures': found, 'seconds': time.monotonic() - started}
            write_text(path, json.dumps(text) + '\n')
        kept = read_json(path, Kept)
        yield cell, (dict(kept['measures']), kept['seconds'])


def _open(engine: Engine, cell: Cell) -> TrustDataModule:
    """Real and generated pairs of a cell, drawn if they are not there."""
    pairs = engine.sets.pairs(cell)
    engine.require(pairs)
    real = make_object(engine.study.data, BaseDataModule)
    data = TrustDataModule(real, Path(pairs.name))
    data.prepare_data()
    data.setup('test')
    return data


def _look_up(measures: Any, name: str) -> float:
    for key in name.split('.'):
        measures = measures[key]
    return float('nan') if measures is None else float(measures)


def _paper(part: Part, group: str, row: str, column: str) -> float | None:
    numbers = part.paper.get(group, {}).get(row)
    return None if numbers is None else numbers[[*part.columns].index(column)]


def _settings(table: Table, study: Study) -> list[str]:
    """Sentences that a reader has to know before any number."""
    protocol = {
        'all_labels': "Generators saw all training labels, as the paper's did.",
        'same_labels': 'Generators saw the labels that the networks saw.',
    }[study.protocol]
    arms = {arm for arm, _ in table.rows.values()} & set(study.arms)
    used = {study.arms[arm].generator for arm in arms}
    recipes = [
        f'- generator {name}: {r.codec}, preset {r.preset}, {r.autoencoder} + '
        f'{r.diffusion} updates'
        for name, r in study.generators.items()
        if name in used
    ]
    said = (
        f'Data: `{study.data["class_path"]}` {study.data.get("init_args", {})}. '
        f'{len(study.seeds)} seed(s), {study.subsets} real subset(s) with generators, '
        f'{study.updates} updates. {protocol}'
    )
    return [said, '', *recipes, '']
