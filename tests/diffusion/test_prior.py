# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import Generator, SampleSpec
from torchgeo_specdm.bands import TEN_BANDS
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.diffusion import begin_with

from .oracle import FLAT

CLASSES = tuple('abcdefgh')


def make(
    bands: tuple[str, ...] = TEN_BANDS,
    classes: int = 8,
    dates: int = 1,
    fold: int = 2,
    width: int = 8,
    detail: int = 0,
    **process: Any,
) -> Generator:
    """A generator whose weights are all random, the last layers included."""
    spec = SampleSpec(bands, CLASSES[:classes], dates=dates)
    codec = make_codec('pixels', spec, {'fold': fold})
    codec.center.fill_(0)
    codec.half_range.fill_(1)
    codec.latent_mean.fill_(0)
    codec.latent_std.fill_(1)
    settings = FLAT | {'widths': [width, 16], 'detail': detail}
    process = {'prediction': 'sample', 'cases': {'joint': 1, 'image|mask': 1}} | process
    config = {'process': process, 'denoiser': settings}
    generator = Generator.build(codec, config).requires_grad_(False)
    torch.manual_seed(bands == TEN_BANDS)
    for parameter in generator.denoiser.parameters():
        parameter.copy_(torch.randn_like(parameter) / 8)
    return generator


def predict(generator: Generator, pixels: Tensor, *times: int) -> Tensor:
    """Apply the denoiser to pixels (C, H, W) of bands and bits."""
    fold = generator.codec.factor
    latent = torch.nn.functional.pixel_unshuffle(pixels[None], fold)
    output = generator.denoiser(latent, torch.tensor([times]))
    return torch.nn.functional.pixel_shuffle(output, fold)[0]


@pytest.fixture(scope='module')
def prior() -> Generator:
    return make()


@pytest.mark.parametrize('detail', [0, 8])
def test_the_same_data_get_the_same_network(detail: int) -> None:
    own, prior = make(detail=detail), make(detail=detail)
    for parameter in own.denoiser.parameters():
        parameter.zero_()
    begin_with(own, prior)
    pixels = torch.randn(13, 8, 8)
    torch.testing.assert_close(
        predict(own, pixels, 7, 900), predict(prior, pixels, 7, 900)
    )


def test_bands_are_met_by_wavelength(prior: Generator) -> None:
    own = make(('Red', 'NIR', 'Blue'), classes=4)
    begin_with(own, prior)
    red, nir, blue, *bits = torch.randn(5, 8, 8)
    # of the bands of the prior: B02, B03, B04, B08, B05, B06, B07, B8A, B11, B12
    seen = [blue, blue, red, nir, red, red, nir, nir, nir, nir, *bits, red * 0]
    known = predict(prior, torch.stack(seen), 7, 900)
    found = predict(own, torch.stack([red, nir, blue, *bits]), 7, 900)
    torch.testing.assert_close(found, known[[2, 3, 0, 10, 11]])


def test_bands_without_wavelengths_are_met_by_position(prior: Generator) -> None:
    own = make(('first', 'second'), classes=2)
    begin_with(own, prior)
    pixels = torch.randn(3, 8, 8)
    seen = torch.cat(
        [pixels[:2].repeat_interleave(5, 0), pixels[2:], torch.zeros(2, 8, 8)]
    )
    known = predict(prior, seen, 1, 1)
    torch.testing.assert_close(predict(own, pixels, 1, 1), known[[0, 9, 10]])


@pytest.mark.parametrize('detail', [0, 8])
def test_dates_are_drawn_alike_at_first(detail: int) -> None:
    own, prior = make(dates=2, detail=detail), make(detail=detail)
    begin_with(own, prior)
    first, second, bits = torch.randn(23, 8, 8).split([10, 10, 3])
    found = predict(own, torch.cat([first, second, bits]), 7, 300, 900)
    known = predict(prior, torch.cat([(first + second) / 2, bits]), 7, 900)
    torch.testing.assert_close(found, torch.cat([known[:10], known]))


def test_more_classes_begin_with_the_bits_that_are_known() -> None:
    own, prior = make(classes=8), make(classes=4)
    begin_with(own, prior)
    pixels = torch.randn(13, 8, 8)
    known = predict(prior, pixels[:12], 5, 6)
    torch.testing.assert_close(
        predict(own, pixels, 5, 6), torch.cat([known, known[10:11]])
    )


def test_streams_that_share_a_time() -> None:
    own = make(cases={'joint': 1.0}, detail=8)
    begin_with(own, make(detail=8))
    assert predict(own, torch.randn(13, 8, 8), 7).isfinite().all()


@pytest.mark.parametrize('other', [{'fold': 4}, {'width': 16}, {'detail': 8}])
def test_other_networks_are_refused(prior: Generator, other: dict[str, int]) -> None:
    with pytest.raises(ValueError, match='Set prior: null'):
        begin_with(make(**other), prior)
