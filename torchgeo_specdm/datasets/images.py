# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A folder of images without labels."""

from pathlib import Path

import torch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from ..files import digest_files
from ..pairs.description import check_units, name_bands
from ..pairs.layout import find_rasters
from ..pairs.rasters import Place, Raster, measured_values, place_of, read_raster
from ..pairs.spec import SampleSpec


class ImageFolder(NonGeoDataset):
    """Images of one date in the units of labelled ones, to predict or to learn from.

    Dataset format:

    * ``<name>.tif``, or ``images/<name>.tif``: any size, and all bands of the spec, by
      their names where the files have names, else in their order; one file will do, too

    Samples are ``image``, float32 digital numbers (C, H, W), NaN where missing.
    """

    def __init__(
        self, root: str | Path, spec: SampleSpec, same_units: bool = False
    ) -> None:
        """Initialize a new ImageFolder instance.

        Args:
            root: The folder, or one file.
            spec: Description of the labelled samples that the images are like.
            same_units: Whether images are refused that name another scale or offset
                than the spec, which may have been guessed.

        Raises:
            FileNotFoundError: If there is no such folder or file.
            ValueError: If it holds no image, or the spec has several dates.
        """
        root = Path(root)
        found = find_rasters(root, 'images')
        if not found or spec.dates > 1:
            raise ValueError(
                f'{root} has {len(found)} images, for samples of {spec.dates} dates, '
                'but one or more images of one date are needed. Put in GeoTIFFs of all '
                'bands.'
            )
        self.root = root
        self.spec = spec
        self.same_units = same_units
        #: Sorted names of the images.
        self.ids = sorted(found)
        self._paths = found

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Load an image.

        Args:
            index: Position in :attr:`ids`.

        Returns:
            ``image`` (see the class).

        Raises:
            ValueError: If the file is broken, lacks a band, or names another scale or
                offset.
        """
        path, raster = self.read(index)
        names = name_bands(raster)
        wanted = self.spec.bands
        places = {name.casefold(): i for i, name in enumerate(names)}
        by_name = {name.casefold() for name in wanted} <= places.keys()
        if not by_name and (any(raster.names) or len(names) != len(wanted)):
            raise ValueError(
                f'{path} has the bands {names}, but {list(wanted)} are needed. Export '
                'it with these bands, and their names as descriptions.'
            )
        channels = [
            places[n.casefold()] if by_name else i for i, n in enumerate(wanted)
        ]
        if self.same_units:
            scales, offsets = (
                tuple(values[i] for i in channels)
                for values in (raster.scales, raster.offsets)
            )
            check_units(
                path, raster._replace(scales=scales, offsets=offsets), self.spec
            )
        values = measured_values(path, raster, self.spec.nodata, channels)
        return {'image': torch.from_numpy(values)}

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.read(index)[1].values.shape[-2:]
        return height, width

    def place(self, index: int) -> Place:
        """Coordinate reference system and transform of an image, if it has them."""
        return place_of(self._paths[self.ids[index]])

    def digest(self, images: bool = True) -> str:
        """Hash the names and files of the images.

        Args:
            images: Not looked at: there is nothing else.

        Returns:
            16 hexadecimal digits.
        """
        return digest_files({name: [self._paths[name]] for name in self.ids})

    def read(self, index: int) -> tuple[Path, Raster]:
        """Path and whole content of an image, its georeference too.

        Args:
            index: Position in :attr:`ids`.

        Returns:
            Both.
        """
        path = self._paths[self.ids[index]]
        return path, read_raster(path)
