# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot

from torchgeo_specdm.codecs import ReconstructionScores
from torchgeo_specdm.codecs.scores import mask_fidelity
from torchgeo_specdm.pairs.tiles import Tiles

from .fakes import CLASSES, batch_of, make


class TestReconstructionScores:
    def test_do_not_depend_on_batches(self) -> None:
        codec, batch = make('one_hot'), batch_of(1, 6)
        batch['mask'][0, :9] = 255
        results = []
        for size in (6, 4, 1):
            scores = ReconstructionScores(len(CLASSES))
            for start in range(0, 6, size):
                part = {k: v[start : start + size] for k, v in batch.items()}
                scores.update(codec, part)
            results.append(scores.compute())
        for name, value in results[0].items():
            for other in results[1:]:
                torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5)

    def test_nothing_lost_is_nil(self) -> None:
        codec, batch = make('pixels'), batch_of(1)
        codec.fit_scaling(
            torch.stack([batch['image'].flatten(0, -4)[0] * f for f in (0, 1.2)])
        )
        codec.fit_statistics([batch])
        scores = ReconstructionScores(len(CLASSES))
        scores.update(codec, batch)
        found = {name: float(value) for name, value in scores.compute().items()}
        assert found['rmse'] < 1e-6 and found['sad'] < 1e-4
        assert found['miou'] == found['mask_accuracy'] == 1

    def test_units_are_reflectance_and_radians(self) -> None:
        codec, batch = make('pixels'), batch_of(1)
        brighter = batch | {'image': batch['image'] + 100}
        wanted = {'rmse': 0.01}
        scores = ReconstructionScores(len(CLASSES))

        def roundtrip(sample: Any) -> Any:
            logits = one_hot(batch['mask'], 3).movedim(-1, 1)
            return brighter, logits.float() * 9

        codec.roundtrip = roundtrip  # type: ignore[method-assign]
        scores.update(codec, batch)
        found = scores.compute()
        assert float(found['rmse']) == pytest.approx(wanted['rmse'], rel=1e-4)
        a, b = brighter['image'].double(), batch['image'].double()
        cosine = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
        angle = float(cosine.clamp(max=1).arccos().mean())
        assert float(found['sad']) == pytest.approx(angle, rel=1e-3)

    def test_absent_labels(self) -> None:
        codec, batch = make('pixels'), batch_of(1)
        batch['mask'].fill_(255)
        scores = ReconstructionScores(len(CLASSES))
        scores.update(codec, batch)
        found = scores.compute()
        assert bool(found['mask'].isnan()) and bool(found['miou'].isnan())
        assert bool(found['loss'].isfinite())
        scores.reset()
        scores.update(codec, batch_of(1))
        assert bool(scores.compute()['miou'].isfinite())

    @pytest.mark.parametrize('dates', [1, 2])
    def test_missing_pixels_are_no_error(self, dates: int) -> None:
        codec, real = make('pixels', dates), batch_of(dates)
        decoded = real | {'image': real['image'] + 100}
        # of one date only, where there are two
        missing = real['image'].view(4, -1, 4, 16, 16)[:, -1]
        missing[..., :8, :] = torch.nan
        labels = one_hot(real['mask'].view(4, 16, 16), 3).movedim(-1, 1).float()
        codec.roundtrip = lambda sample: (decoded, labels)  # type: ignore[method-assign]
        scores = ReconstructionScores(len(CLASSES))
        scores.update(codec, real)
        found = scores.compute()
        assert float(found['rmse']) == pytest.approx(1e-2, rel=1e-4)
        assert bool(found['loss'].isfinite())


def tiles_of(dates: int, count: int = 70) -> Tiles:
    batch = batch_of(dates, count)
    masks = batch['mask'].view(count, 16, 16)
    return Tiles(batch['image'], masks)


class TestMaskFidelity:
    def test_nothing_lost(self) -> None:
        tiles = tiles_of(1)
        tiles.masks[:, :2] = 255
        assert mask_fidelity(make('pixels'), tiles) == 1
        nothing = tiles._replace(masks=torch.full_like(tiles.masks, 255))
        assert math.isnan(mask_fidelity(make('pixels'), nothing))

    def test_is_the_share_of_right_labelled_pixels(self) -> None:
        # more than a batch
        tiles, codec = tiles_of(1), make('two_stream')
        tiles.masks[:, 3:5] = 255
        decoded, _ = codec.roundtrip({'image': tiles.images, 'mask': tiles.masks})
        right = (decoded['mask'] == tiles.masks)[tiles.masks != 255].float().mean()
        assert 0 < right < 1
        assert mask_fidelity(codec, tiles) == pytest.approx(float(right))

    def test_with_dates_is_f1_of_change(self) -> None:
        tiles, codec = tiles_of(2, 8), make('pixels', 2)
        # little has changed, and none of it comes through
        masks = torch.zeros_like(tiles.masks)
        masks[:, :4, :4] = 1
        blank = one_hot(torch.zeros_like(masks), 3).movedim(-1, 1).float()
        found = {'image': tiles.images, 'mask': torch.zeros_like(masks)}
        codec.roundtrip = lambda sample: (found, blank)  # type: ignore[method-assign]
        assert mask_fidelity(codec, tiles._replace(masks=masks)) == 0
        half = torch.zeros_like(masks)
        half[:, :4, :2] = 1
        found['mask'] = half
        changed = mask_fidelity(codec, tiles._replace(masks=masks))
        assert changed == pytest.approx(2 / 3)
