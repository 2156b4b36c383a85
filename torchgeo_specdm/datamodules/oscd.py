# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""OSCD datamodule."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader
from torchgeo.datamodules import NonGeoDataModule

from ..bands import TEN_BANDS
from ..datasets.oscd import OSCD, oscd_spec
from ..pairs.spec import SampleSpec
from .support.preparation import normalise, refuse_empty_training, require_patch


class OSCDDataModule(NonGeoDataModule):
    """OSCD datamodule.

    Splits are by city: testing and prediction on *test_cities*, validation on
    *val_cities*, training on all others. Training sees full tiles of a fixed
    grid; all others see tiles that reach every pixel, with ``tile`` to put them
    together again (see :class:`~torchgeo_specdm.datasets.oscd.OSCD`).

    Batches are normalised with the mean and standard deviation of each band over the
    training tiles of both dates, measured in :meth:`setup`; in training they are also
    cropped, flipped and rotated by multiples of 90 degrees, both dates and the mask
    alike.
    """

    # ten parameters, as the data set has: each changes what is trained on
    def __init__(
        self,
        root: str = 'data',
        batch_size: int = 16,
        num_workers: int = 0,
        bands: Sequence[str] = TEN_BANDS,
        val_cities: Sequence[str] = ('bordeaux',),
        patch_size: int = 256,
        overlap: float = 0.6,
        crop_size: int | None = None,
        threshold: int = 1,
        test_cities: Sequence[str] | None = None,
    ) -> None:
        """Initialize a new OSCDDataModule instance.

        Args:
            root: The folder that holds the three extracted archives.
            batch_size: Size of each mini-batch.
            num_workers: Number of workers for parallel data loading.
            bands: Names of the bands to load, in this order.
            val_cities: Cities to validate on, none of which is tested on; without any
                a fit does not validate, so no callback may wait for a validation score.
            patch_size: Side of a tile in pixels.
            overlap: Share of a tile, from 0 to below 1, that the next one shows too.
            crop_size: Side of a random crop of a tile in training, in pixels; None for
                whole tiles. Validation and test always see whole tiles.
            threshold: Least value in the mask, from 1 to 255, that means change.
            test_cities: Cities to test on, from both folders of labels, as for leaving
                cities out in turn; None for those of Test Labels, as published.

        Raises:
            ValueError: If a band is unknown or given twice.
        """
        self.spec: SampleSpec = oscd_spec(bands)
        super().__init__(
            OSCD,
            batch_size,
            num_workers,
            root=root,
            bands=tuple(bands),
            val_cities=tuple(val_cities),
            patch_size=patch_size,
            overlap=overlap,
            threshold=threshold,
            test_cities=test_cities if test_cities is None else tuple(test_cities),
        )
        # patch_size would say that samples are cropped to it
        self.crop_size = crop_size

    def setup(self, stage: str) -> None:
        """Set up the data sets, and the statistics of the training split.

        Args:
            stage: Either 'fit', 'validate', 'test' or 'predict'.

        Raises:
            FileNotFoundError: If a split is missing.
            ValueError: If training would see no batch, the crop does not fit, there is
                no city to validate on but *stage* is 'validate', or the data set is at
                fault (see :class:`~torchgeo_specdm.datasets.oscd.OSCD`).
        """
        train: Any = self.train_dataset or OSCD(split='train', **self.kwargs)
        if stage == 'fit':
            name = f'OSCD in {self.kwargs["root"]}'
            refuse_empty_training(name, len(train), self.batch_size)
            size = tuple(train[0]['mask'].shape[-2:])
            require_patch(self.crop_size, size, 'crop_size')
            self.train_dataset = train
        if stage == 'validate' or (stage == 'fit' and self.kwargs['val_cities']):
            self.val_dataset = OSCD(split='val', cover=True, **self.kwargs)
        if stage == 'test':
            self.test_dataset = OSCD(split='test', cover=True, **self.kwargs)
        if stage == 'predict':
            self.predict_dataset = OSCD(split='test', cover=True, **self.kwargs)
        normalise(self, train, self.crop_size)

    # TorchGeo knows no list here, Lightning does
    def val_dataloader(  # type: ignore[override]
        self,
    ) -> DataLoader[dict[str, Tensor]] | list[Any]:
        """The batches to validate on; an empty list without *val_cities*.

        Returns:
            What Lightning takes for validation.
        """
        if not self.kwargs['val_cities']:
            return []
        loader: DataLoader[dict[str, Tensor]] = super().val_dataloader()
        return loader
