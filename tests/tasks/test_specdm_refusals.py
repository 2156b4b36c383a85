# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What the two stages refuse, and what they say."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor
from torchgeo.main import main

from torchgeo_specdm import LatentDataModule, PairFolderDataModule, SpecDMTask

from ..conftest import PAIR_BANDS, Run, pairs, quiet_trainer, write_pair_folder
from ..processes import run_command


def unnormalised(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """An augmentation as forgetful as some of TorchGeo's."""
    return {**batch, 'image': batch['image'].flip(-1), 'mask': batch['mask'].flip(-1)}


class Forgetful(PairFolderDataModule):
    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train_aug = unnormalised


def config_of(folder: Path, root: Path) -> dict[str, Any]:
    """A configuration for two steps of ``torchgeo fit``."""
    return {
        'trainer': {
            'accelerator': 'cpu',
            'max_steps': 2,
            'logger': False,
            'enable_progress_bar': False,
            'default_root_dir': str(root),
        },
        'model': {'class_path': 'torchgeo_specdm.SpecDMTask'},
        'data': {
            'class_path': 'torchgeo_specdm.PairFolderDataModule',
            'init_args': {'root': str(folder), 'batch_size': 8},
        },
    }


class TestStagesDoNotMix:
    @pytest.mark.parametrize(
        ('arguments', 'said'),
        [
            ({'stage': 'vae'}, r"stage='vae' must be one of"),
            ({'stage': 'autoencoder', 'codec': 'pixels'}, "codec='pixels' has nothing"),
            (
                {'stage': 'autoencoder', 'codec': 'runs/x'},
                r"codec='runs/x' has nothing",
            ),
            ({'stage': 'diffusion'}, r"codec='two_stream' is no learned codec"),
            ({'stage': 'autoencoder', 'generator': 'runs/g'}, "generator='runs/g' is"),
            ({'stage': 'autoencoder', 'preset': 'huge'}, "preset='huge'"),
            (
                {'stage': 'autoencoder', 'settings': {'vae': {}}},
                r"settings \['vae'\] do not exist",
            ),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            SpecDMTask(**arguments)

    def test_folders(self, autoencoder_run: Run, diffusion_run: Run) -> None:
        with pytest.raises(ValueError, match="written by stage 'autoencoder'"):
            SpecDMTask('diffusion', generator=str(autoencoder_run.out))
        with pytest.raises(ValueError, match="written by stage 'diffusion'"):
            SpecDMTask('diffusion', codec=str(diffusion_run.out))
        with pytest.raises(FileNotFoundError, match='must have written it'):
            SpecDMTask('diffusion', codec=str(autoencoder_run.out / 'nowhere'))
        with pytest.raises(FileNotFoundError, match='must have written it'):
            SpecDMTask('diffusion', generator=str(autoencoder_run.out / 'nowhere'))

    def test_checkpoint_in_python(
        self,
        autoencoder_run: Run,
        diffusion_run: Run,
        pair_folder: Path,
        tmp_path: Path,
    ) -> None:
        out, codec = str(tmp_path / 'g'), str(autoencoder_run.out)
        trainer = quiet_trainer(tmp_path, max_epochs=9)
        task = SpecDMTask('diffusion', out, codec)
        with pytest.raises(ValueError, match=r"from stage 'autoencoder' but this is"):
            trainer.fit(task, pairs(pair_folder), ckpt_path=autoencoder_run.checkpoint)
        trainer = quiet_trainer(tmp_path, max_epochs=9)
        task = SpecDMTask('autoencoder', out)
        with pytest.raises(ValueError, match=r"from stage 'diffusion' but this is"):
            trainer.fit(task, pairs(pair_folder), ckpt_path=diffusion_run.checkpoint)
        assert not (tmp_path / 'g').exists()

    def test_checkpoint_on_the_command_line(
        self,
        autoencoder_run: Run,
        pair_folder: Path,
        tiny_settings: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        # Lightning's CLI lets the checkpoint's arguments win over those given
        config = config_of(pair_folder, tmp_path)
        config['model']['init_args'] = {
            'stage': 'autoencoder',
            'out': str(tmp_path / 'codec'),
            'settings': tiny_settings,
        }
        path = tmp_path / 'config.yaml'
        path.write_text(json.dumps(config))
        main(['fit', '--config', str(path)])
        (checkpoint,) = tmp_path.rglob('*.ckpt')
        config['model']['init_args'] |= {
            'stage': 'diffusion',
            'codec': str(tmp_path / 'codec'),
            'out': str(tmp_path / 'generator'),
        }
        path.write_text(json.dumps(config))
        command = ['fit', '--config', path, '--ckpt_path', checkpoint]
        code, text = run_command(main, command, tmp_path / 'said.txt')
        assert code == 1
        said = ' '.join(text.split())
        assert "codec='two_stream' is no learned codec" in said
        assert 'given as --ckpt_path, only resumes that stage' in said
        assert not (tmp_path / 'generator').exists()

    @pytest.mark.parametrize(
        ('stage', 'verb', 'name'),
        [
            ('autoencoder', 'fit', 'settings'),
            ('diffusion', 'fit', 'denoiser'),
            ('diffusion', 'validate', 'denoiser'),
        ],
    )
    def test_checkpoint_of_other_networks(
        self,
        autoencoder_run: Run,
        diffusion_run: Run,
        pair_folder: Path,
        tmp_path: Path,
        stage: Any,
        verb: str,
        name: str,
    ) -> None:
        run, codec = {
            'autoencoder': (autoencoder_run, 'two_stream'),
            'diffusion': (diffusion_run, str(autoencoder_run.out)),
        }[stage]
        # without the settings of the checkpoint
        task = SpecDMTask(stage, str(tmp_path / 'o'), codec)
        act = getattr(quiet_trainer(tmp_path, max_epochs=9), verb)
        with pytest.raises(ValueError, match=rf'was made with {name}=.* but here it'):
            act(task, pairs(pair_folder), ckpt_path=run.checkpoint)


class TestRefusals:
    def fit(self, task: SpecDMTask, data: Any, root: Path) -> None:
        quiet_trainer(root, max_epochs=1).fit(task, data)

    @pytest.mark.parametrize(
        ('out', 'said'),
        [(None, r'out=None .*model\.init_args\.out'), ('file/c', 'cannot write to')],
    )
    def test_no_folder_to_write(
        self, pair_folder: Path, tmp_path: Path, out: str | None, said: str
    ) -> None:
        (tmp_path / 'file').write_text('')
        task = SpecDMTask('autoencoder', out and str(tmp_path / out))
        with pytest.raises((ValueError, RuntimeError), match=said):
            self.fit(task, pairs(pair_folder), tmp_path)

    @pytest.mark.parametrize('stage', ['autoencoder', 'diffusion'])
    @pytest.mark.parametrize('verb', ['validate', 'test'])
    def test_nothing_to_measure(
        self, pair_folder: Path, tmp_path: Path, stage: Any, verb: str
    ) -> None:
        codec = 'pixels' if stage == 'diffusion' else 'two_stream'
        task = SpecDMTask(stage, codec=codec)
        measure = getattr(quiet_trainer(tmp_path), verb)
        with pytest.raises(
            ValueError, match=rf"='{stage}' has no weights .*--ckpt_path"
        ):
            measure(task, pairs(pair_folder))

    def test_generator_and_checkpoint(
        self, diffusion_run: Run, pair_folder: Path, tmp_path: Path
    ) -> None:
        task = SpecDMTask('diffusion', generator=str(diffusion_run.out))
        with pytest.raises(ValueError, match='Give one of them'):
            quiet_trainer(tmp_path).validate(
                task, pairs(pair_folder), diffusion_run.checkpoint
            )

    def test_generator_in_fit(
        self, diffusion_run: Run, pair_folder: Path, tmp_path: Path
    ) -> None:
        task = SpecDMTask(
            'diffusion', str(tmp_path / 'g'), generator=str(diffusion_run.out)
        )
        with pytest.raises(ValueError, match='is what predict draws from'):
            self.fit(task, pairs(pair_folder), tmp_path)

    def test_no_datamodule(self, tmp_path: Path) -> None:
        task = SpecDMTask('autoencoder', str(tmp_path / 'c'))
        loader = torch.utils.data.DataLoader([0])
        with pytest.raises(ValueError, match='was given no datamodule'):
            quiet_trainer(tmp_path, max_epochs=1).fit(task, loader)

    def test_other_bands_and_classes(
        self, autoencoder_run: Run, pair_folder: Path, tmp_path: Path
    ) -> None:
        folder = write_pair_folder(tmp_path / 'pairs')
        text = (folder / 'dataset.json').read_text()
        text = text.replace('"B02"', '"B05"').replace('"town"', '"snow"')
        (folder / 'dataset.json').write_text(text)
        for tif in (folder / 'images').iterdir():
            with rasterio.open(tif, 'r+') as raster:
                raster.descriptions = ('B05', *PAIR_BANDS[1:])
        task = SpecDMTask('diffusion', str(tmp_path / 'g'), str(autoencoder_run.out))
        with pytest.raises(ValueError, match='the same kind of sample') as caught:
            self.fit(task, LatentDataModule(pairs(folder)), tmp_path)
        said = str(caught.value)
        assert str(list(PAIR_BANDS)) in said
        assert "['B05', 'B03'" in said
        assert "'town'" in said and "'snow'" in said

    def test_fewer_bands(
        self, autoencoder_run: Run, pair_folder: Path, tmp_path: Path
    ) -> None:
        task = SpecDMTask('diffusion', str(tmp_path / 'g'), str(autoencoder_run.out))
        data = pairs(pair_folder, bands=['B02', 'B03', 'B04'])
        with pytest.raises(ValueError, match=r"bands: .*\['B02', 'B03', 'B04'\]"):
            self.fit(task, data, tmp_path)

    def test_loss_that_is_no_number(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        settings = tiny_settings | {'autoencoder': {'lr': 1e30, 'warmup': 0}}
        task = SpecDMTask('autoencoder', str(tmp_path / 'c'), settings=settings)
        with pytest.raises(RuntimeError, match=r'training loss is (nan|inf) at step'):
            quiet_trainer(tmp_path, max_epochs=5).fit(task, pairs(pair_folder))
        assert not (tmp_path / 'c').exists()

    def test_forgotten_normalisation(self, pair_folder: Path, tmp_path: Path) -> None:
        task = SpecDMTask('autoencoder', str(tmp_path / 'c'))
        with pytest.raises(ValueError, match='Forgetful: channel 0 of value'):
            self.fit(task, Forgetful(str(pair_folder), 8), tmp_path)

    def test_mask_values(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        # the folder's own spec knows 255; the user's override takes it away
        task = SpecDMTask(
            'autoencoder',
            str(tmp_path / 'c'),
            settings=tiny_settings,
            spec={'ignore_index': None},
        )
        with pytest.raises(ValueError, match=r'values \[255\], but the classes are'):
            self.fit(task, pairs(pair_folder), tmp_path)

    def test_masks_without_a_label(self, tmp_path: Path) -> None:
        folder = write_pair_folder(tmp_path / 'pairs')
        for tif in (folder / 'masks').iterdir():
            with rasterio.open(tif, 'r+') as raster:
                raster.write(np.full((1, 32, 32), 255, np.uint8))
        task = SpecDMTask('autoencoder', str(tmp_path / 'c'))
        with pytest.raises(ValueError, match=r'No pixel .* ignore_index=255'):
            self.fit(task, pairs(folder), tmp_path)

    def test_full_disk(
        self, pair_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = SimpleNamespace(free=99_999)
        monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
        task = SpecDMTask('autoencoder', str(tmp_path / 'c'))
        with pytest.raises(RuntimeError, match=r'99999 bytes are free') as caught:
            self.fit(task, pairs(pair_folder), tmp_path)
        assert str(tmp_path) in str(caught.value) and task.global_step == 0

    @pytest.mark.parametrize(
        ('size', 'said'),
        [(12, r'3 x 3 cells .* multiples of 2'), (30, r'30 x 30 pixels .* of 4')],
    )
    def test_patches_that_do_not_fit(
        self,
        pixels: SpecDMTask,
        pair_folder: Path,
        tmp_path: Path,
        size: int,
        said: str,
    ) -> None:
        with pytest.raises(ValueError, match=said):
            self.fit(pixels, pairs(pair_folder, patch_size=size), tmp_path)

    def test_latents_in_stage_autoencoder(
        self, pair_folder: Path, tmp_path: Path
    ) -> None:
        task = SpecDMTask('autoencoder', str(tmp_path / 'c'))
        with pytest.raises(ValueError, match='serves latents to'):
            self.fit(task, LatentDataModule(pairs(pair_folder)), tmp_path)
