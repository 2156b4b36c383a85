# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A generator of pixels with fixed weights."""

import pytest
import torch

from torchgeo_specdm import Generator
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.diffusion import JointProcess

from .oracle import FLAT, SPEC, batch_of, flat_denoiser

PROCESS = {
    'prediction': 'sample',
    'cases': {'joint': 0.5, 'image|mask': 0.5},
    'signal_scale': 0.35,
}


@pytest.fixture(scope='module')
def generator() -> Generator:
    """Pixels of two bands and three classes, a network of fixed weights."""
    torch.manual_seed(0)
    codec = make_codec('pixels', SPEC, {'fold': 2})
    codec.fit_scaling(torch.rand(8, 2, 16, 16) * 1000)
    codec.fit_statistics([batch_of(8)])
    process = JointProcess(codec.streams, **PROCESS)
    denoiser = flat_denoiser(codec.latent_channels, len(codec.streams))
    config = {
        'stage': 'diffusion',
        'process': PROCESS,
        'denoiser': FLAT,
        'sampling': {'sampler': 'dpm', 'steps': 4},
        'patch_size': [16, 16],
    }
    return Generator(codec, process, denoiser, config)
