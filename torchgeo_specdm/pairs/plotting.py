# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Plots of samples."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import NonGeoDataset, RGBBandsMissingError

from .spec import SampleSpec
from .valid import labelled_pixels


class PlottedDataset(NonGeoDataset):
    """A data set that plots its samples as its spec describes them."""

    #: What the samples are.
    spec: SampleSpec
    #: Bands that a plot needs; none if any will do.
    rgb_bands: tuple[str, ...] = ()

    def plot(
        self,
        sample: dict[str, Tensor],
        show_titles: bool = True,
        suptitle: str | None = None,
    ) -> Figure:
        """Plot a sample.

        Args:
            sample: A sample, with ``prediction`` (as ``mask``) if there is one.
            show_titles: Whether to show a title above each panel.
            suptitle: A title for the figure.

        Returns:
            A figure with each date, the mask and the prediction.

        Raises:
            RGBBandsMissingError: If a band of :attr:`rgb_bands` is not loaded.
        """
        if not set(self.rgb_bands) <= set(self.spec.bands):
            raise RGBBandsMissingError()
        return plot_sample(sample, self.spec, show_titles, suptitle)


def show_image(
    image: Tensor, spec: SampleSpec, limits: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Turn one date into something to look at.

    Args:
        image: Digital numbers (C, H, W).
        spec: Tells which bands are red, green and blue.
        limits: Digital numbers shown as black and white; the 2nd and 98th percentile
            of the image's own pixels if None; missing ones do not count.

    Returns:
        Colours (H, W, 3) in 0..1; missing pixels are white, as those without a label.
    """
    rgb = image[list(spec.rgb)].detach().cpu().float().numpy().transpose(1, 2, 0)
    low, high = stretch_of(image, spec.rgb) if limits is None else limits
    stretched = np.clip((rgb - low) / max(high - low, 1e-6), 0, 1)
    seen = np.isfinite(rgb).all(-1, keepdims=True)
    colors: NDArray[np.float32] = np.where(seen, stretched, 1).astype(np.float32)
    return colors


def stretch_of(images: Tensor, channels: Sequence[int]) -> tuple[float, float]:
    """Digital numbers to show as black and white.

    Args:
        images: Digital numbers (..., C, H, W); missing ones do not count.
        channels: Positions of the bands that are shown.

    Returns:
        The 2nd and 98th percentile of these bands.
    """
    shown = images[..., [*channels], :, :].detach().cpu().float().numpy()
    seen = shown[np.isfinite(shown)]
    low, high = np.percentile(seen, (2, 98)) if seen.size else (0, 1)
    return float(low), float(high)


def show_mask(mask: Tensor, spec: SampleSpec) -> NDArray[np.float32]:
    """Turn a mask into its class colours.

    Args:
        mask: Class positions (H, W); what is no class is shown white.
        spec: Holds the colours.

    Returns:
        Colours (H, W, 3) in 0..1.
    """
    values = mask.detach().cpu().long().numpy()
    known = labelled_pixels(values, spec.num_classes)
    palette: NDArray[np.float32] = np.array([*spec.colors, (255,) * 3], np.float32)
    return palette[np.where(known, values, -1)] / np.float32(255)


def plot_sample(
    sample: dict[str, Tensor],
    spec: SampleSpec,
    show_titles: bool = True,
    suptitle: str | None = None,
) -> Figure:
    """Plot each date of a sample, its mask and, if there, what a network made of them.

    Args:
        sample: ``image`` (C, H, W) or (T, C, H, W), ``mask`` and maybe ``prediction``
            (H, W) or (1, H, W), and maybe ``reconstruction`` as ``image``, which is
            stretched as the image is.
        spec: Description of the sample.
        show_titles: Whether to show a title above each panel.
        suptitle: A title for the figure.

    Returns:
        The figure.
    """
    panels = _panels(sample, spec)
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(3 * len(panels), 3.5),
        squeeze=False,
        layout='constrained',
    )
    for axis, (title, panel) in zip(axes[0], panels, strict=True):
        axis.imshow(panel)
        axis.axis('off')
        if show_titles:
            axis.set_title(title)
    _add_legend(figure, sample, spec)
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure


def _panels(
    sample: dict[str, Tensor], spec: SampleSpec
) -> list[tuple[str, NDArray[np.float32]]]:
    """Title and colours (H, W, 3) of each panel."""
    images = sample['image'].reshape(-1, *sample['image'].shape[-3:])
    panels = []
    for key in ('image', 'reconstruction'):
        if key in sample:
            for number, date in enumerate(sample[key].reshape(images.shape), 1):
                title = key.title() if len(images) == 1 else f'{key.title()} {number}'
                limits = stretch_of(images[number - 1], spec.rgb)
                panels.append((title, show_image(date, spec, limits)))
    for key in ('mask', 'prediction'):
        if key in sample:
            mask = sample[key].reshape(sample[key].shape[-2:])
            panels.append((key.title(), show_mask(mask, spec)))
    return panels


def _add_legend(figure: Figure, sample: dict[str, Tensor], spec: SampleSpec) -> None:
    """Name the colours of the classes that are shown."""
    shown: set[int] = set()
    for key in {'mask', 'prediction'} & sample.keys():
        shown.update(sample[key].flatten().tolist())
    handles = [
        Patch(facecolor=(r / 255, g / 255, b / 255), edgecolor='black', label=name)
        for i, (name, (r, g, b)) in enumerate(
            zip(spec.classes, spec.colors, strict=True)
        )
        if i in shown
    ]
    if handles:
        figure.legend(
            handles=handles, loc='outside lower center', ncols=4, fontsize='small'
        )
