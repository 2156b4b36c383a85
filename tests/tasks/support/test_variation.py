# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from torch import Tensor, nn

from tests.diffusion.oracle import SPEC, batch_of, config_of, flat_denoiser
from torchgeo_specdm import Generator
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.diffusion import JointProcess
from torchgeo_specdm.tasks.support.variation import measure_variation


class Knowing(nn.Module):
    """Knows the clean latents."""

    def __init__(self, latent: Tensor) -> None:
        super().__init__()
        self.latent = latent

    def forward(self, visible: Tensor, times: Tensor) -> Tensor:
        return self.latent


@pytest.mark.parametrize('holes', [False, True])
def test_the_poor_are_told_from_the_good(holes: bool) -> None:
    codec = make_codec('pixels', SPEC, {'fold': 2})
    batch = batch_of(8)
    codec.fit_scaling(batch['image'])
    codec.fit_statistics([batch])
    if holes:
        batch['image'][:, :, :4] = torch.nan
    cases = {'image|mask': 1.0}
    process = JointProcess(codec.streams, 'sample', cases, 0.35)
    source = [{key: value[i] for key, value in batch.items()} for i in range(8)]
    poor, good = (
        measure_variation(Generator(codec, process, network, config_of(16)), source)
        for network in (
            flat_denoiser(codec.latent_channels, 2),
            Knowing(codec.encode(batch)),
        )
    )
    assert poor.poor and not good.poor
    assert good.varied == pytest.approx(good.decoded, abs=1e-3 * good.spread)
    assert good.spread == pytest.approx(1000 / 12**0.5 * SPEC.scale, rel=0.05)
    assert 'too poor to vary' in str(poor)
