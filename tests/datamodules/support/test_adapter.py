# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchgeo.datamodules import (
    BaseDataModule,
    GeoDataModule,
    LandCoverAIDataModule,
    NonGeoDataModule,
)
from torchgeo.datasets import LandCoverAI

from torchgeo_specdm import (
    LatentDataModule,
    PairFolderDataModule,
    SampleSpec,
    SpecDMTask,
)
from torchgeo_specdm.codecs import load_codec
from torchgeo_specdm.datamodules.support.adapter import (
    check_units,
    describe_datamodule,
    digital_numbers,
    same_randomness,
    spread_images,
    training_batches,
)
from torchgeo_specdm.datamodules.support.preparation import BatchAugmentation
from torchgeo_specdm.pairs.facts import SampleFacts

from ...conftest import quiet_trainer
from ..torchgeo_fakes import write_landcoverai

CPU = torch.device('cpu')
Aug = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Patches(Dataset[dict[str, Tensor]]):
    """Patches whose bands differ in level and spread."""

    bands = ('green', 'swir')
    classes = ('a', 'b', 'c')

    def __init__(self, count: int = 12, scale: float = 1.0, dates: int = 1) -> None:
        random = torch.Generator().manual_seed(0)
        shape = (count, 2, 8, 8) if dates == 1 else (count, dates, 2, 8, 8)
        spread = torch.tensor([300.0, 900]).view(2, 1, 1)
        level = torch.tensor([1000.0, 3000]).view(2, 1, 1)
        self.images = (torch.rand(shape, generator=random) * spread + level) * scale
        self.masks = torch.randint(0, 3, (count, 8, 8), generator=random)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'image': self.images[index], 'mask': self.masks[index]}


class Foreign(NonGeoDataModule):
    """Somebody's datamodule: it knows nothing of ours."""

    def __init__(
        self, dataset: Dataset[Any], train_aug: Aug | None = None, **kwargs: Any
    ) -> None:
        super().__init__(Patches, **{'batch_size': 4} | kwargs)
        self.patches = dataset
        inner: Any = dataset
        while not hasattr(inner, 'images'):
            inner = inner.dataset if isinstance(inner, Subset) else inner.datasets[0]
        pixels = inner.images.movedim(-3, 0).flatten(1)
        self.mean, self.std = pixels.mean(1), pixels.std(1)
        # kornia's takes no dates
        self.aug = BatchAugmentation(self.mean, self.std)
        self.train_aug = train_aug

    def setup(self, stage: str) -> None:
        self.train_dataset = self.val_dataset = self.patches


def in_trainer(datamodule: BaseDataModule) -> Any:
    """A datamodule as it is during fit, after setup."""
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator='cpu')
    trainer.training = True
    datamodule.trainer = trainer
    datamodule.setup('fit')
    return datamodule


def normalise(datamodule: Foreign, *further: Any) -> Aug:
    return K.AugmentationSequential(
        K.Normalize(mean=datamodule.mean, std=datamodule.std),
        *further,
        data_keys=None,
        keepdim=True,
    )


