# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from tests.conftest import quiet_trainer
from tests.data.oscd import (
    TEST,
    TRAIN,
    fake_image,
    fake_mask,
    make_oscd,
    mask_path,
    write_mask,
)
from torchgeo_specdm.datamodules.oscd import OSCDDataModule
from torchgeo_specdm.datasets.oscd import OSCD, tile_grid

BANDS = ('B02', 'B03', 'B04', 'B8A')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp('my oscd')
    make_oscd(folder, bands=BANDS)
    return str(folder)


def small(root: str | Path, **settings: Any) -> OSCDDataModule:
    """Tiles of 16 pixels, 36 to train."""
    defaults = {'batch_size': 4, 'bands': BANDS, 'patch_size': 16, 'overlap': 0.5}
    return OSCDDataModule(str(root), **defaults | settings)


def names(dataset: Any) -> set[str]:
    return {scene.name for scene in dataset.scenes}


class Tiny(LightningModule):
    """One convolution over both dates."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Conv2d(2 * len(BANDS), 1, 3, padding=1)
        self.losses: list[float] = []
        self.seen: dict[str, list[Tensor]] = {'val': [], 'test': [], 'predict': []}

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.network(batch['image'].flatten(1, 2))
        target = batch['mask'].float()
        return nn.functional.binary_cross_entropy_with_logits(logits, target)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        assert set(batch) == {'image', 'mask'}
        loss = self._loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.seen['val'].append(batch['tile'])
        self.log('val_loss', self._loss(batch))

    def test_step(self, batch: dict[str, Tensor]) -> None:
        self.seen['test'].append(batch['tile'])
        self.log('test_loss', self._loss(batch))

    def predict_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.seen['predict'].append(batch['tile'])
        return batch['image']

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TestSplits:
    def test_cities(self, root: str) -> None:
        module = small(root)
        for stage in ('fit', 'test', 'predict'):
            module.setup(stage)
        assert names(module.train_dataset) == {'bercy', 'paris'}
        assert names(module.val_dataset) == {'bordeaux'}
        assert names(module.test_dataset) == set(TEST)
        assert names(module.predict_dataset) == set(TEST)
        assert len(module.train_dataset) == 36
        # 44x40 at a stride of 8: 0, 8, 16, 24 and the flush 28
        assert len(module.val_dataset) == 5 * 4
        assert (
            'tile' in module.test_dataset[0] and 'tile' not in module.train_dataset[0]
        )

    def test_validate_alone(self, root: str) -> None:
        module = small(root, val_cities=('bercy', 'paris'))
        module.setup('validate')
        assert names(module.val_dataset) == {'bercy', 'paris'}

    def test_leaves_cities_out(self, root: str) -> None:
        module = small(root, test_cities=['bercy'])
        module.setup('fit')
        module.setup('test')
        assert names(module.test_dataset) == {'bercy'}
        assert names(module.train_dataset) == {'paris', *TEST}

    def test_no_name_for_the_crop_of_others(self, root: str) -> None:
        module = small(root, crop_size=8)
        assert module.crop_size == 8 and not hasattr(module, 'patch_size')
        assert module.spec.bands == BANDS and module.spec.dates == 2


class TestStatistics:
    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test', 'predict'])
    def test_of_the_training_split(self, root: str, stage: str) -> None:
        module = small(root)
        module.setup(stage)
        train = OSCD(root, bands=BANDS, patch_size=16, overlap=0.5)
        images = torch.stack([train[i]['image'] for i in range(len(train))])
        pixels = images.double().movedim(2, 0).flatten(1)
        assert torch.allclose(module.mean.double(), pixels.mean(1), rtol=1e-6)
        assert torch.allclose(module.std.double(), pixels.std(1, correction=0))
        sample = train[0]['image']
        out = module.aug({'image': sample[None]})['image'][0]
        wanted = (sample - module.mean[:, None, None]) / module.std[:, None, None]
        assert torch.equal(out, wanted)


class TestAugmentation:
    @pytest.mark.parametrize('crop_size', [None, 8])
    @pytest.mark.parametrize('batch_size', [1, 12])
    def test_aligned(self, root: str, crop_size: int | None, batch_size: int) -> None:
        torch.manual_seed(0)
        module = small(root, batch_size=batch_size, crop_size=crop_size)
        module.setup('fit')
        # values tell row and column, but not the city
        image = torch.from_numpy(fake_image(BANDS, 40, 48).astype('float32'))
        mask = torch.from_numpy(fake_mask(40, 48)).long()
        moved = 0
        for before in module.train_dataloader():
            batch = module.train_aug(before)
            side = crop_size or 16
            assert batch['image'].shape == (batch_size, 2, 4, side, side)
            assert batch['mask'].shape == (batch_size, 1, side, side)
            assert batch['mask'].dtype == torch.int64
            numbers = batch['image'] * module.std[:, None, None]
            numbers = (numbers + module.mean[:, None, None]).round()
            # B02 is odd (column + 200), B03 even (row + 400)
            columns = (numbers[:, 0, 0] - 200).long()
            rows = (numbers[:, 0, 1] - 400).long()
            assert torch.equal(numbers.movedim(0, 2), image[:, :, rows, columns])
            assert torch.equal(batch['mask'][:, 0], mask[rows, columns])
            moved += int((rows[:, 0, 0] != rows.amin((1, 2))).sum())
        assert moved > 0

    def test_evaluation_does_not_move(self, root: str) -> None:
        module = small(root)
        module.setup('test')
        batch = next(iter(module.test_dataloader()))
        out = module.aug(batch)
        assert torch.equal(out['mask'], batch['mask'])
        assert torch.equal(out['tile'], batch['tile'])

    def test_unchanged_tiles(self, tmp_path: Path) -> None:
        cities = {'bercy': (16, 16), 'bordeaux': (16, 16)}
        make_oscd(tmp_path, cities, {'rio': (16, 16)}, BANDS)
        write_mask(mask_path(tmp_path, 'bercy'), fake_mask(16, 16) & False)
        module = small(tmp_path, batch_size=1)
        task = Tiny()
        trainer = quiet_trainer(tmp_path, max_epochs=1)
        trainer.fit(task, module)
        assert trainer.global_step == 1
        assert torch.tensor(task.losses).isfinite().all()


class TestRefusals:
    def test_no_step(self, root: str) -> None:
        match = r'OSCD in .* has 36 training samples for batch_size=37'
        with pytest.raises(ValueError, match=match):
            small(root, batch_size=37).setup('fit')
        small(root, batch_size=37).setup('test')

    @pytest.mark.parametrize('crop_size', [0, 17])
    def test_crop(self, root: str, crop_size: int) -> None:
        with pytest.raises(ValueError, match=rf'={crop_size} does not fit .* 16x16'):
            small(root, crop_size=crop_size).setup('fit')

    def test_bands(self) -> None:
        with pytest.raises(ValueError, match=r"bands \['B8'\] are not among"):
            OSCDDataModule(bands=('B02', 'B8'))

    def test_nothing_to_validate_on(self, root: str) -> None:
        with pytest.raises(ValueError, match=r"leaves no city for split='val'"):
            small(root, val_cities=()).setup('validate')

    def test_small_training_city(self, root: str) -> None:
        with pytest.raises(ValueError, match='bercy has 40x48 pixels, but a tile has'):
            small(root, patch_size=41).setup('fit')


class TestFit:
    def test_all_stages(self, root: str, tmp_path: Path) -> None:
        module, task = small(root, crop_size=8), Tiny()
        before = task.network.weight.detach().clone()
        trainer = quiet_trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0)
        trainer.fit(task, module)
        assert trainer.global_step == len(task.losses) == 2 * 9
        assert torch.tensor(task.losses).isfinite().all()
        assert torch.isfinite(trainer.callback_metrics['val_loss'])
        assert not torch.equal(before, task.network.weight)
        assert len(torch.cat(task.seen['val'])) == 2 * len(module.val_dataset)
        result = trainer.test(task, module, verbose=False)[0]
        assert 0 < result['test_loss'] < 10
        count = sum(len(tile_grid(*s, 16, 8, cover=True)) for s in TEST.values())
        assert torch.cat(task.seen['test']).unique(dim=0).shape == (count, 5)
        images = torch.cat(trainer.predict(task, module))
        assert images.shape == (count, 2, 4, 16, 16)
        # normalised, not moved: the first tile begins at row 0 and column 0
        first = fake_image(BANDS, *TEST['norcia'])[..., :16, :16].astype('float32')
        wanted = (torch.from_numpy(first) - module.mean[:, None, None]) / module.std[
            :, None, None
        ]
        assert torch.equal(images[0], wanted)
        figure = module.plot(module.val_dataset[0])
        assert [axis.get_title() for axis in figure.axes][:2] == ['Image 1', 'Image 2']
        plt.close('all')

    def test_without_validation(self, root: str, tmp_path: Path) -> None:
        module, task = small(root, val_cities=()), Tiny()
        trainer = quiet_trainer(tmp_path, max_epochs=1)
        trainer.fit(task, module)
        tiles = sum(len(tile_grid(*size, 16, 8)) for size in TRAIN.values())
        assert trainer.global_step == tiles // 4 > 0
        assert torch.tensor(task.losses).isfinite().all()
        assert not task.seen['val'] and module.val_dataset is None
