# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset
from torchgeo.datamodules import GeoDataModule, NonGeoDataModule
from torchgeo.datasets import NonGeoDataset

from tests.data.pairs import write_tiff
from tests.study.worlds import pairs_data
from torchgeo_specdm import (
    GenerationDataModule,
    LatentDataModule,
    PairFolder,
    SpecDMTask,
    SyntheticAugmentedDataModule,
    UnlabelledDataModule,
)
from torchgeo_specdm.datamodules.support.adapter import describe_datamodule
from torchgeo_specdm.objects import make_object
from torchgeo_specdm.pairs.card import training_data

from ..conftest import PAIR_BANDS, pairs, quiet_trainer, train, write_pair_folder
from .generating import draw
from .test_subset import fit

#: Marks images without labels: no labelled one is as bright.
MARK = 4500


def write_images(root: Path, count: int = 6, size: int = 48, level: int = MARK) -> Path:
    """Images of all bands and no masks, larger than the labelled patches."""
    random = np.random.default_rng(5)
    for i in range(count):
        image = level + random.integers(0, 50, (len(PAIR_BANDS), size, size))
        write_tiff(root / f'{i}.tif', image.astype(np.uint16), PAIR_BANDS)
    return root


class TestBatches:
    @pytest.mark.parametrize('share', [0.25, 0.5])
    def test_have_their_share_of_images_without_labels(
        self, pair_folder: Path, tmp_path: Path, share: float
    ) -> None:
        data = UnlabelledDataModule(
            pairs(pair_folder), str(write_images(tmp_path / 'images')), share
        )
        recorder = fit(data, tmp_path, 4)
        assert data.counts == (16, 6)
        for batch in recorder.trained:
            assert batch['image'].shape == (8, 6, 32, 32)
            blank = (batch['mask'] == 255).flatten(1).all(1)
            assert float(blank.float().mean()) == share
            digital = (
                batch['image'] * data.std[:, None, None] + data.mean[:, None, None]
            )
            bright = digital.flatten(1).min(1).values > MARK - 10
            assert torch.equal(bright, blank)
        # those that are scored are the real ones
        assert recorder.validated
        assert not any(
            (b['mask'] == 255).flatten(1).all(1).any() for b in recorder.validated
        )

    def test_masks_of_the_others_are_not_looked_at(
        self, pair_folder: Path, tmp_path: Path
    ) -> None:
        other = write_pair_folder(tmp_path / 'other', seed=1)
        for given in (str(other), pairs(other)):
            data = UnlabelledDataModule(pairs(pair_folder), given)
            recorder = fit(data, tmp_path, 1)
            masks = recorder.trained[0]['mask']
            assert int((masks == 255).flatten(1).all(1).sum()) == 4
        assert data.counts == (16, 16)

    def test_of_several_sources_are_cropped_alike(
        self, pair_folder: Path, tmp_path: Path
    ) -> None:
        large = write_images(tmp_path / 'large', 3)
        small = write_images(tmp_path / 'small', 5, size=32)
        real = pairs_data(pair_folder)
        given = {'real': real, 'unlabelled': [str(large), str(small)]}
        config = {'class_path': 'UnlabelledDataModule', 'init_args': given}
        data = make_object(config, UnlabelledDataModule)
        recorder = fit(data, tmp_path, 4)
        assert data.counts == (16, 8)
        assert {b['image'].shape for b in recorder.trained} == {(8, 6, 32, 32)}

    def test_may_be_those_alone_that_resemble_the_labelled_ones(
        self, pair_folder: Path, tmp_path: Path
    ) -> None:
        bright = str(write_images(tmp_path / 'images'))
        other = str(write_pair_folder(tmp_path / 'other', seed=1))
        data = UnlabelledDataModule(pairs(pair_folder), [bright, other], nearest=10)
        recorder = fit(data, tmp_path, 4)
        assert data.counts == (16, 10) and data.training_record()['unlabelled'] == 10
        for batch in recorder.trained:
            digital = (
                batch['image'] * data.std[:, None, None] + data.mean[:, None, None]
            )
            assert float(digital.flatten(1).min(1).values.max()) < MARK - 10
        # what was not taken was not seen
        everything = UnlabelledDataModule(pairs(pair_folder), other)
        fit(everything, tmp_path, 1)
        assert data.seen_samples() < everything.seen_samples()

    def test_of_a_datamodule_without_a_value_for_no_label(self, tmp_path: Path) -> None:
        class Foreign(NonGeoDataset):
            classes = ('a', 'b')

            def __len__(self) -> int:
                return 4

            def __getitem__(self, index: int) -> dict[str, Any]:
                torch.manual_seed(index)
                mask = torch.randint(0, 2, (32, 32))
                return {'image': torch.rand(3, 32, 32) * 200, 'mask': mask, 'name': '1'}

        class Plain(NonGeoDataModule):
            def setup(self, stage: str) -> None:
                half = range(2) if self.kwargs['first'] else range(2, 4)
                self.train_dataset = self.val_dataset = Subset(Foreign(), [*half])

        both = [Plain(Foreign, 2, first=first) for first in (True, False)]
        for one in both:
            one.mean, one.std = torch.tensor(0.0), torch.tensor(255.0)
        data = UnlabelledDataModule(*both)
        recorder = fit(data, tmp_path, 1)
        assert describe_datamodule(data).ignore_index == 255
        assert (recorder.trained[0]['mask'] == 255).flatten(1).all(1).sum() == 1


