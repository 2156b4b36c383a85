# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Is the fine detail of images like that of real ones: sharp, and not made of it?"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchmetrics import Metric

from ..pairs.spec import SampleSpec
from ..pairs.valid import valid_pixels

#: Octaves of spatial frequency, in cycles a pixel; the last one takes the corners too.
OCTAVES = ('below 1/16', '1/16 to 1/8', '1/8 to 1/4', 'above 1/4')
_EDGES = (1 / 16, 1 / 8, 1 / 4)
#: Side in pixels of the cells whose borders are looked for.
PERIODS = (2, 4, 8)
#: Mean over root mean square of the size of a Gaussian variable.
_GAUSSIAN = math.sqrt(2 / math.pi)
#: Real images that are nearer than this to a random field have no structure to lose.
_STRUCTURE = 0.02
#: Bands of real images that agree less in their detail tell nothing.
_AGREEING = 0.1


class DetailSummary(NamedTuple):
    """Detail of all images seen, float64; NaN where nothing could be counted.

    Attributes:
        power: Power of each octave of frequency, geometric mean over images
            (T, C, 4), in squared digital numbers.
        contrast: Standard deviation within images, root mean square over them (T, C).
        levels: Standard deviation of the means of images (T, C).
        steps: Mean size of third differences by position, modulo 8, of the pixel
            after which they are centred (T, C, 8).
        correlation: Correlation of the Laplacian of a band with those of the others,
            mean over these and over images (T, C).
        sparsity: Mean over root mean square of the gradients of an image of halved
            size, mean over images (T, C): 0.798 in Gaussian random fields, less where
            edges stand out from calm surfaces.
    """

    power: Tensor
    contrast: Tensor
    levels: Tensor
    steps: Tensor
    correlation: Tensor
    sparsity: Tensor

    @property
    def seams(self) -> Tensor:
        """The strongest grid of each side of :data:`PERIODS` (T, C, 3).

        Third differences at the strongest position of a period over those at all its
        others; 1 without a grid, at whatever position the grid begins.
        """
        found = []
        for period in PERIODS:
            folded = self.steps.reshape(*self.steps.shape[:-1], -1, period).nanmean(-2)
            high = folded.nan_to_num(-torch.inf).amax(-1)
            others = folded.isfinite().sum(-1) - 1
            found.append(others * high / (folded.nansum(-1) - high))
        return torch.stack(found, -1)


class FineDetail(Metric):
    """Detail of images in five respects, none of which tells all.

    * Power by frequency: blur takes the highest frequencies away, noise adds to them.
      The mean of each image is taken off, and a Hann window hides its rim.
    * Third differences by position: cells of a codec meet in seams. They vanish on
      parabolas, and each straddles one border between two pixels, so that cells of
      2 pixels are seen too.
    * Correlation of bands: grain is drawn in each band for itself, and the detail of a
      band that lies a pixel beside the others is not where theirs is.
    * Sparsity of gradients: a Gaussian random field may have the spectrum and the
      colours of real images, and shows clouds where they have fields and roads.
    * Contrast within images, and spread of their means.

    No number has a meaning of its own: compare those of two sides with
    :func:`compare_detail`. Missing pixels are left out, and power is that of whole
    images alone, since a spectrum has no gaps. The choices are explained in
    docs/notes/trust.md.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    images: Tensor
    sums: Tensor
    logs: Tensor
    lit: Tensor
    steps: Tensor
    spots: Tensor
    correlation: Tensor
    sparsity: Tensor
    textured: Tensor

    def __init__(self, spec: SampleSpec) -> None:
        """Initialize a new FineDetail instance.

        Args:
            spec: Description of the samples; its bands, dates and nodata are used.
        """
        super().__init__()
        self.spec = spec
        each = spec.dates, spec.num_bands
        shapes: dict[str, tuple[int, ...]] = {
            'images': (spec.dates,),
            # variances within images, means and squared means
            'sums': (3, *each),
            'logs': (*each, len(OCTAVES)),
            'lit': (*each, len(OCTAVES)),
            'steps': (*each, PERIODS[-1]),
            'spots': (spec.dates, 1, PERIODS[-1]),
            'correlation': (2, *each),
            'sparsity': each,
            'textured': each,
        }
        for name, shape in shapes.items():
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx='sum')

    def update(self, images: Tensor) -> None:
        """Count the images of a batch.

        Args:
            images: Digital numbers (B, C, H, W), or (B, T, C, H, W) with T dates.

        Raises:
            ValueError: If shape and spec differ.
        """
        shape = (self.spec.dates, self.spec.num_bands)
        wanted = shape if self.spec.dates > 1 else shape[1:]
        if images.shape[1:-2] != wanted:
            raise ValueError(
                f'images of shape {tuple(images.shape)} must be (B, '
                f'{", ".join(map(str, wanted))}, H, W). Use the spec of the samples.'
            )
        images = images.double().reshape(-1, *shape, *images.shape[-2:])
        for date, own in enumerate(images.unbind(1)):
            valid = valid_pixels(own)
            seen = valid.flatten(1).any(1)
            own = own.where(valid[:, None], torch.nan)[seen]
            if not len(own):
                continue
            self.images[date] += len(own)
            means = own.nanmean((2, 3))
            centred = own - means[..., None, None]
            variances = centred.square().nanmean((2, 3))
            self.sums[:, date] += torch.stack([variances, means, means**2]).sum(1)
            whole = valid[seen].flatten(1).all(1)
            if whole.any():
                self._count_power(date, centred[whole])
            self._count_steps(date, centred)
            self._count_structure(date, centred)

    def _count_power(self, date: int, images: Tensor) -> None:
        """Logarithm of the power of each octave of images (B, C, H, W) of mean 0."""
        window, octave = _window(images), _octaves(images)
        power = torch.fft.fft2(images * window).abs().square()
        power = power / octave.numel() ** 2
        bands = torch.stack(
            [power[..., octave == number].sum(-1) for number in range(len(OCTAVES))], -1
        )
        lit = bands > 0
        self.logs[date] += bands.where(lit, 1.0).log().sum(0)
        self.lit[date] += lit.sum(0)

    def _count_steps(self, date: int, images: Tensor) -> None:
        for axis in (-1, -2):
            if images.shape[axis] < 4:
                continue
            steps = images.diff(n=3, dim=axis).abs().movedim(axis, -1)
            place = torch.arange(1, 1 + steps.shape[-1], device=images.device)
            place %= PERIODS[-1]
            self.steps[date].index_add_(-1, place, steps.nansum((0, 2)))
            seen = steps[:, 0].isfinite().sum((0, 1))
            self.spots[date, 0].index_add_(0, place, seen.double())

    def _count_structure(self, date: int, images: Tensor) -> None:
        """Agreement of the bands' Laplacians, and sparsity of gradients."""
        around = images[..., :-2, 1:-1] + images[..., 2:, 1:-1]
        around = around + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
        detail = (4 * images[..., 1:-1, 1:-1] - around).flatten(2).nan_to_num(0)
        detail = detail / detail.square().sum(-1, keepdim=True).sqrt()
        alike = detail @ detail.mT
        alike.diagonal(dim1=1, dim2=2).fill_(torch.nan)
        # a flat band agrees with none
        mean = alike.nanmean(1)
        known = mean.isfinite()
        found = torch.stack([mean.nan_to_num(0).sum(0), known.sum(0)])
        self.correlation[:, date] += found
        halved = avg_pool2d(images, 2)
        steep = torch.cat([halved.diff(dim=axis).flatten(2) for axis in (-1, -2)], -1)
        size = steep.square().nanmean(-1).sqrt()
        shares = (steep.abs().nanmean(-1) / size).where(size > 0, 0.0)
        self.sparsity[date] += shares.sum(0)
        self.textured[date] += (size > 0).sum(0)

    def compute(self) -> DetailSummary:
        """Compute the detail of all images counted."""
        count = self.images[:, None]
        variance, mean, square = self.sums / count
        total, known = self.correlation
        return DetailSummary(
            (self.logs / self.lit).exp(),
            variance.sqrt(),
            (square - mean.square()).clamp(min=0).sqrt(),
            self.steps / self.spots,
            total / known,
            self.sparsity / self.textured,
        )


