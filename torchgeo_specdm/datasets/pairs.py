# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A folder of image-and-mask pairs: what users bring, and what we generate."""

import json
import logging
from collections.abc import Callable, Sequence
from copy import copy
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..files import digest_files, read_json, write_text
from ..pairs.cache import FileCache, pack_facts, unpack_facts
from ..pairs.classes import CLASSES
from ..pairs.codes import class_positions, read_codes
from ..pairs.description import check_image, describe
from ..pairs.facts import BandMoments, SampleFacts, likely_nodata
from ..pairs.layout import DESCRIPTION, SPLITS, read_list, read_places
from ..pairs.manifest import manifest_lines, require_unchanged
from ..pairs.memory import SampleMemory
from ..pairs.plotting import PlottedDataset
from ..pairs.rasters import Place, Raster, measured_values, place_of, read_raster
from ..pairs.valid import labelled_pixels

_log = logging.getLogger(__name__)

#: How many faulty samples verify() looks for before it gives up.
_MOST_FAULTS = 5


class PairFolder(PlottedDataset):
    """A folder of georaster pairs for segmentation or change detection.

    Dataset format:

    * ``images/<id>.tif``: all bands of one patch; with T > 1 dates
      ``images/<id>_1.tif`` to ``images/<id>_T.tif``
    * ``masks/<id>.tif``: one band of class codes
    * ``dataset.json``: bands, wavelengths, classes with colours, dates, scale, offset,
      dtype, nodata, ``codes`` (the value in the masks of each class) and ``no_label``
      (values in the masks that are no label), and where the data come from (optional).
      Without bands and classes, it may say any part of this, and ``variables``: name
      of the array of ``images`` and ``masks`` in files of several
    * ``bands.csv``: a line for each band in the order of the images, with any of the
      columns ``name``, ``wavelength`` (nanometres, or with a unit), ``scale`` and
      ``offset`` (optional; not looked at where ``dataset.json`` names the bands)
    * ``classes.csv``: columns ``id`` (value in the masks) and ``name``; a class called
      ``no label`` is none (optional; not looked at where ``dataset.json`` names them)
    * ``train.txt``, ``val.txt``, ``test.txt``: one id a line (optional)
    * ``places.csv``: columns ``id`` and ``place``; samples of one place may overlap
      (optional)
    * ``manifest.jsonl``: one line a sample that a generator wrote (optional)

    A folder with just ``images/`` and ``masks/`` also reads
    (:meth:`write_description` writes down what was found):

    * bands: the descriptions in the first image, else ``red``, ``green`` and ``blue``
      of a picture, else ``band_1``, ``band_2``, ...; wavelengths by tags, ENVI headers,
      descriptions, or an array of that name
    * classes: those that the first mask names (its categories, or those of an ENVI
      header), else all positions up to the highest in the masks; no label is the
      nodata value of the first mask, else 255
    * scale and offset: those of the first GeoTIFF, else 1/255 for uint8 and 0.0001 for
      other integers; floating-point numbers are taken for reflectance, 0..255 or
      reflectance x 10000 by what most pixels are, with a warning

    Samples are ``image``, float32 digital numbers of shape (C, H, W), or
    (T, C, H, W) with T dates, and ``mask``, int64 of shape (H, W), or (1, H, W)
    with T dates. Missing values (nodata, internal masks, transparent alpha) are NaN,
    and pixels that miss all bands of a date get the ignore index.
    """

    #: Keeps samples that were read; None reads them each time.
    memory: SampleMemory | None = None

    def __init__(
        self,
        root: str | Path = 'data',
        split: Literal['train', 'val', 'test'] | None = None,
        bands: Sequence[str] | Literal['live'] | None = None,
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        accepted_only: bool = True,
        no_label: int | None = None,
    ) -> None:
        """Initialize a new PairFolder instance.

        Args:
            root: The folder.
            split: Use the ids of ``<split>.txt``; None for all.
            bands: Names of the bands to load, in this order; ``live`` for all that are
                not the same everywhere, or missing, in the whole folder; None for all.
            transforms: Function that takes a sample and returns a transformed version.
            accepted_only: Leave out samples that the manifest marks as rejected.
            no_label: Value in the masks of pixels without a label, beside those that
                the folder names itself.

        Raises:
            FileNotFoundError: If the folder, its images or the list are missing.
            ValueError: If images and masks do not pair, a list, band or class is not
                known, or no sample is left.
        """
        self.root = Path(root)
        self.split = split
        self.transforms = transforms
        self._files, self._stored = describe(self.root, no_label)
        #: Where the samples come from, as far as dataset.json says so.
        self.provenance = self._stored.provenance
        #: Which samples there are, in order.
        self.ids = list(self._files.ids)
        self._choose(self._stored.spec.bands)
        if bands == 'live':
            dead = self.dead_bands()
            bands = [name for name in self.spec.bands if name not in dead]
        if bands is not None:
            self._choose(bands)
        self.ids = self.choose_ids(split, accepted_only)
        if not self.ids:
            source = 'the folder' if split is None else f'{split}.txt'
            raise ValueError(
                f'{self.root} has 0 samples to use: {source} is empty, or the manifest '
                'rejects all samples. Add samples, or use accepted_only=False.'
            )

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
        sample = self.memory.take(name, self._load) if self.memory else self._load(name)
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
        rows = manifest_lines(self.root) if accepted_only else ()
        rejected = {row['id'] for row in rows if not row.get('accepted', True)}
        chosen = list(self._files.ids)
        if split is not None:
            lines = read_list(self.root, split)
            unknown = sorted(lines.keys() - {*chosen} - rejected, key=lines.__getitem__)
            if unknown:
                raise ValueError(
                    f'{self.root / f"{split}.txt"}, line {lines[unknown[0]]}: '
                    f'{unknown[0]!r} has no files ({len(unknown)} such ids in all: '
                    f'{unknown[:5]}). Remove them from the list or add the files.'
                )
            chosen = list(lines)
        return [name for name in chosen if name not in rejected]

    def facts(self, index: int) -> SampleFacts:
        """Facts of a sample, which is read once while its files do not change.

        Args:
            index: Position in :attr:`ids`.

        Returns:
            The facts; as files are, without transforms.

        Raises:
            ValueError: If a file is at fault, as of :meth:`__getitem__`.
        """
        name = self.ids[index]
        entry = self._cache.kept.get(name) or self._facts.get(name)
        if entry is None:
            # packed, facts of a million samples fit into memory
            entry = self._facts[name] = pack_facts(SampleFacts.of(self._load(name)))
        return unpack_facts(entry)

    def select(self, ids: Sequence[str]) -> 'PairFolder':
        """The same folder with just these ids, in this order."""
        selected = copy(self)
        selected.ids = list(ids)
        return selected

    @property
    def places(self) -> list[str]:
        """The place of each sample, by ``places.csv``; else each is one of its own."""
        return list(read_places(self.root, self.ids).values())

    def dead_bands(self) -> list[str]:
        """Bands that are missing, or the same, everywhere; reads all samples."""
        moments = (self.facts(index).moments for index in range(len(self)))
        dead = reduce(BandMoments.join, moments).dead
        return [name for name, gone in zip(self.spec.bands, dead, strict=True) if gone]

    def image_paths(self, name: str) -> list[Path]:
        """The image file of each date of a sample."""
        return self._files.images(name)

    def mask_path(self, name: str) -> Path:
        """The mask file of a sample."""
        return self._files.mask(name)

    def digest(self, images: bool = True, masks: bool = True) -> str:
        """Hash the names and files of the samples, wherever the folder is.

        Args:
            images: Whether to look at the images.
            masks: Whether to look at the masks.

        Returns:
            16 hexadecimal digits.
        """
        files = {name: self.image_paths(name) if images else [] for name in self.ids}
        if masks:
            files = {n: [*paths, self.mask_path(n)] for n, paths in files.items()}
        return digest_files(files)

    def verify(self, one_size: bool = True) -> None:
        """Read every sample once, and refuse the folder if any is at fault.

        Args:
            one_size: Whether all patches must have one size.

        Raises:
            ValueError: As :meth:`__getitem__`, and if patches differ in size, with
                the first few faults; or if files are not those of the manifest.
        """
        first, faults = '', []
        size: tuple[int, int] | None = None
        ends = []
        for index, name in enumerate(self.ids):
            try:
                facts = self.facts(index)
            except ValueError as error:
                faults.append(str(error))
            else:
                shape = facts.form.size
                ends.append((facts.lowest, facts.highest))
                first, size = (name, shape) if size is None else (first, size)
                if one_size and shape != size:
                    faults.append(
                        f'{self.mask_path(name)} and its image have {_pixels(shape)}, '
                        f'but those of {first} {_pixels(size)}. All patches of a '
                        'folder must have one size: cut them first, or train on '
                        'crops with patch_size.'
                    )
            if len(faults) == _MOST_FAULTS:
                faults.append('Further samples were not looked at.')
                break
        self._cache.keep(self._facts)
        if faults:
            raise ValueError('\n'.join(faults))
        require_unchanged(self.root)
        self._mention(likely_nodata(ends))

    def _mention(self, nodata: tuple[float, float] | None) -> None:
        """Say if some pixels seem to be missing, and neither file nor user said so."""
        # 0 in a single band may be measured, and bytes are often as bright as can be
        measured = {0.0} if self.spec.num_bands == 1 else set()
        measured |= {255.0} if self.spec.dtype == 'uint8' else set()
        if nodata and nodata[0] not in measured:
            _log.warning(
                '%s: %.3g %% of the pixels are %.9g in all bands. If nothing was '
                'measured there, say so in %s: {"nodata": %.9g}.',
                self.root,
                100 * nodata[1],
                nodata[0],
                DESCRIPTION,
                nodata[0],
            )

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a sample."""
        return self.facts(index).form.size

    def place(self, index: int) -> Place:
        """Coordinate reference system and transform of a sample, if it has them."""
        name = self.ids[index]
        # masks may be pictures, which lie nowhere
        return place_of(self.mask_path(name)) or place_of(self.image_paths(name)[0])

    def count_splits(self) -> dict[str, int]:
        """Number of samples in each list of the folder, by its name."""
        lists = [s for s in SPLITS if (self.root / f'{s}.txt').exists()]
        return {split: len(self.choose_ids(split)) for split in lists}

    def measure_classes(self) -> dict[str, float]:
        """Percent of all pixels that each class has, and those without a label."""
        counts = np.zeros(self.spec.num_classes + 1, np.int64)
        for name in self.ids:
            mask = self._read_mask(self.mask_path(name))
            known = labelled_pixels(mask, self.spec.num_classes)
            counts += np.bincount(
                np.where(known, mask, len(counts) - 1).ravel(), minlength=len(counts)
            )
        # a class of one pixel has a share, too
        shares = [float(f'{share:.5g}') for share in 100 * counts / counts.sum()]
        return dict(zip((*self.spec.classes, 'no label'), shares, strict=True))

    def write_description(self) -> Path:
        """Write what was found about a plain folder to ``dataset.json``.

        What the file already says besides is kept.

        Returns:
            The path of the file.
        """
        path = self.root / DESCRIPTION
        values = read_json(path, dict[str, Any]) if path.exists() else {}
        values |= self._stored.spec.to_dict()
        write_text(path, json.dumps(values, indent=2) + '\n')
        return path

    def _choose(self, bands: Sequence[str]) -> None:
        """Load these bands from now on."""
        stored = self._stored.spec
        try:
            #: What the samples are.
            self.spec = stored.choose_bands(bands)
        except ValueError as error:
            raise ValueError(f'{self.root}: {error}') from error
        self._channels = [stored.bands.index(band) for band in bands]
        self._facts: dict[str, bytes] = {}
        facts = SampleFacts._fields
        settings = json.dumps(
            [__version__, facts, self._stored.spec.to_dict(), [*bands]]
        )
        self._cache = FileCache(self.root, settings, self._files.files)

    def _load(self, name: str) -> dict[str, Tensor]:
        """A sample as it is in the files."""
        mask_path = self._files.mask(name)
        mask = self._read_mask(mask_path)
        images = []
        for path in self._files.images(name):
            variable = self._stored.variables.get('images')
            bands = self._stored.spec.num_bands
            raster = read_raster(path, mask.shape, variable, bands)
            _require_same_size(path, raster, mask_path, mask)
            check_image(path, raster, self._stored.spec, self._stored.tagged)
            nodata, channels = self.spec.nodata, self._channels
            images.append(measured_values(path, raster, nodata, channels))
            if self.spec.ignore_index is not None:
                mask[np.isnan(images[-1]).all(axis=0)] = self.spec.ignore_index
        several = len(images) > 1
        return {
            'image': torch.from_numpy(np.stack(images) if several else images[0]),
            'mask': torch.from_numpy(mask[None] if several else mask),
        }

    def _read_mask(self, path: Path) -> NDArray[np.int64]:
        """The mask as class positions, int64 (H, W)."""
        variable = self._stored.variables.get('masks')
        codes = read_codes(path, variable, self._stored.spec.labels)
        remedy = f'Mend the file, or name the classes in {CLASSES} or {DESCRIPTION}.'
        return class_positions(codes, self._stored.spec, path, remedy)


def _require_same_size(
    path: Path, raster: Raster, mask_path: Path, mask: NDArray[np.int64]
) -> None:
    shape = raster.values.shape
    if shape[1:] == mask.shape:
        return
    hint = 'Cut both alike, or remove both.'
    if shape[:2] == mask.shape:
        hint = 'It seems to be channel-last: write it again as (bands, rows, columns).'
    raise ValueError(
        f'{path} has {shape[0]} bands of {_pixels(shape[1:])}, but {mask_path} has '
        f'{_pixels(mask.shape)}; image and mask must cover the same pixels. {hint}'
    )


def _pixels(shape: Sequence[int]) -> str:
    return f'{shape[0]}x{shape[1]} pixels'
