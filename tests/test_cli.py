# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import LightningModule

import torchgeo_specdm
from tests.data.pairs import make_pairs, write_tiff
from tests.processes import run_command
from torchgeo_specdm import Generator, PairFolder, PairFolderDataModule, cli
from torchgeo_specdm.cli import main
from torchgeo_specdm.pairs.manifest import read_manifest
from torchgeo_specdm.pairs.writer import PairWriter
from torchgeo_specdm.tasks.specdm import SpecDMTask

VERBS = ('quickstart', 'scenes', 'describe', 'overlap', 'study', 'generate')
Output = pytest.CaptureFixture[str]


def refused(capsys: Output, *arguments: str) -> str:
    """The sentence of an error: exit code 1, nothing else, and no traceback."""
    assert main(arguments) == 1
    error = capsys.readouterr().err
    (line,) = error.splitlines()
    assert line.startswith('torchgeo-specdm: ') and 'Traceback' not in error
    return line


def terminated(write: Callable[..., None]) -> Callable[..., None]:
    """The writer of a process that is told to end while it writes a sample."""

    def write_and_tell(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(*arguments)

    return write_and_tell


class TestArguments:
    @pytest.mark.parametrize('verb', ['', *VERBS])
    def test_help(self, capsys: Output, verb: str) -> None:
        with pytest.raises(SystemExit) as stop:
            main([*([verb] if verb else []), '--help'])
        assert stop.value.code == 0
        said = capsys.readouterr().out
        assert f'usage: torchgeo-specdm {verb}'.strip() in said
        assert verb or all(name in said for name in VERBS)

    def test_help_shows_defaults(self, capsys: Output) -> None:
        with pytest.raises(SystemExit):
            main(['generate', '--help'])
        said = ' '.join(capsys.readouterr().out.split())
        assert 'seed of the samples (default: 0)' in said
        assert '(default: None)' not in said and '(default: False)' not in said

    def test_runs_as_a_module(self) -> None:
        command = [sys.executable, '-m', 'torchgeo_specdm', '--version']
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        assert said.stdout.strip() == torchgeo_specdm.__version__

    def test_completion_says_what_it_needs(
        self, capsys: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cli, 'shtab', None)
        with pytest.raises(SystemExit) as stop:
            main(['--print-completion', 'bash'])
        assert stop.value.code == 2
        assert 'pip install shtab' in capsys.readouterr().err

    def test_completion(self, capsys: Output) -> None:
        pytest.importorskip('shtab')
        with pytest.raises(SystemExit) as stop:
            main(['--print-completion', 'bash'])
        assert stop.value.code == 0
        script = capsys.readouterr().out
        assert all(word in script for word in (*VERBS, '--strength'))

    @pytest.mark.parametrize(
        'line, said',
        [
            ('', 'VERB'),
            ('learn', "'learn'"),
            ('scenes', '--out'),
            ('describe', 'folder'),
            ('overlap', 'data'),
            ('study', 'config'),
            ('study x.yaml --seeds 3', '--seeds 3'),
            ('generate --out x --count 3', '--generator'),
            ('generate --generator x --out x --count three', "'three'"),
            ('generate --generator x --out x --class-share town', 'built-up=0.2'),
            ('generate --generator x --out x --seed -1', '--seed: -1 must be from 0'),
            ('generate --generator x --out x --masks a --vary b', 'not allowed with'),
            ('scenes --out x --seed 18446744073709551616', 'must be from 0'),
            ('scenes --out x --change --hard', 'not allowed with argument --change'),
            ('quickstart --seed -1', 'must be from 0'),
            ('quickstart --codec single_stream', "'single_stream'"),
            ('quickstart --minutes many', "'many'"),
        ],
    )
    def test_wrong_arguments_exit_with_two(
        self, capsys: Output, line: str, said: str
    ) -> None:
        with pytest.raises(SystemExit) as stop:
            main(line.split())
        assert stop.value.code == 2
        _, _, error = capsys.readouterr().err.partition('error: ')
        assert said in error


class TestScenes:
    @pytest.mark.parametrize('count', [1, 3, 7])
    def test_counts_add_up(self, tmp_path: Path, capsys: Output, count: int) -> None:
        out = str(tmp_path / 'scenes')
        arguments = ['scenes', '--out', out, '--count', str(count), '--size', '16']
        assert main(arguments) == 0
        assert f'{count} scenes are in {out}.' in capsys.readouterr().out
        lists = [(tmp_path / 'scenes' / f'{s}.txt') for s in ('train', 'val', 'test')]
        ids = [name for path in lists for name in path.read_text().split()]
        assert len(ids) == len(set(ids)) == count == len(PairFolder(out))

    def test_hard_and_seed(self, tmp_path: Path) -> None:
        for seed in ('0', '1'):
            out = str(tmp_path / seed)
            given = ['--count', '1', '--size', '16', '--hard', '--seed', seed]
            assert main(['scenes', '--out', out, *given]) == 0
        first, second = PairFolder(tmp_path / '0'), PairFolder(tmp_path / '1')
        assert first.spec.num_classes == 13
        assert not first[0]['image'].equal(second[0]['image'])

    def test_change(self, tmp_path: Path) -> None:
        given = ['--out', str(tmp_path), '--count', '2', '--size', '16', '--change']
        assert main(['scenes', *given]) == 0
        folder = PairFolder(tmp_path)
        assert folder.spec.classes == ('no change', 'change')
        assert folder[0]['image'].shape == (2, 10, 16, 16)

    def test_refuses_no_scenes(self, tmp_path: Path, capsys: Output) -> None:
        out = str(tmp_path / 'scenes')
        assert 'counts=(-1' in refused(capsys, 'scenes', '--out', out, '--count', '-1')


class TestDescribe:
    def test_shows_what_a_folder_holds(self, tmp_path: Path, capsys: Output) -> None:
        folder = make_pairs(tmp_path / 'pairs', count=3, size=8)
        assert main(['describe', str(folder)]) == 0
        out, error = capsys.readouterr()
        assert 'no train.txt, so patches are split at random' in error
        found = json.loads(out)
        assert found['bands'] == ['B02', 'B03', 'B04', 'B08']
        assert found['classes'] == ['class_0', 'class_1', 'class_2']
        assert found['samples'] == 3 and found['shape'] == [4, 8, 8]
        # the image tells its band: 10 more for each
        steps = [b - a for a, b in zip(found['mean'], found['mean'][1:])]
        assert steps == pytest.approx([10, 10, 10], abs=1e-3)
        assert len(found['std']) == 4
        assert not (folder / 'dataset.json').exists()

    @pytest.mark.parametrize(
        ('file', 'text', 'said'),
        [
            ('places.csv', 'id,place\n0,a\n1,b\n2,c\n', 'where 3 samples lie'),
            ('places.csv', 'id,place\n0000,a\n0001,a\n0002,a\n', '1 places to share'),
            ('val.txt', '0001\n', "1 of them also in another list: ['0001']"),
        ],
    )
    def test_says_what_is_wrong_with_splits(
        self, tmp_path: Path, capsys: Output, file: str, text: str, said: str
    ) -> None:
        folder = make_pairs(tmp_path, count=3)
        if file == 'val.txt':
            (folder / 'train.txt').write_text('0000\n0001\n')
        (folder / file).write_text(text)
        assert main(['describe', str(folder)]) == 0
        assert said in capsys.readouterr().err

    def test_two_hundred_bands_fit_on_a_screen(
        self, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_pairs(tmp_path, 2, [f'{400 + 10 * i} nm' for i in range(200)])
        (folder / 'val.txt').write_text('0001')
        (folder / 'train.txt').write_text('0000')
        assert main(['describe', str(folder), '--no-label', '2']) == 0
        out = capsys.readouterr().out
        assert len(out.splitlines()) < 25
        found = json.loads(out)
        assert found['wavelengths'][199] == 2390
        assert found['splits'] == {'train': 1, 'val': 1}
        assert found['classes'] == ['class_0', 'class_1'] and found['no_label'] == [2]
        assert sum(found['class_percent'].values()) == pytest.approx(100, abs=0.01)
        # lines would be too long for a terminal
        monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
        assert main(['describe', str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) < 120
        assert (
            '  "wavelengths": [400.0, 410.0, 420.0, ... 200 in all ..., 2390.0],'
            in lines
        )

    def test_missing_pixels_and_unknown_colours(
        self, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_pairs(tmp_path, 3, [None] * 4, nodata=0)
        path = folder / 'images' / '0001.tif'
        with rasterio.open(path, 'r+') as raster:
            raster.write(np.zeros((8, 6), np.uint16), 2, window=((0, 8), (0, 6)))
        # outside of pytest, nobody handles warnings
        monkeypatch.setattr(logging.getLogger(), 'handlers', [])
        assert main(['describe', str(folder)]) == 0
        out, error = capsys.readouterr()
        # 48 of 192 pixels
        assert json.loads(out)['missing_percent'] == [0, 25, 0, 0]
        assert 'Pictures show band_3, band_2, band_1 as red, green and blue' in error
        # the folder is opened more often
        assert error.count('images are taken for reflectance x 10000') == 1
        assert 'Write either into bands.csv' in error
        (folder / 'bands.csv').write_text('name\nB02\nB03\nB04\nB08\n')
        assert main(['describe', str(folder)]) == 0
        assert 'Pictures show' not in capsys.readouterr().err
        # which nobody reads beside a description
        (folder / 'bands.csv').unlink()
        assert main(['describe', str(folder), '--write']) == 0
        assert 'Write either into dataset.json' in capsys.readouterr().err

    def test_classes_of_one_pixel_and_of_none(
        self, tmp_path: Path, capsys: Output
    ) -> None:
        folder = make_pairs(tmp_path, 3, size=256, classes=1)
        mask = np.zeros((1, 256, 256), np.uint8)
        mask[0, 0, 0] = 1
        write_tiff(folder / 'masks' / '0001.tif', mask)
        (folder / 'classes.csv').write_text('id,name\n0,sea\n1,rock\n5,ice\n')
        assert main(['describe', str(folder)]) == 0
        out, error = capsys.readouterr()
        assert 0 < json.loads(out)['class_percent']['rock'] < 0.001
        assert 'No mask has a pixel of ice.' in error

    def test_dead_bands_are_named_and_left_out(
        self, tmp_path: Path, capsys: Output
    ) -> None:
        folder = make_pairs(tmp_path, 3, [f'b{i}' for i in range(4)], nodata=0)
        for path in (folder / 'images').iterdir():
            with rasterio.open(path, 'r+') as raster:
                # missing everywhere, and the same everywhere
                raster.write(np.zeros((8, 8), np.uint16), 2)
                raster.write(np.full((8, 8), 77, np.uint16), 4)
        assert main(['describe', str(folder)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found['dead_bands'] == ['b1', 'b3']
        assert found['mean'][1] is None and found['mean'][3] == 77
        data = PairFolderDataModule(str(folder), batch_size=1)
        with pytest.raises(ValueError, match=r"\['b1'\] have no valid pixel.*live"):
            data.setup('fit')
        live = PairFolderDataModule(str(folder), bands='live')
        assert live.spec.bands == ('b0', 'b2')
        assert main(['describe', str(folder), '--bands', 'live']) == 0
        found = json.loads(capsys.readouterr().out)
        assert found['bands'] == ['b0', 'b2'] and found['dead_bands'] == []
        out = str(tmp_path / 'out')
        arguments = [str(folder), '--out', out, '--bands', 'live']
        assert main(['export', *arguments]) == 0
        assert PairFolder(out).spec.bands == ('b0', 'b2')
        message = refused(capsys, 'describe', str(folder), '--bands', 'b9')
        assert "bands ['b9'] are not among" in message

    def test_a_closed_pipe_is_no_error(self, tmp_path: Path) -> None:
        folder = make_pairs(tmp_path, 2)
        (folder / 'train.txt').write_text('0000')
        (folder / 'val.txt').write_text('0001')
        reading, writing = os.pipe()
        os.close(reading)

        def describe(arguments: list[str]) -> int:
            os.dup2(writing, 1)
            with os.fdopen(1, 'w', closefd=False) as sys.stdout:
                return main(arguments)

        said = tmp_path / 'said.txt'
        assert run_command(describe, ['describe', folder], said) == (141, '')
        os.close(writing)

    def test_writes_it_down(self, tmp_path: Path, capsys: Output) -> None:
        folder = make_pairs(tmp_path / 'pairs')
        (folder / 'places.csv').write_text('id,place\n')
        assert main(['describe', str(folder), '--write']) == 0
        out, error = capsys.readouterr()
        assert 'split by the places of places.csv.' in error
        written = json.loads((folder / 'dataset.json').read_text())
        assert written['bands'] == json.loads(out)['bands']
        assert f'Written to {folder / "dataset.json"}.' in error

    def test_refuses_a_broken_file(self, tmp_path: Path, capsys: Output) -> None:
        folder = make_pairs(tmp_path / 'pairs')
        path = folder / 'images' / '0002.tif'
        path.write_bytes(path.read_bytes()[:100])
        assert str(path) in refused(capsys, 'describe', str(folder), '--write')
        assert not (folder / 'dataset.json').exists()

    def test_refuses_a_missing_folder(self, tmp_path: Path, capsys: Output) -> None:
        assert 'nothing' in refused(capsys, 'describe', str(tmp_path / 'nothing'))


class TestOverlap:
    def test_names_what_two_splits_share(self, tmp_path: Path, capsys: Output) -> None:
        folder = tmp_path / 'scenes'
        made = ['scenes', '--out', str(folder), '--count', '5', '--size', '64']
        assert main(made) == 0
        assert main(['overlap', str(folder)]) == 0
        assert '0 of 1 test samples show ground' in capsys.readouterr().out
        train, test = ((folder / f'{s}.txt').read_text() for s in ('train', 'test'))
        name, other = train.split()[0], test.split()[0]
        for kind in ('images', 'masks'):
            content = (folder / kind / f'{name}.tif').read_bytes()
            (folder / kind / f'{other}.tif').write_bytes(content)
        config = tmp_path / 'data.yaml'
        path = 'torchgeo_specdm.PairFolderDataModule'
        arguments = {'root': str(folder), 'batch_size': 1}
        given = {'class_path': path, 'init_args': arguments}
        config.write_text(json.dumps({'data': given}))
        for data in (folder, config):
            assert main(['overlap', str(data)]) == 1
            out, error = capsys.readouterr()
            assert '1 of 1 test samples show ground that is also in train.' in out
            assert (
                f'train {name} and test {other}: 100% in common, shifted by 0 rows'
                in out
            )
            assert 'has 1 pairs' in error and 'Write places.csv' in error
        config.write_text('data')
        assert 'must hold keys and values' in refused(capsys, 'overlap', str(config))


@pytest.fixture
def arguments(untrained: Path, tmp_path: Path) -> list[str]:
    out = str(tmp_path / 'synthetic')
    return ['generate', '--generator', str(untrained), '--out', out, '--count', '3']


class TestGenerate:
    def test_writes_pairs_once(
        self, arguments: list[str], tmp_path: Path, capsys: Output
    ) -> None:
        assert main(arguments) == 0
        out = tmp_path / 'synthetic'
        said = capsys.readouterr().out
        assert f'3 samples are in {out}, 0 rejected.' in said
        assert f'Measure them: torchgeo-specdm report {out} --real FOLDER' in said
        dataset = PairFolder(out)
        assert len(dataset) == 3 and dataset[0]['image'].shape == (6, 32, 32)
        written = {path: path.stat().st_mtime_ns for path in out.glob('*/*.tif')}
        assert main(arguments) == 0
        assert written == {path: path.stat().st_mtime_ns for path in written}

    def test_seed_and_batch_size(self, arguments: list[str], tmp_path: Path) -> None:
        assert main([*arguments, '--batch-size', '2']) == 0
        arguments[4] = str(tmp_path / 'other')
        assert main([*arguments, '--seed', '1']) == 0
        first, other = (PairFolder(tmp_path / name) for name in ('synthetic', 'other'))
        assert not first[0]['image'].equal(other[0]['image'])

    def test_guidance_is_refused_before_anything_is_written(
        self, arguments: list[str], tmp_path: Path, capsys: Output
    ) -> None:
        assert main([*arguments, '--guidance', '-1']) == 1
        assert 'guidance=-1.0 must be 0 or more' in capsys.readouterr().err
        assert not (tmp_path / 'synthetic').exists()

    def test_out_of_memory(
        self,
        arguments: list[str],
        tmp_path: Path,
        capsys: Output,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sample = Generator.sample

        def fill(self: Generator, indices: Any, *args: Any, **kwargs: Any) -> Any:
            if 2 in indices:
                raise torch.OutOfMemoryError('CUDA out of memory.')
            return sample(self, indices, *args, **kwargs)

        monkeypatch.setattr(Generator, 'sample', fill)
        assert main([*arguments, '--batch-size', '1']) == 1
        # the bar of the progress stands above
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith('torchgeo-specdm: 1 samples at once need more memory')
        assert 'Set a smaller batch_size' in last
        assert len([*(tmp_path / 'synthetic' / 'images').iterdir()]) == 2

    def test_nothing_accepted(
        self, untrained: Path, arguments: list[str], tmp_path: Path, capsys: Output
    ) -> None:
        made = Generator.load(untrained)
        # finite, but what comes out is not
        made.denoiser.network.conv_out.weight.fill_(3e38)
        made.save(tmp_path / 'mad')
        arguments[2] = str(tmp_path / 'mad')
        for _ in range(2):
            assert main(arguments) == 1
            out, error = capsys.readouterr()
            assert 'synthetic has no sample: all 3 were rejected' in error
            assert 'samples are in' not in out
        assert not [*tmp_path.rglob('*.tif')]

    def test_given_masks_are_kept(
        self, arguments: list[str], tmp_path: Path, pair_folder: Path
    ) -> None:
        assert main([*arguments, '--masks', str(pair_folder)]) == 0
        sources = [row['source'] for row in read_manifest(tmp_path / 'synthetic')]
        real = PairFolder(pair_folder, 'train')
        assert sources == real.ids[:3]
        # turned or flipped, but the same mask: as many pixels of each class
        drawn = PairFolder(tmp_path / 'synthetic')
        for i in range(3):
            counts = [
                dataset[i]['mask'].unique(return_counts=True)[1].tolist()
                for dataset in (drawn, real)
            ]
            assert counts[0] == counts[1]

    def test_varies_given_images(
        self, arguments: list[str], tmp_path: Path, pair_folder: Path
    ) -> None:
        given = ['--vary', str(pair_folder), '--strength', '0.2']
        assert main([*arguments, *given]) == 0
        assert len(PairFolder(tmp_path / 'synthetic')) == 3

    def test_labels_given_images(
        self, arguments: list[str], tmp_path: Path, pair_folder: Path
    ) -> None:
        # one mask for each image, so no count
        given = ['--images', str(pair_folder), '--draws', '2', '--guidance', '0.5']
        assert main([*arguments[:-2], *given]) == 0
        drawn = PairFolder(tmp_path / 'synthetic')
        assert drawn.ids == PairFolder(pair_folder).ids
        settings = drawn.provenance['settings']
        assert settings['draws'] == 2 and settings['sampling']['guidance'] == 0.5

    def test_says_how_far_shares_are_met(
        self, arguments: list[str], capsys: Output
    ) -> None:
        shares = ['--class-share', 'town=0.05', '--class-share', 'water=0.9']
        assert main([*arguments, *shares, '--draws', '2']) == 0
        _, town, water, _ = capsys.readouterr().out.splitlines()
        assert town.startswith('town: 5.0% asked, ')
        assert 'water: 90.0% asked' in water and 'It was not reached with 3' in water

    @pytest.mark.parametrize(
        'change, said',
        [
            (['--draws', '2'], '--draws cannot be used with what is drawn here'),
            (['--images', 'x'], '--count cannot be used'),
            (['--class-share', 'town=0.2', '--vary', 'x'], '--vary cannot be used'),
            (['--class-share', 'town=1', 'town=0'], 'Name each once'),
            (['--change', 'x', '--augment'], '--augment cannot be used'),
            (['--change', 'x', '--vary', 'x'], '--vary cannot be used'),
            (['--change', 'x'], 'Change is painted between 2 dates'),
            (['--count', '0'], 'count=0'),
            (['--devices', '0'], 'devices'),
            (['--devices', '99'], '99'),
            (['--generator', 'nothing'], 'nothing/config.json does not exist'),
            (['--masks', 'nothing'], 'nothing'),
        ],
    )
    def test_refuses_what_cannot_be(
        self, arguments: list[str], capsys: Output, change: list[str], said: str
    ) -> None:
        assert said in refused(capsys, *arguments, *change)

    def test_refuses_a_folder_of_another_seed(
        self, arguments: list[str], capsys: Output
    ) -> None:
        assert main(arguments) == 0
        capsys.readouterr()
        sentence = refused(capsys, *arguments, '--seed', '1')
        assert 'begun with other settings' in sentence and 'seed: 0 there' in sentence

    def test_debug_shows_the_traceback(self, arguments: list[str]) -> None:
        with pytest.raises(ValueError, match='count=0'):
            main(['--debug', *arguments, '--count', '0'])


class TestInterruption:
    @pytest.fixture(autouse=True)
    def handler(self) -> Iterator[None]:
        """Lightning ignores Ctrl-C for good once it has seen it."""
        before = signal.getsignal(signal.SIGINT)
        yield
        signal.signal(signal.SIGINT, before)

    def test_in_a_prediction_of_lightning(
        self,
        arguments: list[str],
        tmp_path: Path,
        capsys: Output,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        arguments += ['--batch-size', '1']
        whole = SpecDMTask.predict_step

        def interrupted(task: LightningModule, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                raise KeyboardInterrupt
            return whole(task, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(SpecDMTask, 'predict_step', interrupted)
            assert main(arguments) == 130
        assert 'The same command goes on from here.' in capsys.readouterr().err
        kept = tmp_path / 'synthetic' / 'images' / '000000.tif'
        before = kept.stat().st_mtime_ns
        assert main(arguments) == 0
        assert len(PairFolder(tmp_path / 'synthetic')) == 3
        assert kept.stat().st_mtime_ns == before

    def test_sigterm_stops_after_the_sample_in_hand(
        self,
        arguments: list[str],
        tmp_path: Path,
        capsys: Output,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out = tmp_path / 'synthetic'
        arguments += ['--batch-size', '1']
        with monkeypatch.context() as patch:
            patch.setattr(PairWriter, 'write', terminated(PairWriter.write))
            assert main(arguments) == 143
        assert 'The same command goes on from here.' in capsys.readouterr().err
        assert [path.name for path in out.glob('*/*.tif')] == ['000000.tif'] * 2
        assert not (out / 'README.md').exists()
        assert main(arguments) == 0
        assert len(PairFolder(out)) == 3

    def test_elsewhere(
        self, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*arguments: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr('torchgeo_specdm.scenes.writing.write_scenes', interrupted)
        assert main(['scenes', '--out', str(tmp_path)]) == 130
        assert 'Interrupted' in capsys.readouterr().err

    def test_other_exits_pass(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def leave(*arguments: Any) -> None:
            sys.exit(7)

        monkeypatch.setattr('torchgeo_specdm.scenes.writing.write_scenes', leave)
        with pytest.raises(SystemExit) as stop:
            main(['scenes', '--out', str(tmp_path)])
        assert stop.value.code == 7


def test_quiet_but_only_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger('lightning.pytorch')
    level, filters = logger.level, list(warnings.filters)
    seen = []

    def look(*arguments: Any) -> None:
        warnings.warn('not to be seen', stacklevel=1)
        seen.append(logger.level)

    monkeypatch.setattr('torchgeo_specdm.scenes.writing.write_scenes', look)
    with warnings.catch_warnings(record=True) as caught:
        main(['scenes', '--out', str(tmp_path)])
    assert seen == [logging.ERROR] and caught == []
    assert logger.level == level
    assert warnings.filters == filters


def test_as_a_command() -> None:
    # refused before anything of this package is imported
    program = Path(sys.executable).with_name('torchgeo-specdm')
    command = [program, 'export', '--out', 'nowhere']
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith('torchgeo-specdm: data=None and --images None: give one')


def test_help_is_there_before_torch() -> None:
    code = (
        'import sys, torchgeo_specdm.cli as cli\n'
        'try: cli.main(["-h"])\n'
        'finally: assert not {"torch", "lightning", "torchgeo"} & {*sys.modules}'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'quickstart' in done.stdout
