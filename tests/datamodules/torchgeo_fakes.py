# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Small fake data sets in the formats of TorchGeo's own, and folders of pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import kornia.augmentation as K
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datamodules import (
    DeepGlobeLandCoverDataModule,
    LandCoverAIDataModule,
    NonGeoDataModule,
    SEN12MSDataModule,
)
from torchgeo.datasets import DeepGlobeLandCover, LandCoverAI

from tests.data.pairs import write_tiff
from torchgeo_specdm.compat import SemanticSegmentationTask
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.pairs.writer import PairWriter

RGB = ('R', 'G', 'B')
SEN12MS_BANDS = SEN12MSDataModule('').kwargs['bands']
# decibels and digital numbers
SEN12MS_LOW = np.array([-25, -25] + [0] * 13)[:, None, None]
SEN12MS_HIGH = np.array([0, 0] + [3000] * 13)[:, None, None]

CODED = SampleSpec(bands=('B02', 'B03'), classes=('a', 'b', 'c', 'd', 'e'))


def coded_sample(number: int, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A sample that tells who it is (band 1), and its mask from its image (band 0)."""
    grid = np.arange(size * size).reshape(size, size) + 7 * (number % 10)
    return np.stack([grid, np.full_like(grid, number)]), grid % 5


def coded_mask(image: Tensor) -> Tensor:
    """The mask (B, H, W) that belongs to normalised coded images (B, 2, H, W)."""
    return (image[:, 0] * 255).round().long() % 5


def coded_numbers(image: Tensor) -> list[int]:
    """The number of each coded sample of a normalised batch."""
    numbers: list[int] = (image[:, 1, 0, 0] * 255).round().long().tolist()
    return numbers


def is_real(number: int) -> bool:
    """Whether a coded sample is one of the real ones, by its number."""
    return number < 2000


def write_coded_pairs(root: Path, first: int, count: int, size: int = 32) -> Path:
    """Write coded samples as a folder of pairs."""
    writer = PairWriter(root, CODED, {}, {})
    for i in range(count):
        image, mask = coded_sample(first + i, size)
        writer.write(f'{i:04d}', image, mask, {'index': i})
    writer.finish('')
    return root


def write_random_pairs(
    root: Path,
    spec: SampleSpec,
    count: int = 8,
    size: int = 32,
    low: float | NDArray[Any] = 0,
    high: float | NDArray[Any] = 255,
    seed: int = 7,
) -> Path:
    """Write random samples as a folder of pairs."""
    random = np.random.default_rng(seed)
    writer = PairWriter(root, spec, {}, {})
    dates = () if spec.dates == 1 else (spec.dates,)
    for i in range(count):
        image = random.uniform(low, high, (*dates, spec.num_bands, size, size))
        mask = random.integers(0, spec.num_classes, (size, size))
        writer.write(f'{i:04d}', image, mask, {'index': i})
    writer.finish('')
    return root


class CodedDataModule(NonGeoDataModule):
    """Pairs with train.txt, val.txt and test.txt, cropped and flipped on the device."""

    def __init__(
        self,
        root: Path,
        batch_size: int = 4,
        num_workers: int = 0,
        patch_size: int | None = None,
    ) -> None:
        super().__init__(PairFolder, batch_size, num_workers, root=root)
        crop = [] if patch_size is None else [K.RandomCrop((patch_size, patch_size))]
        self.patch_size = patch_size
        self.train_aug = K.AugmentationSequential(
            K.Normalize(mean=self.mean, std=self.std),
            *crop,
            K.RandomHorizontalFlip(),
            K.RandomVerticalFlip(),
            data_keys=None,
            keepdim=True,
        )


def write_coded_splits(
    root: Path, size: int = 32, counts: Sequence[int] = (8, 4, 4)
) -> Path:
    """Write what :class:`CodedDataModule` reads; samples are numbered from 1000."""
    write_coded_pairs(root, 1000, sum(counts), size)
    first = 0
    for split, count in zip(('train', 'val', 'test'), counts, strict=True):
        ids = ''.join(f'{i:04d}\n' for i in range(first, first + count))
        (root / f'{split}.txt').write_text(ids)
        first += count
    return root


def write_landcoverai(root: Path, size: int = 32, train: int = 8) -> Path:
    """LandCover.ai: JPEG tiles, masks of class positions, lists of tiles."""
    random = np.random.default_rng(0)
    (root / 'output').mkdir(parents=True)
    for split, count in (('train', train), ('val', 4), ('test', 4)):
        names = [f'M-{split}_{i}_{i}' for i in range(count)]
        (root / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))
        for name in names:
            image = random.integers(0, 256, (size, size, 3), np.uint8)
            mask = random.integers(0, 5, (size, size), np.uint8)
            Image.fromarray(image).save(root / 'output' / f'{name}.jpg')
            Image.fromarray(mask).save(root / 'output' / f'{name}_m.png')
    return root


def write_loveda(root: Path, size: int = 32) -> Path:
    """LoveDA: PNG images, masks of 0 for no data to 7, none for the test images."""
    random = np.random.default_rng(0)
    for split, count in (('Train', 24), ('Val', 4), ('Test', 2)):
        for scene in ('Urban', 'Rural'):
            for kind in ('images_png', 'masks_png'):
                (root / split / scene / kind).mkdir(parents=True)
            for i in range(count // 2):
                image = random.integers(0, 256, (size, size, 3), np.uint8)
                mask = random.integers(0, 8, (size, size), np.uint8)
                base, name = root / split / scene, f'{scene}_{i}.png'
                Image.fromarray(image).save(base / 'images_png' / name)
                if split != 'Test':
                    Image.fromarray(mask).save(base / 'masks_png' / name)
    return root


def write_levircd(root: Path, size: int = 32, train: int = 8) -> Path:
    """LEVIR-CD: PNG images of two dates, and masks of 0 and 255."""
    random = np.random.default_rng(0)
    for folder in ('A', 'B', 'label'):
        (root / folder).mkdir(parents=True)
    for split, count in (('train', train), ('val', 4), ('test', 4)):
        for i in range(count):
            name = f'{split}_{i}.png'
            for folder in ('A', 'B'):
                image = random.integers(0, 256, (size, size, 3), np.uint8)
                Image.fromarray(image).save(root / folder / name)
            mask = random.integers(0, 2, (size // 4, size // 4), np.uint8) * 255
            mask = mask.repeat(4, 0).repeat(4, 1)
            Image.fromarray(mask).save(root / 'label' / name)
    return root


def write_deepglobe(root: Path, size: int = 48) -> Path:
    """DeepGlobe land cover: JPEG images and masks in the colours of the classes."""
    random = np.random.default_rng(0)
    colors = np.array(DeepGlobeLandCover.colormap, np.uint8)
    for folder, count in (('training_data', 10), ('test_data', 4)):
        for kind in ('images', 'masks'):
            (root / 'data' / folder / kind).mkdir(parents=True)
        for i in range(count):
            image = random.integers(0, 256, (size, size, 3), np.uint8)
            mask = colors[random.integers(0, len(colors), (size, size))]
            base = root / 'data' / folder
            Image.fromarray(image).save(base / 'images' / f'{i}_sat.jpg')
            Image.fromarray(mask).save(base / 'masks' / f'{i}_mask.png')
    return root


def write_sen12ms(root: Path, size: int = 32) -> Path:
    """SEN12MS: radar in decibels, optics in digital numbers, four land cover schemes."""
    random = np.random.default_rng(0)
    for folder in ('ROIs1158_spring', 'ROIs1868_summer', 'ROIs1970_fall'):
        (root / folder).mkdir(parents=True)
    names = {'train': [], 'test': []}
    for split, scenes in (('train', range(5)), ('test', range(5, 7))):
        for scene in scenes:
            for patch in range(3):
                name = f'ROIs2017_winter_s2_{scene}_p{patch}.tif'
                names[split].append(name)
                for source, array in (
                    ('s1', random.uniform(-25, 0, (2, size, size)).astype('float32')),
                    ('s2', random.integers(0, 3000, (13, size, size), np.uint16)),
                    ('lc', random.integers(1, 18, (4, size, size), np.uint16)),
                ):
                    path = root / 'ROIs2017_winter' / f'{source}_{scene}'
                    path.mkdir(parents=True, exist_ok=True)
                    path = path / name.replace('_s2_', f'_{source}_')
                    write_tiff(path, array)
        (root / f'{split}_list.txt').write_text('\n'.join(names[split]) + '\n')
    return root


def landcoverai(tmp_path: Path) -> tuple[NonGeoDataModule, Path, int]:
    spec = SampleSpec(bands=RGB, classes=LandCoverAI.classes, dtype='uint8')
    synthetic = write_random_pairs(tmp_path / 'pairs', spec)
    root = write_landcoverai(tmp_path / 'real')
    return LandCoverAIDataModule(root=root, batch_size=4), synthetic, 5


def deepglobe(tmp_path: Path) -> tuple[NonGeoDataModule, Path, int]:
    # patches of the size of the crop, as a generator trained behind it writes them
    spec = SampleSpec(bands=RGB, classes=DeepGlobeLandCover.classes, dtype='uint8')
    synthetic = write_random_pairs(tmp_path / 'pairs', spec, size=32)
    root = write_deepglobe(tmp_path / 'real', size=48)
    return (
        DeepGlobeLandCoverDataModule(root=root, batch_size=4, patch_size=32),
        synthetic,
        7,
    )


def sen12ms(tmp_path: Path) -> tuple[NonGeoDataModule, Path, int]:
    classes = tuple(f'igbp {i}' for i in range(18))
    spec = SampleSpec(bands=SEN12MS_BANDS, classes=classes, dtype='float32')
    synthetic = write_random_pairs(
        tmp_path / 'pairs', spec, count=12, low=SEN12MS_LOW, high=SEN12MS_HIGH
    )
    root = write_sen12ms(tmp_path / 'real')
    real = SEN12MSDataModule(root=root, batch_size=4, checksum=False)
    return real, synthetic, 11


class Other(Dataset[Any]):
    """Samples with further keys that cannot be collated, and other types and rank."""

    #: Further keys still, of which no batch can be made.
    others: ClassVar[dict[str, Any]] = {}

    def __init__(self, length: int = 8) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.full((2, 32, 32), 512.0 + index, dtype=torch.float64)
        # blank samples have no fingerprint
        image[:, 0, 0] = 500
        mask = torch.zeros(1, 32, 32, dtype=torch.int32)
        return {'image': image, 'mask': mask, 'index': index, **self.others}


class OtherDataModule(NonGeoDataModule):
    def __init__(self, length: int = 8, **kwargs: Any) -> None:
        super().__init__(Other, **kwargs)
        self.length = length

    def setup(self, stage: str) -> None:
        self.train_dataset = Other(self.length)
        self.val_dataset = self.predict_dataset = Other(1)
        self.mean, self.std = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])


def tiny_task(in_channels: int, num_classes: int) -> LightningModule:
    """TorchGeo's own task, unchanged, with a network of a few filters."""
    return SemanticSegmentationTask(
        model='fcn', in_channels=in_channels, num_classes=num_classes, num_filters=4
    )


def write_config(path: Path, wrapper: str, real: Path, options: str) -> Path:
    """A YAML as ``torchgeo fit`` takes it: a datamodule around LandCover.ai."""
    path.write_text(f"""
trainer: {{max_epochs: 1, accelerator: cpu, devices: 1, logger: false,
  enable_checkpointing: false, enable_progress_bar: false,
  default_root_dir: {path.parent / 'logs'}}}
model:
  class_path: torchgeo_specdm.compat.SemanticSegmentationTask
  init_args: {{model: fcn, in_channels: 3, num_classes: 5, num_filters: 4}}
data:
  class_path: torchgeo_specdm.datamodules.{wrapper}
  init_args:
    real:
      class_path: torchgeo.datamodules.LandCoverAIDataModule
      init_args: {{batch_size: 4}}
      dict_kwargs: {{root: {real}}}
    {options}
""")
    return path


class Recorder(Callback):
    """Keeps the training batches as the task gets them, and the loss."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append({key: value.clone() for key, value in batch.items()})
        self.losses.append(float(outputs['loss']))

    @property
    def numbers(self) -> list[list[int]]:
        """Who is in each batch of coded samples."""
        return [coded_numbers(batch['image']) for batch in self.batches]
