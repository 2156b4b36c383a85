# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Images that resemble the labelled ones, found among many."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...bars import bar
from ...metrics.features import RandomFeatures, band_planes
from .preparation import measure_statistics

#: Images from which on their comparison shows how far it is.
_MANY = 500
#: Least standard deviation of a feature: a single labelled sample has none.
_LEAST_SPREAD = 1e-6


def nearest_images(
    labelled: Dataset[Any], images: Dataset[Any], count: int
) -> list[int]:
    """Find the images that resemble a labelled one most.

    Images are compared by :class:`~torchgeo_specdm.metrics.features.RandomFeatures`,
    that is by spectra and texture, each feature in standard deviations of the labelled
    samples. An image is as far away as the labelled sample that is nearest to it. One
    that is larger than the labelled ones is compared as a whole.

    Args:
        labelled: Samples with ``image`` (..., C, H, W), digital numbers, NaN where
            missing.
        images: Samples alike; their height and width may differ.
        count: Number of images to find, from 1 to all of them.

    Returns:
        Their positions in *images*, in order. Images without a square of 7 known
        pixels come last of all, equal ones in the order of their positions.

    Raises:
        ValueError: If *count* is out of range, or no labelled sample has a square of 7
            known pixels.
    """
    total = len(images)  # type: ignore[arg-type]
    if not 1 <= count <= total:
        raise ValueError(
            f'nearest={count} must be at least 1 and at most {total}, the number of '
            'images without labels. Leave it out for all of them.'
        )
    mean, std = measure_statistics(labelled)
    ours = _features(labelled, mean, std)
    ours = ours[ours.isfinite().all(1)]
    if not len(ours):
        raise ValueError(
            f'nearest={count} compares squares of 7 pixels, but none of the labelled '
            'samples has one without a missing pixel. Leave it out for all images.'
        )
    theirs = _features(images, mean, std)
    scale = ours.std(0, correction=0).clamp(min=_LEAST_SPREAD)
    gaps = torch.cdist(theirs / scale, ours / scale).nan_to_num(torch.inf)
    order = gaps.amin(1).argsort(stable=True)
    return sorted(order[:count].tolist())


def _features(dataset: Dataset[Any], mean: Tensor, std: Tensor) -> Tensor:
    """Features of all images (N, D), float64, NaN where too little is known."""
    found, extractor = [], None
    count = len(dataset)  # type: ignore[arg-type]
    for index in bar(range(count), 'images compared', hidden=count < _MANY):
        image = dataset[index]['image']
        planes = band_planes(image.reshape(-1, *image.shape[-3:]), mean, std)
        # the bands of all dates beside each other
        planes = planes.flatten(0, 1)[None]
        extractor = extractor or RandomFeatures(planes.shape[1])
        found.append(extractor(planes))
    return torch.cat(found)
