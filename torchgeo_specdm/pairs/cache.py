# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Facts of files, kept between runs for as long as the files do not change."""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from .facts import BandMoments, SampleFacts, SampleForm

#: Folder of all caches.
HOME = (
    Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'torchgeo_specdm'
)
#: Seconds within which a file may change again without another time.
_RACY = 2.0
#: What stands beside a raster and says how to read it.
_BESIDE = ('.aux.xml', '.msk', '.hdr')


class FileCache:
    """Entries by name, each true while its files have the same sizes and times.

    It lies in the user's folder of caches (``XDG_CACHE_HOME``, else ``~/.cache``), since
    data may be read-only, and what lies beside them is hashed. Where nothing can be
    written, nothing is kept. Files that have changed just now are not trusted: they may
    change again within the resolution of their time.

    Args:
        root: Folder of the files.
        settings: All else that entries depend on.
        files: Gives the files of a name, as paths in the folder.
    """

    def __init__(
        self, root: Path, settings: str, files: Callable[[str], Sequence[str]]
    ) -> None:
        """Find the place of the entries."""
        key = hashlib.sha256(f'{root.resolve()}\n{settings}'.encode()).hexdigest()
        self.path = HOME / f'{key[:16]}.sqlite'
        self.root = root
        self.files = files

    @cached_property
    def kept(self) -> dict[str, bytes]:
        """The entries whose files have not changed; read once."""
        found: dict[str, bytes] = {}
        with contextlib.suppress(sqlite3.Error, OSError):
            if self.path.exists():
                with contextlib.closing(sqlite3.connect(self.path)) as store:
                    rows = store.execute('SELECT name, stamp, entry FROM entries')
                    for name, stamp, entry in rows:
                        if stamp == self._stamp(name):
                            found[name] = entry
        return found

    def keep(self, entries: Mapping[str, bytes]) -> None:
        """Add entries that are not there yet.

        Args:
            entries: By name.
        """
        latest = time.time() - _RACY
        rows = []
        with contextlib.suppress(sqlite3.Error, OSError):
            for name, entry in entries.items():
                if name not in self.kept and self._changed(name) < latest:
                    rows.append((name, self._stamp(name), entry))
            if not rows:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path)) as store, store:
                store.execute(
                    'CREATE TABLE IF NOT EXISTS entries '
                    '(name TEXT PRIMARY KEY, stamp TEXT, entry BLOB)'
                )
                store.executemany('INSERT OR REPLACE INTO entries VALUES (?,?,?)', rows)

    def _stamp(self, name: str) -> str | None:
        """Sizes and times of the files of a name; None if one is gone."""
        try:
            paths = self._paths(name)
            stats = [os.stat(path) for path in paths]
        except (OSError, KeyError):
            return None
        for path in paths:
            stem = os.path.splitext(path)[0]
            for beside in (path + _BESIDE[0], path + _BESIDE[1], stem + _BESIDE[2]):
                with contextlib.suppress(OSError):
                    stats.append(os.stat(beside))
        return ' '.join(f'{stat.st_size}:{stat.st_mtime_ns}' for stat in stats)

    def _changed(self, name: str) -> float:
        """Time at which a file of a name last changed, in seconds."""
        return max(os.stat(path).st_mtime for path in self._paths(name))

    def _paths(self, name: str) -> list[str]:
        return [os.path.join(self.root, file) for file in self.files(name)]


def pack_facts(facts: SampleFacts) -> bytes:
    """Facts of a sample as an entry.

    Args:
        facts: The facts.

    Returns:
        The entry.
    """
    form, moments, level, *plain = facts
    dtypes = [str(form.image_dtype), str(form.mask_dtype)]
    text = [form.channels, form.layers, dtypes, form.size, *plain]
    numbers = np.stack([*moments, level.double().numpy()])
    # JSON has no line end
    return json.dumps(text).encode() + b'\n' + numbers.astype(np.float64).tobytes()


def unpack_facts(entry: bytes) -> SampleFacts:
    """Undo :func:`pack_facts`.

    Args:
        entry: The entry.

    Returns:
        The facts, equal to the bit.
    """
    text, _, numbers = entry.partition(b'\n')
    channels, layers, dtypes, size, *plain = json.loads(text)
    pixels, mean, squares, level = np.frombuffer(numbers).reshape(4, -1)
    image, mask = (getattr(torch, name.split('.')[-1]) for name in dtypes)
    return SampleFacts(
        SampleForm(tuple(channels), tuple(layers), image, mask, tuple(size)),
        BandMoments(pixels.astype(np.int64), mean, squares),
        torch.from_numpy(level.copy()).float(),
        *plain,
    )
