# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torchgeo.datamodules import (
    BaseDataModule,
    GeoDataModule,
    LandCoverAIDataModule,
    NonGeoDataModule,
    SEN12MSDataModule,
)
from torchgeo.datasets import LandCoverAI

from torchgeo_specdm.datamodules.augmented import SyntheticAugmentedDataModule
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs.fingerprint import fingerprint, write_seen_samples
from torchgeo_specdm.pairs.spec import SampleSpec

from ..torchgeo_fakes import (
    CODED,
    RGB,
    SEN12MS_BANDS,
    CodedDataModule,
    Other,
    OtherDataModule,
    write_coded_pairs,
    write_coded_splits,
    write_landcoverai,
    write_random_pairs,
    write_sen12ms,
    write_tiff,
)

BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({'ratio': -1.0}, 'ratio=-1.0 must be'),
    ({'ratio': math.nan}, 'ratio=nan must be'),
    ({'ratio': math.inf}, 'ratio=inf must be'),
    ({'ratio': True}, 'ratio=True must be'),
    ({'ratio': '3x'}, "ratio='3x' must be"),
    ({'real_limit': -1}, 'real_limit=-1 must be'),
    ({'real_limit': 2.5}, 'real_limit=2.5 must be'),
    ({'synthetic_limit': 0}, 'synthetic_limit=0 must be'),
    ({'synthetic_limit': True}, 'synthetic_limit=True must be'),
    ({'seed': -1}, 'seed=-1 must be'),
    ({'real_share': 0.0}, 'real_share=0.0 must lie between'),
    ({'real_share': 1.0}, 'real_share=1.0 must lie between'),
    ({'real_share': math.nan}, 'real_share=nan must lie between'),
    ({'real_limit': 0, 'real_share': 0.5}, 'leaves no real samples'),
    ({'real_limit': 0, 'equal_updates': True}, 'leaves no real samples'),
    ({'ratio': 0, 'synthetic_limit': 5}, 'leaves no synthetic samples'),
    ({'synthetic': None}, 'synthetic=None gives no samples'),
]


@pytest.mark.parametrize(('options', 'message'), BAD_OPTIONS)
def test_refuses_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticAugmentedDataModule(
            OtherDataModule(), **({'synthetic': 'folder'} | options)
        )


def test_refuses_other_modules() -> None:
    geo = GeoDataModule(Other, batch_size=1)  # type: ignore[arg-type]
    for real in (geo, BaseDataModule(Other)):
        with pytest.raises(TypeError, match=f'real={type(real).__name__} must be'):
            SyntheticAugmentedDataModule(real, ratio=0)


BAD_COUNTS: list[tuple[dict[str, Any], int, str]] = [
    ({'ratio': 6.0}, 4, 'ratio=6.0 of 8 real samples needs 48 .* has 40.*--count 48'),
    ({'ratio': 0.1}, 4, 'needs 0 synthetic samples, .*at least 1'),
    ({'synthetic_limit': 41}, 4, 'synthetic_limit=41 needs 41 .* has 40'),
    ({'real_limit': 9}, 4, 'has 8 training samples, but real_limit=9 needs 9'),
    ({}, 17, '16 training samples do not fill one batch_size=17'),
    ({'equal_updates': True}, 9, '8 real training samples do not fill'),
    ({'ratio': 0}, 9, '8 training samples do not fill one batch_size=9'),
    ({'ratio': 0, 'real_limit': 3}, 4, '3 training samples do not fill'),
]


@pytest.mark.parametrize(('options', 'batch_size', 'message'), BAD_COUNTS)
def test_refuses_counts(
    real_root: Path,
    synthetic_root: Path,
    options: dict[str, Any],
    batch_size: int,
    message: str,
) -> None:
    datamodule = SyntheticAugmentedDataModule(
        CodedDataModule(real_root, batch_size), synthetic_root, **options
    )
    with pytest.raises(ValueError, match=message):
        datamodule.setup('fit')


def test_refuses_missing_data(tmp_path: Path, synthetic_root: Path) -> None:
    datamodule = SyntheticAugmentedDataModule(OtherDataModule(), tmp_path / 'none')
    with pytest.raises(
        FileNotFoundError, match=r'none is no folder of pairs.*generate'
    ):
        datamodule.setup('fit')
    for kind in ('images', 'masks'):
        (tmp_path / 'empty' / kind).mkdir(parents=True)
    datamodule = SyntheticAugmentedDataModule(OtherDataModule(), tmp_path / 'empty')
    with pytest.raises(ValueError, match='empty has 0 images and 0 masks'):
        datamodule.setup('fit')
    datamodule = SyntheticAugmentedDataModule(OtherDataModule(0), synthetic_root)
    with pytest.raises(ValueError, match='has 0 training samples'):
        datamodule.setup('fit')


class NoMask(Other):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'image': torch.zeros(2, 32, 32), 'label': 1}


class TwoMasks(Other):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {'mask': torch.zeros(2, 32, 32)}


