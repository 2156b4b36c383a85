# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Training batches whose samples borrow pixels from each other."""

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchgeo.datamodules import BaseDataModule

from ..choices import require_choice
from ..pairs.facts import declared_spec
from .support.wrapping import WrappingDataModule

_METHODS = ('cutmix', 'copy_paste')


class BatchMixDataModule(WrappingDataModule):
    """Mixes the samples of each training batch of another datamodule.

    The cheap rivals of synthetic samples: they need no generator. Everything but the
    training batches is that of the real datamodule; those are mixed after its own
    augmentation and normalisation, on the device. A pasted pixel brings its label and
    comes from the same position in another sample of the batch, all dates alike:

    * ``cutmix`` (Yun et al. 2019): a rectangle with the proportions of the image, at
      any position inside it, its share of the area drawn from Beta(1, 1). Pixels without
      a label in it come along, and stay without one.
    * ``copy_paste`` (Ghiasi et al. 2021, for classes instead of objects): all pixels
      of one class, each class of the other sample being as likely, so that rare
      classes are pasted far more often than their area has it. The other sample is
      one that has something to paste: pixels without a label are never pasted, nor,
      with several dates, class 0, which is no change.

    Each sample of a batch is mixed or left as it is by its own lot, drawn from
    torch's generator, so ``seed_everything`` fixes all; a batch of one stays as it is.
    Other keys than ``image`` and ``mask`` pass untouched. With probability 0 the
    datamodule is the real one, to the bit.
    """

    def __init__(
        self,
        real: BaseDataModule,
        method: Literal['cutmix', 'copy_paste'],
        probability: float = 0.5,
        ignore_index: int | None = None,
    ) -> None:
        """Initialize a new BatchMixDataModule instance.

        Args:
            real: The datamodule whose batches to mix; they have ``image``,
                (B, C, H, W) or (B, T, C, H, W), and ``mask``, (B, H, W) or
                (B, 1, H, W).
            method: Way of pasting (see the class).
            probability: Share of the samples to mix, in 0..1.
            ignore_index: Mask value of pixels without a label, which ``copy_paste``
                leaves out; None takes it from the ``spec`` of *real*, if it has one.

        Raises:
            TypeError: If *real* is no NonGeoDataModule.
            ValueError: If the method is not known or the probability out of range.
        """
        super().__init__(real)
        require_choice('method', method, _METHODS)
        if not 0 <= probability <= 1:
            raise ValueError(
                f'probability={probability} must lie between 0 and 1, both included. '
                '0.5 mixes every other sample.'
            )
        self.method = method
        self.probability = probability
        self.ignore_index = ignore_index

    def setup(self, stage: str) -> None:
        """Set up the data sets of the real datamodule.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        super().setup(stage)
        self.dataset = self.real.dataset
        self.train_dataset = self.real.train_dataset
        size = self.real.train_batch_size or self.real.batch_size
        if stage == 'fit' and size == 1 and self.probability > 0:
            rank_zero_warn(
                f'batch_size=1 of {type(self.real).__name__} leaves no other sample to '
                f'mix with, so {self.method} changes nothing. Use 2 or more.'
            )

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Augment a batch as the real datamodule does; mix it in training.

        Args:
            batch: A batch on the device.
            dataloader_idx: The index of its loader.

        Returns:
            The batch for the task.

        Raises:
            ValueError: If a training batch is not of the form that can be mixed.
        """
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        # drawing nothing leaves the random numbers to the real module
        if self.probability == 0 or not (self.trainer and self.trainer.training):
            return batch
        _require_form(batch)
        if self.method == 'cutmix':
            return cut_mix(batch, self.probability)
        return copy_paste(batch, self.probability, self._no_label())

    def _no_label(self) -> int | None:
        """Mask value of pixels without a label, as far as it is known."""
        spec = declared_spec(self.real) if self.ignore_index is None else None
        return self.ignore_index if spec is None else spec.ignore_index


def cut_mix(batch: dict[str, Tensor], probability: float) -> dict[str, Tensor]:
    """Paste a rectangle of another sample over image and mask of each sample.

    Args:
        batch: ``image``, (B, C, H, W) or (B, T, C, H, W), and ``mask``, (B, H, W) or
            (B, 1, H, W), on any device.
        probability: Share of the samples to change, in 0..1.

    Returns:
        A new batch; the one given is not changed.
    """
    count, size = len(batch['image']), batch['image'].shape[-2:]
    donors, chosen = _choose_donors(torch.ones(count, dtype=torch.bool), probability)
    # Beta(1, 1) is uniform; both sides shrink alike
    shrink = torch.rand(count).sqrt()
    rows, columns = (_windows(shrink, side) for side in size)
    paste = rows[:, :, None] & columns[:, None] & chosen[:, None, None]
    return _paste(batch, donors, paste)


