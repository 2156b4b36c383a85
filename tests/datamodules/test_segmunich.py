# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from tests.conftest import quiet_trainer
from tests.data.segmunich import SPECTRA, make_segmunich
from torchgeo_specdm.compat import SemanticSegmentationTask
from torchgeo_specdm.datamodules.segmunich import SegMunichDataModule


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp('segmunich')
    make_segmunich(folder, {'train': 6, 'test': 2}, size=48)
    return str(folder)


def sources(names: list[str]) -> set[str]:
    return {name[:4] for name in names}


class TestSplit:
    def test_validation_takes_whole_tiles(self, root: str) -> None:
        module = SegMunichDataModule(root, batch_size=2, val_split=0.3)
        module.setup('fit')
        train, val = module.train_dataset.ids, module.val_dataset.ids
        assert len(train) == 8 and len(val) == 4
        assert not sources(train) & sources(val)
        assert len(sources(train) | sources(val)) == 6

    def test_same_every_time(self, root: str) -> None:
        found = []
        for seed in (0, 0, 1):
            module = SegMunichDataModule(root, seed=seed)
            module.setup('validate')
            found.append(module.val_dataset.ids)
        assert found[0] == found[1] != found[2]

    @pytest.mark.parametrize(('share', 'tiles'), [(0.01, 1), (0.5, 3), (0.99, 5)])
    def test_never_empty(self, root: str, share: float, tiles: int) -> None:
        module = SegMunichDataModule(root, val_split=share)
        module.setup('validate')
        assert len(sources(module.val_dataset.ids)) == tiles

    def test_three_folders(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 3, 'val': 1, 'test': 2}, size=8)
        module = SegMunichDataModule(str(tmp_path), batch_size=2)
        module.setup('fit')
        module.setup('test')
        assert sources(module.train_dataset.ids) == {'0000', '0001', '0002'}
        assert sources(module.val_dataset.ids) == {'0003'}
        assert sources(module.test_dataset.ids) == {'0004', '0005'}

    def test_val_is_for_testing(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 3, 'val': 1}, size=8)
        module = SegMunichDataModule(str(tmp_path), batch_size=2)
        module.setup('validate')
        module.setup('test')
        assert sources(module.test_dataset.ids) == {'0003'}
        assert not sources(module.val_dataset.ids) & {'0003'}

    def test_filter_reaches_all_splits(self, root: str) -> None:
        module = SegMunichDataModule(root, batch_size=2, max_background=0.5)
        module.setup('fit')
        module.setup('test')
        assert len(module.train_dataset) + len(module.val_dataset) == 10
        assert sources(module.test_dataset.ids) == {'0007'}


class TestStatistics:
    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
    def test_of_the_training_split(self, root: str, stage: str) -> None:
        module = SegMunichDataModule(root, batch_size=2, bands=['B08', 'B04'])
        other = SegMunichDataModule(root, batch_size=2, bands=['B08', 'B04'])
        module.setup(stage)
        other.setup('fit')
        train = other.train_dataset
        pixels = torch.stack([train[i]['image'] for i in range(len(train))])
        pixels = pixels.double().movedim(1, 0).flatten(1)
        assert torch.allclose(module.mean.double(), pixels.mean(1), rtol=1e-6)
        assert torch.allclose(module.std.double(), pixels.std(1, correction=0))
        sample = train[0]
        out = module.aug({'image': sample['image'][None], 'mask': sample['mask'][None]})
        wanted = (sample['image'] - module.mean[:, None, None]) / module.std[
            :, None, None
        ]
        assert torch.equal(out['image'][0], wanted)

    def test_spec_before_setup(self, root: str) -> None:
        module = SegMunichDataModule(root, batch_size=2, bands=['B08', 'B04'])
        before = module.spec
        module.setup('fit')
        assert module.spec == before == module.train_dataset.spec
        assert before.bands == ('B08', 'B04') and before.num_classes == 13


class TestAugmentation:
    @pytest.mark.parametrize('patch_size', [None, 32])
    def test_masks_fit(self, root: str, patch_size: int | None) -> None:
        torch.manual_seed(0)
        module = SegMunichDataModule(root, batch_size=10, patch_size=patch_size)
        module.setup('fit')
        batch = module.train_aug(next(iter(module.train_dataloader())))
        side = patch_size or 48
        assert batch['image'].shape == (10, 10, side, side)
        image = batch['image'] * module.std[:, None, None] + module.mean[:, None, None]
        spectra = torch.from_numpy(SPECTRA)[None, :, :, None, None] + 9.5
        made_for = (image[:, None] - spectra).abs().sum(dim=2).argmin(dim=1)
        assert torch.equal(made_for, batch['mask'])


class TestRefusals:
    @pytest.mark.parametrize('share', [0, 1, -0.1, float('nan')])
    def test_val_split(self, share: float) -> None:
        with pytest.raises(ValueError, match=f'val_split={share} must lie between'):
            SegMunichDataModule(val_split=share)

    def test_no_step(self, root: str) -> None:
        with pytest.raises(ValueError, match='10 training samples for batch_size=32'):
            SegMunichDataModule(root).setup('fit')

    def test_large_patch(self, root: str) -> None:
        with pytest.raises(ValueError, match=r'patch_size=64 does not fit .*48x48'):
            SegMunichDataModule(root, batch_size=2, patch_size=64).setup('fit')

    def test_one_tile(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 1, 'test': 1}, size=8)
        with pytest.raises(ValueError, match='2 training patches of 1 source tile'):
            SegMunichDataModule(str(tmp_path), batch_size=1).setup('fit')

    def test_leak(self, tmp_path: Path) -> None:
        make_segmunich(tmp_path, {'train': 3}, size=8)
        make_segmunich(tmp_path, {'test': 1}, size=8)
        with pytest.raises(ValueError, match='in both splits'):
            SegMunichDataModule(str(tmp_path), batch_size=1).setup('fit')
        module = SegMunichDataModule(str(tmp_path), batch_size=1, leaks='drop')
        module.setup('fit')
        assert '0000' not in sources(module.train_dataset.ids + module.val_dataset.ids)


# a fast development run has a logger that takes figures, so it plots
@pytest.mark.parametrize('fast_dev_run', [False, True])
def test_fit_and_test(root: str, tmp_path: Path, fast_dev_run: bool) -> None:
    module = SegMunichDataModule(root, batch_size=4, patch_size=32)
    trainer = quiet_trainer(
        tmp_path, max_epochs=1, fast_dev_run=fast_dev_run, logger=fast_dev_run
    )
    task = SemanticSegmentationTask(
        model='unet',
        backbone='resnet18',
        weights=None,
        in_channels=10,
        task='multiclass',
        num_classes=13,
    )
    before = next(task.model.parameters()).clone()
    trainer.fit(task, module)
    assert trainer.global_step == (1 if fast_dev_run else 2)
    assert np.isfinite(float(trainer.callback_metrics['train_loss']))
    assert np.isfinite(float(trainer.callback_metrics['val_loss']))
    assert not torch.equal(before, next(task.model.parameters()))
    assert np.isfinite(trainer.test(task, module, verbose=False)[0]['test_loss'])
    plt.close('all')