class TestRefusals:
    @pytest.mark.parametrize('split', ['val', 'test'])
    def test_images_that_are_scored(
        self, pair_folder: Path, tmp_path: Path, split: str
    ) -> None:
        name = (pair_folder / f'{split}.txt').read_text().split()[1]
        folder = write_images(tmp_path / 'images', size=32)
        copyfile(pair_folder / 'images' / f'{name}.tif', folder / 'new.tif')
        data = UnlabelledDataModule(pairs(pair_folder), str(folder))
        with pytest.raises(ValueError, match=f'has the images of 1 {split} samples'):
            data.setup('fit')
        meant = UnlabelledDataModule(
            pairs(pair_folder), str(folder), scored_places=True
        )
        meant.setup('fit')
        assert meant.training_record()['protocol'] == 'labels here, map there'

    def test_other_units(self, pair_folder: Path, tmp_path: Path) -> None:
        folder = write_images(tmp_path / 'images', level=60000)
        data = UnlabelledDataModule(pairs(pair_folder), str(folder))
        with pytest.raises(ValueError, match='have different units'):
            data.setup('fit')

    def test_smaller_than_the_crop(self, pair_folder: Path, tmp_path: Path) -> None:
        folder = write_images(tmp_path / 'images', size=16)
        data = UnlabelledDataModule(pairs(pair_folder, patch_size=32), str(folder))
        with pytest.raises(ValueError, match=r'crops to \(32, 32\) pixels'):
            data.setup('fit')

    @pytest.mark.parametrize('share', [0.0, 1.0])
    def test_share(self, pair_folder: Path, share: float) -> None:
        with pytest.raises(ValueError, match=f'share={share} must lie between'):
            UnlabelledDataModule(pairs(pair_folder), 'x', share)

    def test_samples_of_a_map(self, pair_folder: Path) -> None:
        data = GeoDataModule(NonGeoDataset, 1, 1)
        with pytest.raises(
            TypeError, match='unlabelled=GeoDataModule must be a folder'
        ):
            UnlabelledDataModule(pairs(pair_folder), data)

    def test_codec_of_one_stream(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        task = SpecDMTask(
            'autoencoder', str(tmp_path / 'c'), 'single_stream', 'tiny', tiny_settings
        )
        data = UnlabelledDataModule(
            pairs(pair_folder), str(write_images(tmp_path / 'images'))
        )
        with pytest.raises(
            ValueError, match='learns nothing from images without labels'
        ):
            quiet_trainer(tmp_path, max_epochs=1).fit(task, data)


class TestStages:
    @pytest.mark.parametrize('cached', [False, True])
    def test_are_told_in_all_that_is_written(
        self,
        pair_folder: Path,
        tiny_settings: dict[str, Any],
        tmp_path: Path,
        cached: bool,
    ) -> None:
        other = write_pair_folder(tmp_path / 'other', seed=1)
        data: Any = UnlabelledDataModule(pairs(pair_folder), str(other))
        data = LatentDataModule(data, 2) if cached else data
        out = tmp_path / 'generator'
        task = SpecDMTask('diffusion', str(out), 'pixels', 'tiny', tiny_settings)
        run = train(task, data, tmp_path, 1)
        assert all(np.isfinite(run.losses))
        training = json.loads((out / 'config.json').read_text())['training']
        assert training['samples'] == 16 and training['unlabelled'] == 24
        assert training['datamodule'] == 'PairFolderDataModule'
        draw(run, GenerationDataModule(str(tmp_path / 'set'), 8), tmp_path)
        assert '| trained on | 16 samples of PairFolderDataModule and 24 images' in (
            (tmp_path / 'set' / 'README.md').read_text()
        )
        # an image that was seen without labels is a leak, whatever its mask is now
        name = (other / 'test.txt').read_text().split()[0]
        (other / 'masks' / f'{name}.tif').write_bytes(
            (other / 'masks' / '000.tif').read_bytes()
        )
        mixed = SyntheticAugmentedDataModule(pairs(other), str(tmp_path / 'set'), 0.5)
        with pytest.raises(ValueError, match=r'4 val samples of .* are among those'):
            mixed.setup('fit')
        assert len(PairFolder(tmp_path / 'set')) == 8

    def test_autoencoder(
        self, pair_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        folder = write_images(tmp_path / 'images')
        data = UnlabelledDataModule(pairs(pair_folder), str(folder), 0.75)
        task = SpecDMTask(
            'autoencoder', str(tmp_path / 'codec'), settings=tiny_settings
        )
        run = train(task, data, tmp_path, 2)
        assert run.trainer.global_step == 4 and all(np.isfinite(run.losses))
        # the codec has seen images as bright as those without labels
        high = run.task.codec.center + run.task.codec.half_range
        assert float(high.min()) > MARK - 100


def test_training_data_in_words() -> None:
    record = {'samples': 3, 'datamodule': 'X', 'unlabelled': 7, 'protocol': 'P'}
    assert training_data(record) == '3 samples of X and 7 images without labels (P)'
    assert training_data({}) == 'unknown samples of unknown'
