# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Trainer for SpecDM: learn labelled samples, and draw new ones."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import AdamW
from torchgeo.datamodules import BaseDataModule

from ..codecs import (
    CODECS,
    Codec,
    ReconstructionScores,
    codec_from_config,
    codec_to_config,
    load_codec,
    make_codec,
    require_learnable,
    require_learned,
    save_codec,
)
from ..compat import BaseTask
from ..datamodules.latents import LatentDataModule
from ..datamodules.support.adapter import (
    describe_datamodule,
    digital_numbers,
    fit_codec,
    fit_statistics,
)
from ..diffusion import Generator, JointDenoiser, move_average, warm_up_and_decay
from ..pairs.fingerprint import fingerprints, write_seen_samples
from ..presets import generator_settings, load_preset
from .support.guards import StepGuard, require_writable

Stage = Literal['autoencoder', 'diffusion']


class SpecDMTask(
    StepGuard,
    BaseTask,  # type: ignore[misc,unused-ignore]
):
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
    (radians), ``val_mask`` (cross-entropy), ``val_miou``, ``val_mask_accuracy`` and
    ``val_loss``; stage 2 ``val_loss`` of the averaged weights, overall and of each
    stream.
    """

    # stage and paths belong to a run, not to the model: see on_load_checkpoint
    ignore = ('weights', 'stage', 'out', 'generator')

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
            FileNotFoundError: If a folder of an earlier stage is missing.
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
        #: Stage 1: what is learned.
        self.autoencoder: Codec | None = None
        #: Stage 2: the codec, and the average of the denoiser's weights.
        self.generator: Generator | None = None
        #: Stage 2: what is learned.
        self.denoiser: JointDenoiser | None = None
        super().__init__()

    @property
    def codec(self) -> Codec | None:
        """The codec of either stage; None until the data are known."""
        return self.autoencoder if self.generator is None else self.generator.codec

    def configure_models(self) -> None:
        """Read the preset, and the generator if there is one; refuse what is wrong."""
        self.preset = load_preset(self.hparams['preset'], self.hparams['settings'])
        if self.stage == 'autoencoder':
            require_learnable(self.hparams['codec'])
        elif self.generator_folder is None:
            # the weights are read in setup; a wrong folder is refused at once
            require_learned(self.hparams['codec'])
        else:
            self.generator = Generator.load(self.generator_folder)

    def prepare_data(self) -> None:
        """Refuse a missing or unwritable *out* before anything is computed."""
        super().prepare_data()
        if self.trainer.state.fn == 'fit':
            if self.out is None or self.generator_folder is not None:
                raise ValueError(
                    f'out={self.out!r} and generator={self.generator_folder!r}: '
                    'fit needs the folder to write to as model.init_args.out, and no '
                    'generator, which is what predict draws from.'
                )
            require_writable(self.out)

    def setup(self, stage: str) -> None:
        """Build the networks for the data at hand.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        super().setup(stage)
        self._written = False
        if stage == 'fit':
            self.prepare_codec(self._datamodule(), self.trainer.strategy.root_device)

    def prepare_codec(self, datamodule: BaseDataModule, device: torch.device) -> Codec:
        """The codec, made or checked for the data at hand; stage 2 with statistics.

        The first call builds all networks. :class:`LatentDataModule` calls it before
        this task is set up, to encode the training set.

        Args:
            datamodule: The real one, after ``setup('fit')``.
            device: Where to measure what has to be measured.

        Returns:
            The codec.

        Raises:
            ValueError: If the data do not suit the codec, or contradict themselves.
        """
        spec = describe_datamodule(datamodule, self.hparams['spec'])
        name: str = self.hparams['codec']
        codec = self.codec
        if codec is None and name in CODECS:
            codec = make_codec(name, spec, self.preset[name]['codec'])
        codec = codec or load_codec(Path(name))
        codec.spec.require_match(spec, f'the codec of {name}', 'the data')
        if self.codec is None:
            patch_size = fit_codec(codec.to(device), datamodule, device)
            self._set_networks(codec, patch_size)
        return codec

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up and, unless the preset keeps it, a cosine decay.

        Returns:
            The optimizer and the scheduler, which steps with each batch.
        """
        section = self.preset[self.stage]
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = AdamW(
            parameters,
            section['lr'],
            betas=section['betas'],
            weight_decay=section['weight_decay'],
        )
        # infinite where only max_time ends the run
        total = float(self.trainer.estimated_stepping_batches)
        scheduler = warm_up_and_decay(
            optimizer, section['warmup'], total, section['decay']
        )
        return [optimizer], [{'scheduler': scheduler, 'interval': 'step'}]

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
            assert self.autoencoder is not None
            losses = self.autoencoder.loss(self._raw(batch))
        else:
            assert self.generator is not None and self.denoiser is not None
            losses = self.generator.process.training_losses(
                self.denoiser, self._latent(batch, self.generator.codec)
            )
        self.log_dict(
            {f'train_{name}': value for name, value in losses.items()},
            batch_size=len(next(iter(batch.values()))),
        )
        self.log('loss', losses['loss'].detach(), prog_bar=True, logger=False)
        return losses['loss']

    def on_train_start(self) -> None:
        """Give each process random numbers of its own."""
        if self.global_rank > 0:
            # seed_everything gives all the same, so their noise would be equal
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and move the averaged weights towards the trained ones."""
        super().optimizer_step(*args, **kwargs)
        if self.generator is not None and self.denoiser is not None:
            move_average(
                self.generator.denoiser,
                self.denoiser,
                self.trainer.global_step + 1,
                self.preset['diffusion']['ema'],
            )

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Measure reconstruction (stage 1) or denoising (stage 2).

        Args:
            batch: ``image`` and ``mask`` of a datamodule.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        if self.stage == 'autoencoder':
            assert self.autoencoder is not None
            self.val_scores.update(self.autoencoder, self._raw(batch))
            return
        assert self.generator is not None
        latent = self._latent(batch, self.generator.codec)
        place = batch_idx * self.trainer.world_size + self.global_rank
        losses = self.generator.process.validation_losses(
            self.generator.denoiser, latent, place * 10_000
        )
        self.log_dict(
            {f'val_{name}': value for name, value in losses.items()},
            batch_size=len(latent),
            sync_dist=True,
        )

    def on_validation_epoch_end(self) -> None:
        """Log the reconstruction of stage 1."""
        if self.stage == 'autoencoder':
            scores = self.val_scores.compute()
            scores = {f'val_{name}': value for name, value in scores.items()}
            # equal on all processes already, which Lightning cannot know
            self.log_dict(scores, sync_dist=True)
            self.val_scores.reset()

    def on_train_end(self) -> None:
        """Write the folder of this stage."""
        self._write_folder()

    def on_fit_end(self) -> None:
        """Write the folder if a finished run was resumed, so that nothing trained."""
        super().on_fit_end()
        self._write_folder()

    def predict_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw a batch of samples and write it, which the datamodule knows how to.

        Args:
            batch: ``index`` (B,) and what is given, of a :class:`GenerationDataModule`.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        self._datamodule().draw(batch)

    def on_predict_start(self) -> None:
        """Say that nothing is returned on purpose: samples go to files."""
        warnings.filterwarnings('ignore', 'predict returned None')

    def on_predict_end(self) -> None:
        """Finish the folder when every process has written its share."""
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            self._datamodule().finish()

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
        checkpoint['specdm'] = codec_to_config(self.codec) | {
            'stage': self.stage,
            'patch_size': self.generator and self.generator.config['patch_size'],
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
            self._set_networks(codec_from_config(saved), saved['patch_size'])

    def _set_networks(self, codec: Codec, patch_size: list[int]) -> None:
        """Register the networks of the stage, untrained."""
        if self.stage == 'autoencoder':
            self.autoencoder = codec
            self.val_scores = ReconstructionScores(codec.spec.num_classes)
            return
        settings = generator_settings(self.preset, codec.name)
        self.generator = Generator.build(
            codec, {'stage': 'diffusion', **settings, 'patch_size': patch_size}
        )
        self.denoiser = deepcopy(self.generator.denoiser)
        # frozen; no layer here acts differently in evaluation mode, so Lightning need
        # not warn of modules in it
        self.generator.requires_grad_(False).train()

    def _datamodule(self) -> Any:
        """The datamodule, or the one with the real samples behind cached latents."""
        datamodule = getattr(self.trainer, 'datamodule', None)
        if datamodule is None:
            raise ValueError(
                'SpecDMTask was given no datamodule, which tells it bands, classes and '
                'units. Pass one to the trainer: trainer.fit(task, datamodule=...).'
            )
        cached = isinstance(datamodule, LatentDataModule)
        return datamodule.real if cached else datamodule

    def _raw(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A normalised batch in digital numbers."""
        image = digital_numbers(self._datamodule(), batch['image'])
        return {'image': image, 'mask': batch['mask']}

    def _latent(self, batch: dict[str, Tensor], codec: Codec) -> Tensor:
        if 'latent' in batch:
            return batch['latent']
        with torch.no_grad():
            return codec.encode(self._raw(batch)).float()

    def _write_folder(self) -> None:
        if self._written or self.trainer.global_step == 0:
            return
        assert self.out is not None
        out, datamodule = Path(self.out), self._datamodule()
        if self.autoencoder is not None:
            fit_statistics(self.autoencoder, datamodule, self.device)
        if self.trainer.is_global_zero:
            if self.autoencoder is not None:
                save_codec(self.autoencoder, out)
            if self.generator is not None:
                self.generator.config['training'] = {
                    'datamodule': type(datamodule).__name__,
                    'samples': len(datamodule.train_dataset),
                    'updates': self.trainer.global_step,
                    'preset': self.hparams['preset'],
                }
                self.generator.save(out)
            write_seen_samples(out, fingerprints(datamodule.train_dataset))
        self._written = True
        self.trainer.strategy.barrier()
