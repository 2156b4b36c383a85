# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Scores of single samples, written by any number of processes."""

import json
import math
from collections.abc import Mapping
from heapq import merge
from pathlib import Path
from typing import Any, TextIO

from pydantic import with_config
from typing_extensions import TypedDict

from ..files import OPEN, Count, Finite, read_json_lines, write_atomically

#: A number, or None where there is none.
Measure = Finite | None

#: What tells whether a sample is as good as a real one; low values are bad.
TRUST = ('agreement', 'edges', 'spectrum')
#: What tells whether a sample is a copy of a real one; low values are bad.
COPIES = ('distance', 'feature_distance')


@with_config(OPEN)
class Scores(TypedDict):
    """Scores of one sample: a line of a file of scores."""

    index: Count
    id: str
    agreement: Measure
    edges: Measure
    spectrum: Measure
    distance: Measure
    feature_distance: Measure


@with_config(OPEN)
class Neighbour(Scores):
    """Scores of a sample, and the place of the nearest training window."""

    nearest: str
    row: Count
    column: Count
    turn: Count


class ScoreFiles:
    """Files of one JSON object a line; each process writes its own, one merges them.

    Args:
        folder: Folder of the score files.
        rank: Number of the process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        """Make the folder."""
        self.folder = folder
        self.rank = rank
        self._open: dict[str, TextIO] = {}
        folder.mkdir(parents=True, exist_ok=True)
        # what a killed run has left would get into this one
        for part in folder.glob(f'*.{rank}.part'):
            part.unlink()

    def write(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a sample; what is no number becomes null.

        Args:
            name: Name of the set.
            row: Scores by name, and the ``index`` of the sample, which rises.
        """
        if name not in self._open:
            path = self._part(name, self.rank)
            self._open[name] = path.open('w', encoding='utf-8')
        plain = {
            key: None if isinstance(v, float) and not math.isfinite(v) else v
            for key, v in row.items()
        }
        self._open[name].write(json.dumps(plain) + '\n')

    def close(self) -> None:
        """Close the files of this process."""
        for file in self._open.values():
            file.close()

    def merge(self, name: str, processes: int) -> Path:
        """Write ``<name>.jsonl`` in order of index, row by row.

        Args:
            name: Name of the set.
            processes: Number of processes that wrote; all have closed their files.

        Returns:
            The path of the file.
        """
        parts = [self._part(name, rank) for rank in range(processes)]
        # a process without a sample of this set has written nothing
        there = [part for part in parts if part.exists()]
        lines = (read_json_lines(part, dict[str, Any]) for part in there)
        rows = merge(*lines, key=lambda row: int(row['index']))

        def write(path: Path) -> None:
            with path.open('w', encoding='utf-8') as file:
                file.writelines(json.dumps(row) + '\n' for row in rows)

        path = self.folder / f'{name}.jsonl'
        write_atomically(path, write)
        for part in there:
            part.unlink()
        return path

    def _part(self, name: str, rank: int) -> Path:
        return self.folder / f'{name}.{rank}.part'


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Read the scores of samples, one JSON object a line.

    Args:
        path: The file.

    Returns:
        One dict a line, each with ``id`` and all scores, which are numbers or None.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If a line is something else; the message names it.
    """
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist, but the scores are read from it. Measure the folder '
            'first (TrustTask writes it), or correct the path.'
        )
    return [dict(row) for row in read_json_lines(path, Scores)]
