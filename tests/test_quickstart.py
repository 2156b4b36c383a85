# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lightning.pytorch import LightningModule, Trainer
from torchgeo.main import main as torchgeo

from tests.data.pairs import make_pairs, write_tiff
from torchgeo_specdm import PairFolder, quickstart
from torchgeo_specdm.cli import main
from torchgeo_specdm.quickstart import Quickstart
from torchgeo_specdm.study.comparison import Comparison
from torchgeo_specdm.tasks.specdm import SpecDMTask

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

    monkeypatch.setattr(quickstart, 'torchgeo', fail)
    monkeypatch.setattr(quickstart, 'make_plan', fail)
    monkeypatch.setattr(Comparison, '_train', fail)


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
            ({'dates': 2}, ['2 dates', 'one date']),
            ({'classes': 1}, ["['class_0']", 'two classes or more']),
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
            (['--seed', '-1'], 'seed=-1 from 0'),
            (['--seed', '4294967296'], 'seed=4294967296 from 0'),
            (['--data', 'nothing'], 'nothing'),
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
            return {'samples': arguments[3], 'patch_size': 32, 'batch_size': 8}

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


@pytest.mark.parametrize(
    'codec, accuracy, chosen, said',
    [
        ('auto', 0.99, 'two_stream', '99.0% of the mask pixels'),
        ('auto', 0.6, 'pixels', 'not good enough after 7 steps: it gets 60.0%'),
        ('two_stream', 0.5, 'two_stream', 'as asked with --codec; it gets 50.0%'),
        ('pixels', None, 'pixels', 'as asked with --codec'),
    ],
)
def test_choice_of_the_codec(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: Any,
    accuracy: float | None,
    chosen: str,
    said: str,
) -> None:
    class Real:
        val_dataset = None

        def setup(self, stage: str) -> None:
            assert stage == 'validate'

    commands: list[list[str]] = []
    monkeypatch.setattr(quickstart, 'torchgeo', commands.append)
    monkeypatch.setattr(quickstart, 'load_codec', lambda folder: None)
    monkeypatch.setattr(quickstart, 'cut_tiles', lambda dataset, size: None)
    monkeypatch.setattr(quickstart, 'mask_accuracy', lambda codec, tiles: accuracy)
    plan = {
        'steps': {'autoencoder': 7},
        'seconds': {'autoencoder': 0.1},
        'patch_size': 32,
        'precision': '32-true',
    }
    start = Quickstart(tmp_path / 'out', codec=codec)
    real: Any = Real()
    assert start._learn_codec(real, {}, plan)[0] == chosen
    assert said in start._learn_codec(real, {}, plan)[1]
    # an interrupted training goes on from its checkpoint
    last = tmp_path / 'out' / 'logs' / 'autoencoder' / 'last.ckpt'
    last.parent.mkdir(parents=True)
    last.touch()
    start._learn_codec(real, {}, plan)
    if codec == 'pixels':
        assert commands == []
        return
    config = str(tmp_path / 'out' / 'configs' / 'autoencoder.yaml')
    assert commands[0] == ['fit', '--config', config]
    assert commands[2] == ['fit', '--config', config, '--ckpt_path', str(last)]


