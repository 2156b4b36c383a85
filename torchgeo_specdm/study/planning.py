# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""How many steps fit into a given time on this machine."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from ..codecs import make_codec
from ..datasets.spec import SampleSpec
from ..diffusion import Generator
from ..presets import load_preset
from ..tasks.segmentation import MultispectralSegmentationTask


def fast_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 faster than in float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    flags = Path('/proc/cpuinfo')
    text = flags.read_text(encoding='utf-8') if flags.exists() else ''
    # emulation elsewhere is several times slower
    return 'avx512_bf16' in text or 'amx_bf16' in text


def time_steps(
    spec: SampleSpec,
    segmenter: Mapping[str, Any],
    patch_size: int,
    batch_size: int,
    latent_batch_size: int,
) -> dict[str, float]:
    """Seconds of one training step of each network of the ``tiny`` preset, here.

    Args:
        spec: What the samples are.
        segmenter: Arguments of :class:`MultispectralSegmentationTask`.
        patch_size: Side of the patches in pixels.
        batch_size: Of stage 1 and the segmenter.
        latent_batch_size: Of stage 2.

    Returns:
        Seconds for ``autoencoder``, ``diffusion`` and ``segmenter``.
    """
    seed_everything(0, verbose=False)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    preset, half = load_preset('tiny'), fast_bfloat16()
    shape = (batch_size, spec.num_bands, patch_size, patch_size)
    images = torch.rand(shape, device=device) * 1000
    sample = {'image': images, 'mask': torch.zeros_like(images[:, 0]).long()}
    codec = make_codec('two_stream', spec, preset['two_stream']['codec']).to(device)
    codec.fit_scaling(images)
    config = {'process': {'prediction': 'v'}, 'denoiser': preset['denoiser']}
    pixels = make_codec('pixels', spec, preset['pixels']['codec'])
    denoiser = Generator.build(pixels, config).denoiser.to(device)
    side = patch_size // pixels.factor
    shape = (latent_batch_size, pixels.latent_channels, side, side)
    latent = torch.rand(shape, device=device)
    times = torch.ones_like(latent[:, : len(pixels.streams), 0, 0]).long()
    task = MultispectralSegmentationTask(
        in_channels=spec.num_bands, num_classes=spec.num_classes, **segmenter
    ).to(device)
    return {
        'autoencoder': _seconds(codec, lambda: codec.loss(sample)['loss'], half),
        'diffusion': _seconds(denoiser, lambda: denoiser(latent, times).mean(), half),
        'segmenter': _seconds(task, lambda: task(images).mean(), False),
    }


def _seconds(
    module: nn.Module, loss: Callable[[], Tensor], half: bool, count: int = 9
) -> float:
    """Median time of a step: forward, backward and the optimizer."""
    optimizer = torch.optim.AdamW(module.parameters())
    device = next(module.parameters()).device.type
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        # reading the value waits for the device
        float(value)
        taken.append(time.perf_counter() - start)
    # loading and logging come on top
    return 1.15 * sorted(taken)[count // 2]
