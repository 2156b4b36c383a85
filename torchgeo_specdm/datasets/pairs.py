# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A folder of image-and-mask pairs: what users bring, and what we generate."""

import csv
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from ..files import read_json, write_text
from .plotting import plot_sample
from .spec import SampleSpec

DESCRIPTION = 'dataset.json'
MANIFEST = 'manifest.jsonl'
_SUFFIXES = ('.tif', '.tiff')
#: The mask value that the remote sensing community uses for "no label".
_USUAL_IGNORE = 255
#: A mask with a higher value than this holds codes, not class positions.
_MOST_CLASSES = 64


class PairFolder(NonGeoDataset):
    """A folder of georaster pairs for segmentation or change detection.

    Dataset format:

    * ``images/<id>.tif``: all bands of one patch; with T > 1 dates
      ``images/<id>_1.tif`` to ``images/<id>_T.tif``
    * ``masks/<id>.tif``: one band of class positions
    * ``dataset.json``: bands, classes with colours, dates, scale, dtype, nodata,
      ignore index and where the data come from (optional)
    * ``classes.csv``: columns ``id`` (value in the masks) and ``name`` (optional)
    * ``train.txt``, ``val.txt``, ``test.txt``: one id a line (optional)
    * ``manifest.jsonl``: one line a sample that a generator wrote (optional)

    A folder with just ``images/`` and ``masks/`` also reads: band names come from
    the GeoTIFF descriptions, classes from the values in the masks, the scale from
    the data type (:meth:`write_description` writes down what was found).

    Samples are ``image``, float32 digital numbers of shape (C, H, W), or
    (T, C, H, W) with T dates, and ``mask``, int64 of shape (H, W), or (1, H, W)
    with T dates. Pixels whose bands are all nodata get the ignore index.
    """

    def __init__(
        self,
        root: str | Path = 'data',
        split: Literal['train', 'val', 'test'] | None = None,
        bands: Sequence[str] | None = None,
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        accepted_only: bool = True,
    ) -> None:
        """Initialize a new PairFolder instance.

        Args:
            root: The folder.
            split: Use the ids of ``<split>.txt``; None for all.
            bands: Names of the bands to load, in this order; None for all.
            transforms: Takes a sample and returns a transformed version.
            accepted_only: Leave out samples that the manifest marks as rejected.

        Raises:
            FileNotFoundError: If the folder or its images are missing.
            ValueError: If images and masks do not pair, or a list, band or class is
                not known.
        """
        self.root = Path(root)
        self.split = split
        self.transforms = transforms
        self._everything = _pair_ids(self.root, self._read_dates())
        self.provenance, self._stored, self._codes = _describe(
            self.root, self._everything
        )
        self._channels = _select(self._stored.bands, bands, self.root)
        self.spec = SampleSpec.from_dict(
            self._stored.to_dict()
            | {'bands': [self._stored.bands[i] for i in self._channels]}
        )
        self.ids = self.choose_ids(split, accepted_only)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Load a sample.

        Args:
            index: Position in :attr:`ids`.

        Returns:
            The sample (see the class).

        Raises:
            ValueError: If a file is broken, has the wrong bands or size, non-finite
                pixels, or a mask value that is not a class; the message names it.
        """
        name = self.ids[index]
        images = np.stack(
            [self._read_image(path) for path in self.image_paths(name)]
        )
        mask = self._read_mask(self.mask_path(name))
        if mask.shape != images.shape[-2:]:
            raise ValueError(
                f'{self.mask_path(name)} has the size {mask.shape} but its image has '
                f'{images.shape[-2:]}. Image and mask must cover the same pixels.'
            )
        if self.spec.nodata is not None and self.spec.ignore_index is not None:
            missing = (images == self.spec.nodata).all(axis=1).any(axis=0)
            mask[missing] = self.spec.ignore_index
        sample = {
            'image': torch.from_numpy(images if len(images) > 1 else images[0]),
            'mask': torch.from_numpy(mask if len(images) == 1 else mask[None]),
        }
        return sample if self.transforms is None else self.transforms(sample)

    def choose_ids(self, split: str | None, accepted_only: bool = True) -> list[str]:
        """Apply a split list and the manifest to all ids of the folder.

        Args:
            split: Use the ids of ``<split>.txt``; None for all.
            accepted_only: Leave out samples that the manifest marks as rejected.

        Returns:
            The ids, in the order of the list, or sorted.

        Raises:
            FileNotFoundError: If there is no such list.
            ValueError: If the list has ids without files.
        """
        chosen = self._everything if split is None else read_list(self.root, split)
        unknown = sorted(set(chosen) - set(self._everything))
        if unknown:
            raise ValueError(
                f'{len(unknown)} ids of {self.root / f"{split}.txt"} have no files: '
                f'{unknown[:5]}. Remove them from the list or add the files.'
            )
        if not accepted_only:
            return list(chosen)
        rows = read_manifest(self.root)
        rejected = {row['id'] for row in rows if not row.get('accepted', True)}
        return [name for name in chosen if name not in rejected]

    def select(self, ids: Sequence[str]) -> 'PairFolder':
        """The same folder with just these ids, in this order."""
        selected = copy(self)
        selected.ids = list(ids)
        return selected

    def image_paths(self, name: str) -> list[Path]:
        """The image file of each date of a sample."""
        return image_paths(self.root, name, self._stored.dates)

    def mask_path(self, name: str) -> Path:
        """The mask file of a sample."""
        return _existing(self.root / 'masks', name)

    def verify(self) -> None:
        """Read every sample once and refuse the folder at the first bad one.

        Raises:
            ValueError: As :meth:`__getitem__`, and if patches differ in size.
        """
        size: torch.Size | None = None
        for index, name in enumerate(self.ids):
            shape = self[index]['image'].shape
            size = size or shape
            if shape != size:
                raise ValueError(
                    f'{self.image_paths(name)[0]} has the shape {tuple(shape)} but '
                    f'{self.image_paths(self.ids[0])[0]} has {tuple(size)}. All '
                    'patches of a folder must have one size: cut them first.'
                )

    def write_description(self) -> Path:
        """Write what was found about a plain folder to ``dataset.json``.

        Returns:
            The path of the file.
        """
        path = self.root / DESCRIPTION
        stored = self._stored.to_dict() | {'codes': self._codes}
        write_text(path, json.dumps(stored, indent=2) + '\n')
        return path

    def plot(
        self,
        sample: dict[str, Tensor],
        show_titles: bool = True,
        suptitle: str | None = None,
    ) -> Figure:
        """Plot a sample.

        Args:
            sample: A sample, with ``prediction`` (as ``mask``) if there is one.
            show_titles: Whether to show a title above each panel.
            suptitle: A title for the figure.

        Returns:
            A figure with each date, the mask and the prediction.
        """
        return plot_sample(sample, self.spec, show_titles, suptitle)

    def _read_dates(self) -> int:
        """The dates must be known before the files can be paired."""
        path = self.root / DESCRIPTION
        return int(read_json(path).get('dates', 1)) if path.exists() else 1

    def _read_image(self, path: Path) -> NDArray[np.float32]:
        """One date as float32 (C, H, W), checked."""
        array = read_raster(path)
        if len(array) != self._stored.num_bands:
            raise ValueError(
                f'{path} has {len(array)} bands but the folder has '
                f'{self._stored.num_bands}: {list(self._stored.bands)}. Export it with '
                'all bands, or remove it.'
            )
        image = array[self._channels].astype(np.float32)
        if not np.isfinite(image).all():
            raise ValueError(
                f'{path} has {int((~np.isfinite(image)).sum())} NaN or infinite '
                'values; every pixel must be a number. Fill them with a nodata value '
                f'and name it in {DESCRIPTION}.'
            )
        return image

    def _read_mask(self, path: Path) -> NDArray[np.int64]:
        """The mask as class positions, int64 (H, W), checked."""
        array = read_raster(path)
        if len(array) != 1:
            raise ValueError(f'{path} has {len(array)} bands; a mask must have one.')
        codes = array[0].astype(np.int64)
        mask = np.full(codes.shape, -1, np.int64)
        for position, code in enumerate(self._codes):
            mask[codes == code] = position
        if self.spec.ignore_index is not None:
            mask[codes == self.spec.ignore_index] = self.spec.ignore_index
        unknown = np.unique(codes[(mask < 0) & (codes != self.spec.ignore_index)])
        if unknown.size:
            raise ValueError(
                f'{path} has the mask values {unknown[:5].tolist()}, which are no '
                f'classes; allowed are {list(self._codes)} and the ignore index '
                f'{self.spec.ignore_index}. Mend the file, or name the classes in '
                f'classes.csv or {DESCRIPTION}.'
            )
        return mask


def image_paths(root: Path, name: str, dates: int) -> list[Path]:
    """The image file of each date: ``<id>.tif``, or ``<id>_1.tif`` to ``<id>_T.tif``.

    Args:
        root: The folder of pairs.
        name: The sample's id.
        dates: Number of dates T.

    Returns:
        T paths; a file need not exist.
    """
    names = [name] if dates == 1 else [f'{name}_{i + 1}' for i in range(dates)]
    return [_existing(root / 'images', stem) for stem in names]


def read_raster(path: Path) -> NDArray[Any]:
    """Read all bands of a georaster.

    Args:
        path: A file that GDAL opens.

    Returns:
        The array (C, H, W) in the type of the file.

    Raises:
        ValueError: If the file is missing, cut short or no image at all.
    """
    try:
        with warnings.catch_warnings():
            # patches have no georeference, and need none here
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                array: NDArray[Any] = source.read()
    except RasterioIOError as error:
        raise ValueError(
            f'{path} cannot be read as an image ({error}). Extract it again or delete '
            'it together with its partner.'
        ) from error
    return array


def read_list(root: Path, split: str) -> list[str]:
    """Read ``<split>.txt``: one id a line, blank lines and repeats left out.

    Raises:
        FileNotFoundError: If the list does not exist.
    """
    path = root / f'{split}.txt'
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist, but split={split!r} needs it. Write one id a '
            'line, or leave the split out to use all samples.'
        )
    lines = path.read_text(encoding='utf-8-sig').split('\n')
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def read_manifest(root: Path) -> list[dict[str, Any]]:
    """Read ``manifest.jsonl``; a torn line (a killed writer) is dropped.

    Returns:
        One dict a line, the last one of an id winning, in file order.
    """
    path = root / MANIFEST
    rows: dict[str, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding='utf-8').split('\n'):
            try:
                row = json.loads(line)
                rows[row['id']] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
    return list(rows.values())


def _existing(folder: Path, stem: str) -> Path:
    for suffix in _SUFFIXES:
        path = folder / f'{stem}{suffix}'
        if path.exists():
            return path
    return folder / f'{stem}.tif'


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix in _SUFFIXES}


def _pair_ids(root: Path, dates: int) -> list[str]:
    """Sorted ids that have all images and a mask; a missing partner is an error."""
    for folder in (root / 'images', root / 'masks'):
        if not folder.is_dir():
            raise FileNotFoundError(
                f'{folder} does not exist. A folder of pairs needs images/ and masks/ '
                'with files of the same names; torchgeo-specdm scenes makes one to try.'
            )
    masks = _stems(root / 'masks')
    wanted = {p.stem for m in masks for p in image_paths(root, m, dates)}
    images = _stems(root / 'images')
    alone = [f'image {s}' for s in sorted(images - wanted)]
    alone += [f'mask of {s}' for s in sorted(wanted - images)]
    if alone or not masks:
        raise ValueError(
            f'{root} has {len(images)} images and {len(masks)} masks for {dates} '
            f'date(s), without partner: {", ".join(alone[:5]) or "all"}. Every image '
            'needs a mask of the same name: add or remove these files.'
        )
    return sorted(masks)


def _select(
    stored: Sequence[str], bands: Sequence[str] | None, root: Path
) -> list[int]:
    unknown = sorted(set(bands or ()) - set(stored))
    if unknown:
        raise ValueError(
            f'bands {unknown} are not in {root}, which has {list(stored)}. Use its '
            'names.'
        )
    return [stored.index(band) for band in bands or stored]


def _describe(
    root: Path, ids: list[str]
) -> tuple[dict[str, Any], SampleSpec, list[int]]:
    """Provenance, what is stored, and the mask value of each class."""
    path = root / DESCRIPTION
    if path.exists():
        values = read_json(path)
        try:
            spec = SampleSpec.from_dict(values)
        except TypeError as error:
            raise ValueError(f'{path} lacks a field ({error}). Mend it.') from error
        codes = [int(code) for code in values.get('codes', range(spec.num_classes))]
        return values.get('provenance', {}), spec, codes
    first = image_paths(root, ids[0], 1)[0]
    read_raster(first)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(first) as source:
            names = [
                text or f'band_{i + 1}' for i, text in enumerate(source.descriptions)
            ]
            scale = source.scales[0]
            dtype, nodata, top = source.dtypes[0], source.nodata, source.read().max()
    if scale == 1:
        # GDAL's default, so nobody set it: the usual scales of each type
        integer = np.issubdtype(np.dtype(dtype), np.integer)
        scale = (1 / 255 if top <= 255 else 1e-4) if integer or top > 2 else 1.0
    codes, classes, ignore = _find_classes(root, ids)
    values = {
        'bands': names if len(set(names)) == len(names) else
        [f'band_{i + 1}' for i in range(len(names))],
        'classes': classes,
        'scale': scale,
        'dtype': dtype,
        'nodata': nodata,
        'ignore_index': ignore,
    }
    return {}, SampleSpec.from_dict(values), codes


def _find_classes(root: Path, ids: list[str]) -> tuple[list[int], list[str], int]:
    """Codes, names and ignore index from ``classes.csv``, else from the masks."""
    path = root / 'classes.csv'
    if path.exists():
        with path.open(encoding='utf-8-sig', newline='') as file:
            rows = list(csv.DictReader(file))
        try:
            codes = [int(row['id']) for row in rows]
            return codes, [row['name'].strip() for row in rows], _ignore_for(codes)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f'{path} must have the columns id (an integer) and name; {error} does '
                'not fit. Mend the file.'
            ) from error
    found = {int(v) for values in _mask_values(root, ids) for v in values}
    found.discard(_USUAL_IGNORE)
    top = max(found, default=0)
    if top > _MOST_CLASSES or min(found, default=0) < 0:
        raise ValueError(
            f'The masks of {root} hold the values {sorted(found)[:8]}, which look like '
            'codes, not like class positions 0, 1, 2. Add classes.csv with the columns '
            'id (the value in the masks) and name.'
        )
    return list(range(top + 1)), [f'class_{i}' for i in range(top + 1)], _USUAL_IGNORE


def _ignore_for(codes: list[int]) -> int:
    return _USUAL_IGNORE if _USUAL_IGNORE not in codes else -1


def _mask_values(root: Path, ids: list[str]) -> Iterator[NDArray[Any]]:
    for name in ids:
        yield np.unique(read_raster(_existing(root / 'masks', name)))
