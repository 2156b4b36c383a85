# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PAIR_CLASSES, write_pair_folder
from torchgeo_specdm import PairFolder
from torchgeo_specdm.cli import main

URL = 'https://example.org/pairs'


def metadata(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / 'metadata.jsonl').open()]


@pytest.fixture
def root(pair_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / 'fields'
    shutil.copytree(pair_folder, folder)
    return folder


def test_metadata_name_the_files_of_each_sample(root: Path) -> None:
    assert main(['publish', str(root), '--licence', 'cc-by-4.0']) == 0
    rows = metadata(root)
    assert rows[0] == {
        'image_file_name': 'images/000.tif',
        'mask_file_name': 'masks/000.tif',
        'id': '000',
        'split': 'train',
    }
    assert [row['id'] for row in rows] == PairFolder(root).ids
    assert [row['split'] for row in rows].count('val') == 4
    files = [row[f'{key}_file_name'] for row in rows for key in ('image', 'mask')]
    assert all((root / file).is_file() for file in files)


def test_dates_have_columns_of_their_own(tmp_path: Path) -> None:
    root = write_pair_folder(tmp_path / 'change', dates=2)
    assert main(['publish', str(root), '--licence', 'mit']) == 0
    row = metadata(root)[0]
    assert (
        row['image_2_file_name'] == 'images/000_2.tif' and 'image_file_name' not in row
    )


def test_croissant(root: Path) -> None:
    assert main(['publish', str(root), '--licence', 'cc-by-4.0', '--url', URL]) == 0
    found = json.loads((root / 'croissant.json').read_text())
    assert found['conformsTo'] == 'http://mlcommons.org/croissant/1.0'
    assert (found['name'], found['license'], found['url']) == (
        'fields',
        'cc-by-4.0',
        URL,
    )
    table, *sets = found['distribution']
    text = (root / 'metadata.jsonl').read_bytes()
    assert table['sha256'] == hashlib.sha256(text).hexdigest()
    assert table['contentUrl'] == f'{URL}/metadata.jsonl'
    assert [part['includes'] for part in sets] == ['images/*.tif', 'masks/*.tif']
    pairs, classes = found['recordSet']
    assert [field['name'] for field in pairs['field']] == [*metadata(root)[0]]
    assert [row['classes/name'] for row in classes['data']] == [*PAIR_CLASSES]


def test_the_head_of_the_card_is_replaced(root: Path) -> None:
    (root / 'README.md').write_text('# Fields\n\nOf mine.\n')
    for licence in ('mit', 'cc-by-4.0'):
        assert main(['publish', str(root), '--licence', licence]) == 0
    text = (root / 'README.md').read_text()
    assert text.startswith('---\nlicense: "cc-by-4.0"\n') and text.count('license') == 1
    assert text.endswith('---\n\n# Fields\n\nOf mine.\n')
    assert '"synthetic"' not in text
    assert '"data_files": ["metadata.jsonl", "images/*", "masks/*"]' in text


def test_it_stays_a_folder_of_pairs(root: Path) -> None:
    before = PairFolder(root).digest()
    assert main(['publish', str(root), '--licence', 'mit']) == 0
    assert (root / 'README.md').read_text().endswith('# fields\n')
    assert PairFolder(root).digest() == before


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['publish', str(tmp_path / 'none'), '--licence', 'mit']) == 1
    assert 'none' in capsys.readouterr().err
