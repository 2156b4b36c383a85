# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Patches of one place in two splits, found by what they show."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Subset

from ..datamodules.support.adapter import split_datasets
from ..pairs.spec import SampleSpec
from .candidates import Candidates, Landmarks, by_georeference, by_landmarks
from .outlines import borders, edges, labels

#: Least share of the smaller patch that both must show. Chance agrees best where little
#: is compared, and a strip along an edge leaks little.
_LEAST_SHARE = 0.2
#: Patches of twice this side or more are averaged over squares of pixels before.
_SIDE = 128
#: Samples of each split that are in memory at a time, and pairs that are compared so:
#: more is slower, since their maps leave the processor's cache.
_BLOCK, _PAIRS = 64, 16
#: Pairs that are all compared; of more, those that have landmarks in common.
_ALL = 100_000
# How alike two patches must be: correlation times the square root of the common share,
# which grows with chance alike whatever the share. Measured with patches of 128 pixels.
# Images: the best of all shifts came to 0.095 at most in 13,600 pairs of different
# places (HLS at 30 m 0.095, OSCD 0.069, procedural scenes 0.090), a tenth as often for
# each 0.014 more, and to 0.16 with 64 pixels, 0.28 with 32; 242 pairs of HLS that share
# a fifth or more, at other seasons too, came to 0.188 or more, 47 of OSCD, years apart,
# to 0.282.
# Masks: 0.043 at most by chance, but a few straight borders fit each other anywhere,
# hence the floor: as if so many pixels of the patch were borders that do not agree.
_IMAGE_ALIKE, _IMAGE_FLOOR = 0.13, 0.02
_MASK_ALIKE, _MASK_FLOOR = 0.15, 0.1
#: Whatever is alike to this degree is the same, however small the patch.
_SAME = 0.8


class Overlap(NamedTuple):
    """Two samples that show one place.

    Attributes:
        first: Position of a sample in the first data set.
        second: Position of a sample in the second data set.
        row: Row of the first one that the first row of the second one lies on, in
            pixels, below 0 if outside; a multiple of the reduction (see
            :func:`find_overlaps`).
        column: Column of the first one that the first column of the second one lies on,
            in pixels, below 0 if outside; a multiple of the reduction.
        share: Part of the smaller of both that the other shows too, 0.2..1.
        mask_agreement: Part of the pixels shown and labelled in both that have one
            class, 0..1; None if there are none, or with several dates.
        image_correlation: Correlation of the gradients over what both show, -1..1; with
            several dates that of the two most alike.
    """

    first: int
    second: int
    row: int
    column: int
    share: float
    mask_agreement: float | None
    image_correlation: float


class _Block(NamedTuple):
    """Samples of one size, as they are compared."""

    start: int  #: position of the first one in the data set; the others follow
    images: Tensor  #: edges (N, T, h, w)
    masks: Tensor  #: class positions (N, h, w), -1 for no label


class _Match(NamedTuple):
    """The best shift of each pair; tensors (N, M)."""

    score: Tensor
    row: Tensor
    column: Tensor


def overlaps_between_splits(datamodule: Any) -> dict[str, list[Overlap]]:
    """Find places that two splits of a datamodule show.

    Args:
        datamodule: Any datamodule of map-style data sets; its ``spec``, if any, says
            what samples are.

    Returns:
        What was found for each pair of splits that there are: ``train-val``,
        ``train-test`` and ``val-test``.

    Raises:
        ValueError: If there are less than two splits.
    """
    sets = split_datasets(datamodule)
    spec = getattr(datamodule, 'spec', None)
    if len(sets) < 2:
        raise ValueError(
            f'{type(datamodule).__name__} has the splits {list(sets)}, but overlap is '
            'looked for between two. Give it a validation or test set.'
        )
    return {
        f'{one}-{other}': find_overlaps(sets[one], sets[other], spec)
        for one, other in combinations(sets, 2)
    }


def describe_overlaps(
    datamodule: Any, found: Mapping[str, Sequence[Overlap]], most: int = 10
) -> str:
    """Say how much of each split is in another, and name the worst pairs.

    Args:
        datamodule: The datamodule that was searched.
        found: Overlaps from :func:`overlaps_between_splits`.
        most: Number of pairs of each two splits to name, 0 or more.

    Returns:
        A line for each two splits, and one for each pair.
    """
    lines = []
    for splits, overlaps in found.items():
        first, second = splits.split('-')
        sets = [getattr(datamodule, f'{name}_dataset') for name in (first, second)]
        # a data set without ids has numbers only
        ours, theirs = (getattr(s, 'ids', range(len(s))) for s in sets)
        lines.append(
            f'{len({one.second for one in overlaps})} of {len(sets[1])} {second} '
            f'samples show ground that is also in {first}.'
        )
        for one in sorted(overlaps, key=_alike, reverse=True)[:most]:
            lines.append(
                f'  {first} {ours[one.first]} and {second} {theirs[one.second]}: '
                f'{one.share:.0%} in common, shifted by {one.row} rows and '
                f'{one.column} columns; correlation {one.image_correlation:.2f}'
            )
        if len(overlaps) > most:
            lines.append(f'  and {len(overlaps) - most} further pairs')
    return '\n'.join(lines)


