# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch

from torchgeo_specdm import Generator
from torchgeo_specdm.diffusion import JointDenoiser

from .oracle import flat_denoiser


class TestTimesOfStreams:
    def test_one_time_as_published(self, generator: Generator) -> None:
        config = generator.config | {'process': {'prediction': 'epsilon'}}
        published = Generator.build(generator.codec, config).denoiser
        assert not list(published.embeddings)
        assert not [n for n, _ in published.named_parameters() if 'class' in n]

    @torch.no_grad()
    def test_each_time_reaches_the_output(self) -> None:
        denoiser = flat_denoiser(3, 3)
        latent = torch.randn(1, 3, 8, 8)
        base = denoiser(latent, torch.tensor([[500, 500, 500]]))
        for stream in range(3):
            times = torch.tensor([[500, 500, 500]])
            times[0, stream] = 0
            assert float((denoiser(latent, times) - base).abs().max()) > 1e-3

    @torch.no_grad()
    def test_streams_are_not_interchangeable(self) -> None:
        denoiser = flat_denoiser(3, 3)
        # weights of a pattern give equal embeddings: break the tie
        torch.manual_seed(0)
        for parameter in denoiser.embeddings.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        latent = torch.randn(1, 3, 8, 8)
        a, b = (denoiser(latent, torch.tensor([t])) for t in ([5, 0, 900], [5, 900, 0]))
        assert float((a - b).abs().max()) > 1e-3


class TestDenoiser:
    @pytest.mark.parametrize(
        ('settings', 'said'),
        [
            ({'widths': [8, 12]}, r'widths=\[8, 12\] must be multiples of groups=8'),
            ({'attention': [True]}, r'attention=\[True\]'),
            ({'head_dim': 32}, 'head_dim=32 '),
            ({'widths': [8, 20], 'head_dim': None, 'groups': 4}, r'None: 8 heads'),
        ],
    )
    def test_refused(self, settings: dict[str, Any], said: str) -> None:
        plain = {'widths': [8, 16], 'attention': [False, False], 'head_dim': 8}
        with pytest.raises(ValueError, match=said):
            JointDenoiser(4, 2, layers=1, **{'groups': 8} | plain | settings)

    def test_starts_as_nothing_at_all(self) -> None:
        widths, attends = (32, 64), (True, False)
        denoiser = JointDenoiser(4, 2, widths, attends, layers=1)
        names = {
            name
            for name, parameter in denoiser.named_parameters()
            if parameter.ndim > 1 and not parameter.any()
        }
        # four blocks and the resampling of each side, two blocks and an attention in
        # the middle, an attention in the first level down and two up, and the output
        blocks = {name for name in names if name.endswith('conv2.weight')}
        attentions = {name for name in names if name.endswith('to_out.0.weight')}
        assert (len(blocks), len(attentions)) == (10, 4)
        assert names - blocks - attentions == {'network.conv_out.weight'}
        with torch.no_grad():
            assert not denoiser(torch.randn(1, 4, 8, 8), torch.ones(1, 2)).any()

    @torch.no_grad()
    def test_details_are_of_pixels(self) -> None:
        plain = {'widths': (8, 16), 'attention': (False, False), 'head_dim': 8}
        denoiser = JointDenoiser(12, 2, layers=1, groups=8, **plain, fold=2, detail=4)
        latent, times = torch.randn(1, 12, 8, 8), torch.tensor([[500, 0]])
        before = denoiser(latent, times)
        assert (before == denoiser.network(latent, 500, times[:, 0]).sample).all()
        for parameter in denoiser.detail.parameters():
            torch.nn.init.normal_(parameter)
        # the UNet adds nothing yet, so one pixel is seen by its neighbours alone
        pixels = torch.nn.functional.pixel_shuffle(latent, 2)
        pixels[..., 8, 8] += 1
        other = torch.nn.functional.pixel_unshuffle(pixels, 2)
        change = (denoiser(other, times) - denoiser(latent, times)).abs()
        seen = torch.nn.functional.pixel_shuffle(change, 2).amax((0, 1)) > 0
        assert seen[5:12, 5:12].all() and int(seen.sum()) == 49
        # and it is told the time of each stream
        later = torch.tensor([[500, 9]])
        assert not torch.equal(denoiser(latent, later), denoiser(latent, times))

    def test_size_is_refused_with_numbers(self) -> None:
        denoiser = flat_denoiser(3, 1)
        with pytest.raises(ValueError, match=r'7 x 8 cells .* multiples of 2'):
            denoiser(torch.zeros(1, 3, 7, 8), torch.ones(1, 1, dtype=torch.long))
