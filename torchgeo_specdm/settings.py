# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One folder of results holds one experiment."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from .files import read_json, sha256


class Begun(TypedDict):
    """A JSON file with the settings that a folder was begun with."""

    settings: dict[str, Any]


#: What other programs leave beside rasters, and a writer that was killed.
_BESIDE = ('.xml', '.ovr', '.part')
#: Lists and descriptions of a folder of pairs.
_TEXTS = ('.json', '.csv', '.txt')


def require_same_settings(path: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder that was begun with other settings.

    Args:
        path: A JSON file with the entry ``settings``; it need not exist yet.
        wanted: The settings of this start, plain JSON types.

    Raises:
        FileExistsError: With both values of every setting that differs.
    """
    if path.exists():
        compare_settings(path.parent, read_json(path, Begun)['settings'], wanted)


def compare_settings(
    folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
    """Refuse to go on in a folder whose settings are not those of this start.

    Args:
        folder: The folder, for the message.
        there: Settings that it was begun with, plain JSON types.
        here: The settings of this start, plain JSON types.

    Raises:
        FileExistsError: With both values of every setting that differs.
    """
    different = ', '.join(
        f'{key}: {there.get(key)!r} there, {here.get(key)!r} here'
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    )
    if different:
        raise FileExistsError(
            f'{folder} was begun with other settings ({different}). Choose another '
            'folder, or the same settings to go on.'
        )


def content_hash(root: Path) -> str:
    """Hash what a folder of pairs or of images holds, whatever else lies in it.

    Args:
        root: The folder.

    Returns:
        12 hexadecimal digits of names and contents of its images, masks, lists and
        descriptions.
    """
    rasters = [*root.glob('images/*'), *root.glob('masks/*')]
    # a folder of images may have them in itself
    rasters = rasters or [path for path in root.iterdir() if path.is_file()]
    files = {
        path
        for path in rasters
        if path.suffix.lower() not in _BESIDE and path.name[0] != '.'
    }
    files |= {path for path in root.iterdir() if path.suffix in _TEXTS}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f'{path.relative_to(root).as_posix()} {sha256(path)}\n'.encode())
    return digest.hexdigest()[:12]
