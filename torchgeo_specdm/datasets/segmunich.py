# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""SegMunich dataset."""

import copy
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bands import TEN_BANDS
from ..choices import require_choice
from ..pairs.layout import SPLITS
from ..pairs.memory import SampleMemory
from ..pairs.plotting import PlottedDataset
from ..pairs.spec import SampleSpec
from .segmunich_files import (
    CODES,
    SegMunichNotFoundError,
    find_splits,
    read_cube,
    read_mask,
)

#: Name and colour of each class, in the order of CODES.
_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ('background', (0, 0, 0)),
    ('arable land', (255, 255, 168)),
    ('permanent crops', (230, 128, 0)),
    ('pastures', (230, 230, 77)),
    ('forests', (0, 140, 0)),
    ('surface water', (0, 140, 240)),
    ('shrub', (166, 242, 0)),
    ('open spaces', (204, 204, 204)),
    ('wetlands', (166, 166, 255)),
    ('mine or dump', (166, 0, 204)),
    ('artificial vegetation', (255, 166, 255)),
    ('urban fabric', (230, 0, 77)),
    ('buildings and industry', (204, 77, 242)),
)
#: Class positions that are green in most scenes: crops, pastures, forests, shrub.
_VEGETATED = (2, 3, 4, 6)

#: The part of a file stem that tells a stored transform: one or more words at the end,
#: each with numbers or not, such as ``_rot90``, ``_flip_h``, ``-vflip`` or ``_aug_3``.
TRANSFORM_PATTERN = (
    r'(?i)(?:[_-](?:aug|augmented|orig|original|flip|[hv]flip|flip[_-]?(?:h|v|hv|lr|ud)'
    r'|fliplr|flipud|mirror|rot|rotate|rotated|transpose|transposed|transverse|crop'
    r'|shift|scale|zoom|noise|blur|bright|brightness|contrast|gamma|color|jitter)'
    r'(?:[_-]?[\d.]+(?:[_-][\d.]+)*)?)+$'
)
#: Tiles of 128 pixels that the 3,847 x 2,958 mosaic has at a stride of 64.
_MOSAIC_TILES = 2655

_NIR_SAMPLES = 8


