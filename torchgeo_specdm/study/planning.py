# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Plans that fit into a given time on this machine."""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor, nn
from typing_extensions import TypedDict

from ..codecs import make_codec
from ..diffusion import Generator
from ..files import Finite, Positive
from ..objects import Config, make_object
from ..pairs.spec import SampleSpec
from ..presets import generator_settings, load_preset
from ..tasks.support.trainer import fast_bfloat16

#: The preset that a quickstart uses.
_PRESET = 'tiny'
_PATCH = 32
_LARGE_PATCH = 64
#: Large patches cost four times as much, so they come from these minutes on.
_LARGE_FROM = {'cpu': 30, 'cuda': 5}
_BATCH = 16
_LATENT_BATCH = 32
#: Variants of the training set in the cache of latents, and latents in all.
_PASSES = 16
_LATENTS = 20_000
#: Shares of the time: stage 1, stage 2, and all trainings of the comparison.
_SHARES = {'autoencoder': 0.14, 'diffusion': 0.28, 'network': 0.45}
#: Trainings of the comparison's updates beside its grid: for the pilot, and for the
#: first judge (1.9) and the second. All else that is measured takes some seconds, and
#: so does each test.
_PILOT, _JUDGES = 1.75, 2.9
_OTHER_RUNS = 5
_MEASURING, _TESTING = 60, 2
#: With fewer updates, training on real samples alone still improved wherever we looked
#: (experiments/RESULTS.md).
SETTLING = 400
#: Fewest and most steps of each training, whatever the time.
_LIMITS = {
    'autoencoder': (100, 20_000),
    'diffusion': (200, 50_000),
    'network': (40, 20_000),
}
#: A step of sampling, in full precision without gradient, costs about half of one of
#: training; and seconds to write a sample.
_SAMPLING_COST = 0.5
_WRITING = 0.01


class Plan(TypedDict):
    """Steps and sizes; see :func:`make_plan`."""

    precision: Literal['bf16-mixed', '32-true']
    samples: Positive
    patch_size: Positive
    batch_size: Positive
    latent_batch_size: Positive
    passes: Positive
    steps: dict[str, Positive]
    seconds: dict[str, Finite]


class PlanFile(TypedDict):
    """Content of ``plan.json``."""

    plan: Plan


