# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import shutil
from pathlib import Path

import pytest

from tests.data.pairs import make_pairs
from torchgeo_specdm.settings import content_hash, require_same_settings


class TestRequireSameSettings:
    def test_goes_on_with_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / 'plan.json'
        require_same_settings(path, {'seed': 1})
        path.write_text(json.dumps({'settings': {'seed': 1, 'data': None}}))
        require_same_settings(path, {'seed': 1, 'data': None})

    @pytest.mark.parametrize('found', [{'seed': 1}, {'seed': 2, 'old': 3}, {}])
    def test_refuses_others(self, tmp_path: Path, found: dict[str, int]) -> None:
        path = tmp_path / 'plan.json'
        path.write_text(json.dumps({'settings': found}))
        match = (
            rf'{tmp_path} was begun.*seed: {found.get("seed")} there, 3 here.*another'
        )
        with pytest.raises(FileExistsError, match=match):
            require_same_settings(path, {'seed': 3})


class TestContentHash:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return make_pairs(tmp_path / 'pairs')

    def test_place_and_other_files_do_not_matter(self, folder: Path) -> None:
        before = content_hash(folder)
        moved = shutil.copytree(folder, folder.parent / 'moved')
        (moved / 'images' / '0000.tif.aux.xml').write_text('QGIS was here')
        (moved / 'results').mkdir()
        (moved / 'results' / 'plan.json').write_text('{}')
        assert content_hash(moved) == before

    @pytest.mark.parametrize('name', ['images/0001.tif', 'masks/0003.tif'])
    def test_one_pixel_matters(self, folder: Path, name: str) -> None:
        before = content_hash(folder)
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        assert content_hash(folder) != before

    @pytest.mark.parametrize(
        'name', ['train.txt', 'classes.csv', 'dataset.json', 'images/0001.npy']
    )
    def test_lists_and_descriptions_matter(self, folder: Path, name: str) -> None:
        before = content_hash(folder)
        (folder / name).write_text('0001\n')
        assert content_hash(folder) != before

    def test_names_matter(self, folder: Path) -> None:
        before = content_hash(folder)
        (folder / 'masks' / '0000.tif').rename(folder / 'masks' / '0009.tif')
        assert content_hash(folder) != before
