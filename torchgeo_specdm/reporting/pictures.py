# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Pairs as small pictures of a page, in several combinations of bands."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..pairs.plotting import show_mask, stretch_of
from ..pairs.spec import SampleSpec
from ..pairs.tiles import Tiles

#: Pixels of all images of a page together: about 10 MB if they were noise.
_PIXELS = 2_500_000
_MOST_SIDE = 128


class Pair(NamedTuple):
    """One pair of a page.

    Attributes:
        images: A data URI for each date.
        mask: A data URI.
        caption: A few words below it; may be empty.
    """

    images: list[str]
    mask: str
    caption: str = ''


def picture_side(tiles: Sequence[tuple[Tiles, int]]) -> int:
    """The side in pixels of all pictures of a page, so that the page stays small.

    Args:
        tiles: All tiles of the page, and in how many combinations each is shown.

    Returns:
        At most 128.
    """
    count = sum(
        times * max(1, t.images.shape[:-3].numel())
        for t, times in tiles
        if len(t.images)
    )
    return max(8, min(_MOST_SIDE, int((_PIXELS / max(count, 1)) ** 0.5)))


def stretch(
    tiles: Tiles, channels: tuple[int, int, int], spec: SampleSpec
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Digital numbers of black and white.

    Args:
        tiles: Tiles that are shown.
        channels: Shown as red, green and blue.
        spec: Tells true colours, which are stretched together to stay true.

    Returns:
        Two arrays (3, 1, 1): the 2nd and 98th percentile.
    """
    limits = []
    together = channels == spec.rgb
    for group in [channels] if together else [(channel,) for channel in channels]:
        low, high = stretch_of(tiles.images, group)
        limits += [(low, max(high, low + 1e-6))] * len(group)
    black, white = np.array(limits, np.float32).T.reshape(2, 3, 1, 1)
    return black, white


def show_pairs(
    tiles: Tiles,
    spec: SampleSpec,
    channels: tuple[int, int, int],
    limits: tuple[NDArray[np.float32], NDArray[np.float32]],
    side: int,
    captions: Sequence[str] = (),
) -> list[Pair]:
    """Turn tiles into pictures.

    Args:
        tiles: Tiles to show.
        spec: Description of the samples.
        channels: Shown as red, green and blue.
        limits: Limits from :func:`stretch`.
        side: The most pixels of a side.
        captions: Caption of each tile; none if empty.

    Returns:
        A pair for each tile.
    """
    low, high = limits
    pairs = []
    for i, (image, mask) in enumerate(zip(tiles.images, tiles.masks, strict=True)):
        dates = image.reshape(-1, *image.shape[-3:])[:, list(channels)].float()
        colors = (_smaller(dates, side).numpy() - low) / (high - low)
        colors = np.nan_to_num(colors).clip(0, 1).transpose(0, 2, 3, 1)
        labels = show_mask(_smaller_mask(mask, side), spec)
        caption = captions[i] if captions else ''
        pairs.append(
            Pair([_data_uri(date) for date in colors], _data_uri(labels), caption)
        )
    return pairs


def _small_shape(shape: torch.Size, side: int) -> tuple[int, int]:
    """Height and width that fit into a square."""
    height, width = shape[-2:]
    factor = min(1.0, side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _smaller(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W), averaged where they are too large."""
    shape = _small_shape(images.shape, side)
    if shape == tuple(images.shape[-2:]):
        return images
    return nn.functional.interpolate(images, size=shape, mode='area')


def _smaller_mask(mask: Tensor, side: int) -> Tensor:
    """A mask (H, W), of which rows and columns are left out if it is too large."""
    height, width = mask.shape[-2:]
    rows, columns = _small_shape(mask.shape, side)
    down = torch.arange(rows) * height // rows
    return mask[down][:, torch.arange(columns) * width // columns]


def _data_uri(colors: NDArray[np.float32]) -> str:
    """Colours (H, W, 3) in 0..1 as a PNG inside an HTML page."""
    buffer = io.BytesIO()
    plt.imsave(buffer, np.rint(255 * colors).astype(np.uint8), format='png')
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
