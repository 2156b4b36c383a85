# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The two stages through real fits of Lightning."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder
from safetensors.torch import load_file
from torch import Tensor

from torchgeo_specdm import (
    Generator,
    LatentDataModule,
    PairFolderDataModule,
    SpecDMTask,
)
from torchgeo_specdm.codecs import load_codec
from torchgeo_specdm.diffusion import read_errors

from ..conftest import (
    PAIR_BANDS,
    PAIR_CLASSES,
    Run,
    pairs,
    quiet_trainer,
    train,
    write_pair_folder,
)


def odd(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """A sample with a constant band and without the last class."""
    sample['image'][2] = 4321
    sample['mask'][sample['mask'] == 3] = 2
    return sample


class Odd(PairFolderDataModule):
    def setup(self, stage: str) -> None:
        super().setup(stage)
        for dataset in (self.train_dataset, self.val_dataset):
            dataset.transforms = odd
        # as measure_statistics has it for a constant band
        self.mean[2], self.std[2] = 4321, 1


@pytest.mark.parametrize('stage, most', [('autoencoder', 0.8), ('diffusion', 0.9)])
def test_learned(request: pytest.FixtureRequest, stage: str, most: float) -> None:
    run: Run = request.getfixturevalue(f'{stage}_run')
    losses = torch.tensor(run.losses)
    assert run.trainer.global_step == len(losses) == 16
    assert bool(losses.isfinite().all())
    assert float(losses[-4:].mean()) < most * float(losses[:4].mean())


class TestAutoencoder:
    def test_validation(self, autoencoder_run: Run) -> None:
        found = autoencoder_run.trainer.callback_metrics
        names = ('loss', 'rmse', 'sad', 'mask', 'miou', 'mask_accuracy')
        assert all(bool(found[f'val_{name}'].isfinite()) for name in names)
        # units: reflectance and radians, not digital numbers
        assert 0.001 < float(found['val_rmse']) < 0.3
        assert 0.001 < float(found['val_sad']) < 1.5

    def test_folder(self, autoencoder_run: Run, pair_folder: Path) -> None:
        codec = load_codec(autoencoder_run.out)
        assert codec.spec.bands == PAIR_BANDS
        assert codec.spec.classes == PAIR_CLASSES
        assert codec.spec.ignore_index == 255
        seen = (autoencoder_run.out / 'training_samples.txt').read_text().split()
        assert len(seen) == 16
        trained = autoencoder_run.task.model.codec.state_dict()
        saved = codec.state_dict()
        assert all(torch.equal(value, saved[key]) for key, value in trained.items())

    def test_statistics_are_of_the_training_set(
        self, autoencoder_run: Run, pair_folder: Path
    ) -> None:
        codec, data = load_codec(autoencoder_run.out), pairs(pair_folder)
        data.setup('fit')
        samples = [data.train_dataset[i] for i in range(16)]
        batch = {
            key: torch.stack([sample[key] for sample in samples])
            for key in ('image', 'mask')
        }
        latent = codec.encode(batch).movedim(1, 0).flatten(1)
        # measured over flipped and turned versions, so only nearly
        assert float(latent.mean(1).abs().max()) < 0.2
        assert float((latent.std(1) - 1).abs().max()) < 0.2

    def test_scaling_is_of_digital_numbers(self, autoencoder_run: Run) -> None:
        codec = load_codec(autoencoder_run.out)
        top = codec.center + codec.half_range
        assert bool((top > 500).all()) and bool((top < 5000).all())

    def test_single_stream(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        task = SpecDMTask(
            'autoencoder', str(tmp_path / 'c'), 'single_stream', settings=tiny_settings
        )
        run = train(task, pairs(pair_folder), tmp_path, 1)
        assert run.trainer.global_step == 2
        assert list(load_codec(run.out).streams) == ['image_and_mask']


class TestDiffusion:
    def test_validation_of_each_stream(self, diffusion_run: Run) -> None:
        found = diffusion_run.trainer.callback_metrics
        for name in ('val_loss', 'val_loss_image_1', 'val_loss_mask'):
            assert bool(found[name].isfinite())
        # and at each level of noise, kept for the report
        errors = read_errors(diffusion_run.out)
        assert {'image_1', 'mask'} <= errors.keys()
        for stream, columns in errors.items():
            assert columns['log_snr']
            for level, error in zip(
                columns['log_snr'], columns['network'], strict=True
            ):
                logged = float(found[f'val_error/{stream}/{level:+g}'])
                assert logged == pytest.approx(error, rel=1e-5) and error > 0

    def test_average_is_not_the_trained_weights_and_is_saved(
        self, diffusion_run: Run
    ) -> None:
        stage = diffusion_run.task.model
        average = stage.generator.denoiser.state_dict()
        trained = stage.denoiser.state_dict()
        assert any(not torch.equal(average[key], trained[key]) for key in trained)
        saved = load_file(diffusion_run.out / 'model.safetensors')
        assert set(saved) == set(average)
        assert all(torch.equal(saved[key], average[key]) for key in saved)

    def test_codec_is_untouched(self, autoencoder_run: Run, diffusion_run: Run) -> None:
        first = load_file(autoencoder_run.out / 'model.safetensors')
        second = load_file(diffusion_run.out / 'codec' / 'model.safetensors')
        assert all(torch.equal(value, second[key]) for key, value in first.items())

    def test_every_tensor_has_one_home(self, diffusion_run: Run) -> None:
        state = diffusion_run.task.state_dict()
        homes: dict[int, str] = {}
        for key, value in state.items():
            if value.numel():
                assert value.data_ptr() not in homes, (key, homes[value.data_ptr()])
                homes[value.data_ptr()] = key
        assert {key.split('.')[1] for key in state} == {'generator', 'denoiser'}

    def test_folder(self, diffusion_run: Run) -> None:
        generator = Generator.load(diffusion_run.out)
        assert generator.config['patch_size'] == [32, 32]
        assert generator.config['training'] == {
            'datamodule': 'PairFolderDataModule',
            'samples': 16,
            'updates': 16,
            'preset': 'tiny',
        }
        sample = generator.sample([0, 1], 0)
        assert bool(sample['image'].isfinite().all())
        assert (
            len((diffusion_run.out / 'training_samples.txt').read_text().split()) == 16
        )

    def test_average_counts_the_steps(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        class Noted(SpecDMTask):
            def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
                old = self.generator.denoiser.network.conv_in.weight.clone()
                super().optimizer_step(*args, **kwargs)
                new = self.generator.denoiser.network.conv_in.weight
                trained = self.model.denoiser.network.conv_in.weight
                kept.append(float((new - trained).norm() / (old - trained).norm()))

        kept: list[float] = []
        task = Noted('diffusion', str(tmp_path / 'g'), 'pixels', 'tiny', tiny_settings)
        train(task, pairs(pair_folder), tmp_path, 2)
        assert kept == pytest.approx([2 / 11, 3 / 12, 4 / 13, 5 / 14], rel=1e-3)

    def test_cached_latents_are_those_of_the_codec(
        self, autoencoder_run: Run, diffusion_run: Run
    ) -> None:
        data = diffusion_run.trainer.datamodule
        assert len(data.train_dataset) == 2 * 16
        latent = torch.stack(
            [data.train_dataset[i]['latent'].float() for i in range(32)]
        )
        assert latent.shape == (32, 6, 8, 8)
        assert float(latent.mean().abs()) < 0.1
        assert float(latent.std()) == pytest.approx(1, abs=0.1)
        assert not torch.equal(latent[:16], latent[16:])

    def test_no_warning_of_frozen_modules(self, diffusion_run: Run) -> None:
        assert all(m.training for m in diffusion_run.task.modules())
        frozen = diffusion_run.task.generator.parameters()
        assert not any(p.requires_grad for p in frozen)

    @pytest.mark.parametrize('dates', [1, 2])
    def test_pixels_without_a_cache(
        self, pixels: SpecDMTask, tmp_path: Path, dates: int
    ) -> None:
        folder = write_pair_folder(tmp_path / 'pairs', dates)
        run = train(pixels, pairs(folder), tmp_path, 2)
        assert run.trainer.global_step == 4
        sample = Generator.load(run.out).sample([0], 0, steps=2)
        size = (1, 6, 32, 32) if dates == 1 else (1, dates, 6, 32, 32)
        assert sample['image'].shape == size
        assert sample['mask'].shape == ((1, 32, 32) if dates == 1 else (1, 1, 32, 32))

    def test_absent_class_and_constant_band(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        task = SpecDMTask('autoencoder', str(tmp_path / 'c'), settings=tiny_settings)
        run = train(task, Odd(str(pair_folder), 8), tmp_path, 2)
        assert all(torch.tensor(run.losses).isfinite())
        assert bool(run.trainer.callback_metrics['val_miou'].isfinite())
        decoded, _ = load_codec(run.out).roundtrip(
            {
                'image': torch.full((1, 6, 32, 32), 4321.0),
                'mask': torch.zeros(1, 32, 32, dtype=torch.long),
            }
        )
        assert float((decoded['image'][:, 2] - 4321).abs().max()) < 10


class TestAverage:
    def test_gradient_accumulation_moves_it_once_a_step(
        self, pair_folder: Path, pixels: SpecDMTask, tmp_path: Path
    ) -> None:
        moved = []
        step = pixels.optimizer_step

        def counted(*args: Any, **kwargs: Any) -> None:
            before = next(pixels.generator.denoiser.parameters()).clone()
            step(*args, **kwargs)
            after = next(pixels.generator.denoiser.parameters())
            moved.append(not torch.equal(before, after))

        pixels.optimizer_step = counted  # type: ignore[method-assign]
        trainer = quiet_trainer(
            tmp_path, max_epochs=2, accumulate_grad_batches=2, limit_val_batches=0
        )
        trainer.fit(pixels, pairs(pair_folder, batch_size=4))
        # 4 batches in each of 2 epochs
        assert trainer.global_step == 4
        assert moved == [True] * 4


class TestTwoProcesses:
    """Forked, so that they need not import everything again."""

    def fit(self, task: SpecDMTask, data: Any, root: Path) -> None:
        trainer = quiet_trainer(root, max_epochs=2, devices=2, strategy='ddp_fork')
        trainer.fit(task, data)

    def test_both_stages(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        seed_everything(0, verbose=False)
        codec, out = str(tmp_path / 'c'), str(tmp_path / 'g')
        first = SpecDMTask('autoencoder', codec, settings=tiny_settings)
        self.fit(first, pairs(pair_folder, batch_size=4), tmp_path)
        weights = load_codec(Path(codec)).state_dict()
        assert all(bool(value.isfinite().all()) for value in weights.values())
        second = SpecDMTask('diffusion', out, codec, 'tiny', tiny_settings)
        data = LatentDataModule(pairs(pair_folder, batch_size=4), 2)
        self.fit(second, data, tmp_path)
        generator = Generator.load(out)
        # 32 latents, 4 to a batch on each of 2 processes, 2 epochs
        assert generator.config['training']['updates'] == 8

    def test_noise_is_not_shared(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        class Noted(SpecDMTask):
            def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
                path = tmp_path / f'{self.global_rank}.txt'
                path.write_text(str(torch.rand(1).item()))
                return super().training_step(*args, **kwargs)

        seed_everything(0, verbose=False)
        task = Noted('diffusion', str(tmp_path / 'g'), 'pixels', 'tiny', tiny_settings)
        self.fit(task, pairs(pair_folder, batch_size=4), tmp_path)
        drawn = [(tmp_path / f'{rank}.txt').read_text() for rank in (0, 1)]
        assert drawn[0] != drawn[1]


class TestTrainer:
    def test_batch_size_that_lightning_finds(
        self, pair_folder: Path, pixels: SpecDMTask, tmp_path: Path
    ) -> None:
        data = pairs(pair_folder, batch_size=4)
        finder = BatchSizeFinder(steps_per_trial=1, max_trials=2)
        trainer = quiet_trainer(
            tmp_path, max_steps=3, limit_val_batches=0, callbacks=[finder]
        )
        trainer.fit(pixels, data)
        assert trainer.global_step == 3
        assert data.batch_size == finder.optimal_batch_size >= 4
        # not the weights of a trial, which ends as a training does
        wanted = pixels.model.generator.denoiser.state_dict()
        saved = Generator.load(tmp_path / 'g').denoiser.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in saved.items())

    def test_no_end_in_sight(
        self, pair_folder: Path, pixels: SpecDMTask, tmp_path: Path
    ) -> None:
        trainer = quiet_trainer(
            tmp_path, max_epochs=-1, max_time={'seconds': 1}, limit_val_batches=0
        )
        trainer.fit(pixels, pairs(pair_folder))
        assert trainer.global_step > 0
        assert (tmp_path / 'g' / 'config.json').exists()

    def test_half_precision(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        for stage, codec in (('autoencoder', 'two_stream'), ('diffusion', 'pixels')):
            out = tmp_path / stage
            task = SpecDMTask(stage, str(out), codec, settings=tiny_settings)
            trainer = quiet_trainer(tmp_path, max_epochs=1, precision='bf16-mixed')
            trainer.fit(task, pairs(pair_folder))
            assert trainer.global_step == 2
            weights = load_file(out / 'model.safetensors')
            assert all(value.dtype == torch.float32 for value in weights.values())
            assert all(bool(value.isfinite().all()) for value in weights.values())

    def test_seeds(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        weights = []
        for i, seed in enumerate((0, 0, 1)):
            seed_everything(seed, verbose=False)
            out = tmp_path / str(i)
            task = SpecDMTask('diffusion', str(out), 'pixels', 'tiny', tiny_settings)
            trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
            trainer.fit(task, pairs(pair_folder))
            weights.append(load_file(out / 'model.safetensors'))
        key = 'network.conv_in.weight'
        assert torch.equal(weights[0][key], weights[1][key])
        assert not torch.equal(weights[0][key], weights[2][key])
        # what is measured does not depend on the seed
        codecs = [load_file(tmp_path / i / 'codec' / 'model.safetensors') for i in '02']
        for name, value in codecs[0].items():
            assert torch.equal(value, codecs[1][name])

    def test_warnings(
        self, pair_folder: Path, pixels: SpecDMTask, tmp_path: Path
    ) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            quiet_trainer(tmp_path, max_epochs=1).fit(pixels, pairs(pair_folder))
        said = [str(warning.message) for warning in caught]
        assert not [text for text in said if 'eval mode' in text]
