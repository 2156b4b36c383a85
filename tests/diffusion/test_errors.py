# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.diffusion.oracle import COVARIANCE, MEAN, OracleDenoiser
from torchgeo_specdm.diffusion import JointProcess
from torchgeo_specdm.diffusion.errors import (
    ERRORS,
    LEVELS,
    DenoisingErrors,
    plain_errors,
    read_errors,
)

STREAMS = {'image_1': slice(0, 1), 'image_2': slice(1, 2), 'mask': slice(2, 3)}


def latents(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 8, 8, 3, generator=random)
    root = torch.linalg.cholesky(COVARIANCE)
    return (white @ root.T + MEAN).movedim(-1, 1)


class Nothing(nn.Module):
    """A network that says 0."""

    def forward(self, visible: Tensor, times: Tensor) -> Tensor:
        return torch.zeros_like(visible)


def measure(
    process: JointProcess, denoiser: nn.Module, count: int = 200
) -> DenoisingErrors:
    errors = DenoisingErrors(STREAMS)
    # as in a validation in half precision
    with torch.autocast('cpu', torch.bfloat16):
        for first in range(0, count, 50):
            errors.update(process, denoiser, latents(50, first), first)
    return errors


@pytest.mark.parametrize('prediction', ['epsilon', 'v', 'sample'])
def test_the_best_network_is_the_linear_estimate_of_gaussian_latents(
    prediction: str,
) -> None:
    process = JointProcess(STREAMS, prediction)  # type: ignore[arg-type]
    found = measure(process, OracleDenoiser(process)).compute()
    assert found.keys() == STREAMS.keys()
    for number, (stream, errors) in enumerate(found.items()):
        known = errors.network.isfinite()
        assert known.sum() >= 5
        torch.testing.assert_close(
            errors.network[known], errors.linear[known], rtol=0.15, atol=1e-3
        )
        # never worse than the noisy latents, nor than the mean
        assert (errors.linear[known] < errors.noisy[known]).all(), stream
        assert (errors.linear[known] <= 1.05 * COVARIANCE[number, number]).all()


def test_noisy_latents_have_the_error_of_their_level() -> None:
    process = JointProcess(STREAMS, 'sample')
    found = measure(process, Nothing()).compute()['image_1']
    for level, noisy, network in zip(LEVELS, found.noisy, found.network, strict=True):
        if noisy.isfinite() and abs(level) < 6:
            assert math.exp(-level - 1) <= float(noisy) <= math.exp(-level + 1)
            # 0 is as far off as the latents are large
            size = float(COVARIANCE[0, 0] + MEAN[0] ** 2)
            assert float(network) == pytest.approx(size, rel=0.15)


def test_a_smaller_signal_scale_is_more_noise() -> None:
    counts = [
        measure(JointProcess(STREAMS, 'sample', signal_scale=scale), Nothing()).counts
        for scale in (1.0, 0.35)
    ]
    middle = [
        float((count.sum(1) * torch.arange(7)).sum() / count.sum()) for count in counts
    ]
    # the log of the squared scale is 2.1, a level is 2
    assert middle[1] < middle[0] - 0.5


def test_cells_that_are_not_known_do_not_count() -> None:
    process = JointProcess(STREAMS, 'v')
    denoiser = OracleDenoiser(process)
    coverage = torch.ones(50, 3, 8, 8)
    coverage[:, 1, :4] = 0
    found = []
    for filling in (0.0, 5.0):
        errors = DenoisingErrors(STREAMS)
        for first in range(0, 200, 50):
            latent = latents(50, first)
            latent[:, 1, :4] = filling
            errors.update(process, denoiser, latent, first, coverage)
        found.append(errors.compute())
    for (name, one), other in zip(found[0].items(), found[1].values(), strict=True):
        torch.testing.assert_close(one.linear, other.linear, equal_nan=True)
        if name == 'image_2':
            known = one.network.isfinite()
            torch.testing.assert_close(one.network[known], other.network[known])
            torch.testing.assert_close(
                one.network[known], one.linear[known], rtol=0.2, atol=2e-3
            )


def test_processes_add_up_and_go_to_json() -> None:
    process = JointProcess(STREAMS, 'v')
    whole, parts = (
        DenoisingErrors(STREAMS),
        [DenoisingErrors(STREAMS) for _ in range(2)],
    )
    denoiser = OracleDenoiser(process)
    for first, part in zip((0, 50), parts, strict=True):
        for errors in (whole, part):
            errors.update(process, denoiser, latents(50, first), first)
    parts[0].merge_state(parts[1])
    left, right = (plain_errors(errors.compute()) for errors in (whole, parts[0]))
    assert json.loads(json.dumps(left)).keys() == STREAMS.keys()
    for stream in STREAMS:
        lengths = {len(values) for values in left[stream].values()}
        assert len(lengths) == 1
        for name, values in left[stream].items():
            assert values == pytest.approx(right[stream][name])


def test_a_folder_without_errors_has_none(tmp_path: Path) -> None:
    assert read_errors(tmp_path) == {}
    (tmp_path / ERRORS).write_text('{"mask": {"network": ["much"]}}')
    with pytest.raises(ValueError, match=r'denoising\.json'):
        read_errors(tmp_path)
