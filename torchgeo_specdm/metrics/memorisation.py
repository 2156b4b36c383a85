# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Are generated samples copies of training samples?

Copies are looked for under flips and quarter turns, in pixels (a coarse picture of all
bands) and in features (what the whole patch is made of). How near is too near is not a
matter of taste: real samples of other places are as near as chance brings them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import betabinom
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, unfold

from ..pairs.valid import fill_missing
from .features import RandomFeatures

#: Cells along each side of a window in the coarse picture.
_CELLS = 8
#: Numbers of one product that are in memory at once.
_MOST = 2**23
#: A feature that varies less than this over training samples is constant.
_LEAST_STD = 1e-9
#: Share of real samples that count as near.
_NEAR = 0.01
#: An alarm is raised for what happens by chance once in so many sets.
_CHANCE = 0.001


class TrainingSample(NamedTuple):
    """A real sample that a generator was trained on.

    Attributes:
        image: Digital numbers (C, H, W), or (T, C, H, W) with T dates.
        name: Name by which a person can find it.
    """

    image: Tensor
    name: str


class Nearest(NamedTuple):
    """The nearest window of the training samples to each of B images.

    Attributes:
        distance: Root mean square difference per value, float32 (B,), 0 for a copy;
            infinite if no training sample is left.
        sample: Number of the training sample, int64 (B,).
        row: First row of the window in the training sample, int64 (B,).
        column: First column, int64 (B,).
        turn: Turn that lays the image like the window, int64 (B,): so many quarter
            turns counterclockwise, for 4 and above after a flip from left to right.
    """

    distance: Tensor
    sample: Tensor
    row: Tensor
    column: Tensor
    turn: Tensor


