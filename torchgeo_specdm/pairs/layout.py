# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The files of a folder of pairs: their names and lists."""

import csv
import io
import logging
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..files import read_text, write_text
from .arrays import ARRAYS
from .manifest import MANIFEST

_log = logging.getLogger(__name__)

DESCRIPTION = 'dataset.json'
BANDS = 'bands.csv'
PLACES = 'places.csv'
#: Names of the lists of ids.
SPLITS = ('train', 'val', 'test')
#: Kinds of files, the best first; a folder is read by the first kind that it has.
_KINDS = (
    ('.tif', '.tiff'),
    ('.jp2',),
    ('.dat', '.img', '.bsq', '.bil', '.bip'),
    ARRAYS,
    ('.png',),
    ('.jpg', '.jpeg'),
    ('.vrt',),
)
#: The kind of ENVI, whose files may have any other ending beside a header.
_ENVI = _KINDS[2]
_HEADER = '.hdr'
#: What stands beside images and is none.
_BESIDE = (
    *('.xml', '.ovr', '.msk', '.prj', '.qml', '.txt', '.json', '.md', '.csv'),
    # where GDAL finds the place of a file that cannot tell it
    *('.tfw', '.pgw', '.jgw', '.j2w', '.wld'),
)
#: Folders before the name of a file, on any system.
_FOLDERS = re.compile(r'.*[/\\]')
#: Marks between the columns of tables; in some countries, programs write the latter.
_MARKS = ',;\t'
#: How many faulty files an error names.
_SHOWN = 5


class PlacedSample(NamedTuple):
    """A line of ``places.csv``."""

    id: str
    place: str
    row: int  #: of the upper left pixel in the place
    column: int  #: of the upper left pixel in the place


class PairFiles:
    """The images and masks of a folder, each mask with the images of all dates.

    Args:
        root: The folder.
        dates: Number of images for each mask; None to tell it from the names.

    Raises:
        FileNotFoundError: If there is no folder ``images`` or ``masks``.
        ValueError: If a file has no partner, or one name belongs to two files.
    """

    def __init__(self, root: Path, dates: int | None = None) -> None:
        """List the files."""
        self.root = root
        self._images, self._masks = (
            # file names would take a fifth of the memory of a large folder
            {name: sys.intern(file.removeprefix(name)) for name, file in found.items()}
            for found in (list_rasters(root / kind) for kind in ('images', 'masks'))
        )
        if self._images == self._masks:
            # in memory once
            self._images = self._masks
        self.dates = self._count_dates() if dates is None else dates
        self._require_pairs()
        #: Sorted ids.
        self.ids = sorted(self._masks)

    def files(self, name: str) -> list[str]:
        """The image of each date of a sample and its mask, as paths in the folder."""
        stems = image_stems(name, self.dates)
        # pathlib's memory of names would grow with the folder
        return [
            *(f'images/{_file(stem, self._images[stem])}' for stem in stems),
            f'masks/{_file(name, self._masks[name])}',
        ]

    def images(self, name: str) -> list[Path]:
        """The image of each date of a sample."""
        return [self.root / file for file in self.files(name)[:-1]]

    def mask(self, name: str) -> Path:
        """The mask of a sample."""
        return self.root / self.files(name)[-1]

    def _count_dates(self) -> int:
        """Dates of the first mask, if its images are ``<id>_1.tif``, ``<id>_2.tif``."""
        first = min(self._masks, default='')
        count = 0
        while f'{first}_{count + 1}' in self._images:
            count += 1
        return 1 if first in self._images else max(count, 1)

    def _require_pairs(self) -> None:
        wanted = {s for name in self._masks for s in image_stems(name, self.dates)}
        alone = [
            f'image {s} without mask' for s in sorted(self._images) if s not in wanted
        ]
        alone += [f'no image {s}' for s in sorted(wanted) if s not in self._images]
        if self._masks and not alone:
            return
        each = 'an image a.tif (a_1.tif and a_2.tif of two dates)'
        if self.dates > 1:
            each = f'{self.dates} images: a_1.tif, a_2.tif and so on'
        remedy = 'Rename, add or remove these files.'
        if (self.root / MANIFEST).exists():
            remedy = 'If a generator was stopped here, run it again: it goes on.'
        raise ValueError(
            f'{self.root} has {len(self._images)} images and {len(self._masks)} masks, '
            f'{len(alone)} without partner: {", ".join(alone[:_SHOWN]) or "no file"}. '
            f'Every mask, such as a.tif, needs {each}, and every image a mask. {remedy}'
        )


