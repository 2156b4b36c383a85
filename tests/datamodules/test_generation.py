# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Generation through ``torchgeo predict``: the same set, whatever happens."""

import hashlib
import json
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torchgeo.main import main

from torchgeo_specdm import GenerationDataModule, Generator, PairFolder, SpecDMTask
from torchgeo_specdm.datamodules.generation import BatchDataset

from ..conftest import PAIR_CLASSES, Run, quiet_trainer, write_pair_folder

#: 11 batches of 4, the last one of 2.
COUNT = 42


def config_of(
    generator: Path, out: Path, trainer: dict[str, Any] | None = None, **data: Any
) -> Path:
    """A configuration for ``torchgeo predict``."""
    quiet = {
        'accelerator': 'cpu',
        'logger': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
    }
    config = {
        'trainer': quiet | {'default_root_dir': str(out.parent)} | (trainer or {}),
        'model': {
            'class_path': 'torchgeo_specdm.SpecDMTask',
            'init_args': {'stage': 'diffusion', 'generator': str(generator)},
        },
        'data': {
            'class_path': 'torchgeo_specdm.GenerationDataModule',
            'init_args': {'out': str(out), 'count': COUNT, 'batch_size': 4} | data,
        },
    }
    path = out.parent / f'{out.name}.yaml'
    path.write_text(json.dumps(config))
    return path


def command(config: Path) -> list[str]:
    torchgeo = Path(sys.executable).with_name('torchgeo')
    return [str(torchgeo), 'predict', '--config', str(config)]


