# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Writing folders of pairs that survive a kill, a full disk and a second start."""

import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import naming_what_fails, read_json, sha256, write_text
from ..settings import compare_settings
from .geotiffs import (
    to_dtype,
    write_class_raster,
    write_confidence_raster,
    write_image_raster,
)
from .layout import DESCRIPTION, image_stems
from .manifest import MANIFEST, manifest_lines, sort_manifest
from .spec import SampleSpec
from .valid import labelled_pixels

#: Folder of the confidence of masks, beside these.
CONFIDENCE = 'confidence'

_log = logging.getLogger(__name__)


class PairWriter:
    """Writes samples into a folder of pairs, each one whole or not at all.

    Each file is written as ``<name>.<number>.part``, closed, opened again and
    compared, flushed to the disk and renamed; then the manifest gets its line. A
    killed run leaves whole samples only, and :meth:`done` tells a second run what is
    left to do. Several processes and threads may write into one folder.

    Args:
        root: The folder, made if needed.
        spec: Description of the samples.
        provenance: Origin of the samples, for ``dataset.json``; plain JSON types.
        settings: Settings that must be equal for a second run to go on in the same
            folder.
        real: Streams of the samples that are real (``image``, or of one date
            ``image_<t>``, and ``mask``); every file of the others says that it is
            synthetic.

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
        real: Collection[str] = (),
    ) -> None:
        """Make the folder, or find it as this run left it."""
        self.root = Path(root)
        self.spec = spec
        self.real = real
        self._settings = dict(settings)
        self._lines = Lock()
        description = spec.to_dict() | {
            'format': 'torchgeo_specdm pairs 1',
            'provenance': dict(provenance) | {'settings': self._settings},
        }
        text = json.dumps(description, indent=2) + '\n'
        self._require_own_folder(json.loads(text))
        for name in ('images', 'masks'):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        path = self.root / DESCRIPTION
        if not path.exists():
            write_text(path, text)

    def clean(self) -> None:
        """Remove what a killed run left half written; call it before any writes."""
        for part in self.root.rglob('*.part'):
            part.unlink(missing_ok=True)

    def done(self) -> set[int]:
        """Indices whose manifest line and files are whole.

        Returns:
            The indices; a file that was lost or changed makes its sample undone.
        """
        rows = manifest_lines(self.root)
        return {row['index'] for row in rows if 'index' in row and self._whole(row)}

    def write(
        self,
        name: str,
        image: NDArray[np.floating[Any]] | NDArray[np.integer[Any]],
        mask: NDArray[np.integer[Any]],
        record: Mapping[str, Any],
        place: Mapping[str, Any] | None = None,
        missing: NDArray[np.bool_] | None = None,
        confidence: NDArray[np.float32] | None = None,
    ) -> None:
        """Write one sample and its manifest line.

        A sample with non-finite pixels that are not missing is not written: its line
        says so and has ``accepted: false``.

        Args:
            name: The sample's id, a file name without suffix.
            image: Digital numbers (C, H, W), or (T, C, H, W) with T dates.
            mask: Class positions (H, W).
            record: Further entries of the line, ``index`` among them; ``clipped`` is the
                share of values that have been clipped already.
            place: ``crs`` and ``transform`` of the sample, if it lies somewhere.
            missing: Where the image has no value, of its shape; None if nowhere.
            confidence: Chance that the class of each pixel is right, 0..1 (H, W), to be
                written beside the mask; None for none.

        Raises:
            OSError: If a file cannot be written as it should be.
            ValueError: If the sample is not what the spec says.
        """
        place = place or {}
        row: dict[str, Any] = {'id': name, **record}
        dates = image if image.ndim == 4 else image[None]
        self._check(name, dates, mask)
        holes = np.zeros(dates.shape, bool)
        if missing is not None:
            holes = missing.reshape(dates.shape)
            dates = np.where(holes, 0, dates)
        if not np.isfinite(dates).all():
            _log.warning('%s: sample %s has non-finite pixels.', self.root, name)
            self.reject(name, 'non-finite pixels', record)
            return
        stored, clipped = to_dtype(dates, np.dtype(self.spec.dtype))
        files = {}
        stems = image_stems(name, self.spec.dates)
        for number, (stem, date, hole) in enumerate(
            zip(stems, stored, holes, strict=True), start=1
        ):
            file = f'images/{stem}.tif'
            tags = self._tags(name, 'image', f'image_{number}')
            files[file] = write_image_raster(
                self.root / file, date, self.spec, tags, hole, **place
            )
        tags = self._tags(name, 'mask')
        file = f'masks/{name}.tif'
        files[file] = write_class_raster(
            self.root / file, mask, self.spec, tags, **place
        )
        if confidence is not None:
            file = f'{CONFIDENCE}/{name}.tif'
            (self.root / CONFIDENCE).mkdir(exist_ok=True)
            files[file] = write_confidence_raster(
                self.root / file, confidence, tags, **place
            )
        clipped += record.get('clipped', 0.0)
        row |= {'accepted': True, 'clipped': round(clipped, 6), 'files': files}
        self.append(row)

    def reject(self, name: str, reason: str, record: Mapping[str, Any]) -> None:
        """Write the manifest line of a sample that is left out.

        Args:
            name: The sample's id.
            reason: Why it is left out.
            record: Further entries of the line, ``index`` among them.

        Raises:
            OSError: If the line cannot be written.
        """
        row = {'id': name, **record, 'accepted': False, 'reason': reason, 'files': {}}
        self.append(row)

    def _tags(self, name: str, *streams: str) -> dict[str, str]:
        """Tags of a file that holds a stream, which may be called in several ways."""
        drawn = {*streams}.isdisjoint(self.real)
        return {'SYNTHETIC': 'YES' if drawn else 'NO', 'SAMPLE': name}

    def finish(self, card: str) -> None:
        """Sort the manifest by index and write the data card.

        Args:
            card: Markdown for ``README.md``.
        """
        sort_manifest(self.root)
        write_text(self.root / 'README.md', card)

    def _require_own_folder(self, wanted: dict[str, Any]) -> None:
        """Go on only in an empty folder, or one begun with the same settings."""
        path = self.root / DESCRIPTION
        if self.root.exists() and not self.root.is_dir():
            raise FileExistsError(
                f'{self.root} is a file, but samples are written into a folder. Choose '
                'another name.'
            )
        if not path.exists():
            if self.root.exists() and not _is_unused(self.root):
                raise FileExistsError(
                    f'{self.root} is not empty and has no {DESCRIPTION}. Samples are '
                    'written into a folder of their own: choose another one.'
                )
            return
        found = read_json(path, dict[str, Any])
        provenance = found.get('provenance')
        settings = provenance.get('settings') if type(provenance) is dict else None
        if type(settings) is not dict:
            raise FileExistsError(
                f'{path} does not say with which settings it was generated, so this '
                'folder was made by something else. Choose another one.'
            )
        there = {key: found.get(key) for key in self.spec.to_dict()}
        here = {key: wanted[key] for key in self.spec.to_dict()}
        there |= settings
        here |= wanted['provenance']['settings']
        compare_settings(self.root, there, here)

    def _whole(self, row: dict[str, Any]) -> bool:
        if not row.get('accepted', True):
            return True
        files: dict[str, str] = row.get('files', {})
        paths = {self.root / file: digest for file, digest in files.items()}
        return bool(paths) and all(
            path.exists() and sha256(path) == digest for path, digest in paths.items()
        )

    def _check(
        self, name: str, dates: NDArray[Any], mask: NDArray[np.integer[Any]]
    ) -> None:
        """Refuse a sample of another form."""
        spec = self.spec
        wanted = (spec.dates, spec.num_bands, *mask.shape)
        if mask.ndim != 2 or dates.shape != wanted:
            raise ValueError(
                f'Sample {name} has an image of the shape {dates.shape} and a mask of '
                f'{mask.shape}, but must have ({spec.dates}, {spec.num_bands}, H, W) '
                'and (H, W) with the same H and W.'
            )
        known = labelled_pixels(mask, spec.num_classes)
        ignored = np.zeros_like(known)
        if spec.ignore_index is not None:
            ignored = mask == spec.ignore_index
        if not (known | ignored).all():
            raise ValueError(
                f'The mask of sample {name} has the values '
                f'{np.unique(mask[~known & ~ignored])[:5].tolist()}; allowed are 0 to '
                f'{spec.num_classes - 1} and the ignore index {spec.ignore_index}. Name '
                'what is missing: spec: {ignore_index: 255} or spec: {classes: [...]}.'
            )

    def append(self, row: Mapping[str, Any], file: str = MANIFEST) -> None:
        """Add a line in one write, so that processes can share the file.

        Args:
            row: Plain JSON types.
            file: Name of the file in the folder.

        Raises:
            OSError: If the line cannot be written.
        """
        path = self.root / file
        with naming_what_fails(path), self._lines:
            # a killed writer may have left half a line: begin a new one
            torn = path.exists() and not _ends_line(path)
            data = (('\n' if torn else '') + json.dumps(row) + '\n').encode()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError('its last line was cut')
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _is_unused(root: Path) -> bool:
    """Whether a folder is empty, or holds only what a run begins with."""
    return all(
        file.name.startswith(DESCRIPTION) and file.suffix == '.part'
        if file.is_file()
        else file.name in ('images', 'masks') and not any(file.iterdir())
        for file in root.iterdir()
    )


def _ends_line(path: Path) -> bool:
    with path.open('rb') as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b'\n'
