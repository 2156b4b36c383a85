# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import rasterio
import torch
from affine import Affine
from lightning.pytorch import seed_everything
from rasterio.crs import CRS
from torch import Tensor
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset

from tests.tasks.test_segmentation import fit
from torchgeo_specdm.datamodules.support.preparation import BatchAugmentation
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.tasks.change_detection import MultispectralChangeDetectionTask

SPEC = SampleSpec(('B02', 'B03', 'B04'), ('no change', 'change'), dates=2)
#: Height and width of the two scenes, and where tiles of 32 pixels cover them.
SIZE = (48, 40)
CORNERS = [(r, c) for r in (0, 16) for c in (0, 8)]


class Scene(NamedTuple):
    name: str
    crs: CRS
    transform: Affine


class Brighter(NonGeoDataset):
    """Two dates of noise; where the second is brighter, it has changed."""

    scenes = tuple(
        Scene(name, CRS.from_epsg(32632), Affine(10, 0, 500_000 + 100 * i, 0, -10, 0))
        for i, name in enumerate(('aachen', 'bonn'))
    )

    def __init__(self, seed: int, tiled: bool, changed: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.rand(2, 6, 5, generator=generator) < 0.3
        self.truth = (blocks & changed).long()
        self.truth = self.truth.repeat_interleave(8, 1).repeat_interleave(8, 2)
        noise = torch.randn(2, 2, 3, *SIZE, generator=generator) / 4
        noise[:, 1] += 2 * self.truth[:, None]
        self.images = noise
        self.tiled = tiled

    def __len__(self) -> int:
        return 2 * len(CORNERS)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, place = divmod(index, len(CORNERS))
        row, column = CORNERS[place]
        window = (..., slice(row, row + 32), slice(column, column + 32))
        sample = {
            'image': self.images[number][window],
            'mask': self.truth[number][window][None],
        }
        if self.tiled:
            sample['tile'] = torch.tensor([number, row, column, *SIZE])
        return sample


class BrighterDataModule(NonGeoDataModule):
    mean = torch.zeros(3)
    std = torch.ones(3)
    spec = SPEC

    def __init__(
        self, batch_size: int = 4, tiled: bool = True, changed: bool = True
    ) -> None:
        super().__init__(Brighter, batch_size)
        self.aug = BatchAugmentation(self.mean, self.std)
        self.tiled, self.changed = tiled, changed

    def setup(self, stage: str) -> None:
        self.train_dataset = Brighter(0, False, self.changed)
        self.val_dataset = Brighter(1, self.tiled)
        self.test_dataset = Brighter(2, self.tiled)
        self.predict_dataset = Brighter(3, self.tiled)


@pytest.fixture(autouse=True)
def seed() -> None:
    seed_everything(0)


def a_task(**changes: Any) -> MultispectralChangeDetectionTask:
    options = {'model': 'fcsiamdiff', 'lr': 2e-3, 'warmup': 0.0, **changes}
    return MultispectralChangeDetectionTask(**options)


def test_learns_scores_and_writes_maps(tmp_path: Path) -> None:
    task = a_task(model='siamcrnn', out=str(tmp_path / 'maps'))
    data = BrighterDataModule()
    trainer, losses = fit(task, data, max_epochs=25, check_val_every_n_epoch=25)
    assert losses[-1] < losses[0] / 2
    (found,) = trainer.test(task, data, verbose=False)
    names = {'miou', 'f1', 'accuracy'}
    names |= {f'change_{name}' for name in ('iou', 'f1', 'precision', 'recall')}
    wanted = {f'test_{name}' for name in names}
    wanted |= {f'test_stitched_{name}' for name in names}
    wanted |= {'test_loss', 'test_iou/no change', 'test_iou/change'}
    wanted |= {'test_stitched_iou/no change', 'test_stitched_iou/change'}
    by_scene = {
        f'test_stitched_change_{name}/{scene.name}'
        for name in ('f1', 'precision', 'recall')
        for scene in Brighter.scenes
    }
    assert set(found) == wanted | by_scene
    assert found['test_change_f1'] > 0.8
    assert found['test_change_iou'] == found['test_iou/change']
    both = found['test_iou/change'] + found['test_iou/no change']
    assert found['test_miou'] == pytest.approx(both / 2)

    # the scores of the scenes are those of the maps
    maps = []
    for number, scene in enumerate(Brighter.scenes):
        with rasterio.open(tmp_path / 'maps' / f'{scene.name}.tif') as source:
            assert source.crs == scene.crs and source.transform == scene.transform
            assert source.colormap(1)[1][:3] == SPEC.colors[1]
            maps.append(torch.from_numpy(source.read(1)).long())
        right = (maps[number] == data.test_dataset.truth[number]).float().mean()
        assert right > 0.9
    predicted, truth = torch.stack(maps), data.test_dataset.truth
    hit = ((predicted == 1) & (truth == 1)).sum()
    precision, recall = hit / (predicted == 1).sum(), hit / (truth == 1).sum()
    assert found['test_stitched_change_precision'] == pytest.approx(float(precision))
    assert found['test_stitched_change_recall'] == pytest.approx(float(recall))
    for scene, seen, real in zip(Brighter.scenes, predicted, truth, strict=True):
        precision = real[seen == 1].float().mean()
        assert found[f'test_stitched_change_precision/{scene.name}'] == pytest.approx(
            float(precision)
        )

    batches = trainer.predict(task, data)
    assert torch.cat(batches).shape == (8, 32, 32)
    with rasterio.open(tmp_path / 'maps' / 'bonn.tif') as source:
        seen = torch.from_numpy(source.read(1)).long()
    assert (seen == data.predict_dataset.truth[1]).float().mean() > 0.9


@pytest.mark.parametrize(
    'options',
    [
        {'model': 'changeformer', 'relu_logits': True, 'lr': 1e-4},
        {'model': 'siamcrnn', 'loss': 'ce+lovasz', 'class_weights': [1.0, 10.0]},
        {'model': 'fcsiamconc', 'backbone': 'mobilenet_v2'},
    ],
    ids=lambda o: o['model'],
)
def test_networks(options: dict[str, Any]) -> None:
    task = a_task(**options)
    _, losses = fit(task, BrighterDataModule(tiled=False), max_epochs=2)
    assert len(losses) == 4
    # sizes that no network takes by itself
    with torch.no_grad():
        assert task.eval()(torch.randn(1, 2, 3, 37, 45)).shape == (1, 2, 37, 45)


def test_a_batch_of_one_without_change() -> None:
    data = BrighterDataModule(batch_size=1, changed=False)
    task = a_task(model='siamcrnn')
    trainer, losses = fit(task, data, max_epochs=1)
    assert all(map(math.isfinite, losses))
    assert trainer.callback_metrics['val_change_f1'] >= 0


def test_a_batch_too_small_for_batch_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r'one pair of 32x32 pixels.*batch_size of 2'):
        fit(a_task(), BrighterDataModule(batch_size=1), max_steps=1)