def predict(config: Path) -> None:
    """The same in this process, which saves the imports."""
    with warnings.catch_warnings():
        # the CLI does not like to be called with pytest's own arguments around
        warnings.simplefilter('ignore')
        main(['predict', '--config', str(config)])


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / 'manifest.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def draw(run: Run, data: GenerationDataModule, root: Path, **trainer: Any) -> Trainer:
    """Predict through the Python API."""
    task = SpecDMTask('diffusion', generator=str(run.out))
    made = quiet_trainer(root, **trainer)
    made.predict(task, data)
    return made


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
        assert [row['index'] for row in rows(whole)] == list(range(COUNT))
        assert all(row['seed'] == 0 and row['accepted'] for row in rows(whole))
        assert not list(whole.rglob('*.part'))

    def test_holds_what_the_generator_draws(
        self, whole: Path, diffusion_run: Run
    ) -> None:
        generator = Generator.load(diffusion_run.out)
        sample = generator.sample(range(4), 0, **generator.config['sampling'])
        folder = PairFolder(whole)
        for i in range(4):
            image = sample['image'][i].round().clamp(0, 65535)
            assert torch.equal(folder[i]['image'], image)
            assert torch.equal(folder[i]['mask'], sample['mask'][i])

    def test_no_two_samples_are_equal(self, whole: Path) -> None:
        images = {row['files'][f'images/{row["id"]}.tif'] for row in rows(whole)}
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
        process = subprocess.Popen(
            command(config), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 100
        while not (manifest.exists() and manifest.read_text().count('\n') >= 6):
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = {key: value for key, value in digests(out).items() if '.tif' in key}
        assert 6 <= len(rows(out)) < COUNT
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
        drawn = []
        sample = Generator.sample

        def counted(
            self: Generator, indices: Any, **settings: Any
        ) -> dict[str, Tensor]:
            drawn.append(list(indices))
            return sample(self, indices, **settings)

        monkeypatch.setattr(Generator, 'sample', counted)
        config = config_of(diffusion_run.out, tmp_path / 'set', count=6)
        predict(config)
        assert drawn == [[0, 1, 2, 3], [4, 5]]
        (tmp_path / 'set' / 'masks' / '000005.tif').unlink()
        predict(config)
        # the batch of the lost one only, and whole: its numbers depend on it
        assert drawn[2:] == [[4, 5]]

    def test_more_samples(self, diffusion_run: Run, tmp_path: Path) -> None:
        out = tmp_path / 'set'
        predict(config_of(diffusion_run.out, out, count=6))
        first = digests(out)
        predict(config_of(diffusion_run.out, out, count=9))
        second = digests(out)
        assert all(second[key] == first[key] for key in first if '.tif' in key)
        assert [row['index'] for row in rows(out)] == list(range(9))
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
        done = subprocess.run(
            command(config), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        said = done.stderr.strip().splitlines()[-1]
        assert said.startswith('FileExistsError')
        assert 'was begun with other settings' in said and 'seed' in said
        assert 'choose another folder' in said
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
        done = subprocess.run(
            command(config), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert 'MEMBER: 2/2' in done.stderr
        assert digests(out) == digests(whole)


class TestMemory:
    def test_nothing_is_piled_up(self, diffusion_run: Run, tmp_path: Path) -> None:
        class Kept(Callback):
            found: list[Any]

            def on_predict_end(self, trainer: Trainer, *args: Any) -> None:
                self.found = list(trainer.predict_loop._predictions[0])

        kept = Kept()
        data = GenerationDataModule(str(tmp_path / 'set'), 6, batch_size=2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            draw(diffusion_run, data, tmp_path, callbacks=[kept])
        assert kept.found == [None] * 3
        said = [str(warning.message) for warning in caught]
        assert not [text for text in said if 'returned None' in text]


def versions(mask: Tensor) -> list[Tensor]:
    """The eight flipped and turned versions of a mask."""
    turned = [torch.rot90(mask, turns, (-2, -1)) for turns in range(4)]
    return turned + [x.flip(-1) for x in turned]


class TestGivenMasks:
    @pytest.fixture(scope='class')
    def drawn(
        self,
        diffusion_run: Run,
        pair_folder: Path,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Path:
        root = tmp_path_factory.mktemp('masks')
        data = GenerationDataModule(str(root / 'set'), 40, masks=str(pair_folder))
        draw(diffusion_run, data, root)
        return root / 'set'

    def test_are_kept_but_for_flips_and_turns(
        self, drawn: Path, pair_folder: Path
    ) -> None:
        source = PairFolder(pair_folder)
        found = PairFolder(drawn)
        turns = set()
        for i, row in enumerate(rows(drawn)):
            mask = source[source.ids.index(row['source'])]['mask']
            equal = [torch.equal(found[i]['mask'], x) for x in versions(mask)]
            assert any(equal), row
            turns.add(equal.index(True))
        # by lot: not always the same
        assert len(turns) > 4
        # pixels without a label keep none
        assert all(bool((found[i]['mask'] == 255).any()) for i in range(40))

    def test_are_those_of_training_only(self, drawn: Path, pair_folder: Path) -> None:
        training = (pair_folder / 'train.txt').read_text().split()
        used = [row['source'] for row in rows(drawn)]
        assert used == [training[i % 16] for i in range(40)]

    def test_give_images_of_their_own(self, drawn: Path) -> None:
        digests = {row['files'][f'images/{row["id"]}.tif'] for row in rows(drawn)}
        assert len(digests) == 40
        assert 'images for the masks of' in (drawn / 'README.md').read_text()

    def test_of_a_folder_with_other_bands(
        self, diffusion_run: Run, tmp_path: Path
    ) -> None:
        folder = write_pair_folder(tmp_path / 'pairs')
        for tif in sorted((folder / 'images').iterdir()):
            with rasterio.open(tif) as old:
                profile, array = old.profile | {'count': 2}, old.read([1, 2])
            with rasterio.open(tif, 'w', **profile) as new:
                new.write(array)
        text = json.loads((folder / 'dataset.json').read_text())
        (folder / 'dataset.json').write_text(json.dumps(text | {'bands': ['x', 'y']}))
        data = GenerationDataModule(str(tmp_path / 'set'), 3, masks=str(folder))
        draw(diffusion_run, data, tmp_path)
        assert PairFolder(tmp_path / 'set').spec.num_bands == 6
        with pytest.raises(ValueError, match='bands: '):
            data = GenerationDataModule(str(tmp_path / 'b'), 3, vary=str(folder))
            draw(diffusion_run, data, tmp_path)

    def test_of_other_classes(self, diffusion_run: Run, tmp_path: Path) -> None:
        folder = write_pair_folder(tmp_path / 'pairs')
        text = (folder / 'dataset.json').read_text().replace('"town"', '"snow"')
        (folder / 'dataset.json').write_text(text)
        data = GenerationDataModule(str(tmp_path / 'set'), 3, masks=str(folder))
        with pytest.raises(ValueError, match=r"'town'.*'snow'"):
            draw(diffusion_run, data, tmp_path)


class TestVary:
    def test_the_weaker_the_nearer(
        self, diffusion_run: Run, pair_folder: Path, tmp_path: Path
    ) -> None:
        source = PairFolder(pair_folder)
        codec = Generator.load(diffusion_run.out).codec
        far = []
        for strength in (0.01, 0.9):
            out = tmp_path / str(strength)
            data = GenerationDataModule(
                str(out), 8, vary=str(pair_folder), strength=strength
            )
            draw(diffusion_run, data, tmp_path)
            found = PairFolder(out)
            errors = []
            for i, row in enumerate(rows(out)):
                real = source[source.ids.index(row['source'])]
                masks = torch.stack(versions(real['mask']))
                assert bool((masks == found[i]['mask']).flatten(1).all(1).any())
                # what a perfect variation of strength 0 would be, turned as by lot
                images = torch.stack(versions(real['image']))
                decoded, _ = codec.roundtrip({'image': images, 'mask': masks})
                off = (decoded['image'] - found[i]['image']).abs().flatten(1).mean(1)
                errors.append(float(off.min()))
            far.append(np.mean(errors))
        assert far[0] < 0.8 * far[1]
        card = (tmp_path / '0.01' / 'README.md').read_text()
        assert 'variations (strength 0.01)' in card


class TestBatches:
    def test_crops_of_larger_samples(self, pair_folder: Path) -> None:
        source = PairFolder(pair_folder)
        data = BatchDataset([[0, 1], [2]], source, seed=0, size=(16, 8))
        assert len(data) == 2
        batch = data[0]
        assert batch['index'].tolist() == [0, 1]
        assert batch['image'].shape == (2, 6, 16, 8)
        assert batch['mask'].shape == (2, 16, 8)
        for i in range(2):
            windows = (
                source[i]['mask'].unfold(0, 16, 1).unfold(1, 8, 1).reshape(-1, 16, 8)
            )
            # a patch that is not square is not turned on its side
            moved = torch.cat([windows, windows.flip(-1), windows.flip(-2)])
            moved = torch.cat([moved, windows.flip(-1).flip(-2)])
            assert bool((moved == batch['mask'][i]).flatten(1).all(1).any())

    def test_image_and_mask_move_together(self, pair_folder: Path) -> None:
        class Coded(PairFolder):
            def __getitem__(self, index: int) -> dict[str, Tensor]:
                grid = torch.arange(32 * 32).view(32, 32)
                return {'image': grid[None].float(), 'mask': grid}

        data = BatchDataset([list(range(16))], Coded(pair_folder), 0, (16, 16))
        batch = data[0]
        assert torch.equal(batch['image'][:, 0].long(), batch['mask'])
        corners = {
            tuple(x[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()) for x in batch['mask']
        }
        assert len(corners) > 12

    def test_too_small(self, pair_folder: Path) -> None:
        data = BatchDataset([[3]], PairFolder(pair_folder), 0, (64, 32))
        with pytest.raises(ValueError, match=r'003\.tif has \(32, 32\) pixels'):
            data[0]

    def test_only_what_is_needed(self, pair_folder: Path) -> None:
        data = BatchDataset([[3]], PairFolder(pair_folder), 0, (32, 32), ('mask',))
        assert set(data[0]) == {'index', 'mask'}
        assert set(BatchDataset([[3]], None, 0, (32, 32))[0]) == {'index'}


class TestArguments:
    @pytest.mark.parametrize(
        ('arguments', 'said'),
        [
            ({'count': 0}, 'count=0'),
            ({'seed': -1}, 'seed=-1'),
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
        assert task.sampling == {'sampler': 'sde', 'steps': 4, 'clip': None}
        task = SpecDMTask(
            'diffusion',
            generator=str(diffusion_run.out),
            settings={'sampling': {'steps': 2}},
        )
        assert task.sampling['steps'] == 2
        data = GenerationDataModule(str(tmp_path / 'set'), 2)
        quiet_trainer(tmp_path).predict(task, data)
        described = json.loads((tmp_path / 'set' / 'dataset.json').read_text())
        assert described['provenance']['settings']['sampling']['steps'] == 2


class TestRejected:
    def test_samples_that_are_no_numbers(
        self, diffusion_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        assert [row['accepted'] for row in rows(tmp_path / 'set')] == [
            True,
            False,
            True,
        ]
        assert len(PairFolder(tmp_path / 'set')) == 2
        assert not (tmp_path / 'set' / 'images' / '000001.tif').exists()
