# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Writing folders of pairs that survive a kill, a full disk and a second start."""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from ..datasets.pairs import (
    DESCRIPTION,
    MANIFEST,
    image_paths,
    read_manifest,
    read_raster,
)
from ..datasets.spec import SampleSpec
from ..files import read_json, sha256, write_atomically, write_text


class PairWriter:
    """Writes samples into a folder of pairs, each one whole or not at all.

    Each file is written as ``<name>.<process>.part``, closed, opened again and
    compared, flushed to the disk and renamed; then the manifest gets its line
    (reliability.md, section 1). A killed run leaves whole samples only, and
    :meth:`done` tells a second run what is left to do.

    Args:
        root: The folder, made if needed.
        spec: What the samples are.
        provenance: Where they come from, for ``dataset.json``; plain JSON types.
        settings: What must be equal for a second run to go on in the same folder.

    Raises:
        FileExistsError: If the folder holds something else, or was begun with other
            settings.
        OSError: If the folder cannot be written.
    """

    def __init__(
        self,
        root: str | Path,
        spec: SampleSpec,
        provenance: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        """Make the folder, or find it as this run left it."""
        self.root = Path(root)
        self.spec = spec
        description = spec.to_dict() | {
            'format': 'torchgeo_specdm pairs 1',
            'provenance': dict(provenance) | {'settings': dict(settings)},
        }
        text = json.dumps(description, indent=2) + '\n'
        path = self.root / DESCRIPTION
        if path.exists():
            self._require_same_run(read_json(path), text)
        elif self.root.exists() and any(self.root.iterdir()):
            raise FileExistsError(
                f'{self.root} is not empty and has no {DESCRIPTION}. Samples are '
                'written into a folder of their own: choose another one.'
            )
        for name in ('images', 'masks'):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_text(path, text)

    def clean(self) -> None:
        """Remove what a killed run left half written; call it before any writes."""
        for part in self.root.rglob('*.part'):
            part.unlink()

    def done(self) -> set[int]:
        """Indices whose manifest line and files are whole.

        Returns:
            The indices; a file that was lost or changed makes its sample undone.
        """
        return {row['index'] for row in read_manifest(self.root) if self._whole(row)}

    def write(
        self,
        name: str,
        image: NDArray[np.floating[Any]] | NDArray[np.integer[Any]],
        mask: NDArray[np.integer[Any]],
        record: Mapping[str, Any],
    ) -> None:
        """Write one sample and its manifest line.

        A sample with non-finite pixels is not written: its line says so and has
        ``accepted: false``.

        Args:
            name: The sample's id, a file name without suffix.
            image: Digital numbers (C, H, W), or (T, C, H, W) with T dates.
            mask: Class positions (H, W).
            record: Further entries of the line, ``index`` among them.

        Raises:
            OSError: If a file cannot be written as it should be.
        """
        row: dict[str, Any] = {'id': name, **record}
        if not np.isfinite(image).all():
            self._append(
                row | {'accepted': False, 'reason': 'non-finite pixels', 'files': {}}
            )
            return
        dates = image if image.ndim == 4 else image[None]
        stored, clipped = to_dtype(dates, np.dtype(self.spec.dtype))
        files = {}
        tags = {'SYNTHETIC': 'YES', 'SAMPLE': name}
        paths = image_paths(self.root, name, self.spec.dates)
        for path, date in zip(paths, stored, strict=True):
            files[f'images/{path.name}'] = self._write_image(path, date, tags)
        path = self.root / 'masks' / f'{name}.tif'
        files[f'masks/{path.name}'] = self._write_mask(path, mask, tags)
        row |= {'accepted': True, 'clipped': round(clipped, 6), 'files': files}
        self._append(row)

    def finish(self, card: str) -> None:
        """Sort the manifest by index and write the data card.

        Args:
            card: Markdown for ``README.md``.
        """
        rows = sorted(read_manifest(self.root), key=lambda row: int(row['index']))
        lines = ''.join(json.dumps(row) + '\n' for row in rows)
        write_text(self.root / MANIFEST, lines)
        write_text(self.root / 'README.md', card)

    def _require_same_run(self, found: dict[str, Any], wanted: str) -> None:
        old = found.get('provenance', {}).get('settings')
        new = json.loads(wanted)
        settings = new['provenance']['settings']
        if old != settings:
            old = old or {}
            different = {
                key: (old.get(key), settings.get(key))
                for key in sorted(old | settings)
                if old.get(key) != settings.get(key)
            }
            raise FileExistsError(
                f'{self.root} was begun with other settings (there, here): '
                f'{different}. One folder holds one run: choose another folder, or '
                'the same settings to go on.'
            )
        SampleSpec.from_dict(found).require_match(
            self.spec, f'{self.root / DESCRIPTION}', 'this run'
        )

    def _whole(self, row: dict[str, Any]) -> bool:
        if not row.get('accepted', True):
            return True
        return all(
            (self.root / file).exists() and sha256(self.root / file) == digest
            for file, digest in row.get('files', {}).items()
        ) and bool(row.get('files'))

    def _append(self, row: Mapping[str, Any]) -> None:
        """Add a manifest line in one write, so that processes can share the file."""
        path = self.root / MANIFEST
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # a killed writer may have left half a line: begin a new one
        torn = path.exists() and not _ends_line(path)
        line = ('\n' if torn else '') + json.dumps(row) + '\n'
        descriptor = os.open(path, flags, 0o644)
        try:
            data = line.encode()
            if os.write(descriptor, data) < len(data):
                raise OSError(f'{path}: the disk is full. Make room and run again.')
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _write_image(
        self, path: Path, image: NDArray[Any], tags: Mapping[str, str]
    ) -> str:
        def fill(target: Any) -> None:
            target.descriptions = self.spec.bands
            target.scales = [self.spec.scale] * len(image)
            wavelengths = self.spec.wavelengths
            for i, wavelength in enumerate(wavelengths):
                if wavelength is not None:
                    target.update_tags(i + 1, WAVELENGTH_NM=str(wavelength))

        return _write_raster(path, image, self.spec.nodata, tags, fill)

    def _write_mask(
        self, path: Path, mask: NDArray[Any], tags: Mapping[str, str]
    ) -> str:
        names = {f'CLASS_{i}': name for i, name in enumerate(self.spec.classes)}
        colors = {i: (*color, 255) for i, color in enumerate(self.spec.colors)}

        def fill(target: Any) -> None:
            target.descriptions = ('class',)
            target.colorinterp = [ColorInterp.palette]
            target.write_colormap(1, colors)

        ignore = self.spec.ignore_index
        nodata = ignore if ignore is not None and 0 <= ignore <= 255 else None
        array = mask.astype(np.uint8)[None]
        return _write_raster(path, array, nodata, {**tags, **names}, fill)


def to_dtype(
    values: NDArray[Any], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], float]:
    """Round and clip to the range of a type.

    Args:
        values: Finite numbers of any shape.
        dtype: The type to store.

    Returns:
        The array in that type, and the share of values that were clipped.
    """
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype), 0.0
    info = np.iinfo(dtype)
    rounded = np.rint(values.astype(np.float64))
    clipped = float(((rounded < info.min) | (rounded > info.max)).mean())
    return rounded.clip(info.min, info.max).astype(dtype), clipped


def _write_raster(
    path: Path,
    array: NDArray[Any],
    nodata: float | None,
    tags: Mapping[str, str],
    fill: Callable[[Any], None],
) -> str:
    """Write a GeoTIFF (C, H, W) and return its SHA-256.

    GDAL reports a full disk only for what it flushes early, so the file is read
    back and compared before it gets its name.
    """

    def write(part: Path) -> None:
        with warnings.catch_warnings():
            # a synthetic patch lies nowhere, so no georeference is invented
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(
                part,
                'w',
                driver='GTiff',
                count=len(array),
                height=array.shape[1],
                width=array.shape[2],
                dtype=array.dtype,
                nodata=nodata,
                compress='deflate',
            ) as target:
                target.write(array)
                target.update_tags(**tags)
                fill(target)
        try:
            same = np.array_equal(read_raster(part), array)
        except ValueError:
            same = False
        if not same:
            raise OSError(
                f'{path} does not read back as it was written; the disk is full or '
                'broken. Make room and run the same command again.'
            )

    write_atomically(path, write)
    return sha256(path)


def _ends_line(path: Path) -> bool:
    with path.open('rb') as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b'\n'
