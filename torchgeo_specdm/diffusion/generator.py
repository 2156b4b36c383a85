# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A trained generator: codec, process and denoiser, and how to draw from them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, get_args

import torch
from pydantic import Field, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from ..codecs import Codec, FoldedCodec, Sample, load_codec, load_state, save_codec
from ..codecs.windows import in_windows
from ..files import OPEN, Finite, Positive, Settings, read_config, save_module
from ..pairs.fingerprint import read_seen_samples
from .cases import Role, case_name
from .denoiser import JointDenoiser
from .given import (
    by_stream,
    cells_of,
    encode_parts,
    put_back,
    require_parts,
    require_streams,
    without_condition,
)
from .labels import LabelCodes
from .noise import SEED_LIMIT, sample_noise
from .process import JointProcess
from .sharing import Shared
from .solver import STOCHASTIC, Sampler, advance, make_solver

#: Draw all streams together, or masks by themselves and then images for them.
Order = Literal['joint', 'mask_first']

#: Pixels of a side of a patch.
Side = Annotated[int, Field(ge=1, le=65_536)]


@with_config(OPEN)
class Sampling(TypedDict):
    """The way that samples are drawn where nothing else is said."""

    sampler: Sampler
    steps: Positive
    clip: NotRequired[Finite | None]
    guidance: NotRequired[Finite]
    order: NotRequired[Order]


@with_config(OPEN)
class GeneratorConfig(TypedDict):
    """Content of ``config.json`` of stage 2."""

    process: Settings
    denoiser: Settings
    sampling: Sampling
    patch_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    prior: NotRequired[str]
    training: NotRequired[dict[str, Any]]


