# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The parts of a mixed training set: subsets, samples of one form, and their order."""

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from ...datasets.pairs import PairFolder
from ...pairs.facts import SampleForm
from ...philox import philox

#: Streams of random numbers below this are for subsets, those above for the order.
_ORDER = 2


def subset(count: int, size: int, seed: int, stream: int) -> list[int]:
    """Choose positions at random, the same ones for the same arguments.

    Subsets are nested: that of 25 lies inside that of 50.

    Args:
        count: Number of samples to choose.
        size: Number of samples to choose from.
        seed: The run's seed.
        stream: 0 or 1, tells independent choices of one seed apart.

    Returns:
        The positions, sorted.
    """
    return sorted(int(i) for i in _shuffled(seed, stream, 0, size)[:count])


class MatchedSamples(Dataset[dict[str, Tensor]]):
    """Some samples of a data set, brought to one form.

    Samples have the keys ``image`` and ``mask`` only. Those that are larger than the
    form are cropped at a random place (torch's generator), image and mask together.

    Args:
        dataset: Data set of samples with ``image`` and ``mask``.
        indices: Positions of the samples to use.
        form: Form that they must have.
    """

    def __init__(
        self,
        dataset: Dataset[dict[str, Tensor]],
        indices: Sequence[int],
        form: SampleForm,
    ) -> None:
        """Initialize a new MatchedSamples instance."""
        self.dataset = dataset
        self.indices = list(indices)
        self.form = form

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Load a sample.

        Args:
            index: Position in :attr:`indices`.

        Returns:
            ``image`` of shape (C, h, w) or (T, C, h, w) and ``mask`` of shape (h, w)
            or (1, h, w), as the form says.

        Raises:
            ValueError: If the sample cannot take the form; the message names it.
        """
        position = self.indices[index]
        sample = self.dataset[position]
        image, mask = sample['image'], sample['mask']
        name = sample_name(self.dataset, position)
        require_form(self.form, image.shape, mask.shape, name)
        pixels = image.shape[-2:]
        crop = _random_crop(pixels, self.form.size)
        labels = mask.to(self.form.mask_dtype)
        if not torch.equal(labels.to(mask.dtype), mask):
            raise ValueError(
                f'{name} has labels up to {mask.max()}, which the masks of the real '
                f'samples, {labels.dtype}, cannot hold. Let the real data set return '
                'masks of torch.int64.'
            )
        return {
            'image': image[crop].to(self.form.image_dtype),
            'mask': labels.reshape(*self.form.layers, *pixels)[crop],
        }


class MixSampler(DistributedSampler[Any]):
    """Orders a mixed training set: real samples first in it, then synthetic ones.

    Each pool of samples is an endless stream of shuffled passes, so every sample is
    taken once before any is taken again, and an epoch is a window of the stream.
    Batches are dealt to the processes in turn, so that together they take what one
    process would take. It is a DistributedSampler because Lightning leaves such a
    one in place and calls its ``set_epoch``.

    Args:
        real: Number of real samples.
        synthetic: Number of synthetic samples.
        batch_size: Samples in the batch of one process.
        batches: Batches of one process in an epoch.
        real_share: Share of real samples in each batch, up to rounding to whole
            samples; None shuffles both as one pool.
        seed: The order is a function of this and the epoch.
        replicas: Number of processes.
        rank: Number of this process among them.
    """

    def __init__(
        self,
        real: int,
        synthetic: int,
        batch_size: int,
        batches: int,
        real_share: float | None = None,
        seed: int = 0,
        replicas: int = 1,
        rank: int = 0,
    ) -> None:
        """Initialize a new MixSampler instance."""
        positions: Any = range(real + synthetic)
        super().__init__(positions, replicas, rank, seed=seed)
        self.batch_size = batch_size
        self.batches = batches
        self.share = None if real_share is None else decimal(real_share)
        # first position and number of positions of each pool
        self.pools = [(0, real + synthetic)]
        if self.share is not None:
            self.pools = [(0, real), (real, synthetic)]

    def __len__(self) -> int:
        """Number of samples that this process takes in an epoch."""
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Positions in the training set, batch after batch."""
        for step in range(self.batches):
            turn = self.epoch * self.batches + step
            yield from self._batch(turn * self.num_replicas + self.rank)

    def _batch(self, number: int) -> Iterator[int]:
        """Positions of the batch with this number, counted over all epochs."""
        begins = self._taken(number * self.batch_size)
        ends = self._taken((number + 1) * self.batch_size)
        for pool, (first, size) in enumerate(self.pools):
            for taken in range(begins[pool], ends[pool]):
                turn, position = divmod(taken, size)
                stream = _ORDER + pool
                yield first + int(_shuffled(self.seed, stream, turn, size)[position])

    def _taken(self, total: int) -> list[int]:
        """Number of the first samples that are taken from each pool.

        The running total is rounded, so that rounding errors do not add up.
        """
        if self.share is None:
            return [total]
        real = int(total * self.share)
        return [real, total - real]


