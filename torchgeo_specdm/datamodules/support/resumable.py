# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Training batches that are the same after a restart."""

import inspect
import math
import random
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
)
from torchgeo.datamodules import BaseDataModule

from .mixing import MixSampler

#: Batches of an epoch where steps end the training, about.
_EPOCH = 100


class ResumableLoader(DataLoader[Any]):
    """A training loader that goes on where a checkpoint was made.

    Lightning restores weights and counters, but begins its loaders anew: a resumed
    epoch repeats some samples and leaves out others, and no random number is what it
    would have been. Here all that is random in a training step (samples, their
    augmentation, times and noise) follows from the seed, the epoch, the process and
    the number of the batch, so nothing needs to be restored. Batches that were done
    before the checkpoint are read once more and dropped.

    One thing is not repeated: random numbers that a data set draws by itself in worker
    processes which live for several epochs.

    Args:
        trainer: Knows how far the training is.
        seed: Seed of the training, 0 or more.
        **options: Options of :class:`torch.utils.data.DataLoader`.
    """

    def __init__(self, trainer: Trainer, seed: int, **options: Any) -> None:
        """Initialize a new ResumableLoader instance."""
        # workers take their seeds from it: only the first epoch's draw one where they
        # live on, and the order of samples must not depend on that
        super().__init__(**options | {'generator': torch.Generator()})
        self.trainer = trainer
        self.seed = seed

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield what is left of the current epoch."""
        # read at the first batch, when Lightning has restored its counters
        done = self.trainer.fit_loop.batch_idx + 1
        epoch = self.trainer.current_epoch, self.trainer.global_rank
        # the sampler draws its order for the first batch
        seed_random(self.seed, *epoch, 0)
        self.generator.manual_seed(torch.initial_seed())
        batches = super().__iter__()
        for number in range(len(self)):
            if number > 0:
                seed_random(self.seed, *epoch, number)
            batch = next(batches)
            if number >= done:
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing; tells Lightning that the loader can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""


def make_resumable(
    datamodule: BaseDataModule, trainer: Trainer, seed: Callable[[], int]
) -> None:
    """Let the training loader of a datamodule go on where a checkpoint was made.

    Where steps end the training and not epochs, an epoch is so many shuffled passes at
    once that it has about 100 batches, because each epoch begins with an idle device.
    A loader of another class than PyTorch's own is left as it is.

    Args:
        datamodule: Datamodule whose ``train_dataloader`` is replaced.
        trainer: Knows how far the training is.
        seed: Gives the seed of the training when the loader is made.
    """
    # of the class, so that a datamodule of a second trainer is not wrapped twice
    load = partial(type(datamodule).train_dataloader, datamodule)
    datamodule.train_dataloader = partial(  # type: ignore[method-assign]
        _resumable, load, trainer, seed
    )


def seed_random(*numbers: int) -> None:
    """Seed torch, NumPy and Python.

    Args:
        *numbers: Each 0 or more; other numbers give other random numbers.
    """
    (seed,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    # where there is no accelerator, torch.manual_seed prepares one: 1 ms for each batch
    present = torch.accelerator.is_available()
    seed_torch = torch.manual_seed if present else torch.default_generator.manual_seed
    seed_torch(int(seed))
    np.random.seed(int(seed) % 2**32)
    random.seed(int(seed))


def _resumable(
    load: Callable[[], Any], trainer: Trainer, seed: Callable[[], int]
) -> Any:
    loader = load()
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return loader
    names = inspect.signature(DataLoader).parameters
    options = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
    batches = loader.batch_size is None and loader.batch_sampler is not None
    # DataLoader takes a sampler of batches, or the settings that make one
    for name in (
        ('batch_size', 'sampler', 'drop_last') if batches else ('batch_sampler',)
    ):
        del options[name]
    passes = _passes(loader, trainer)
    if passes > 1 and type(loader.sampler) is RandomSampler:
        dataset: Any = loader.dataset
        several = Subset(dataset, [*range(len(dataset))] * passes)
        options |= {'dataset': several, 'sampler': RandomSampler(several)}
    elif passes > 1:
        options['sampler'] = _lengthened(loader.sampler, passes)
    return ResumableLoader(trainer, seed(), **options)


def _passes(loader: DataLoader[Any], trainer: Trainer) -> int:
    """Passes through a training set in an epoch."""
    counts_epochs = trainer.max_epochs not in (None, -1)
    dataset: Any = loader.dataset
    known = type(loader.sampler) in (RandomSampler, WeightedRandomSampler, MixSampler)
    if counts_epochs or not known or not len(dataset):
        return 1
    # an epoch that is longer than the training would not be validated
    steps = min(_EPOCH, trainer.max_steps) if trainer.max_steps > 0 else _EPOCH
    if len(loader):
        return max(steps // len(loader), 1)
    # several passes fill the batches that one is too short for
    return math.ceil(steps * (loader.batch_size or 1) / len(dataset))


def _lengthened(sampler: Any, times: int) -> Any:
    """A sampler without an end of its own, such that an epoch is longer."""
    longer = copy(sampler)
    if isinstance(sampler, MixSampler):
        longer.batches *= times
    else:
        longer.num_samples *= times
    return longer
