# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from torchgeo_specdm.metrics.edges import EdgeAgreement, edge_agreement
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.scenes.change import change_spec, make_change_scene
from torchgeo_specdm.scenes.land import make_scene, scene_spec

SPEC = SampleSpec(bands=('a', 'b'), classes=('x', 'y'))
Pairs = tuple[Tensor, Tensor]


def stack(samples: list[tuple[np.ndarray, np.ndarray]]) -> Pairs:
    images = np.stack([image.astype(np.float32) for image, _ in samples])
    masks = np.stack([mask.astype(np.int64) for _, mask in samples])
    return torch.from_numpy(images), torch.from_numpy(masks)


@pytest.fixture(scope='module', params=['easy', 'hard', 'change'])
def scenes(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, SampleSpec]:
    if request.param == 'change':
        chosen = range(28)
        return *stack([make_change_scene(5, i, 64) for i in chosen]), change_spec()
    hard = request.param == 'hard'
    samples = [make_scene(5, i, 64, hard) for i in range(12)]
    return *stack(samples), scene_spec(hard)


def halves(noise: float = 0.0, at: int = 8) -> Pairs:
    """Two classes side by side, whose boundary two bands of other units show."""
    mask = torch.zeros(1, 16, 16, dtype=torch.long)
    mask[..., at:] = 1
    step = (torch.arange(16) >= 8).float().expand(16, 16)
    image = torch.stack([1000 * step, 0.1 * step])[None]
    generator = torch.Generator().manual_seed(0)
    return image + noise * torch.randn(image.shape, generator=generator), mask


class TestEdgeAgreement:
    def test_perfect_and_absent(self) -> None:
        assert edge_agreement(*halves(), SPEC).item() == 1
        # the boundary is in flat land, the edge inside a class
        assert edge_agreement(*halves(at=4), SPEC).item() < 0.5

    def test_flat_image_is_no_relation(self) -> None:
        image, mask = halves()
        assert edge_agreement(torch.zeros_like(image), mask, SPEC).item() == 0.5

    def test_is_the_area_under_the_roc_curve(self) -> None:
        image, mask = halves(noise=400)
        image[:, 1] = image[:, 0]
        down = image[0, 0, 2:, 1:-1] - image[0, 0, :-2, 1:-1]
        right = image[0, 0, 1:-1, 2:] - image[0, 0, 1:-1, :-2]
        boundary = torch.zeros(14, 14, dtype=torch.long)
        boundary[:, 6:8] = 1
        # above 1, torchmetrics would take them for logits
        steep = (down**2 + right**2) / 1e9
        expected = binary_auroc(steep, boundary).item()
        assert 0.5 < expected < 1
        found = edge_agreement(image, mask, SPEC).item()
        assert found == pytest.approx(expected, abs=1e-6)

    def test_without_boundary_or_inner_pixels_is_nan(self) -> None:
        image, mask = halves()
        board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
        unlabelled = torch.full_like(mask, 255)
        for other in (torch.zeros_like(mask), board[None], unlabelled):
            assert edge_agreement(image, other, SPEC).isnan().all()

    def test_units_do_not_matter(self) -> None:
        image, mask = halves(noise=0.03)
        image[:, 0] = halves(noise=300)[0][:, 0]
        other = image * torch.tensor([1e-5, 1e4]).view(2, 1, 1) + 7
        torch.testing.assert_close(
            edge_agreement(other, mask, SPEC),
            edge_agreement(image, mask, SPEC),
            atol=0.01,
            rtol=0,
        )

    def test_label_borders_of_nothing_do_not_count(self) -> None:
        image, mask = halves(at=16)
        mask[:, :, 8:] = 255
        assert edge_agreement(image, mask, SPEC).isnan().all()

    def test_missing_pixels_do_not_count(self) -> None:
        image, mask = halves(noise=1)
        image += 500
        expected = edge_agreement(image[..., :11, :], mask[..., :11, :], SPEC)
        # the rows from 10 on are next to missing ones or missing themselves
        dark = image.clone()
        dark[..., 11:, :] = 0
        image[..., 11:, :] = torch.nan
        torch.testing.assert_close(edge_agreement(image, mask, SPEC), expected)
        assert edge_agreement(dark, mask, SPEC) < expected - 0.05

    def test_shifts_and_shuffles_are_seen(
        self, scenes: tuple[Tensor, Tensor, SampleSpec]
    ) -> None:
        images, masks, spec = scenes
        right = edge_agreement(images, masks, spec)
        two = edge_agreement(images[..., 2:, 2:], masks[..., :-2, :-2], spec)
        eight = edge_agreement(images[..., 8:, 8:], masks[..., :-8, :-8], spec)
        shuffled = edge_agreement(images, masks.roll(1, 0), spec)
        known = ~(right + two + eight + shuffled).isnan()
        assert known.sum() >= 10
        assert right[known].mean() > 0.85
        assert (right > two + 0.02)[known].all()
        assert two[known].mean() > eight[known].mean()
        assert abs(shuffled[known].mean() - 0.5) < 0.06

    def test_refuses_other_shapes(self) -> None:
        image, mask = halves()
        with pytest.raises(ValueError, match=r'\(1, 1, 16, 16\).*axes of length one'):
            edge_agreement(image, mask[None], SPEC)
        with pytest.raises(ValueError, match=r'\(B, T, C, H, W\)'):
            edge_agreement(image, mask, replace(SPEC, dates=2))


class TestMetric:
    def test_one_sample_gives_its_own_score(
        self, scenes: tuple[Tensor, Tensor, SampleSpec]
    ) -> None:
        images, masks, spec = scenes
        scores = edge_agreement(images, masks, spec)
        best = int(scores.nan_to_num(0).argmax())
        metric = EdgeAgreement(spec)
        metric.update(images[best : best + 1], masks[best : best + 1])
        assert metric.compute()['auc'] == scores[best]

    def test_batches_and_processes_add_up(
        self, scenes: tuple[Tensor, Tensor, SampleSpec]
    ) -> None:
        images, masks, spec = scenes
        whole, here, there = (EdgeAgreement(spec) for _ in range(3))
        whole.update(images, masks)
        here.update(images[:5], masks[:5])
        for i in range(5, len(images)):
            there.update(images[i : i + 1], masks[i : i + 1])
        here.merge_state(there)
        for key, value in whole.compute().items():
            assert torch.equal(here.compute()[key], value), key

    def test_counts(self) -> None:
        metric = EdgeAgreement(SPEC)
        assert metric.compute()['auc'].isnan()
        metric.update(*halves())
        # the rim does not count
        assert metric.compute()['pixels'] == 14 * 14
        assert metric.compute()['boundary'] == 2 / 14
        metric.update(torch.zeros(1, 2, 16, 16), torch.zeros(1, 16, 16).long())
        assert metric.compute()['boundary'] == 1 / 14
        assert metric.compute()['auc'] == 1
