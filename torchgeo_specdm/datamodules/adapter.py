# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What a generator needs to know of any TorchGeo datamodule."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchgeo.datamodules import BaseDataModule, NonGeoDataModule

from ..datasets.spec import SampleSpec


def describe_datamodule(
    datamodule: BaseDataModule, overrides: Mapping[str, Any] | None = None
) -> SampleSpec:
    """Find out what the samples of a datamodule are.

    Ours have a ``spec``. For others, the first training sample tells the number of
    bands and dates and the range, and the data set's ``bands`` (or ``all_bands``) and
    ``classes`` the names, as TorchGeo's conventions have it.

    Args:
        datamodule: After ``setup('fit')``.
        overrides: Fields of :class:`SampleSpec` that the user gives.

    Returns:
        The description.

    Raises:
        TypeError: If samples of the datamodule cannot be indexed.
        ValueError: If the classes are not known.
    """
    overrides = dict(overrides or {})
    spec = getattr(datamodule, 'spec', None)
    if isinstance(spec, SampleSpec):
        return SampleSpec.from_dict(spec.to_dict() | overrides)
    if not isinstance(datamodule, NonGeoDataModule):
        raise TypeError(
            f'{type(datamodule).__name__} is no NonGeoDataModule: its samples are '
            'boxes, not numbers. Write its patches to a folder of pairs first.'
        )
    dataset = datamodule.train_dataset or datamodule.dataset
    image = dataset[0]['image']
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    dates, bands = (image.shape[0] if image.ndim == 4 else 1), image.shape[-3]
    names = getattr(dataset, 'bands', None) or getattr(dataset, 'all_bands', ())
    if len(names) != bands:
        names = ('R', 'G', 'B') if bands == 3 else [f'band_{i + 1}' for i in range(bands)]
    classes = overrides.get('classes', getattr(dataset, 'classes', ()))
    if not classes:
        raise ValueError(
            f'{type(dataset).__name__} does not say what its classes are. Name them in '
            'the task: spec: {classes: [...]}.'
        )
    top = float(image.max())
    found = {
        'bands': tuple(names),
        'classes': tuple(classes),
        'dates': dates,
        'scale': 1.0 if top <= 2 else 1 / 255 if top <= 255 else 1e-4,
        'dtype': 'float32' if top <= 2 else 'uint8' if top <= 255 else 'uint16',
    }
    return SampleSpec.from_dict(found | overrides)


def digital_numbers(datamodule: BaseDataModule, image: Tensor) -> Tensor:
    """Undo a datamodule's normalisation.

    Args:
        datamodule: Has the ``mean`` and ``std`` that it normalises with.
        image: A normalised batch (B, C, H, W) or (B, T, C, H, W).

    Returns:
        Digital numbers of the same shape, float32.
    """
    mean, std = (
        torch.as_tensor(v, device=image.device).float().reshape(-1, 1, 1)
        for v in (datamodule.mean, datamodule.std)
    )
    return image.float() * std + mean


def training_batches(
    datamodule: BaseDataModule, device: torch.device, passes: int = 1
) -> Iterator[dict[str, Tensor]]:
    """Training samples with the datamodule's own augmentation, in digital numbers.

    Args:
        datamodule: After ``setup('fit')``, in a trainer that is fitting.
        device: Where to put the batches.
        passes: How often to go through the training set.

    Yields:
        ``image`` in digital numbers and ``mask``.
    """
    loader = DataLoader(
        datamodule.train_dataset,
        batch_size=datamodule.train_batch_size or datamodule.batch_size,
        num_workers=datamodule.num_workers,
        collate_fn=getattr(datamodule, 'collate_fn', None),
    )
    for _ in range(passes):
        for batch in loader:
            batch = datamodule.transfer_batch_to_device(batch, device, 0)
            batch = datamodule.on_after_batch_transfer(batch, 0)
            yield {
                'image': digital_numbers(datamodule, batch['image']),
                'mask': batch['mask'],
            }


def check_units(datamodule: BaseDataModule, device: torch.device) -> None:
    """Warn where a datamodule's mean and std do not undo its normalisation.

    Some TorchGeo datamodules forget to normalise in training (conventions.md,
    section 2); a generator would then learn in wrong units, in silence.

    Args:
        datamodule: After ``setup('fit')``, in a trainer that is fitting.
        device: Where to put the batch.

    Raises:
        ValueError: If denormalised training pixels lie far outside the raw ones.
    """
    batch = next(training_batches(datamodule, device))
    count = min(len(batch['image']), len(datamodule.train_dataset))
    raw = torch.stack([datamodule.train_dataset[i]['image'] for i in range(count)])
    low, high = raw.float().min(), raw.float().max()
    middle = batch['image'].median().cpu()
    slack = 0.1 * (high - low) + 1e-6
    if not low - slack <= middle <= high + slack:
        raise ValueError(
            f'Training batches of {type(datamodule).__name__} have the median '
            f'{middle:.4g} after undoing mean and std, but raw pixels lie in '
            f'{low:.4g}..{high:.4g}. Its train_aug must normalise with its own mean '
            'and std: mend the datamodule.'
        )
    if float(raw.float().std()) == 0:
        warnings.warn(
            'The first training batch is constant: is this the right data?',
            stacklevel=2,
        )
