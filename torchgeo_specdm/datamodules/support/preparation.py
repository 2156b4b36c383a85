# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The common parts of all datamodules here: statistics, augmentation and refusals."""

from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchgeo.datamodules import NonGeoDataModule

from ...pairs.facts import BandMoments, remembered
from ...pairs.memory import SampleMemory

#: A band that varies less than this is constant but for rounding.
_LEAST_STD = 1e-6


class BatchAugmentation:
    """Normalise a batch; in training also crop, flip and rotate by 90 degrees.

    Takes and returns a batch with ``image``, float (B, C, H, W) or
    (B, T, C, H, W), and, if there is one, ``mask``, (B, H, W) or (B, 1, H, W). Image
    and mask stay aligned to the pixel, and all dates of a sample move alike. Other
    keys pass untouched.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        training: bool = False,
        patch_size: int | None = None,
    ) -> None:
        """Initialize a new BatchAugmentation instance.

        Args:
            mean: Mean of each band, (C,), in the units of the image.
            std: Standard deviation of each band, (C,).
            training: Whether to flip and rotate at random.
            patch_size: Side of a random square crop in pixels; None for no crop. Only
                looked at in training.
        """
        self.mean = mean
        self.std = std
        self.training = training
        self.patch_size = patch_size

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Augment a batch.

        Args:
            batch: The batch (see the class).

        Returns:
            A new batch; the one given is not changed.

        Raises:
            ValueError: If the images are smaller than the crop, or their bands are not
                those of the statistics.
        """
        image = batch['image']
        if image.shape[-3] != len(self.mean):
            raise ValueError(
                f'the batch has {image.shape[-3]} bands, but mean and std were measured '
                f'over {len(self.mean)}. Use the same bands in every split.'
            )
        mean, std = (
            value.to(image, non_blocking=True)[:, None, None]
            for value in (self.mean, self.std)
        )
        batch = batch | {'image': (image - mean) / std}
        return batch | self._move(batch) if self.training else batch

    def _move(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Crop, flip and rotate image and mask alike."""
        image = batch['image']
        size = tuple(image.shape[-2:])
        require_patch(self.patch_size, size)
        side = self.patch_size
        cropped = size if side is None else (side, side)
        index = _moved_pixels(len(image), size, cropped, image.device)
        moved: dict[str, Tensor] = {}
        for key in ('image', 'mask'):
            if key in batch:
                plane = batch[key]
                # dates and bands are channels, and move alike
                flat = plane.reshape(len(plane), -1, size[0] * size[1])
                chosen = flat.gather(2, index.expand(-1, flat.shape[1], -1))
                moved[key] = chosen.reshape(*plane.shape[:-2], *cropped)
        return moved


class DatedMasks:
    """Augment a batch with as many masks as dates, and take the first one.

    kornia's ``VideoSequential``, with which TorchGeo crops images of several dates,
    goes through masks frame by frame: one mask for a sample is cropped where another
    sample's image is, or refused (docs/notes/torchgeo.md).

    Args:
        augmentation: Takes and returns a batch with ``image``, (B, T, C, H, W).
    """

    def __init__(self, augmentation: Callable[[dict[str, Tensor]], Any]) -> None:
        """Initialize a new DatedMasks instance."""
        self.augmentation = augmentation

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Augment a batch.

        Args:
            batch: ``image`` and maybe ``mask``, (B, H, W) or (B, 1, H, W); other keys
                are left to the augmentation.

        Returns:
            What the augmentation gives, with masks of as many axes as before.
        """
        image, mask = batch['image'], batch.get('mask')
        if image.ndim != 5 or mask is None or mask.ndim > 4:
            return dict(self.augmentation(batch))
        frames = mask.reshape(len(mask), 1, 1, *mask.shape[-2:])
        frames = frames.expand(-1, image.shape[1], -1, -1, -1).contiguous()
        moved: dict[str, Tensor] = self.augmentation(batch | {'mask': frames})
        first = moved['mask'][:, 0]
        return moved | {'mask': first if mask.ndim == 4 else first[:, 0]}


def align_dates(datamodule: Any) -> None:
    """Let a datamodule move images of several dates and their masks alike.

    Args:
        datamodule: Any datamodule, after ``setup``; its augmentations that use kornia's
            ``VideoSequential`` become :class:`DatedMasks`.
    """
    for name in ('aug', 'train_aug', 'val_aug', 'test_aug', 'predict_aug'):
        found = getattr(datamodule, name, None)
        if isinstance(found, nn.Module) and any(
            isinstance(part, K.VideoSequential) for part in found.modules()
        ):
            setattr(datamodule, name, DatedMasks(found))


def normalise(
    datamodule: NonGeoDataModule, train: Dataset[Any], patch_size: int | None
) -> None:
    """Let a datamodule normalise by its training split, which is measured once.

    Args:
        datamodule: Gets ``mean``, ``std``, ``aug`` (normalise, nothing else) and
            ``train_aug`` (crop, flip and turn by 90 degrees too).
        train: The training split.
        patch_size: Side of a random square crop in training; None for no crop.

    Raises:
        ValueError: If there is no sample, or one has NaN or infinite pixels.
    """
    if isinstance(datamodule.aug, BatchAugmentation):
        return
    datamodule.mean, datamodule.std = mean, std = measure_statistics(train)
    # the base class has built its augmentation on other numbers
    datamodule.aug = BatchAugmentation(mean, std)
    datamodule.train_aug = BatchAugmentation(mean, std, True, patch_size)


def keep_samples(datamodule: NonGeoDataModule, *datasets: Any) -> None:
    """Let data sets of one datamodule keep what they read, as far as it fits.

    Args:
        datamodule: Datamodule whose trainer tells the number of processes.
        *datasets: Data sets with a ``memory``, of samples with different names.
    """
    trainer = datamodule.trainer
    memory = SampleMemory(trainer.num_devices if trainer else 1)
    for dataset in datasets:
        dataset.memory = memory


def measure_statistics(
    dataset: Dataset[Any], max_samples: int = 2000
) -> tuple[Tensor, Tensor]:
    """Measure the mean and standard deviation of each band.

    Reads one sample at a time, evenly spaced over the data set, so memory does not
    grow and the result is the same in every run and on every rank.

    Args:
        dataset: Has samples with an ``image``, (C, H, W) or (T, C, H, W); dates are
            pooled. NaN is missing and does not count.
        max_samples: Read at most this many samples.

    Returns:
        Mean and standard deviation, float32 (C,), in the units of the image. The
        standard deviation of a constant band is 1, so that it can be divided by.

    Raises:
        ValueError: If there is no sample, one has infinite pixels, or a band has no
            valid pixel at all.
    """
    total = measure_moments(dataset, max_samples)
    dead = np.flatnonzero(total.pixels == 0).tolist()
    if dead:
        spec = getattr(dataset, 'spec', None)
        names = [spec.bands[i] for i in dead] if spec else dead
        raise ValueError(
            f'the bands {names} have no valid pixel in {len(dataset)} samples. '  # type: ignore[arg-type]
            'Leave them out with bands: live (--bands live), or name the others.'
        )
    std = total.std
    std[std < _LEAST_STD] = 1.0
    return torch.from_numpy(total.mean).float(), torch.from_numpy(std).float()


def measure_moments(dataset: Dataset[Any], max_samples: int = 2000) -> BandMoments:
    """Measure what mean and standard deviation of each band follow from.

    Args:
        dataset: Has samples with an ``image`` (see :func:`measure_statistics`).
        max_samples: Read at most this many samples.

    Returns:
        The moments of all samples that were read.

    Raises:
        ValueError: If there is no sample, or one has infinite pixels.
    """
    samples = len(dataset)  # type: ignore[arg-type]
    if not samples or max_samples < 1:
        raise ValueError(
            f'mean and std need at least one sample, but the data set has {samples} '
            f'and max_samples={max_samples}. Check the split and the filters.'
        )
    total = BandMoments(np.zeros(1, np.int64), np.zeros(1), np.zeros(1))
    for index in np.linspace(0, samples - 1, min(samples, max_samples)).astype(int):
        facts = remembered(dataset, int(index))
        here = facts.moments if facts else BandMoments.of(dataset[int(index)]['image'])
        if not np.isfinite(here.mean).all():
            raise ValueError(
                f'sample {index} has infinite pixels; mean and std need numbers. Mend '
                'or remove this sample.'
            )
        total = total.join(here)
    return total


def refuse_empty_training(name: str, samples: int, batch_size: int) -> None:
    """Refuse a training set that the loader would turn into no batch at all.

    Args:
        name: Name of the data that are trained on, for the message.
        samples: Number of training samples.
        batch_size: Size of a batch; incomplete ones are dropped in training.

    Raises:
        ValueError: If there are fewer samples than one batch needs.
    """
    if samples < batch_size:
        raise ValueError(
            f'{name} has {samples} training samples for batch_size={batch_size}; '
            'incomplete batches are dropped, so nothing would be trained. Use '
            f'batch_size={max(samples, 1)} or less, or more samples.'
        )


def require_patch(
    patch_size: int | None, size: tuple[int, ...], name: str = 'patch_size'
) -> None:
    """Refuse a crop that is larger than the images.

    Args:
        patch_size: Side of the crop in pixels; None for no crop.
        size: Height and width of the images.
        name: The argument that asks for the crop, for the message.

    Raises:
        ValueError: If the crop does not fit.
    """
    if patch_size is not None and not 1 <= patch_size <= min(size):
        raise ValueError(
            f'{name}={patch_size} does not fit into images of {size[0]}x{size[1]} '
            f'pixels. Use 1 to {min(size)}, or None for the whole image.'
        )


def _moved_pixels(
    count: int, size: tuple[int, ...], cropped: tuple[int, ...], device: torch.device
) -> Tensor:
    """Where the pixels of cropped, flipped and mirrored samples come from.

    Both flips and a mirroring at the diagonal, each of half of the samples, give all
    rotations by 90 degrees, each as likely. Samples that are not square cannot be
    turned. One index for all does in 4 ms what kornia does in 26 (16 patches of 128
    pixels and 7 bands), waits for no device, and is exact to the bit, where kornia's
    rotation interpolates.

    Args:
        count: Number of samples B.
        size: Height and width of the samples.
        cropped: Height and width of what is left of them, h and w.
        device: Device of the samples.

    Returns:
        Positions in the flat samples, int64 (B, 1, h x w).
    """
    flipped = torch.rand(3, count, 1) < 0.5
    rows, columns = (
        torch.randint(full - side + 1, (count, 1))
        + torch.arange(side).where(~flip, torch.arange(side).flip(0))
        for full, side, flip in zip(size, cropped, flipped[:2], strict=True)
    )
    rows, columns, mirrored = (
        value.to(device, non_blocking=True) for value in (rows, columns, flipped[2])
    )
    index = rows[:, :, None] * size[1] + columns[:, None]
    if cropped[0] == cropped[1]:
        index = index.mT.where(mirrored[..., None], index)
    return index.flatten(1)[:, None]
