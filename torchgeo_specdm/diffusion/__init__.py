# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The joint diffusion model over the streams of a latent."""

from .denoiser import JointDenoiser
from .generator import Generator
from .noise import sample_noise, stream_random
from .process import JointProcess
from .training import move_average, warm_up_and_decay

__all__ = (
    'Generator',
    'JointDenoiser',
    'JointProcess',
    'move_average',
    'sample_noise',
    'stream_random',
    'warm_up_and_decay',
)
