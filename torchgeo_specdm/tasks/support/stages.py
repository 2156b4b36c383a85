# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The two stages of SpecDM: what each learns, how it is measured and handed on."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchgeo.datamodules import BaseDataModule
from torchmetrics import MeanMetric

from ...codecs import (
    Codec,
    ReconstructionScores,
    by_channel,
    codec_to_config,
    require_learnable,
    require_learned,
    save_codec,
)
from ...datamodules.support.adapter import fit_statistics
from ...diffusion import (
    ERRORS,
    DenoisingErrors,
    Generator,
    JointDenoiser,
    begin_with,
    move_average,
    plain_errors,
)
from ...files import write_text
from ...presets import SCENES, generator_settings, prior_folder

Batch = dict[str, Tensor]


class Stage(nn.Module, ABC):
    """The networks of a stage, and all that is done with them.

    A batch has ``image`` in digital numbers, (B, C, H, W) or (B, T, C, H, W), and
    ``mask``, (B, H, W) or (B, 1, H, W).
    """

    #: The name in configurations.
    name: ClassVar[str]
    #: A sentence for the end of training, about the *folder* that was written.
    next_step: ClassVar[str]
    #: Name of the pictures in the logs, and how many of them cost next to nothing.
    pictured: ClassVar[str]
    pictures: ClassVar[int]
    #: Height and width of the patches that the networks are for; None for any.
    patch_size: list[int] | None = None

    @staticmethod
    @abstractmethod
    def check(name: str) -> None:
        """Refuse a codec that is of no use to the stage, before data are read."""

    @classmethod
    @abstractmethod
    def build(
        cls, codec: Codec, preset: Mapping[str, Any], patch_size: list[int]
    ) -> Self:
        """Make the networks, untrained, around a codec that is fitted to the data."""

    @property
    @abstractmethod
    def codec(self) -> Codec:
        """Encodes and decodes samples."""

    @property
    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """The modules that nearly all of a training step is spent in."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss``, which training makes small, and its parts; all scalar."""

    def after_step(self, step: int) -> None:
        """Follow the weights after an optimiser step, numbered from 1."""

    @abstractmethod
    def evaluate(self, batch: Batch, first: int) -> None:
        """Score a batch; *first* is the number of its first sample."""

    @abstractmethod
    def picture(self, batch: Batch, count: int) -> Batch:
        """Make *count* samples that show what was learned (see :func:`plot_sample`)."""

    @abstractmethod
    def scores(self) -> dict[str, Tensor]:
        """Return the scores of all batches of all processes, and forget them."""

    def finish(self, datamodule: BaseDataModule, device: torch.device) -> None:
        """Measure what is known only when training is over."""

    @abstractmethod
    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write what is handed on, with what is known of its training."""

    def config(self) -> dict[str, Any]:
        """Everything that the networks were built from, as plain JSON types."""
        return codec_to_config(self.codec) | {
            'stage': self.name,
            'patch_size': self.patch_size,
        }

    def require_config(self, saved: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of other networks.

        Args:
            saved: Configuration in the checkpoint, as :meth:`config` gives it.

        Raises:
            ValueError: With the first difference.
        """
        for name, value in self.config().items():
            # as texts, in which NaN is NaN
            if json.dumps(saved[name]) != json.dumps(value):
                raise ValueError(
                    f'The checkpoint was made with {name}={saved[name]}, but here it '
                    f'is {value}. Go on with the same data, preset and settings, or '
                    'begin anew without the checkpoint.'
                )


