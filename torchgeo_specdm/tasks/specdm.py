# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Trainer for SpecDM: learn labelled samples, and draw new ones."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import AdamW
from torchgeo.datamodules import BaseDataModule

from ..codecs import (
    CODECS,
    Codec,
    TwoStreamCodec,
    codec_from_config,
    load_codec,
    make_codec,
)
from ..compat import BaseTask
from ..datamodules.latents import LatentDataModule
from ..datamodules.support.adapter import (
    describe_datamodule,
    digital_numbers,
    fit_codec,
    mark_nodata,
)
from ..datamodules.support.resumable import make_resumable
from ..datamodules.unlabelled import UnlabelledDataModule
from ..diffusion import Generator, warm_up_and_decay
from ..models.image_branch import begin_images
from ..objects import Settings
from ..pairs.facts import declared_spec, fingerprints
from ..pairs.fingerprint import write_seen_samples
from ..pairs.plotting import plot_sample
from ..pairs.spec import SampleSpec
from ..presets import load_preset
from .support.drawing import PairPredictionWriter, draw_batch
from .support.guards import StepGuard, require_writable
from .support.pictures import log_samples
from .support.stages import STAGES, DiffusionStage, Stage
from .support.stopping import SaveWhenStopped
from .support.trainer import can_fuse

