# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Errors of a denoiser by level of noise, beside what needs no network."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ..codecs import by_channel
from ..files import read_json
from .noise import SEED_LIMIT, sample_noise
from .process import JointProcess

#: File in the folder of a generator.
ERRORS = 'denoising.json'
#: Edges of the levels of noise, in log signal-to-noise ratio, and steps within one.
_EDGES = (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0)
#: Middle of each level; the outermost have no end.
LEVELS = (-6, -4, -2, 0, 2, 4, 6)
_LOWEST, _HIGHEST, _STEP = -12.0, 12.0, 0.25
#: The run seed of this noise, which no generation can have by accident.
_SEED = SEED_LIMIT


class StreamErrors(NamedTuple):
    """Mean squared errors of the clean latents of a stream, of variance about one.

    Attributes:
        network: Error of the network's estimate at each of :data:`LEVELS`, float64
            (7,).
        noisy: Error of the noisy latents over their signal level.
        linear: Error of the best linear estimate from the channels of one place.
    """

    network: Tensor
    noisy: Tensor
    linear: Tensor


class DenoisingErrors(Metric):
    """Errors of a denoiser by stream and by level of noise.

    The loss of training is a mean over all levels, and weighted: it hides that an
    estimate may be worse than the noisy latents themselves. The best linear estimate
    follows in closed form from the covariance of the channels (the Wiener filter), so
    it is what a network of one 1x1 convolution for each level would reach.

    All streams have the same level of noise here. Levels without a sample are NaN. Cells
    count by the share of them that is known, in the covariance by that of the stream
    of which least is known.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    squares: Tensor
    seen: Tensor
    counts: Tensor
    moments: Tensor
    sums: Tensor
    places: Tensor

    def __init__(self, streams: dict[str, slice]) -> None:
        """Initialize a new DenoisingErrors instance.

        Args:
            streams: Channels of each stream.
        """
        super().__init__()
        self.streams = streams
        depth = max(channels.stop for channels in streams.values())
        steps = round((_HIGHEST - _LOWEST) / _STEP)
        shapes: dict[str, tuple[int, ...]] = {
            'squares': (depth, len(LEVELS)),
            'seen': (depth, len(LEVELS)),
            'counts': (len(LEVELS), steps),
            'moments': (depth, depth),
            'sums': (depth,),
            'places': (),
        }
        for name, shape in shapes.items():
            # in single precision: it goes along to devices that know no other
            self.add_state(name, torch.zeros(shape), dist_reduce_fx='sum')

    @torch.no_grad()
    def update(
        self,
        process: JointProcess,
        denoiser: nn.Module,
        latent: Tensor,
        first: int,
        coverage: Tensor | None = None,
    ) -> None:
        """Noise a batch at fixed levels, and let the network estimate it.

        Args:
            process: The process that the network was trained for.
            denoiser: Network that takes noisy latents of variance one and times.
            latent: Standardised latents (B, D, h, w).
            first: Number of the first sample of the batch, which fixes noise and times.
            coverage: Known share of each cell and stream (B, S, h, w); None if all is
                known.
        """
        numbers, (height, width) = range(first, first + len(latent)), latent.shape[-2:]
        noise = sample_noise(_SEED, numbers, self.streams, (height, width))
        times = process.spread_times(first, len(latent))
        noisy = process.add_noise(latent, noise.to(latent), times)
        output = denoiser(process.network_input(noisy, times), times).float()
        error = process.clean_estimate(output, noisy, times) - latent
        ratio = _log_snr(process, latent, times)
        level = torch.bucketize(ratio, torch.tensor(_EDGES).to(ratio))
        if coverage is None:
            coverage = latent.new_ones(len(latent), len(self.streams), height, width)
        weights = by_channel(self.streams, coverage)
        self.squares.index_add_(1, level, (weights * error.square()).sum((2, 3)).T)
        self.seen.index_add_(1, level, weights.sum((2, 3)).T)
        step = ((ratio - _LOWEST) / _STEP).long().clamp(0, self.counts.shape[1] - 1)
        ones = torch.ones_like(ratio)
        self.counts.index_put_((level, step), ones, accumulate=True)
        flat = latent.float().movedim(1, 0).flatten(1)
        known = coverage.amin(1).flatten().float()
        # half precision would lose the small components
        with torch.autocast(flat.device.type, enabled=False):
            self.moments += (known * flat) @ flat.T
        self.sums += (known * flat).sum(1)
        self.places += known.sum()

    def compute(self) -> dict[str, StreamErrors]:
        """Compute the errors of each stream."""
        squares, seen, counts, moments, sums, places = (
            state.cpu().double()
            for state in (
                self.squares,
                self.seen,
                self.counts,
                self.moments,
                self.sums,
                self.places,
            )
        )
        network = squares / seen
        places = places.where(places > 0, 1)
        covariance = moments / places - torch.outer(sums, sums) / places.square()
        values, vectors = torch.linalg.eigh(covariance)
        middles = _LOWEST + _STEP * (torch.arange(counts.shape[1]) + 0.5)
        snr = middles.double().exp()
        values = values.clamp(min=0)
        # of each channel at each step: what is left of each component
        linear = vectors.square() @ (values[:, None] / (1 + snr * values[:, None]))
        shares = counts / counts.sum(1, keepdim=True)
        noisy = shares @ (1 / snr)
        found = {}
        for name, channels in self.streams.items():
            estimate = shares @ linear[channels].mean(0)
            found[name] = StreamErrors(network[channels].mean(0), noisy, estimate)
        return found


def _log_snr(process: JointProcess, latent: Tensor, times: Tensor) -> Tensor:
    """Log signal-to-noise ratio of latents of variance one at times (B,)."""
    one, none = (
        torch.ones_like(latent[:, :, :1, :1]),
        torch.zeros_like(latent[:, :, :1, :1]),
    )
    signal = process.add_noise(one, none, times)[:, 0, 0, 0]
    sigma = process.add_noise(none, one, times)[:, 0, 0, 0]
    return 2 * (signal.log() - sigma.log())


def plain_errors(errors: dict[str, StreamErrors]) -> dict[str, Any]:
    """Turn errors into plain JSON types, levels without a sample left out.

    Args:
        errors: From :class:`DenoisingErrors`.

    Returns:
        Of each stream ``log_snr``, ``network``, ``noisy`` and ``linear``, lists.
    """
    found: dict[str, Any] = {}
    for stream, values in errors.items():
        known = values.network.isfinite().tolist()
        columns = {'log_snr': list(LEVELS)} | {
            name: part.tolist() for name, part in values._asdict().items()
        }
        found[stream] = {
            name: [x for x, there in zip(column, known, strict=True) if there]
            for name, column in columns.items()
        }
    return found


def read_errors(generator: Path) -> dict[str, dict[str, list[float]]]:
    """Read the errors that stage 2 wrote down of its last validation.

    Args:
        generator: Folder that stage 2 wrote.

    Returns:
        As :func:`plain_errors` gives them; empty if nothing was validated.

    Raises:
        ValueError: If the file is of another form.
    """
    path = generator / ERRORS
    if not path.exists():
        return {}
    return read_json(path, dict[str, dict[str, list[float]]])
