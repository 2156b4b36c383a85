# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A scene and its labels, cut into a folder of pairs."""

import contextlib
import logging
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import MemoryFile
from rasterio.enums import MaskFlags
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.windows import Window, transform

from ..bars import bar
from ..files import write_atomically
from .arrays import ARRAYS
from .classes import CLASSES, names_of
from .codes import MISSING, codes_of, nodata_code, read_codes
from .geotiffs import write_categories
from .layout import PLACES, PlacedSample, write_table
from .rasters import open_raster, pixels_apart, read_raster
from .spec import free_code

_log = logging.getLogger(__name__)

#: Sides of a place, in tiles of a scene: a block that one split has as a whole.
BLOCK = 4
#: A scene too small for so many blocks is divided into smaller ones: training,
#: validation and test need two places each.
_FEWEST_BLOCKS = 6
#: Highest code of classes whose names are written beside each mask.
_MOST_NAMED = 255
#: Highest whole number that rasters of polygons hold.
_MOST_CODE = 2**31 - 1
#: Share of a pixel by which labels may lie beside the scene, for rounding.
_SLACK = 0.01


def export_scene(
    image: Path,
    labels: Path,
    out: Path,
    tile: int,
    stride: int | None = None,
    attribute: str | None = None,
    background: str | None = None,
) -> int:
    """Cut a scene and its labels into a folder of pairs.

    The scene is divided into blocks of four by four tiles, or of fewer where there
    would be fewer than six blocks; in the smallest scenes, blocks are as large as lets
    most tiles lie in one. Blocks are the places of the folder, and no tile lies in two
    of them: so splits by place share no ground. Tiles without a valid or a labelled
    pixel are left out.

    Args:
        image: Georaster of all bands, or a file of arrays (:mod:`.arrays`) such as a
            cube of MATLAB.
        labels: Georaster or array of class codes on the same grid, or a file of
            polygons, such as a GeoPackage, in any coordinate reference system.
        out: Folder to write, empty or new.
        tile: Side of a tile in pixels.
        stride: Pixels between the corners of two tiles; *tile* if None.
        attribute: Column of the polygons with the code or the name of their class;
            None for the only one. Polygons without a value there are left out, and of
            polygons that overlap the last one counts.
        background: Name of the class outside of all polygons; None if these pixels have
            no label.

    Returns:
        Number of pairs.

    Raises:
        FileExistsError: If the folder holds something.
        ValueError: If scene and labels do not lie on one grid, tiles do not fit, or no
            tile is left.
    """
    _require_new(out)
    step = stride or tile
    if not 1 <= step <= tile:
        raise ValueError(
            f'tile={tile} must be 1 or more, and stride={stride} from 1 to {tile}.'
        )
    places = []
    with _open_scene(image, labels) as scene:
        reader = _Labels(labels, scene, attribute, background)
        shape = (scene.height, scene.width)
        block = _block_side(shape, tile, step)
        corners = [*_block_corners(shape, tile, step, block)]
        for row, column, place in bar(corners, 'tiles', hidden=len(corners) < 100):
            window = Window(column, row, tile, tile)
            mask = reader.read(window)
            seen = scene.dataset_mask(window=window).any()
            if seen and not (mask == reader.empty).all():
                name = f'{row:05d}_{column:05d}'
                places.append(PlacedSample(name, place, row, column))
                _copy_window(scene, window, out / 'images' / f'{name}.tif')
                reader.write(mask, window, out / 'masks' / f'{name}.tif')
    if not places:
        raise ValueError(
            f'{image} has no tile of {tile} pixels with a valid and labelled pixel. Take '
            'a smaller tile, or look whether scene and labels overlap.'
        )
    if len(places) < len(corners):
        _log.warning(
            '%s: %d of %d tiles are left out, without a valid or a labelled pixel.',
            image,
            len(corners) - len(places),
            len(corners),
        )
    reader.write_classes(out)
    write_table(out / PLACES, PlacedSample._fields, places)
    return len(places)


@contextlib.contextmanager
def _open_scene(image: Path, labels: Path) -> Iterator[Any]:
    """Open a scene; one of arrays as a georaster that lies nowhere."""
    if image.suffix.lower() not in ARRAYS:
        with open_raster(image) as scene:
            if len(scene.subdatasets) > 1:
                raise ValueError(
                    f'{image} holds {len(scene.subdatasets)} data sets or pages, but one '
                    'with all bands is needed. Write it so with gdal_translate or '
                    'rasterio.'
                )
            if np.dtype(scene.dtypes[0]).kind == 'c':
                raise ValueError(
                    f'{image} holds complex numbers, but images must be real. Export '
                    'amplitude or intensity.'
                )
            yield scene
        return
    raster = read_raster(image, read_codes(labels).shape)
    count, height, width = raster.values.shape
    with MemoryFile() as memory:
        with memory.open(
            driver='GTiff',
            count=count,
            height=height,
            width=width,
            dtype=raster.values.dtype,
            nodata=raster.nodata,
        ) as target:
            target.write(raster.values)
            for band, wavelength in enumerate(raster.wavelengths, start=1):
                if wavelength is not None:
                    target.update_tags(band, WAVELENGTH_NM=str(wavelength))
        with memory.open() as scene:
            yield scene


