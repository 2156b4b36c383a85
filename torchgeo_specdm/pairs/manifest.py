# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One line for each sample of a folder: where it comes from, and its scores."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from ..files import OPEN, Count, Finite, read_json_lines, sha256, write_text

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
        clipped: Share of the values that were clipped to the type.
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
    """Read ``manifest.jsonl``; a torn line (a killed writer) is dropped.

    Args:
        root: The folder of pairs.

    Returns:
        One dict a line, the last one of an id winning, in file order.

    Raises:
        ValueError: If a line is of another form; the message names it.
    """
    path = root / MANIFEST
    if not path.exists():
        return []
    rows = read_json_lines(path, Line, torn=True)
    return list({row['id']: dict(row) for row in rows}.values())


def require_unchanged(root: Path) -> None:
    """Refuse a folder whose files are not those that its manifest lists.

    Hashing takes as long as reading all files, so it is done once: after that, sizes
    and times of the files must be the same, as ``.unchanged`` remembers them.

    Args:
        root: The folder of pairs; without a manifest nothing is known of its files.

    Raises:
        ValueError: With the first files that were changed or removed.
    """
    listed: dict[str, str] = {}
    for row in read_manifest(root):
        listed |= row.get('files', {})
    if not listed:
        return
    state = hashlib.sha256()
    for file, digest in sorted(listed.items()):
        found = None
        with suppress(OSError):
            found = os.stat(root / file)
        times = (found.st_size, found.st_mtime_ns) if found else None
        state.update(f'{file} {digest} {times}\n'.encode())
    path, verdict = root / _UNCHANGED, state.hexdigest()
    if path.is_file() and path.read_text() == verdict:
        return
    changed = [
        file
        for file, digest in listed.items()
        if not (root / file).is_file() or sha256(root / file) != digest
    ]
    if changed:
        raise ValueError(
            f'{len(changed)} of {len(listed)} files of {root} are not as they were '
            f'written: {changed[:_SHOWN]}. Run the command that wrote the folder again '
            'to have them back, or accept an edit by removing the lines of these '
            f'samples from {MANIFEST}.'
        )
    # a folder that cannot be written is hashed each time
    with suppress(OSError):
        write_text(path, verdict)
