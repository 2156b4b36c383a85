# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Training samples of any datamodule, read once."""

from ..pairs.memory import InMemory, SampleMemory
from .support.wrapping import WrappingDataModule


class InMemoryDataModule(WrappingDataModule):
    """Reads the training samples of another datamodule once; nothing else differs.

    They are kept, in the smallest type that holds them, while they fit into half of
    the free memory. The data set must give the same sample each time: what it draws
    at random itself would be drawn once. The datamodule's augmentation of batches is
    as random as before.

    Args:
        real: The datamodule, with integer-indexed data sets.
    """

    def setup(self, stage: str) -> None:
        """Set up the data sets.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        super().setup(stage)
        dataset = self.real.train_dataset
        if stage == 'fit' and dataset is not None:
            memory = SampleMemory(self.trainer.num_devices if self.trainer else 1)
            self.real.train_dataset = InMemory(dataset, memory)
            self.train_dataset = self.real.train_dataset