class Fixed(NonGeoDataModule):
    """Trains on the data set that it is given, or has none."""

    def __init__(self, dataset: Dataset[Any] | None) -> None:
        super().__init__(Other, batch_size=4)
        self.fixed = dataset

    def setup(self, stage: str) -> None:
        self.train_dataset = self.fixed


@pytest.mark.parametrize(
    ('dataset', 'message'),
    [
        (NoMask(), r"keys \['image', 'label'\], but image and mask are needed"),
        (TwoMasks(), r"\.tif has the shapes .*mask \(2, 'H', 'W'\)"),
        (None, 'Fixed has no training set'),
    ],
)
def test_refuses_real_samples(
    synthetic_root: Path, dataset: Dataset[Any] | None, message: str
) -> None:
    datamodule = SyntheticAugmentedDataModule(Fixed(dataset), synthetic_root)
    with pytest.raises(ValueError, match=message):
        datamodule.setup('fit')


def coded_spec(**kwargs: Any) -> SampleSpec:
    return SampleSpec.from_dict(
        CODED.to_dict() | {'colors': (), 'codes': (), 'wavelengths': ()} | kwargs
    )


@pytest.mark.parametrize(
    ('spec', 'high', 'message'),
    [
        (coded_spec(bands=RGB), 1000, r'0\.tif has the shapes image \(3, 32, 32\)'),
        (coded_spec(dates=2), 1000, r'0_1\.tif has the shapes image \(2, 2, 32, 32\)'),
        (coded_spec(bands=('B02', 'B04')), 1000, r"bands: \['B02', 'B03'\] in Coded"),
        (coded_spec(classes=('a', 'b')), 1000, 'differ in classes'),
        (coded_spec(classes=('a', 'b'), codes=(10, 20)), 1000, 'differ in classes'),
        (coded_spec(scale=1.0), 1000, 'differ in scale'),
        (coded_spec(offset=-0.1), 1000, 'differ in offset'),
        (coded_spec(dtype='float32'), 0.1, r'different units.*B02 5.*and 0\.0'),
        (coded_spec(), 65000, 'different units.*factor of 10'),
    ],
)
def test_refuses_another_kind(
    tmp_path: Path, real_root: Path, spec: SampleSpec, high: float, message: str
) -> None:
    synthetic = write_random_pairs(tmp_path / 'pairs', spec, high=high)
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(real_root), synthetic)
    with pytest.raises(ValueError, match=message):
        datamodule.setup('fit')


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ({'classes': ('a', 'b', 'c', 'd', 'e')}, 'differ in classes'),
        ({'bands': ('R', 'G', 'B', 'N')}, r'has the shapes image \(4, 32, 32\)'),
    ],
)
def test_refuses_other_names_than_the_data_set(
    tmp_path: Path, names: dict[str, Any], message: str
) -> None:
    known = {'bands': RGB, 'classes': LandCoverAI.classes, 'dtype': 'uint8'} | names
    synthetic = write_random_pairs(tmp_path / 'pairs', SampleSpec(**known))
    real = LandCoverAIDataModule(root=write_landcoverai(tmp_path / 'real'))
    real.batch_size = 4
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    with pytest.raises(ValueError, match=message):
        datamodule.setup('fit')


def test_refuses_other_band_order(tmp_path: Path) -> None:
    spec = SampleSpec(
        bands=SEN12MS_BANDS[::-1],
        classes=tuple(f'igbp {i}' for i in range(18)),
        dtype='float32',
    )
    synthetic = write_random_pairs(tmp_path / 'pairs', spec, count=12, high=3000)
    real = SEN12MSDataModule(
        root=write_sen12ms(tmp_path / 'real'), batch_size=4, checksum=False
    )
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    with pytest.raises(ValueError, match=r"bands: \['VV', 'VH', .*\['B12', 'B11'"):
        datamodule.setup('fit')


def test_warns_if_one_band_differs(tmp_path: Path) -> None:
    spec = coded_spec(bands=RGB)
    high = np.array([1000, 1000, 20])[:, None, None]
    synthetic = write_random_pairs(tmp_path / 'pairs', spec, high=high)
    root = write_random_pairs(tmp_path / 'real', spec, high=1000, count=16)
    for split in ('train', 'val', 'test'):
        (root / f'{split}.txt').write_text(''.join(f'{i:04d}\n' for i in range(8)))
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(root), synthetic)
    with pytest.warns(UserWarning, match=r'in some bands: B 5\d\d.* and \d'):
        datamodule.setup('fit')


def test_plain_folder_needs_no_names(tmp_path: Path) -> None:
    root = tmp_path / 'plain'
    random = np.random.default_rng(0)
    for i in range(8):
        for kind, array in (
            ('images', random.integers(0, 256, (3, 32, 32), np.uint8)),
            ('masks', random.integers(0, 4, (1, 32, 32), np.uint8)),
        ):
            (root / kind).mkdir(parents=True, exist_ok=True)
            write_tiff(root / kind / f'{i}.tif', array)
    real = LandCoverAIDataModule(root=write_landcoverai(tmp_path / 'real'))
    real.batch_size = 4
    datamodule = SyntheticAugmentedDataModule(real, root)
    datamodule.setup('fit')
    assert datamodule.counts == (8, 8)
    array = np.full((1, 32, 32), 5, np.uint8)
    write_tiff(root / 'masks' / '0.tif', array)
    with pytest.raises(ValueError, match=r"'Road'\] in LandCover.*'class_5'\] in"):
        datamodule.setup('fit')


