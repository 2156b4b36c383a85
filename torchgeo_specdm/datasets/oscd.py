# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""OSCD dataset."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bands import SENTINEL2_WAVELENGTHS, TEN_BANDS
from ..choices import require_choice
from ..pairs.layout import SPLITS
from ..pairs.plotting import PlottedDataset
from ..pairs.spec import SampleSpec
from .oscd_files import LABELS, OSCDNotFoundError, Scene, find_cities, read_scene


class OSCD(PlottedDataset):
    """OSCD dataset.

    The `Onera Satellite Change Detection <https://rcdaudt.github.io/oscd/>`__ data set
    shows urban change between two Sentinel-2 images of a city.

    Dataset features:

    * 24 cities of 241x385 to 1180x1070 pixels at 10 m, 14 to train and 10 to test
    * two dates with all thirteen bands of Sentinel-2 each, as reflectance x 10000
    * 2.3 % of the pixels of the 14 cities have changed

    Dataset format (that of :class:`torchgeo.datasets.OSCD`), in the three folders
    ``Onera Satellite Change Detection dataset - {Images,Train Labels,Test Labels}``:

    * ``Images/<city>/imgs_{1,2}_rect/B??.tif``: uint16, all bands on one grid
    * or, in some releases, only ``Images/<city>/imgs_{1,2}/*_B??.tif`` at 10, 20 and
      60 m: these are resampled (bilinear) to the grid of the first date's B02 when they
      are first used, and kept in ``resampled/<city>`` under root; delete it to start
      anew
    * ``{Train,Test} Labels/<city>/cm/cm.png``: grey or RGB, with alpha or not

    Dataset classes:

    0. no change
    1. change

    Most masks hold 0 and 255 only. That of aguasclaras is RGB with grey values in
    between; as in TorchGeo, any value above 0 is change unless *threshold* says else.

    Splits are by city. A sample is a square tile of one city: ``image``, float32
    (2, C, H, W) in digital numbers, and ``mask``, int64 (1, H, W). Tiles follow a fixed
    grid. Scenes are read once and stay in memory as uint16: about 21 bytes a pixel with
    ten bands, 140 MB for the 14 cities.

    If you use this dataset in your research, please cite the following paper:

    * https://doi.org/10.1109/IGARSS.2018.8518015
    """

    all_bands = tuple(SENTINEL2_WAVELENGTHS)
    rgb_bands = ('B04', 'B03', 'B02')
    splits: ClassVar[tuple[str, ...]] = SPLITS
    classes: ClassVar[tuple[str, ...]] = ('no change', 'change')
    colormap: ClassVar[tuple[tuple[int, int, int], ...]] = ((0, 0, 0), (255, 220, 0))

    # ten parameters: TorchGeo's four, and six that each change what a sample is
    def __init__(
        self,
        root: str | Path = 'data',
        split: Literal['train', 'val', 'test'] = 'train',
        bands: Sequence[str] = TEN_BANDS,
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        val_cities: Sequence[str] = ('bordeaux',),
        patch_size: int = 256,
        overlap: float = 0.6,
        cover: bool = False,
        threshold: int = 1,
        test_cities: Sequence[str] | None = None,
    ) -> None:
        """Initialize a new OSCD instance.

        Args:
            root: The folder that holds the three extracted archives.
            split: One of 'train' (all other cities), 'val' (*val_cities*) or 'test'
                (*test_cities*).
            bands: Names of the bands to load, in this order.
            transforms: Function that takes a sample and returns a transformed version.
            val_cities: Cities to validate on, none of which is tested on.
            patch_size: Side of a tile in pixels.
            overlap: Share of a tile, from 0 to below 1, that the next one shows too.
            cover: Whether every pixel must be in a tile, as scores need it. Adds tiles
                flush with the far edges, mirrors cities that are smaller than a tile
                at their far edges, and adds ``tile`` to each sample, int64 (5,): the
                position in :attr:`scenes`, row and column of the first pixel, height
                and width of the scene. What reaches beyond these is mirrored.
            threshold: Least value in the mask, from 1 to 255, that means change.
            test_cities: Cities to test on, from both folders of labels, as for leaving
                cities out in turn; None for those of Test Labels, as published.

        Raises:
            FileNotFoundError: If the split is not there; the message tells how to get
                it.
            ValueError: If an argument is out of range, a file is missing or broken, a
                city is in two splits, its sizes differ or (without *cover*) it is
                smaller than a tile.
        """
        _check_arguments(split, patch_size, overlap, threshold)
        self.root = Path(root)
        self.split = split
        self.transforms = transforms
        self.patch_size = patch_size
        self.cover = cover
        self.spec = oscd_spec(bands)
        masks = _choose_cities(self.root, split, val_cities, test_cities)
        read = [
            read_scene(self.root, city, path, self.spec.bands, threshold)
            for city, path in masks.items()
        ]
        #: The cities, sorted by name.
        self.scenes: tuple[Scene, ...] = tuple(scene for scene, _, _ in read)
        least = patch_size if cover else 0
        self._images = [_mirror(image, least) for _, image, _ in read]
        self._masks = [_mirror(mask, least) for _, _, mask in read]
        stride = tile_stride(patch_size, overlap)
        self._tiles = [
            (number, *corner)
            for number, scene in enumerate(self.scenes)
            for corner in self._corners(scene, stride)
        ]

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self._tiles)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Load a tile.

        Args:
            index: Tiles are sorted by city, row and column.

        Returns:
            ``image``, float32 (2, C, H, W) in digital numbers, ``mask``, int64
            (1, H, W), and with *cover* ``tile``, int64 (5,).
        """
        number, row, column = self._tiles[index]
        size = self.patch_size
        window = (..., slice(row, row + size), slice(column, column + size))
        # astype copies: nobody can write into the scene
        image = self._images[number][window].astype(np.float32)
        mask = self._masks[number][window].astype(np.int64)
        sample = {
            'image': torch.from_numpy(image),
            'mask': torch.from_numpy(mask).unsqueeze(0),
        }
        if self.cover:
            scene = self.scenes[number]
            tile = (number, row, column, scene.height, scene.width)
            sample['tile'] = torch.tensor(tile)
        return sample if self.transforms is None else self.transforms(sample)

    @property
    def places(self) -> list[str]:
        """The city of each tile: tiles of one city are alike."""
        return [self.scenes[number].name for number, _, _ in self._tiles]

    def corner(self, index: int) -> tuple[int, int]:
        """Row and column of the first pixel of a tile in its city."""
        _, row, column = self._tiles[index]
        return row, column

    def sharing_ground(self, index: int) -> list[bool]:
        """Whether each tile shows ground that a tile shows too.

        Args:
            index: Index of the tile whose ground is looked for.

        Returns:
            One truth value for each tile; its own is True.
        """
        number, row, column = self._tiles[index]
        return [
            number == n
            and abs(row - r) < self.patch_size
            and abs(column - c) < self.patch_size
            for n, r, c in self._tiles
        ]

    def _corners(self, scene: Scene, stride: int) -> list[tuple[int, int]]:
        """Row and column of the tiles of a city."""
        size = (scene.height, scene.width)
        corners = tile_grid(*size, self.patch_size, stride, self.cover)
        if not corners:
            raise ValueError(
                f'{scene.name} has {size[0]}x{size[1]} pixels, but a tile has '
                f'patch_size={self.patch_size}, so the city would be left out. Use a '
                f'patch_size up to {min(size)}, or cover=True, which mirrors its edges.'
            )
        return corners


def oscd_spec(bands: Sequence[str] = TEN_BANDS) -> SampleSpec:
    """Describe the samples of OSCD.

    Args:
        bands: Names of the bands that are loaded.

    Returns:
        The spec.

    Raises:
        ValueError: If a name is unknown or given twice.
    """
    spec = SampleSpec(OSCD.all_bands, OSCD.classes, dates=2, colors=OSCD.colormap)
    return spec.choose_bands(bands)


def tile_stride(patch_size: int, overlap: float) -> int:
    """Pixels from one tile to the next.

    Args:
        patch_size: Side of a tile in pixels.
        overlap: Share of a tile, from 0 to below 1, that the next one shows too.

    Returns:
        A whole number, rounded down, 1 or more.
    """
    # 20 * (1 - 0.9) is a little below 2
    return max(1, int(patch_size * (1 - overlap) + 1e-9))


def tile_grid(
    height: int, width: int, patch_size: int, stride: int, cover: bool = False
) -> list[tuple[int, int]]:
    """Where the tiles of a scene begin.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        patch_size: Side of a tile in pixels.
        stride: Pixels from one tile to the next.
        cover: Whether to add tiles flush with the far edges where pixels are left, so
            that with a stride up to *patch_size* every pixel is in a tile. A scene
            that is smaller than a tile then has one that reaches beyond it.

    Returns:
        Row and column of the first pixel of each tile, sorted.
    """
    rows, columns = (
        _starts(length, patch_size, stride, cover) for length in (height, width)
    )
    return [(row, column) for row in rows for column in columns]


def _starts(length: int, patch_size: int, stride: int, cover: bool) -> list[int]:
    """Where tiles begin along one side."""
    starts = list(range(0, length - patch_size + 1, stride))
    last = max(length - patch_size, 0)
    return [*starts, last] if cover and last not in starts else starts


def _mirror(planes: NDArray[Any], least: int) -> NDArray[Any]:
    """Mirror planes (..., H, W) at their far edges up to a least height and width."""
    missing = [max(least - length, 0) for length in planes.shape[-2:]]
    widths = [(0, 0)] * (planes.ndim - 2) + [(0, count) for count in missing]
    return np.pad(planes, widths, mode='symmetric') if any(missing) else planes


def _choose_cities(
    root: Path, split: str, val_cities: Sequence[str], test_cities: Sequence[str] | None
) -> dict[str, Path]:
    """The masks of the cities of a split."""
    cities = find_cities(root)
    if test_cities is not None:
        cities = _leave_out(root, cities, test_cities)
    folder = 'test' if split == 'test' else 'train'
    if not cities[folder]:
        raise OSCDNotFoundError(root, f'city in {LABELS[folder]}')
    if split == 'test':
        return cities['test']
    unknown = [city for city in val_cities if city not in cities['train']]
    if unknown:
        raise ValueError(
            f'val_cities has {unknown}, but the cities of {root} that are not tested on '
            f'are {list(cities["train"])}. Choose from these.'
        )
    validating = split == 'val'
    chosen = {
        city: path
        for city, path in cities['train'].items()
        if (city in val_cities) == validating
    }
    if not chosen:
        raise ValueError(
            f'val_cities={list(val_cities)} leaves no city for split={split!r}; the '
            f'training cities are {list(cities["train"])}. Hold out some of these, not '
            'all.'
        )
    return chosen


def _leave_out(
    root: Path, cities: dict[str, dict[str, Path]], test_cities: Sequence[str]
) -> dict[str, dict[str, Path]]:
    """Test on some cities of either folder, and train on all others."""
    every = dict(sorted((cities['train'] | cities['test']).items()))
    chosen = {city: path for city, path in every.items() if city in test_cities}
    if not chosen or len(chosen) < len(set(test_cities)) or chosen == every:
        raise ValueError(
            f'test_cities={list(test_cities)} must be some, but not all, of the cities '
            f'of {root}: {list(every)}. Leave it out for those of Test Labels.'
        )
    others = {city: path for city, path in every.items() if city not in chosen}
    return {'train': others, 'test': chosen}


def _check_arguments(
    split: str, patch_size: int, overlap: float, threshold: int
) -> None:
    require_choice('split', split, SPLITS)
    if patch_size < 1:
        raise ValueError(
            f'patch_size={patch_size} must be 1 pixel or more. Use for example 256.'
        )
    if not 0 <= overlap < 1:
        raise ValueError(
            f'overlap={overlap} is a share and must be in 0..1, below 1. Use for '
            'example 0.6.'
        )
    if not 1 <= threshold <= 255:
        raise ValueError(
            f'threshold={threshold} must be in 1..255, as masks are. Use 1 for any '
            'value above 0, or 128 for half.'
        )
