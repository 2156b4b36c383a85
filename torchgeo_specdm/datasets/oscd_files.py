# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The files of OSCD: cities, bands on one grid, masks, and what can be wrong."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import xy
from rasterio.warp import reproject
from torchgeo.datasets import DatasetNotFoundError

from ..files import write_atomically

_NAME = 'Onera Satellite Change Detection dataset'
IMAGES = f'{_NAME} - Images'
LABELS: Mapping[str, str] = {
    'train': f'{_NAME} - Train Labels',
    'test': f'{_NAME} - Test Labels',
}
#: Folder under root with native bands that were brought onto one grid.
CACHE = 'resampled'
_DATES = (1, 2)
#: The band whose grid, at the first date, is that of a city.
_GRID_BAND = 'B02'
#: Pixels by which a native band may fall short of the grid. Bands of 60 m cut along
#: the same box end up to a pixel earlier, and bilinear weights need a neighbour.
_MARGIN = 2
_LARGEST = np.iinfo(np.uint16).max


class OSCDNotFoundError(DatasetNotFoundError):
    """Raised when the files of OSCD are not where they should be."""

    def __init__(self, root: Path, missing: str) -> None:
        """Initialize a new OSCDNotFoundError instance.

        Args:
            root: The folder that was looked into.
            missing: Name of the thing that was not found there.
        """
        FileNotFoundError.__init__(
            self,
            f'OSCD needs <root>/{IMAGES}/<city>/imgs_1_rect/B02.tif (and so on) and '
            f'<root>/{LABELS["train"]}/<city>/cm/cm.png (the same in Test Labels), but '
            f'root={str(root)!r} has no {missing}. Get the three archives of '
            'https://rcdaudt.github.io/oscd/ and extract them into root, or let '
            'torchgeo.datasets.OSCD(root, download=True) do both.',
        )


@dataclass(frozen=True)
class Scene:
    """A city.

    Args:
        name: Name of the folder of the city.
        height: Rows of its grid.
        width: Columns of its grid.
        crs: Coordinate reference system, or None.
        transform: From (column, row) to coordinates; the identity if there are none.
    """

    name: str
    height: int
    width: int
    crs: CRS | None
    transform: Affine


class _Raster(NamedTuple):
    """The content of a file."""

    values: NDArray[Any]  #: (C, H, W) in the type of the file
    colors: tuple[ColorInterp, ...]  #: what each band means
    crs: CRS | None
    transform: Affine


class _Plane(NamedTuple):
    """One band of one date."""

    values: NDArray[np.uint16]  #: (H, W) digital numbers
    crs: CRS | None
    transform: Affine


def find_cities(root: Path) -> dict[str, dict[str, Path]]:
    """Find the cities that have labels.

    Args:
        root: The folder that holds the three extracted archives.

    Returns:
        For 'train' and 'test', the path of the mask of each city, sorted by name.

    Raises:
        FileNotFoundError: If there are no images or no labels at all; the message
            tells how to get them.
        ValueError: If a city is in both.
    """
    if not (root / IMAGES).is_dir():
        raise OSCDNotFoundError(root, IMAGES)
    cities = {split: _list_masks(root / name) for split, name in LABELS.items()}
    if not any(cities.values()):
        raise OSCDNotFoundError(root, f'city in {" or ".join(LABELS.values())}')
    both = sorted(cities['train'].keys() & cities['test'].keys())
    if both:
        raise ValueError(
            f'{both} have labels in both {root / LABELS["train"]} and '
            f'{root / LABELS["test"]}, but no city may be trained and tested on. '
            'Remove them from one of the two.'
        )
    return cities


def read_scene(
    root: Path, city: str, mask_path: Path, bands: Sequence[str], threshold: int
) -> tuple[Scene, NDArray[np.uint16], NDArray[np.bool_]]:
    """Read a city and check it.

    Args:
        root: The folder that holds the three extracted archives.
        city: Name of the folder of the city.
        mask_path: File of the mask of change of the city.
        bands: Names of the bands to read, in this order.
        threshold: Least value in the mask that means change.

    Returns:
        The scene, its digital numbers (2, C, H, W), and where it changed (H, W).

    Raises:
        ValueError: If a file is missing or broken, or the sizes differ; the message
            names it.
    """
    paths = _band_paths(root, city, bands)
    planes = {path: _read_plane(path) for path in paths}
    mask = _read_mask(mask_path, threshold)
    sizes = {mask.shape: mask_path}
    sizes |= {plane.values.shape: path for path, plane in planes.items()}
    if len(sizes) > 1:
        found = ', '.join(f'{h}x{w} in {path}' for (h, w), path in sizes.items())
        raise ValueError(
            f'{city} has planes of {len(sizes)} sizes ({found}), but all bands, both '
            'dates and the mask must share one grid. Extract the archives again.'
        )
    image = np.stack([planes[path].values for path in paths])
    height, width = mask.shape
    first = planes[paths[0]]
    scene = Scene(city, height, width, first.crs, first.transform)
    return scene, image.reshape(len(_DATES), len(bands), height, width), mask


def _read_plane(path: Path) -> _Plane:
    """Read a band.

    Args:
        path: A georaster of one band, of any number type.

    Returns:
        Its digital numbers (H, W), and where it lies.

    Raises:
        ValueError: If it cannot be read, or holds what is no digital number.
    """
    raster = _read(path)
    values = raster.values[0]
    # also true for NaN, which compares unequal to everything
    broken = ~((values >= 0) & (values <= _LARGEST) & (values == np.rint(values)))
    if broken.any():
        raise ValueError(
            f'{path} has {int(broken.sum())} values such as {values[broken][0]}, but '
            f'every pixel must be a whole number in 0..{_LARGEST} (reflectance x '
            '10000). Extract the archive again.'
        )
    return _Plane(values.astype(np.uint16), raster.crs, raster.transform)


