# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A trained generator: codec, process and denoiser, and how to draw from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor, nn

from ..codecs import Codec, Sample, load_codec, save_codec
from ..files import load_weights, read_config, save_module
from .denoiser import JointDenoiser
from .noise import sample_noise
from .process import JointProcess

Sampler = Literal['dpm', 'ddim', 'ddpm']


class Generator(nn.Module):
    """Draws labelled samples.

    >>> generator = Generator.load('runs/demo/diffusion')
    >>> pairs = generator.sample(indices=[0, 1, 2], seed=0)

    Args:
        codec: With measured statistics.
        process: The noising process.
        denoiser: Its network.
        config: Settings of process and denoiser, ``patch_size`` in pixels, and where
            the training data came from; plain JSON types.
    """

    def __init__(
        self,
        codec: Codec,
        process: JointProcess,
        denoiser: JointDenoiser,
        config: Mapping[str, Any],
    ) -> None:
        """Put the parts together."""
        super().__init__()
        self.codec = codec
        self.process = process
        self.denoiser = denoiser
        self.config = dict(config)

    @classmethod
    def build(cls, codec: Codec, config: Mapping[str, Any]) -> 'Generator':
        """Make an untrained generator from its configuration."""
        process = JointProcess(codec.streams, **config['process'])
        denoiser = JointDenoiser(
            codec.latent_channels, len(codec.streams), **config['denoiser']
        )
        return cls(codec, process, denoiser, config)

    @classmethod
    def load(cls, folder: str | Path) -> 'Generator':
        """Read the folder that stage 2 wrote, for inference.

        Raises:
            FileNotFoundError: If there is no generator.
            ValueError: If it is the folder of another stage, or broken.
        """
        folder = Path(folder)
        config = read_config(folder, 'diffusion')
        generator = cls.build(load_codec(folder / 'codec'), config)
        generator.denoiser.load_state_dict(load_weights(folder))
        return generator.eval().requires_grad_(False)

    def save(self, folder: str | Path) -> None:
        """Write ``codec/``, ``model.safetensors`` and ``config.json``."""
        save_codec(self.codec, Path(folder) / 'codec')
        save_module(Path(folder), self.config, self.denoiser)

    @torch.no_grad()
    def sample(
        self,
        indices: Sequence[int],
        seed: int,
        sampler: Sampler = 'dpm',
        steps: int = 20,
        clip: float | None = None,
        given: Sample | None = None,
        strength: float = 1.0,
    ) -> dict[str, Tensor]:
        """Draw samples; each is a function of (seed, index) and the settings.

        Args:
            indices: Number of each sample, 0 or more.
            seed: Seed of the run.
            sampler: ``dpm`` (DPM-Solver++ of order 2), ``ddim``, or ``ddpm`` (fresh
                noise at each step, as published with T steps).
            steps: Number of denoising steps.
            clip: Clip the estimate of the clean latent to this many standard
                deviations; needed by ``epsilon`` after short training.
            given: With a batch of samples, their masks are kept and images drawn for
                them.
            strength: With *given*: 1 draws the images from noise; below 1 the given
                images are noised that far and denoised, which varies them.

        Returns:
            A batch of ``image``, digital numbers not yet rounded, and ``mask`` (see
            :meth:`Codec.decode`).

        Raises:
            ValueError: If a setting is out of range or the codec has no mask stream.
        """
        self._check(sampler, steps, strength, given)
        height, width = self.config['patch_size']
        if given is not None:
            height, width = given['image'].shape[-2:]
        size = self.codec.latent_size(height, width)
        streams = self.process.streams
        device = self.process.signal.device

        def noise(draw: int) -> Tensor:
            return sample_noise(seed, indices, streams, size, draw).to(device)

        clean = None if given is None else self.codec.encode(given).float()
        latent = self._denoise(noise, clean, (sampler, steps, clip), strength)
        sample = self.codec.decode(latent)
        if given is not None:
            sample['mask'] = given['mask'].clone()
        return {key: value.float() if key == 'image' else value
                for key, value in sample.items()}

    def _denoise(
        self,
        noise: Callable[[int], Tensor],
        clean: Tensor | None,
        settings: tuple[Sampler, int, float | None],
        strength: float,
    ) -> Tensor:
        """Run the sampler on all streams that are not given.

        Args:
            noise: Fresh noise (B, D, h, w) for each draw.
            clean: Latents of given samples, or None.
            settings: Sampler, steps and clip.
            strength: See :meth:`sample`.

        Returns:
            Latents (B, D, h, w).
        """
        sampler, steps, clip = settings
        scale = self.process.signal_scale
        scheduler = _scheduler(sampler, steps, self.process.schedule)
        start = steps - max(1, math.ceil(steps * strength))
        if isinstance(scheduler, DPMSolverMultistepScheduler):
            # it counts its steps; DDIM finds them by the time
            scheduler.set_begin_index(start)
        state = noise(0)
        drawn = torch.ones(state.shape[1], dtype=torch.bool, device=state.device)
        if clean is not None:
            drawn[self.process.streams['mask']] = False
        moments = scheduler.timesteps[start:]
        if strength < 1 and clean is not None:
            times = self._times(len(state), int(moments[0]) + 1, None)
            state = self.process.add_noise(clean, state, times.to(state.device))
        for draw, moment in enumerate(moments, start=1):
            times = self._times(len(state), int(moment) + 1, clean).to(state.device)
            if clean is not None:
                state = torch.where(drawn[:, None, None], state, clean * scale)
            visible = self.process.network_input(state, times)
            output = self.denoiser(visible, times).float()
            estimate = self.process.clean_estimate(output, state, times)
            if clip is not None:
                estimate = estimate.clamp(-clip, clip)
            extra = {'eta': 1.0, 'variance_noise': noise(draw)} if sampler == 'ddpm' else {}
            state = scheduler.step(estimate * scale, moment, state, **extra).prev_sample
        if clean is not None:
            state = torch.where(drawn[:, None, None], state, clean * scale)
        return state / scale

    def _times(self, count: int, time: int, clean: Tensor | None) -> Tensor:
        """Times (B, S): all equal, but 0 for a given mask."""
        times = torch.full((count, len(self.process.streams)), time)
        if clean is not None:
            times[:, list(self.process.streams).index('mask')] = 0
        return times

    def _check(
        self, sampler: Sampler, steps: int, strength: float, given: Sample | None
    ) -> None:
        if sampler not in get_args(Sampler) or not 1 <= steps <= self.process.num_steps:
            raise ValueError(
                f'sampler={sampler!r} must be one of {get_args(Sampler)} and '
                f'steps={steps} lie in 1..{self.process.num_steps}. 20 steps of dpm '
                'are nearly as good as 1000 of ddpm.'
            )
        if not 0 < strength <= 1 or (given is None and strength < 1):
            raise ValueError(
                f'strength={strength} must lie in 0..1 without 0, and below 1 it needs '
                'samples to vary. Use 0.6 with --vary.'
            )
        if given is not None and 'mask' not in self.process.streams:
            raise ValueError(
                f'The {self.codec.name} codec has no stream of its own for the mask, '
                'so it cannot be kept. Train a two_stream or pixels generator.'
            )


def _scheduler(
    sampler: Sampler, steps: int, schedule: Mapping[str, Any]
) -> DPMSolverMultistepScheduler | DDIMScheduler:
    """A scheduler of diffusers that is told the clean sample at each step."""
    settings = {'prediction_type': 'sample', 'timestep_spacing': 'trailing', **schedule}
    if sampler == 'dpm':
        scheduler = DPMSolverMultistepScheduler(solver_order=2, **settings)
    else:
        # the default clips to -1..1, which destroys latents of variance one
        scheduler = DDIMScheduler(clip_sample=False, **settings)
    scheduler.set_timesteps(steps)
    return scheduler
