# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The joint diffusion model over the streams of a latent."""

from .denoiser import JointDenoiser
from .errors import ERRORS, DenoisingErrors, plain_errors, read_errors
from .generator import Generator
from .noise import sample_noise, stream_random
from .prior import begin_with
from .process import JointProcess
from .training import move_average, warm_up_and_decay

__all__ = (
    'ERRORS',
    'DenoisingErrors',
    'Generator',
    'JointDenoiser',
    'JointProcess',
    'begin_with',
    'move_average',
    'plain_errors',
    'read_errors',
    'sample_noise',
    'stream_random',
    'warm_up_and_decay',
)
