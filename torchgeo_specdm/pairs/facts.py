# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Facts of samples from one look at each, so that setting up reads each sample once."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from .fingerprint import fingerprint
from .spec import USUAL_IGNORE, SampleSpec

#: Share of its level by which a constant band varies in computing.
_ROUNDING = 1e-9
#: Share of pixels with one extreme value in all bands that measurements do not have.
_LEAST_SHARE = 0.01
#: Samples of a data set that are read to find out what it holds.
_LOOKED_AT = 32


class BandMoments(NamedTuple):
    """Sums that give the mean and standard deviation of each band."""

    pixels: NDArray[np.int64]  #: valid ones, dates pooled, (C,)
    mean: NDArray[np.float64]  #: (C,), 0 without a valid pixel
    squares: NDArray[np.float64]  #: sum of squared differences from the mean, (C,)

    @classmethod
    def of(cls, image: Tensor) -> Self:
        """The moments of one image, (C, H, W) or (T, C, H, W), NaN where missing."""
        # dates and pixels pooled: (C, T*H*W)
        values = image.movedim(-3, 0).flatten(1).double().numpy()
        valid = ~np.isnan(values)
        pixels = valid.sum(axis=1)
        mean = values.sum(axis=1, where=valid) / np.maximum(pixels, 1)
        # infinite pixels are for who asks to refuse
        with np.errstate(invalid='ignore'):
            apart = (values - mean[:, None]) ** 2
        return cls(pixels, mean, apart.sum(axis=1, where=valid))

    def join(self, other: Self) -> Self:
        """The moments of the pixels of both."""
        # Chan's update: sums of squares of large numbers would cancel
        pixels = self.pixels + other.pixels
        most = np.maximum(pixels, 1)
        step = other.mean - self.mean
        squares = self.squares + other.squares
        squares = squares + step**2 * self.pixels * other.pixels / most
        mean = self.mean + step * other.pixels / most
        return type(self)(pixels, mean, squares)

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation, (C,), 0 without a valid pixel."""
        deviation: NDArray[np.float64] = np.sqrt(
            self.squares / np.maximum(self.pixels, 1)
        )
        return deviation

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Bands that say nothing: no valid pixel, or the same value in all, (C,)."""
        silent: NDArray[np.bool_] = self.std <= _ROUNDING * np.abs(self.mean)
        silent |= self.pixels == 0
        return silent


class SampleForm(NamedTuple):
    """The form that samples must share to be collated into one batch."""

    channels: tuple[int, ...]  #: shape of the image without its pixels: (C,) or (T, C)
    layers: tuple[int, ...]  #: shape of the mask without its pixels: () or (1,)
    image_dtype: torch.dtype
    mask_dtype: torch.dtype
    size: tuple[int, int]  #: height and width in pixels


class SampleFacts(NamedTuple):
    """Facts of a sample that are remembered."""

    form: SampleForm
    moments: BandMoments
    level: Tensor  #: mean absolute value of each band, (C,)
    brightest: float  #: highest value of the image
    top: int  #: highest class in the mask; 0 without any
    fingerprint: str | None  #: see :func:`.fingerprint`
    image_fingerprint: str | None  #: the same of the image without its mask
    #: Lowest and highest value of pixels with all bands, and the share of pixels that
    #: have it in all bands.
    lowest: tuple[float, float]
    highest: tuple[float, float]
    whole: bool  #: whether all values are whole numbers

    @classmethod
    def of(cls, sample: Mapping[str, Any]) -> Self:
        """Look at a sample.

        Args:
            sample: ``image``, (C, H, W) or (T, C, H, W), and ``mask``, (H, W) or
                (1, H, W).

        Returns:
            The facts.

        Raises:
            TypeError: If image or mask is no tensor.
            ValueError: If the sample has other keys.
        """
        keys = sorted(sample) if isinstance(sample, Mapping) else []
        if not {'image', 'mask'} <= {*keys}:
            raise ValueError(
                f'A sample has the keys {keys}, but image and mask are '
                'needed. Use a datamodule for segmentation or change detection.'
            )
        image, mask = sample['image'], sample['mask']
        if not (isinstance(image, Tensor) and isinstance(mask, Tensor)):
            raise TypeError(
                f'A sample has an image of {type(image).__name__} and a mask of '
                f'{type(mask).__name__}, but both must be tensors. Let the data set '
                'return torch.from_numpy(array).'
            )
        labels = mask[mask != USUAL_IGNORE]
        bands = image.to(torch.float32).movedim(-3, 0).flatten(1)
        return cls(
            SampleForm(
                channels=tuple(image.shape[:-2]),
                layers=tuple(mask.shape[:-2]),
                image_dtype=image.dtype,
                mask_dtype=mask.dtype,
                size=(image.shape[-2], image.shape[-1]),
            ),
            BandMoments.of(image),
            bands.abs().nanmean(1).nan_to_num(),
            float(bands.nan_to_num(0).max()),
            int(labels.max()) if labels.numel() else 0,
            fingerprint(sample),
            fingerprint(sample, labels=False),
            *_extremes(bands),
            whole=bool((bands.nan_to_num() % 1 == 0).all()),
        )


