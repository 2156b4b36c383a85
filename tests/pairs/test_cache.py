# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from tests.data.pairs import make_pairs
from torchgeo_specdm.datasets import pairs
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs import cache, classes, description
from torchgeo_specdm.pairs.cache import pack_facts, unpack_facts
from torchgeo_specdm.pairs.facts import SampleFacts

LONG_AGO = 1_600_000_000


def age(root: Path, seconds: int = LONG_AGO) -> None:
    """Let all files be old enough to be trusted."""
    for path in root.glob('*/*'):
        os.utime(path, (seconds, seconds))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_pairs(tmp_path / 'pairs', 4, nodata=11)
    age(root)
    return root


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    found: list[str] = []
    for module, name in (
        (pairs, 'read_raster'),
        (pairs, 'read_codes'),
        (description, 'read_raster'),
        (classes, 'read_raster'),
    ):
        known = getattr(module, name)

        def read(path: Path, *args: Any, known: Any = known) -> Any:
            found.append(f'{path.parent.name}/{path.stem}')
            return known(path, *args)

        monkeypatch.setattr(module, name, read)
    return found


def test_files_that_did_not_change_are_not_read(root: Path, reads: list[str]) -> None:
    first = PairFolder(root)
    first.verify()
    assert {*reads} == {f'{k}/000{i}' for k in ('images', 'masks') for i in range(4)}
    reads.clear()
    again = PairFolder(root)
    again.verify()
    # the first of them tells bands and types
    assert {*reads} == {'images/0000', 'masks/0000'}
    for index in range(4):
        one, two = first.facts(index), again.facts(index)
        assert one.form == two.form and one.fingerprint == two.fingerprint
        assert torch.equal(one.level, two.level)
        assert all(map(np.array_equal, one.moments, two.moments))
    # other bands are other facts
    PairFolder(root, bands=['B04']).verify()
    assert 'images/0003' in reads


@pytest.mark.parametrize('kind', ['images', 'masks'])
def test_a_file_that_changed_is_read(root: Path, reads: list[str], kind: str) -> None:
    PairFolder(root).verify()
    path = root / kind / '0002.tif'
    size = path.stat().st_size
    with rasterio.open(path, 'r+') as raster:
        raster.write(raster.read() * 0 + 2)
    assert path.stat().st_size == size
    os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))
    reads.clear()
    folder = PairFolder(root)
    folder.verify()
    assert f'{kind}/0002' in reads and 'images/0003' not in reads
    assert folder.facts(2).fingerprint != folder.facts(3).fingerprint


def test_what_stands_beside_counts(root: Path, reads: list[str]) -> None:
    PairFolder(root).verify()
    (root / 'images' / '0001.tif.aux.xml').write_text('<PAMDataset/>')
    reads.clear()
    PairFolder(root).verify()
    assert 'images/0001' in reads and 'images/0002' not in reads


def test_fresh_files_are_not_trusted(tmp_path: Path, reads: list[str]) -> None:
    root = make_pairs(tmp_path, 2)
    PairFolder(root).verify()
    reads.clear()
    PairFolder(root).verify()
    assert 'images/0001' in reads


@pytest.mark.parametrize('content', [None, b'no data base'])
def test_without_a_place_to_write_nothing_is_kept(
    root: Path,
    reads: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
) -> None:
    home = tmp_path / 'home'
    monkeypatch.setattr(cache, 'HOME', home / 'cache' if content is None else home)
    if content is None:
        home.write_text('a file')
    PairFolder(root).verify()
    for path in home.glob('*.sqlite') if content else ():
        path.write_bytes(content)
    reads.clear()
    PairFolder(root).verify()
    assert 'images/0001' in reads


@pytest.mark.parametrize('dates', [1, 2])
def test_facts_survive(dates: int) -> None:
    image = torch.rand(*((dates,) if dates > 1 else ()), 5, 6, 7)
    image[..., 0, :, :] = torch.nan
    shape = (1, 6, 7) if dates > 1 else (6, 7)
    facts = SampleFacts.of({'image': image, 'mask': torch.zeros(shape).long()})
    again = unpack_facts(pack_facts(facts))
    assert pack_facts(again) == pack_facts(facts)
    assert again.form == facts.form and again.brightest == facts.brightest
