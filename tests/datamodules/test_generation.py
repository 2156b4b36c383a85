# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Generation: the same set, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torchgeo.main import main

from torchgeo_specdm import GenerationDataModule, Generator, PairFolder, SpecDMTask
from torchgeo_specdm.files import write_verified
from torchgeo_specdm.pairs.manifest import read_manifest

from ..conftest import PAIR_CLASSES, Run, calls_of, quiet_trainer
from ..data.pairs import digests
from ..processes import run_command, start_command
from .generating import COUNT, config_of, draw, predict


@pytest.fixture(scope='module')
def whole(diffusion_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run on one process writes."""
    out = tmp_path_factory.mktemp('whole') / 'set'
    predict(config_of(diffusion_run.out, out))
    return out


class TestFolder:
    def test_is_complete(self, whole: Path) -> None:
        folder = PairFolder(whole)
        assert len(folder) == COUNT
        assert folder.spec.classes == PAIR_CLASSES
        assert [row['index'] for row in read_manifest(whole)] == list(range(COUNT))
        assert all(row['seed'] == 0 and row['accepted'] for row in read_manifest(whole))
        assert not list(whole.rglob('*.part'))

    def test_holds_what_the_generator_draws(
        self, whole: Path, diffusion_run: Run
    ) -> None:
        generator = Generator.load(diffusion_run.out)
        sample = generator.sample(range(4), 0)
        folder = PairFolder(whole)
        inside = generator.codec.limit(sample['image'])
        beyond = (inside != sample['image']).flatten(1).float().mean(1)
        assert bool(beyond.any())
        for i, row in enumerate(read_manifest(whole)[:4]):
            assert torch.equal(folder[i]['image'], inside[i].round())
            assert torch.equal(folder[i]['mask'], sample['mask'][i])
            assert row['clipped'] == pytest.approx(float(beyond[i]), abs=1e-6)

    def test_no_two_samples_are_equal(self, whole: Path) -> None:
        images = {
            row['files'][f'images/{row["id"]}.tif'] for row in read_manifest(whole)
        }
        assert len(images) == COUNT

    def test_says_what_it_is(self, whole: Path, diffusion_run: Run) -> None:
        card = (whole / 'README.md').read_text()
        assert f'{COUNT} accepted, 0 rejected' in card
        assert '16 samples of PairFolderDataModule, 16 updates' in card
        seen, known = (
            (folder / 'training_samples.txt').read_text()
            for folder in (whole, diffusion_run.out)
        )
        assert seen == known and len(seen.split()) == 16


class TestInterruption:
    def test_killed_run_is_finished_by_the_same_command(
        self, whole: Path, diffusion_run: Run, tmp_path: Path
    ) -> None:
        out = tmp_path / 'set'
        config = config_of(diffusion_run.out, out)
        manifest = out / 'manifest.jsonl'
        said = tmp_path / 'said.txt'
        process = start_command(main, ['predict', '--config', config], said)
        while not (manifest.exists() and manifest.read_text().count('\n') >= 6):
            assert process.is_alive(), said.read_text()
            time.sleep(0.002)
        process.kill()
        process.join()
        there = {key: value for key, value in digests(out).items() if '.tif' in key}
        assert 6 <= len(read_manifest(out)) < COUNT
        # what has its name is whole already
        wanted = digests(whole)
        partial = [key for key in there if key.endswith('.part')]
        assert all(there[key] == wanted[key] for key in there if key not in partial)
        # a kill in the middle of a line and of a file
        with manifest.open('a') as file:
            file.write('{"id": "0000')
        (out / 'images' / '000041.tif.99.part').write_bytes(b'half')
        predict(config)
        assert digests(out) == wanted

    def test_sigterm(
        self,
        whole: Path,
        diffusion_run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out = tmp_path / 'set'
        config = config_of(diffusion_run.out, out, count=8)
        with monkeypatch.context() as patch:
            sample = Generator.sample

            def told(self: Generator, indices: Any, **settings: Any) -> Any:
                if 4 in indices:
                    os.kill(os.getpid(), signal.SIGTERM)
                return sample(self, indices, **settings)

            patch.setattr(Generator, 'sample', told)
            with pytest.raises(SystemExit) as stop:
                predict(config)
        assert stop.value.code == 143
        # the batch in hand is left out
        assert sorted(row['index'] for row in read_manifest(out)) == [0, 1, 2, 3]
        predict(config)
        wanted = digests(whole)
        found = {key: value for key, value in digests(out).items() if '.tif' in key}
        assert len(found) == 16
        assert found == {key: wanted[key] for key in found}

    def test_a_sample_that_cannot_be_written_stops_the_run(
        self,
        whole: Path,
        diffusion_run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out = tmp_path / 'set'
        config = config_of(diffusion_run.out, out)
        with monkeypatch.context() as patch:

            def full(path: Path, data: bytes) -> str:
                if path.name == '000002.tif':
                    raise OSError(f'{path} could not be written')
                return write_verified(path, data)

            patch.setattr('torchgeo_specdm.pairs.geotiffs.write_verified', full)
            with pytest.raises(OSError, match=r'000002\.tif could not be written'):
                predict(config)
        assert {row['index'] for row in read_manifest(out)} == {0, 1, 3}
        assert not (out / 'README.md').exists()
        predict(config)
        assert digests(out) == digests(whole)

    def test_damage_is_mended(
        self, whole: Path, diffusion_run: Run, tmp_path: Path
    ) -> None:
        out = tmp_path / 'set'
        config = config_of(diffusion_run.out, out, count=8)
        predict(config)
        wanted = digests(out)
        (out / 'images' / '000002.tif').unlink()
        with (out / 'masks' / '000005.tif').open('ab') as file:
            file.write(b'x')
        predict(config)
        assert digests(out) == wanted

    def test_killed_before_the_end_was_noted(
        self, diffusion_run: Run, tmp_path: Path
    ) -> None:
        # all samples are there, so Lightning has no batch to run
        out = tmp_path / 'set'
        config = config_of(diffusion_run.out, out, count=5)
        predict(config)
        wanted = digests(out)
        (out / 'README.md').unlink()
        lines = (out / 'manifest.jsonl').read_text().splitlines(keepends=True)
        (out / 'manifest.jsonl').write_text(''.join(reversed(lines)))
        predict(config)
        assert digests(out) == wanted

    def test_nothing_is_drawn_twice(
        self, diffusion_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn = calls_of(monkeypatch, Generator, 'sample')
        config = config_of(diffusion_run.out, tmp_path / 'set', count=6)
        predict(config)
        assert [numbers for _, numbers in drawn] == [[0, 1, 2, 3], [4, 5]]
        (tmp_path / 'set' / 'masks' / '000005.tif').unlink()
        predict(config)
        # the batch of the lost one only, and whole: its numbers depend on it
        assert [numbers for _, numbers in drawn[2:]] == [[4, 5]]

    def test_more_samples(self, diffusion_run: Run, tmp_path: Path) -> None:
        out = tmp_path / 'set'
        predict(config_of(diffusion_run.out, out, count=6))
        first = digests(out)
        predict(config_of(diffusion_run.out, out, count=9))
        second = digests(out)
        assert all(second[key] == first[key] for key in first if '.tif' in key)
        assert [row['index'] for row in read_manifest(out)] == list(range(9))
        assert '9 accepted' in (out / 'README.md').read_text()

    def test_batch_size_is_part_of_the_run(
        self, diffusion_run: Run, whole: Path
    ) -> None:
        data = GenerationDataModule(str(whole), COUNT, batch_size=8)
        with pytest.raises(FileExistsError, match=r'other settings.*batch_size.*4.*8'):
            draw(diffusion_run, data, whole.parent)

    def test_other_seed_is_refused(
        self, whole: Path, diffusion_run: Run, tmp_path: Path
    ) -> None:
        before = digests(whole)
        config = tmp_path / 'config.yaml'
        config.write_text(config_of(diffusion_run.out, whole, seed=1).read_text())
        command = ['predict', '--config', config]
        code, text = run_command(main, command, tmp_path / 'said.txt')
        assert code == 1
        said = text.strip().splitlines()[-1]
        assert said.startswith('FileExistsError')
        assert 'was begun with other settings' in said and 'seed' in said
        assert 'Choose another folder' in said
        assert digests(whole) == before

    def test_foreign_folder_is_refused(
        self, diffusion_run: Run, tmp_path: Path
    ) -> None:
        (tmp_path / 'set').mkdir()
        (tmp_path / 'set' / 'thesis.docx').write_text('')
        data = GenerationDataModule(str(tmp_path / 'set'), 2)
        with pytest.raises(FileExistsError, match='is not empty'):
            draw(diffusion_run, data, tmp_path)


class TestProcesses:
    def test_two_write_the_set_of_one(
        self, whole: Path, diffusion_run: Run, tmp_path: Path
    ) -> None:
        out = tmp_path / 'set'
        config = config_of(diffusion_run.out, out, {'devices': 2, 'strategy': 'ddp'})
        # the command and the launcher of Lightning themselves
        program = str(Path(sys.executable).with_name('torchgeo'))
        done = subprocess.run(
            [program, 'predict', '--config', str(config)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert 'MEMBER: 2/2' in done.stderr
        assert digests(out) == digests(whole)

    def test_one_batch_is_left_for_two(
        self, whole: Path, diffusion_run: Run, tmp_path: Path
    ) -> None:
        out = tmp_path / 'set'
        shutil.copytree(whole, out)
        (out / 'images' / '000041.tif').unlink()
        data = GenerationDataModule(str(out), COUNT, batch_size=4)
        draw(diffusion_run, data, tmp_path, devices=2, strategy='ddp_fork')
        assert digests(out) == digests(whole)


class TestMemory:
    def test_nothing_is_piled_up(self, diffusion_run: Run, tmp_path: Path) -> None:
        class Kept(Callback):
            found: list[Any]

            def on_predict_batch_end(self, trainer: Trainer, *args: Any) -> None:
                self.found = list(trainer.predict_loop._predictions[0])

        kept = Kept()
        data = GenerationDataModule(str(tmp_path / 'set'), 6, batch_size=2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            draw(diffusion_run, data, tmp_path, callbacks=[kept])
        assert kept.found == []
        said = [str(warning.message) for warning in caught]
        assert not [text for text in said if 'batch indices' in text]


class TestArguments:
    @pytest.mark.parametrize(
        ('arguments', 'said'),
        [
            ({'count': 0}, 'count=0'),
            ({'seed': -1}, 'seed=-1'),
            ({'seed': 2**63}, 'seed=9223372036854775808 must be 0 or more and below'),
            ({'batch_size': 0}, 'batch_size=0'),
            ({'masks': 'a', 'vary': 'b'}, 'exclude each other'),
            ({'vary': 'b', 'strength': 1.0}, 'strength=1.0 must lie between'),
        ],
    )
    def test_refused(self, arguments: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            GenerationDataModule(**{'out': 'x', 'count': 3} | arguments)

    def test_no_generator(self, tmp_path: Path) -> None:
        data = GenerationDataModule(str(tmp_path / 'set'), 2)
        task = SpecDMTask('diffusion', codec='pixels')
        with pytest.raises(ValueError, match=r'Set model\.init_args\.generator'):
            quiet_trainer(tmp_path).predict(task, data)
        assert not (tmp_path / 'set').exists()

    def test_sampling_of_the_generator_or_of_the_user(
        self, diffusion_run: Run, tmp_path: Path
    ) -> None:
        task = SpecDMTask('diffusion', generator=str(diffusion_run.out))
        assert task.generator is not None
        own = {'sampler': 'sde', 'steps': 4, 'clip': None, 'guidance': 0.0}
        assert task.generator.config['sampling'] == own
        task = SpecDMTask(
            'diffusion',
            generator=str(diffusion_run.out),
            settings={'sampling': {'steps': 2}},
        )
        data = GenerationDataModule(str(tmp_path / 'set'), 2)
        quiet_trainer(tmp_path).predict(task, data)
        described = json.loads((tmp_path / 'set' / 'dataset.json').read_text())
        assert described['provenance']['settings']['sampling']['steps'] == 2


class TestRejected:
    def test_samples_that_are_no_numbers(
        self,
        diffusion_run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        drawn = Generator.sample

        def broken(self: Generator, indices: Any, **settings: Any) -> dict[str, Tensor]:
            sample = drawn(self, indices, **settings)
            if 1 in indices:
                sample['image'][list(indices).index(1), 0, 0, 0] = float('nan')
            return sample

        monkeypatch.setattr(Generator, 'sample', broken)
        data = GenerationDataModule(str(tmp_path / 'set'), 3)
        draw(diffusion_run, data, tmp_path)
        assert [row['accepted'] for row in read_manifest(tmp_path / 'set')] == [
            True,
            False,
            True,
        ]
        assert len(PairFolder(tmp_path / 'set')) == 2
        assert '2 samples are in' in caplog.text and 'set, 1 rejected.' in caplog.text
        assert not (tmp_path / 'set' / 'images' / '000001.tif').exists()
