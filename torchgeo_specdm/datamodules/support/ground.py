# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Ground that samples of one split share with those of another."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...datasets.pairs import PairFolder
from ...pairs.layout import read_corners, read_places


def scored_ground(
    folder: PairFolder, train: Sequence[str], others: Sequence[str]
) -> list[str]:
    """Find samples that have labels on ground which training samples show.

    Two samples of one place, by ``places.csv``, are taken to show the same ground,
    unless its columns ``row`` and ``column`` say which pixels both of them show.

    Args:
        folder: The folder of all samples, without transforms.
        train: Ids of the samples to train on.
        others: Ids of the samples to validate or test on.

    Returns:
        The part of *others* that shares labelled ground with *train*.

    Raises:
        ValueError: If ``places.csv`` lacks a sample.
    """
    places = read_places(folder.root, [*train, *others])
    near: dict[str, list[str]] = {}
    for name in train:
        near.setdefault(places[name], []).append(name)
    shared = [name for name in others if places[name] in near]
    corners = read_corners(folder.root) if shared else {}
    return [n for n in shared if _labels_beside(folder, n, near[places[n]], corners)]


def _labels_beside(
    folder: PairFolder,
    name: str,
    near: Sequence[str],
    corners: Mapping[str, tuple[int, int]],
) -> bool:
    """Whether a sample has a label where one of others shows the same ground."""
    if not corners.keys() >= {name, *near}:
        return True
    found = folder.select([name])[0]['mask']
    mask = found.reshape(found.shape[-2:]).numpy()
    ignored = folder.spec.ignore_index
    labelled = np.ones_like(mask, bool) if ignored is None else mask != ignored
    beside = folder.select(near)
    for index, other in enumerate(near):
        size = beside.facts(index).form.size
        rows, columns = (
            slice(max(there - here, 0), max(there - here + length, 0))
            for there, here, length in zip(corners[other], corners[name], size)
        )
        if labelled[rows, columns].any():
            return True
    return False
