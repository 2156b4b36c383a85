# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from experiments.faults import (
    add_grid,
    add_noise,
    average_blocks,
    keep_components,
    randomise_phases,
)
from torchgeo_specdm import SampleSpec
from torchgeo_specdm.metrics.detail import (
    DetailRatio,
    DetailSummary,
    FineDetail,
    compare_detail,
)
from torchgeo_specdm.scenes.land import scene_spec

SPEC = SampleSpec(('B02', 'B03', 'B04'), ('water', 'land'))


def measure(images: Tensor, spec: SampleSpec = SPEC) -> DetailSummary:
    metric = FineDetail(spec)
    metric.update(images)
    return metric.compute()


def noise(count: int = 6, seed: int = 0, size: int = 32) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return 1000 + 100 * torch.randn(count, 3, size, size, generator=random)


def ramp(count: int = 4, size: int = 32) -> Tensor:
    """Smooth images: parabolas along the columns."""
    return torch.arange(float(size)).square().expand(count, 3, size, size).clone()


def compare(images: Tensor, other: Tensor) -> DetailRatio:
    return compare_detail(measure(images), measure(other))


def test_power_of_a_wave_is_its_variance() -> None:
    rows = torch.arange(64.0)
    for octave, cycles in enumerate((2, 6, 12, 24)):
        wave = 10 * torch.sin(2 * torch.pi * cycles / 64 * rows)
        found = measure(wave.expand(2, 3, 64, 64))
        power = found.power[0, 0]
        assert float(power[octave]) == pytest.approx(50, rel=0.02)
        assert float(power.sum()) == pytest.approx(50, rel=0.02)
        assert float(found.contrast[0, 0]) == pytest.approx(50**0.5, rel=1e-3)


def test_white_noise_has_its_share_in_each_octave() -> None:
    found = measure(noise(40, size=64))
    octave = torch.tensor([1 / 16, 1 / 8, 1 / 4])
    disc = torch.pi * octave.square()
    shares = torch.cat([disc, torch.tensor([1.0])]).diff(prepend=torch.zeros(1))
    # the mean is taken off, and the lowest octave has few frequencies
    torch.testing.assert_close(
        found.power[0].mean(0) / 1e4, shares.double(), rtol=0.2, atol=0
    )
    assert float(found.sparsity.mean()) == pytest.approx(
        (2 / torch.pi) ** 0.5, rel=0.01
    )
    assert float(found.correlation.abs().max()) < 0.05
    assert float((found.seams - 1).abs().max()) < 0.05


@pytest.mark.parametrize('period', [2, 4, 8])
@pytest.mark.parametrize('start', [0, 1])
def test_cells_are_seen_wherever_they_start(period: int, start: int) -> None:
    images = gaussian_blur(noise(40, size=40), 7, 0.8)
    cut = (..., slice(start, 32 + start), slice(start, 32 + start))
    real, blocky = images[cut], average_blocks(images, period)[cut]
    seams = measure(blocky).seams.amin((0, 1))
    assert float(seams.max()) > 1.3
    assert float(measure(real).seams.max()) < 1.1


def test_a_parabola_is_smooth_and_a_step_on_it_is_not() -> None:
    assert float(measure(ramp()).steps.max()) == 0
    step = ramp()
    step[..., 12:] += 8
    steps = measure(step).steps[0, 0]
    # of rows no step, of columns one, in four of which positions are alike
    assert float(steps[11 % 8]) == steps.max() > 0
    assert int((steps > 0).sum()) == 3


def test_one_grain_for_all_bands_and_one_for_each() -> None:
    grain = noise()
    alike = grain[:, :1].expand(-1, 3, -1, -1)
    assert float(measure(alike).correlation.min()) == pytest.approx(1)
    assert compare(alike, grain).correlation < 0.1
    # unrelated bands of real images have nothing to lose
    assert np.isnan(compare(grain, alike).correlation)


def test_light_and_gain_change_what_they_should() -> None:
    images = noise()
    found = compare(images, 3 * images + 500)
    assert found.contrast == pytest.approx(3) and found.levels == pytest.approx(3)
    torch.testing.assert_close(
        found.power, torch.full((3, 4), 9.0).double(), rtol=1e-5, atol=0
    )
    assert found.seams == pytest.approx(1)


