# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A datamodule around another one that adds samples of a second pool to its training."""

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .mixing import MixSampler, global_seed
from .wrapping import WrappingDataModule


class MixedDataModule(WrappingDataModule):
    """Trains on two pools of samples; subclasses say what the second one is."""

    #: Real and added samples in the training set, after setup.
    counts: tuple[int, int] = (0, 0)

    def mixed_loader(
        self, dataset: Dataset[dict[str, Tensor]], real_share: float | None
    ) -> DataLoader[dict[str, Tensor]]:
        """The loader of a mixed training set.

        Args:
            dataset: The real samples, and then the added ones.
            real_share: Share of real samples in each batch; None for any.

        Returns:
            The loader, whose order does not depend on the number of processes.
        """
        replicas, rank = self.processes()
        sampler = MixSampler(
            *self.counts,
            self.train_size,
            self.batches(),
            real_share=real_share,
            seed=global_seed(),
            replicas=replicas,
            rank=rank,
        )
        if self.trainer is not None:
            # workers of a resumed run fetch before Lightning tells the epoch
            progress = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)  # type: ignore[attr-defined]
        return DataLoader(
            dataset=dataset,
            batch_size=self.train_size,
            sampler=sampler,
            num_workers=self.real.num_workers,
            collate_fn=self.real.collate_fn,
            drop_last=True,
            persistent_workers=self.real.num_workers > 0,
        )

    @property
    def train_size(self) -> int:
        """Samples in a training batch of the real datamodule."""
        size: int = self.real.train_batch_size or self.real.batch_size
        return size

    def real_set(self) -> Dataset[dict[str, Tensor]]:
        """The training set of the real datamodule.

        Raises:
            ValueError: If it has none.
        """
        for dataset in (self.real.train_dataset, self.real.dataset):
            if dataset is not None:
                return dataset
        raise ValueError(
            f'{type(self.real).__name__} has no training set after setup. Use a '
            'datamodule that sets train_dataset.'
        )

    def processes(self) -> tuple[int, int]:
        """Number of processes that share the training set, and which this one is."""
        shared = self.trainer and self.trainer.distributed_sampler_kwargs
        return (shared['num_replicas'], shared['rank']) if shared else (1, 0)

    def batches(self) -> int:
        """Batches of one process in an epoch, as many as Lightning would give."""
        return -(-sum(self.counts) // self.processes()[0]) // self.train_size
