# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The noising process with a time for each stream, and what the network predicts."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..codecs import by_channel
from .cases import JOINT, Cases, Role
from .labels import LabelCodes
from .noise import SEED_LIMIT, sample_noise

Prediction = Literal['epsilon', 'v', 'sample']

_GOLDEN = 0.6180339887498949
#: The run seed of validation noise, which no generation can have by accident.
_VALIDATION_SEED = SEED_LIMIT


class JointProcess(nn.Module):
    """Variance-preserving diffusion over streams of one latent.

    Time 0 is the clean latent and time T is noise. Each stream has its own time; with
    all equal this is SpecDM as published. The schedule is the one called "linear" by
    LDM, which is linear in the root of beta (docs/notes/diffusion.md).

    Args:
        streams: Channels of each stream.
        prediction: Output of the network: ``epsilon`` (as published), ``v``, or the
            clean ``sample``.
        cases: Share of training samples of each of :class:`Cases`, in which streams
            are given, drawn or absent; all streams are drawn together if None.
        signal_scale: Latents are multiplied by this before noise is added. Below 1
            there is more noise at every time, the first ones included, which then show
            less detail (docs/notes/diffusion.md).
        num_steps: Number of times T.
        beta_start: First beta of the schedule.
        beta_end: Last beta of the schedule.
        categorical: Whether the network's output for the mask scores classes, which
            are learned by cross-entropy, rather than numbers by squared errors.
        labels: Codes of the classes, which *categorical* needs.

    Raises:
        ValueError: If *prediction* is unknown, a number is out of range, or masks
            cannot be learned as classes.
    """

    signal: Tensor

    # but for two that the codec tells, a setting of the presets each
    def __init__(
        self,
        streams: dict[str, slice],
        prediction: Prediction = 'epsilon',
        cases: Mapping[str, float] | None = None,
        signal_scale: float = 1.0,
        num_steps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0155,
        categorical: bool = False,
        labels: LabelCodes | None = None,
    ) -> None:
        """Compute the schedule."""
        super().__init__()
        if prediction not in get_args(Prediction):
            raise ValueError(
                f'prediction={prediction!r} must be one of {get_args(Prediction)}. '
                'Use v for learned codecs and sample for pixels.'
            )
        if not 0 < signal_scale <= 1:
            raise ValueError(
                f'signal_scale={signal_scale} must lie in 0..1 without 0. Use 1 for '
                'the noise as published.'
            )
        if categorical and labels is None:
            raise ValueError(
                'categorical=True needs a codec that holds masks as label bits, such as '
                'pixels. Set categorical: false.'
            )
        if categorical and prediction != 'sample':
            raise ValueError(
                f'prediction={prediction!r} must be sample where masks are learned as '
                'classes. Set categorical: false, or prediction: sample.'
            )
        self.streams = streams
        self.labels = labels if categorical else None
        self.prediction = prediction
        self.cases = Cases(cases or {JOINT: 1.0}, streams)
        self.signal_scale = signal_scale
        self.num_steps = num_steps
        #: Arguments that a diffusers scheduler needs for the same schedule.
        self.schedule: dict[str, Any] = {
            'num_train_timesteps': num_steps,
            'beta_start': beta_start,
            'beta_end': beta_end,
            'beta_schedule': 'scaled_linear',
        }
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps)
        products = (1 - roots.square()).cumprod(0)
        # time 0 is clean, so that a given mask can be told from a nearly clean one
        products = torch.cat([products.new_ones(1), products])
        self.register_buffer('signal', products.sqrt(), persistent=False)

    def draw_times(
        self, count: int, labelled: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Random times for training.

        Args:
            count: Number of samples B.
            labelled: Whether each sample has labels, bool (B,); all have if None.

        Returns:
            Times, int64 (B, S) for S streams: 0 of a given stream, T of an absent one,
            and one time from 1 to T for all that are drawn; and whether each stream is
            drawn, bool (B, S).
        """
        device = self.signal.device
        roles = self.cases.draw(count, labelled)
        times = torch.randint(1, self.num_steps + 1, (count, 1), device=device)
        times = times.where(roles != Role.GIVEN, 0)
        drawn = roles == Role.DRAWN
        return times.where(roles != Role.ABSENT, self.num_steps), drawn

    def spread_times(self, first: int, count: int) -> Tensor:
        """Evenly spread times for validation, equal for all streams.

        They follow a golden-ratio sequence, so that any run of samples covers all
        times, however the samples are put into batches.

        Args:
            first: Number of the first sample.
            count: Number of samples B.

        Returns:
            Times in 1..T, int64 (B, S).
        """
        numbers = torch.arange(first, first + count, dtype=torch.float64) + 0.5
        times = (numbers * _GOLDEN % 1 * self.num_steps).long() + 1
        return times[:, None].expand(-1, len(self.streams)).to(self.signal.device)

    def add_noise(self, latent: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Noise each stream to its time.

        Args:
            latent: Standardised latents (B, D, h, w).
            noise: Standard normal, of the same shape.
            times: (B, S).

        Returns:
            Noisy latents (B, D, h, w), in units of the signal scale.
        """
        alpha, sigma = self._levels(times)
        return alpha * self.signal_scale * latent + sigma * noise

    def network_input(self, noisy: Tensor, times: Tensor) -> Tensor:
        """Noisy latents brought to variance one."""
        alpha, sigma = self._levels(times)
        return noisy / ((alpha * self.signal_scale).square() + sigma.square()).sqrt()

    def denoising_losses(
        self,
        denoiser: nn.Module,
        latent: Tensor,
        noise: Tensor,
        times: Tensor,
        coverage: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Noise latents, let a network predict, and score it.

        Args:
            denoiser: Network that takes noisy latents of variance one and times.
            latent: Standardised latents (B, D, h, w).
            noise: Standard normal, of the same shape.
            times: (B, S).
            coverage: Known share of each cell and stream (see :meth:`Codec.coverage`);
                None if all is known.

        Returns:
            As :meth:`loss`.
        """
        noisy = self.add_noise(latent, noise, times)
        output = denoiser(self.network_input(noisy, times), times).float()
        return self.loss(output, latent, noise, times, coverage)

    def training_losses(
        self, denoiser: nn.Module, latent: Tensor, coverage: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of random cases, at random times and with random noise.

        A sample whose mask has no known cell takes part with its mask absent. The
        network sees noise alone in place of an absent stream.

        Args:
            denoiser: Network that takes noisy latents of variance one and times.
            latent: Standardised latents (B, D, h, w).
            coverage: Known share of each cell and stream (see :meth:`Codec.coverage`);
                None if all is known.

        Returns:
            As :meth:`loss`.
        """
        labelled = None
        if coverage is not None and 'mask' in self.streams:
            mask = list(self.streams).index('mask')
            labelled = coverage[:, mask].flatten(1).any(1)
        times, drawn = self.draw_times(len(latent), labelled)
        learned = drawn[..., None, None] * (1.0 if coverage is None else coverage)
        seen = by_channel(self.streams, drawn | (times == 0))[..., None, None]
        noise = torch.randn_like(latent)
        return self.denoising_losses(denoiser, latent * seen, noise, times, learned)

    def validation_losses(
        self,
        denoiser: nn.Module,
        latent: Tensor,
        first: int,
        coverage: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses at fixed times and with fixed noise: they differ by weights alone.

        Args:
            denoiser: Network that takes noisy latents of variance one and times.
            latent: Standardised latents (B, D, h, w).
            first: Number of the first sample of the batch.
            coverage: Known share of each cell and stream (see :meth:`Codec.coverage`);
                None if all is known.

        Returns:
            As :meth:`loss`.
        """
        count, (height, width) = len(latent), latent.shape[-2:]
        numbers = range(first, first + count)
        noise = sample_noise(_VALIDATION_SEED, numbers, self.streams, (height, width))
        times = self.spread_times(first, count)
        return self.denoising_losses(
            denoiser, latent, noise.to(latent), times, coverage
        )

    def loss(
        self,
        output: Tensor,
        latent: Tensor,
        noise: Tensor,
        times: Tensor,
        coverage: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean squared error of the prediction, over what is noised and known.

        The clean sample is weighted as ``v`` would be, with (SNR + 1). Masks that are
        learned as classes have their cross-entropy instead, equally weighted at all
        times.

        Args:
            output: Output of the network (B, D, h, w).
            latent: The clean latents.
            noise: The noise that was added.
            times: (B, S).
            coverage: Weight of each cell and stream in 0..1 (B, S, h, w), its known
                share (see :meth:`Codec.coverage`); None for 1 everywhere.

        Returns:
            ``loss`` and ``loss_<stream>`` for each stream, scalars; 0 where nothing is
            known.
        """
        error = self._error(output, latent, noise, times)
        weights = (self.signal[times] < 1).to(error)[..., None, None]
        weights = weights.expand(*times.shape, *error.shape[-2:])
        if coverage is not None:
            weights = weights * coverage
        sums, counts = [], []
        for known, (stream, channels) in zip(
            weights.unbind(1), self.streams.items(), strict=True
        ):
            if self.labels is not None and stream == 'mask':
                squares = self.labels.cross_entropy(
                    output[:, channels], latent[:, channels]
                )
            else:
                squares = error[:, channels].square()
            # channels of a cell share its weight, so they are summed first
            sums.append((squares.sum(1) * known).sum())
            counts.append(known.sum() * squares.shape[1])
        losses = {'loss': _ratio(torch.stack(sums).sum(), torch.stack(counts).sum())}
        for stream, total, count in zip(self.streams, sums, counts, strict=True):
            losses[f'loss_{stream}'] = _ratio(total, count)
        return losses

    def clean_estimate(self, output: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """The clean latents that a network output stands for.

        Args:
            output: Output of the network (B, D, h, w).
            noisy: Noisy latents from :meth:`add_noise`.
            times: (B, S), above 0 where the estimate is used.

        Returns:
            Standardised latents (B, D, h, w).
        """
        if self.labels is not None:
            output, bits = output.clone(), self.streams['mask']
            output[:, bits] = self.labels.expected(output[:, bits])
        if self.prediction == 'sample':
            return output
        alpha, sigma = self._levels(times)
        if self.prediction == 'epsilon':
            clean = (noisy - sigma * output) / alpha
        else:
            clean = alpha * noisy - sigma * output
        return clean / self.signal_scale

    def _error(
        self, output: Tensor, latent: Tensor, noise: Tensor, times: Tensor
    ) -> Tensor:
        """Error of the prediction (B, D, h, w), in the weight that it is learned with."""
        alpha, sigma = self._levels(times)
        if self.prediction == 'epsilon':
            return output - noise
        if self.prediction == 'v':
            return output - (alpha * noise - sigma * self.signal_scale * latent)
        # a given stream has sigma 0 and is not learned; any divisor does
        return (output - latent) * (self.signal_scale / sigma.where(sigma > 0, 1.0))

    def _levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level of each channel, both (B, D, 1, 1)."""
        alpha = by_channel(self.streams, self.signal[times])[..., None, None]
        return alpha, (1 - alpha.square()).clamp(min=0).sqrt()


def _ratio(total: Tensor, count: Tensor) -> Tensor:
    """A sum over a number of elements; 0 without any."""
    return total / count.where(count > 0, 1)
