# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchgeo_specdm.metrics import class_spectra
from torchgeo_specdm.metrics.class_spectra import (
    ClassSpectra,
    SpectraSummary,
    SpectrumClassifier,
    class_areas,
    compare_spectra,
)
from torchgeo_specdm.pairs.spec import SampleSpec

from ..processes import on_two_processes

SPEC = SampleSpec(
    bands=('B03', 'B04', 'B08', 'B11'),
    classes=('water', 'wood', 'town', 'snow'),
    ignore_index=255,
)
CHANGE = replace(SPEC, classes=('same', 'changed'), colors=(), codes=(), dates=2)
#: Digital numbers of each class.
MEANS = torch.tensor(
    [[900, 600, 300, 100], [500, 400, 3500, 1800], [1500, 1600, 2000, 2600]]
)


def pairs(count: int = 6, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Whole digital numbers around the means, in blocks of three classes."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(3, (count, size // 4, size // 4), generator=random)
    masks = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    noise = torch.randn(*masks.shape, 4, generator=random) * 0.1
    images = (MEANS[masks] * (1 + noise)).round().clamp(min=1).movedim(-1, 1)
    return images, masks


def dated(changed: bool = True, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two dates; where the mask says so, the second shows another class."""
    (first, masks), random = pairs(seed=seed), torch.Generator().manual_seed(seed)
    mask = (torch.rand(masks.shape, generator=random) < 0.3).long()
    later = torch.where((mask == 1) & changed, (masks + 1) % 3, masks)
    noise = torch.randn(*masks.shape, 4, generator=random) * 0.02
    second = first + (MEANS[later] - MEANS[masks]).movedim(-1, 1)
    second = (second * (1 + noise.movedim(-1, 1))).round()
    return torch.stack([first, second], 1), mask


def summarise(images: Tensor, masks: Tensor, spec: SampleSpec = SPEC) -> SpectraSummary:
    metric = ClassSpectra(spec)
    for some, labels in zip(torch.split(images, 2), torch.split(masks, 2), strict=True):
        metric.update(some, labels)
    found = metric.compute()
    assert isinstance(found, SpectraSummary)
    return found


def compared(images: Tensor, masks: Tensor) -> dict[str, Any]:
    """The same pairs, after something was done to them, with themselves."""
    return compare_spectra(summarise(*pairs()), summarise(images, masks), SPEC)


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-9, atol=1e-15)


class TestClassSpectra:
    @pytest.mark.parametrize('values', [2**22, 40])
    def test_against_numpy(self, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(class_spectra, '_VALUES', values)
        images, masks = pairs()
        masks[0, :5], masks[1, :5] = 255, -1
        found = summarise(images, masks)
        spectra = images.movedim(1, -1).numpy().astype(float) * 1e-4
        for k in range(3):
            chosen = spectra[masks.numpy() == k]
            assert int(found.pixels[0, k]) == len(chosen)
            close(found.mean[0, k], chosen.mean(0))
            close(found.std[0, k], chosen.std(0))
            close(found.covariance[0, k], np.cov(chosen.T, bias=True))
            green, red, nir, swir = chosen.T
            for name, a, b in (('ndvi', nir, red), ('ndwi', green, nir)):
                close(found.index_mean[name][0, k], ((a - b) / (a + b)).mean())
                close(found.index_std[name][0, k], ((a - b) / (a + b)).std())
            close(found.index_mean['ndbi'][0, k], ((swir - nir) / (swir + nir)).mean())
        assert found.mean.dtype == torch.float64
        assert found.pair is None

    def test_an_absent_class_is_not_known(self) -> None:
        found = summarise(*pairs())
        assert int(found.pixels[0, 3]) == 0
        absent = (found.mean, found.std, found.covariance, found.index_std['ndvi'])
        assert all(bool(x[0, 3].isnan().all()) for x in absent)

    def test_missing_pixels_count_at_no_date(self) -> None:
        images, masks = dated()
        whole = summarise(images, masks, CHANGE)
        # a spectrum with a gap is none
        images[:2, 0, 1, :3] = torch.nan
        found = summarise(images, masks, CHANGE)
        kept = masks.clone()
        kept[:2, :3] = 255
        seen = summarise(images, kept, CHANGE)
        close(found.mean[0], seen.mean[0])
        assert torch.equal(found.pixels[1], whole.pixels[1])
        assert found.pair is not None and seen.pair is not None
        assert torch.equal(found.pair.pixels, seen.pixels[0])
        close(found.pair.mean, seen.pair.mean)

    def test_difference_of_dates(self) -> None:
        images, masks = dated()
        found = summarise(images, masks, CHANGE).pair
        assert found is not None
        difference = (images[:, 1] - images[:, 0]).abs().movedim(1, -1).double() * 1e-4
        for k in range(2):
            chosen = difference[masks == k].numpy()
            assert int(found.pixels[k]) == len(chosen)
            close(found.mean[k], chosen.mean(0))
            close(found.covariance[k], np.cov(chosen.T, bias=True))

    def test_no_noise_has_no_std(self) -> None:
        _, masks = pairs()
        images = (MEANS[masks] + 1 / 3).movedim(-1, 1)
        assert not bool(summarise(images, masks).std[0, :3].any())

    def test_parts_add_up(self) -> None:
        images, masks = dated()
        whole = ClassSpectra(CHANGE)
        whole.update(images, masks)
        parts = [ClassSpectra(CHANGE) for _ in range(2)]
        parts[0](images[:1], masks[:1])
        parts[1](images[1:4], masks[1:4])
        parts[1](images[4:], masks[4:])
        # sums of whole numbers are exact
        assert torch.equal(parts[0].moments + parts[1].moments, whole.moments)
        close(parts[0].indices + parts[1].indices, whole.indices)

    def test_one_class_and_one_date(self) -> None:
        spec = replace(SPEC, classes=('wood',), colors=(), codes=())
        images, masks = pairs()
        found = summarise(images, masks * 0, spec)
        result = compare_spectra(found, found, spec)
        assert result['per_class']['wood'] == pytest.approx(0, abs=3e-6)
        assert class_areas(found, found)['real'] == [1]
        assert not bool(SpectrumClassifier.fit(found, spec).predict(images).any())

    def test_other_shapes_are_refused(self) -> None:
        images, masks = pairs()
        for spec in (CHANGE, replace(SPEC, bands=('a', 'b'), wavelengths=())):
            with pytest.raises(ValueError, match=r'shape \(6, 4, 16, 16\)'):
                ClassSpectra(spec).update(images, masks)


def test_processes_count_together(tmp_path: Path) -> None:
    images, masks = pairs()
    whole = summarise(images, masks)

    def find(rank: int) -> bool:
        metric = ClassSpectra(SPEC)
        metric.update(images[rank::2], masks[rank::2])
        found = metric.compute()
        close(found.index_mean['ndvi'], whole.index_mean['ndvi'])
        same = torch.equal(found.pixels, whole.pixels)
        return same and torch.equal(found.covariance[0, :3], whole.covariance[0, :3])

    assert on_two_processes(find, tmp_path / 'meeting') == [True, True]


class TestCompareSpectra:
    def test_equal_sets(self) -> None:
        found = compared(*pairs())
        assert found['msad'] < 3e-6 and found['classes'] == 3
        assert found['spread'] == found['gain'] == 1
        assert found['index_shift'] == {'ndvi': 0, 'ndwi': 0, 'ndbi': 0}
        assert math.isnan(found['per_class']['snow'])
        json.dumps(found)

    def test_another_draw_is_near(self) -> None:
        found = compared(*pairs(seed=1))
        assert found['msad'] < 0.01
        assert found['spread'] == pytest.approx(1, abs=0.1)
        assert found['gain'] == pytest.approx(1, abs=0.01)
        assert max(found['index_shift'].values()) < 0.2

    def test_a_gain_shows_in_the_gain_only(self) -> None:
        images, masks = pairs()
        found = compared(images * 1.1, masks)
        assert found['gain'] == pytest.approx(1.1)
        assert found['gain_per_class']['town'] == pytest.approx(1.1)
        assert found['msad'] < 1e-5 and max(found['index_shift'].values()) < 1e-4

    def test_the_gain_is_weighted_by_real_pixels(self) -> None:
        images, masks = pairs()
        water = masks == 0
        found = compared(torch.where(water[:, None], images * 2, images), masks)
        assert found['gain'] == pytest.approx(1 + float(water.float().mean()))
        assert found['gain_per_class']['wood'] == 1

    def test_swapped_bands_show_in_the_angle(self) -> None:
        images, masks = pairs()
        found = compared(images[:, [0, 1, 3, 2]], masks)
        a = MEANS.double()
        b = a[:, [0, 1, 3, 2]]
        wanted = ((a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)).arccos().mean()
        assert found['msad'] == pytest.approx(float(wanted), abs=0.01)
        assert found['msad'] > 0.2
        assert found['index_shift']['ndbi'] > 1
        real, other = found['indices']['ndbi']['wood']
        assert real == pytest.approx(-other) and real < -0.2

    def test_means_for_pixels_show_in_the_spread(self) -> None:
        images, masks = pairs()
        means = MEANS[masks].movedim(-1, 1)
        found = compared(means + (images - means) * 0.25, masks)
        assert found['spread'] == pytest.approx(0.25)
        assert found['spread_per_class']['wood'] == pytest.approx(0.25)
        assert found['msad'] < 0.01
        assert compared(means, masks)['spread'] == 0

    def test_constant_bands_have_no_spread(self) -> None:
        images, masks = pairs()
        constant = images.clone()
        constant[:, :3] = 700
        found = compare_spectra(
            summarise(constant, masks), summarise(images, masks), SPEC
        )
        assert found['spread'] == 1

    def test_rare_classes_do_not_count(self) -> None:
        images, masks = pairs()
        masks[masks == 2] = 255
        for count, classes in ((9, 2), (10, 3)):
            masks[0, 0, :count] = 2
            assert compared(images, masks)['classes'] == classes

    def test_dates_have_names(self) -> None:
        images, masks = dated()
        real = summarise(images, masks, CHANGE)
        images[:, 1] = images[:, 1, [0, 1, 3, 2]]
        found = compare_spectra(real, summarise(images, masks, CHANGE), CHANGE)
        angles = found['per_class']
        assert list(angles)[1:3] == ['changed, date 1', 'same, date 2']
        assert angles['changed, date 1'] < 3e-6 and angles['same, date 2'] > 0.05
        assert found['classes'] == 4

    def test_nothing_to_compare(self) -> None:
        images, masks = pairs()
        found = compared(images, masks * 0 + 255)
        assert found['classes'] == 0
        for name in ('msad', 'spread', 'gain'):
            assert math.isnan(found[name])


class TestClassAreas:
    def test_a_missing_class_is_named(self) -> None:
        images, masks = pairs()
        real = summarise(images, masks)
        found = class_areas(real, summarise(images, masks.where(masks != 1, 0)))
        share = float((masks == 1).double().mean())
        assert found['missing'] == [1]
        assert found['total_variation'] == pytest.approx(share)
        assert found['real'][1] == pytest.approx(share)
        assert sum(found['other']) == pytest.approx(1)
        same = class_areas(real, real)
        assert same['missing'] == [] and same['total_variation'] == 0

    def test_a_trace_may_be_missing(self) -> None:
        images, masks = pairs()
        other = summarise(images, masks)
        masks[0, 0, 0] = 3
        assert class_areas(summarise(images, masks), other)['missing'] == []

    def test_no_labels(self) -> None:
        images, masks = pairs()
        found = class_areas(summarise(images, masks), summarise(images, masks * 0 - 1))
        assert found['missing'] == [0, 1, 2] and math.isnan(found['total_variation'])


def agreement(found: Tensor, masks: Tensor) -> Tensor:
    """Share of right pixels of each sample."""
    return (found == masks).float().mean((1, 2))


class TestSpectrumClassifier:
    def classifier(self) -> SpectrumClassifier:
        return SpectrumClassifier.fit(summarise(*pairs()), SPEC)

    def test_is_discriminant_analysis(self) -> None:
        images, _ = pairs(seed=1)
        summary = summarise(*pairs())
        means = summary.mean[0, :3].numpy()
        shares = (summary.pixels[0, :3] / summary.pixels.sum()).numpy()
        pooled = np.einsum('kij,k->ij', summary.covariance[0, :3].numpy(), shares)
        off = pooled - np.diag(np.diag(pooled))
        inverse = np.linalg.inv(pooled - 0.01 * off + 1e-8 * np.eye(4))
        apart = images.movedim(1, -1).numpy()[..., None, :] * 1e-4 - means
        distances = np.einsum('...i,ij,...j->...', apart, inverse, apart)
        found = self.classifier().predict(images)
        assert found.dtype == torch.int64
        assert (found.numpy() == distances.argmin(-1)).all()

    def test_masks_of_others_do_not_fit(self) -> None:
        images, masks = pairs(seed=1)
        found = self.classifier().predict(images)
        assert float(agreement(found, masks).min()) > 0.95
        assert float(agreement(found, masks.roll(1, 0)).max()) < 0.6

    def test_other_classes_are_never_told(self) -> None:
        images, masks = pairs()
        masks[masks == 1] = 255
        masks[0, 0, :9] = 3
        judge = SpectrumClassifier.fit(summarise(images, masks), SPEC)
        assert judge.classes.tolist() == [0, 2]
        assert set(judge.predict(images).flatten().tolist()) == {0, 2}

    def test_few_pixels_of_many_bands(self) -> None:
        bands = 60
        spec = SampleSpec(tuple(f'b{i}' for i in range(bands)), ('a', 'b'))
        random = torch.Generator().manual_seed(0)
        masks = torch.arange(32).reshape(2, 4, 4) % 2
        slope = torch.linspace(0, 500, bands)
        images = 2000 + masks[..., None] * slope
        images = images + 100 * torch.randn(images.shape, generator=random)
        images[..., 7] = 0
        images = images.movedim(-1, 1)
        # the covariance of 32 pixels has no inverse
        judge = SpectrumClassifier.fit(summarise(images, masks, spec), spec)
        assert float(agreement(judge.predict(images), masks).min()) > 0.9

    def test_change_is_told_by_the_difference(self) -> None:
        judge = SpectrumClassifier.fit(summarise(*dated(), CHANGE), CHANGE)
        images, masks = dated(seed=1)
        found = judge.predict(images)
        assert float(agreement(found, masks).min()) > 0.9
        assert float(agreement(found, masks.roll(1, 0)).max()) < 0.75
        # dates that are alike, under a mask of change
        images, masks = dated(changed=False, seed=1)
        assert not bool(judge.predict(images)[masks == 1].any())

    def test_nothing_to_fit(self) -> None:
        images, masks = pairs()
        with pytest.raises(ValueError, match='10 or more'):
            SpectrumClassifier.fit(summarise(images, masks * 0 + 255), SPEC)
