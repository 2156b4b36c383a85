# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One process at a time in a folder of results."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import naming_what_fails

try:
    import fcntl
except ImportError:  # on Windows nothing keeps two processes apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second process from a folder of results while this one is at work there.

    A process that dies gives the folder free. If nothing was written, no folder is left.

    Args:
        folder: The folder, which is made.

    Raises:
        FileExistsError: If it is a file.
        RuntimeError: If another process is at work in it.
    """
    path = folder / '.lock'
    if folder.is_file():
        raise FileExistsError(
            f'{folder} is a file, but results are written into a folder. Choose another '
            'name.'
        )
    with naming_what_fails(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open('a')
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f'Another process is at work in {folder}. Wait until it ends, or end '
                'it, and start this one again.'
            ) from error
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            if [*folder.iterdir()] == [path]:
                path.unlink()
                folder.rmdir()