class Trained:
    """Notes every training of Lightning."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        fit = Trainer.fit

        def noted(trainer: Trainer, *arguments: Any, **named: Any) -> None:
            fit(trainer, *arguments, **named)
            self.steps.append(trainer.global_step)

        monkeypatch.setattr(Trainer, 'fit', noted)

    def take(self) -> list[int]:
        found, self.steps = self.steps, []
        return found


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    """The whole path, but small."""
    monkeypatch.setattr(quickstart, '_SCENES', (16, 3, 4))
    monkeypatch.setattr(quickstart, '_SCENE_SIZE', 32)
    monkeypatch.setattr(quickstart, '_RATIOS', (0, 1))
    monkeypatch.setattr(quickstart, '_SEEDS', 2)
    planned = quickstart.make_plan

    def plan(*arguments: Any) -> dict[str, Any]:
        steps = {'autoencoder': 3, 'diffusion': 4, 'segmenter': 4}
        return planned(*arguments) | {'steps': steps, 'passes': 2}

    monkeypatch.setattr(quickstart, 'make_plan', plan)
    handler = signal.getsignal(signal.SIGINT)
    yield Trained(monkeypatch)
    # Lightning ignores Ctrl-C for good once it has seen it
    signal.signal(signal.SIGINT, handler)


def test_the_whole_path(
    tmp_path: Path, tiny: Trained, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / 'results'
    command = ['quickstart', '--out', str(out), '--minutes', '0.5']

    def interrupted(task: LightningModule, batch: Any, batch_idx: int) -> None:
        raise KeyboardInterrupt

    # Ctrl-C while pairs are drawn: both stages are done
    with monkeypatch.context() as patch:
        patch.setattr(SpecDMTask, 'predict_step', interrupted)
        assert main(command) == 130
    assert tiny.take() == [3, 4]
    said, error = capsys.readouterr()
    assert 'The same command goes on from here.' in error
    # it says before each step how long it takes
    steps = ('Drawing 23', 'Timing', 'Stage 1', 'Stage 2', 'Generating 16 labelled')
    for line, step in zip(said.splitlines(), steps, strict=True):
        assert line.startswith(step) and ' (about ' in line

    # it goes on: pilots of 1, 2 and 4 updates, the judge and the grid
    assert main(command) == 0
    assert tiny.take() == [1, 2, 4, *[4] * 5]
    said = capsys.readouterr().out
    for step in ('Generating 16', 'Finding', 'Measuring', 'Training 4 segmenters'):
        assert f'\n{step}' in said
    assert '1x synthetic changes mIoU by ' in said
    assert f'Report: {out / "report.html"}' in said
    check_results(out)

    # nothing is left to do
    before = (out / 'comparison' / 'runs.csv').stat().st_mtime_ns
    assert main(command) == 0
    assert tiny.take() == []
    said = capsys.readouterr().out
    assert 'Stage' not in said and 'Training' not in said and 'Checking 16' in said
    assert (out / 'comparison' / 'runs.csv').stat().st_mtime_ns == before

    # other settings are refused before anything is done
    assert 'seed: 0 there, 1 here' in refused(capsys, *command[1:], '--seed', '1')

    # its YAMLs run as they are
    for name in ('autoencoder', 'diffusion', 'segment'):
        torchgeo(['fit', '--config', str(out / 'configs' / f'{name}.yaml')])
    assert tiny.take() == [3, 4, 4]
    kept = (out / 'synthetic' / 'manifest.jsonl').read_text()
    torchgeo(['predict', '--config', str(out / 'configs' / 'generate.yaml')])
    assert (out / 'synthetic' / 'manifest.jsonl').read_text() == kept


def check_results(out: Path) -> None:
    """Everything is there and fits together."""
    lines = (out / 'comparison' / 'runs.csv').read_text().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert [line.split(',')[:3] for line in lines[1:]] == [
        ['0', '0', '4'],
        ['1', '0', '4'],
        ['0', '1', '4'],
        ['1', '1', '4'],
    ]
    assert len(PairFolder(out / 'scenes')) == 23
    assert len(PairFolder(out / 'synthetic')) == 16
    page = (out / 'report.html').read_text(encoding='utf-8')
    assert '1x synthetic changes mIoU by ' in page and '16 labelled training' in page
    assert (out / 'pairs.png').stat().st_size > 10_000
    measures = json.loads((out / 'measures.json').read_text())
    assert measures['alignment']['count'] == 16
    kept = json.loads((out / 'plan.json').read_text())
    assert kept['settings']['data'] == 'demo scenes'
    assert kept['plan']['patch_size'] == 32
    for name in ('autoencoder', 'diffusion', 'generate', 'segment'):
        text = (out / 'configs' / f'{name}.yaml').read_text()
        assert text.startswith('# torchgeo ')
        trainer = yaml.safe_load(text)['trainer']
        # Lightning takes a GPU where there is one, and one is enough
        assert 'accelerator' not in trainer and trainer['devices'] == 1