class _Labels:
    """Class codes of a scene, from a raster or from polygons."""

    def __init__(
        self, path: Path, scene: Any, attribute: str | None, background: str | None
    ) -> None:
        self.scene = scene
        self.names: dict[int, str] = {}
        self.codes: NDArray[Any] | None = None
        #: Colours of codes.
        self.colours: Any = None
        #: Code of pixels without a label; None if each has one.
        self.empty: int | None = None
        try:
            raster = read_raster(path, ())
        except ValueError:
            self.shapes = self._read_polygons(path, attribute)
            # outside of all polygons
            self.outside = 0 if 0 not in self.names else free_code(self.names)
            if background is None:
                self.empty = self.outside
            elif background in self.names.values():
                self.outside = next(c for c, n in self.names.items() if n == background)
            else:
                self.names = {self.outside: background, **self.names}
            found = {self.outside, *self.names}
        else:
            codes = codes_of(path, raster)
            self._require_grid(path, codes.shape, raster.crs, raster.transform)
            self.codes, self.colours = codes, raster.colours
            self.empty = nodata_code(raster)
            found = {*np.unique(codes).tolist()}
            if MISSING in found and self.empty is None:
                self.empty = free_code(found)
            if self.empty is not None:
                codes[codes == MISSING] = self.empty
                found = found - {MISSING} | {self.empty}
            self.names = names_of(raster, found - {self.empty})
        #: One type for all tiles.
        self.dtype = np.min_scalar_type(max(found))
        if min(found) < 0:
            self.dtype = np.dtype(np.int32)

    def _require_grid(
        self, path: Path, shape: tuple[int, ...], crs: Any, place: Any
    ) -> None:
        """Refuse labels on another grid than that of the scene."""
        scene = self.scene
        if crs is None and place in (None, Affine.identity()):
            # arrays and pictures lie nowhere
            crs, place = scene.crs, scene.transform
        crs = crs or scene.crs
        apart = pixels_apart(scene.transform, place, shape)
        if (shape, crs) != ((scene.height, scene.width), scene.crs) or apart > _SLACK:
            raise ValueError(
                f'{path} has {shape} pixels, {crs} and transform {place[:6]}, but '
                f'{scene.name} has {(scene.height, scene.width)}, {scene.crs} and '
                f'{scene.transform[:6]}; one grid is needed. Bring the labels to the '
                'grid of the scene, for example with gdalwarp -r near.'
            )

    def read(self, window: Window) -> NDArray[Any]:
        """Codes in a window of the scene (H, W)."""
        if self.codes is not None:
            part: NDArray[Any] = self.codes[window.toslices()]
            return part
        (west, east), (south, north) = _spans(window, self.scene)
        near = self.shapes.cx[west:east, south:north]
        shape = (int(window.height), int(window.width))
        if near.empty:
            return np.full(shape, self.outside)
        burnt: NDArray[Any] = rasterize(
            zip(near.geometry, near['code'], strict=True),
            out_shape=shape,
            transform=transform(window, self.scene.transform),
            fill=self.outside,
            dtype='int32',
        )
        return burnt

    def write(self, mask: NDArray[Any], window: Window, path: Path) -> None:
        """Write the codes of a window."""

        def save(part: Path) -> None:
            form = {'count': 1, 'dtype': self.dtype, 'nodata': self.empty}
            with _new_tile(part, self.scene, window, **form) as target:
                if self.colours:
                    target.write_colormap(1, self.colours)
                target.write(mask.astype(self.dtype), 1)

        path.parent.mkdir(parents=True, exist_ok=True)
        if self.names and min(self.names) >= 0 and max(self.names) <= _MOST_NAMED:
            write_categories(path, self.names)
        write_atomically(path, save)

    def write_classes(self, out: Path) -> None:
        """Write ``classes.csv`` where the classes have names."""
        if self.names:
            write_table(out / CLASSES, ('id', 'name'), self.names.items())

    def _read_polygons(self, path: Path, attribute: str | None) -> Any:
        """Polygons with a column ``code``, in the system of the scene."""
        shapes = geopandas.read_file(path, layer=_drawn_layer(path))
        columns = [c for c in shapes.columns if c != 'geometry']
        if attribute is None and len(columns) == 1:
            attribute = columns[0]
        if attribute not in columns:
            said = 'several columns' if attribute is None else f'no {attribute!r}'
            raise ValueError(
                f'{path} has {said} among {columns}, but one must hold the class of each '
                'polygon. Name it as attribute.'
            )
        shapes = shapes[shapes[attribute].notna() & shapes.geometry.notna()]
        if shapes.empty:
            raise ValueError(
                f'{path} has 0 polygons with a value of {attribute}, but one or more '
                'are needed. Look whether this is the right file.'
            )
        if self.scene.crs and shapes.crs is None:
            raise ValueError(
                f'{path} does not say what its coordinate system is, but the scene has '
                f'{self.scene.crs}. Name it: ogr2ogr -a_srs EPSG:CODE labels.gpkg '
                f'{path.name}.'
            )
        values = shapes[attribute]
        with contextlib.suppress(ValueError, TypeError):
            # numbers may be written as text, and gaps make whole ones floating-point
            numbers = values.astype(float)
            if values.dtype.kind != 'b' and (numbers % 1 == 0).all():
                values = numbers.astype(int)
        if values.dtype.kind in 'iu':
            if abs(values).max() > _MOST_CODE:
                raise ValueError(
                    f'{path} has {attribute}={abs(values).max()}, but a class is a word '
                    'or a whole number of 32 bits. Name another column.'
                )
            self.names = {int(v): f'class_{v}' for v in sorted(values.unique())}
            shapes['code'] = values
        else:
            words = sorted(str(v) for v in values.unique())
            self.names = {i + 1: word for i, word in enumerate(words)}
            codes = {word: code for code, word in self.names.items()}
            shapes['code'] = [codes[str(v)] for v in values]
        return shapes.to_crs(self.scene.crs) if self.scene.crs else shapes


