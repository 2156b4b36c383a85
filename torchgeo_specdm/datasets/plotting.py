# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""How a sample is shown."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from .spec import SampleSpec


def show_image(
    image: Tensor, spec: SampleSpec, limits: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Turn one date into something to look at.

    Args:
        image: Digital numbers (C, H, W).
        spec: Tells which bands are red, green and blue.
        limits: Digital numbers shown as black and white; the image's own 2nd and
            98th percentile if None.

    Returns:
        Colours (H, W, 3) in 0..1.
    """
    rgb = image[list(spec.rgb)].float().numpy().transpose(1, 2, 0)
    low, high = limits or tuple(np.percentile(rgb, (2, 98)))
    stretched = (rgb - low) / max(high - low, 1e-6)
    return np.clip(stretched, 0, 1).astype(np.float32)


def show_mask(mask: Tensor, spec: SampleSpec) -> NDArray[np.float32]:
    """Turn a mask into its class colours.

    Args:
        mask: Class positions (H, W); what is no class is shown white.
        spec: Holds the colours.

    Returns:
        Colours (H, W, 3) in 0..1.
    """
    values = mask.numpy()
    known = (values >= 0) & (values < spec.num_classes)
    colors = np.array(spec.colors, np.float32)[np.where(known, values, 0)] / 255
    colors[~known] = 1
    return colors


def plot_sample(
    sample: dict[str, Tensor],
    spec: SampleSpec,
    show_titles: bool = True,
    suptitle: str | None = None,
) -> Figure:
    """Plot each date of a sample, its mask and, if there, the prediction.

    Args:
        sample: ``image`` (C, H, W) or (T, C, H, W), ``mask`` and maybe ``prediction``
            (H, W) or (1, H, W).
        spec: What the sample is.
        show_titles: Whether to show a title above each panel.
        suptitle: A title for the figure.

    Returns:
        The figure.
    """
    image = sample['image'].cpu()
    dates = image[None] if image.ndim == 3 else image
    panels = [(f'Image {i + 1}' if len(dates) > 1 else 'Image', show_image(date, spec))
              for i, date in enumerate(dates)]
    for key in ('mask', 'prediction'):
        if key in sample:
            mask = sample[key].cpu()
            panels.append((key.title(), show_mask(mask.reshape(mask.shape[-2:]), spec)))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3 * len(panels), 3), squeeze=False
    )
    for axis, (title, panel) in zip(axes[0], panels, strict=True):
        axis.imshow(panel)
        axis.axis('off')
        if show_titles:
            axis.set_title(title)
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure
