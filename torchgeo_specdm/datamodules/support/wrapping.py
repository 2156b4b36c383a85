# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A datamodule around another one that changes its training and nothing else."""

from typing import Any

from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader
from torchgeo.datamodules import BaseDataModule, NonGeoDataModule

from ...pairs.spec import SampleSpec
from .preparation import align_dates

#: Attributes of the real datamodule that tasks and callbacks look at.
_SHOWN = (
    *('mean', 'std', 'collate_fn', 'aug', 'train_aug', 'val_aug', 'test_aug'),
    *('predict_aug', 'val_dataset', 'test_dataset', 'predict_dataset'),
)


class WrappingDataModule(NonGeoDataModule):
    """Does everything as another datamodule does it; subclasses change the training.

    Validation, test and prediction sets, augmentation, normalisation, collation,
    hooks and plots are those of the real datamodule. The training set is not shown
    here: it may be what a subclass changes.
    """

    def __init__(self, real: BaseDataModule) -> None:
        """Initialize a new WrappingDataModule instance.

        Args:
            real: The datamodule to wrap, with integer-indexed data sets.

        Raises:
            TypeError: If *real* is no NonGeoDataModule.
        """
        if not isinstance(real, NonGeoDataModule):
            raise TypeError(
                f'real={type(real).__name__} must be a NonGeoDataModule: a '
                'GeoDataModule samples places of a map, not numbered patches. Write '
                'its patches into a folder of pairs and use PairFolderDataModule.'
            )
        dataset_class: Any = real.dataset_class
        super().__init__(dataset_class, real.batch_size, real.num_workers)
        self.real = real
        for hook in ('on_before_batch_transfer', 'transfer_batch_to_device'):
            # not methods of this class: Lightning would then take them for overridden
            # and no longer call those of the task
            setattr(self, hook, getattr(real, hook))
        self._show()

    @property
    def spec(self) -> SampleSpec:
        """Description of the samples, if the real datamodule has one."""
        real: Any = self.real
        spec: SampleSpec = real.spec
        return spec

    def describe(self, spec: SampleSpec) -> SampleSpec:
        """Describe the samples of this datamodule.

        Args:
            spec: Description of the real samples.

        Returns:
            The same, unless a subclass changes what a sample is.
        """
        return spec

    def prepare_data(self) -> None:
        """Download and prepare the real data."""
        self.real.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up the data sets of the real datamodule.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        # augmentation asks the trainer for the stage, and is silently left out
        # without one
        self.real.trainer = self.trainer
        self.real.setup(stage)
        align_dates(self.real)
        self._show()

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The training loader of the real datamodule."""
        return self.real.train_dataloader()

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The validation loader of the real datamodule."""
        return self.real.val_dataloader()

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The test loader of the real datamodule."""
        return self.real.test_dataloader()

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The prediction loader of the real datamodule."""
        return self.real.predict_dataloader()

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Augment and normalise a batch as the real datamodule does.

        Args:
            batch: A batch on the device.
            dataloader_idx: The index of its loader.

        Returns:
            The batch for the task.
        """
        augmented: dict[str, Tensor] = self.real.on_after_batch_transfer(
            batch, dataloader_idx
        )
        return augmented

    def plot(self, *args: Any, **kwargs: Any) -> Figure | None:
        """Plot a sample as the real datamodule does.

        Args:
            *args: Arguments of its plot method.
            **kwargs: Keyword arguments of its plot method.

        Returns:
            A figure, if its data set can plot.
        """
        figure: Figure | None = self.real.plot(*args, **kwargs)
        return figure

    def teardown(self, stage: str) -> None:
        """Clean up the real datamodule.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        self.real.teardown(stage)

    def _show(self) -> None:
        for name in _SHOWN:
            setattr(self, name, getattr(self.real, name))
