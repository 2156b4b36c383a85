# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Trainer for SpecDM: learn labelled samples, and draw new ones."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torchgeo.datamodules import BaseDataModule

from ..codecs import CODECS, Codec, load_codec, make_codec, save_codec
from ..compat import BaseTask
from ..datamodules.adapter import (
    check_units,
    describe_datamodule,
    digital_numbers,
    training_batches,
)
from ..datasets.fingerprint import fingerprints, write_seen_samples
from ..datasets.spec import SampleSpec
from ..diffusion import Generator, sample_noise
from ..metrics.segmentation import SegmentationScores
from ..metrics.spectral import mean_spectral_angle
from ..presets import load_preset
from .guards import StepGuard, require_writable

Stage = Literal['autoencoder', 'diffusion']
_log = logging.getLogger(__name__)

#: Training images whose pixels tell the scaling of the bands.
_SCALING_SAMPLES = 256
#: The stream of random numbers that validation noise comes from.
_VALIDATION_SEED = 2**32


class SpecDMTask(StepGuard, BaseTask):
    """SpecDM: a codec (stage 1) and a joint latent diffusion model (stage 2).

    Stage ``autoencoder`` learns the codec and writes it to *out*. Stage ``diffusion``
    takes that folder as *codec* (or ``pixels``, which has nothing to learn), learns
    the joint denoiser and writes the generator to *out*; in ``torchgeo predict``
    with a :class:`GenerationDataModule` it draws samples from *generator*.

    Networks are made in ``setup``, when the data are known: bands, classes and units
    come from the datamodule. What passes between stages is a folder of
    ``config.json`` and ``model.safetensors``; Lightning's checkpoints are for
    resuming only, and one of the other stage is refused.

    Logs, on validation samples: stage 1 ``val_rmse`` (reflectance), ``val_sad``
    (radians), ``val_mask`` (cross-entropy), ``val_miou`` and ``val_loss``; stage 2
    ``val_loss`` of the averaged weights, overall and of each stream.
    """

    # stage and paths belong to a run, not to the model: see on_load_checkpoint
    ignore: ClassVar[tuple[str, ...]] = ('weights', 'stage', 'out', 'generator')

    def __init__(
        self,
        stage: Stage,
        out: str | None = None,
        codec: str = 'two_stream',
        preset: str = 'tiny',
        settings: dict[str, Any] | None = None,
        spec: dict[str, Any] | None = None,
        generator: str | None = None,
    ) -> None:
        """Initialize a new SpecDMTask instance.

        Args:
            stage: ``autoencoder`` or ``diffusion``.
            out: Folder to write the result of the stage to; needed by ``fit``.
            codec: Stage 1: ``two_stream`` or ``single_stream``. Stage 2: the folder
                that stage 1 wrote, or ``pixels``.
            preset: ``tiny`` (two cores, minutes), ``small`` (one GPU, hours) or
                ``paper`` (as published).
            settings: Nested settings that replace those of the preset, for example
                ``{diffusion: {lr: 2.e-4}}``.
            spec: Fields of :class:`SampleSpec` where the datamodule does not tell
                them, for example ``{classes: [...], scale: 1.e-4}``.
            generator: The folder that stage 2 wrote, to draw samples from.

        Raises:
            ValueError: If an argument does not fit its stage.
        """
        if stage not in get_args(Stage):
            raise ValueError(
                f'stage={stage!r} must be one of {get_args(Stage)}: first learn the '
                'autoencoder, then the diffusion model.'
            )
        self.stage = stage
        self.out = out
        self.generator_folder = generator
        self.codec: Codec | None = None
        self.generator: Generator | None = None
        super().__init__()

    def configure_models(self) -> None:
        """Read what exists already: the codec of stage 1, or a generator."""
        codec: str = self.hparams['codec']
        self.preset = load_preset(self.hparams['preset'], self.hparams['settings'])
        if self.stage == 'autoencoder':
            if codec not in CODECS or not CODECS[codec].trainable:
                names = sorted(name for name, kind in CODECS.items() if kind.trainable)
                raise ValueError(
                    f'codec={codec!r} has nothing to learn in stage autoencoder, which '
                    f'takes one of {names}. pixels needs no stage 1: go on with stage '
                    'diffusion.'
                )
        elif self.generator_folder is not None:
            self.generator = Generator.load(self.generator_folder)
        elif codec in CODECS and CODECS[codec].trainable:
            raise ValueError(
                f'codec={codec!r} must be trained first. Run stage autoencoder and '
                'give the folder that it wrote as codec, or use codec=pixels.'
            )
        elif codec not in CODECS:
            self.codec = load_codec(Path(codec))

    def prepare_data(self) -> None:
        """Refuse a missing or unwritable *out* before anything is computed."""
        super().prepare_data()
        if self.trainer.state.fn == 'fit':
            if self.out is None:
                raise ValueError(
                    f'out=None: stage {self.stage} must know the folder to write to. '
                    'Set model.init_args.out.'
                )
            require_writable(self.out)

    def setup(self, stage: str) -> None:
        """Build the networks for the data at hand.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        super().setup(stage)
        if stage != 'fit' or self.generator is not None:
            return
        datamodule = self._real_datamodule()
        device = self.trainer.strategy.root_device
        codec = self.prepare_codec(datamodule, device)
        check_units(datamodule, device)
        if self.stage == 'autoencoder':
            self._build_metrics(codec.spec)
            return
        sample = datamodule.train_dataset[0]
        aug = next(training_batches(datamodule, device))
        self._build_generator(codec, list(aug['image'].shape[-2:]))
        _log.info('Learning from samples of %s.', tuple(sample['image'].shape))

    def prepare_codec(self, datamodule: BaseDataModule, device: torch.device) -> Codec:
        """The codec, made or checked for the data at hand.

        Args:
            datamodule: After ``setup('fit')``.
            device: Where to measure what has to be measured.

        Returns:
            The codec; in stage 2 with its statistics.

        Raises:
            ValueError: If the codec of stage 1 was made for other data.
        """
        overrides: Mapping[str, Any] | None = self.hparams['spec']
        spec = describe_datamodule(datamodule, overrides)
        name: str = self.hparams['codec']
        if name in CODECS:
            if self.codec is None:
                self.codec = make_codec(name, spec, self.preset[name]['codec']).to(device)
                self._fit_scaling(self.codec, datamodule, device)
                if self.stage == 'diffusion':
                    self.codec.fit_statistics(training_batches(datamodule, device, 2))
                    self.codec.eval().requires_grad_(False)
        else:
            assert self.codec is not None
            self.codec.spec.require_match(spec, f'the codec of {name}', 'the data')
        return self.codec

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up and a cosine decay over the whole run.

        Returns:
            The optimizer and the scheduler, which steps with each batch.
        """
        section = self.preset[self.stage]
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = AdamW(
            parameters, lr=section['lr'], weight_decay=section['weight_decay']
        )
        total = int(self.trainer.estimated_stepping_batches)
        warmup = min(section['warmup'], total // 10)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            done = (step - warmup) / max(total - warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * min(done, 1)))

        scheduler = LambdaLR(optimizer, factor)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }

    def training_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the loss of the stage.

        Args:
            batch: ``image`` and ``mask`` of a datamodule, or ``latent``.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            The loss.
        """
        if self.stage == 'autoencoder':
            assert self.codec is not None
            losses = self.codec.loss(self._raw(batch))
        else:
            assert self.generator is not None
            latent = self._latent(batch)
            process = self.generator.process
            times = process.draw_times(len(latent))
            losses = self._denoising_losses(
                self.generator.denoiser, latent, torch.randn_like(latent), times
            )
        self.log_dict(
            {f'train_{name}': value for name, value in losses.items()},
            batch_size=_size(batch),
        )
        self.log('loss', losses['loss'].detach(), prog_bar=True, logger=False)
        return losses['loss']

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Move the averaged weights towards the trained ones."""
        if self.generator is not None:
            self.average.update_parameters(self.generator.denoiser)

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Measure reconstruction (stage 1) or denoising (stage 2).

        Args:
            batch: ``image`` and ``mask`` of a datamodule.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        size = _size(batch)
        if self.stage == 'autoencoder':
            self.log_dict(self._reconstruction(self._raw(batch)), batch_size=size)
            return
        assert self.generator is not None
        latent = self._latent(batch)
        process = self.generator.process
        # evenly spread times and fixed noise: epochs differ by the weights alone
        indices = range(batch_idx * 10_000, batch_idx * 10_000 + size)
        noise = sample_noise(
            _VALIDATION_SEED, indices, process.streams, tuple(latent.shape[-2:])
        ).to(latent)
        steps = torch.linspace(1, process.num_steps, size).round().long()
        times = steps[:, None].expand(-1, len(process.streams)).to(latent.device)
        losses = self._denoising_losses(self.average.module, latent, noise, times)
        self.log_dict(
            {f'val_{name}': value for name, value in losses.items()},
            batch_size=size,
            sync_dist=True,
        )

    def on_validation_epoch_end(self) -> None:
        """Log the mask score of stage 1."""
        if self.stage == 'autoencoder':
            scores = self.val_scores.compute()
            self.log('val_miou', scores['miou'])
            self.log('val_mask_accuracy', scores['accuracy'])
            self.val_scores.reset()

    def on_train_end(self) -> None:
        """Write the folder of this stage."""
        if self.trainer.global_step == 0:
            return
        assert self.out is not None
        datamodule = self._real_datamodule()
        if self.stage == 'autoencoder':
            assert self.codec is not None
            self.codec.eval()
            self.codec.fit_statistics(training_batches(datamodule, self.device, 2))
        if self.trainer.is_global_zero:
            out = Path(self.out)
            if self.stage == 'autoencoder':
                assert self.codec is not None
                save_codec(self.codec, out)
            else:
                assert self.generator is not None
                state = self.average.module.state_dict()
                self.generator.denoiser.load_state_dict(state)
                self._note_training(datamodule)
                self.generator.save(out)
            write_seen_samples(out, fingerprints(datamodule.train_dataset))
        self.trainer.strategy.barrier()

    def predict_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw a batch of samples and write it.

        Args:
            batch: ``index`` (B,) and maybe ``image`` and ``mask`` of given samples,
                from a :class:`GenerationDataModule`.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        if self.generator is None:
            raise ValueError(
                'generator=None: set model.init_args.generator to the folder that '
                'stage diffusion wrote.'
            )
        datamodule: Any = self._datamodule()
        given = batch if 'mask' in batch else None
        sample = self.generator.sample(
            batch['index'].tolist(),
            given=given,
            seed=datamodule.seed,
            strength=datamodule.strength,
            **self.sampling,
        )
        datamodule.write(batch, sample)

    def on_predict_end(self) -> None:
        """Finish the folder when every process has written its share."""
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            datamodule: Any = self._datamodule()
            datamodule.finish()

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampler, steps and clip: the generator's own unless *settings* name them."""
        overrides = (self.hparams['settings'] or {}).get('sampling', {})
        trained = {} if self.generator is None else self.generator.config['sampling']
        return {**trained, **overrides}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the stage and what the networks were built from."""
        super().on_save_checkpoint(checkpoint)
        assert self.codec is not None
        checkpoint['specdm'] = {
            'stage': self.stage,
            'codec': self.codec.name,
            'settings': self.codec.settings,
            'spec': self.codec.spec.to_dict(),
            'config': None if self.generator is None else self.generator.config,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of the other stage; build networks if there are none.

        Raises:
            ValueError: If the stages differ.
        """
        super().on_load_checkpoint(checkpoint)
        saved: dict[str, Any] = checkpoint.get('specdm', {})
        if saved.get('stage') != self.stage:
            raise ValueError(
                f'The checkpoint comes from stage {saved.get("stage")!r} but this is '
                f'stage {self.stage!r}. A checkpoint resumes its own stage; give the '
                'folder that stage autoencoder wrote as model.init_args.codec instead.'
            )
        if self.codec is None:
            spec = SampleSpec.from_dict(saved['spec'])
            self.codec = make_codec(saved['codec'], spec, saved['settings'])
        if self.stage == 'autoencoder':
            self._build_metrics(self.codec.spec)
        elif self.generator is None:
            self._build_generator(self.codec, saved['config']['patch_size'])

    def _datamodule(self) -> BaseDataModule:
        datamodule = getattr(self.trainer, 'datamodule', None)
        if datamodule is None:
            raise ValueError(
                'SpecDMTask was given no datamodule, which tells it bands, classes and '
                'units. Pass one to the trainer: trainer.fit(task, datamodule=...).'
            )
        return datamodule

    def _real_datamodule(self) -> BaseDataModule:
        """The datamodule with real samples, behind cached latents or not."""
        datamodule = self._datamodule()
        return getattr(datamodule, 'real', datamodule)

    def _fit_scaling(
        self, codec: Codec, datamodule: BaseDataModule, device: torch.device
    ) -> None:
        images: list[Tensor] = []
        for batch in training_batches(datamodule, device):
            images += batch['image'].reshape(-1, *batch['image'].shape[-3:]).cpu()
            if len(images) >= _SCALING_SAMPLES:
                break
        codec.fit_scaling(torch.stack(images))

    def _build_metrics(self, spec: SampleSpec) -> None:
        self.val_scores = SegmentationScores(spec.num_classes, spec.ignore_index)

    def _build_generator(self, codec: Codec, patch_size: list[int]) -> None:
        config = {
            'stage': 'diffusion',
            'process': self.preset[codec.name]['process'],
            'denoiser': self.preset['denoiser'],
            'sampling': self.preset['sampling'],
            'patch_size': patch_size,
        }
        self.generator = Generator.build(codec, config)
        decay = self.preset['diffusion']['ema']

        def average(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
            # LDM's ramp: early averages forget the random start quickly
            share = min(decay, (1 + int(count)) / (10 + int(count)))
            return old.lerp(new, 1 - share)

        self.average = AveragedModel(self.generator.denoiser, avg_fn=average)
        self.average.requires_grad_(False)

    def _note_training(self, datamodule: BaseDataModule) -> None:
        assert self.generator is not None
        self.generator.config['training'] = {
            'datamodule': type(datamodule).__name__,
            'samples': len(datamodule.train_dataset),
            'updates': self.trainer.global_step,
            'preset': self.hparams['preset'],
        }

    def _raw(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A normalised batch in digital numbers."""
        image = digital_numbers(self._real_datamodule(), batch['image'])
        return {'image': image, 'mask': batch['mask']}

    def _latent(self, batch: dict[str, Tensor]) -> Tensor:
        if 'latent' in batch:
            return batch['latent']
        assert self.codec is not None
        with torch.no_grad():
            return self.codec.encode(self._raw(batch)).float()

    def _denoising_losses(
        self, denoiser: torch.nn.Module, latent: Tensor, noise: Tensor, times: Tensor
    ) -> dict[str, Tensor]:
        assert self.generator is not None
        process = self.generator.process
        noisy = process.add_noise(latent, noise, times)
        output = denoiser(process.network_input(noisy, times), times).float()
        return process.loss(output, latent, noise, times)

    def _reconstruction(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Errors of a validation batch; RMSE and angle on reflectance."""
        assert self.codec is not None
        decoded, logits = self.codec.roundtrip(sample)
        mask = sample['mask'].reshape(len(logits), *logits.shape[-2:])
        self.val_scores.update(decoded['mask'].reshape(mask.shape), mask)
        scale = self.codec.spec.scale
        real, fake = (s['image'].float() * scale for s in (sample, decoded))
        mask_loss = self.codec.mask_loss(logits, mask)
        sad = mean_spectral_angle(fake, real, dim=-3)
        l1 = (fake - real).abs().mean()
        return {
            'val_rmse': (fake - real).square().mean().sqrt(),
            'val_sad': sad,
            'val_mask': mask_loss,
            'val_loss': l1 + 0.1 * sad + mask_loss,
        }


def _size(batch: dict[str, Tensor]) -> int:
    return len(next(iter(batch.values())))