class SegMunich(PlottedDataset):
    """SegMunich dataset.

    `SegMunich <https://github.com/danfenghong/IEEE_TPAMI_SpectralGPT>`__ is a data set
    for land cover segmentation of one Sentinel-2 mosaic of the region of Munich.

    Dataset features:

    * patches of 128x128 pixels at 10 m, cut from one 3,847x2,958 mosaic at a stride of
      64 pixels: neighbours overlap by half
    * ten bands, in this order: B02, B03, B04, B08, B05, B06, B07, B8A, B11, B12, as
      reflectance x 10000; the order was read from one real file, since the texts about
      it contradict each other
    * about ten transforms of each tile, stored as files of their own

    Dataset format:

    * ``{train,val|test}/img/<id>.tif``: float32 that holds integers, one TIFF page a
      row, so that :mod:`tifffile` reads (128, 128, 10); GDAL sees the first page only
    * ``{train,val|test}/label/<id>.tif``: raw label codes, uint8 or float32
    * ``dataset/<split>.txt``, one id a line, or ``dataset/metadata.csv`` with the
      columns id and source; without either all files are used

    Dataset classes (raw code in brackets):

    0. background (0)
    1. arable land (21)
    2. permanent crops (22)
    3. pastures (23)
    4. forests (31)
    5. surface water (5)
    6. shrub (32)
    7. open spaces (33)
    8. wetlands (41)
    9. mine or dump (13)
    10. artificial vegetation (14)
    11. urban fabric (11)
    12. buildings and industry (12)

    There is no download: the hosts give it under different licences (gpl-3.0 and
    cc-by-nc-4.0), so it is for the user to get it and to say which one holds.

    Samples are ``image``, float32 (C, H, W) in digital numbers, and ``mask``, int64
    (H, W) with class positions.

    If you use this dataset in your research, please cite the following paper:

    * https://arxiv.org/abs/2311.07113 (SpectralGPT)
    """

    #: Keeps samples that were read; None reads them each time.
    memory: SampleMemory | None = None
    all_bands = TEN_BANDS
    rgb_bands = ('B04', 'B03', 'B02')
    splits: ClassVar[tuple[str, ...]] = SPLITS
    codes: ClassVar[tuple[int, ...]] = CODES
    classes: ClassVar[tuple[str, ...]] = tuple(name for name, _ in _CLASSES)
    colormap: ClassVar[tuple[tuple[int, int, int], ...]] = tuple(
        color for _, color in _CLASSES
    )

    def __init__(
        self,
        root: str | Path = 'data',
        split: Literal['train', 'val', 'test'] = 'train',
        bands: Sequence[str] = TEN_BANDS,
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        max_background: float | None = None,
        leaks: Literal['refuse', 'drop', 'allow'] = 'refuse',
        transform_pattern: str = TRANSFORM_PATTERN,
    ) -> None:
        """Initialize a new SegMunich instance.

        Args:
            root: The folder that holds ``train`` and ``test`` (or ``val``), or the
                archive's own folder around them.
            split: One of 'train', 'val' or 'test'. 'test' is read from ``val`` where
                there is no ``test``.
            bands: Names of the bands to load, in this order.
            transforms: Function that takes a sample and returns a transformed version.
            max_background: Leave out patches with a larger share (0 to 1) of
                background; None to keep all. Every mask is read once for this.
            leaks: Treatment of copies of one source tile in two splits: 'refuse'
                raises, 'drop' leaves them out of the split that trains, 'allow' warns
                (the published splits have such copies; for comparison only).
            transform_pattern: Regular expression for the part of a file stem that
                tells the stored transform; what is left is the source tile.

        Raises:
            FileNotFoundError: If the split is not there; the message tells how to get
                it.
            ValueError: If an argument is out of range, images and labels do not pair,
                a list names unknown files, a source tile is in two splits, or nothing
                is left.
        """
        _check_arguments(split, max_background)
        self.root = Path(root)
        self.split = split
        self.transforms = transforms
        self.max_background = max_background
        self.transform_pattern = transform_pattern
        self.spec = segmunich_spec(bands)
        self._channels = [TEN_BANDS.index(band) for band in bands]
        found = find_splits(self.root)
        folder = 'val' if split == 'test' and 'test' not in found else split
        ids = {name: files.ids() for name, files in found.items()}
        if not ids.get(folder):
            hint = ' (SegMunichDataModule cuts one out of train)' * (split == 'val')
            raise SegMunichNotFoundError(self.root, f'{folder}/ with patches{hint}')
        self.folders = tuple(found)
        self._files = found[folder]
        self._files.require_pairs(ids[folder])
        self.ids = self._without_leaks(folder, ids, leaks)
        if max_background is not None:
            masks = ((n, read_mask(self._files.labels[n])) for n in self.ids)
            self.ids = [n for n, mask in masks if (mask == 0).mean() <= max_background]
        if not self.ids:
            raise ValueError(
                f'no patch of {self._files.folder} is left with max_background='
                f'{max_background} and leaks={leaks!r}; at least one is needed. Raise '
                'max_background or use other splits.'
            )
        self._warn_if_not_nir()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Load a sample.

        Args:
            index: Position in :attr:`ids`.

        Returns:
            ``image``, float32 (C, H, W) in digital numbers, and ``mask``, int64 (H, W).

        Raises:
            ValueError: If a file is broken, has other bands, non-finite pixels, another
                size than its partner or an unknown label code; the message names it.
        """
        name = self.ids[index]
        sample = self.memory.take(name, self._load) if self.memory else self._load(name)
        return sample if self.transforms is None else self.transforms(sample)

    def source_of(self, name: str) -> str:
        """The source tile of a file: its stem without the stored transform.

        Args:
            name: An id of :attr:`ids`.

        Returns:
            The id of the tile that this file is a copy of.
        """
        return re.sub(self.transform_pattern, '', name) or name

    def subset(self, ids: Collection[str]) -> Self:
        """The same data set with fewer samples.

        Args:
            ids: The part of :attr:`ids` to keep; their order stays.

        Returns:
            A new data set that shares the list of files.
        """
        chosen = set(ids)
        other = copy.copy(self)
        other.ids = [name for name in self.ids if name in chosen]
        return other

    def _load(self, name: str) -> dict[str, Tensor]:
        """A sample as it is in the files."""
        cube, mask = self._read(name)
        return {
            'image': torch.from_numpy(np.ascontiguousarray(cube[self._channels])),
            'mask': torch.from_numpy(mask),
        }

    def _read(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """All ten bands (10, H, W) and the mask (H, W) of a patch, checked."""
        image, label = self._files.images[name], self._files.labels[name]
        cube, mask = read_cube(image), read_mask(label)
        if cube.shape[1:] != mask.shape:
            raise ValueError(
                f'{image} has {cube.shape[1]}x{cube.shape[2]} pixels but {label} has '
                f'{mask.shape[0]}x{mask.shape[1]}; image and label must cover the same '
                'pixels. Extract both again, or remove both.'
            )
        return cube, mask

    def _without_leaks(
        self, folder: str, ids: Mapping[str, list[str]], leaks: str
    ) -> list[str]:
        """The ids of a split, after looking for source tiles that others have too."""
        sources = {key: {self.source_of(n) for n in ids[key]} for key in ids}
        tiles = len(set().union(*sources.values()))
        if tiles > _MOSAIC_TILES:
            warnings.warn(
                f'the file names of {self.root} are read as {tiles} source tiles, but '
                f'the mosaic has {_MOSAIC_TILES}: stored transforms may pass as tiles '
                'of their own, so copies in two splits would not be seen. Give a '
                'transform_pattern that matches the names.',
                stacklevel=3,
            )
        if leaks != 'drop':
            self._report_leaks(ids, sources, leaks)
            return ids[folder]
        # what is scored later keeps its tiles: test before val, val before train
        later = SPLITS[SPLITS.index(folder) + 1 :]
        taken = set().union(*(sources.get(key, set()) for key in later))
        return [name for name in ids[folder] if self.source_of(name) not in taken]

    def _report_leaks(
        self, ids: Mapping[str, list[str]], sources: Mapping[str, set[str]], leaks: str
    ) -> None:
        """Raise or warn if two splits have files of one source tile."""
        for one, other in combinations(ids, 2):
            shared = sources[one] & sources[other]
            if not shared:
                continue
            files = [
                f'{sum(self.source_of(n) in shared for n in ids[key])} files of {key}'
                for key in (one, other)
            ]
            message = (
                f'{len(shared)} source tiles of {self.root} ({" and ".join(files)}) are '
                f'in both splits: {sorted(shared)[:5]}; scores on copies of training '
                'tiles mean nothing.'
            )
            if leaks == 'allow':
                warnings.warn(message, stacklevel=4)
                continue
            raise ValueError(
                f"{message} Use leaks='drop' to leave them out of {one}, leaks='allow' "
                'only to compare with published numbers, or another transform_pattern '
                'if these names are not what they seem.'
            )

    def _warn_if_not_nir(self) -> None:
        """Warn if vegetation is not brighter in channel 3 (B08) than in 2 (B04)."""
        red = nir = 0.0
        count = min(len(self.ids), _NIR_SAMPLES)
        for index in np.linspace(0, len(self.ids) - 1, count).astype(int):
            cube, mask = self._read(self.ids[index])
            vegetated = np.isin(mask, _VEGETATED)
            red += float(cube[2][vegetated].sum())
            nir += float(cube[3][vegetated].sum())
        if red > 0 and nir <= red:
            warnings.warn(
                f'over vegetation, channel 3 of {self._files.folder} has {nir / red:.2f}'
                ' times the value of channel 2; as B08 and B04 it should be above 1. '
                f'The files may not hold {list(TEN_BANDS)} in this order.',
                stacklevel=3,
            )


def segmunich_spec(bands: Sequence[str] = TEN_BANDS) -> SampleSpec:
    """Describe the samples of SegMunich.

    Args:
        bands: Names of the bands that are loaded.

    Returns:
        The spec. The files are float32 but hold integers, so the dtype is uint16.

    Raises:
        ValueError: If a name is unknown or given twice.
    """
    spec = SampleSpec(TEN_BANDS, SegMunich.classes, colors=SegMunich.colormap)
    return spec.choose_bands(bands)


def _check_arguments(split: str, share: float | None) -> None:
    require_choice('split', split, SPLITS)
    if share is not None and not 0 <= share <= 1:
        raise ValueError(
            f'max_background={share} is a share and must be in 0..1. Use for example '
            '0.5 to leave out patches that are mostly background.'
        )