def copy_paste(
    batch: dict[str, Tensor], probability: float, ignore_index: int | None = None
) -> dict[str, Tensor]:
    """Paste one class of another sample over image and mask of each sample.

    Args:
        batch: ``image``, (B, C, H, W) or (B, T, C, H, W), and ``mask``, (B, H, W) or
            (B, 1, H, W), on any device.
        probability: Share of the samples to change, in 0..1.
        ignore_index: Mask value of pixels without a label, which are not pasted.

    Returns:
        A new batch; the one given is not changed.
    """
    image, labels = batch['image'], _planes(batch).long()
    # with several dates 0 is no change, the background
    lowest = 1 if image.ndim == 5 and image.shape[1] > 1 else 0
    pasted = labels >= lowest
    if ignore_index is not None:
        pasted &= labels != ignore_index
    # all that is not pasted is number 0, class k is number k + 1
    numbers = (labels + 1).where(pasted, 0).flatten(1)
    present = torch.zeros(len(image), int(numbers.max()) + 1, dtype=torch.bool)
    present = present.to(image.device).scatter_(1, numbers, True).cpu()
    present[:, 0] = False
    donors, chosen = _choose_donors(present.any(1), probability)
    lots = torch.rand(present.shape).where(present[donors], -1)
    drawn = (lots.argmax(1) - 1).where(chosen, -1).to(image.device)
    source = donors.to(image.device)
    paste = pasted[source] & (labels[source] == drawn[:, None, None])
    return _paste(batch, donors, paste)


def _choose_donors(able: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Another sample for each sample, and which samples are to be mixed.

    Args:
        able: Whether each sample has something to give, (B,).
        probability: Share of the samples to mix.

    Returns:
        Positions in the batch, (B,), and whether to mix each sample, (B,); one that
        finds no other sample that can give is not mixed.
    """
    count = len(able)
    lots = torch.rand(count, count).where(able[None], -1)
    best, donors = lots.fill_diagonal_(-1).max(1)
    return donors, (best >= 0) & (torch.rand(count) < probability)


def _windows(shrink: Tensor, side: int) -> Tensor:
    """A random window in a side of each sample, (B,) in 0..1 times as long."""
    length = (shrink * side).round()
    first = (torch.rand(len(shrink)) * (side - length + 1)).floor()
    # the product may be rounded up
    first = first.minimum(side - length)
    pixel = torch.arange(side)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])


def _paste(
    batch: dict[str, Tensor], donors: Tensor, paste: Tensor
) -> dict[str, Tensor]:
    """Take the pixels *paste* (B, H, W) of image and mask from the donors (B,)."""
    mixed: dict[str, Any] = {}
    for key in ('image', 'mask'):
        value = batch[key]
        axes = (1,) * (value.ndim - 3)
        where = paste.to(value.device).reshape(len(value), *axes, *paste.shape[1:])
        mixed[key] = value[donors.to(value.device)].where(where, value)
    return batch | mixed


def _planes(batch: dict[str, Tensor]) -> Tensor:
    """The masks without the axis of their only layer, (B, H, W)."""
    mask = batch['mask']
    return mask.reshape(len(mask), *mask.shape[-2:])


def _require_form(batch: dict[str, Tensor]) -> None:
    """Refuse a batch without images and masks of the same pixels."""
    if not {'image', 'mask'} <= batch.keys():
        raise ValueError(
            f'A batch has the keys {sorted(batch)}, but mixing needs image and mask. '
            'Use a datamodule for segmentation or change detection.'
        )
    image, mask = batch['image'], batch['mask']
    count, pixels = len(image), tuple(image.shape[-2:])
    layers = tuple(mask.shape) in ((count, *pixels), (count, 1, *pixels))
    if image.ndim not in (4, 5) or not layers:
        raise ValueError(
            f'A batch has images of {tuple(image.shape)} and masks of '
            f'{tuple(mask.shape)}, but mixing needs (B, C, H, W) or (B, T, C, H, W) '
            'and (B, H, W) or (B, 1, H, W) of the same pixels. Use a datamodule with '
            'one mask for each sample.'
        )