#: Numbers kept free for the samples of a batch in validation.
_BATCH_NUMBERS = 10_000
#: Steps after which the progress bar shows another loss.
_SHOWN_EVERY = 10


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
    ignore = ('weights', 'stage', 'out', 'generator', 'pictures')
    #: Missing values stay NaN in its batches: they are no part of a loss.
    takes_missing = True

    #: The networks of the stage; made when it is known what data they are for.
    model: Stage

    def __init__(
        self,
        stage: Literal['autoencoder', 'diffusion'],
        out: str | None = None,
        codec: str = 'two_stream',
        preset: str = 'tiny',
        settings: Settings | None = None,
        spec: Settings | None = None,
        generator: str | None = None,
        pictures: int | None = None,
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
                them, for example ``{classes: [...], scale: 1.e-4, nodata: -9999}``.
            generator: The folder that stage 2 wrote, to draw samples from.
            pictures: Number of pictures in each validation for loggers that take
                figures: reconstructions in stage autoencoder; samples of seed 0 in
                stage diffusion, which have to be drawn each time. None for 4
                reconstructions, but no samples.

        Raises:
            FileNotFoundError: If a folder of an earlier stage is missing.
            ValueError: If an argument does not fit its stage.
        """
        if stage not in STAGES:
            raise ValueError(
                f'stage={stage!r} must be one of {list(STAGES)}: first learn the '
                'autoencoder, then the diffusion model.'
            )
        if generator is not None and stage != 'diffusion':
            raise ValueError(
                f'generator={generator!r} is what stage diffusion wrote, but this is '
                f'stage {stage!r}. Draw from it with stage=diffusion.'
            )
        if pictures is not None and pictures < 0:
            raise ValueError(
                f'pictures={pictures} must be 0 or more: so many are shown in each '
                'validation. Use 0 for none.'
            )
        self.stage = stage
        self.out = out
        self.generator_folder = generator
        self.pictures = STAGES[stage].pictures if pictures is None else pictures
        super().__init__()

    def configure_models(self) -> None:
        """Read the preset, and the generator if there is one; refuse what is wrong."""
        self.preset = load_preset(self.hparams['preset'], self.hparams['settings'])
        if self.generator_folder is None:
            # networks are made when data or a checkpoint tell what for
            STAGES[self.stage].check(self.hparams['codec'])
        else:
            generator = Generator.load(self.generator_folder)
            overrides = (self.hparams['settings'] or {}).get('sampling', {})
            generator.config['sampling'] |= overrides
            generator.require_sampling(generator.config['sampling'])
            self.model = DiffusionStage(generator, generator.denoiser, decay=1)

    def prepare_data(self) -> None:
        """Refuse a missing or unwritable *out* before anything is computed.

        Raises:
            RuntimeError: If *out* cannot be written.
            ValueError: If there is none, or a generator that is learned already.
        """
        super().prepare_data()
        if self.trainer.state.fn == 'fit':
            if self.generator_folder is not None:
                raise ValueError(
                    f'generator={self.generator_folder!r} is what predict draws from, '
                    'and fit learns a new one. Leave it out.'
                )
            require_writable(self._folder)

    def setup(self, stage: str) -> None:
        """Build the networks for the data at hand.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        super().setup(stage)
        #: The step whose folder is written: trials of a batch size write theirs.
        self._written = 0
        if stage == 'fit':
            self.prepare_codec(self._datamodule(), self.trainer.strategy.root_device)
            weights = self.model.state_dict().values()
            require_writable(self._folder, sum(value.nbytes for value in weights))
            #: Of the order of samples and of all that training draws.
            self.seed = torch.initial_seed()
            trainer: Any = self.trainer
            make_resumable(trainer.datamodule, trainer, lambda: self.seed)

    def prepare_codec(self, datamodule: BaseDataModule, device: torch.device) -> Codec:
        """The codec, made or checked for the data at hand; stage 2 with statistics.

        The first call builds all networks. :class:`LatentDataModule` calls it before
        this task is set up, to encode the training set.

        Args:
            datamodule: The real one, after ``setup('fit')``.
            device: Device to measure on.

        Returns:
            The codec.

        Raises:
            ValueError: If the data do not suit the codec, or contradict themselves.
        """
        given = self.hparams['spec'] or {}
        spec = describe_datamodule(datamodule, given)
        mark_nodata(datamodule, spec.nodata if 'nodata' in given else None)
        name: str = self.hparams['codec']
        if self._built:
            codec = self.model.codec
        elif name in CODECS:
            codec = make_codec(name, spec, self.preset[name]['codec'])
            if isinstance(codec, TwoStreamCodec):
                begin_images(codec, self.preset[name]['image_weights'])
            if declared_spec(datamodule) is None:
                rank_zero_info(_taken_for(datamodule, spec))
        else:
            codec = load_codec(Path(name))
        codec.spec.require_match(spec, f'the codec of {name}', 'the data')
        if isinstance(datamodule, UnlabelledDataModule) and len(codec.streams) == 1:
            raise ValueError(
                f'The {codec.name} codec has one stream for image and mask, so it '
                'learns nothing from images without labels. Use two_stream or pixels.'
            )
        if not self._built:
            patch_size = fit_codec(codec.to(device), datamodule, device)
            self.model = STAGES[self.stage].build(codec, self.preset, patch_size)
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
            fused=can_fuse(self.trainer),
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
        losses = self.model.losses(self._digital(batch))
        trainer: Any = self.trainer
        taken = (trainer.global_step + 1) % trainer.log_every_n_steps == 0
        if taken or batch_idx == 0:
            # loggers take no others, and to hand on each costs 2 % of a small step
            self.log_dict(
                {f'train_{name}': value for name, value in losses.items()},
                batch_size=len(next(iter(batch.values()))),
            )
            # a tensor, which Lightning leaves where it is
            rate = torch.tensor(trainer.optimizers[0].param_groups[0]['lr'])
            self.log('lr', rate)
        if batch_idx % _SHOWN_EVERY == 0:
            # a bar asks for it at each step: from a GPU, each would wait
            loss = losses['loss'].detach().cpu()
            self.log('loss', loss, prog_bar=True, logger=False)
        return losses['loss']

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and move the averaged weights towards the trained ones."""
        super().optimizer_step(*args, **kwargs)
        self.model.after_step(self.trainer.global_step + 1)

    def on_validation_start(self) -> None:
        """Refuse to score untrained weights.

        Raises:
            ValueError: If there are no others.
        """
        super().on_validation_start()
        if not self._built:
            raise ValueError(
                f'stage={self.stage!r} has no weights to measure, which must come from '
                'a checkpoint. Give the one that fit wrote as --ckpt_path.'
            )

    on_test_start = on_validation_start

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Measure reconstruction (stage 1) or denoising (stage 2).

        Args:
            batch: ``image`` and ``mask`` of a datamodule.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.
        """
        number = batch_idx * self.trainer.world_size + self.global_rank
        batch = self._digital(batch)
        self.model.evaluate(batch, number * _BATCH_NUMBERS)
        if batch_idx == 0 and self.pictures and self.trainer.state.fn == 'fit':
            log_samples(
                self,
                self.model.pictured,
                lambda: self.model.picture(batch, self.pictures),
                partial(plot_sample, spec=self.codec.spec),
            )

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all batches."""
        self._log_scores('val')

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log the scores of all batches."""
        self._log_scores('test')

    def on_train_end(self) -> None:
        """Write the folder of this stage."""
        super().on_train_end()
        self._write_folder()

    def on_fit_end(self) -> None:
        """Write the folder if nothing was left to train, and say what comes next."""
        super().on_fit_end()
        self._write_folder()
        rank_zero_info(self.model.next_step.format(folder=self.out))

    def configure_callbacks(self) -> list[Callback]:
        """Save a training that is stopped, or write the samples that are drawn."""
        drawing = self.trainer.state.fn == TrainerFn.PREDICTING
        return [PairPredictionWriter() if drawing else SaveWhenStopped()]

    def predict_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Draw a batch of samples.

        Args:
            batch: A batch of a :class:`GenerationDataModule`.
            batch_idx: Integer displaying index of this batch.
            dataloader_idx: Index of the current dataloader.

        Returns:
            ``index``, ``image`` in digital numbers, ``mask`` and what else
            :func:`.draw_batch` tells.
        """
        return draw_batch(self.generator, batch)

    @property
    def codec(self) -> Codec:
        """The codec of the networks, which data, a checkpoint or a folder have made."""
        return self.model.codec

    @property
    def generator(self) -> Generator:
        """The generator that samples are drawn from.

        Raises:
            ValueError: If there is none.
        """
        if self._built and isinstance(self.model, DiffusionStage):
            return self.model.generator
        raise ValueError(
            f'SpecDMTask(stage={self.stage!r}) has no generator to draw from. Set '
            'model.init_args.generator to the folder that stage diffusion wrote.'
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the stage and what the networks were built from."""
        super().on_save_checkpoint(checkpoint)
        checkpoint['specdm'] = self.model.config() | {'seed': self.seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of the other stage; build networks if there are none.

        Raises:
            ValueError: If the stages or the networks differ, or a generator is given
                as well.
        """
        super().on_load_checkpoint(checkpoint)
        if self.generator_folder is not None:
            raise ValueError(
                f'generator={self.generator_folder!r} holds the weights, and so does '
                'the checkpoint. Give one of them.'
            )
        saved: dict[str, Any] = checkpoint.get('specdm', {})
        if saved.get('stage') != self.stage:
            raise ValueError(
                f'The checkpoint comes from stage {saved.get("stage")!r} but this is '
                f'stage {self.stage!r}. A checkpoint resumes its own stage; give the '
                'folder that stage autoencoder wrote as model.init_args.codec instead.'
            )
        self.seed = saved['seed']
        if not self._built:
            self.model = STAGES[self.stage].build(
                codec_from_config(saved), self.preset, saved['patch_size']
            )
        self.model.require_config(saved)

    @property
    def _built(self) -> bool:
        """Whether data, a checkpoint or a folder have told what networks to make."""
        return hasattr(self, 'model')

    @property
    def _folder(self) -> Path:
        """The folder that the stage writes to.

        Raises:
            ValueError: If none was given.
        """
        if self.out is None:
            raise ValueError(
                f'out={self.out!r} must be a folder: stage {self.stage!r} writes what '
                'it has learned there. Set model.init_args.out.'
            )
        return Path(self.out)

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

    def _digital(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A normalised batch in digital numbers; cached latents as they are."""
        if 'latent' in batch:
            return batch
        image = digital_numbers(self._datamodule(), batch['image'])
        return {'image': image, 'mask': batch['mask']}

    def _log_scores(self, split: str) -> None:
        scores = {f'{split}_{name}': v for name, v in self.model.scores().items()}
        # equal on all processes already, which Lightning cannot know
        self.log_dict(scores, sync_dist=True)

    def _write_folder(self) -> None:
        if self._written == self.trainer.global_step:
            return
        datamodule = self._datamodule()
        self.model.finish(datamodule, self.device)
        if self.trainer.is_global_zero:
            training: dict[str, Any] = {'updates': self.trainer.global_step}
            training['preset'] = self.hparams['preset']
            if isinstance(datamodule, UnlabelledDataModule):
                training |= datamodule.training_record()
                seen = datamodule.seen_samples()
            else:
                training['datamodule'] = type(datamodule).__name__
                training['samples'] = len(datamodule.train_dataset)
                seen = {*fingerprints(datamodule.train_dataset)}
            self.model.save(self._folder, training)
            write_seen_samples(self._folder, seen)
        self._written = self.trainer.global_step
        self.trainer.strategy.barrier()


def _taken_for(datamodule: BaseDataModule, spec: SampleSpec) -> str:
    """Say what samples are taken for that do not describe themselves."""
    return (
        f'{type(datamodule).__name__} is taken for {spec.dtype} images of scale '
        f'{spec.scale}, with the bands {", ".join(spec.bands)} and the classes '
        f'{", ".join(spec.classes)}. To correct this, give the task spec: '
        '{scale: ..., bands: [...], classes: [...]}.'
    )