class AutoencoderStage(Stage):
    """Stage 1: learn to encode samples and to decode them again.

    Args:
        codec: The codec that is learned.
    """

    name = 'autoencoder'
    pictured, pictures = 'reconstruction', 4
    next_step = (
        'The codec is in {folder}. Stage 2 learns a generator on it: torchgeo fit '
        '--config YAML_OF_STAGE_2 --model.init_args.codec {folder}'
    )
    check = staticmethod(require_learnable)

    def __init__(self, codec: Codec) -> None:
        """Put the parts together."""
        super().__init__()
        self.autoencoder = codec
        self.reconstruction = ReconstructionScores(codec.spec.num_classes)

    @classmethod
    def build(
        cls, codec: Codec, preset: Mapping[str, Any], patch_size: list[int]
    ) -> Self:
        """Take the codec as it is; it is fully convolutional."""
        return cls(codec)

    @property
    def codec(self) -> Codec:
        """The codec that is learned."""
        return self.autoencoder

    @property
    def networks(self) -> list[nn.Module]:
        """Encoders and decoders of all branches."""
        return [m for m in self.modules() if isinstance(m, Encoder | Decoder)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compare batches with their reconstruction (see :meth:`Codec.loss`)."""
        return self.codec.loss(batch)

    def evaluate(self, batch: Batch, first: int) -> None:
        """Reconstruct a batch without sampling the posterior."""
        self.reconstruction.update(self.codec, batch)

    def picture(self, batch: Batch, count: int) -> Batch:
        """Reconstruct the first samples of a batch."""
        shown = {key: value[:count] for key, value in batch.items()}
        decoded, _ = self.codec.roundtrip(shown)
        return shown | {
            'reconstruction': decoded['image'],
            'prediction': decoded['mask'],
        }

    def scores(self) -> dict[str, Tensor]:
        """Return the errors of the reconstruction (see :class:`ReconstructionScores`)."""
        scores = self.reconstruction.compute()
        self.reconstruction.reset()
        return scores

    def finish(self, datamodule: BaseDataModule, device: torch.device) -> None:
        """Measure mean and std of the latents, which stage 2 needs."""
        fit_statistics(self.codec, datamodule, device)

    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write the codec."""
        save_codec(self.codec, folder)


class DiffusionStage(Stage):
    """Stage 2: learn to take noise out of latents.

    Training moves the denoiser; the generator has the average of its weights over
    the steps, which is what is scored and handed on.

    Args:
        generator: Codec, process and averaged denoiser.
        denoiser: Network that is trained; the generator's own if nothing is.
        decay: Share of the old average that stays in a step.
    """

    name = 'diffusion'
    pictured, pictures = 'sample', 0
    next_step = (
        'The generator is in {folder}. Draw from it: torchgeo-specdm generate '
        '--generator {folder} --out FOLDER --count 100'
    )
    check = staticmethod(require_learned)

    def __init__(
        self, generator: Generator, denoiser: JointDenoiser, decay: float
    ) -> None:
        """Put the parts together."""
        super().__init__()
        # frozen; no layer here acts differently in evaluation mode, so Lightning need
        # not warn of modules in it
        self.generator = generator.requires_grad_(False).train()
        self.denoiser = denoiser
        self.decay = decay
        self.patch_size = generator.config['patch_size']
        if generator.config['sampling'].get('order') == 'mask_first':
            generator.require_masks()
        names = ('loss', *(f'loss_{stream}' for stream in generator.process.streams))
        self.means: Any = nn.ModuleDict({name: MeanMetric() for name in names})
        self.errors = DenoisingErrors(generator.process.streams)
        #: Errors of the last validation, as plain JSON types.
        self.last_errors: dict[str, Any] = {}

    @classmethod
    def build(
        cls, codec: Codec, preset: Mapping[str, Any], patch_size: list[int]
    ) -> Self:
        """Make a generator, its weights random or a prior's, and a copy to train."""
        settings = generator_settings(preset, codec.name)
        generator = Generator.build(
            codec, {'stage': cls.name, **settings, 'patch_size': patch_size}
        )
        prior = preset[codec.name].get('prior')
        if prior is not None:
            _begin(generator, prior)
        return cls(generator, deepcopy(generator.denoiser), preset[cls.name]['ema'])

    @property
    def codec(self) -> Codec:
        """The generator's, which is not changed any more."""
        return self.generator.codec

    @property
    def networks(self) -> list[nn.Module]:
        """The denoiser that is trained."""
        return [self.denoiser]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Let the denoiser find the noise of each stream (see :class:`JointProcess`)."""
        return self.generator.process.training_losses(
            self.denoiser, *self._latent(batch)
        )

    def after_step(self, step: int) -> None:
        """Move the averaged weights towards the trained ones."""
        average, trained = self._weights
        move_average(average, trained, step, self.decay)

    @cached_property
    def _weights(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Averaged and trained weights; to find them takes as long as to move them."""
        networks = self.generator.denoiser, self.denoiser
        average, trained = (tuple(network.parameters()) for network in networks)
        return average, trained

    def evaluate(self, batch: Batch, first: int) -> None:
        """Score the averaged weights at times and noise that *first* fixes."""
        latent, coverage = self._latent(batch)
        process, denoiser = self.generator.process, self.generator.denoiser
        losses = process.validation_losses(denoiser, latent, first, coverage)
        known = by_channel(process.streams, coverage)
        # a mean over all that is known, however samples are put into batches
        weights = {'loss': known.sum()} | {
            f'loss_{stream}': known[:, channels].sum()
            for stream, channels in process.streams.items()
        }
        for name, value in losses.items():
            self.means[name].update(value, weights[name])
        self.errors.update(process, denoiser, latent, first, coverage)

    def picture(self, batch: Batch, count: int) -> Batch:
        """Draw samples with the averaged weights, from the same noise every time."""
        return self.generator.sample(range(count), seed=0)

    def scores(self) -> dict[str, Tensor]:
        """Return the mean losses over samples, overall and of each stream.

        And of each stream and level of noise the error of the clean latents (see
        :class:`DenoisingErrors`), named such as ``error/mask/+2``.
        """
        scores = {name: metric.compute() for name, metric in self.means.items()}
        self.last_errors = plain_errors(self.errors.compute())
        for stream, found in self.last_errors.items():
            for level, error in zip(found['log_snr'], found['network'], strict=True):
                scores[f'error/{stream}/{level:+d}'] = scores['loss'].new_tensor(error)
        for metric in (*self.means.values(), self.errors):
            metric.reset()
        return scores

    def config(self) -> dict[str, Any]:
        """Return what codec, process and denoiser were built from."""
        made = self.generator.config
        return super().config() | {key: made[key] for key in ('process', 'denoiser')}

    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write the generator."""
        self.generator.config['training'] = dict(training)
        self.generator.save(folder)
        if self.last_errors:
            text = json.dumps(self.last_errors, indent=2)
            write_text(folder / ERRORS, text + '\n')

    def _latent(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents (B, D, h, w) of a batch, or those that it holds, and their coverage."""
        if 'latent' in batch:
            return batch['latent'], batch['coverage']
        with torch.no_grad():
            return self.codec.encode(batch).float(), self.codec.coverage(batch)


def _begin(generator: Generator, prior: str) -> None:
    """Let a generator begin with a prior, which its config.json then names."""
    try:
        begin_with(generator, Generator.load(prior_folder(prior)))
    except ValueError as error:
        # what presets name is a default, which gives way to the user's settings
        if prior != SCENES:
            raise
        rank_zero_info(f'{error} Until then, weights begin at random.')
    else:
        generator.config['prior'] = prior


#: The stages by their name in configurations.
STAGES: dict[str, type[Stage]] = {
    stage.name: stage for stage in (AutoencoderStage, DiffusionStage)
}
