# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Do the boundaries of a mask lie on edges of its image? No network is asked."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchmetrics import Metric

from ..pairs.spec import SampleSpec
from ..pairs.valid import labelled_pixels, valid_pixels


class _Counts(NamedTuple):
    """Counts of each sample, int64 (B,).

    Attributes:
        wins: Twice the pairs of a boundary pixel and an inner one in which the first
            has the stronger gradient; a tie counts one.
        pairs: All such pairs.
        boundary: Boundary pixels.
        pixels: Boundary and inner pixels.
    """

    wins: Tensor
    pairs: Tensor
    boundary: Tensor
    pixels: Tensor


def edge_agreement(images: Tensor, masks: Tensor, spec: SampleSpec) -> Tensor:
    """Chance that a boundary pixel of a mask has a stronger gradient than an inner one.

    A boundary pixel has one of its four neighbours in another class; both sides of a
    boundary are, and nothing further from it, so a mask that is off by two pixels is
    seen. The gradient is that of central differences, root mean square over bands,
    each divided by the median that it has in the sample: bands of any unit, contrast
    and noise count alike. Of samples with several dates, the mask is one of change
    and the gradient that of the differences of successive dates.

    Pixels without a label, beside missing ones and at the rim of the image do not
    count. Masks drawn coarser than the pixels, or with boundaries that no band
    shows, are below 1 for real pairs too: compare with those.

    Args:
        images: Digital numbers (B, C, H, W), or (B, T, C, H, W) with T dates.
        masks: Class positions (B, H, W); other values are no label.
        spec: Description of the samples; its classes, dates and nodata are used.

    Returns:
        The area under the ROC curve of each sample, float64 (B,), in 0..1; 0.5 is no
        relation. NaN without a boundary or without inner pixels.

    Raises:
        ValueError: If the shapes do not fit.
    """
    counts = _count(images, masks, spec)
    # 0 / 0 is the NaN of a sample without pairs
    return counts.wins.double() / (2 * counts.pairs)


class EdgeAgreement(Metric):
    """Agreement of boundaries with edges over all samples seen.

    Boundary pixels are compared with the inner pixels of their own sample, as
    :func:`edge_agreement` does, and all pairs are counted: gradients of one sample
    are never held against those of another, whose contrast may be another. The
    counts are whole numbers, so batches and processes add up exactly.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    wins: Tensor
    pairs: Tensor
    boundary: Tensor
    pixels: Tensor

    def __init__(self, spec: SampleSpec) -> None:
        """Initialize a new EdgeAgreement instance.

        Args:
            spec: Description of the samples.
        """
        super().__init__()
        self.spec = spec
        for name in _Counts._fields:
            self.add_state(name, torch.tensor(0), dist_reduce_fx='sum')

    def update(self, images: Tensor, masks: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            images: Digital numbers (B, C, H, W), or (B, T, C, H, W) with T dates.
            masks: Class positions (B, H, W); other values are no label.

        Raises:
            ValueError: If the shapes do not fit.
        """
        counts = _count(images, masks, self.spec)
        self.wins += counts.wins.sum()
        self.pairs += counts.pairs.sum()
        self.boundary += counts.boundary.sum()
        self.pixels += counts.pixels.sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute the agreement of all pixels counted.

        Returns:
            ``auc``, float64 in 0..1 (0.5 is no relation), NaN without pairs;
            ``boundary``, share of boundary pixels, in 0..1 or NaN; and ``pixels``,
            integer, how many were counted.
        """
        return {
            'auc': self.wins.double() / (2 * self.pairs),
            'boundary': self.boundary.double() / self.pixels,
            'pixels': self.pixels,
        }


def _count(images: Tensor, masks: Tensor, spec: SampleSpec) -> _Counts:
    """Compare boundary and inner pixels of each sample."""
    axes = 5 if spec.dates > 1 else 4
    expected = (len(masks), *masks.shape[-2:])
    if images.ndim != axes or (len(images), *images.shape[-2:]) != tuple(masks.shape):
        kind = '(B, T, C, H, W)' if axes == 5 else '(B, C, H, W)'
        raise ValueError(
            f'images of shape {tuple(images.shape)} and masks of shape '
            f'{tuple(masks.shape)} must be {kind} and (B, H, W) = {expected}. Drop '
            'axes of length one from the masks.'
        )
    strength, known = _gradient(images, spec)
    boundary, labelled = _boundary(masks, spec.num_classes)
    labelled &= known
    rows = []
    for i in range(len(images)):
        edge = strength[i][boundary[i] & labelled[i]]
        inner = strength[i][~boundary[i] & labelled[i]].sort().values
        below = torch.searchsorted(inner, edge)
        reached = torch.searchsorted(inner, edge, right=True)
        wins = int((below + reached).sum())
        edges, inners = len(edge), len(inner)
        rows.append((wins, edges * inners, edges, edges + inners))
    table = torch.tensor(rows, device=images.device).reshape(-1, len(_Counts._fields))
    return _Counts(*table.unbind(1))


def _gradient(images: Tensor, spec: SampleSpec) -> tuple[Tensor, Tensor]:
    """Strength of the gradient and where it is known, (B, H - 2, W - 2)."""
    planes = images.float()
    missing = ~valid_pixels(images)
    planes = planes.where(~missing.unsqueeze(-3), 0)
    if spec.dates > 1:
        planes = planes.diff(dim=1).flatten(1, 2)
        missing = missing.any(dim=1)
    down = planes[..., 2:, 1:-1] - planes[..., :-2, 1:-1]
    right = planes[..., 1:-1, 2:] - planes[..., 1:-1, :-2]
    steep = (down.square() + right.square()).sqrt()
    usual = steep.flatten(2).median(dim=2).values
    # of an image that is mostly flat the median says nothing
    usual = usual.where(usual > 0, steep.mean((2, 3)))
    steep = steep / usual.where(usual > 0, 1.0)[..., None, None]
    near = max_pool2d(missing.float(), 3, stride=1)
    return steep.square().mean(1), near == 0


def _boundary(masks: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The pixels at a boundary, and those with a label, (B, H - 2, W - 2)."""
    labelled = labelled_pixels(masks, num_classes)
    boundary = torch.zeros_like(labelled)
    for axis in (1, 2):
        length = masks.shape[axis] - 1
        first, second = masks.narrow(axis, 0, length), masks.narrow(axis, 1, length)
        both = labelled.narrow(axis, 0, length) & labelled.narrow(axis, 1, length)
        differ = both & (first != second)
        boundary.narrow(axis, 0, length).logical_or_(differ)
        boundary.narrow(axis, 1, length).logical_or_(differ)
    inside = (..., slice(1, -1), slice(1, -1))
    return boundary[inside], labelled[inside]