def require_form(
    form: SampleForm, image: Sequence[int], mask: Sequence[int], name: str
) -> None:
    """Refuse a sample that cannot be brought to a form.

    Args:
        form: Form that the samples of a mix must have.
        image: Shape of the image.
        mask: Shape of the mask.
        name: Name of the sample, for the message.

    Raises:
        ValueError: If bands, dates or layers differ, or the sample is smaller.
    """
    pixels, layers = tuple(image[-2:]), tuple(mask[:-2])
    # a mask of one layer may lack or have the axis that says so
    single = {layers, form.layers} <= {(), (1,)}
    shapes = f'image {tuple(image)} and mask {tuple(mask)}'
    if (
        tuple(image[:-2]) != form.channels
        or tuple(mask[-2:]) != pixels
        or not (single or layers == form.layers)
    ):
        raise ValueError(
            f'{name} has the shapes {shapes}, but the real training samples have image '
            f'{(*form.channels, "H", "W")} and mask {(*form.layers, "H", "W")}. Use '
            'samples with the same bands, dates and mask layers.'
        )
    if pixels[0] < form.size[0] or pixels[1] < form.size[1]:
        raise ValueError(
            f'{name} has the shapes {shapes}, but all samples must have at least the '
            f'size {form.size} of the first ones. Cut all patches to one size.'
        )


def sample_name(dataset: Dataset[Any], position: int) -> str:
    """Name of a sample in messages: its file, if it is known."""
    if isinstance(dataset, PairFolder):
        return str(dataset.image_paths(dataset.ids[position])[0])
    return f'Sample {position} of {type(dataset).__name__}'


def decimal(value: float) -> Fraction:
    """The number as it is written, so that 0.29 x 100 is 29 and not a hair less."""
    return Fraction(repr(float(value)))


def global_seed() -> int:
    """The seed that ``seed_everything`` set, 0 if it was not called, as Lightning."""
    return int(os.environ.get('PL_GLOBAL_SEED', '0'))


@lru_cache(maxsize=8)
def _shuffled(seed: int, stream: int, turn: int, size: int) -> NDArray[np.int64]:
    """Positions 0 to size - 1 in random order.

    Sorting raw bits is the same in every version of NumPy, which is not promised of
    its shuffling functions.
    """
    raw = philox(seed, stream, turn).random_raw(size)
    order: NDArray[np.int64] = np.argsort(raw, kind='stable')
    return order


def _random_crop(
    pixels: Sequence[int], size: tuple[int, int]
) -> tuple[Any, slice, slice]:
    top, left = (
        int(torch.randint(0, have - want + 1, ())) if have > want else 0
        for have, want in zip(pixels, size, strict=True)
    )
    return ..., slice(top, top + size[0]), slice(left, left + size[1])
