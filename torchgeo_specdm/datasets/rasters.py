# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Folders of images without labels, and of masks without images."""

from pathlib import Path

import torch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from ..files import digest_files
from ..pairs.codes import class_positions, read_codes
from ..pairs.description import check_units, name_bands
from ..pairs.layout import find_rasters, read_list
from ..pairs.rasters import Place, Raster, measured_values, place_of, read_raster
from ..pairs.spec import SampleSpec


class RasterFolder(NonGeoDataset):
    """Rasters of one kind, each a sample, by their names.

    Args:
        root: The folder, or one file.
        kind: ``images`` or ``masks``: a folder in the folder that may hold them.
        spec: Description of the labelled samples that they are like.
    """

    def __init__(self, root: str | Path, kind: str, spec: SampleSpec) -> None:
        """Look for the files.

        Raises:
            FileNotFoundError: If there is no such folder or file.
        """
        self.root = Path(root)
        self.spec = spec
        self._paths = find_rasters(self.root, kind)
        #: Sorted names of the files.
        self.ids = sorted(self._paths)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.ids)

    def path(self, index: int) -> Path:
        """The file of a sample."""
        return self._paths[self.ids[index]]

    def place(self, index: int) -> Place:
        """Coordinate reference system and transform of a sample, if it has them."""
        return place_of(self.path(index))

    def digest(self, images: bool = True, masks: bool = True) -> str:
        """Hash the names and files.

        Args:
            images: Not looked at: there is only one kind.
            masks: Not looked at either.

        Returns:
            16 hexadecimal digits.
        """
        return digest_files({name: [self._paths[name]] for name in self.ids})


class ImageFolder(RasterFolder):
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
        super().__init__(root, 'images', spec)
        if not self.ids or spec.dates > 1:
            raise ValueError(
                f'{root} has {len(self)} images, for samples of {spec.dates} dates, '
                'but one or more images of one date are needed. Put in GeoTIFFs of all '
                'bands.'
            )
        self.same_units = same_units

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

    def read(self, index: int) -> tuple[Path, Raster]:
        """Path and whole content of an image, its georeference too.

        Args:
            index: Position in :attr:`ids`.

        Returns:
            Both.
        """
        path = self.path(index)
        return path, read_raster(path, bands=self.spec.num_bands)


class MaskFolder(RasterFolder):
    """Masks in the codes of the labelled samples that a generator has learned from.

    Dataset format:

    * ``<name>.tif``, or ``masks/<name>.tif``: one band of class codes, of any size;
      ``.png`` will do, too, and one file instead of a folder
    * ``train.txt``, there or beside a folder ``masks``: names of the masks to take,
      one a line; else all (optional)

    Samples are ``mask``, int64 class positions (H, W), or (1, H, W) with several dates.
    """

    def __init__(self, root: str | Path, spec: SampleSpec) -> None:
        """Initialize a new MaskFolder instance.

        Args:
            root: The folder, or one file.
            spec: Description of the labelled samples.

        Raises:
            FileNotFoundError: If there is no such folder or file.
            ValueError: If it holds no mask.
        """
        super().__init__(root, 'masks', spec)
        home = self.root.parent if self.root.name == 'masks' else self.root
        if (home / 'train.txt').exists():
            # test masks must not end up in training data
            listed = read_list(home, 'train')
            self.ids = [name for name in self.ids if name in listed]
        if not self.ids:
            raise ValueError(f'{root} has 0 masks. Put in .tif or .png files.')

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Load a mask.

        Args:
            index: Position in :attr:`ids`.

        Returns:
            ``mask`` (see the class).

        Raises:
            ValueError: If the file is broken, or has a value that is no class.
        """
        path = self.path(index)
        remedy = 'These are the codes of the generator: draw the mask with them.'
        codes = read_codes(path, None, self.spec.labels)
        mask = class_positions(codes, self.spec, path, remedy)
        return {'mask': torch.from_numpy(mask[None] if self.spec.dates > 1 else mask)}

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a mask."""
        height, width = self[index]['mask'].shape[-2:]
        return height, width
