# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch

from torchgeo_specdm.codecs import ReconstructionScores

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
            logits = torch.nn.functional.one_hot(batch['mask'], 3).movedim(-1, 1)
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
