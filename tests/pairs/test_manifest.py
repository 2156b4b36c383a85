# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import os
from pathlib import Path

import pytest

from tests.conftest import calls_of
from tests.datamodules.torchgeo_fakes import write_coded_pairs
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs import manifest
from torchgeo_specdm.pairs.manifest import MANIFEST, require_unchanged, sort_manifest

EDITED = Path('masks') / '0001.tif'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_coded_pairs(tmp_path / 'pairs', 0, 3, size=8)


def edit(path: Path) -> None:
    """Change one byte, and neither size nor time: as a broken disk or copy does."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_changed_files_are_refused(folder: Path) -> None:
    edit(folder / EDITED)
    (folder / 'images' / '0002.tif').unlink()
    with pytest.raises(ValueError, match=r'2 of 6 files .*0001\.tif.*0002\.tif.*again'):
        require_unchanged(folder)


def test_an_edit_is_accepted_without_its_line(folder: Path) -> None:
    edit(folder / EDITED)
    lines = (folder / MANIFEST).read_text().splitlines(keepends=True)
    (folder / MANIFEST).write_text(lines[0] + lines[2])
    require_unchanged(folder)
    assert PairFolder(folder).ids == ['0000', '0001', '0002']


def test_hashes_once_until_a_file_is_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = calls_of(monkeypatch, manifest, 'sha256')
    for total in (6, 6):
        require_unchanged(folder)
        assert len(hashed) == total
    os.utime(folder / EDITED)
    require_unchanged(folder)
    assert len(hashed) == 12
    (folder / EDITED).write_bytes(b'')
    with pytest.raises(ValueError, match=r'1 of 6 files'):
        require_unchanged(folder)


def test_a_folder_that_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(manifest, 'write_text', refuse)
    require_unchanged(folder)
    assert not [*folder.glob('.*')]


def test_a_folder_without_a_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    edit(folder / EDITED)
    require_unchanged(folder)


def test_sorting_keeps_the_last_line_of_an_id(tmp_path: Path) -> None:
    lines = ['{"id": "b", "index": 1}', '{"id": "a", "index": 0, "clipped": 0.5}']
    torn = ['{"id": "a", "index": 0}', '{"id": "c", "ind', *lines]
    path = tmp_path / MANIFEST
    path.write_text('\n'.join(torn))
    sort_manifest(tmp_path)
    assert path.read_text().splitlines() == lines[::-1]
    before = path.stat()
    sort_manifest(tmp_path)
    assert path.stat() == before
