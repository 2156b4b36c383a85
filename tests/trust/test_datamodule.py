# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from torchgeo_specdm import PairFolder, TrustDataModule
from torchgeo_specdm.trust.datamodule import SETS

from ..conftest import quiet_trainer
from ..datamodules.torchgeo_fakes import (
    CODED,
    Other,
    OtherDataModule,
    write_random_pairs,
)
from ..study.fakes import open_data, write_changed

SIDE = 16


class Recorder(LightningModule):
    """Keeps the batches of each loader."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[dict[str, Tensor]]] = {name: [] for name in SETS}

    def test_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.seen[SETS[dataloader_idx]].append(batch)


def corner(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return image[..., :SIDE, :SIDE] + 7, mask[..., :SIDE, :SIDE]


@pytest.fixture
def tested(pair_folder: Path, tmp_path: Path) -> tuple[TrustDataModule, Recorder]:
    synthetic = write_changed(open_data(pair_folder), tmp_path / 'synthetic', corner)
    data = TrustDataModule(open_data(pair_folder), synthetic, batch_size=5)
    recorder = Recorder()
    quiet_trainer(tmp_path).test(recorder, data, verbose=False)
    return data, recorder


def test_each_tile_of_three_sets_is_seen_once(
    tested: tuple[TrustDataModule, Recorder],
) -> None:
    data, recorder = tested
    # tiles are as large as the generated patches: four of a real one
    counts = {'train': 16 * 4, 'held_out': 4 * 4, 'synthetic': 16}
    for name, count in counts.items():
        batches = recorder.seen[name]
        index = torch.cat([batch['index'] for batch in batches])
        assert index.tolist() == list(range(count)) and len(data.tiles[name]) == count
        assert max(len(batch['index']) for batch in batches) == 5
        shapes = {key: value.shape[1:] for key, value in batches[0].items()}
        sides = (SIDE, SIDE)
        assert shapes['image'] == (6, *sides) and shapes['place'] == ()
        assert shapes['mask'] == shapes['other_mask'] == sides
    # each sample is a place of its own here
    places = torch.cat([batch['place'] for batch in recorder.seen['train']])
    assert places.tolist() == [i // 4 for i in range(16 * 4)]
    assert data.ids == [f'{i:03d}' for i in range(16)]


def test_refuses_files_that_were_changed(pair_folder: Path, tmp_path: Path) -> None:
    synthetic = write_changed(open_data(pair_folder), tmp_path / 'synthetic', corner)
    (synthetic / 'masks' / '000.tif').write_bytes(b'')
    data = TrustDataModule(open_data(pair_folder), synthetic)
    with pytest.raises(ValueError, match=r'1 of 32 files .*000\.tif'):
        data.setup('test')


def test_digital_numbers_are_left_alone(
    tested: tuple[TrustDataModule, Recorder],
) -> None:
    data, recorder = tested
    real: Any = data.real
    sources = {
        'train': real.train_dataset,
        'held_out': real.test_dataset,
        'synthetic': PairFolder(data.synthetic),
    }
    for name, source in sources.items():
        for key in ('image', 'mask'):
            found = torch.cat([batch[key] for batch in recorder.seen[name]])
            samples = [source[i][key] for i in range(len(source))]
            # row by row
            expected = [
                sample[..., top : top + SIDE, left : left + SIDE]
                for sample in samples
                for top in range(0, sample.shape[-2], SIDE)
                for left in range(0, sample.shape[-1], SIDE)
            ]
            assert torch.equal(found, torch.stack(expected))
            assert found.dtype == {'image': torch.float32, 'mask': torch.int64}[key]
    # what was planted is there: the sets are not mixed up
    train, synthetic = (recorder.seen[n][0]['image'][0] for n in ('train', 'synthetic'))
    assert torch.equal(synthetic, train + 7)


@pytest.mark.parametrize(
    'change, said',
    [
        ({'bands': ('B02', 'B03', 'B04', 'B08', 'B11', 'B10')}, 'B10'),
        ({'classes': ('water', 'forest', 'crops', 'city')}, 'city'),
        ({'scale': 1e-3}, '0.001'),
    ],
)
def test_other_kinds_of_samples_are_refused(
    pair_folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    real = open_data(pair_folder)
    spec = replace(real.spec, **change)
    synthetic = write_changed(real, tmp_path / 'synthetic', corner, spec)
    data = TrustDataModule(open_data(pair_folder), synthetic)
    with pytest.raises(ValueError, match=rf'PairFolderDataModule.*{said}'):
        quiet_trainer(tmp_path).test(Recorder(), data, verbose=False)


def test_patches_larger_than_real_ones_are_refused(
    pair_folder: Path, tmp_path: Path
) -> None:
    def larger(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return image.repeat(1, 2, 1), mask.repeat(2, 1)

    synthetic = write_changed(open_data(pair_folder), tmp_path / 'synthetic', larger)
    data = TrustDataModule(open_data(pair_folder), synthetic)
    with pytest.raises(ValueError, match=r'32 x 32 .* tiles of 64 x 32.*Generate'):
        quiet_trainer(tmp_path).test(Recorder(), data, verbose=False)


def test_real_samples_of_both_sets_are_needed(tmp_path: Path) -> None:
    synthetic = write_random_pairs(tmp_path / 'set', CODED)

    class NothingHeldOut(OtherDataModule):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            self.val_dataset = self.test_dataset = None

    data = TrustDataModule(NothingHeldOut(batch_size=4), synthetic)
    with pytest.raises(ValueError, match=r'val_dataset=None after setup'):
        quiet_trainer(tmp_path).test(Recorder(), data, verbose=False)


def test_another_number_of_bands_is_refused(tmp_path: Path) -> None:
    three = replace(CODED, bands=('B02', 'B03', 'B04'), wavelengths=())
    synthetic = write_random_pairs(tmp_path / 'set', three)
    # its data set does not name its two bands
    real = OtherDataModule(batch_size=4)
    real.test_dataset = Other(4)
    data = TrustDataModule(real, synthetic)
    with pytest.raises(ValueError, match=r'images of 2 bands, but .* has 3: .*B04'):
        quiet_trainer(tmp_path).test(Recorder(), data, verbose=False)
