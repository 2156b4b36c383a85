# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The classes of a folder of pairs that does not name them itself."""

import json
import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from .cache import FileCache
from .codes import MISSING, codes_of, nodata_code
from .layout import PairFiles, read_table
from .rasters import Raster, read_raster
from .spec import USUAL_IGNORE

_log = logging.getLogger(__name__)

CLASSES = 'classes.csv'
#: A mask with a higher value than this holds codes, not class positions.
_MOST_CLASSES = 64
#: Names of rows of classes.csv that mean no label, without blanks and marks.
_NO_LABEL_NAMES = (
    *('nolabel', 'unlabelled', 'unlabeled', 'nodata', 'ignore', 'ignored'),
    # of ENVI
    'unclassified',
)
#: How a value of the masks is said to be no label, in messages.
_SAY_NO_LABEL = 'torchgeo-specdm describe FOLDER --no-label VALUE --write'


def find_classes(
    files: PairFiles, declared: Sequence[int], mask: Raster, variable: str | None
) -> tuple[list[int], list[str], list[int]]:
    """Find the classes of a folder, from ``classes.csv`` or all of its masks.

    Without a table, names are those that the first mask tells.

    Args:
        files: The files of the folder.
        declared: Values in the masks that are said to be no label.
        mask: The first mask.
        variable: Name of the array in masks of several; the one that can be meant if
            None.

    Returns:
        Value in the masks and name of each class, and values that are no label.

    Raises:
        ValueError: If the table is wrong, or it is not clear what the masks hold.
    """
    code = nodata_code(mask)
    tagged = [] if code is None else [code]
    named = read_classes(files.root)
    if not named:
        found, named_by_some = _values_of_masks(files, variable)
        tagged += sorted(named_by_some - {code})
        for code in tagged:
            if 0 <= code <= _MOST_CLASSES and code not in declared:
                _log.warning(
                    '%s: the value %d is no label, since masks name it as nodata. List '
                    'it in %s if it is a class.',
                    files.root,
                    code,
                    CLASSES,
                )
        ignored = [*dict.fromkeys([*declared, *tagged])]
        named = names_of(mask, found - {*ignored})
        if not named:
            codes = _classes_of_masks(files, ignored, found)
            return codes, [f'class_{code}' for code in codes], ignored
    said = [c for c, name in named.items() if _plain(name) in _NO_LABEL_NAMES]
    # what the table calls a class is one, whatever the tag of the masks
    tagged = [code for code in tagged if code not in named]
    ignored = [*dict.fromkeys([*declared, *said, *tagged])]
    codes = [code for code in named if code not in ignored]
    return codes, [named[code] for code in codes], ignored


def names_of(mask: Raster, codes: AbstractSet[int]) -> dict[int, str]:
    """Names of codes that a mask tells itself.

    Args:
        mask: Content of the mask.
        codes: The codes in question.

    Returns:
        A name for each of them, in order, but for 255 without one, which is no label;
        empty unless each has one of its own.
    """
    named = {c: mask.categories[c] for c in sorted(codes) if c in mask.categories}
    alone = codes - named.keys() - {USUAL_IGNORE}
    return {} if alone or len({*named.values()}) < len(named) else named


def read_classes(root: Path) -> dict[int, str]:
    """Read ``classes.csv``.

    Args:
        root: The folder of pairs.

    Returns:
        Name of each value in the masks, of those that are no label too, in the order of
        the table; empty without one.

    Raises:
        ValueError: If the table is wrong.
    """
    path = root / CLASSES
    if not path.exists():
        return {}
    rows = read_table(path, ('id', 'name'))
    try:
        named = {int(row['id']): row['name'] for row in rows}
    except ValueError as error:
        raise ValueError(
            f'{path}: ids must be whole numbers, the values in the masks ({error}). '
            'Mend the file.'
        ) from error
    ids = [int(row['id']) for row in rows]
    for column, values in (('ids', ids), ('names', [row['name'] for row in rows])):
        if not values or len({*values}) < len(rows):
            raise ValueError(
                f'{path} has the {column} {values}, but needs one or more, all '
                'different. Mend the file.'
            )
    return named


def _plain(name: str) -> str:
    return ''.join(c for c in name.lower() if c.isalnum())


def _values_of_masks(
    files: PairFiles, variable: str | None
) -> tuple[set[int], set[int]]:
    """The values in all masks, and those that some of the masks name as nodata."""
    cache = FileCache(files.root, f'values {variable}', lambda n: files.files(n)[-1:])
    texts = dict(cache.kept)
    for name in files.ids:
        if name not in texts:
            raster = read_raster(files.mask(name), (), variable)
            values = np.unique(codes_of(files.mask(name), raster)).tolist()
            texts[name] = json.dumps([values, nodata_code(raster)]).encode()
    cache.keep(texts)
    looks = [json.loads(text) for text in {*texts.values()}]
    found = {value for values, _ in looks for value in values}
    return found - {MISSING}, {code for _, code in looks if code is not None}


def _classes_of_masks(
    files: PairFiles, no_label: Sequence[int], found: AbstractSet[int]
) -> list[int]:
    """All positions up to the highest in the masks, if they look like positions."""
    ignored = {*no_label} or {USUAL_IGNORE}
    labels = sorted(found - ignored)
    top = max(labels, default=0)
    codes = top > _MOST_CLASSES or min(labels, default=0) < 0
    # 10, 20, 30 are codes; 0 and 255 may be a yes and no as well as a class and a gap
    unclear = not no_label and USUAL_IGNORE in found and top == 0
    if codes or 2 * len(labels) < top + 1 or unclear:
        # negative values are rarely classes
        example = next((code for code in labels if code >= 0), min(found))
        gap = next((code for code in labels if code < 0), 'VALUE')
        raise ValueError(
            f'The masks of {files.root} hold the values {sorted(found)[:8]}, and it is '
            'not clear which of them are classes. Classes are 0, 1, 2 and so on, with '
            f'{USUAL_IGNORE} for no label ({_SAY_NO_LABEL.replace("VALUE", str(gap))} '
            f"names another value), or are listed in {CLASSES}: a line 'id,name', and "
            f"one for each value in the masks that is a class, such as '{example},forest'."
        )
    positions = [code for code in range(top + 1) if code not in ignored]
    absent = [f'class_{code}' for code in positions if code not in labels]
    if absent:
        _log.warning(
            '%s: %s has no pixel in any mask. If the masks mean no label by it, say so: '
            '%s.',
            files.root,
            ', '.join(absent),
            _SAY_NO_LABEL,
        )
    return positions