def _drawn_layer(path: Path) -> str:
    """The only layer of a file that has polygons."""
    layers = geopandas.list_layers(path)
    drawn: list[str] = layers['name'][layers['geometry_type'].notna()].tolist()
    if len(drawn) > 1:
        raise ValueError(
            f'{path} has the layers {drawn}, but one is needed. Write it alone: '
            f'ogr2ogr labels.gpkg {path.name} LAYER.'
        )
    if not drawn:
        raise ValueError(
            f'{path} has {len(layers)} layers, none with polygons, but one is '
            'needed. Write it as a GeoPackage: ogr2ogr labels.gpkg FILE.'
        )
    return drawn[0]


def _spans(window: Window, scene: Any) -> tuple[tuple[float, float], ...]:
    """Lowest and highest coordinate of a window, of x and of y."""
    place = transform(window, scene.transform)
    # a scene may lie upside down, or turned
    corners = [place * c for c in product((0, window.width), (0, window.height))]
    return tuple((min(side), max(side)) for side in zip(*corners, strict=True))


def _require_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f'{out} is there already, but pairs are exported into a new folder. Choose '
            'another name.'
        )


def _block_corners(
    shape: tuple[int, int], tile: int, stride: int, block: int
) -> Iterator[tuple[int, int, str]]:
    """Row, column and block of each tile that lies within one block."""
    for top in range(0, shape[0], block):
        for left in range(0, shape[1], block):
            bottom, right = min(top + block, shape[0]), min(left + block, shape[1])
            for row in range(top, bottom - tile + 1, stride):
                for column in range(left, right - tile + 1, stride):
                    yield row, column, f'{top}_{left}'


def _block_side(shape: tuple[int, int], tile: int, stride: int) -> int:
    """Side of a block in pixels."""
    enough = [
        block
        for block in range(tile, BLOCK * tile + 1)
        # blocks in which a tile has room
        if math.prod(math.ceil((side - tile + 1) / block) for side in shape)
        >= _FEWEST_BLOCKS
    ]
    several = [block for block in enough if block > tile and block % tile == 0]
    if several:
        return max(several)

    def tiles(block: int) -> int:
        return sum(1 for _ in _block_corners(shape, tile, stride, block))

    # at a small stride, blocks of just one tile would lose most
    return max(enough, key=tiles, default=tile)


def _new_tile(path: Path, scene: Any, window: Window, **form: Any) -> Any:
    """Open a GeoTIFF for a window of a scene, where it lies."""
    return rasterio.open(
        path,
        'w',
        driver='GTiff',
        height=window.height,
        width=window.width,
        compress='deflate',
        crs=scene.crs,
        transform=transform(window, scene.transform),
        **form,
    )


def _copy_window(scene: Any, window: Window, path: Path) -> None:
    """Write a part of a scene as it is, with all that the scene says of its bands."""
    values = scene.read(window=window)
    masked = MaskFlags.per_dataset in scene.mask_flag_enums[0]
    by_alpha = MaskFlags.alpha in scene.mask_flag_enums[0]

    def save(part: Path) -> None:
        form = {'count': scene.count, 'dtype': values.dtype, 'nodata': scene.nodata}
        with _new_tile(part, scene, window, **form) as target:
            target.write(values)
            target.descriptions = scene.descriptions
            target.scales, target.offsets = scene.scales, scene.offsets
            target.colorinterp = scene.colorinterp
            for space in (None, 'ENVI'):
                target.update_tags(ns=space, **scene.tags(ns=space))
            for band, space in product(range(1, scene.count + 1), (None, 'IMAGERY')):
                target.update_tags(band, ns=space, **scene.tags(band, ns=space))
            if masked and not by_alpha:
                target.write_mask(scene.dataset_mask(window=window))

    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_atomically(path, save)