def test_lovasz_is_added_to_cross_entropy() -> None:
    sample = Brighter(0, False)[0]
    batch = {key: value[None] for key, value in sample.items()}
    sizes = {'in_channels': 3, 'num_classes': 2}
    both, single = a_task(loss='ce+lovasz', **sizes).eval(), a_task(**sizes).eval()
    both.load_state_dict(single.state_dict())
    difference = (both._step(batch)[0] - single._step(batch)[0]).detach()
    assert 0 < float(difference) < 0.75


def test_scores_without_tiles() -> None:
    task, data = a_task(), BrighterDataModule(tiled=False)
    trainer, _ = fit(task, data, max_steps=1)
    (found,) = trainer.test(task, data, verbose=False)
    assert 'test_change_f1' in found
    assert not any('stitched' in name for name in found)


def test_maps_need_places(tmp_path: Path) -> None:
    task, data = a_task(out=str(tmp_path)), BrighterDataModule(tiled=False)
    trainer, _ = fit(task, data, max_steps=1)
    with pytest.raises(ValueError, match=r'out=.*no `tile`.*OSCDDataModule'):
        trainer.test(task, data, verbose=False)


def test_refuses_one_date() -> None:
    data = BrighterDataModule()
    data.spec = SampleSpec(SPEC.bands, SPEC.classes)
    with pytest.raises(ValueError, match=r'dates=1 .* takes 2.*segmentation task'):
        fit(a_task(), data, max_steps=1)


@pytest.mark.parametrize(
    'name, value', [('model', 'changefromer'), ('loss', 'ce+dice')]
)
def test_refuses_typos(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f'{name}=.* must be one of'):
        a_task(**{name: value})
