# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Everything that a generator needs to know of any TorchGeo datamodule."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchgeo.datamodules import BaseDataModule, NonGeoDataModule

from ...codecs import Codec
from ...pairs.facts import declared_names, declared_spec, innermost, survey
from ...pairs.layout import SPLITS
from ...pairs.spec import SampleSpec, fits_dtype
from ...pairs.units import usual_unit
from ...pairs.valid import mark_missing
from .resumable import seed_random
from .wrapping import WrappingDataModule

#: Samples whose pixels tell the scaling of the bands.
_SPREAD = 256
#: Passes through the training set that latent statistics are measured over.
_STATISTICS_PASSES = 2
#: Share of a band's spread by which a probe may miss; colour jitter stays below.
_SLACK = 0.25
#: Classes of change between dates, where masks hold 0 and 1 and have no names.
_CHANGE = ('no change', 'change')


def describe_datamodule(
    datamodule: BaseDataModule, overrides: Mapping[str, Any] | None = None
) -> SampleSpec:
    """Find out what the samples of a datamodule are.

    Ours have a ``spec``. For others, a few training samples tell the number of bands
    and dates and the range, and the data set's ``bands`` (or ``all_bands``) and
    ``classes`` the names, as TorchGeo's conventions have it.

    Args:
        datamodule: After ``setup('fit')``.
        overrides: Fields of :class:`SampleSpec` that the user gives.

    Returns:
        The description.

    Raises:
        TypeError: If samples of the datamodule cannot be indexed.
        ValueError: If the classes are not known, or masks have several channels.
    """
    if isinstance(datamodule, WrappingDataModule):
        # its training set may be a mixture, whose data sets name nothing
        return datamodule.describe(describe_datamodule(datamodule.real, overrides))
    overrides = dict(overrides or {})
    spec = declared_spec(datamodule)
    if spec is not None:
        return _overridden(spec.to_dict(), overrides)
    if not isinstance(datamodule, NonGeoDataModule):
        raise TypeError(
            f'{type(datamodule).__name__} is no NonGeoDataModule: its samples are '
            'boxes, not numbers. Write its patches to a folder of pairs first: '
            'torchgeo-specdm export.'
        )
    return describe_dataset(
        type(datamodule).__name__, _training_set(datamodule), overrides
    )


def describe_dataset(
    name: str, training: Any, overrides: Mapping[str, Any]
) -> SampleSpec:
    """Find out what the samples of a data set are, from what it says and a few of them.

    Args:
        name: Whose samples they are, for messages.
        training: Map-style data set.
        overrides: Fields of :class:`SampleSpec` that are known.

    Returns:
        The description.

    Raises:
        ValueError: If the classes are not known, or masks have several channels.
    """
    seen = survey(training)
    if seen.form.layers not in ((), (1,)):
        # some datamodules choose a layer after batch transfer; folders of pairs cannot
        raise ValueError(
            f'{name} has masks of '
            f'{(*seen.form.layers, *seen.form.size)}, but synthetic samples have one '
            'class for each pixel and could not be mixed with them. Write the masks '
            'that you mean to a folder of pairs first.'
        )
    *dates, bands = seen.form.channels
    names, classes = declared_names(training, bands)
    if not classes and dates and seen.top <= 1:
        # TorchGeo's data sets of change name no classes
        classes = _CHANGE
    if not names:
        names = ('R', 'G', 'B')
        if bands != 3:
            names = tuple(f'band_{i + 1}' for i in range(bands))
    if not overrides.get('classes', classes):
        raise ValueError(
            f'{type(innermost(training)).__name__} does not say what its classes are. '
            'Name them with spec: {classes: [...]}, in the task, or in a YAML of data '
            'beside class_path.'
        )
    nodata = overrides.get('nodata')
    lowest = 0 if seen.lowest == nodata else seen.lowest
    scale, dtype = usual_unit(seen.brightest, lowest, seen.whole)
    number = isinstance(nodata, int | float)
    if nodata is not None and not (number and fits_dtype(nodata, dtype)):
        # which holds them all
        dtype = 'float32'
    found = {
        'bands': names,
        'classes': classes,
        'dates': dates[0] if dates else 1,
        'scale': scale,
        'dtype': dtype,
    }
    spec = _overridden(found, overrides)
    if (spec.num_bands, spec.dates) != (bands, found['dates']):
        raise ValueError(
            f'spec has {spec.num_bands} bands and {spec.dates} dates, but samples of '
            f'{name} have {bands} and {found["dates"]}. Name the bands of all channels.'
        )
    return spec


def _overridden(found: Mapping[str, Any], given: Mapping[str, Any]) -> SampleSpec:
    """A description with what the user gives."""
    known = [field.name for field in fields(SampleSpec)]
    unknown = sorted({*given}.difference(known))
    if unknown:
        raise ValueError(
            f'spec has {unknown}, but may have {known}. Correct the names.'
        )
    return SampleSpec.from_dict({**found, **given})


