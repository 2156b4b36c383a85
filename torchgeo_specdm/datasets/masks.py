# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A folder of masks without images, drawn by hand perhaps."""

from pathlib import Path

import torch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from ..files import digest_files
from ..pairs.codes import class_positions, read_codes
from ..pairs.layout import find_rasters
from ..pairs.rasters import Place, place_of
from ..pairs.spec import SampleSpec


class MaskFolder(NonGeoDataset):
    """Masks in the codes of the labelled samples that a generator has learned from.

    Dataset format:

    * ``<name>.tif``, or ``masks/<name>.tif``: one band of class codes, of any size;
      ``.png`` will do, too, and one file instead of a folder

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
        self.root = Path(root)
        self._paths = find_rasters(self.root, 'masks')
        if not self._paths:
            raise ValueError(f'{root} has 0 masks. Put in .tif or .png files.')
        self.spec = spec
        #: Sorted names of the masks.
        self.ids = sorted(self._paths)

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Load a mask.

        Args:
            index: Position in :attr:`ids`.

        Returns:
            ``mask`` (see the class).

        Raises:
            ValueError: If the file is broken, or has a value that is no class.
        """
        path = self.mask_path(self.ids[index])
        remedy = 'These are the codes of the generator: draw the mask with them.'
        codes = read_codes(path, None, self.spec.labels)
        mask = class_positions(codes, self.spec, path, remedy)
        return {'mask': torch.from_numpy(mask[None] if self.spec.dates > 1 else mask)}

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a mask."""
        height, width = self[index]['mask'].shape[-2:]
        return height, width

    def mask_path(self, name: str) -> Path:
        """The file of a mask."""
        return self._paths[name]

    def place(self, index: int) -> Place:
        """Coordinate reference system and transform of a mask, if it has them."""
        return place_of(self.mask_path(self.ids[index]))

    def digest(self, images: bool = False) -> str:
        """Hash the names and files of the masks.

        Args:
            images: Not looked at: there are none.

        Returns:
            16 hexadecimal digits.
        """
        return digest_files({name: [self.mask_path(name)] for name in self.ids})
