# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import torch

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.pairs.plotting import show_mask
from torchgeo_specdm.pairs.tiles import Tiles
from torchgeo_specdm.reporting.pictures import picture_side, show_pairs, stretch


def tiles(*shape: int, count: int = 2) -> Tiles:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 3000, (count, *shape), generator=generator).float()
    masks = torch.randint(3, (count, *shape[-2:]), generator=generator)
    return Tiles(images, masks)


def pixels(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(',')
    assert kind == 'data:image/png;base64'
    shown: np.ndarray = plt.imread(io.BytesIO(base64.b64decode(data)))
    return shown[..., :3]


def test_pixels_are_stretched_and_not_resampled() -> None:
    spec = SampleSpec(('B02', 'B03', 'B04', 'B08'), ('a', 'b', 'c'))
    made = tiles(4, 16, 16)
    made.images[:, 3] += 3000
    channels = (3, 2, 1)
    low, high = stretch(made, channels, spec)
    # each band by itself, or vegetation would be all red
    assert low[0, 0, 0] > 3000 > high[1, 0, 0]
    (first, second) = show_pairs(made, spec, channels, (low, high), 64, ['x', 'y'])
    expected = ((made.images[1, [3, 2, 1]].numpy() - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(
        pixels(second.images[0]), expected.transpose(1, 2, 0), atol=0.5 / 255 + 1e-6
    )
    np.testing.assert_allclose(
        pixels(second.mask), show_mask(made.masks[1], spec), atol=1e-6
    )
    assert (first.caption, second.caption) == ('x', 'y')


def test_true_colours_are_stretched_together_without_nodata() -> None:
    spec = SampleSpec(('R', 'G', 'B'), ('a', 'b', 'c'))
    made = tiles(3, 16, 16)
    before = stretch(made, spec.rgb, spec)
    assert len({float(v) for v in before[1].flat}) == 1
    missing = made._replace(images=torch.cat([made.images, torch.nan * made.images]))
    np.testing.assert_array_equal(before, stretch(missing, spec.rgb, spec))
    nothing = made._replace(images=torch.nan * made.images)
    limits = stretch(nothing, spec.rgb, spec)
    assert np.isfinite(
        pixels(show_pairs(nothing, spec, spec.rgb, limits, 8)[0].mask)
    ).all()


def test_dates_and_large_tiles() -> None:
    spec = SampleSpec(('R', 'G', 'B'), ('a', 'b', 'c'), dates=2)
    made = tiles(2, 3, 40, 60)
    limits = stretch(made, spec.rgb, spec)
    pair = show_pairs(made, spec, spec.rgb, limits, 30)[0]
    assert len(pair.images) == 2
    assert {pixels(uri).shape for uri in (*pair.images, pair.mask)} == {(20, 30, 3)}
    # every label shown is one of the mask, not a mean of two
    colors = np.rint(255 * pixels(pair.mask)).astype(int).reshape(-1, 3)
    assert {tuple(color) for color in colors.tolist()} <= {*spec.colors}


def test_side_shrinks_with_the_number_of_images() -> None:
    few, many = tiles(3, 8, 8, count=4), tiles(12, 3, 8, 8, count=24)
    assert picture_side([(few, 3)]) == 128
    side = picture_side([(many, 3)])
    assert side < 128 and side**2 * 24 * 12 * 3 <= 2_500_000