class NearestSamples(nn.Module):
    """Finds the nearest training sample to an image.

    Training samples may be larger than the images, since generators learn from random
    crops: all windows of a training sample are looked at, in pixels at every half
    cell, in features at every half window. A cell is an eighth of the side of a
    window; in pixels, images are compared by the means of their cells, so noise does
    not hide a copy. What is missing counts as the mean of its band in pixels, and is
    left out of features.

    Distances are per value: pixels in standard deviations of their band, features in
    standard deviations over the training windows. Only the training set is kept, so
    memory does not grow with the number of images looked at.

    Args:
        samples: All training samples, of one size; read once.
        size: Height and width of the images to come, in pixels.
        mean: Mean of each band over the training set, in digital numbers (C,).
        std: Standard deviation of each band (C,).

    Raises:
        ValueError: If there is no sample, or they differ in size or are smaller than
            the images to come.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        samples: Iterable[TrainingSample],
        size: tuple[int, int],
        mean: Tensor,
        std: Tensor,
    ) -> None:
        """Describe the training samples."""
        super().__init__()
        self.size = size
        self.register_buffer('mean', mean.float().view(-1, 1, 1), persistent=False)
        # a band that is constant has nothing to compare
        std = std.float().where(std > 0, 1.0)
        self.register_buffer('std', std.view(-1, 1, 1), persistent=False)
        #: Name of each training sample.
        self.names: list[str] = []
        grids: list[Tensor] = []
        features: list[Tensor] = []
        shape = torch.Size()
        for image, name in samples:
            shape = shape or image.shape
            _require_fit(name, image, shape, size)
            planes = self._standardise(image[None])
            if not grids:
                self.pixels = _Pixels(size, image.shape[-2:])
                self.features = _Features(planes.shape[1], size, image.shape[-2:])
            self.names.append(name)
            grids.append(self.pixels.pool(planes))
            features.append(self.features.cut(planes))
        if not grids:
            raise ValueError(
                '0 training samples: one or more are needed to look for copies of '
                'them. Give the samples that the generator was trained on.'
            )
        self.pixels.keep(torch.cat(grids))
        self.features.keep(torch.stack(features))

    @torch.no_grad()
    def find(self, images: Tensor, skip: Tensor | None = None) -> dict[str, Nearest]:
        """Find the nearest training sample to each image.

        Args:
            images: Digital numbers (B, C, H, W), or (B, T, C, H, W) with T dates.
            skip: Training samples to leave out for each image, boolean (B, samples):
                for a real image, those that show its ground too.

        Returns:
            The nearest in ``pixels`` and in ``features``.

        Raises:
            ValueError: If the images are not of the promised size.
        """
        if tuple(images.shape[-2:]) != self.size:
            raise ValueError(
                f'images of {tuple(images.shape[-2:])} pixels must have the size='
                f'{self.size} that the training samples were cut to. Build another '
                'NearestSamples for them.'
            )
        planes = self._standardise(images)
        turns = [k for k in range(8) if k % 2 == 0 or self.size[0] == self.size[1]]
        turned = [_turn(planes, k) for k in turns]
        if skip is None:
            skip = torch.zeros(len(images), len(self.names), dtype=torch.bool)
        skip = skip.to(images.device)
        # near 0, half precision would see copies everywhere or nowhere
        with torch.autocast(planes.device.type, enabled=False):
            return {
                'pixels': _search(self.pixels, turned, turns, skip),
                'features': _search(self.features, turned, turns, skip),
            }

    def _standardise(self, images: Tensor) -> Tensor:
        """Bands of all dates in standard deviations, (B, T x C, H, W)."""
        return ((images.float() - self.mean) / self.std).flatten(1, -3)


class _Windows(nn.Module, ABC):
    """All windows of the training samples, described by D numbers each."""

    #: First rows and first columns of the windows of a training sample.
    rows: list[int]
    columns: list[int]
    #: What the windows are read from, one row for each training sample.
    references: Tensor

    def keep(self, references: Tensor) -> None:
        """Keep what the windows are read from."""
        self.register_buffer('references', references, persistent=False)

    @abstractmethod
    def describe(self, planes: Tensor) -> Tensor:
        """Describe images (B, C, h, w) as (B, D)."""

    @abstractmethod
    def windows(self, first: int, last: int) -> Tensor:
        """Windows of some training samples, (last - first, windows, D)."""


class _Pixels(_Windows):
    """Windows as means of their cells.

    Training samples are kept as means at every half cell, from which the windows are
    read when they are needed: they overlap, and are much larger written out.
    """

    def __init__(self, size: tuple[int, int], whole: torch.Size) -> None:
        super().__init__()
        self.cell = [max(side // _CELLS, 1) for side in size]
        self.step = [c // 2 if c % 2 == 0 else c for c in self.cell]
        self.cells = tuple(side // c for side, c in zip(size, self.cell, strict=True))
        self.apart = tuple(c // s for c, s in zip(self.cell, self.step, strict=True))
        self.rows, self.columns = (
            list(range(0, whole[i] - self.cells[i] * self.cell[i] + 1, self.step[i]))
            for i in range(2)
        )

    def pool(self, planes: Tensor) -> Tensor:
        """Means of cells at every step of a training sample (1, C, H, W)."""
        return avg_pool2d(fill_missing(planes), self.cell, self.step)

    def describe(self, planes: Tensor) -> Tensor:
        return avg_pool2d(fill_missing(planes), self.cell).flatten(1)

    def windows(self, first: int, last: int) -> Tensor:
        grids = self.references[first:last]
        return unfold(grids, self.cells, self.apart).transpose(1, 2)


class _Features(_Windows):
    """Windows as random features of all their pixels."""

    scale: Tensor

    def __init__(self, channels: int, size: tuple[int, int], whole: torch.Size) -> None:
        super().__init__()
        self.rows, self.columns = (
            [*range(0, length - side, max(side // 2, 1)), length - side]
            for length, side in zip(whole, size, strict=True)
        )
        self.size = size
        self.extractor = RandomFeatures(channels)
        self.register_buffer('scale', torch.ones(1), persistent=False)

    def cut(self, planes: Tensor) -> Tensor:
        """Features of the windows of a training sample (1, C, H, W)."""
        height, width = self.size
        parts = [
            planes[..., row : row + height, column : column + width]
            for row in self.rows
            for column in self.columns
        ]
        return self.describe(torch.cat(parts))

    def keep(self, references: Tensor) -> None:
        """Keep the features, in standard deviations over all windows."""
        spread = references.flatten(0, 1).std(0, correction=0)
        self.scale = spread.where(spread > _LEAST_STD, 1.0)
        super().keep(references / self.scale)

    def describe(self, planes: Tensor) -> Tensor:
        # windows that show nothing are alike
        features: Tensor = self.extractor(planes).nan_to_num(0)
        return features.float() / self.scale

    def windows(self, first: int, last: int) -> Tensor:
        return self.references[first:last]


def _search(
    known: _Windows, turned: list[Tensor], turns: list[int], skip: Tensor
) -> Nearest:
    """The nearest window to each image in any of its turns.

    Args:
        known: The windows.
        turned: Standardised images (B, C, h, w) in each turn.
        turns: The number of each turn.
        skip: Training samples to leave out, boolean (B, samples).
    """
    queries = torch.stack([known.describe(planes) for planes in turned], 1)
    count, size = len(queries), queries.shape[-1]
    per_sample = len(known.rows) * len(known.columns)
    step = max(_MOST // (per_sample * max(size, count * len(turns))), 1)
    least = torch.full((count,), torch.inf, device=queries.device)
    best = torch.zeros(count, 2, dtype=torch.long, device=queries.device)
    norms = queries.square().sum(-1, keepdim=True)
    for first in range(0, skip.shape[1], step):
        last = min(first + step, skip.shape[1])
        windows = known.windows(first, last).flatten(0, 1)
        squares = norms + windows.square().sum(1) - 2 * queries @ windows.T
        left_out = skip[:, first:last].repeat_interleave(per_sample, 1)
        squares = squares.masked_fill(left_out[:, None], torch.inf).flatten(1)
        value, at = squares.min(1)
        nearer = value < least
        least = value.where(nearer, least)
        window = first * per_sample + at % len(windows)
        found = torch.stack([at // len(windows), window], 1)
        best = found.where(nearer[:, None], best)
    turn, window = best.unbind(1)
    sample, spot = window // per_sample, window % per_sample
    rows = torch.tensor(known.rows, device=spot.device)
    columns = torch.tensor(known.columns, device=spot.device)
    # the expanded square above is not exact for near ones, which matter most
    pairs = zip(sample.tolist(), spot.tolist(), strict=True)
    chosen = [known.windows(i, i + 1)[0, j] for i, j in pairs]
    asked = queries[torch.arange(count, device=turn.device), turn]
    difference = asked - torch.stack(chosen)
    return Nearest(
        difference.square().mean(1).sqrt().where(least.isfinite(), torch.inf),
        sample,
        rows[spot // len(columns)],
        columns[spot % len(columns)],
        torch.tensor(turns, device=spot.device)[turn],
    )


def _turn(planes: Tensor, turn: int) -> Tensor:
    """One of the eight flips and quarter turns, as :class:`Nearest` numbers them."""
    return (planes.flip(-1) if turn >= 4 else planes).rot90(turn % 4, (-2, -1))


def _require_fit(
    name: str, image: Tensor, shape: torch.Size, size: tuple[int, int]
) -> None:
    if image.shape != shape:
        raise ValueError(
            f'training sample {name} of shape {tuple(image.shape)} must be of shape '
            f'{tuple(shape)} as the first one. Cut all alike.'
        )
    if image.shape[-2] < size[0] or image.shape[-1] < size[1]:
        raise ValueError(
            f'training sample {name} of {tuple(image.shape[-2:])} pixels must be as '
            f'large as the images to come, {size}. Compare smaller images.'
        )


def memorisation(synthetic: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """Judge how near synthetic samples come to training samples.

    The threshold is the distance that one real sample in a hundred is within (the 1 %
    quantile, between two order statistics). With few real samples it is uncertain:
    with fewer than a hundred it is hardly above the least distance, and more than one
    sample in a hundred is expected within. So what chance allows is counted with the
    threshold's own uncertainty: if synthetic samples are as near as real ones, the
    number within the threshold has a beta-binomial distribution. An alarm is raised if
    as many or more come by chance less than once in 1000 sets, and their share is
    more than twice the expected one (2 % with many real samples).

    Samples count as independent. A few copies among thousands raise no alarm: look at
    the nearest pairs too. No alarm with few real samples says little: with ten, half
    of 500 synthetic ones must be within to raise one.

    Args:
        synthetic: Distances of synthetic samples to the nearest training sample.
        reference: Distances of real samples to the nearest training sample that shows
            other ground: of held-out ones, and of training ones. Infinite ones (no
            other ground) are left out.

    Returns:
        ``share`` of synthetic samples at ``threshold`` or nearer; ``expected``, the
        share that real samples would have; ``chance`` of as many or more, in 0..1;
        ``median_ratio``, the median synthetic distance over the median reference;
        ``alarm``, True or False; and ``samples`` and ``references``, how many.

    Raises:
        ValueError: If either has no number, or synthetic ones are not finite.
    """
    drawn = np.asarray(synthetic, np.float64)
    real = np.asarray(reference, np.float64)
    real = real[~np.isinf(real)]
    for name, distances in (('synthetic', drawn), ('reference', real)):
        if not len(distances):
            raise ValueError(
                f'0 {name} distances are numbers, but one or more must be. Use '
                'training samples of two or more places, or held-out ones.'
            )
        broken = int((~np.isfinite(distances)).sum())
        if broken:
            raise ValueError(
                f'{broken} of {len(distances)} {name} distances are no numbers. Look '
                'for NaN in the images.'
            )
    threshold = float(np.quantile(real, _NEAR))
    below = int((drawn <= threshold).sum())
    # more real ones are at the threshold where they tie, as blank patches do at 0
    rank = max(_NEAR * (len(real) - 1) + 1, float((real <= threshold).sum()))
    expected = rank / (len(real) + 1)
    share = below / len(drawn)
    beyond = len(real) + 1 - rank
    chance = float(betabinom.sf(below - 1, len(drawn), rank, beyond))
    middle = float(np.median(real))
    return {
        'share': share,
        'expected': expected,
        'threshold': threshold,
        'chance': chance,
        'median_ratio': float(np.median(drawn)) / middle if middle > 0 else np.nan,
        'alarm': chance < _CHANCE and share > 2 * expected,
        'samples': len(drawn),
        'references': len(real),
    }