def _alike(overlap: Overlap) -> float:
    return overlap.share * overlap.image_correlation


def find_overlaps(first: Any, second: Any, spec: SampleSpec | None) -> list[Overlap]:
    """Find pairs of samples of two data sets that show one place.

    Whatever the shift: the strength of edges in the images, which stay where they are
    when land changes its colour, and where the borders between classes run. Masks of
    several dates, mostly without change, are not looked at; each date is compared
    with each. Flipped or turned copies are not found.

    Where all samples of both lie somewhere, those whose footprints have ground in
    common are compared. Of others all pairs are compared up to 100,000, and beyond that
    those in which two landmarks or more look alike and are shifted alike, which misses
    some of other seasons (docs/notes/trust.md).

    Each pair costs an inverse Fourier transform of twice the patch for each two dates
    and one for the masks: with patches of 128 pixels 2.4 ms on one core, so 9 s for
    81 x 46. Patches of 256 pixels or more are reduced to 128..255 first, by a whole
    number, which is then the step of the shifts. Memory holds 64 samples of each data
    set, and where landmarks are needed 48 for each map of each sample, 7 kB.

    Small patches prove little: below 128 pixels, more must agree. With 64 pixels a
    quarter that is the same is found, with 32 pixels about half.

    Args:
        first: A map-style data set with samples of ``image``, (C, H, W) or
            (T, C, H, W), and maybe ``mask``, (H, W) or (1, H, W).
        second: Another one, of the same bands and size of pixels.
        spec: Description of the samples: which pixels are missing or have no label.
            None if not known: then masks below 0 or of 255 are no label.

    Returns:
        The pairs, the most alike of each sample of *second* first.
    """
    if not len(first) or not len(second):
        return []
    side = max(max(one[0]['image'].shape[-2:]) for one in (first, second))
    factor = max(1, side // _SIDE)
    candidates = by_georeference(first, second)
    if candidates is None and len(first) * len(second) > _ALL:
        sides = (_landmarks(one, spec, factor) for one in (first, second))
        alike = {pair for both in zip(*sides) for pair in by_landmarks(*both)}
        candidates = sorted(alike)
    blocks = _all_blocks(first, second, spec, factor)
    if candidates is not None:
        blocks = _chosen_blocks(first, second, candidates, spec, factor)
    found = [
        overlap for ours, theirs in blocks for overlap in _compare(ours, theirs, factor)
    ]
    return sorted(found, key=lambda o: (o.second, -_alike(o)))


def _all_blocks(
    first: Any, second: Any, spec: SampleSpec | None, factor: int
) -> Iterator[tuple[_Block, _Block]]:
    """Each block of one data set with each of the other."""
    for ours in _read_blocks(first, spec, factor):
        for theirs in _read_blocks(second, spec, factor):
            yield ours, theirs


def _chosen_blocks(
    first: Any,
    second: Any,
    candidates: Candidates,
    spec: SampleSpec | None,
    factor: int,
) -> Iterator[tuple[_Block, _Block]]:
    """Chosen pairs of samples, each a block of its own."""

    @lru_cache(2 * _BLOCK)
    def read(is_first: bool, index: int) -> _Block:
        (block,) = _read_blocks(
            Subset(first if is_first else second, [index]), spec, factor
        )
        return block._replace(start=index)

    for one, other in candidates:
        yield read(True, one), read(False, other)


def _landmarks(
    dataset: Any, spec: SampleSpec | None, factor: int
) -> tuple[Landmarks, Landmarks]:
    """Landmarks of the images, and of the borders between classes."""
    images, masks = [], []
    for block in _read_blocks(dataset, spec, factor):
        images.append(Landmarks.of(block.images, block.start))
        masks.append(Landmarks.of(borders(block.masks), block.start))
    return Landmarks.join(images), Landmarks.join(masks)


def _read_blocks(
    dataset: Any, spec: SampleSpec | None, factor: int
) -> Iterator[_Block]:
    """Samples of one size that follow each other, a block at a time."""
    images: list[Tensor] = []
    masks: list[Tensor] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        image = edges(sample['image'], factor)
        if images and (image.shape != images[0].shape or len(images) == _BLOCK):
            yield _Block(index - len(images), torch.stack(images), torch.stack(masks))
            images, masks = [], []
        images.append(image)
        masks.append(labels(sample.get('mask'), image, spec, factor))
    yield _Block(len(dataset) - len(images), torch.stack(images), torch.stack(masks))


def _compare(ours: _Block, theirs: _Block, factor: int) -> list[Overlap]:
    """The overlaps between two blocks."""
    pixels = min(ours.masks[0].numel(), theirs.masks[0].numel())
    # chance agrees less the more pixels there are
    scarce = max(1, _SIDE / pixels**0.5)
    best = _match(ours.images, theirs.images, _IMAGE_FLOOR)
    alike = best.score / min(_IMAGE_ALIKE * scarce, _SAME)
    both = borders(ours.masks), borders(theirs.masks)
    if all(border.any() for border in both):
        other = _match(*both, _MASK_FLOOR)
        score = other.score / min(_MASK_ALIKE * scarce, _SAME)
        better = score > alike
        alike = torch.where(better, score, alike)
        best = _Match(*(torch.where(better, o, b) for o, b in zip(other, best)))
    return [
        _measure(
            ours, theirs, (i, j), (int(best.row[i, j]), int(best.column[i, j])), factor
        )
        for i, j in (alike >= 1).nonzero().tolist()
    ]


def _match(first: Tensor, second: Tensor, floor: float) -> _Match:
    """The best shift of each pair, over all pairs of dates.

    Args:
        first: Maps (N, T, h, w) of mean 0 or so.
        second: Maps (M, U, h', w').
        floor: Variance of each pixel that is added for what agrees with nothing.

    Returns:
        Of each pair correlation times the square root of the share, and shift.
    """
    size = [a + b for a, b in zip(first.shape[-2:], second.shape[-2:])]
    dates, others = first.shape[1], second.shape[1]
    first, second = first.flatten(0, 1), second.flatten(0, 1)
    ours, theirs = (torch.fft.rfft2(maps, s=size) for maps in (first, second))
    weight, norm, other_norm = _norms(first, second, size)
    least = floor * min(first[0].numel(), second[0].numel())
    score = torch.empty(len(first), len(second))
    peak = torch.empty(len(first), len(second), dtype=torch.long)
    for i in range(len(first)):
        for j in range(0, len(second), _PAIRS):
            part = slice(j, j + _PAIRS)
            common = torch.fft.irfft2(ours[i] * theirs[part].conj(), s=size)
            common *= weight / (norm[i] * other_norm[part] + least)
            score[i, part], peak[i, part] = common.flatten(1).max(1)
    shape = (-1, dates, len(second) // others, others)
    pairs = [v.reshape(shape).transpose(1, 2).flatten(2) for v in (score, peak)]
    best, chosen = pairs[0].max(2)
    at = pairs[1].gather(2, chosen[..., None])[..., 0]
    row, column = at // size[1], at % size[1]
    # beyond the first patch, shifts are the other way
    row = torch.where(row >= first.shape[-2], row - size[0], row)
    return _Match(
        best, row, torch.where(column >= first.shape[-1], column - size[1], column)
    )


def _norms(
    first: Tensor, second: Tensor, size: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """By shift: root of the share, 0 if too small, and norms of the common parts."""
    whole = [torch.fft.rfft2(torch.ones_like(m[0]), s=size) for m in (first, second)]
    pixels = torch.fft.irfft2(whole[0] * whole[1].conj(), s=size)
    share = pixels / min(first[0].numel(), second[0].numel())
    energies = [torch.fft.rfft2(maps**2, s=size) for maps in (first, second)]
    norm = torch.fft.irfft2(energies[0] * whole[1].conj(), s=size)
    other = torch.fft.irfft2(whole[0] * energies[1].conj(), s=size)
    # rounding must not lose a share that is just large enough
    weight = torch.where(share > _LEAST_SHARE - 1e-4, share, 0)
    return weight.sqrt(), norm.clamp_min(0).sqrt(), other.clamp_min(0).sqrt()


def _measure(
    ours: _Block,
    theirs: _Block,
    pair: tuple[int, int],
    shift: tuple[int, int],
    factor: int,
) -> Overlap:
    """Describe an overlap by what both samples show."""
    here, there = [], []
    for delta, size, other in zip(shift, ours.masks.shape[1:], theirs.masks.shape[1:]):
        start, stop = max(delta, 0), min(size, other + delta)
        here.append(slice(start, stop))
        there.append(slice(start - delta, stop - delta))
    mask = ours.masks[pair[0]][tuple(here)]
    other_mask = theirs.masks[pair[1]][tuple(there)]
    labelled = (mask >= 0) & (other_mask >= 0)
    images = ours.images[pair[0]][:, here[0], here[1]].flatten(1)
    other_images = theirs.images[pair[1]][:, there[0], there[1]].flatten(1)
    # cosines: the maps have mean 0 by how they are made
    cosines = F.normalize(images, dim=1) @ F.normalize(other_images, dim=1).T
    smaller = min(ours.masks[0].numel(), theirs.masks[0].numel())
    agreement = (mask == other_mask)[labelled].float().mean()
    return Overlap(
        ours.start + pair[0],
        theirs.start + pair[1],
        shift[0] * factor,
        shift[1] * factor,
        mask.numel() / smaller,
        float(agreement) if labelled.any() else None,
        float(cosines.max()),
    )
