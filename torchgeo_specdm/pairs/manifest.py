# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One line for each sample of a folder: where it comes from, and its scores."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import Field, with_config
from typing_extensions import TypedDict

from ..files import (
    OPEN,
    Count,
    Finite,
    read_json_lines,
    sha256,
    write_atomically,
    write_text,
)

MANIFEST = 'manifest.jsonl'
#: Hash of names, sizes and times of all listed files when they were as drawn.
_UNCHANGED = '.unchanged'
#: How many changed files an error names.
_SHOWN = 3


@with_config(OPEN)
class Line(TypedDict):
    """Line of the manifest, as far as it has a form.

    Attributes:
        id: Id of the sample.
        index: Number of the sample.
        accepted: Whether the sample is to be used; true if left out.
        clipped: Share of the values that were clipped, to the range that training saw
            of their band or to that of the type.
        files: SHA-256 of each file, by its path within the folder.
    """

    id: str
    index: NotRequired[Count]
    accepted: NotRequired[bool]
    clipped: NotRequired[Finite]
    files: NotRequired[
        dict[Annotated[str, Field(pattern=r'^(images|masks|confidence)/[^/]+$')], str]
    ]


def read_manifest(root: Path) -> list[dict[str, Any]]:
    """All lines of a manifest at once (see :func:`manifest_lines`)."""
    return [*manifest_lines(root)]


def manifest_lines(root: Path) -> Iterator[dict[str, Any]]:
    """Read ``manifest.jsonl`` line by line; a torn one (a killed writer) is dropped.

    In memory are only hashes of ids, and the ids of those that come again.

    Args:
        root: The folder of pairs.

    Yields:
        A dict for each line, the last one of an id alone, in file order.

    Raises:
        ValueError: If a line is of another form; the message names it.
    """
    path = root / MANIFEST
    if not path.exists():
        return
    rows = partial(read_json_lines, path, Line, torn=True)
    # 8 bytes an id, where the ids of a million samples would take 100 MB
    hashes = np.fromiter((hash(row['id']) for row in rows()), np.int64)
    values, counts = np.unique(hashes, return_counts=True)
    again = {*values[counts > 1].tolist()}
    # others may write more in between
    lines = enumerate(islice(rows(), len(hashes) if again else 0))
    last = {row['id']: n for n, row in lines if hash(row['id']) in again}
    for number, row in enumerate(islice(rows(), len(hashes))):
        if last.get(row['id'], number) == number:
            yield dict(row)


def sort_manifest(root: Path) -> None:
    """Sort ``manifest.jsonl`` by index; the last line of an id stays.

    A manifest that is in order is not touched, and of others, ids and places of lines
    are in memory.

    Args:
        root: The folder of pairs; its manifest, if any, reads (:func:`manifest_lines`).

    Raises:
        OSError: If the manifest cannot be written.
    """
    path = root / MANIFEST
    path.touch()
    places: dict[str, tuple[int, int]] = {}
    starts = [0]
    with path.open('rb') as file:
        for line in file:
            with suppress(json.JSONDecodeError, UnicodeDecodeError):
                row = json.loads(line)
                places[row['id']] = row.get('index', 0), starts[-1]
            starts.append(starts[-1] + len(line))
        order = [start for _, start in sorted(places.values())]
        if order == starts[:-1]:
            return

        def write(part: Path) -> None:
            with part.open('wb') as target:
                for start in order:
                    file.seek(start)
                    # the last one may have been cut just before its end
                    target.write(file.readline().rstrip(b'\n') + b'\n')

        write_atomically(path, write)


def require_unchanged(root: Path) -> None:
    """Refuse a folder whose files are not those that its manifest lists.

    Hashing takes as long as reading all files, so it is done once: after that, sizes
    and times of the files must be the same, as ``.unchanged`` remembers them.

    Args:
        root: The folder of pairs; without a manifest nothing is known of its files.

    Raises:
        ValueError: With the first files that were changed or removed.
    """
    state, count = hashlib.sha256(), 0
    for file, digest in _listed_files(root):
        count += 1
        found = None
        with suppress(OSError):
            found = os.stat(os.path.join(root, file))
        times = (found.st_size, found.st_mtime_ns) if found else None
        state.update(f'{file} {digest} {times}\n'.encode())
    path, verdict = root / _UNCHANGED, state.hexdigest()
    if not count or (path.is_file() and path.read_text() == verdict):
        return
    changed = [
        file
        for file, digest in _listed_files(root)
        if not (root / file).is_file() or sha256(root / file) != digest
    ]
    if changed:
        raise ValueError(
            f'{len(changed)} of {count} files of {root} are not as they were '
            f'written: {changed[:_SHOWN]}. Run the command that wrote the folder again '
            'to have them back, or accept an edit by removing the lines of these '
            f'samples from {MANIFEST}.'
        )
    # a folder that cannot be written is hashed each time
    with suppress(OSError):
        write_text(path, verdict)


def _listed_files(root: Path) -> Iterator[tuple[str, str]]:
    """Each file of the manifest, and its SHA-256."""
    for row in manifest_lines(root):
        yield from row.get('files', {}).items()
