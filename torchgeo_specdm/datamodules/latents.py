# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Cached latents of any datamodule, for stage 2."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler, default_collate
from torchgeo.datamodules import BaseDataModule
from torchgeo.datasets import NonGeoDataset

from ..codecs import Codec
from ..pairs.memory import SHARE, free_memory
from .support.adapter import same_randomness, training_batches
from .support.preparation import refuse_empty_training
from .support.wrapping import WrappingDataModule
from .unlabelled import UnlabelledDataModule

#: Variants of each sample where nothing else is said.
_PASSES = 8

_log = logging.getLogger(__name__)


class LatentDataset(NonGeoDataset):
    """Latents in memory, in half precision (their standard deviation is one).

    Args:
        latents: (N, D, h, w).
        coverage: Known share of each cell and stream (N, S, h, w), in steps of 1/255
            from 0 to 255 (uint8).
    """

    def __init__(self, latents: Tensor, coverage: Tensor) -> None:
        """Keep both."""
        self.latents = latents.half()
        self.coverage = coverage

    def __len__(self) -> int:
        """Number of latents."""
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``latent`` (D, h, w) and ``coverage`` (S, h, w), as they are kept."""
        return {'latent': self.latents[index], 'coverage': self.coverage[index]}


class LatentDataModule(WrappingDataModule):
    """Encodes the training set of another datamodule once, and serves latents.

    For stage 2 of :class:`SpecDMTask`. Each process keeps all latents in memory, in
    half precision, and how much of each of their cells is known.

    Each pass through the real training set applies its own augmentation (crops,
    flips, turns), so the cache holds that many variants of each sample. Training on
    it is about 1.3 times as fast as encoding at each step (docs/notes/autoencoder.md)
    with a codec that is learned. Pixels and abundances cost next to nothing to encode
    and much memory to keep, so without *passes* they are encoded in each step, from
    fresh crops. All other sets stay the real datamodule's.

    Args:
        real: The datamodule, with image and mask.
        passes: Variants of each training sample to keep; None for 8 with a codec that
            is learned, and for no cache with others.
        batch_size: Latents in a batch; the real datamodule's batch size if None.
    """

    def __init__(
        self,
        real: BaseDataModule,
        passes: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Initialize a new LatentDataModule instance."""
        super().__init__(real)
        if passes is not None and passes < 1:
            raise ValueError(
                f'passes={passes} must be 1 or more: the cache holds that many '
                'variants of each training sample.'
            )
        self.batch_size = batch_size or real.batch_size or 1
        self.passes = passes

    def setup(self, stage: str) -> None:
        """Set up the real datamodule and encode its training set.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        super().setup(stage)
        if stage != 'fit' or self.trainer is None:
            return
        task: Any = self.trainer.lightning_module
        if getattr(task, 'stage', '') != 'diffusion':
            raise ValueError(
                'LatentDataModule serves latents to SpecDMTask(stage="diffusion") '
                'only. Give the task the datamodule behind it, real, as it is.'
            )
        device = self.trainer.strategy.root_device
        codec = task.prepare_codec(self.real, device).to(device)
        if self.passes is None and not codec.trainable:
            _log.info('The %s codec encodes in each step.', codec.name)
            return
        passes = self.passes or _PASSES
        training: Any = self.real.train_dataset
        count = passes * len(training)
        self._require_memory(codec, passes, count, task.model.patch_size)
        cache, filled = torch.empty(0), 0
        shares: list[Tensor] = []
        with torch.no_grad(), same_randomness():
            for batch in training_batches(self.real, device, passes):
                part = codec.encode(batch).half().cpu()
                # all at once: joining parts at the end would need twice the memory
                cache = cache if filled else part.new_empty((count, *part.shape[1:]))
                cache[filled : filled + len(part)] = part
                filled += len(part)
                shares.append((255 * codec.coverage(batch)).round().byte().cpu())
        self.train_dataset = LatentDataset(cache[:filled], torch.cat(shares))
        refuse_empty_training(
            'The latent cache', len(self.train_dataset), self.batch_size
        )
        _log.info('Cached %d latents.', len(self.train_dataset))

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The loader of the latents; images without labels have their share."""
        if self.train_dataset is None:
            innermost: Any = self.real
            while isinstance(innermost, WrappingDataModule):
                innermost = innermost.real
            innermost.train_batch_size = self.batch_size
            return super().train_dataloader()
        # the real one's is for real samples
        self.collate_fn = default_collate
        if isinstance(self.real, UnlabelledDataModule):
            once, latents = self.real.weights(), self.train_dataset
            weights = once * (len(latents) // len(once))  # type: ignore[arg-type]
            return DataLoader(
                self.train_dataset,
                self.batch_size,
                sampler=WeightedRandomSampler(weights, len(weights)),
                num_workers=self.num_workers,
                drop_last=True,
                persistent_workers=self.num_workers > 0,
            )
        loader: DataLoader[dict[str, Tensor]] = self._dataloader_factory('train')
        return loader

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Latents become float32; real samples get the real augmentation."""
        if 'latent' in batch:
            return {
                'latent': batch['latent'].float(),
                'coverage': batch['coverage'] / 255,
            }
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def _require_memory(
        self, codec: Codec, passes: int, count: int, patch_size: Sequence[int]
    ) -> None:
        """Refuse a cache of *count* latents that is too large for this machine."""
        assert self.trainer is not None
        cells = math.prod(codec.latent_size(*patch_size))
        # two bytes of each channel, and one of what is known of each stream
        size = count * cells * (2 * codec.latent_channels + len(codec.streams))
        room = SHARE * free_memory() / self.trainer.num_devices
        if 0 < room < size:
            raise ValueError(
                f'passes={passes} would keep {size / 1e9:.1f} GB of latents, but '
                f'{room / 1e9:.1f} GB may be used: half of the free memory, shared by '
                f'{self.trainer.num_devices} process(es). Use fewer passes, or the '
                'datamodule behind this one, real, which encodes in each step.'
            )
