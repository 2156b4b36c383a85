# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Are images as sharp as real ones? Most generators draw too smooth ones."""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchmetrics import Metric

from ..pairs.spec import SampleSpec


class Sharpness(Metric):
    """Finest detail over coarser detail, in each band, over all pixels seen.

    That is the mean absolute Laplacian (four neighbours) over the mean absolute
    gradient (central differences of both axes). Blur lowers it, noise raises it;
    brightness and contrast, which differ from place to place, cancel out. It has no
    meaning of its own: compare it with that of real images of the same sensor.

    The rim of an image and pixels beside missing ones do not count. Sums of whole
    digital numbers do not depend on the order of batches and processes.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    detail: Tensor
    slope: Tensor

    def __init__(self, spec: SampleSpec) -> None:
        """Initialize a new Sharpness instance.

        Args:
            spec: What the samples are; its bands, dates and nodata are used.
        """
        super().__init__()
        self.spec = spec
        zeros = torch.zeros(spec.dates, spec.num_bands, dtype=torch.float64)
        for name in ('detail', 'slope'):
            self.add_state(name, zeros.clone(), dist_reduce_fx='sum')

    def update(self, images: Tensor) -> None:
        """Count the pixels of a batch.

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
        images = images.float().reshape(-1, *shape, *images.shape[-2:])
        middle = images[..., 1:-1, 1:-1]
        up, down = images[..., :-2, 1:-1], images[..., 2:, 1:-1]
        left, right = images[..., 1:-1, :-2], images[..., 1:-1, 2:]
        detail = (4 * middle - up - down - left - right).abs()
        slope = (down - up).abs() + (right - left).abs()
        if self.spec.nodata is not None:
            missing = (images == self.spec.nodata).all(2).float()
            seen = (max_pool2d(missing, 3, stride=1) == 0)[:, :, None]
            detail, slope = detail * seen, slope * seen
        axes = (0, -2, -1)
        self.detail += detail.sum(axes, dtype=torch.float64)
        self.slope += slope.sum(axes, dtype=torch.float64)

    def compute(self) -> Tensor:
        """Compute the sharpness of all images counted.

        Returns:
            Of each band at each date (T, C), float64, 0 or more; NaN for flat ones.
        """
        return self.detail / self.slope


def compare_sharpness(real: Tensor, other: Tensor) -> Tensor:
    """Compare the sharpness of two sides.

    Args:
        real: From :class:`Sharpness`.
        other: Likewise.

    Returns:
        Other over real, of all bands of the first date, then of the next, (T x C,):
        1 is equal, below is smoother, above is rougher; NaN where either is unknown.
    """
    # metrics squeeze what has one element
    ratio = other.flatten().cpu() / real.flatten().cpu()
    return ratio.where(ratio.isfinite(), torch.nan)