def _read_mask(path: Path, threshold: int) -> NDArray[np.bool_]:
    """Read a mask.

    Args:
        path: A PNG in grey or RGB, with alpha or not; alpha is not looked at.
        threshold: Least value of the brightest colour that means change.

    Returns:
        Where there is change (H, W).

    Raises:
        ValueError: If it cannot be read, or holds indices into a palette.
    """
    raster = _read(path)
    if ColorInterp.palette in raster.colors:
        raise ValueError(
            f'{path} has a palette, so its values are no brightness; a mask must be '
            'grey or RGB. Extract the archive again, or convert it.'
        )
    colors = [kind != ColorInterp.alpha for kind in raster.colors]
    mask: NDArray[np.bool_] = raster.values[colors].max(axis=0) >= threshold
    return mask


def _list_masks(folder: Path) -> dict[str, Path]:
    """The mask of each city in a folder of labels, sorted."""
    if not folder.is_dir():
        return {}
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    # other systems leave hidden folders
    return {n: folder / n / 'cm' / 'cm.png' for n in names if not n.startswith('.')}


def _band_paths(root: Path, city: str, bands: Sequence[str]) -> list[Path]:
    """Files on one grid: all bands of the first date, then of the second."""
    folder = root / IMAGES / city
    if not folder.is_dir():
        raise ValueError(
            f'{city} has labels, but {folder} does not exist; every city needs images '
            'of both dates. Extract the Images archive again, or remove the labels.'
        )
    dates = [folder / f'imgs_{date}_rect' for date in _DATES]
    if not any(date.is_dir() for date in dates):
        return _resampled_paths(folder, root / CACHE / city, bands)
    for date in dates:
        missing = [
            f'{band}.tif' for band in bands if not (date / f'{band}.tif').exists()
        ]
        if missing:
            raise ValueError(
                f'{date} lacks {missing}; both dates must have all of {list(bands)}. '
                'Extract the Images archive again, or leave these bands out.'
            )
    return [date / f'{band}.tif' for date in dates for band in bands]


def _resampled_paths(folder: Path, cache: Path, bands: Sequence[str]) -> list[Path]:
    """Native bands on the grid of the city, resampled where that is not done yet."""
    names = [(f'imgs_{date}', band) for date in _DATES for band in bands]
    paths = [cache / f'{date}_rect' / f'{band}.tif' for date, band in names]
    if not all(path.is_file() for path in paths):
        grid = _read_native(folder / 'imgs_1', _GRID_BAND)
        for (date, band), path in zip(names, paths, strict=True):
            if not path.is_file():
                _resample(folder / date, band, grid, path)
    return paths


def _read_native(folder: Path, band: str) -> _Plane:
    """A band as delivered, with its place on the ground."""
    # archives packed on macOS hold a "._name.tif" beside each file
    found = [p for p in folder.glob(f'*_{band}.tif') if not p.name.startswith('.')]
    if len(found) != 1:
        raise ValueError(
            f'{folder} has {len(found)} files *_{band}.tif (and {folder}_rect does not '
            'exist), but each band of both dates needs one. Extract the Images archive '
            'again.'
        )
    plane = _read_plane(found[0])
    if plane.crs is None:
        raise ValueError(
            f'{found[0]} has no coordinate reference system, so bands of 10, 20 and '
            f'60 m cannot be aligned. Get the release with {folder.name}_rect.'
        )
    return plane


def _resample(folder: Path, band: str, grid: _Plane, path: Path) -> None:
    """Bring a native band onto a grid and store it."""
    source = _read_native(folder, band)
    plane = np.full(grid.values.shape, np.nan, np.float32)
    at = source.transform
    left, top = xy(at, -_MARGIN, -_MARGIN, offset='ul')
    reproject(
        np.pad(source.values.astype(np.float32), _MARGIN, mode='edge'),
        plane,
        src_transform=Affine(at.a, at.b, left, at.d, at.e, top),
        src_crs=source.crs,
        src_nodata=np.nan,
        dst_transform=grid.transform,
        dst_crs=grid.crs,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
    )
    outside = np.isnan(plane).mean()
    if outside:
        raise ValueError(
            f'{band} of {folder} does not cover {outside:.1%} of the grid of '
            f'{_GRID_BAND} of imgs_1, but both dates must show one place. Extract the '
            'Images archive again, or remove this city.'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = grid._replace(values=np.rint(plane).astype(np.uint16))
    # several processes may do this at once: each file is whole, the last one stays
    write_atomically(path, lambda part: _write(part, whole))


def _write(path: Path, plane: _Plane) -> None:
    height, width = plane.values.shape
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        count=1,
        height=height,
        width=width,
        dtype='uint16',
        crs=plane.crs,
        transform=plane.transform,
        compress='deflate',
    ) as target:
        target.write(plane.values, 1)


def _read(path: Path) -> _Raster:
    try:
        with warnings.catch_warnings():
            # masks have no georeference, and no image needs one
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                return _Raster(
                    source.read(), source.colorinterp, source.crs, source.transform
                )
    except (RasterioError, OSError) as error:
        raise ValueError(
            f'{path} cannot be read as an image ({error}); every city needs it whole. '
            'Extract the archive again.'
        ) from error
