# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchgeo_specdm import PairFolder
from torchgeo_specdm.scenes.change import change_spec, make_change_scene
from torchgeo_specdm.scenes.land import make_scene
from torchgeo_specdm.scenes.writing import write_scenes

COUNTS = (4, 2, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scenes(tmp_path / 'scenes', COUNTS, size=16, seed=7)
    return tmp_path / 'scenes'


def test_lists_share_no_scene_and_name_all(folder: Path) -> None:
    ids = {s: PairFolder(folder, s).ids for s in ('train', 'val', 'test')}
    assert tuple(map(len, ids.values())) == COUNTS
    named = [name for split in ids.values() for name in split]
    assert sorted(named) == PairFolder(folder).ids
    assert len(set(named)) == sum(COUNTS)


def test_scenes_are_those_of_seed_and_number(folder: Path) -> None:
    dataset = PairFolder(folder)
    for index in range(sum(COUNTS)):
        image, mask = make_scene(7, index, 16)
        sample = dataset[index]
        np.testing.assert_array_equal(sample['image'].numpy(), image)
        np.testing.assert_array_equal(sample['mask'].numpy(), mask)


def test_says_that_it_is_a_demo(folder: Path) -> None:
    card = (folder / 'README.md').read_text()
    assert '9 procedural, labelled scenes' in card and 'seed 7' in card
    assert 'nothing' in card and 'on real images' in card
    assert PairFolder(folder).provenance['synthetic'] is True


def test_hard_has_more_classes(tmp_path: Path) -> None:
    write_scenes(tmp_path, (1, 0, 0), size=16, hard=True)
    assert PairFolder(tmp_path).spec.num_classes == 13
    assert (tmp_path / 'val.txt').read_text() == ''


def test_change_has_two_dates(tmp_path: Path) -> None:
    write_scenes(tmp_path, (4, 1, 1), size=32, seed=7, change=True)
    dataset = PairFolder(tmp_path)
    assert dataset.spec == change_spec()
    assert len(PairFolder(tmp_path, 'train')) == 4
    for index in range(6):
        image, mask = make_change_scene(7, index, 32)
        sample = dataset[index]
        np.testing.assert_array_equal(sample['image'].numpy(), image)
        np.testing.assert_array_equal(sample['mask'].numpy(), mask[None])
    card = (tmp_path / 'README.md').read_text()
    assert '6 procedural, labelled scenes' in card and 'two days' in card


def test_hard_and_change_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='hard=True and change=True exclude'):
        write_scenes(tmp_path / 'scenes', COUNTS, hard=True, change=True)
    assert not (tmp_path / 'scenes').exists()


def test_a_second_run_writes_what_is_missing(folder: Path) -> None:
    lost, kept = folder / 'images' / '000003.tif', folder / 'images' / '000004.tif'
    before = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    write_scenes(folder, COUNTS, size=16, seed=7)
    assert (lost.read_bytes(), kept.stat().st_mtime_ns) == before
    assert len(PairFolder(folder)) == sum(COUNTS)


@pytest.mark.parametrize(
    'other',
    [
        {'counts': (5, 2, 2)},
        {'seed': 8},
        {'size': 32},
        {'hard': True},
        {'change': True},
    ],
)
def test_refuses_a_folder_of_other_scenes(folder: Path, other: dict[str, Any]) -> None:
    # other counts would move test scenes into the training list
    settings = {'counts': COUNTS, 'size': 16, 'seed': 7, **other}
    with pytest.raises(FileExistsError, match='begun with other settings'):
        write_scenes(folder, **settings)
    assert len(PairFolder(folder, 'train')) == COUNTS[0]


@pytest.mark.parametrize('counts', [(0, 0, 0), (3, -1, 0)])
def test_refuses_no_scenes(tmp_path: Path, counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r'counts=\(.*must be 0 or more each'):
        write_scenes(tmp_path / 'scenes', counts)
    assert not (tmp_path / 'scenes').exists()