class Generator(nn.Module, Shared):
    """Draws labelled samples.

    >>> generator = Generator.load('runs/demo/diffusion')
    >>> pairs = generator.sample(indices=[0, 1, 2], seed=0)

    ``push_to_hub('user/name')`` and ``Generator.from_pretrained('user/name')`` share it
    (see huggingface_hub.ModelHubMixin).

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
        self.seen = set()

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
            labels, fold = None, 1
            if isinstance(codec, FoldedCodec):
                labels, fold = LabelCodes(codec.codes, codec.factor), codec.factor
            process = JointProcess(codec.streams, **config['process'], labels=labels)
            # streams that never differ in time share one, as published
            times = len(codec.streams) if process.cases.separate else 1
            denoiser = JointDenoiser(
                codec.latent_channels, times, fold=fold, **config['denoiser']
            )
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
        generator.seen = read_seen_samples(folder)
        return generator.eval().requires_grad_(False)

    def save(self, folder: str | Path) -> None:
        """Write ``codec/``, ``model.safetensors`` and ``config.json``."""
        save_codec(self.codec, Path(folder) / 'codec')
        save_module(Path(folder), self.config, self.denoiser)

    # eleven parameters: which samples, how they are drawn, and what is given of them
    @torch.no_grad()
    def sample(
        self,
        indices: Sequence[int],
        seed: int,
        sampler: Sampler | None = None,
        steps: int | None = None,
        clip: float | None = None,
        guidance: float | None = None,
        given: Sample | None = None,
        start: Sample | None = None,
        strength: float = 1.0,
        inside: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> dict[str, Tensor]:
        """Draw samples; each is a function of (seed, index), size and the settings.

        Settings of the sampler that are None are those of ``config['sampling']``.
        Samples larger than the patches of training are drawn as one seamless scene
        (see :func:`.in_windows`), of any size from the patch up. Where nothing is
        given and the ``order`` of the settings is ``mask_first``, masks are drawn by
        themselves, and then images for them.

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
            guidance: Strength, 0 or more, with which a given mask, or another given
                part where no mask is, is followed beyond what the network says: its
                estimate moves that many times further away from the one without it.
            given: Parts of samples that are kept, for which the rest is drawn:
                ``mask``, ``image`` of all dates, or ``image_1`` to ``image_T``, in
                digital numbers. Training must have had a case for it.
            start: Parts of samples that are noised and then denoised, which varies
                them; needs all that is drawn, and *strength* below 1.
            strength: Share of the way to noise that *start* is noised; 1 draws from
                noise.
            inside: Pixels to draw, bool (B, H, W); the others stay those of *start*,
                equal to the bit, and are seen by the network while it draws.
            size: Height and width in pixels where nothing is given; those of the
                patches of training if None.

        Returns:
            A batch of ``image``, digital numbers not yet rounded, and ``mask`` (see
            :meth:`Codec.decode`); what is given, equal to the bit.

        Raises:
            ValueError: If a setting is out of range, the samples are smaller than the
                patches of training, or the generator was not trained for what is given.
        """
        asked = {'sampler': sampler, 'steps': steps, 'clip': clip, 'guidance': guidance}
        settings = self._settings(indices, seed, asked) | {'strength': strength}
        if settings['order'] == 'mask_first' and not (given or start):
            mask = self.sample_masks(indices, seed, sampler, steps, clip, size)
            given = {'mask': mask}
        device, spec = self.process.signal.device, self.codec.spec
        kept = by_stream(given or {}, spec, device)
        varied = by_stream(start or {}, spec, device)
        require_parts(
            kept, varied, self.codec, len(indices), strength, inside is not None
        )
        roles = {s: Role.GIVEN if s in kept else Role.DRAWN for s in self.codec.streams}
        self._check_roles(roles, settings['guidance'])
        clean = region = None
        if parts := {**kept, **varied}:
            shape, patch = next(iter(parts.values())).shape, self.config['patch_size']
            size = shape[-2], shape[-1]
            self._check_size(*size)
            clean = encode_parts(parts, self.codec, (patch[0], patch[1]))
        if inside is not None:
            region = cells_of(inside.to(device), self.codec.factor)
        sample = self._draw(indices, seed, settings, roles, size, clean, region)
        if inside is not None:
            sample = put_back(varied, sample, inside.to(device))
        return put_back(kept, sample)

    @torch.no_grad()
    def sample_masks(
        self,
        indices: Sequence[int],
        seed: int,
        sampler: Sampler | None = None,
        steps: int | None = None,
        clip: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Draw masks by themselves, each the one that ``mask_first`` begins with.

        Args:
            indices: Number of each mask, 0 or more.
            seed: Seed of the run, from 0 to 2**63 - 1.
            sampler: Name of the sampler (see :meth:`sample`).
            steps: Number of denoising steps.
            clip: Standard deviations to clip the estimate of the clean latent to.
            size: Height and width in pixels; those of the patches of training if None.

        Returns:
            Class positions, int64 (B, H, W), or (B, 1, H, W) with several dates.

        Raises:
            ValueError: If a setting is out of range, the masks are smaller than the
                patches of training, or the generator was not trained to draw them.
        """
        asked = {'sampler': sampler, 'steps': steps, 'clip': clip, 'guidance': 0.0}
        settings = self._settings(indices, seed, asked) | {'strength': 1.0}
        self.require_masks()
        roles = dict.fromkeys(self.codec.streams, Role.ABSENT) | {'mask': Role.DRAWN}
        return self._draw(indices, seed, settings, roles, size)['mask']

    def require_masks(self) -> None:
        """Refuse to draw masks by themselves, and then images for them.

        Raises:
            ValueError: If the codec has no stream of masks, or training no such case.
        """
        require_streams({'mask'}, self.codec)
        streams = self.codec.streams
        masks = dict.fromkeys(streams, Role.ABSENT) | {'mask': Role.DRAWN}
        images = dict.fromkeys(streams, Role.DRAWN) | {'mask': Role.GIVEN}
        self._check_roles(masks, 0.0)
        self._check_roles(images, self.config['sampling'].get('guidance', 0.0))

    def _settings(
        self, indices: Sequence[int], seed: int, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Settings of the sampler, and those asked for that are not None, in range."""
        settings: dict[str, Any] = {'clip': None, 'guidance': 0.0, 'order': 'joint'}
        settings |= self.config['sampling']
        settings |= {name: value for name, value in asked.items() if value is not None}
        self.require_sampling(settings)
        if not indices or min(indices) < 0 or not 0 <= seed < SEED_LIMIT:
            raise ValueError(
                f'indices={list(indices)[:5]} must name one sample or more, from 0 on, '
                f'and seed={seed} be 0 or more and below {SEED_LIMIT}.'
            )
        return settings

    def _draw(
        self,
        indices: Sequence[int],
        seed: int,
        settings: Mapping[str, Any],
        roles: Mapping[str, Role],
        size: tuple[int, int] | None,
        clean: Tensor | None = None,
        region: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Denoise, decode, and crop (see :meth:`_denoise`)."""
        height, width = self._check_size(*(size or self.config['patch_size']))
        # whole cells, to be cropped in the end
        cells = -(-height // self.codec.factor), -(-width // self.codec.factor)
        device, streams = self.process.signal.device, self.process.streams

        def noise(step: int) -> Tensor:
            return sample_noise(seed, indices, streams, cells, step).to(device)

        latent = self._denoise(noise, clean, roles, settings, region)
        sample = self.codec.decode(latent, self._window)
        return {k: v[..., :height, :width] for k, v in sample.items()}

    def _denoise(
        self,
        noise: Callable[[int], Tensor],
        clean: Tensor | None,
        roles: Mapping[str, Role],
        settings: Mapping[str, Any],
        region: Tensor | None = None,
    ) -> Tensor:
        """Run the sampler on all streams that are drawn; absent ones stay noise.

        Args:
            noise: Fresh noise (B, D, h, w) for each step; 0 is the one to begin with.
            clean: Latents with those of given parts, and of those to start from; it is
                changed.
            roles: Role of each stream.
            settings: ``sampler``, ``steps``, ``clip``, ``guidance``, and ``strength``,
                the share of the way from clean to noise to start at.
            region: Cells to draw, bool (B, 1, h, w); all if None.

        Returns:
            Latents (B, D, h, w).
        """
        sampler, clip, guidance, strength = (
            settings[name] for name in ('sampler', 'clip', 'guidance', 'strength')
        )
        scale, schedule = self.process.signal_scale, self.process.schedule
        state = noise(0)
        solvers = [
            make_solver(sampler, settings['steps'], strength, schedule)
            for _ in range(0, state.shape[-2], self._window[0])
        ]
        moments = solvers[0].timesteps
        free = without_condition(roles)
        blind = bool(guidance) and free != roles
        # a scene may fill much of the memory, so what is needed no more is not kept
        repeated = region is not None or blind or Role.ABSENT in roles.values()
        first = state.clone() if repeated else None
        if clean is not None:
            clean *= scale
            if strength < 1:
                begun = self._times(roles, len(state), int(moments[0]) + 1)
                state = self.process.add_noise(clean / scale, state, begun)
        for step, moment in enumerate(moments, start=1):
            # diffusers counts from the least noise; here 0 is a clean latent
            time = int(moment) + 1
            if region is not None and clean is not None and first is not None:
                times = self._times(roles, len(state), time)
                seen = self.process.add_noise(clean / scale, first, times)
                state = state.where(region, seen)
            self._fill(state, clean, roles, Role.GIVEN)
            self._fill(state, first, roles, Role.ABSENT)
            estimate = self._estimate(state, roles, time)
            if blind:
                unled = self._fill(state.clone(), first, free, Role.ABSENT)
                away = estimate - self._estimate(unled, free, time)
                estimate = estimate + guidance * away
            if clip is not None:
                estimate = estimate.clamp(-clip, clip)
            estimate = estimate * scale
            fresh = noise(step) if sampler in STOCHASTIC else None
            advance(solvers, moment, state, estimate, fresh)
        return self._fill(state, clean, roles, Role.GIVEN).div_(scale)

    def _estimate(self, state: Tensor, roles: Mapping[str, Role], time: int) -> Tensor:
        """The clean latents (B, D, h, w) that the network sees in noisy ones."""

        def network(state: Tensor, times: Tensor) -> Tensor:
            visible = self.process.network_input(state, times)
            output = self.denoiser(visible, times).float()
            return self.process.clean_estimate(output, state, times)

        times = self._times(roles, len(state), time)
        return in_windows(network, [state], self._window, conditions=[times])

    def _fill(
        self,
        state: Tensor,
        values: Tensor | None,
        roles: Mapping[str, Role],
        role: Role,
    ) -> Tensor:
        """Put values into the streams of a role, in place."""
        for stream, own in roles.items():
            if own == role and values is not None:
                channels = self.process.streams[stream]
                state[:, channels] = values[:, channels]
        return state

    def _times(self, roles: Mapping[str, Role], count: int, time: int) -> Tensor:
        """Times (B, S): 0 for a given stream, T for an absent one."""
        by_role = {Role.GIVEN: 0, Role.DRAWN: time, Role.ABSENT: self.process.num_steps}
        row = [by_role[role] for role in roles.values()]
        return torch.tensor([row], device=self.process.signal.device).repeat(count, 1)

    @property
    def _window(self) -> tuple[int, int]:
        """Height and width in cells of the latents that the denoiser has learned."""
        return self.codec.latent_size(*self.config['patch_size'])

    def _check_size(self, height: int, width: int) -> tuple[int, int]:
        """Refuse samples that are smaller than what the denoiser has learned."""
        patch = self.config['patch_size']
        if height < patch[0] or width < patch[1]:
            raise ValueError(
                f'Samples of {height} x {width} pixels are asked for, but this '
                f'generator has learned patches of {patch[0]} x {patch[1]}: draw these, '
                'or any larger size.'
            )
        return height, width

    def require_sampling(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings of the sampler that are out of range.

        Args:
            settings: ``sampler``, ``steps`` and maybe ``guidance``.

        Raises:
            ValueError: With the first of them.
        """
        sampler, steps = settings['sampler'], settings['steps']
        if sampler not in get_args(Sampler) or not 1 <= steps <= self.process.num_steps:
            raise ValueError(
                f'sampler={sampler!r} must be one of {get_args(Sampler)} and '
                f'steps={steps} lie in 1..{self.process.num_steps}. 20 steps of sde '
                'are nearly as good as 1000 of ddpm.'
            )
        guidance = settings.get('guidance', 0.0)
        if not 0 <= guidance < float('inf'):
            raise ValueError(
                f'guidance={guidance} must be 0 or more, where 0 follows '
                'what is given as the network says. Use 1 for a stronger pull.'
            )

    def _check_roles(self, roles: Mapping[str, Role], guidance: float) -> None:
        """Refuse what the network has not seen in training."""
        cases = self.process.cases
        needed = [roles, *([without_condition(roles)] if guidance else [])]
        for wanted in needed:
            if not cases.knows([*wanted.values()]):
                case = case_name(wanted)
                raise ValueError(
                    f'This generator was never trained on {case}, only on '
                    f'{", ".join(cases.known)}. Train with settings: {{'
                    f'{self.codec.name}: {{process: {{cases: {{{case}: 0.2, ...}}}}}}}}.'
                )
