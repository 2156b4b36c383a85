# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Pairs of samples that may show one place, without looking at each pair."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds
from scipy.fft import dctn
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Subset

#: Pairs of samples, as positions in both data sets.
Candidates = list[tuple[int, int]]

#: Share of the smaller footprint that must be common; degrees distort it a little.
_LEAST_COMMON = 0.15
#: Landmarks of a map, and the side in pixels of what is described around each.
_LANDMARKS, _WINDOW = 48, 24
#: Side of the squares of pixels that are averaged in a window, and how many of the
#: lowest frequencies along each axis describe the rest.
_POOL, _FREQUENCIES = 3, 4
#: Most similar landmarks that each one is compared with.
_NEIGHBOURS = 3
#: Shifts of two landmarks that agree within so many pixels are one.
_SLACK = 4


class Landmarks(NamedTuple):
    """Spots of maps that can be found again."""

    sample: NDArray[np.int64]  #: number of the sample that each is in, (N,)
    spot: NDArray[np.int64]  #: row and column, (N, 2)
    look: NDArray[np.float32]  #: description of what is around, (N, D), of length 1

    @classmethod
    def of(cls, maps: Tensor, start: int = 0) -> Self:
        """Find the strongest maxima of maps, and describe what is around them.

        Args:
            maps: Maps of N samples that follow each other, (N, T, h, w), of mean 0 or so.
            start: Number of the first one.

        Returns:
            Their landmarks; maps smaller than a window have none.
        """
        found = [_strongest(values) for values in maps]
        counts = [len(spots) for spots, _ in found]
        return cls(
            np.arange(start, start + len(found)).repeat(counts),
            np.concatenate([spots for spots, _ in found]),
            np.concatenate([looks for _, looks in found]),
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The landmarks of all parts, one or more."""
        return cls(*map(np.concatenate, zip(*parts)))


def by_georeference(first: Any, second: Any) -> Candidates | None:
    """Pairs of samples whose footprints have ground in common.

    Args:
        first: A data set, whose samples have a place if it has ``place`` and ``size``.
        second: Another one.

    Returns:
        The pairs; None if a sample lies nowhere, or all of a data set at one place.
    """
    ours, theirs = _footprints(first), _footprints(second)
    if ours is None or theirs is None:
        return None
    there, here = shapely.STRtree(ours).query(theirs, predicate='intersects')
    common = shapely.area(shapely.intersection(ours[here], theirs[there]))
    smaller = np.minimum(shapely.area(ours[here]), shapely.area(theirs[there]))
    shared = common >= _LEAST_COMMON * smaller
    return sorted(zip(here[shared].tolist(), there[shared].tolist(), strict=True))


def _footprints(dataset: Any) -> NDArray[np.object_] | None:
    """The box of each sample in degrees; None if they tell nothing apart."""
    boxes = []
    for position in range(len(dataset)):
        owner: Any = dataset
        index = position
        while isinstance(owner, Subset):
            owner, index = owner.dataset, owner.indices[index]
        located = hasattr(owner, 'place') and hasattr(owner, 'size')
        place = owner.place(index) if located else {}
        if not place:
            return None
        bounds = array_bounds(*owner.size(index), place['transform'])
        boxes.append(transform_bounds(place['crs'], 'EPSG:4326', *bounds))
    if len({*boxes}) == 1:
        # dates of one place, or patches that kept the georeference of their scene
        return None
    return np.asarray(shapely.box(*np.transpose(boxes)))


def _strongest(values: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Spots (N, 2) of the landmarks of a sample, and their looks (N, D)."""
    numbers, half = _FREQUENCIES**2, _WINDOW // 2
    if min(values.shape[-2:]) <= _WINDOW:
        return np.zeros((0, 2), np.int64), np.zeros((0, numbers - 1), np.float32)
    smooth = F.avg_pool2d(values[:, None], 5, 1, 2, count_include_pad=False)
    peak = (smooth == F.max_pool2d(smooth, 5, 1, 2)) & (smooth > 0)
    inner = (smooth * peak)[:, 0, half:-half, half:-half]
    strength, at = inner.flatten(1).topk(min(_LANDMARKS, inner[0].numel()))
    date, chosen = (strength > 0).nonzero(as_tuple=True)
    at = at[date, chosen]
    rows, columns = at // inner.shape[-1], at % inner.shape[-1]
    windows = values.unfold(1, _WINDOW, 1).unfold(2, _WINDOW, 1)[date, rows, columns]
    cells = F.avg_pool2d(windows[:, None], _POOL)[:, 0].numpy()
    waves = dctn(cells, axes=(1, 2), norm='ortho')[:, :_FREQUENCIES, :_FREQUENCIES]
    # the first one is the mean
    look = torch.from_numpy(waves.reshape(-1, numbers)[:, 1:])
    return torch.stack([rows, columns], 1).numpy(), F.normalize(look, dim=1).numpy()


def by_landmarks(first: Landmarks, second: Landmarks) -> Candidates:
    """Pairs of samples in which two landmarks or more are shifted alike.

    Args:
        first: Landmarks of one data set.
        second: Landmarks of another one.

    Returns:
        The pairs.
    """
    if not len(first.look) or not len(second.look):
        return []
    tree = KDTree(first.look)
    near = np.asarray(tree.query(second.look, _NEIGHBOURS)[1])
    # fewer than asked for are marked by the number of all
    here, there = near.ravel(), np.arange(len(near)).repeat(_NEIGHBOURS)
    here, there = here[here < len(first.look)], there[here < len(first.look)]
    shift = first.spot[here] - second.spot[there]
    votes = np.column_stack([first.sample[here], second.sample[there]])
    agreed: set[tuple[int, int]] = set()
    # a shift at the border of two squares is in one of the other grid
    for offset in (0, _SLACK // 2):
        keys = np.column_stack([votes, (shift + offset) // _SLACK])
        different, count = np.unique(keys, axis=0, return_counts=True)
        pairs: Sequence[Sequence[int]] = different[count > 1, :2].tolist()
        agreed |= {(one, other) for one, other in pairs}
    return sorted(agreed)
