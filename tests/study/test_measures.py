# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import PAIR_CLASSES, PAIR_SPECTRA
from tests.study.fakes import (
    Change,
    open_data,
    pixel_codec,
    write_changed,
    write_generator,
)
from torchgeo_specdm import PairFolder, PairFolderDataModule
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.metrics.tiles import Tiles, cut_tiles
from torchgeo_specdm.presets import load_preset
from torchgeo_specdm.study import measures
from torchgeo_specdm.study.measures import mask_fidelity, measure

IGNORED = 255


class Oracle(nn.Module):
    """Knows the spectrum of each class, whatever the light."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        spectra = torch.from_numpy(PAIR_SPECTRA).float()
        self.directions = spectra / spectra.norm(dim=1, keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images * self.std + self.mean
        pixels = pixels / pixels.norm(dim=1, keepdim=True)
        return torch.einsum('bchw,kc->bkhw', pixels, self.directions)


@pytest.fixture(scope='module')
def real(pair_folder: Path) -> PairFolderDataModule:
    return open_data(pair_folder)


@pytest.fixture
def measured(
    real: PairFolderDataModule, tiny_settings: dict[str, Any], tmp_path: Path
) -> Callable[[Change], Any]:
    """Measure changed training pairs as if they were generated."""
    generator = write_generator(
        pixel_codec(real), tiny_settings, tmp_path / 'diffusion'
    )

    def run(change: Change) -> Any:
        synthetic = write_changed(real, tmp_path / 'synthetic', change)
        found = measure(generator, synthetic, real, Oracle(real.mean, real.std))
        # what cannot be measured is null, not NaN
        return json.loads(json.dumps(found, allow_nan=False))

    return run


class TestMeasure:
    def test_real_pairs_are_as_good_as_real(self, measured: Any) -> None:
        found = measured(lambda image, mask: (image, mask))
        alignment = found['alignment']
        for name in ('real', 'reconstructed', 'synthetic'):
            assert alignment[name] == {'miou': 1, 'accuracy': 1}
        assert alignment['shuffled']['accuracy'] == pytest.approx(0.25, abs=0.15)
        assert alignment['calibrated'] == alignment['transparency'] == 1
        assert alignment['count'] == 16
        for part in found['fidelity'].values():
            assert part['value'] < part['floor'] and part['samples'] == 8
        spectra = found['spectra']
        assert spectra['msad'] < 1e-4 < spectra['msad_held_out'] < 0.1
        assert spectra['classes'] == 4
        assert list(spectra['per_class']) == list(PAIR_CLASSES)
        area = found['area']
        assert area['train'] == pytest.approx(area['synthetic'])
        assert area['total_variation'] == pytest.approx(0)
        assert 0 < area['total_variation_held_out'] < 0.5
        for name in ('train', 'held_out', 'synthetic'):
            assert sum(area[name]) == pytest.approx(1)

    def test_an_exact_codec_is_exact(self, measured: Any) -> None:
        found = measured(lambda image, mask: (image, mask))['reconstruction']
        assert found['rmse'] < 1e-5 and found['sad'] < 1e-4
        assert found['mask_accuracy'] == found['mask_miou'] == 1
        assert found['count'] == 4

    def test_wrong_labels_are_seen(self, measured: Any) -> None:
        def wrong(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return image, mask.where(mask == IGNORED, (mask + 1) % 4)

        found = measured(wrong)
        assert found['alignment']['synthetic']['accuracy'] == 0
        assert found['alignment']['calibrated'] < 0
        assert found['alignment']['real']['accuracy'] == 1
        assert found['spectra']['msad'] > 0.2

    def test_spectra_in_real_units(
        self, measured: Any, real: PairFolderDataModule
    ) -> None:
        found = measured(lambda image, mask: (0.5 * image, mask))
        means = found['spectra']['means']
        half = torch.tensor(means['train']) / 2
        torch.testing.assert_close(
            torch.tensor(means['synthetic']), half, atol=1e-4, rtol=0
        )
        # reflectance near that of the classes, and no angle between light and shade
        light = torch.tensor(means['train']) / torch.from_numpy(PAIR_SPECTRA * 1e-4)
        assert light.min() > 0.8 and light.max() < 1.2
        assert found['spectra']['msad'] < 0.01
        assert found['fidelity']['image']['value'] > found['fidelity']['image']['floor']

    def test_a_class_that_is_missing(self, measured: Any) -> None:
        def without_town(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return image, mask.where(mask != 3, 0)

        found = measured(without_town)
        assert found['spectra']['per_class']['town'] is None
        assert found['spectra']['means']['synthetic'][3] == [None] * 6
        assert found['spectra']['classes'] == 3
        assert found['spectra']['msad'] is not None
        assert found['area']['synthetic'][3] == 0
        lost = found['area']['train'][3]
        assert found['area']['total_variation'] == pytest.approx(lost)


def test_mask_accuracy_counts_labelled_pixels(real: PairFolderDataModule) -> None:
    pixels = pixel_codec(real)
    tiles = cut_tiles(real.test_dataset, 32)
    assert (tiles.masks == IGNORED).any()
    assert mask_fidelity(pixels, tiles) == 1
    nothing = tiles._replace(masks=torch.full_like(tiles.masks, IGNORED))
    assert math.isnan(mask_fidelity(pixels, nothing))


def test_mask_accuracy_of_an_inexact_codec(
    real: PairFolderDataModule, tiny_settings: dict[str, Any]
) -> None:
    settings = load_preset('tiny', tiny_settings)['two_stream']['codec']
    codec = make_codec('two_stream', real.spec, settings)
    codec.fit_scaling(cut_tiles(real.train_dataset, 32).images)
    tiles = cut_tiles(real.test_dataset, 32)
    decoded, _ = codec.roundtrip({'image': tiles.images, 'mask': tiles.masks})
    right = (decoded['mask'] == tiles.masks)[tiles.masks != IGNORED]
    assert mask_fidelity(codec, tiles) == pytest.approx(right.float().mean().item())
    assert right.float().mean() < 1


def test_missing_pixels_are_no_error_of_reconstruction(pair_folder: Path) -> None:
    spec = replace(PairFolder(pair_folder).spec, dtype='int16', nodata=-9999)
    images = torch.full((2, 6, 8, 8), 1000.0)
    masks = torch.zeros(2, 8, 8, dtype=torch.long)
    decoded = Tiles(images + 100, masks, [0, 1])
    images[:, :, :4] = -9999
    logits = nn.functional.one_hot(masks, 4).movedim(-1, 1).float()
    real = Tiles(images, masks, [0, 1])
    found = measures._reconstruction(real, decoded, logits, spec)
    assert found['rmse'] == pytest.approx(0.01)
    assert found['sad'] < 1e-3
