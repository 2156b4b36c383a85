# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Pixels that are scored although training shows them."""

from collections.abc import Mapping, Sequence

from ...datasets.pairs import PairFolder
from ...pairs.layout import read_corners, read_places


def scored_ground(
    folder: PairFolder, train: Sequence[str], others: Sequence[str]
) -> list[str]:
    """Find samples that have labels on ground which training samples show.

    Two samples of one place, by ``places.csv``, are taken to show the same ground,
    unless its columns ``row`` and ``column`` say which pixels both of them show.

    Args:
        folder: All samples.
        train: Ids of those to train on.
        others: Ids of those to validate or test on.

    Returns:
        The part of *others* that shares labelled ground with *train*.

    Raises:
        ValueError: If ``places.csv`` lacks a sample.
    """
    places = read_places(folder.root, [*train, *others])
    corners = read_corners(folder.root)
    near: dict[str, list[str]] = {}
    for name in train:
        near.setdefault(places[name], []).append(name)
    return [
        name
        for name in others
        if places[name] in near and _shares(folder, name, near[places[name]], corners)
    ]


def _shares(
    folder: PairFolder,
    name: str,
    near: Sequence[str],
    corners: Mapping[str, tuple[int, int]],
) -> bool:
    """Whether a sample has a label where one of others shows the same ground."""
    if not corners.keys() >= {name, *near}:
        return True
    sample = folder.select([name])[0]
    mask = sample['mask'].reshape(sample['mask'].shape[-2:])
    ignored = folder.spec.ignore_index
    # classes are 0 or more
    labelled = mask.ne(-1 if ignored is None else ignored)
    for index, other in enumerate(near):
        size = folder.select(near).facts(index).form.size
        rows, columns = (
            slice(max(there - here, 0), max(there - here + length, 0))
            for there, here, length in zip(corners[other], corners[name], size)
        )
        if labelled[rows, columns].any():
            return True
    return False