def image_stems(name: str, dates: int) -> list[str]:
    """File name, without suffix, of each date: the id, or ``<id>_1`` to ``<id>_T``.

    Args:
        name: The sample's id.
        dates: Number of dates T.

    Returns:
        T names.
    """
    return [name] if dates == 1 else [f'{name}_{i + 1}' for i in range(dates)]


def read_list(root: Path, split: str) -> dict[str, int]:
    """Read ``<split>.txt``: one id a line, blank lines and repeats left out.

    Args:
        root: The folder of pairs.
        split: Name of the list.

    Returns:
        The line number of each id, in the order of the list. Folders, and a suffix such
        as ``.tif``, are no part of an id.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If it is no text.
    """
    path = root / f'{split}.txt'
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist, but split={split!r} needs it. Write one id a '
            'line, or leave the split out to use all samples.'
        )
    ids: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split('\n'), 1):
        name = _id(line.strip())
        if name:
            ids.setdefault(name, number)
    return ids


def _id(text: str) -> str:
    """The id in a table or list, which may name the file."""
    name = _FOLDERS.sub('', text)
    if name.lower().endswith(sum(_KINDS, ())):
        name = name[: name.rindex('.')]
    return unicodedata.normalize('NFC', name)


def read_table(
    path: Path, columns: Sequence[str], others: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Read a table with a header line, separated by commas, semicolons or tabs.

    Args:
        path: The file.
        columns: The columns that every row must fill.
        others: Columns that may be there, and may be empty.

    Returns:
        The rows; values have no blanks around them.

    Raises:
        ValueError: If a column or value is missing; the message names the line.
    """
    lines = read_text(path).splitlines()
    mark = max(_MARKS, key=(lines or [''])[0].count)
    reader = csv.DictReader(lines, skipinitialspace=True, delimiter=mark)
    header = [name.strip().lower() for name in reader.fieldnames or ()]
    if not set(columns) <= set(header):
        raise ValueError(
            f'{path} has the columns {header}, but must have {list(columns)}, named in '
            'the first line and separated by commas.'
        )
    reader.fieldnames = header
    rows = []
    for found in reader:
        row = {
            name: unicodedata.normalize('NFC', (found[name] or '').strip())
            for name in (*columns, *(other for other in others if other in header))
        }
        if not all(row[name] for name in columns):
            raise ValueError(
                f'{path}, line {reader.line_num}: {row} lacks a value. Fill it in, or '
                'delete the line.'
            )
        rows.append(row)
    return rows


def write_table(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Write a table for :func:`read_table`.

    Args:
        path: The file.
        header: Names of the columns.
        rows: A value for each column.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerows([header, *rows])
    write_text(path, text.getvalue())


def read_places(root: Path, ids: Sequence[str]) -> dict[str, str]:
    """The place of each sample; each is a place of its own without ``places.csv``.

    Args:
        root: The folder.
        ids: Samples of it.

    Returns:
        The name of the place by id, in the order of *ids*.

    Raises:
        ValueError: If the table lacks one of them.
    """
    path = root / PLACES
    if not path.exists():
        return {name: name for name in ids}
    places = {_id(row['id']): row['place'] for row in read_table(path, ('id', 'place'))}
    unknown = [name for name in ids if name not in places]
    if unknown:
        raise ValueError(
            f'{path} does not say where {len(unknown)} samples lie: {unknown[:5]}. '
            'Add them, so that no place gets into two splits.'
        )
    return {name: places[name] for name in ids}


def read_corners(root: Path) -> dict[str, tuple[int, int]]:
    """Where samples lie in their places, as far as ``places.csv`` says so.

    Args:
        root: The folder.

    Returns:
        Row and column of the upper left pixel by id; empty without such columns.
    """
    path = root / PLACES
    try:
        rows = read_table(path, ('id', 'row', 'column')) if path.exists() else []
        return {_id(row['id']): (int(row['row']), int(row['column'])) for row in rows}
    except ValueError:
        return {}


def find_rasters(root: Path, kind: str) -> dict[str, Path]:
    """Find the images, or the masks, that are given without the others.

    Args:
        root: A folder, or one file.
        kind: Name of the folder in *root* that holds them, if there is one.

    Returns:
        Path of each file by its name without suffix, as of :func:`list_rasters`.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If two files have one name.
    """
    if root.is_file():
        return {_stem(root.name): root}
    if not root.exists():
        raise FileNotFoundError(
            f'{root} does not exist. Give a folder of {kind}, or one file.'
        )
    folder = root / kind if (root / kind).is_dir() else root
    return {name: folder / file for name, file in list_rasters(folder).items()}


def list_rasters(folder: Path) -> dict[str, str]:
    """Find the images of a folder.

    Args:
        folder: The folder.

    Returns:
        File name of each image by its name without suffix, composed (Unicode NFC), in
        order of the file names. Files of other kinds are named in a warning.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If two files have one name.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f'{folder} does not exist. A folder of pairs needs images/ and masks/ '
            'with files of the same names; torchgeo-specdm scenes makes one to try.'
        )
    # other systems leave hidden files such as ._a.tif beside a.tif
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith('.')]
    folders = sorted(entry.name for entry in shown if entry.is_dir())
    files = sorted(entry.name for entry in shown if not entry.is_dir())
    if folders:
        _log.warning(
            '%s: passed over are the folders %s. Put the files of all into one, and '
            'name those of each split in train.txt, val.txt and test.txt.',
            folder,
            ', '.join(folders[:_SHOWN]),
        )
    headers = {file for file in files if file.endswith(_HEADER)}
    endings = [_ending(file, headers) for file in files]
    kind = next((kind for kind in _KINDS if {*kind} & {*endings}), _KINDS[0])
    others = {*endings}.difference(kind, _BESIDE, (_HEADER,))
    if others:
        names = [f for f, end in zip(files, endings, strict=True) if end in others]
        counts = Counter(ending for ending in endings if ending in others)
        _log.warning(
            '%s: read are files ending in %s; passed over are %s (%s).',
            folder,
            ' or '.join(kind),
            ', '.join(f'{n} in {e or "nothing"}' for e, n in sorted(counts.items())),
            ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else ''),
        )
    # names take a fifth of the memory of paths
    found: dict[str, str] = {}
    for file, ending in zip(files, endings, strict=True):
        if ending not in kind:
            continue
        name = _stem(file)
        if name in found:
            raise ValueError(
                f'{folder / file} and {found[name]} have one id, {name!r}, which must '
                'be unique. Remove or rename one of them.'
            )
        found[name] = file
    return found


def _ending(file: str, headers: Collection[str]) -> str:
    """The ending of a file in lower case; that of ENVI where a header is beside it."""
    stem, ending = os.path.splitext(file)
    headed = stem + _HEADER in headers or file + _HEADER in headers
    ending = sys.intern(ending.lower())
    known = (*sum(_KINDS, ()), *_BESIDE, _HEADER)
    return _ENVI[0] if headed and ending not in known else ending


def _file(name: str, rest: str) -> str:
    """The file of a name and its ending, or all of one that is written otherwise."""
    return name + rest if rest[:1] in ('', '.') else rest


def _stem(file: str) -> str:
    """The name of a file without its ending; systems differ in how they write umlauts."""
    return unicodedata.normalize('NFC', os.path.splitext(file)[0])
