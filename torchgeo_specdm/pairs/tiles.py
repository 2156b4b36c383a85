# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The samples of a data set, cut into tiles one at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

#: Samples that are kept: one of a tile, and one of its control.
_KEPT = 2


class Tiles(NamedTuple):
    """Tiles in memory.

    Attributes:
        images: Digital numbers (N, C, H, W), or (N, T, C, H, W) with T dates.
        masks: Class positions (N, H, W).
    """

    images: Tensor
    masks: Tensor


class TileDataset(Dataset[dict[str, Tensor]]):
    """Tiles side by side, read when they are asked for; what is left over is dropped.

    Samples are dicts of tensors:

    * ``image``: digital numbers (C, H, W), or (T, C, H, W) with T dates
    * ``mask``: class positions (H, W)
    * ``other_mask``: the mask of a tile of another sample, as a control
    * ``index``: number of the tile
    * ``place``: number of the place that it shows; :attr:`places` has their names
    """

    def __init__(self, dataset: Any, size: tuple[int, int]) -> None:
        """Initialize a new TileDataset instance.

        Args:
            dataset: A map-style data set of samples of one size, with ``image`` and
                ``mask``; the place of each sample is read from its list ``places``,
                else each sample is a place of its own.
            size: Height and width of a tile in pixels.

        Raises:
            ValueError: If the data set has fewer than two samples, or they are smaller
                than a tile.
        """
        if len(dataset) < 2:
            raise ValueError(
                f'{len(dataset)} samples cannot be measured: two or more are needed, '
                'to compare each with others. Add samples.'
            )
        self.dataset = dataset
        self.size = size
        self._kept: dict[int, dict[str, Tensor]] = {}
        #: Height and width of a sample in pixels.
        self.whole: tuple[int, ...] = tuple(self._read(0)['mask'].shape[-2:])
        height, width = self.whole
        # at random, as sets may repeat themselves with any period; in a ring, so that
        # no sample gets its own mask and each mask is used once
        random = torch.Generator().manual_seed(0)
        ring: list[int] = torch.randperm(len(dataset), generator=random).tolist()
        self._other = dict(zip(ring, ring[1:] + ring[:1], strict=True))
        self._rows: int = height // size[0]
        self._columns: int = width // size[1]
        if not self._rows * self._columns:
            raise ValueError(
                f'Samples of {height} x {width} pixels are smaller than tiles of '
                f'{size[0]} x {size[1]}, the size of the generated patches. Generate '
                'smaller patches, or use larger real ones.'
            )
        named = getattr(dataset, 'places', None) or range(len(dataset))
        #: Name of each place.
        self.places = list(dict.fromkeys(named))
        numbers = {name: number for number, name in enumerate(self.places)}
        #: Number of the place of each sample.
        self.place_of_sample = [numbers[name] for name in named]

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.dataset) * self._rows * self._columns

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One tile (see the class)."""
        image, mask = self.cut(index)
        sample, corner = divmod(index, self._rows * self._columns)
        _, other = self.cut(self._other[sample] * self._rows * self._columns + corner)
        place = self.place_of_sample[sample]
        return {
            'image': image,
            'mask': mask,
            'other_mask': other,
            'index': torch.tensor(index),
            'place': torch.tensor(place),
        }

    def sample_of(self, index: int) -> int:
        """Number of the sample that a tile was cut from."""
        return index // (self._rows * self._columns)

    def cut(self, index: int) -> tuple[Tensor, Tensor]:
        """Cut one tile.

        Args:
            index: Number of the tile: sample by sample, row by row.

        Returns:
            Its image and its mask (H, W).

        Raises:
            ValueError: If the sample differs in size from the first one.
        """
        number, corner = divmod(index, self._rows * self._columns)
        sample = self._read(number)
        whole = tuple(sample['mask'].shape[-2:])
        if whole != self.whole:
            raise ValueError(
                f'Sample {number} has {whole} pixels, but all must have {self.whole}, '
                'the size of the first. Cut them alike.'
            )
        row, column = divmod(corner, self._columns)
        height, width = self.size
        top, left = row * height, column * width
        window = (..., slice(top, top + height), slice(left, left + width))
        # copies: a view would keep the whole sample in memory
        image, mask = sample['image'][window].clone(), sample['mask'][window].clone()
        return image, mask.reshape(height, width)

    def spread(self, limit: int) -> Tiles:
        """Some tiles, evenly spread since neighbours are alike.

        Args:
            limit: Largest number of tiles, 1 or more.

        Returns:
            The tiles.
        """
        count = min(limit, len(self))
        images, masks = zip(
            *(self.cut(i * len(self) // count) for i in range(count)), strict=True
        )
        return Tiles(torch.stack(images), torch.stack(masks))

    def sharing_ground(self, number: int) -> Tensor:
        """Tell the samples that may show ground that a sample shows too.

        Args:
            number: Number of the sample whose ground is looked for.

        Returns:
            Boolean, one for each sample; its own is True. Those of its place, unless
            the data set has a method of this name that knows better.
        """
        known = getattr(self.dataset, 'sharing_ground', None)
        if known is not None:
            return torch.tensor(known(number))
        places = torch.tensor(self.place_of_sample)
        return places == places[number]

    def _read(self, number: int) -> dict[str, Tensor]:
        """A sample, from memory if it was among the last read: tiles follow tiles."""
        sample = self._kept.pop(number, None)
        self._kept[number] = self.dataset[number] if sample is None else sample
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return self._kept[number]
