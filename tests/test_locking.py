# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import sys
from pathlib import Path

import pytest

from tests.processes import in_child
from torchgeo_specdm.locking import alone_in


def enter(folder: Path) -> None:
    """End with 3 where another process is at work."""
    try:
        with alone_in(folder):
            (folder / 'made').touch()
    except RuntimeError:
        sys.exit(3)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / 'results'
    with alone_in(folder):
        assert in_child(lambda: enter(folder)) == 3
        assert not (folder / 'made').exists()
    # and nothing is left of a process that wrote nothing
    assert not folder.exists()
    assert in_child(lambda: enter(folder)) == 0
    assert (folder / 'made').exists()


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'out').write_text('mine')
    with (
        pytest.raises(FileExistsError, match='is a file, but results'),
        alone_in(tmp_path / 'out'),
    ):
        pass