def ratios(real: Tensor, other: Tensor) -> dict[str, float]:
    found = [measure(side, scene_spec()) for side in (real, other)]
    ratio = compare_detail(*found)
    values = ratio._asdict() | {'fine': float(ratio.power[:, 3].nanmedian())}
    return values | {'middle': float(ratio.power[:, 2].nanmedian())}


def shift_a_band(images: Tensor) -> Tensor:
    """One band a pixel beside the others, as two sensors that were not registered."""
    first, *others = images.unbind(1)
    return torch.stack([first.roll(1, -1), *others], 1)


def test_real_scenes_are_alike(scenes: Tensor) -> None:
    first, *rest = scenes.split(40)
    for others in rest:
        found = ratios(first, others)
        assert 0.9 < found['seams'] < 1.1
        assert 0.8 < found['correlation'] < 1.2
        assert 0.8 < found['structure'] < 1.3
        assert 0.7 < found['fine'] < 1.4 and 0.7 < found['middle'] < 1.4


@pytest.mark.parametrize(
    'plant, name, low, high',
    [
        (lambda x: gaussian_blur(x, 7, 1.0), 'fine', 0, 0.3),
        (lambda x: gaussian_blur(x, 7, 1.0), 'middle', 0, 0.6),
        (add_noise, 'fine', 2, 1e9),
        (add_noise, 'correlation', 0, 0.5),
        (shift_a_band, 'correlation', 0, 0.65),
        (lambda x: average_blocks(x, 2), 'middle', 0, 0.7),
        (average_blocks, 'seams', 2, 1e9),
        (lambda x: keep_components(x, x), 'seams', 1.5, 1e9),
        (add_grid, 'seams', 1.15, 1e9),
        (randomise_phases, 'structure', -1, 0.5),
    ],
)
def test_planted_faults_are_seen(
    scenes: Tensor,
    plant: Callable[[Tensor], Tensor],
    name: str,
    low: float,
    high: float,
) -> None:
    real, others, _ = scenes.split(40)
    assert low <= ratios(real, plant(others))[name] <= high


def test_batches_and_processes_add_up() -> None:
    images = noise(9)
    parts = [FineDetail(SPEC) for _ in range(2)]
    parts[0].update(images[:2])
    parts[0].update(images[2:5])
    parts[1].update(images[5:])
    parts[0].merge_state(parts[1])
    torch.testing.assert_close(tuple(parts[0].compute()), tuple(measure(images)))


def test_dates_count_apart() -> None:
    spec = SampleSpec(SPEC.bands, ('no change', 'change'), dates=2)
    first = noise()
    second = gaussian_blur(first, 5, 1.0)
    found = measure(torch.stack([first, second], 1), spec)
    for date, images in enumerate((first, second)):
        own = tuple(part[date] for part in found)
        alone = tuple(part.reshape(part.shape or (1,))[0] for part in measure(images))
        torch.testing.assert_close(own, alone)


def test_only_missing_pixels_are_left_out() -> None:
    images = noise()
    holed = images.clone()
    holed[:, 1, :, 24:] = torch.nan
    found, wanted = measure(holed), measure(images[..., :24])
    torch.testing.assert_close(tuple(found)[1:], tuple(wanted)[1:])
    # a spectrum has no gaps
    assert found.power.isnan().all()
    holed[:4] = images[:4]
    torch.testing.assert_close(measure(holed).power, measure(images[:4]).power)
    nothing = measure(torch.full((2, 3, 8, 8), torch.nan))
    assert all(part.isnan().all() for part in nothing)
    assert np.isnan(compare_detail(measure(images), nothing).seams)


def test_flat_bands_have_contrast_alone() -> None:
    images = noise()
    images[:, 1] = 7
    found = measure(images)
    assert float(found.contrast[0, 1]) == 0
    for values in (found.power, found.steps, found.sparsity):
        assert values[0, 0].isfinite().all()
    assert found.power[0, 1].isnan().all() and found.sparsity[0, 1].isnan()
    flat = found.correlation[0].isnan()
    assert flat.tolist() == [False, True, False]
    assert float(found.correlation.nan_to_num(0).abs().max()) < 0.05


def test_other_bands_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r'shape \(2, 4, 8, 8\) must be \(B, 3, H, W\)'
    ):
        FineDetail(SPEC).update(torch.zeros(2, 4, 8, 8))
