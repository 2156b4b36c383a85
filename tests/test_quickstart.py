# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from torchgeo.main import main as torchgeo

from torchgeo_specdm import PairFolder, quickstart
from torchgeo_specdm.announcing import Announcer
from torchgeo_specdm.cli import main
from torchgeo_specdm.quickstart import Quickstart
from torchgeo_specdm.scenes.writing import write_scenes
from torchgeo_specdm.study import stages
from torchgeo_specdm.tasks.specdm import SpecDMTask

from .pairs.test_tiles import Coordinates


@pytest.mark.parametrize(
    'codec, task, accuracy, chosen, said',
    [
        ('auto', 'segmentation', None, 'pixels', 'begins with a prior'),
        ('auto', 'change', 0.99, 'two_stream', '99.0% F1'),
        (
            'auto',
            'change',
            0.6,
            'pixels',
            'not good enough after 7 steps: on validation patches it gets change back with 60.0%',
        ),
        (
            'two_stream',
            'segmentation',
            0.5,
            'two_stream',
            '--codec; on validation patches it gets the masks back with 50.0%',
        ),
        ('pixels', 'change', None, 'pixels', 'as asked with --codec'),
    ],
)
def test_choice_of_the_codec(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: Any,
    task: Any,
    accuracy: float | None,
    chosen: str,
    said: str,
) -> None:
    class Real:
        val_dataset = Coordinates(2, 32, 32)

        def setup(self, stage: str) -> None:
            assert stage == 'validate'

    commands: list[list[str]] = []
    monkeypatch.setattr(stages, 'torchgeo', commands.append)
    monkeypatch.setattr(quickstart, 'load_codec', lambda folder: None)
    monkeypatch.setattr(quickstart, 'mask_fidelity', lambda codec, tiles: accuracy)
    start = Quickstart(tmp_path / 'out', task=task, codec=codec)
    plan: Any = {
        'steps': {'autoencoder': 7} if accuracy else {},
        'seconds': {'autoencoder': 0.1},
        'patch_size': 32,
        'precision': '32-true',
    }
    assert start._learned(24) == (accuracy is not None)
    monkeypatch.setattr(Announcer, 'part', lambda *arguments: None)
    real: Any = Real()
    assert start._learn_codec(real, {}, plan)[0] == chosen
    assert said in start._learn_codec(real, {}, plan)[1]
    # an interrupted training goes on from its checkpoint
    last = tmp_path / 'out' / 'logs' / 'autoencoder' / 'last.ckpt'
    last.parent.mkdir(parents=True)
    torch.save({}, last)
    start._learn_codec(real, {}, plan)
    if accuracy is None:
        assert commands == []
        return
    config = str(tmp_path / 'out' / 'configs' / 'autoencoder.yaml')
    assert commands[0] == ['fit', '--config', config]
    assert commands[2] == ['fit', '--config', config, '--ckpt_path', str(last)]


def test_many_bands_are_learned() -> None:
    # of 200 bands, a cell of 4 x 4 pixels has 3,200 numbers
    start = Quickstart(Path('out'))
    assert [start._learned(bands) for bands in (3, 24, 25, 200)] == [False] * 2 + [
        True
    ] * 2


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


def parts(said: str) -> list[str]:
    """The first three words of each announced part, which 80 columns show whole."""
    lines = re.findall(r'^\d/\d .*$', said, re.MULTILINE)
    assert all(' (about ' in line and len(line) <= 80 for line in lines)
    return [' '.join(re.split(r'[ :]', line)[:3]) for line in lines]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    """The whole path, but small."""
    monkeypatch.setattr(quickstart, '_SCENES', (16, 3, 4))
    monkeypatch.setattr(quickstart, '_SCENE_SIZE', 32)
    monkeypatch.setattr(quickstart, '_RATIOS', (1.0,))
    monkeypatch.setattr(quickstart, '_SEEDS', 2)
    planned = quickstart.make_plan

    def plan(*arguments: Any) -> dict[str, Any]:
        plan = planned(*arguments)
        few = {'autoencoder': 3, 'diffusion': 4, 'network': 4}
        return plan | {
            'steps': {name: few[name] for name in plan['steps']},
            'passes': 2,
        }

    monkeypatch.setattr(quickstart, 'make_plan', plan)
    handler = signal.getsignal(signal.SIGINT)
    yield Trained(monkeypatch)
    # Lightning ignores Ctrl-C for good once it has seen it
    signal.signal(signal.SIGINT, handler)


