# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Do spectra fit their classes? Compared as a whole, and pixel by pixel."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from ..bands import INDICES, index_channels
from ..pairs.spec import SampleSpec
from ..pairs.valid import labelled_pixels, valid_pixels
from .spectral import normalized_difference, spectral_angle

#: Values that are in memory at once as float64.
_VALUES = 2**22
#: Pixels that a class must have for its spectrum to count.
_LEAST = 10
#: Share of the pixels above which a real class must not be missing.
_COMMON = 1e-3
#: How far the pooled covariance is moved towards its diagonal.
_SHRINKAGE = 0.01
#: Variance of reflectance that no sensor resolves: 0.0001 squared.
_UNRESOLVED = 1e-8


class PairSpectra(NamedTuple):
    """Differences of the dates of a sample in each class, as reflectance, float64.

    Attributes:
        pixels: Number of pixels that all dates see, integer (K,).
        mean: Mean over these of the absolute difference of successive dates, (K, C).
        covariance: Covariance of the differences between bands, (K, C, C).
    """

    pixels: Tensor
    mean: Tensor
    covariance: Tensor


class SpectraSummary(NamedTuple):
    """The spectra of each class, as reflectance, float64, with T dates and K classes.

    Whatever is not known of a class without pixels is NaN.

    Attributes:
        pixels: Number of pixels, integer (T, K).
        mean: Mean spectrum of each class, (T, K, C).
        std: Standard deviation of each class, (T, K, C).
        covariance: Covariance between bands, (T, K, C, C).
        index_mean: Mean of each spectral index that the bands allow, (T, K).
        index_std: Standard deviation of each spectral index that the bands allow, (T,
            K).
        pair: Differences of the dates; None with a single one.
    """

    pixels: Tensor
    mean: Tensor
    std: Tensor
    covariance: Tensor
    index_mean: dict[str, Tensor]
    index_std: dict[str, Tensor]
    pair: PairSpectra | None


class ClassSpectra(Metric):
    """Mean, spread and covariance of the spectra of each class over all pixels seen.

    Pixels without a label do not count, nor at any date those that miss a band, or all
    of its bands. Sums are of digital numbers in float64: those of whole numbers do not
    depend on the order of batches and processes. Memory grows with the classes and the
    square of the bands only (10 MB for 14 classes of 300 bands).
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    moments: Tensor
    indices: Tensor

    def __init__(self, spec: SampleSpec) -> None:
        """Initialize a new ClassSpectra instance.

        Args:
            spec: Description of the samples.
        """
        super().__init__()
        self.spec = spec
        self.channels = index_channels(spec.wavelengths)
        dates, classes, size = spec.dates, spec.num_classes, spec.num_bands + 1
        # one row a date, and with several a last one for their difference; of each
        # class the outer product of (1, spectrum): count, sums and products in one
        rows = dates + (dates > 1)
        moments = torch.zeros(rows, classes, size, size, dtype=torch.float64)
        self.add_state('moments', moments, dist_reduce_fx='sum')
        # of each index: count, sum and sum of squares
        sums = torch.zeros(dates, classes, len(INDICES), 3, dtype=torch.float64)
        self.add_state('indices', sums, dist_reduce_fx='sum')

    def update(self, images: Tensor, masks: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            images: Digital numbers (B, C, H, W), or (B, T, C, H, W) with T dates.
            masks: Class positions (B, H, W); other values are no label.

        Raises:
            ValueError: If shape and spec differ.
        """
        _check(images, masks, self.spec)
        for row, (spectra, seen) in enumerate(_rows(images, self.spec)):
            for some, labels in _chunks(spectra, masks.where(seen, -1)):
                self._count(row, some, labels)

    def _count(self, row: int, spectra: Tensor, labels: Tensor) -> None:
        known = labels[labelled_pixels(labels, self.spec.num_classes)]
        for k in known.bincount().nonzero()[:, 0].tolist():
            chosen = spectra[labels == k]
            padded = torch.cat([torch.ones_like(chosen[:, :1]), chosen], 1)
            self.moments[row, k] += padded.T @ padded
            if row == self.spec.dates:
                continue
            shown = self.spec.reflectance(chosen, -1)
            for i, name in enumerate(INDICES):
                if name in self.channels:
                    a, b = self.channels[name]
                    values = normalized_difference(shown[:, a], shown[:, b])
                    values = values[~values.isnan()]
                    powers = [values**power for power in range(3)]
                    self.indices[row, k, i] += torch.stack(powers).sum(1)

    def compute(self) -> SpectraSummary:
        """Compute the spectra of all pixels counted.

        Returns:
            The summary.
        """
        dates = self.spec.dates
        pixels = self.moments[..., 0, 0].round().long()
        # 0 / 0 is the NaN of an absent class
        moments = self.moments / self.moments[..., :1, :1]
        numbers, second = moments[..., 0, 1:], moments[..., 1:, 1:]
        covariance = second - numbers[..., None] * numbers[..., None, :]
        scale = self.spec.reflectance(torch.ones_like(numbers[0, 0]), -1, True)
        covariance = covariance * scale[:, None] * scale
        squares = second.diagonal(dim1=-2, dim2=-1) * scale**2
        # the last row of several dates holds their differences
        mean = self.spec.reflectance(numbers, -1)
        mean[dates:] = numbers[dates:] * scale
        std = _root(covariance.diagonal(dim1=-2, dim2=-1), squares)
        count, total, square = self.indices.unbind(-1)
        index_mean = total / count
        index_std = _root(square / count - index_mean**2, square / count)
        pair = PairSpectra(pixels[-1], mean[-1], covariance[-1])
        known = {name: i for i, name in enumerate(INDICES) if name in self.channels}
        return SpectraSummary(
            pixels=pixels[:dates],
            mean=mean[:dates],
            std=std[:dates],
            covariance=covariance[:dates],
            index_mean={name: index_mean[..., i] for name, i in known.items()},
            index_std={name: index_std[..., i] for name, i in known.items()},
            pair=pair if dates > 1 else None,
        )