class TestDescribe:
    def test_ours_says_it_itself(self, pair_folder: Path) -> None:
        data = PairFolderDataModule(str(pair_folder))
        data.setup('fit')
        spec = describe_datamodule(data)
        assert spec == data.spec
        renamed = describe_datamodule(data, {'scale': 1e-3})
        assert renamed.scale == 1e-3 and renamed.bands == spec.bands

    @pytest.mark.parametrize(
        'wrap',
        [
            lambda x: x,
            lambda x: Subset(x, [3, 4, 5, 6]),
            lambda x: ConcatDataset([x, Patches()]),
            lambda x: Subset(ConcatDataset([Subset(x, [0, 1]), x]), [0, 1, 5]),
        ],
    )
    def test_names_of_the_innermost_data_set(self, wrap: Any) -> None:
        spec = describe_datamodule(in_trainer(Foreign(wrap(Patches()))))
        assert spec.bands == Patches.bands
        assert spec.classes == Patches.classes
        assert (spec.scale, spec.dtype, spec.dates) == (1e-4, 'uint16', 1)

    def test_dates(self) -> None:
        spec = describe_datamodule(in_trainer(Foreign(Patches(dates=3))))
        assert spec.dates == 3 and spec.num_bands == 2

    def test_masks_of_several_channels_are_refused_at_once(self) -> None:
        # as ETCI2021: a flood and a water mask, of which one is taken after transfer
        data = Patches()
        data.masks = torch.stack([data.masks, data.masks], 1)
        with pytest.raises(ValueError, match=r'Foreign has masks of \(2, 8, 8\)'):
            describe_datamodule(in_trainer(Foreign(data)))

    @pytest.mark.parametrize(
        ('scale', 'lowered', 'whole', 'found'),
        [
            (1.0, 0, False, (1e-4, 'uint16')),
            (0.05, 0, True, (1 / 255, 'uint8')),
            (1e-4, 0, False, (1.0, 'float32')),
            # percent would lose their fractions as bytes, and decibels all but them
            (0.01, 0, False, (1 / 255, 'float32')),
            (0.01, 30, False, (1.0, 'float32')),
            (1.0, 1200, True, (1e-4, 'float32')),
        ],
    )
    def test_range_tells_the_unit(
        self, scale: float, lowered: float, whole: bool, found: tuple[float, str]
    ) -> None:
        data = Patches(scale=scale)
        data.images -= lowered
        data.images = data.images.round() if whole else data.images
        # a black first patch must not pass for reflectance
        data.images[0] = 0
        spec = describe_datamodule(in_trainer(Foreign(data)))
        assert (spec.scale, spec.dtype) == found

    @pytest.mark.parametrize(
        ('given', 'said'),
        [
            ({'class': ['a']}, r"spec has \['class'\], but may have"),
            ({'bands': ['x']}, 'spec has 1 bands and 1 dates, but samples of Foreign'),
            ({'dates': 2}, 'spec has 2 bands and 2 dates, but samples of Foreign'),
        ],
    )
    def test_a_spec_of_other_samples(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            describe_datamodule(in_trainer(Foreign(Patches())), given)

    @pytest.mark.parametrize(
        ('sample', 'said'),
        [
            ((1, 2), r'has the keys \[\]'),
            ({'image': np.ones((2, 8, 8)), 'mask': 1}, 'of ndarray and a mask of int'),
        ],
    )
    def test_samples_that_are_none(self, sample: Any, said: str) -> None:
        with pytest.raises((TypeError, ValueError), match=said):
            SampleFacts.of(sample)

    def test_names_that_do_not_fit(self) -> None:
        data = Patches()
        data.images = data.images[:, :1].repeat(1, 3, 1, 1)
        assert describe_datamodule(in_trainer(Foreign(data))).bands == ('R', 'G', 'B')
        data.images = data.images[:, :1].repeat(1, 4, 1, 1)
        spec = describe_datamodule(in_trainer(Foreign(data)))
        assert spec.bands == ('band_1', 'band_2', 'band_3', 'band_4')

    def test_classes_must_be_known(self) -> None:
        data: Any = Patches()
        data.classes = ()
        with pytest.raises(ValueError, match=r'spec: \{classes: '):
            describe_datamodule(in_trainer(Foreign(data)))
        spec = describe_datamodule(in_trainer(Foreign(data)), {'classes': ['x', 'y']})
        assert spec.classes == ('x', 'y')

    def test_geo_datamodule(self) -> None:
        class Boxes(GeoDataModule):
            def __init__(self) -> None:
                super().__init__(Patches)  # type: ignore[arg-type]

        with pytest.raises(TypeError, match='Boxes is no NonGeoDataModule'):
            describe_datamodule(Boxes())

    def test_nothing_to_train_on(self) -> None:
        data = Foreign(Patches())
        with pytest.raises(ValueError, match='no training samples'):
            describe_datamodule(data)
        data.train_dataset = Subset(Patches(), [])
        with pytest.raises(ValueError, match='no training samples'):
            describe_datamodule(data)


class TestDigitalNumbers:
    @pytest.mark.parametrize('dates', [1, 2])
    def test_undoes_the_normalisation(self, dates: int) -> None:
        data = in_trainer(Foreign(Patches(dates=dates)))
        mean, std = data.mean.view(2, 1, 1), data.std.view(2, 1, 1)
        image = data.patches.images
        found = digital_numbers(data, (image - mean) / std)
        torch.testing.assert_close(found, image, rtol=1e-5, atol=1e-2)

    def test_scalar_mean_and_std(self) -> None:
        data = Foreign(Patches())
        data.mean, data.std = torch.tensor(0), torch.tensor(255)
        image = torch.rand(2, 3, 4, 4)
        assert torch.equal(digital_numbers(data, image), image * 255)


class TestTrainingBatches:
    def test_passes_and_units(self) -> None:
        data = in_trainer(Foreign(Patches()))
        batches = list(training_batches(data, CPU, passes=2))
        assert [len(b['image']) for b in batches] == [4] * 6
        images = torch.cat([b['image'] for b in batches[:3]])
        torch.testing.assert_close(images, data.patches.images, rtol=1e-4, atol=0.05)

    def test_last_batch_is_kept(self) -> None:
        data = in_trainer(Foreign(Patches(10)))
        assert [len(b['mask']) for b in training_batches(data, CPU)] == [4, 4, 2]

    def test_at_most_is_spread(self) -> None:
        data = in_trainer(Foreign(Patches(12)))
        found = torch.cat([b['image'] for b in training_batches(data, CPU, at_most=3)])
        wanted = data.patches.images[[0, 4, 8]]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0.05)
        assert len(list(training_batches(data, CPU, at_most=500))) == 3


