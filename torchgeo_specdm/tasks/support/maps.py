# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Class maps of images, as GeoTIFFs that lie where the images lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ...datasets.rasters import ImageFolder
from ...pairs.geotiffs import write_class_raster

#: Folder of the maps, in the trainer's ``default_root_dir``.
MAPS = 'maps'


class ClassMapWriter(BasePredictionWriter):
    """Writes what a segmentation task predicts in an :class:`ImageFolder`.

    The maps have the georeference of the images and the codes, names and colours of
    the classes. Pixels that miss all bands have no label.
    """

    def __init__(self) -> None:
        """Initialize a new ClassMapWriter instance."""
        super().__init__('batch')

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the maps of a batch.

        Args:
            trainer: Has the datamodule, and the folder to write to.
            pl_module: The task.
            prediction: Class positions (B, H, W).
            batch_indices: Positions of the images in their data set.
            batch: Not looked at.
            batch_idx: Not looked at.
            dataloader_idx: Not looked at.
        """
        data = getattr(trainer, 'datamodule', None)
        images = getattr(data, 'predict_dataset', None)
        if not isinstance(images, ImageFolder) or not isinstance(prediction, Tensor):
            return
        folder = Path(trainer.default_root_dir) / MAPS
        folder.mkdir(parents=True, exist_ok=True)
        for index, classes in zip(batch_indices or (), prediction, strict=True):
            _, raster = images.read(index)
            mask = classes.cpu().numpy()
            mask = np.where(raster.valid.any(axis=0), mask, -1)
            place = {'crs': raster.crs, 'transform': raster.transform}
            path = folder / f'{images.ids[index]}.tif'
            write_class_raster(path, mask, images.spec, **(place if raster.crs else {}))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the maps are.

        Args:
            trainer: Has the folder.
            pl_module: The task.
        """
        folder = Path(trainer.default_root_dir) / MAPS
        if folder.is_dir():
            rank_zero_info('%d maps are in %s.', len([*folder.glob('*.tif')]), folder)