def compare_spectra(
    real: SpectraSummary, other: SpectraSummary, spec: SampleSpec
) -> dict[str, Any]:
    """Compare the spectra of each class on two sides.

    A class with fewer than 10 pixels on one side does not count at that date. With
    several dates, the names of classes are ``<class>, date 1`` and so on.

    Args:
        real: Summary of the real samples, from :class:`ClassSpectra`.
        other: Summary of the samples to compare, from :class:`ClassSpectra`.
        spec: Description of the samples of both sides.

    Returns:
        Plain numbers, NaN for what cannot be told: ``msad``, the angle between mean
        spectra in radians, mean over ``classes`` angles, and ``per_class``; ``spread``,
        the standard deviation over the real one, median over bands, classes and dates
        (1 is equal, 0 is collapsed), and ``spread_per_class``; ``gain``, the brightness
        over the real one, which no angle sees, mean over real pixels, and
        ``gain_per_class``; ``indices``, the real and the other mean of each class, and
        ``index_shift``, their mean absolute difference over the real standard
        deviation.
    """
    names = list(spec.classes)
    if spec.dates > 1:
        dates = range(1, spec.dates + 1)
        names = [f'{name}, date {date}' for date in dates for name in spec.classes]
    pixels = real.pixels.flatten().cpu()
    # metrics squeeze what has one element, so a single class has no dimension
    counts = torch.minimum(pixels, other.pixels.flatten().cpu())
    known = counts >= _LEAST
    means, stds = (
        [getattr(side, part).reshape(len(names), -1).cpu() for side in (real, other)]
        for part in ('mean', 'std')
    )
    angles = spectral_angle(*means).where(known, math.nan)
    # by the sum over bands: in a dark band alone, a ratio may be anything
    bright = known & (means[0].sum(1) > 0)
    gains = (means[1].sum(1) / means[0].sum(1)).where(bright, math.nan)
    measurable = known[:, None] & (stds[0] > 0)
    spreads = (stds[1] / stds[0]).where(measurable, math.nan)
    weights = pixels[bright] / pixels[bright].sum()
    return {
        # not a mean that skips NaN: broken pixels shall show
        'msad': float(angles[known].mean()),
        'classes': int(known.sum()),
        'per_class': _named(names, angles),
        'spread': float(spreads.nanquantile(0.5)),
        'spread_per_class': _named(names, spreads.nanquantile(0.5, dim=1)),
        'gain': float((gains[bright] * weights).sum()) if len(weights) else math.nan,
        'gain_per_class': _named(names, gains),
        **_compare_indices(real, other, names, known),
    }


def class_areas(real: SpectraSummary, other: SpectraSummary) -> dict[str, Any]:
    """Compare the shares of the classes on two sides.

    Args:
        real: Summary of the real samples, from :class:`ClassSpectra`.
        other: Summary of the samples to compare, from :class:`ClassSpectra`.

    Returns:
        ``real`` and ``other``, the share of each class among labelled pixels, NaN
        without any; ``total_variation``, in 0..1; and ``missing``, positions of the
        classes that have more than 0.1 % of the real pixels and none of the others.
    """
    counts = [
        side.pixels.reshape(side.mean.shape[:2]).sum(0).cpu() for side in (real, other)
    ]
    shares = [count.double() / count.sum() for count in counts]
    return {
        'real': shares[0].tolist(),
        'other': shares[1].tolist(),
        'total_variation': float((shares[0] - shares[1]).abs().sum() / 2),
        'missing': ((shares[0] > _COMMON) & (counts[1] == 0)).nonzero()[:, 0].tolist(),
    }