def test_the_whole_path(
    tmp_path: Path,
    tiny: Trained,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / 'results'
    # other scenes, whose masks are not looked at
    more = tmp_path / 'more'
    write_scenes(more, (5, 1, 1), 32, seed=7)
    command = ['quickstart', '--out', str(out), '--minutes', '0.5']
    command += ['--unlabelled', str(more), '--codec', 'two_stream']

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
    assert parts(said) == [
        *('1/8 Making 23', '2/8 Timing a', '3/8 Stage 1', '4/8 Stage 2'),
        '5/8 Generating 16',
    ]
    assert '\nPlan for --minutes 0.5: about ' in said
    assert '\nCodec ' in said and ' are wanted' in ' '.join(said.split())

    # it goes on: pilots of 1, 2 and 4 updates, a first judge of as many, the second
    # one and the grid
    assert main(command) == 0
    assert tiny.take() == [1, 2, 4, 1, 2, 4, *[4] * 5]
    said = capsys.readouterr().out
    assert parts(said) == [
        *('1/8 Checking 23', '5/8 Generating 16', '6/8 Finding how'),
        *('7/8 Measuring, with', '8/8 Training 4'),
    ]
    assert '\n[4/4] ' in said
    assert '1x synthetic changes mIoU by ' in said
    assert 'Looks real: ' in said and 'Not copied: ' in said
    assert f'Report: {out / "report.html"}' in said
    assert 'Your own patches: torchgeo-specdm quickstart --data FOLDER' in said
    check_results(out)
    page = (out / 'report.html').read_text(encoding='utf-8')
    seen = '16 samples of PairFolderDataModule and 7 images without labels'
    assert seen in page
    assert 'Real-only was still rising' in ' '.join(said.split())
    assert 'Real-only was still rising' in page
    assert 'The generator alone also saw 7 images without labels' in page
    assert seen in (out / 'synthetic' / 'README.md').read_text()

    # nothing is left to do
    files = [*(out / 'comparison' / 'runs').iterdir()]
    before = [file.stat().st_mtime_ns for file in files]
    assert main(command) == 0
    assert tiny.take() == []
    said = capsys.readouterr().out
    assert 'Stage' not in said and 'Training' not in said and 'Checking 16' in said
    assert [file.stat().st_mtime_ns for file in files] == before and len(files) == 4

    # the page again, from what was kept
    page = (out / 'report.html').read_text(encoding='utf-8')
    (out / 'report.html').unlink()
    assert main(['report', str(out)]) == 0
    assert tiny.take() == []
    assert (out / 'report.html').read_text(encoding='utf-8') == page
    capsys.readouterr()

    # other settings are refused before anything is done
    assert main([*command, '--seed', '1']) == 1
    assert 'seed: 0 there, 1 here' in capsys.readouterr().err

    # its YAMLs run as they are
    for name in ('autoencoder', 'diffusion', 'train'):
        torchgeo(['fit', '--config', str(out / 'configs' / f'{name}.yaml')])
    assert tiny.take() == [3, 4, 4]
    kept = (out / 'synthetic' / 'manifest.jsonl').read_text()
    config = str(out / 'configs' / 'generate-synthetic.yaml')
    torchgeo(['predict', '--config', config])
    assert (out / 'synthetic' / 'manifest.jsonl').read_text() == kept


def test_change_detection(
    tmp_path: Path, tiny: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'results'
    command = ['quickstart', '--task', 'change', '--out', str(out), '--codec', 'pixels']
    assert main(command) == 0
    assert tiny.take() == [4, 1, 2, 4, 1, 2, 4, *[4] * 5]
    # four steps find no change at all
    assert 'Real only reaches 0.0 points of F1 of change' in capsys.readouterr().out
    pairs = PairFolder(out / 'synthetic')
    assert pairs.spec.dates == 2 and pairs[0]['image'].shape[:2] == (2, 10)
    measures = json.loads((out / 'trust' / 'measures.json').read_text())
    assert measures['fidelity'].keys() == {
        f'{kind}_{date}' for kind in ('image', 'texture') for date in (1, 2)
    } | {'mask'}
    assert measures['change'].keys() >= {'train', 'held_out', 'synthetic'}
    page = (out / 'report.html').read_text(encoding='utf-8')
    for text in (
        'Fréchet distance, textures, date 2',
        'Change between dates',
        'date 1',
    ):
        assert text in page
    torchgeo(['fit', '--config', str(out / 'configs' / 'train.yaml')])
    assert tiny.take() == [4]

    # pairs of two dates are no data for segmentation
    wrong = ['quickstart', '--data', str(out / 'synthetic'), '--out', str(out / 'x')]
    assert main(wrong) == 1
    assert 'has 2 date(s)' in capsys.readouterr().err


def check_results(out: Path) -> None:
    """Everything is there and fits together."""
    lines = (out / 'comparison' / 'runs.csv').read_text().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert [line.split(',')[1:7] for line in lines[1:]] == [
        [arm, ratio, '0', seed, '0', '4']
        for arm, ratio in (('real only', '0.0'), ('synthetic', '1.0'))
        for seed in '01'
    ]
    assert len(PairFolder(out / 'scenes')) == 23
    assert len(PairFolder(out / 'synthetic')) == 16
    page = (out / 'report.html').read_text(encoding='utf-8')
    assert '1x synthetic changes mIoU by ' in page and '16 labelled training' in page
    assert (out / 'pairs.png').stat().st_size > 10_000
    measures = json.loads((out / 'trust' / 'measures.json').read_text())
    assert measures['counts']['synthetic'] == 16
    kept = json.loads((out / 'plan.json').read_text())
    assert kept['settings']['data'] == 'demo scenes'
    assert kept['plan']['patch_size'] == 32
    for name in ('autoencoder', 'diffusion', 'generate-synthetic', 'train'):
        text = (out / 'configs' / f'{name}.yaml').read_text()
        assert text.startswith('# torchgeo ')
        trainer = yaml.safe_load(text)['trainer']
        # Lightning takes a GPU where there is one, and one is enough
        assert 'accelerator' not in trainer and trainer['devices'] == 1