def split_datasets(datamodule: Any) -> dict[str, Any]:
    """The data sets of a datamodule that are there, by name.

    Args:
        datamodule: Any datamodule; it is set up to fit and to test. That it cannot
            test is a warning.

    Returns:
        The data sets of ``train``, ``val`` and ``test``.
    """
    # nothing is trained here, so a set smaller than a batch will do
    size, datamodule.batch_size = getattr(datamodule, 'batch_size', None), 1
    try:
        datamodule.setup('fit')
        try:
            datamodule.setup('test')
        except (ValueError, FileNotFoundError) as error:
            warnings.warn(f'There is no test set to look at: {error}', stacklevel=2)
    finally:
        datamodule.batch_size = size
    found = {name: getattr(datamodule, f'{name}_dataset', None) for name in SPLITS}
    return {name: dataset for name, dataset in found.items() if dataset is not None}


def digital_numbers(datamodule: BaseDataModule, image: Tensor) -> Tensor:
    """Undo a datamodule's normalisation.

    Args:
        datamodule: Has the ``mean`` and ``std`` that it normalises with.
        image: A normalised batch (B, C, H, W) or (B, T, C, H, W).

    Returns:
        Digital numbers of the same shape, float32.
    """
    mean, std = (
        torch.as_tensor(v)
        .to(image.device, torch.float32, non_blocking=True)
        .reshape(-1, 1, 1)
        for v in (datamodule.mean, datamodule.std)
    )
    return image.float() * std + mean


