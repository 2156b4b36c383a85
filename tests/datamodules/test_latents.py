# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import LatentDataModule, SpecDMTask
from torchgeo_specdm.datamodules import latents
from torchgeo_specdm.datamodules.latents import LatentDataset

from ..conftest import Run, pairs, quiet_trainer


class TestLatentDataset:
    def test_half_precision_in_memory(self) -> None:
        latents = torch.randn(5, 3, 4, 4)
        coverage = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None]
        data = LatentDataset(latents, coverage.expand(5, 3, 4, 4))
        assert len(data) == 5
        assert data[4]['coverage'][:, 0, 0].tolist() == [0, 51, 255]
        assert data[2]['latent'].dtype == torch.float16
        found = data[2]['latent'].float()
        torch.testing.assert_close(found, latents[2], rtol=1e-3, atol=1e-3)

    def test_single_precision_on_the_device(self, pair_folder: Path) -> None:
        batch = {
            'latent': torch.ones(2, 3, 4, 4).half(),
            'coverage': torch.tensor([[0, 51, 255]], dtype=torch.uint8),
        }
        found = LatentDataModule(pairs(pair_folder)).on_after_batch_transfer(batch, 0)
        assert found['latent'].dtype == torch.float32
        assert found['coverage'][0].tolist() == pytest.approx([0, 0.2, 1])


class TestArguments:
    def test_batch_size_is_the_real_one(self, pair_folder: Path) -> None:
        real = pairs(pair_folder, batch_size=5)
        assert LatentDataModule(real).batch_size == 5
        assert LatentDataModule(real, batch_size=3).batch_size == 3

    def test_no_pass(self, pair_folder: Path) -> None:
        with pytest.raises(ValueError, match='passes=0 must be 1 or more'):
            LatentDataModule(pairs(pair_folder), passes=0)

    def test_outside_a_trainer(self, pair_folder: Path) -> None:
        data = LatentDataModule(pairs(pair_folder))
        data.setup('fit')
        assert data.train_dataset is None
        assert len(data.real.train_dataset) == 16


class TestCache:
    def test_validation_is_the_real_one(self, diffusion_run: Run) -> None:
        data = diffusion_run.trainer.datamodule
        samples = data.val_dataloader().dataset
        assert len(samples) == 4
        assert set(samples[0]) == {'image', 'mask'}
        assert torch.equal(data.mean, data.real.mean)

    def test_each_pass_is_augmented_anew(self, diffusion_run: Run) -> None:
        latents = diffusion_run.trainer.datamodule.train_dataset.latents
        assert len(latents) == 32
        assert len({x.numpy().tobytes() for x in latents}) > 24

    def test_pixels_without_label_are_known(self, diffusion_run: Run) -> None:
        data = diffusion_run.trainer.datamodule.train_dataset
        shares = torch.stack([data[i]['coverage'] / 255 for i in range(len(data))])
        assert bool((shares[:, 0] == 1).all())
        # three pixels of each, wherever a turn has put them
        labelled = shares[:, 1].mean((1, 2))
        wanted = torch.full((32,), 1 - 3 / 32**2)
        torch.testing.assert_close(labelled, wanted, atol=1e-4, rtol=0)

    def test_smaller_than_a_batch(
        self, pair_folder: Path, pixels: SpecDMTask, tmp_path: Path
    ) -> None:
        data = LatentDataModule(pairs(pair_folder), passes=1, batch_size=17)
        with pytest.raises(ValueError, match='latent cache has 16 training samples'):
            quiet_trainer(tmp_path, max_epochs=1).fit(pixels, data)

    def test_pixels_and_cache_give_the_same_latents_as_no_cache(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        found = []
        for data in (pairs(pair_folder), LatentDataModule(pairs(pair_folder), 2)):
            out = tmp_path / type(data).__name__
            task = SpecDMTask('diffusion', str(out), 'pixels', 'tiny', tiny_settings)
            trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0)
            trainer.fit(task, data)
            assert trainer.global_step == 1
            found.append(task.model.codec.state_dict())
        assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())

    def test_pixels_are_cropped_afresh(
        self, pair_folder: Path, pixels: SpecDMTask, tmp_path: Path
    ) -> None:
        data = LatentDataModule(pairs(pair_folder), batch_size=4)
        seen: list[bytes] = []
        losses = pixels.training_step

        def note(batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            seen.extend(x.numpy().tobytes() for x in batch['image'])
            return losses(batch, batch_idx)

        pixels.training_step = note  # type: ignore[method-assign,assignment]
        trainer = quiet_trainer(tmp_path, max_epochs=3, limit_val_batches=0)
        trainer.fit(pixels, data)
        # 16 samples, four to a batch
        assert trainer.global_step == 12 and data.train_dataset is None
        assert len(seen) == 48 and len({*seen}) > 30

    def test_more_than_fits(
        self,
        autoencoder_run: Run,
        pair_folder: Path,
        tiny_settings: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # 32 latents of 64 cells: two bytes of 6 channels, and one of 2 streams
        monkeypatch.setattr(latents, 'free_memory', lambda: 2 * 32 * 64 * 14 - 2)
        codec, out = str(autoencoder_run.out), str(tmp_path / 'g')
        for passes in (2, 1):
            task = SpecDMTask('diffusion', out, codec, 'tiny', tiny_settings)
            trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0)
            data = LatentDataModule(pairs(pair_folder), passes)
            if passes == 2:
                with pytest.raises(
                    ValueError, match=r'passes=2 would keep .* Use fewer'
                ):
                    trainer.fit(task, data)
            else:
                trainer.fit(task, data)
                assert trainer.global_step == 1
