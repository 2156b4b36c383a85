# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Going on from a checkpoint."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor

from torchgeo_specdm import Generator, LatentDataModule, SpecDMTask
from torchgeo_specdm.codecs import load_codec

from ..conftest import PAIR_BANDS, Run, pairs, quiet_trainer, train


class TestResume:
    @pytest.fixture
    def resumed(
        self, autoencoder_run: Run, pair_folder: Path, tiny_settings: dict[str, Any]
    ) -> Callable[[Path, int], Run]:
        def resume(root: Path, epochs: int) -> Run:
            task = SpecDMTask('autoencoder', str(root / 'c'), settings=tiny_settings)
            last = autoencoder_run.checkpoint
            return train(task, pairs(pair_folder), root, epochs, 8, last)

        return resume

    def test_goes_on_where_it_was(
        self, resumed: Callable[[Path, int], Run], autoencoder_run: Run, tmp_path: Path
    ) -> None:
        run = resumed(tmp_path, 10)
        assert run.trainer.global_step == 20
        codec = load_codec(run.out)
        assert all(bool(v.isfinite().all()) for v in codec.state_dict().values())
        before = load_file(autoencoder_run.out / 'model.safetensors')
        after = codec.state_dict()
        # scaling is restored, or measured again to the same numbers
        assert torch.equal(before['center'], after['center'])
        changed = [key for key in before if not torch.equal(before[key], after[key])]
        assert changed
        # still near the old weights: it did not start anew
        key = 'image_branch.network.decoder.conv_out.weight'
        assert float((before[key] - after[key]).norm() / before[key].norm()) < 0.2

    def test_finished_run_writes_its_folder(
        self, resumed: Callable[[Path, int], Run], autoencoder_run: Run, tmp_path: Path
    ) -> None:
        # killed after the last checkpoint and before the folder was written
        run = resumed(tmp_path, 8)
        assert run.trainer.global_step == 16
        assert run.losses == []
        wanted = load_file(autoencoder_run.out / 'model.safetensors')
        found = load_file(run.out / 'model.safetensors')
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('stage', ['autoencoder', 'diffusion'])
    def test_finished_run_of_so_many_steps(
        self,
        pair_folder: Path,
        tiny_settings: dict[str, Any],
        tmp_path: Path,
        stage: Any,
    ) -> None:
        # Lightning leaves its loop at once here, and calls no hook of training
        codec = 'pixels' if stage == 'diffusion' else 'two_stream'
        found = []
        for resume in (None, tmp_path / 'last.ckpt'):
            out = tmp_path / f'out_{resume is None}'
            task = SpecDMTask(stage, str(out), codec, 'tiny', tiny_settings)
            trainer = quiet_trainer(tmp_path, max_steps=2, limit_val_batches=0)
            trainer.fit(task, pairs(pair_folder), ckpt_path=resume)
            assert trainer.global_step == 2
            if resume is None:
                trainer.save_checkpoint(tmp_path / 'last.ckpt')
            found.append(load_file(out / 'model.safetensors'))
        for key, value in found[0].items():
            torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-4)

    def test_diffusion(
        self,
        autoencoder_run: Run,
        diffusion_run: Run,
        pair_folder: Path,
        tiny_settings: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        codec = str(autoencoder_run.out)
        task = SpecDMTask(
            'diffusion', str(tmp_path / 'g'), codec, 'tiny', tiny_settings
        )
        data = LatentDataModule(pairs(pair_folder), 2)
        run = train(task, data, tmp_path, 5, 4, diffusion_run.checkpoint)
        assert run.trainer.global_step == 20
        assert len(run.losses) == 4
        assert all(torch.tensor(run.losses).isfinite())
        generator = Generator.load(tmp_path / 'g')
        assert generator.config['training']['updates'] == 20
        # the cache is that of the first run, to the bit
        old = diffusion_run.trainer.datamodule.train_dataset.latents
        assert torch.equal(data.train_dataset.latents, old)
        before = load_file(diffusion_run.out / 'model.safetensors')
        after = generator.denoiser.state_dict()
        key = 'network.conv_in.weight'
        assert not torch.equal(before[key], after[key])
        assert float((before[key] - after[key]).norm() / before[key].norm()) < 0.2

    def test_load_from_checkpoint(
        self, autoencoder_run: Run, diffusion_run: Run
    ) -> None:
        for run in (autoencoder_run, diffusion_run):
            stage = run.task.stage
            task = SpecDMTask.load_from_checkpoint(run.checkpoint, stage=stage)
            wanted = torch.load(run.checkpoint)['state_dict']
            found = task.state_dict()
            assert set(found) == set(wanted)
            weights = [key for key in wanted if 'latent_' not in key]
            assert all(torch.equal(found[key], wanted[key]) for key in weights)
            assert task.model.codec.spec.bands == PAIR_BANDS

    def test_validate_from_checkpoint(
        self, diffusion_run: Run, pair_folder: Path, tmp_path: Path
    ) -> None:
        task = SpecDMTask.load_from_checkpoint(
            diffusion_run.checkpoint, stage='diffusion'
        )
        trainer = quiet_trainer(tmp_path)
        found = trainer.validate(task, pairs(pair_folder), verbose=False)[0]
        wanted = float(diffusion_run.trainer.callback_metrics['val_loss'])
        assert found['val_loss'] == pytest.approx(wanted, rel=1e-4)

    def test_test_from_checkpoint(
        self,
        autoencoder_run: Run,
        diffusion_run: Run,
        pair_folder: Path,
        tiny_settings: dict[str, Any],
    ) -> None:
        data = LatentDataModule(pairs(pair_folder))
        for run, codec in ((autoencoder_run, 'two_stream'), (diffusion_run, 'pixels')):
            task = SpecDMTask(run.task.stage, codec=codec, settings=tiny_settings)
            trainer = quiet_trainer(run.out)
            (found,) = trainer.test(task, data, run.checkpoint, verbose=False)
            wanted = run.trainer.callback_metrics
            assert set(found) == {
                name.replace('val', 'test') for name in wanted if 'val' in name
            }
            # other samples of the same kind
            loss = float(wanted['val_loss'])
            assert found['test_loss'] == pytest.approx(loss, rel=0.5)


class TestEqualToUninterrupted:
    """To the bit: order, augmentation, noise, averages and latents."""

    @pytest.fixture(params=['autoencoder', 'diffusion'])
    def fit(
        self,
        request: pytest.FixtureRequest,
        autoencoder_run: Run,
        pair_folder: Path,
        tiny_settings: dict[str, Any],
        tmp_path: Path,
    ) -> Callable[..., dict[str, Tensor]]:
        stage: Any = request.param
        codec = str(autoencoder_run.out) if stage == 'diffusion' else 'two_stream'

        def run(resume: Path | None = None, **options: Any) -> dict[str, Tensor]:
            # another seed, which the checkpoint's replaces
            seed_everything(0 if resume is None else 1, verbose=False)
            out = tmp_path / (resume.stem if resume else 'whole')
            task = SpecDMTask(stage, str(out), codec, settings=tiny_settings)
            data = pairs(pair_folder)
            trainer = quiet_trainer(tmp_path, max_epochs=2, **options)
            trainer.fit(
                task,
                LatentDataModule(data, 1) if stage == 'diffusion' else data,
                ckpt_path=resume,
            )
            assert trainer.global_step == 4
            return load_file(out / 'model.safetensors')

        return run

    def test_all_weights(
        self, fit: Callable[..., dict[str, Tensor]], tmp_path: Path
    ) -> None:
        # two steps in an epoch, and validation after each
        shared = {'dirpath': tmp_path / 'kept', 'save_top_k': -1}
        saving = [
            ModelCheckpoint(filename='{step}', every_n_train_steps=1, **shared),
            ModelCheckpoint(filename='epoch-{step}', **shared),
        ]
        whole = fit(callbacks=saving, enable_checkpointing=True)
        for name in ('step=1', 'step=2', 'epoch-step=2'):
            resumed = fit(tmp_path / 'kept' / f'{name}.ckpt')
            assert all(torch.equal(value, resumed[key]) for key, value in whole.items())

    def test_after_ctrl_c(
        self, fit: Callable[..., dict[str, Tensor]], tmp_path: Path
    ) -> None:
        def press(*arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        whole = fit()
        # in the middle of the first step of the second epoch
        pressed = LambdaCallback(
            on_before_backward=lambda trainer, *rest: (
                press() if trainer.global_step == 2 else None
            )
        )
        saver = ModelCheckpoint(tmp_path / 'kept', every_n_train_steps=100)
        with pytest.raises(SystemExit):
            fit(callbacks=[pressed, saver], enable_checkpointing=True)
        resumed = fit(tmp_path / 'kept' / 'last.ckpt')
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