class TestSameRandomness:
    def test_repeats_and_leaves_no_trace(self) -> None:
        torch.manual_seed(3)
        np.random.seed(3)
        wanted = torch.rand(1), np.random.rand()
        torch.manual_seed(3)
        np.random.seed(3)
        drawn = []
        for _ in range(2):
            with same_randomness():
                drawn.append((float(torch.rand(1)), np.random.rand()))
        assert drawn[0] == drawn[1]
        assert float(torch.rand(1)) == float(wanted[0])
        assert np.random.rand() == wanted[1]


class TestCheckUnits:
    @pytest.mark.parametrize('scale', [1.0, 0.05, 1e-4])
    @pytest.mark.parametrize('dates', [1, 2])
    def test_what_is_right_passes(self, scale: float, dates: int) -> None:
        check_units(in_trainer(Foreign(Patches(scale=scale, dates=dates))), CPU)

    def test_usual_augmentations_pass(self) -> None:
        data = in_trainer(Foreign(Patches()))
        data.train_aug = normalise(
            data,
            K.RandomCrop((4, 4)),
            K.RandomHorizontalFlip(),
            K.RandomRotation(45.0),
            K.RandomErasing(p=0.3),
        )
        with same_randomness():
            check_units(data, CPU)

    # reflectance is the hard case: what was not normalised lands among the raw values
    @pytest.mark.parametrize('scale', [1.0, 0.05, 1e-4])
    def test_forgotten_normalisation(self, scale: float) -> None:
        data = in_trainer(Foreign(Patches(scale=scale), train_aug=dict))
        with pytest.raises(ValueError, match='Foreign: channel 0 of value'):
            check_units(data, CPU)

    def test_one_wrong_band(self) -> None:
        data = in_trainer(Foreign(Patches()))
        data.mean = data.mean.clone()
        data.mean[1] += 800
        with pytest.raises(ValueError, match='channel 1 of value'):
            check_units(data, CPU)

    def test_statistics_set_too_late(self) -> None:
        # docs/notes/torchgeo.md: self.aug keeps the old mean and std
        data = in_trainer(Foreign(Patches()))
        data.std = data.std * 1.6
        with pytest.raises(ValueError, match='mend the datamodule'):
            check_units(data, CPU)

    @pytest.mark.parametrize('fixed', ['dark', 'bright'])
    def test_wrong_gain_that_one_value_would_not_show(self, fixed: str) -> None:
        data = in_trainer(Foreign(Patches()))
        level = {'dark': 1000.0, 'bright': 1300.0}[fixed]
        # a gain of 2 about a level: right there, wrong at the other end
        data.mean = data.mean.clone()
        data.std = data.std * torch.tensor([2, 1])
        data.mean[0] = data.mean[0] * 2 - level
        with pytest.raises(ValueError, match='channel 0 of value'):
            check_units(data, CPU)

    def test_scaling_by_each_image(self) -> None:
        data = in_trainer(Foreign(Patches()))

        def own(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            image = batch['image']
            low, high = image.amin((2, 3), True), image.amax((2, 3), True)
            return batch | {'image': (image - low) / (high - low)}

        data.train_aug = own
        with pytest.raises(ValueError, match='nothing else may change values'):
            check_units(data, CPU)

    def test_constant_band_passes(self) -> None:
        data = Patches()
        data.images[:, 1] = 5000
        foreign = in_trainer(Foreign(data))
        foreign.std[1] = 1
        foreign.aug = normalise(foreign)
        check_units(foreign, CPU)

    def test_constant_batch_warns(self) -> None:
        data = Patches()
        data.images[:] = 5000
        foreign = in_trainer(Foreign(data))
        foreign.std[:] = 1
        foreign.aug = normalise(foreign)
        with pytest.warns(UserWarning, match='constant'):
            check_units(foreign, CPU)


class TestSpreadImages:
    SPEC = SampleSpec(('green', 'swir'), ('a', 'b', 'c'))

    @pytest.mark.parametrize('dates', [1, 3])
    def test_dates_count_as_images(self, dates: int) -> None:
        data = in_trainer(Foreign(Patches(dates=dates)))
        images = spread_images(data, self.SPEC, CPU)
        assert images.shape == (12 * dates, 2, 8, 8)

    def test_mask_values(self) -> None:
        data = Patches()
        data.masks[7, 0, 0] = 9
        with pytest.raises(ValueError, match=r'values \[9\], .*\(0\.\.2\)'):
            spread_images(in_trainer(Foreign(data)), self.SPEC, CPU)
        spec = SampleSpec(('green', 'swir'), ('a', 'b', 'c'), ignore_index=9)
        spread_images(in_trainer(Foreign(data)), spec, CPU)


class TestTorchGeo:
    """A datamodule of TorchGeo's own, behind both stages."""

    @pytest.fixture(scope='class')
    def root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_landcoverai(tmp_path_factory.mktemp('landcoverai') / 'data')

    def test_described(self, root: Path) -> None:
        data = in_trainer(LandCoverAIDataModule(root=root, batch_size=4))
        spec = describe_datamodule(data)
        assert spec.bands == ('R', 'G', 'B')
        assert spec.classes == tuple(LandCoverAI.classes)
        assert (spec.scale, spec.dtype) == (1 / 255, 'uint8')

    def test_trains(
        self, root: Path, tiny_settings: dict[str, Any], tmp_path: Path
    ) -> None:
        task = SpecDMTask('autoencoder', str(tmp_path / 'c'), settings=tiny_settings)
        data = LandCoverAIDataModule(root=root, batch_size=4)
        trainer = quiet_trainer(tmp_path, max_epochs=1)
        trainer.fit(task, data)
        assert trainer.global_step == len(data.train_dataset) // 4 > 0
        assert bool(trainer.callback_metrics['val_rmse'].isfinite())
        codec = load_codec(tmp_path / 'c')
        # digital numbers of bytes
        assert bool((codec.center - 127).abs().max() < 40)
        assert bool((codec.half_range - 127).abs().max() < 40)


class TestMissing:
    @pytest.mark.parametrize('nodata', [None, -9999.0, float(np.finfo('f4').min)])
    @pytest.mark.parametrize('dates', [1, 2])
    def test_nan_and_what_the_user_names(
        self,
        nodata: float | None,
        dates: int,
        tiny_settings: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        whole, holed = Patches(dates=dates), Patches(dates=dates)
        data = Foreign(holed)
        data.train_aug = BatchAugmentation(data.mean, data.std, True)
        holed.images[..., :3] = torch.nan if nodata is None else nodata
        given = {} if nodata is None else {'nodata': nodata}
        settings = tiny_settings | {'pixels': {'codec': {'fold': 2}}}
        task = SpecDMTask(
            'diffusion', str(tmp_path / 'g'), 'pixels', 'tiny', settings, given
        )
        cached = LatentDataModule(data, passes=1)
        trainer = quiet_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
        trainer.fit(task, cached)
        assert trainer.global_step == 3
        assert bool(trainer.callback_metrics['val_loss'].isfinite())
        valid = whole.images[..., 3:].movedim(-3, 0).flatten(1)
        middle = (valid.amax(1) + valid.amin(1)) / 2
        torch.testing.assert_close(task.codec.center, middle, rtol=0.05, atol=0)
        shares = cached.train_dataset.coverage[:, :-1].float().mean((1, 2, 3)) / 255
        torch.testing.assert_close(shares, torch.full((12,), 5 / 8), atol=0.01, rtol=0)

    def test_bands_without_a_pixel_are_named(self, tmp_path: Path) -> None:
        patches = Patches()
        data = Foreign(patches)
        data.train_aug = normalise(data)
        patches.images[:, 1] = torch.nan
        task = SpecDMTask('diffusion', str(tmp_path / 'g'), 'pixels')
        with pytest.raises(ValueError, match=r"bands \['swir'\] have no valid pixel"):
            quiet_trainer(tmp_path, max_steps=1).fit(task, data)