def make_plan(
    spec: SampleSpec,
    network: Config,
    size: tuple[int, int],
    samples: int,
    minutes: float,
    runs: int,
    learned: bool = True,
) -> dict[str, Any]:
    """Choose steps and sizes that fit the minutes, by timing a few steps here.

    Args:
        spec: Description of the samples.
        network: The task of the comparison, ``class_path`` and ``init_args``.
        size: Height and width of the smallest patch.
        samples: Number of training samples.
        minutes: About how long everything may take.
        runs: Trainings in the grid of the comparison.
        learned: Whether there is a stage 1; its time goes to stage 2 otherwise.

    Returns:
        Plain JSON types: ``precision``, ``samples``, ``patch_size``, ``batch_size``,
        ``latent_batch_size``, ``passes``, ``steps`` and ``seconds`` of a step of each
        network, and ``seconds`` of a generated ``sample``.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    large = minutes >= _LARGE_FROM[device] and min(size) >= _LARGE_PATCH
    patch = _LARGE_PATCH if large else _PATCH
    batch = min(_BATCH, samples)
    codec = 'two_stream' if learned else 'pixels'
    seconds = time_steps(spec, network, patch, batch, _LATENT_BATCH, codec)
    shares = dict(_SHARES)
    if not learned:
        shares['diffusion'] += shares.pop('autoencoder')
    shares['network'] /= runs + _OTHER_RUNS
    steps = {
        name: int(min(max(60 * minutes * share / seconds[name], low), high))
        for name, share in shares.items()
        for low, high in [_LIMITS[name]]
    }
    drawing = load_preset(_PRESET)['sampling']['steps'] * _SAMPLING_COST
    drawing *= seconds['diffusion'] / _LATENT_BATCH
    return {
        'precision': 'bf16-mixed' if fast_bfloat16() else '32-true',
        'samples': samples,
        'patch_size': patch,
        'batch_size': batch,
        'latent_batch_size': _LATENT_BATCH,
        # a cache of a large data set must fit the memory
        'passes': min(max(_LATENTS // samples, 1), _PASSES),
        'steps': steps,
        'seconds': seconds | {'sample': drawing + _WRITING},
    }


def expected_seconds(plan: Config, runs: int, pairs: int) -> dict[str, float]:
    """Say how long each part of a plan takes on a machine without other work.

    Args:
        plan: A plan of :func:`make_plan`.
        runs: Trainings in the grid of the comparison.
        pairs: Samples to draw.

    Returns:
        Seconds of ``stage 1`` (if there is one), ``stage 2``, ``pairs``, ``pilot``,
        ``judges`` and ``networks``, in the order in which they are done.
    """
    steps, seconds = plan['steps'], plan['seconds']
    training = steps['network'] * seconds['network']
    stages = {'stage 1': 'autoencoder', 'stage 2': 'diffusion'}
    return {
        part: steps[name] * seconds[name]
        for part, name in stages.items()
        if name in steps
    } | {
        'pairs': pairs * seconds['sample'],
        'pilot': _PILOT * training,
        'judges': _JUDGES * training + _MEASURING,
        'networks': runs * (training + _TESTING),
    }


def least_minutes(plan: Config, runs: int) -> float:
    """Minutes from which on a verdict may settle (see :data:`SETTLING`).

    Args:
        plan: A plan of :func:`make_plan`.
        runs: Trainings in the grid of the comparison.
    """
    training: float = SETTLING * plan['seconds']['network']
    return training * (runs + _OTHER_RUNS) / _SHARES['network'] / 60


def time_steps(
    spec: SampleSpec,
    network: Config,
    patch_size: int,
    batch_size: int,
    latent_batch_size: int,
    codec: str,
) -> dict[str, float]:
    """Seconds of one training step of each network of the ``tiny`` preset, here.

    Args:
        spec: Description of the samples.
        network: The task of the comparison, ``class_path`` and ``init_args``.
        patch_size: Side of the patches in pixels.
        batch_size: Batch size of stage 1 and of the network.
        latent_batch_size: Batch size of stage 2.
        codec: Name of the codec of stage 2, by which its denoiser differs.

    Returns:
        Seconds for ``autoencoder``, ``diffusion`` and ``network``.
    """
    seed_everything(0, verbose=False)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    preset, half = load_preset(_PRESET), fast_bfloat16()
    dates = (spec.dates,) if spec.dates > 1 else ()
    shape = (batch_size, *dates, spec.num_bands, patch_size, patch_size)
    images = torch.rand(shape, device=device) * 1000
    mask = torch.zeros(batch_size, patch_size, patch_size, device=device).long()
    sample = {'image': images, 'mask': mask}
    learned = make_codec('two_stream', spec, preset['two_stream']['codec']).to(device)
    learned.fit_scaling(images.flatten(0, -4))
    config = generator_settings(preset, codec)
    pixels = make_codec('pixels', spec, preset['pixels']['codec'])
    denoiser = Generator.build(pixels, config).denoiser.to(device)
    side = patch_size // pixels.factor
    shape = (latent_batch_size, pixels.latent_channels, side, side)
    latent = torch.rand(shape, device=device)
    times = torch.ones_like(latent[:, : len(pixels.streams), 0, 0]).long()
    sizes = {'in_channels': spec.num_bands, 'num_classes': spec.num_classes}
    task = make_object(network, LightningModule, **sizes).to(device)
    return {
        'autoencoder': _seconds(learned, lambda: learned.loss(sample)['loss'], half),
        'diffusion': _seconds(denoiser, lambda: denoiser(latent, times).mean(), half),
        'network': _seconds(task, lambda: task(images).mean(), False),
    }


def _seconds(
    module: nn.Module, loss: Callable[[], Tensor], half: bool, count: int = 9
) -> float:
    """Least time of a step: forward, backward and the optimizer.

    On processors it is the time that this thread computes. Other work of the machine
    adds to it only where it takes caches, or a core that another thread is waited for
    on, and hardly to the quickest step of all: with a busy core beside it, the median
    was three times too long.
    """
    optimizer = torch.optim.AdamW(module.parameters())
    device = next(module.parameters()).device.type
    clock = time.thread_time if device == 'cpu' else time.perf_counter
    taken = []
    for _ in range(count):
        start = clock()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        # reading the value waits for the device
        float(value)
        taken.append(clock() - start)
    # loading and logging come on top
    return 1.15 * min(taken)
