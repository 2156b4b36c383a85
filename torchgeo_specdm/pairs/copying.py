# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Folders of pairs whose images are copies, byte for byte, of another folder's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..files import write_verified
from .geotiffs import write_class_raster
from .layout import image_stems
from .rasters import place_of
from .writer import PairWriter


class CopyWriter(PairWriter):
    """Writes new masks for images that are there already."""

    def copy(
        self,
        name: str,
        image: NDArray[Any],
        paths: Sequence[Path],
        mask: NDArray[Any],
        record: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        """Copy the images of a sample and write its mask and manifest line.

        Args:
            name: The sample's id.
            image: Content of the images, (C, H, W) or (T, C, H, W).
            paths: The image of each date.
            mask: Class positions or the ignore index (H, W).
            record: Further entries of the line, ``index`` among them.
            tags: Further tags of the mask.

        Raises:
            OSError: If a file cannot be written as it should be.
            ValueError: If the sample is not what the spec says.
        """
        self._check(name, image if image.ndim == 4 else image[None], mask)
        files = {}
        for stem, path in zip(image_stems(name, self.spec.dates), paths, strict=True):
            file = f'images/{stem}{path.suffix}'
            files[file] = write_verified(self.root / file, path.read_bytes())
        file = f'masks/{name}.tif'
        tags = {'SYNTHETIC': 'YES', 'SAMPLE': name, **tags}
        files[file] = write_class_raster(
            self.root / file, mask, self.spec, tags, **place_of(paths[0])
        )
        self.append({'id': name, **record, 'accepted': True, 'files': files})
