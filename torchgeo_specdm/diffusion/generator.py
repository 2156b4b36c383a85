# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A trained generator: codec, process and denoiser, and how to draw from them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, get_args

import torch
from pydantic import Field, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from ..codecs import Codec, Sample, load_codec, load_state, save_codec
from ..files import OPEN, Finite, Positive, Settings, read_config, save_module
from .denoiser import JointDenoiser
from .noise import SEED_LIMIT, sample_noise
from .process import JointProcess
from .solver import STOCHASTIC, Sampler, make_solver

#: Pixels of a side of a patch.
Side = Annotated[int, Field(ge=1, le=65_536)]


@with_config(OPEN)
class Sampling(TypedDict):
    """The way that samples are drawn where nothing else is said."""

    sampler: Sampler
    steps: Positive
    clip: NotRequired[Finite | None]


@with_config(OPEN)
class GeneratorConfig(TypedDict):
    """Content of ``config.json`` of stage 2."""

    process: Settings
    denoiser: Settings
    sampling: Sampling
    patch_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    training: NotRequired[dict[str, Any]]


class Generator(nn.Module):
    """Draws labelled samples.

    >>> generator = Generator.load('runs/demo/diffusion')
    >>> pairs = generator.sample(indices=[0, 1, 2], seed=0)

    Args:
        codec: Codec with measured statistics.
        process: The noising process.
        denoiser: The network that predicts noise, velocity or clean latents.
        config: Settings of process, denoiser and sampler, ``patch_size`` in pixels,
            and where the training data came from; plain JSON types.
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
        """Make an untrained generator from its configuration.

        Args:
            codec: Codec with measured statistics.
            config: Settings of ``process`` and ``denoiser``, and what
                :class:`Generator` needs.

        Returns:
            The generator.

        Raises:
            ValueError: If a setting is unknown, or the patches do not fit the networks.
        """
        try:
            process = JointProcess(codec.streams, **config['process'])
            # streams that never differ in time share one, as published
            times = len(codec.streams) if process.independent else 1
            denoiser = JointDenoiser(codec.latent_channels, times, **config['denoiser'])
        except TypeError as error:
            raise ValueError(
                f'The process or the denoiser does not take these settings: {error}. '
                'The docstrings of JointProcess and JointDenoiser list them.'
            ) from error
        if 'patch_size' in config:
            denoiser.require_size(*codec.latent_size(*config['patch_size']))
        return cls(codec, process, denoiser, config)

    @classmethod
    def load(cls, folder: str | Path) -> 'Generator':
        """Read the folder that stage 2 wrote, for inference.

        Raises:
            FileNotFoundError: If there is no generator.
            ValueError: If it is the folder of another stage, or broken.
        """
        folder = Path(folder)
        config = read_config(folder, 'diffusion', GeneratorConfig)
        generator = cls.build(load_codec(folder / 'codec'), config)
        load_state(generator.denoiser, folder)
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
        sampler: Sampler | None = None,
        steps: int | None = None,
        clip: float | None = None,
        given: Sample | None = None,
        strength: float = 1.0,
    ) -> dict[str, Tensor]:
        """Draw samples; each is a function of (seed, index) and the settings.

        Settings of the sampler that are None are those of ``config['sampling']``.

        Args:
            indices: Number of each sample, 0 or more.
            seed: Seed of the run, from 0 to 2**63 - 1.
            sampler: ``dpm`` (DPM-Solver++ of order 2), ``sde`` (the same with fresh
                noise at each step, which mends errors of a network after short
                training), ``ddim``, or ``ddpm`` (as published, with T steps).
            steps: Number of denoising steps.
            clip: Clip the estimate of the clean latent to this many standard
                deviations; needed by ``epsilon`` after short training. Infinite
                clips nothing.
            given: A batch of samples whose masks are kept and for which images are
                drawn; needs ``mask``, and ``image`` if *strength* is below 1.
            strength: Share of the way to noise that the images of *given* are noised
                before they are denoised, which varies them; 1 draws from noise.

        Returns:
            A batch of ``image``, digital numbers not yet rounded, and ``mask`` (see
            :meth:`Codec.decode`).

        Raises:
            ValueError: If a setting is out of range or the codec has no mask stream.
        """
        asked = {'sampler': sampler, 'steps': steps, 'clip': clip}
        settings = {'clip': None, **self.config['sampling']}
        settings |= {name: value for name, value in asked.items() if value is not None}
        self._check_numbers(indices, seed, settings['sampler'], settings['steps'])
        self._check_given(given, len(indices), strength)
        device = self.process.signal.device
        clean, (height, width) = None, self.config['patch_size']
        if given is not None:
            given = {key: value.to(device) for key, value in given.items()}
            height, width = given['mask'].shape[-2:]
            image = given['image'] if strength < 1 else None
            if image is None:
                image = self.codec.blank_image(given['mask'])
            clean = self.codec.encode({'image': image, 'mask': given['mask']}).float()
        size = self.codec.latent_size(height, width)

        def noise(step: int) -> Tensor:
            streams = self.process.streams
            return sample_noise(seed, indices, streams, size, step).to(device)

        latent = self._denoise(noise, clean, settings, strength)
        sample = self.codec.decode(latent)
        if given is not None:
            sample['mask'] = given['mask'].reshape(sample['mask'].shape).clone()
        return sample

    def _denoise(
        self,
        noise: Callable[[int], Tensor],
        clean: Tensor | None,
        settings: Mapping[str, Any],
        strength: float,
    ) -> Tensor:
        """Run the sampler on all streams that are not given.

        Args:
            noise: Fresh noise (B, D, h, w) for each step; 0 is the one to begin with.
            clean: Latents of given samples, or None.
            settings: ``sampler``, ``steps`` and ``clip``.
            strength: Share of the way from clean to noise that given images are noised.

        Returns:
            Latents (B, D, h, w).
        """
        sampler, clip = settings['sampler'], settings['clip']
        scale = self.process.signal_scale
        solver = make_solver(
            sampler, settings['steps'], strength, self.process.schedule
        )
        state = noise(0)
        if clean is not None and strength < 1:
            start = self._times(state, int(solver.timesteps[0]) + 1, None)
            state = self.process.add_noise(clean, state, start)
        for step, moment in enumerate(solver.timesteps, start=1):
            # diffusers counts from the least noise; here 0 is a clean latent
            times = self._times(state, int(moment) + 1, clean)
            state = self._keep_mask(state, clean)
            visible = self.process.network_input(state, times)
            output = self.denoiser(visible, times).float()
            estimate = self.process.clean_estimate(output, state, times)
            if clip is not None:
                estimate = estimate.clamp(-clip, clip)
            fresh = noise(step) if sampler in STOCHASTIC else None
            (state,) = solver.step(
                estimate * scale, moment, state, variance_noise=fresh, return_dict=False
            )
        return self._keep_mask(state, clean) / scale

    def _keep_mask(self, state: Tensor, clean: Tensor | None) -> Tensor:
        """Put the latents of given masks back, in units of the signal scale."""
        if clean is None:
            return state
        state = state.clone()
        mask = self.process.streams['mask']
        state[:, mask] = clean[:, mask] * self.process.signal_scale
        return state

    def _times(self, state: Tensor, time: int, clean: Tensor | None) -> Tensor:
        """Times (B, S): all equal, but 0 for a given mask."""
        streams = list(self.process.streams)
        times = torch.full((len(state), len(streams)), time, device=state.device)
        if clean is not None:
            times[:, streams.index('mask')] = 0
        return times

    def _check_numbers(
        self, indices: Sequence[int], seed: int, sampler: Sampler, steps: int
    ) -> None:
        if not indices or min(indices) < 0 or not 0 <= seed < SEED_LIMIT:
            raise ValueError(
                f'indices={list(indices)[:5]} must name one sample or more, from 0 on, '
                f'and seed={seed} be 0 or more and below {SEED_LIMIT}.'
            )
        if sampler not in get_args(Sampler) or not 1 <= steps <= self.process.num_steps:
            raise ValueError(
                f'sampler={sampler!r} must be one of {get_args(Sampler)} and '
                f'steps={steps} lie in 1..{self.process.num_steps}. 20 steps of sde '
                'are nearly as good as 1000 of ddpm.'
            )

    def _check_given(self, given: Sample | None, count: int, strength: float) -> None:
        """Refuse given samples that this generator can do nothing with."""
        varies = given is not None and 'image' in given
        if not 0 < strength <= 1 or (strength < 1 and not varies):
            raise ValueError(
                f'strength={strength} must lie in 0..1 without 0, and below 1 it needs '
                'samples to vary. Use 0.6 with vary.'
            )
        if given is None:
            return
        if len(given['mask']) != count:
            raise ValueError(
                f'{len(given["mask"])} samples are given for {count} indices. Give one '
                'for each.'
            )
        if 'mask' not in self.process.streams:
            raise ValueError(
                f'The {self.codec.name} codec has no stream of its own for the mask, '
                'so it cannot be kept. Train a two_stream or pixels generator.'
            )
        if not self.process.independent:
            raise ValueError(
                'This generator was trained with process.independent=0, so it has '
                'never seen a given mask and would paint noise around it. Train with '
                'settings: {two_stream: {process: {independent: 0.5}}}.'
            )
