# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The noise of a sample, which is its identity."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.random import Generator as RandomGenerator
from torch import Tensor

from ..philox import philox

#: Numbers of the streams in the counter; image_t is t.
_STREAMS = {'mask': 0, 'image_and_mask': 1_000, 'choice': 1_001}
#: Run seeds of generated sets lie below; those above are for other uses.
SEED_LIMIT = 2**63
#: Numbers that are worth several threads, as batches for a GPU have them.
_MANY = 2**20


def stream_random(seed: int, index: int, stream: str, step: int = 0) -> RandomGenerator:
    """Random numbers that are a function of (seed, index, stream, step) alone.

    Counter-based, so they do not depend on batch size, order, workers, ranks or
    restarts, and no two samples share them; torch's generator keeps only 32 bits of
    a seed, which makes duplicates (docs/notes/diffusion.md).

    Args:
        seed: Seed of the run, 0 or more.
        index: Number of the sample, 0 or more.
        stream: ``mask``, ``image_<t>``, ``image_and_mask``, or ``choice`` for what is
            chosen by lot.
        step: Step of the sampler, for those that need fresh noise at each; 0 is the
            noise that they begin with.

    Returns:
        The random number generator.
    """
    number = _STREAMS.get(stream)
    if number is None:
        number = int(stream.removeprefix('image_'))
    return RandomGenerator(philox(seed, index, number, step))


def sample_noise(
    seed: int,
    indices: Sequence[int],
    streams: dict[str, slice],
    size: tuple[int, int],
    step: int = 0,
) -> Tensor:
    """Standard normal noise for a batch of samples.

    Args:
        seed: Seed of the run.
        indices: Number of each sample.
        streams: Channels of each stream.
        size: Height and width of the latent.
        step: Step of the sampler (see :func:`stream_random`).

    Returns:
        Noise (B, D, h, w), float32, on the CPU.
    """
    depth = sum(channels.stop - channels.start for channels in streams.values())
    noise = np.empty((len(indices), depth, *size), np.float32)

    def fill(position: int) -> None:
        start = 0
        for stream, channels in streams.items():
            stop = start + channels.stop - channels.start
            random = stream_random(seed, indices[position], stream, step)
            random.standard_normal(dtype=np.float32, out=noise[position, start:stop])
            start = stop

    if noise.size < _MANY:
        for position in range(len(indices)):
            fill(position)
    else:
        # NumPy lets go of the interpreter's lock while it fills an array
        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, range(len(indices))))
    return torch.from_numpy(noise)