def training_batches(
    datamodule: BaseDataModule,
    device: torch.device,
    passes: int = 1,
    at_most: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Training samples with the datamodule's own augmentation, in digital numbers.

    Args:
        datamodule: After ``setup('fit')``, in a trainer that is fitting.
        device: Device to put the batches on.
        passes: Number of passes through the training set.
        at_most: Take this many samples, evenly spread over the training set; all if
            None.

    Yields:
        ``image`` in digital numbers and ``mask``.
    """
    training = _training_set(datamodule)
    loader = DataLoader(
        Subset(training, _spread(training, at_most)),
        batch_size=datamodule.train_batch_size or datamodule.batch_size,
        num_workers=datamodule.num_workers,
        collate_fn=getattr(datamodule, 'collate_fn', None),
    )
    for _ in range(passes):
        for batch in loader:
            batch = _on_device(datamodule, batch, device)
            yield {
                'image': digital_numbers(datamodule, batch['image']),
                'mask': batch['mask'],
            }


@contextmanager
def same_randomness() -> Iterator[None]:
    """Make augmentation the same on every process and after every restart.

    What is measured or cached before training starts must not differ between the
    processes that train together, nor between a run and its continuation.
    """
    with isolate_rng():
        seed_random(0)
        yield


def mark_nodata(datamodule: Any, nodata: float | None) -> None:
    """Let a datamodule give NaN where its images have a value that means nothing.

    Before anything else, so that neither augmentation nor normalisation changes it.

    Args:
        datamodule: Any datamodule; others than ours do not look at nodata.
        nodata: The value that the user names; None for none.
    """
    if nodata is None or getattr(datamodule, '_nodata', None) == nodata:
        return
    augment = datamodule.on_after_batch_transfer

    def marked(batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        if 'image' in batch:
            batch = batch | {'image': mark_missing(batch['image'], nodata)}
        augmented: dict[str, Tensor] = augment(batch, dataloader_idx)
        return augmented

    datamodule.on_after_batch_transfer = marked
    datamodule._nodata = nodata


def check_units(
    datamodule: BaseDataModule, device: torch.device, nodata: float | None = None
) -> None:
    """Refuse a datamodule whose mean and std do not undo its normalisation.

    Some TorchGeo datamodules forget to normalise in training (docs/notes/torchgeo.md);
    a generator would then learn in wrong units, in silence. So blank images of a dark
    and of a bright value of each band are sent through the augmentation of training,
    and must come back: crops, flips and turns leave them as they are.

    Args:
        datamodule: After ``setup('fit')``, in a trainer that is fitting.
        device: Device to put the batch on.
        nodata: Value of missing pixels that the user names; None for none.

    Raises:
        ValueError: If a band does not come back.
    """
    training = _training_set(datamodule)
    size = datamodule.train_batch_size or datamodule.batch_size
    samples = [training[i] for i in _spread(training, size)]
    collate = (
        getattr(datamodule, 'collate_fn', None) or torch.utils.data.default_collate
    )
    batch = collate(samples)
    # bands first: (C, everything else)
    pixels = mark_missing(batch['image'], nodata).movedim(-3, 0).flatten(1)
    if not bool((pixels != pixels[0, 0])[pixels.isfinite()].any()):
        warnings.warn(
            'The first training batch is constant: is this the right data?',
            stacklevel=2,
        )
    ends = torch.stack([_quantile(pixels, 0.05), _quantile(pixels, 0.95)])
    # rounding alone may miss by a share of the level, which a constant band has too
    slack = _SLACK * (ends[1] - ends[0]) + 1e-3 * ends.abs().amax(0) + 1e-6
    for value in ends:
        blank = value[:, None, None].expand_as(batch['image']).contiguous()
        moved = _on_device(datamodule, batch | {'image': blank}, device)
        back = digital_numbers(datamodule, moved['image'])
        back = back.movedim(-3, 0).flatten(1).median(1).values.cpu()
        wrong = ((back - value).abs() <= slack).logical_not().nonzero().flatten()
        if len(wrong):
            band = int(wrong[0])
            raise ValueError(
                f'{type(datamodule).__name__}: channel {band} of value '
                f'{value[band]:.6g} is {back[band]:.6g} after augmentation and after '
                'undoing mean and std. Its train_aug must normalise with its own mean '
                'and std, and nothing else may change values: mend the datamodule.'
            )


def spread_images(
    datamodule: BaseDataModule, spec: SampleSpec, device: torch.device
) -> Tensor:
    """Some training images from all over the training set, their masks checked.

    Args:
        datamodule: After ``setup('fit')``, in a trainer that is fitting.
        spec: Description of the samples.
        device: Device to augment on.

    Returns:
        Digital numbers (N, C, H, W) on the CPU; dates count as images.

    Raises:
        ValueError: If a mask has values that are neither a class nor the ignore index,
            or no mask has a label, or no pixel of a band is valid.
    """
    images, labelled = [], False
    for batch in training_batches(datamodule, device, at_most=_SPREAD):
        found = set(torch.unique(batch['mask']).tolist())
        unknown = sorted(found - {*range(spec.num_classes), spec.ignore_index})
        if unknown:
            raise ValueError(
                f'The masks hold the values {unknown[:8]}, but the classes are '
                f'{list(spec.classes)} (0..{spec.num_classes - 1}) and ignore_index='
                f'{spec.ignore_index}. Mend the masks, or name what is missing in the '
                'task: spec: {ignore_index: 255} or spec: {classes: [...]}.'
            )
        images.append(batch['image'].flatten(0, -4).cpu())
        labelled = labelled or found != {spec.ignore_index}
    gone = ~torch.stack([i.isfinite().any(0).flatten(1).any(1) for i in images]).any(0)
    if gone.any():
        names = [b for b, dead in zip(spec.bands, gone, strict=True) if dead]
        raise ValueError(
            f'The bands {names} have no valid pixel in {len(images)} batches from all '
            'over the training set. Leave them out of the datamodule, or write it as a '
            'folder of pairs without them (torchgeo-specdm export --bands live).'
        )
    if not labelled:
        raise ValueError(
            f'No pixel of {len(images)} batches from all over the training set has a '
            f'label: all masks hold ignore_index={spec.ignore_index}. Labels are half '
            'of what is learned: give masks with classes in them.'
        )
    return torch.cat(images)


def fit_codec(
    codec: Codec, datamodule: BaseDataModule, device: torch.device
) -> list[int]:
    """Check the data, and measure what an untrained codec has to know of them.

    Args:
        codec: Codec on the device. Gets the band scaling if it has none yet, and latent
            statistics if it has nothing to learn before them.
        datamodule: After ``setup('fit')``, in a trainer that is fitting.
        device: Device to augment on.

    Returns:
        Height and width of a training patch.

    Raises:
        ValueError: If units or mask values are wrong.
    """
    with same_randomness():
        check_units(datamodule, device, codec.spec.nodata)
        images = spread_images(datamodule, codec.spec, device)
    if bool(codec.center.isnan().any()):
        codec.fit_scaling(images)
    if not codec.trainable:
        fit_statistics(codec, datamodule, device)
    return list(images.shape[-2:])


def fit_statistics(
    codec: Codec, datamodule: BaseDataModule, device: torch.device
) -> None:
    """Measure the latent statistics of a codec over a training set.

    Args:
        codec: Codec on the device, with nothing left to learn.
        datamodule: After ``setup('fit')``, in a trainer that is fitting.
        device: Device to augment and encode on.
    """
    with same_randomness():
        codec.fit_statistics(training_batches(datamodule, device, _STATISTICS_PASSES))


def _on_device(
    datamodule: BaseDataModule, batch: dict[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """A collated batch on the device, augmented as in training."""
    batch = datamodule.transfer_batch_to_device(batch, device, 0)
    augmented: dict[str, Tensor] = datamodule.on_after_batch_transfer(batch, 0)
    return augmented


def _training_set(datamodule: BaseDataModule) -> Any:
    """The training set, which ``setup('fit')`` has to make."""
    if not datamodule.train_dataset:
        raise ValueError(
            f'{type(datamodule).__name__} has no training samples after setup("fit"). '
            'Check its folder and its split.'
        )
    return datamodule.train_dataset


def _spread(dataset: Any, at_most: int | None) -> list[int]:
    """Evenly spread indices of a data set; neighbours may be of one place."""
    size = len(dataset)
    count = size if at_most is None else min(size, at_most)
    return [i * size // count for i in range(count)]


def _quantile(pixels: Tensor, share: float) -> Tensor:
    """Quantile of the valid values of each row; torch.quantile has a size limit."""
    rows = [row[row.isfinite()] for row in pixels]
    rows = [row if len(row) else row.new_zeros(1) for row in rows]
    return torch.stack(
        [row.kthvalue(max(1, round(share * len(row)))).values for row in rows]
    )