def _window(images: Tensor) -> Tensor:
    """A Hann window of the size of images (..., H, W), of mean square 1."""
    sides = [
        torch.hann_window(side, periodic=False, dtype=images.dtype)
        for side in images.shape[-2:]
    ]
    window = torch.outer(*sides).to(images.device)
    return window / window.square().mean().sqrt()


def _octaves(images: Tensor) -> Tensor:
    """Number of the octave of each frequency (H, W); -1 is the mean."""
    rows, columns = (torch.fft.fftfreq(side) for side in images.shape[-2:])
    radius = torch.hypot(rows[:, None], columns)
    octave = torch.bucketize(radius, torch.tensor(_EDGES))
    octave[0, 0] = -1
    return octave.to(images.device)


class DetailRatio(NamedTuple):
    """Detail of one side over that of real images; 1 is equal, NaN is unknown.

    Attributes:
        power: Power of each octave and band (T x C, 4): below 1 is softer, above
            grainier.
        contrast: Median over bands.
        levels: Median over bands.
        seams: Seams of the strongest grid, upper quartile over bands: above 1 is
            blockier.
        correlation: Correlation of a band with the others, the lowest of all: below 1
            is grain, or a band that is shifted.
        structure: Median over bands: 1 is as in real images, 0 as in random fields.
    """

    power: Tensor
    contrast: float
    levels: float
    seams: float
    correlation: float
    structure: float


def compare_detail(real: DetailSummary, other: DetailSummary) -> DetailRatio:
    """Compare the detail of two sides.

    Args:
        real: Detail of real images.
        other: Detail of images of the same bands, dates and size.

    Returns:
        Ratios, other over real.
    """
    # metrics squeeze what has one element
    bands = real.contrast.numel()
    seams = [side.seams.max(-1).values for side in (real, other)]
    agree = [side.correlation.reshape(-1) for side in (real, other)]
    calm = [_GAUSSIAN - side.sparsity for side in (real, other)]
    return DetailRatio(
        _ratio(real.power, other.power).reshape(bands, -1),
        _quantile(_ratio(real.contrast, other.contrast), 0.5),
        _quantile(_ratio(real.levels, other.levels), 0.5),
        _quantile(_ratio(*seams), 0.75),
        _quantile(_ratio(agree[0].where(agree[0] > _AGREEING, torch.nan), agree[1]), 0),
        _quantile(_ratio(calm[0].where(calm[0] > _STRUCTURE, torch.nan), calm[1]), 0.5),
    )


def _ratio(real: Tensor, other: Tensor) -> Tensor:
    ratio = (other / real).cpu()
    return ratio.where(ratio.isfinite(), torch.nan)


def _quantile(values: Tensor, share: float) -> float:
    return float(values.flatten().nanquantile(share))