def test_refuses_patches_smaller_than_the_crop(tmp_path: Path, real_root: Path) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8, size=24)
    real = CodedDataModule(real_root, patch_size=32)
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    with pytest.raises(ValueError, match=r'crops to \(32, 32\) .* only \(24, 24\)'):
        datamodule.setup('fit')


def test_names_the_file_of_another_size(tmp_path: Path, real_root: Path) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    (synthetic / 'manifest.jsonl').unlink()
    for kind, count in (('images', 2), ('masks', 1)):
        array = np.ones((count, 16, 16), np.uint16)
        write_tiff(synthetic / kind / '0007.tif', array)
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(real_root), synthetic)
    datamodule.setup('fit')
    with pytest.raises(ValueError, match=r'0007\.tif has the shapes .*\(32, 32\)'):
        list(datamodule.train_dataloader())


def test_refuses_files_that_were_changed(tmp_path: Path, real_root: Path) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    write_tiff(synthetic / 'masks' / '0003.tif', np.ones((1, 32, 32), np.uint8))
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(real_root), synthetic)
    with pytest.raises(ValueError, match=r'1 of 16 files .* not as .*0003\.tif'):
        datamodule.setup('fit')


class Shrinking(Other):
    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        size = 32 if index < 5 else 16
        return {key: sample[key][..., :size, :size] for key in ('image', 'mask')}


def test_names_the_real_sample_of_another_size(synthetic_root: Path) -> None:
    datamodule = SyntheticAugmentedDataModule(
        Fixed(Shrinking(6)), synthetic_root, ratio=0.5
    )
    datamodule.setup('fit')
    with pytest.raises(ValueError, match='Sample 5 of Shrinking has the shapes'):
        _ = [datamodule.train_dataset[i] for i in range(6)]


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_refuses_leaks(tmp_path: Path, real_root: Path, split: str) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    seen = PairFolder(real_root, split=split)  # type: ignore[arg-type]
    write_seen_samples(synthetic, [fingerprint(seen[i]) or '' for i in range(3)])
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(real_root), synthetic)
    if split == 'train':
        datamodule.setup('fit')
        return
    with pytest.raises(ValueError, match=f'3 {split} samples .*generator .*training'):
        datamodule.setup('fit')
    assert datamodule.real.test_dataset is None
    datamodule = SyntheticAugmentedDataModule(
        CodedDataModule(real_root), synthetic, leak_check=False
    )
    datamodule.setup('fit')


@pytest.mark.parametrize(
    ('provenance', 'refused'),
    [
        ({'synthetic': True, 'codec': 'pixels'}, True),
        ({'synthetic': True, 'scenes': 'procedural'}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize('empty', [False, True])
def test_a_generator_must_say_what_it_saw(
    tmp_path: Path,
    real_root: Path,
    provenance: dict[str, Any],
    refused: bool,
    empty: bool,
) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    path = synthetic / 'dataset.json'
    values = json.loads(path.read_text()) | {'provenance': provenance}
    path.write_text(json.dumps(values))
    if empty:
        write_seen_samples(synthetic, [])
    for checked in (True, False):
        datamodule = SyntheticAugmentedDataModule(
            CodedDataModule(real_root), synthetic, leak_check=checked
        )
        if checked and refused:
            with pytest.raises(ValueError, match=r'training_samples.*leak_check=False'):
                datamodule.setup('fit')
        else:
            datamodule.setup('fit')


def test_leak_check_without_test_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_coded_splits(tmp_path / 'real')
    (root / 'test.txt').unlink()
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    write_seen_samples(synthetic, ['0123456789abcdef'])
    datamodule = SyntheticAugmentedDataModule(CodedDataModule(root), synthetic)
    with caplog.at_level('INFO'):
        datamodule.setup('fit')
    assert 'test set is not there' in caplog.text


class DownloadingDataModule(OtherDataModule):
    """Has a test set for the asking, or only after a download."""

    def __init__(self, ready: bool) -> None:
        super().__init__(batch_size=4, download=True)
        self.ready = ready

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.ready or (stage == 'test' and not self.kwargs['download']):
            self.test_dataset = Other(2)


@pytest.mark.parametrize('ready', [False, True])
def test_leak_check_downloads_nothing(tmp_path: Path, ready: bool) -> None:
    synthetic = write_coded_pairs(tmp_path / 'pairs', 2000, 8)
    real = DownloadingDataModule(ready)
    write_seen_samples(synthetic, [fingerprint(Other()[1]) or ''])
    datamodule = SyntheticAugmentedDataModule(real, synthetic)
    with pytest.raises(ValueError, match='1 test samples of Downloading'):
        datamodule.setup('fit')
    assert real.kwargs == {'download': True}
