# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch import Tensor

from torchgeo_specdm.metrics.spectral import (
    lit_pixels,
    mean_spectral_angle,
    normalized_difference,
    spectral_angle,
)


def reference(a: Tensor, b: Tensor) -> Tensor:
    """The arc cosine, in double precision."""
    a, b = a.double(), b.double()
    cosine = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
    return cosine.clamp(-1, 1).arccos()


def reflectance(count: int = 1000, bands: int = 10, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, bands, generator=random) * 0.5 + 0.01


class TestSpectralAngle:
    def test_is_the_arc_cosine(self) -> None:
        a, b = reflectance(seed=0), reflectance(seed=1)
        found = spectral_angle(a, b)
        torch.testing.assert_close(
            found.double(), reference(a, b), rtol=1e-5, atol=1e-6
        )

    @pytest.mark.parametrize('level', [1e-3, 0.01, 0.3])
    def test_is_small_where_the_arc_cosine_is_not(self, level: float) -> None:
        # in float32 the arc cosine of identical spectra is 1e-4 to 5e-4
        a = reflectance(100_000) * level
        assert float(spectral_angle(a, a).max()) < 3e-6
        assert float(spectral_angle(a, a * 3).max()) < 1e-5

    def test_dark_and_bright_spectra_of_one_direction(self) -> None:
        a = reflectance()
        dark = a * 3e-3
        assert float(lit_pixels(dark).float().mean()) == 1
        assert float(spectral_angle(dark, a).max()) < 1e-5

    def test_known_angles(self) -> None:
        east = torch.tensor([[1.0, 0.0]])
        for degrees in (0.001, 1, 45, 90, 135, 180):
            radians = math.radians(degrees)
            other = torch.tensor([[math.cos(radians), math.sin(radians)]])
            found = float(spectral_angle(east, other))
            assert found == pytest.approx(radians, rel=1e-3, abs=3e-6)

    def test_any_dimension(self) -> None:
        a, b = torch.rand(2, 3, 10, 4, 5), torch.rand(2, 3, 10, 4, 5)
        found = spectral_angle(a, b, dim=2)
        assert found.shape == (2, 3, 4, 5)
        moved = spectral_angle(a.movedim(2, -1), b.movedim(2, -1), dim=-1)
        torch.testing.assert_close(found, moved)

    @pytest.mark.parametrize('case', ['zero', 'both zero', 'equal', 'opposite'])
    def test_value_and_gradient_are_finite(self, case: str) -> None:
        target = reflectance(4)
        start = {
            'zero': torch.zeros(4, 10),
            'both zero': torch.zeros(4, 10),
            'equal': target.clone(),
            'opposite': -target,
        }[case]
        if case == 'both zero':
            target = torch.zeros(4, 10)
        prediction = start.requires_grad_()
        angle = spectral_angle(prediction, target)
        assert bool(angle.isfinite().all())
        angle.sum().backward()
        assert prediction.grad is not None
        assert bool(prediction.grad.isfinite().all())

    def test_gradient_turns_towards_the_target(self) -> None:
        target = reflectance(8)
        prediction = reflectance(8, seed=1).requires_grad_()
        before = spectral_angle(prediction, target)
        before.sum().backward()
        assert prediction.grad is not None
        after = spectral_angle(prediction - 1e-3 * prediction.grad, target)
        assert bool((after < before).all())

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_is_float32_under_autocast(self, dtype: torch.dtype) -> None:
        a, b = reflectance(seed=0), reflectance(seed=1)
        full = spectral_angle(a, b)
        with torch.autocast('cpu', dtype):
            found = spectral_angle(a, b)
            half = spectral_angle(a.to(dtype), a.to(dtype))
        assert found.dtype == half.dtype == torch.float32
        assert torch.equal(found, full)
        # identical in half precision too: nothing was computed in it
        assert float(half.max()) < 3e-6


class TestMeanSpectralAngle:
    def test_blank_targets_do_not_count(self) -> None:
        target, prediction = reflectance(10), reflectance(10, seed=1)
        target[5:] = 0
        wanted = spectral_angle(prediction, target)[:5].mean()
        torch.testing.assert_close(mean_spectral_angle(prediction, target), wanted)

    def test_nothing_but_blanks(self) -> None:
        prediction = reflectance(4).requires_grad_()
        found = mean_spectral_angle(prediction, torch.zeros(4, 10))
        assert float(found.detach()) == 0
        found.backward()
        assert prediction.grad is not None
        assert not bool(prediction.grad.any())


class TestNormalizedDifference:
    def test_values(self) -> None:
        a = torch.tensor([0.3, 0.1, 0.0, -0.1, 0.2, -0.2])
        b = torch.tensor([0.1, 0.3, 0.0, 0.1, -0.1, -0.1])
        found = normalized_difference(a, b)
        torch.testing.assert_close(
            found[[0, 1, 3, 4]], torch.tensor([0.5, -0.5, -1, 1])
        )
        # without light there is no colour
        assert found.isnan().tolist() == [False, False, True, False, False, True]
