# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.pairs import make_pairs, write_tiff
from torchgeo_specdm import quickstart
from torchgeo_specdm.cli import main
from torchgeo_specdm.quickstart import Quickstart
from torchgeo_specdm.study.engine import Engine

Output = pytest.CaptureFixture[str]
LISTS = {'train': range(8), 'val': range(8, 10), 'test': range(10, 12)}


def user_folder(root: Path, count: int = 12, size: int = 32, **kinds: Any) -> Path:
    """Pairs as a user brings them, with lists if there are enough."""
    make_pairs(root, count, size=size, **kinds)
    for split, numbers in LISTS.items():
        ids = ''.join(f'{i:04d}\n' for i in numbers)
        (root / f'{split}.txt').write_text(ids if count >= 12 else '')
    return root


def rewrite(path: Path, shape: tuple[int, ...], value: int = 1, **kinds: Any) -> None:
    path.unlink()
    write_tiff(path, np.full(shape, value, np.uint16), **kinds)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything is trained, or timed for it."""

    def fail(*arguments: Any) -> None:
        raise AssertionError('a training began')

    monkeypatch.setattr(quickstart, 'learn_stage', fail)
    monkeypatch.setattr(quickstart, 'make_plan', fail)
    monkeypatch.setattr(Engine, 'train', fail)


def refused(capsys: Output, *arguments: str) -> str:
    """The error of a quickstart."""
    assert main(['quickstart', *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith('torchgeo-specdm: ') and 'Traceback' not in error
    return error


@pytest.mark.usefixtures('no_training')
class TestRefusals:
    @pytest.mark.parametrize(
        'spoil, said',
        [
            (
                lambda root: rewrite(root / 'images' / '0005.tif', (3, 32, 32)),
                ['images/0005.tif has 3 bands', '4'],
            ),
            (
                lambda root: rewrite(root / 'masks' / '0007.tif', (1, 32, 32), 9),
                ['masks/0007.tif has the values [9]', 'allowed'],
            ),
            (
                lambda root: (root / 'masks' / '0003.tif').unlink(),
                ['12 images and 11 masks', 'image 0003 without mask'],
            ),
            (
                lambda root: (root / 'images' / '0003.tif').unlink(),
                ['11 images and 12 masks', 'no image 0003'],
            ),
            (
                lambda root: rewrite(root / 'images' / '0004.tif', (4, 48, 48)),
                ['images/0004.tif', '48', 'masks/0004.tif', '32'],
            ),
            (
                lambda root: [
                    rewrite(root / 'images' / '0004.tif', (4, 48, 48)),
                    rewrite(root / 'masks' / '0004.tif', (1, 48, 48)),
                ],
                ['masks/0004.tif', '48', '32', 'one size'],
            ),
        ],
    )
    def test_a_bad_file_is_named(
        self,
        tmp_path: Path,
        capsys: Output,
        spoil: Callable[[Path], None],
        said: list[str],
    ) -> None:
        root, out = user_folder(tmp_path / 'pairs'), tmp_path / 'out'
        (root / 'classes.csv').write_text('id,name\n0,a\n1,b\n2,c\n')
        spoil(root)
        error = refused(capsys, '--data', str(root), '--out', str(out))
        assert all(text in error for text in said)
        assert not out.exists()

    @pytest.mark.parametrize(
        'kinds, said',
        [
            ({'size': 16}, ['patches of 16 x 16', 'multiples of 16, and 32 or more']),
            ({'size': 40}, ['patches of 40 x 40', 'multiples of 16, and 32 or more']),
            ({'dates': 2}, ['2 date(s)', 'needs 1', '--task change']),
            ({'classes': 1}, ["['class_0']", 'two or more to tell apart']),
        ],
    )
    def test_what_it_cannot_do(
        self, tmp_path: Path, capsys: Output, kinds: dict[str, int], said: list[str]
    ) -> None:
        root = user_folder(tmp_path / 'pairs', **kinds)
        out = tmp_path / 'out'
        error = refused(capsys, '--data', str(root), '--out', str(out))
        assert all(text in error for text in said)
        assert not out.exists()

    @pytest.mark.parametrize(
        'lists, said',
        [
            ({'train': 12, 'val': 0, 'test': 0}, 'has no test set'),
            ({'train': 7, 'val': 3, 'test': 2}, '7 for train, 3 for val, 2 for test'),
            ({'train': 9, 'val': 1, 'test': 2}, '9 for train, 1 for val, 2 for test'),
            ({'train': 9, 'val': 2, 'test': 1}, '9 for train, 2 for val, 1 for test'),
        ],
    )
    def test_too_few_samples(
        self, tmp_path: Path, capsys: Output, lists: dict[str, int], said: str
    ) -> None:
        root, start = user_folder(tmp_path / 'pairs'), 0
        for split, count in lists.items():
            ids = ''.join(f'{i:04d}\n' for i in range(start, start + count))
            (root / f'{split}.txt').write_text(ids)
            start += count
        out = tmp_path / 'out'
        error = refused(capsys, '--data', str(root), '--out', str(out))
        assert said in error
        assert 'no test set' in said or '8 for train, 2 for val, 2 for test' in error
        assert not out.exists()

    def test_two_samples_without_lists(self, tmp_path: Path, capsys: Output) -> None:
        root = user_folder(tmp_path / 'pairs', count=2)
        error = refused(capsys, '--data', str(root), '--out', str(tmp_path / 'out'))
        assert 'has 2 places to share' in error

    @pytest.mark.parametrize(
        'arguments, said',
        [
            (['--minutes', '0'], 'minutes=0.0 must be above 0'),
            (['--minutes', 'nan'], 'minutes=nan must be above 0'),
            (['--data', 'nothing'], 'nothing'),
            (['--unlabelled', 'nothing'], 'nothing is no folder'),
        ],
    )
    def test_wrong_numbers(
        self, tmp_path: Path, capsys: Output, arguments: list[str], said: str
    ) -> None:
        out = str(tmp_path / 'out')
        assert said in refused(capsys, '--out', out, *arguments)
        assert not Path(out).exists()

    def test_out_is_a_file(self, tmp_path: Path, capsys: Output) -> None:
        (tmp_path / 'out').write_text('mine')
        error = refused(capsys, '--out', str(tmp_path / 'out'))
        assert 'is a file' in error
        assert (tmp_path / 'out').read_text() == 'mine'


class TestSettings:
    @pytest.fixture
    def begun(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """A quickstart that was stopped after planning."""

        def plan(*arguments: Any) -> dict[str, Any]:
            sizes = {'samples': arguments[3], 'patch_size': 32, 'batch_size': 8}
            return {
                **sizes,
                'precision': '32-true',
                'latent_batch_size': 8,
                'passes': 1,
                'steps': {'diffusion': 1, 'network': 1},
                'seconds': {'diffusion': 1, 'network': 1, 'sample': 1},
            }

        def stop(*arguments: Any) -> None:
            raise RuntimeError('it went on')

        monkeypatch.setattr(quickstart, 'make_plan', plan)
        monkeypatch.setattr(Quickstart, '_learn_codec', stop)
        root = user_folder(tmp_path / 'pairs')
        return ['--data', str(root), '--out', str(tmp_path / 'out'), '--minutes', '5']

    def test_the_same_go_on(self, begun: list[str], capsys: Output) -> None:
        assert 'it went on' in refused(capsys, *begun)
        assert 'it went on' in refused(capsys, *begun)

    @pytest.mark.parametrize(
        'change, said',
        [
            (['--seed', '1'], 'seed: 0 there, 1 here'),
            (['--codec', 'pixels'], "codec: 'auto' there, 'pixels' here"),
            (['--minutes', '60'], 'minutes: 5.0 there, 60.0 here'),
        ],
    )
    def test_others_are_refused(
        self, begun: list[str], capsys: Output, change: list[str], said: str
    ) -> None:
        refused(capsys, *begun)
        error = refused(capsys, *begun, *change)
        assert 'begun with other settings' in error and said in error
        assert 'Choose another folder' in error

    def test_other_data_are_refused(
        self, begun: list[str], capsys: Output, tmp_path: Path
    ) -> None:
        refused(capsys, *begun)
        assert "data: 'pairs " in refused(capsys, '--out', begun[3], '--minutes', '5')
        # nothing of the demo was written into a folder that it does not own
        assert not (tmp_path / 'out' / 'scenes').exists()
        rewrite(tmp_path / 'pairs' / 'masks' / '0001.tif', (1, 32, 32), 2)
        assert "data: 'pairs " in refused(capsys, *begun)

    def test_moved_data_go_on(
        self, begun: list[str], capsys: Output, tmp_path: Path
    ) -> None:
        refused(capsys, *begun)
        moved = tmp_path / 'elsewhere' / 'pairs'
        shutil.copytree(tmp_path / 'pairs', moved)
        assert 'it went on' in refused(capsys, *begun, '--data', str(moved))
