# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Frechet distance of random convolutional features, with its floor."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torchgeo.models import RCF

#: Sides of the random kernels; small ones see texture, large ones shapes.
_KERNELS = (3, 7)
#: Tiles whose planes and features are in memory at once.
_BATCH = 64
#: A feature that varies less than this over real samples is constant.
_LEAST_STD = 1e-9


class Distance(NamedTuple):
    """A distance beside the one that real data have among themselves.

    Attributes:
        value: Synthetic against real.
        floor: Real against other real samples, of the same number.
        samples: Samples on each side.
    """

    value: float
    floor: float
    samples: int


class RandomFeatures(nn.Module):
    """Random convolutional features of all bands, or of one-hot masks.

    They need no download and no training, and are the same on every machine
    (ecosystem.md, section 2). They see spectra and texture and hardly notice blur
    (prototype.md, section 3), so never show their distance without pictures.

    Args:
        channels: Number of bands or classes.
        features: Features of each kernel size.
        seed: Seed of the kernels, above 0 (TorchGeo ignores 0).
    """

    def __init__(self, channels: int, features: int = 32, seed: int = 1) -> None:
        """Draw the kernels."""
        super().__init__()
        self.kernels = nn.ModuleList(
            RCF(channels, features, kernel_size=side, bias=0.0, seed=seed)
            for side in _KERNELS
        )

    @torch.no_grad()
    def forward(self, planes: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            planes: Standardised bands or classes (B, C, H, W).

        Returns:
            Features (B, 2 x features), float64.
        """
        return torch.cat([kernel(planes) for kernel in self.kernels], 1).double()


def image_features(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Features of images (N, C, H, W), with mean and std (C,) of real ones."""
    extractor = RandomFeatures(images.shape[1])
    shift, scale = mean.view(-1, 1, 1), std.view(-1, 1, 1)
    return torch.cat(
        [
            extractor((part.float() - shift) / scale)
            for part in torch.split(images, _BATCH)
        ]
    )


def mask_features(masks: Tensor, num_classes: int) -> Tensor:
    """Features of masks (N, H, W); pixels without a label are zero in all classes."""
    extractor = RandomFeatures(num_classes)
    features = []
    for part in torch.split(masks, _BATCH):
        known = (part >= 0) & (part < num_classes)
        planes = one_hot(part.where(known, 0), num_classes) * known[..., None]
        features.append(extractor(planes.movedim(-1, 1).float()))
    return torch.cat(features)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two Gaussians fitted to features.

    Args:
        first: Features (N, D), N >= 2.
        second: Features (M, D), M >= 2.

    Returns:
        The squared distance, 0 or more. It is biased upwards by about 1 / N, so
        compare only numbers of equal counts.

    Raises:
        ValueError: If one side has fewer than two samples.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f'{len(first)} and {len(second)} samples: a Frechet distance needs two or '
            'more on each side. Generate more.'
        )
    shift = (first.mean(0) - second.mean(0)).square().sum()
    size = first.shape[1]
    # of one feature, torch gives a plain number
    a, b = (torch.cov(x.double().T).reshape(size, size) for x in (first, second))
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # the trace of the square root of a @ b, of whose eigenvalues those of a symmetric
    # matrix are exact enough where samples are fewer than features
    roots = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return max(float(shift + a.trace() + b.trace() - 2 * roots), 0.0)


def distance_with_floor(
    real: Tensor,
    synthetic: Tensor,
    groups: Sequence[int | str],
    repeats: int = 10,
    seed: int = 0,
) -> Distance:
    """Frechet distance to half of the real samples, beside that of the other half.

    Features are divided by the standard deviation that they have over real samples.

    Args:
        real: Features (N, D) of real tiles.
        synthetic: Features (M, D).
        groups: The place that each real tile was cut from; tiles of one place stay on
            one side.
        repeats: Number of random halvings to average over.
        seed: Seed of the halvings.

    Returns:
        Both distances, each between sets of the same size.

    Raises:
        ValueError: If there are too few real samples to halve, or too few synthetic
            ones.
    """
    of_tile = np.asarray(groups)
    names = np.unique(of_tile)
    if len(names) < 2:
        raise ValueError(
            f'All {len(real)} real tiles were cut from {len(names)} sample, but a floor '
            'needs two or more: tiles of one sample are alike. Add real samples.'
        )
    spread = real.std(0)
    scale = spread.where(spread > _LEAST_STD, 1.0)
    real, synthetic = real / scale, synthetic / scale
    random = np.random.default_rng(seed)
    values, floors, counts = [], [], []
    for _ in range(repeats):
        chosen = random.permutation(names)[: len(names) // 2]
        inside = torch.from_numpy(np.isin(of_tile, chosen))
        count = min(int(inside.sum()), int((~inside).sum()), len(synthetic))
        picks = [
            torch.from_numpy(random.permutation(len(part))[:count])
            for part in (real[inside], real[~inside], synthetic)
        ]
        half, other = real[inside][picks[0]], real[~inside][picks[1]]
        values.append(frechet_distance(half, synthetic[picks[2]]))
        floors.append(frechet_distance(half, other))
        counts.append(count)
    return Distance(float(np.mean(values)), float(np.mean(floors)), min(counts))
