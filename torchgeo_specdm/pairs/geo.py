# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Tiles of TorchGeo's data sets of rasters, whose samples are boxes of coordinates."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import rasterio
import shapely
import torch
from rasterio.transform import from_origin
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datasets import GeoDataset

from ..bars import bar
from .codes import whole_code
from .cutting import BLOCK
from .rasters import Place
from .spec import USUAL_IGNORE, fits_dtype, free_code

_log = logging.getLogger(__name__)

#: Values that masks of classes hold at most.
_MOST_CLASSES = 256
#: Share of a pixel by which a tile may reach beyond its file, for rounding.
_SLACK = 0.01


class GeoTile(NamedTuple):
    """A tile of the grid."""

    place: str  #: block of the grid, which no other block shares ground with
    row: int  #: of the upper left pixel, in the block
    column: int  #: of the upper left pixel, in the block
    left: float  #: coordinate of its left side
    top: float  #: coordinate of its upper side
    time: Any  #: interval in which its file was taken


class GeoTiles(Dataset[dict[str, Tensor]]):
    """The tiles of a data set of rasters with labels, by a grid over its index.

    There is one grid for all files of a coordinate reference system: blocks of four by
    four tiles are the places, and no tile lies in two of them. Grids are moved by less
    than half a pixel onto the pixels of each file, so that nothing is resampled for it.

    Samples are ``image``, float32 (C, H, W), and ``mask``, int64 (H, W) of class
    positions, 255 where there is no label.
    """

    def __init__(
        self, dataset: GeoDataset, tile: int, stride: int, area: shapely.Geometry
    ) -> None:
        """Initialize a new GeoTiles instance.

        Args:
            dataset: Gives samples with ``image`` and ``mask``.
            tile: Side of a tile in pixels.
            stride: Pixels from tile to tile within a block.
            area: The part of the data set to take, in its coordinates.
        """
        self.dataset = dataset
        self.tile = tile
        found = _grid(dataset, tile, stride, area)
        # files of one time are merged where they overlap
        once = {(t.place, t.row, t.column, t.time): t for t in found}
        #: The tiles, in order of the files; none is there twice.
        self.tiles = [*once.values()]
        #: Value of each class in the masks of the data set, once it is known.
        self.codes: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.tiles)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Load a tile.

        Args:
            index: Position in :attr:`tiles`.

        Returns:
            The sample (see the class).

        Raises:
            ValueError: If the data set gives another size than that of a tile.
        """
        sample = self._load(self.tiles[index])
        found = sample['mask'].reshape(sample['mask'].shape[-2:])
        mask = torch.full_like(found, USUAL_IGNORE, dtype=torch.int64)
        for position, code in enumerate(self.codes):
            mask[found == code] = position
        return {'image': sample['image'].float(), 'mask': mask}

    @property
    def places(self) -> list[str]:
        """The block of each tile."""
        return [tile.place for tile in self.tiles]

    def corner(self, index: int) -> tuple[int, int]:
        """Row and column of a tile in its block."""
        return self.tiles[index].row, self.tiles[index].column

    def place(self, index: int) -> Place:
        """Coordinate reference system and transform of a tile."""
        tile = self.tiles[index]
        corner = from_origin(tile.left, tile.top, *self.dataset.res)
        return {'crs': self.dataset.crs, 'transform': corner}

    def codes_in_masks(self) -> list[int]:
        """Values in the masks of all tiles, sorted, without those that are no codes.

        Raises:
            ValueError: If there are too many of them for classes.
        """
        found: set[int] = set()
        for tile in bar(self.tiles, 'masks', hidden=len(self) < 100):
            mask = self._load(tile)['mask']
            found |= {*torch.unique(mask).tolist()}
            if len(found) > _MOST_CLASSES:
                raise ValueError(
                    f'The masks of {type(self.dataset).__name__} hold more than '
                    f'{_MOST_CLASSES} values, so they are no classes.'
                )
        # what NaN and the lowest number of 32 bits become is far below
        return sorted(code for code in found if whole_code(code) is not None)

    def _load(self, tile: GeoTile) -> dict[str, Tensor]:
        """Read what the data set has in the box of x, y and time of a tile."""
        width, height = (self.tile * step for step in self.dataset.res)
        box = (
            slice(tile.left, tile.left + width),
            slice(tile.top - height, tile.top),
            slice(tile.time.left, tile.time.right),
        )
        sample: dict[str, Tensor] = self.dataset[box]
        for key in ('image', 'mask'):
            size = tuple(sample[key].shape[-2:])
            if size != (self.tile, self.tile):
                raise ValueError(
                    f'{type(self.dataset).__name__} gives a {key} of {size} pixels for '
                    f'a box of {self.tile} x {self.tile} in {self.dataset.crs}, so it '
                    'is not known where they lie. Cut its files instead: export '
                    f'--images SCENE --labels LABELS --tile {self.tile}.'
                )
        return sample


def _grid(
    dataset: GeoDataset, tile: int, stride: int, area: shapely.Geometry
) -> Iterator[GeoTile]:
    """The tiles of all files that lie in an area."""
    width, height = dataset.res
    near = area.buffer(_SLACK * width)
    for time, footprint in zip(
        dataset.index.index, dataset.index.geometry, strict=True
    ):
        west, south, east, north = footprint.bounds
        inside = near.intersection(footprint.buffer(_SLACK * width))
        # rows are counted downwards
        rows = _starts(-north / height, -south / height, tile, stride)
        columns = [*_starts(west / width, east / width, tile, stride)]
        for first_row, block_row, row in rows:
            top = north - first_row * height
            for first_column, block_column, column in columns:
                left = west + first_column * width
                right, bottom = left + tile * width, top - tile * height
                if inside.covers(shapely.box(left, bottom, right, top)):
                    place = f'{block_row}_{block_column}'
                    yield GeoTile(place, row, column, left, top, time)


def _starts(
    start: float, stop: float, tile: int, stride: int
) -> Iterator[tuple[int, int, int]]:
    """Where tiles begin along a side, from *start* to *stop* in pixels of the world.

    Yields:
        Pixels from the start, number of the block, and pixels in the block.
    """
    first, last = round(start), round(stop)
    block = BLOCK * tile
    for number in range(first // block, last // block + 1):
        for inside in range(0, block - tile + 1, stride):
            pixel = number * block + inside
            if first <= pixel and pixel + tile <= last:
                yield pixel - first, number, inside


def drop_shared_ground(sets: Mapping[str, GeoTiles]) -> None:
    """Take tiles out of training that show ground of the other splits.

    Args:
        sets: Tiles by the name of their split; those of later splits stay.
    """
    seen: dict[str, list[tuple[int, int]]] = {}
    for split in reversed([*sets]):
        tiles, size = sets[split], sets[split].tile
        kept = [
            tile
            for tile in tiles.tiles
            if not any(
                abs(tile.row - row) < size and abs(tile.column - column) < size
                for row, column in seen.get(tile.place, ())
            )
        ]
        if len(kept) < len(tiles):
            _log.warning(
                '%d of %d tiles of %s are left out: they show ground of other splits.',
                len(tiles) - len(kept),
                len(tiles),
                split,
            )
        tiles.tiles = kept
        for tile in kept:
            seen.setdefault(tile.place, []).append((tile.row, tile.column))


def said_by_files(sets: Mapping[str, GeoTiles]) -> dict[str, Any]:
    """Read what files and data sets say of their samples.

    Args:
        sets: Tiles by the name of their split; they are told the codes of the classes.

    Returns:
        Fields of :class:`.SampleSpec`.
    """
    first = next(iter(sets.values()))
    parts = [*parts_of(first.dataset)]
    found: dict[str, Any] = {'ignore_index': USUAL_IGNORE}
    for part in parts:
        if getattr(part, 'is_image', False):
            bands = first[0]['image'].shape[0]
            found |= _said_by_raster(part.files[0], bands)
    for field in ('bands', 'classes'):
        for part in parts:
            names = getattr(part, field, None) or ()
            if names and all(isinstance(name, str) for name in names):
                found[field] = tuple(names)
    if 'classes' in found:
        codes = [*range(len(found['classes']))]
    else:
        gaps = {*_nodata_of_masks(parts)}
        seen = {c for tiles in sets.values() for c in tiles.codes_in_masks()}
        codes = sorted(seen - gaps)
        found['classes'] = tuple(f'class_{code}' for code in codes)
        found['no_label'] = sorted(gaps) or [free_code(codes)]
    found['codes'] = codes
    for tiles in sets.values():
        tiles.codes = tuple(codes)
    for part in parts:
        table = getattr(part, 'cmap', None)
        # a table by value; since TorchGeo 0.10 it may be a colormap of matplotlib
        if not isinstance(table, Mapping) or getattr(part, 'is_image', True):
            continue
        if {*codes} <= {*table}:
            found['colors'] = [[*table[code][:3]] for code in codes]
    return found


def parts_of(dataset: Any) -> Iterator[Any]:
    """A data set of rasters and all that it is put together from.

    Args:
        dataset: The data set.

    Yields:
        It, and its parts.
    """
    yield dataset
    for part in getattr(dataset, 'datasets', ()):
        yield from parts_of(part)


def _nodata_of_masks(parts: Iterable[Any]) -> Iterator[int]:
    """Values that the first files of masks name as nodata, and that can be codes."""
    for part in parts:
        if not getattr(part, 'is_image', True):
            with rasterio.open(part.files[0]) as raster:
                code = whole_code(raster.nodata)
            if code is not None:
                yield code


def _said_by_raster(path: str, bands: int) -> dict[str, Any]:
    """Type, units, nodata and names of a file, as far as it has all of these bands."""
    with rasterio.open(path) as raster:
        dtype = np.dtype(raster.dtypes[0]).name
        # whole numbers of 64 bits are floating-point ones in samples
        dtype = 'float64' if dtype in ('int64', 'uint64') else dtype
        said: dict[str, Any] = {'dtype': dtype}
        whole = raster.count == bands
        names = {*raster.descriptions} - {None, ''}
        if whole and len(names) == bands:
            said['bands'] = raster.descriptions
        if raster.nodata is not None and fits_dtype(raster.nodata, dtype):
            said['nodata'] = raster.nodata
        if {*raster.scales} != {1.0} or {*raster.offsets} != {0.0}:
            units = {'scale': raster.scales, 'offset': raster.offsets}
            said |= units if whole else {key: units[key][0] for key in units}
        elif dtype == 'uint8':
            said['scale'] = 1 / 255
        elif not dtype.startswith('float'):
            said['scale'] = 1e-4
        return said
