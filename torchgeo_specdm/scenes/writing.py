# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Folders of procedural demo scenes."""

from pathlib import Path

import numpy as np

from ..bars import bar
from ..files import write_text
from ..pairs.writer import PairWriter
from .change import change_spec, make_change_scene
from .land import make_scene, scene_spec

_CARD = """# Demo scenes

{count} procedural, labelled scenes in the manner of Sentinel-2 at 10 m, made by
`torchgeo-specdm scenes` with seed {seed}. They are a demo and a test bed: nothing
measured on them says how a method does on real images. Each scene is another place;
`train.txt`, `val.txt` and `test.txt` share none.
"""
_CHANGE_CARD = """
Each place is seen on two days of different years. Class 1 of the masks is what was
built, dug or felled between them; season, crops and water level are no change.
"""


def write_scenes(
    out: str | Path,
    counts: tuple[int, int, int],
    size: int = 64,
    seed: int = 0,
    hard: bool = False,
    change: bool = False,
) -> None:
    """Write a folder of pairs with lists for training, validation and test.

    Run again, it writes what is missing. Other counts need another folder: they would
    move scenes from one list to another.

    Args:
        out: The folder.
        counts: Samples for training, validation and test.
        size: Side of a scene in pixels of 10 m.
        seed: Another seed is another part of the world.
        hard: Thirteen classes instead of six.
        change: Two dates and a mask of change, see :func:`.make_change_scene`.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If a number is out of range, or both *hard* and *change* are set.
    """
    if min(counts) < 0 or sum(counts) < 1:
        raise ValueError(
            f'counts={counts} must be 0 or more each, and 1 or more together.'
        )
    if hard and change:
        raise ValueError(
            'hard=True and change=True exclude each other: scenes with two dates have '
            'the classes no change and change. Leave one out.'
        )
    settings = {'seed': seed, 'size': size, 'hard': hard, 'counts': list(counts)}
    spec = change_spec() if change else scene_spec(hard)
    provenance = {'synthetic': True, 'scenes': 'procedural'}
    writer = PairWriter(out, spec, provenance, settings)
    writer.clean()
    done = writer.done()
    total = sum(counts)
    for index in bar(range(total), 'scenes', hidden=total < 100):
        if index not in done:
            image, mask = (
                make_change_scene(seed, index, size)
                if change
                else make_scene(seed, index, size, hard)
            )
            writer.write(f'{index:06d}', image, mask, {'index': index})
    edges = np.cumsum((0, *counts))
    for i, split in enumerate(('train', 'val', 'test')):
        names = [f'{index:06d}\n' for index in range(edges[i], edges[i + 1])]
        write_text(writer.root / f'{split}.txt', ''.join(names))
    card = _CARD + _CHANGE_CARD * change
    writer.finish(card.format(count=total, seed=seed))