def _extremes(bands: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Lowest and highest value of pixels (C, N), and how many have it in all bands."""
    low, high = bands.amin(0), bands.amax(0)
    seen = ~low.isnan()
    ends = (
        low[seen].min() if seen.any() else torch.tensor(torch.inf),
        high[seen].max() if seen.any() else torch.tensor(-torch.inf),
    )
    shares = (((low == end) & (high == end)).float().mean() for end in ends)
    lowest, highest = zip(map(float, ends), map(float, shares), strict=True)
    return lowest, highest


def likely_nodata(
    ends: Sequence[tuple[tuple[float, float], tuple[float, float]]],
) -> tuple[float, float] | None:
    """Look for a value that seems to mean that nothing was measured.

    Args:
        ends: ``lowest`` and ``highest`` of all samples, one or more.

    Returns:
        The lowest or the highest value, if all bands have it in one of a hundred pixels
        or more, and the share of these; else None.
    """
    low, high = (min(low for low, _ in ends), max(high for _, high in ends))
    for side, (value, _) in enumerate((low, high)):
        shares = [end[side][1] for end in ends if end[side][0] == value]
        if low[0] < high[0] and sum(shares) >= _LEAST_SHARE * len(ends):
            return value, sum(shares) / len(ends)
    return None


class Survey(NamedTuple):
    """Facts of a data set that a few of its samples tell."""

    form: SampleForm  #: of the first one
    level: Tensor  #: mean absolute value of each band, (C,)
    brightest: float  #: highest value of the images
    lowest: float  #: lowest value of pixels with all bands
    whole: bool  #: whether all values are whole numbers
    top: int  #: highest class in the masks


def remembered(dataset: Dataset[Any], index: int) -> SampleFacts | None:
    """Facts of a sample; None if its data set does not remember samples."""
    while isinstance(dataset, Subset):
        index, dataset = dataset.indices[index], dataset.dataset
    facts = getattr(dataset, 'facts', None)
    # what a transform does is not in the files
    plain = getattr(dataset, 'transforms', None) is None
    return facts(index) if callable(facts) and plain else None


def fingerprints(dataset: Dataset[Any], images: bool = False) -> dict[str, int]:
    """Hash every sample of a map-style data set.

    A data set that crops at random in ``__getitem__`` gives other hashes each time,
    so copies in it cannot be found in this way.

    Args:
        dataset: Gives samples with ``image`` and ``mask``; others are passed over.
        images: Whether to add the hashes of the images without their masks.

    Returns:
        The different fingerprints, sorted, and the first sample that has each.
    """
    found: dict[str, int] = {}
    for index in range(len(dataset)):  # type: ignore[arg-type]
        facts = remembered(dataset, index)
        if facts:
            values = [facts.fingerprint, facts.image_fingerprint]
        else:
            sample = dataset[index]
            values = [fingerprint(sample), fingerprint(sample, labels=False)]
        for value in values if images else values[:1]:
            if value is not None:
                found.setdefault(value, index)
    return dict(sorted(found.items()))


def survey(dataset: Dataset[Any]) -> Survey:
    """Look at up to 32 samples, evenly spread over a data set.

    Args:
        dataset: A map-style data set of one sample or more, with ``image`` and
            ``mask``.

    Returns:
        What they tell.

    Raises:
        ValueError: If a sample lacks one of both.
    """
    count = len(dataset)  # type: ignore[arg-type]
    spread = np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int).tolist()
    found = [remembered(dataset, i) or SampleFacts.of(dataset[i]) for i in spread]
    level = sum((facts.level for facts in found), torch.zeros(())) / len(found)
    brightest = max(facts.brightest for facts in found)
    return Survey(
        found[0].form,
        level,
        brightest,
        min(facts.lowest[0] for facts in found),
        all(facts.whole for facts in found),
        max(facts.top for facts in found),
    )


def declared_spec(datamodule: Any, dataset: Any = None) -> SampleSpec | None:
    """Description that a datamodule or its data set gives of its samples.

    Args:
        datamodule: Any datamodule; ours have a ``spec``.
        dataset: Training set of the datamodule.

    Returns:
        The description; None where neither has one.
    """
    for source in (datamodule, innermost(dataset)):
        spec = getattr(source, 'spec', None)
        if isinstance(spec, SampleSpec):
            return spec
    return None


def declared_names(dataset: Any, bands: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of bands and classes, as TorchGeo's data sets have them.

    Args:
        dataset: A data set with ``bands`` or ``all_bands`` and ``classes``.
        bands: Number of bands of its images.

    Returns:
        Names of the bands and of the classes, each empty if not known: some data sets
        list other things under these names.
    """
    dataset = innermost(dataset)
    names = _names(dataset, 'bands') or _names(dataset, 'all_bands')
    return names if len(names) == bands else (), _names(dataset, 'classes')


def innermost(dataset: Any) -> Any:
    """The data set below subsets and concatenations (the first of several)."""
    while isinstance(dataset, Subset | ConcatDataset):
        inner = dataset.dataset if isinstance(dataset, Subset) else dataset.datasets[0]
        dataset = inner
    return dataset


def _names(dataset: Any, attribute: str) -> tuple[str, ...]:
    values = getattr(dataset, attribute, ())
    listed = isinstance(values, list | tuple)
    names = tuple(x for x in values if isinstance(x, str)) if listed else ()
    return names if listed and len(set(names)) == len(values) else ()
