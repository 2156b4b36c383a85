# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Chosen training samples of any datamodule."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchgeo.datamodules import NonGeoDataModule

from .support.wrapping import WrappingDataModule


class SubsetDataModule(WrappingDataModule):
    """Trains on chosen samples of another datamodule; nothing else differs.

    Args:
        real: The datamodule.
        indices: Numbers of the training samples to use.
    """

    def __init__(self, real: NonGeoDataModule, indices: Sequence[int]) -> None:
        """Initialize a new SubsetDataModule instance."""
        super().__init__(real)
        self.indices = indices

    def setup(self, stage: str) -> None:
        """Set up the data sets.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        super().setup(stage)
        if stage == 'fit':
            assert self.real.train_dataset is not None
            self.train_dataset = Subset(self.real.train_dataset, self.indices)
            # a batch that cannot be filled would leave nothing to train on
            self.batch_size = min(self.real.batch_size, len(self.indices))

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The loader of the chosen samples."""
        loader: DataLoader[dict[str, Tensor]] = self._dataloader_factory('train')
        return loader