class SpectrumClassifier(NamedTuple):
    """Tells classes by the spectrum of a pixel alone, without any network.

    Linear discriminant analysis: a Gaussian for each class, all with the pooled
    covariance within classes (moved by 1 % towards its diagonal, so that few pixels
    suffice), and all classes equally likely beforehand. With several dates, what is
    read is the mean absolute difference of successive dates, since the mask says what
    has changed.

    Attributes:
        spec: Description of the samples.
        classes: Positions of the classes that can be told, (k,).
        weights: (k, C), for reflectance.
        offsets: (k,).
    """

    spec: SampleSpec
    classes: Tensor
    weights: Tensor
    offsets: Tensor

    @classmethod
    def fit(cls, summary: SpectraSummary, spec: SampleSpec) -> Self:
        """Fit to the spectra of real training pixels.

        Args:
            summary: Spectra from :class:`ClassSpectra`.
            spec: Description of the samples.

        Returns:
            The classifier; it never tells a class with fewer than 10 pixels.

        Raises:
            ValueError: If no class has enough pixels.
        """
        told = summary.pair or summary
        bands, pixels = spec.num_bands, told.pixels.flatten()
        classes = (pixels >= _LEAST).nonzero()[:, 0]
        if not len(classes):
            raise ValueError(
                f'the classes have {pixels.tolist()} pixels, but a spectrum needs '
                f'{_LEAST} or more. Fit to more labelled samples.'
            )
        means = told.mean.reshape(-1, bands)[classes]
        shares = pixels[classes] / pixels[classes].sum()
        covariances = told.covariance.reshape(-1, bands, bands)[classes]
        pooled = (covariances * shares[:, None, None]).sum(0)
        diagonal = pooled.diagonal().clamp(min=0).diag()
        pooled = pooled + _SHRINKAGE * (diagonal - pooled)
        pooled.diagonal().add_(_UNRESOLVED)
        weights = torch.linalg.solve(pooled, means.T).T
        return cls(spec, classes, weights, -(weights * means).sum(1) / 2)

    def predict(self, images: Tensor) -> Tensor:
        """Tell the class of each pixel.

        Args:
            images: Digital numbers (B, C, H, W), or (B, T, C, H, W) with T dates.

        Returns:
            Class positions (B, H, W), also of pixels without data.
        """
        spectra, seen = _rows(images, self.spec)[-1]
        classes, weights, offsets = (x.to(images.device) for x in self[1:])
        several = self.spec.dates > 1
        read = partial(self.spec.reflectance, dim=-1, difference=several)
        found = [
            classes[torch.addmm(offsets, read(some), weights.T).argmax(1)]
            for some, _ in _chunks(spectra, seen)
        ]
        return torch.cat(found).view_as(seen)


def _check(images: Tensor, masks: Tensor, spec: SampleSpec) -> None:
    """Refuse what is not the spec's: it would be counted under another name."""
    dates = (spec.dates,) if spec.dates > 1 else ()
    wanted = (len(masks), *dates, spec.num_bands, *masks.shape[1:])
    if masks.ndim != 3 or images.shape != wanted:
        raise ValueError(
            f'images of shape {tuple(images.shape)} with masks of shape '
            f'{tuple(masks.shape)} must be (B, {"T, " * len(dates)}C, H, W) with '
            f'(B, H, W), dates T = {spec.dates}, bands C = {spec.num_bands}. Use the '
            'spec of the samples.'
        )


def _rows(images: Tensor, spec: SampleSpec) -> list[tuple[Tensor, Tensor]]:
    """The values to count, (B, C, H, W), and the pixels that are seen, (B, H, W).

    That is each date, and with several the difference of successive ones at last.
    """
    seen = valid_pixels(images)
    if spec.dates == 1:
        return [(images, seen)]
    difference = images.diff(dim=1).abs().mean(1)
    dates = zip(images.unbind(1), seen.unbind(1), strict=True)
    return [*dates, (difference, seen.all(1))]


def _chunks(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Spectra, float64 (P, C), and their labels (P,), a few at a time."""
    samples = max(1, _VALUES // images[:1].numel())
    pixels = max(1, _VALUES // images.shape[1])
    parts = zip(torch.split(images, samples), torch.split(labels, samples), strict=True)
    for part, some in parts:
        spectra = torch.split(part.movedim(1, -1).flatten(0, 2), pixels)
        for rows, known in zip(
            spectra, torch.split(some.flatten(), pixels), strict=True
        ):
            yield rows.double(), known


def _root(variance: Tensor, square: Tensor) -> Tensor:
    """Standard deviation; 0 where the variance is but what rounding left."""
    return variance.where(~(variance <= 1e-12 * square), 0).sqrt()


def _named(names: list[str], values: Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _compare_indices(
    real: SpectraSummary, other: SpectraSummary, names: list[str], known: Tensor
) -> dict[str, Any]:
    """The spectral indices of :func:`compare_spectra`."""
    found: dict[str, Any] = {'indices': {}, 'index_shift': {}}
    for index, mean in real.index_mean.items():
        means = torch.stack([mean.flatten(), other.index_mean[index].flatten()], 1)
        means = means.cpu().where(known[:, None], math.nan)
        std = real.index_std[index].flatten().cpu()
        shifts = (means[:, 1] - means[:, 0]).abs() / std
        found['indices'][index] = _named(names, means)
        found['index_shift'][index] = float(shifts[std > 0].nanmean())
    return found
