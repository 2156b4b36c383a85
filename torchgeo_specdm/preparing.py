# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The data of a quickstart: splits of any datamodule, and what pairs must be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Subset
from torchgeo.datamodules import NonGeoDataModule

from .datamodules.pairs import PairFolderDataModule
from .datamodules.support.adapter import describe_datamodule, split_datasets
from .datasets.pairs import PairFolder
from .objects import Config, make_object
from .pairs.layout import PLACES
from .pairs.spec import SampleSpec

#: Share of the training samples that is validated on where validation is the test.
_VALIDATED = 0.2
#: Fewest samples of each split; below, the numbers would say nothing at all.
_LEAST_SAMPLES = {'train': 8, 'val': 2, 'test': 2}
#: Latents have a quarter of the pixels of a side, and the denoiser halves them twice.
_SIDE_FACTOR = 16
_LEAST_SIDE = 32


def split_samples(
    config: Config, spec: Mapping[str, Any] | None, seed: int
) -> tuple[SampleSpec, dict[str, Any], list[str]]:
    """The data sets of a datamodule, always with one to test on.

    Args:
        config: The datamodule, ``class_path`` and ``init_args``.
        spec: Fields of :class:`SampleSpec` that the user gives.
        seed: Chooses the samples to validate on where the validation set is the test.

    Returns:
        Description of the samples, the data set of each split, and what a reader has to
        know of these.
    """
    datamodule = make_object(config, NonGeoDataModule)
    datamodule.prepare_data()
    sets, notes = split_datasets(datamodule), []
    if 'test' not in sets:
        # honest only if nothing is chosen by what is scored
        order = np.random.default_rng(seed).permutation(len(sets['train']))
        held_out = round(_VALIDATED * len(order))
        parts = {'val': order[:held_out], 'train': order[held_out:]}
        sets = {'test': sets['val']} | {
            name: Subset(sets['train'], sorted(chosen.tolist()))
            for name, chosen in parts.items()
        }
        notes.append(
            f'{config["class_path"]} has no labelled test set: its validation set is '
            'the test set here, and a fifth of its training samples, drawn by lot, is '
            'validated on.'
        )
    return describe_datamodule(datamodule, spec), sets, notes


def count_samples(
    data: Path, task: str, seed: int, bands: Sequence[str] | Literal['live'] | None
) -> tuple[dict[str, int], tuple[int, int]]:
    """Look whether pairs are enough, and fit the networks of a quickstart.

    Args:
        data: Folder of pairs.
        task: ``segmentation``, or ``change`` between two dates.
        seed: Seed of the split, if there are no lists.
        bands: Names of the bands to use; None for all.

    Returns:
        Number of samples of each split, and height and width of a patch.

    Raises:
        ValueError: If there are too few of them, or of other dates, classes or sizes.
    """
    real: Any = PairFolderDataModule(str(data), batch_size=1, seed=seed, bands=bands)
    height, width = PairFolder(data)[0]['mask'].shape[-2:]
    dates = 2 if task == 'change' else 1
    if real.spec.dates != dates:
        raise ValueError(
            f'{data} has {real.spec.dates} date(s), but the task {task!r} needs {dates}. '
            'Use --task change for pairs of two dates, and the steps in experiments/ for '
            'more.'
        )
    if real.spec.num_classes < 2:
        raise ValueError(
            f'{data} has the classes {list(real.spec.classes)}, but there must be two or '
            'more to tell apart. Add masks of other classes.'
        )
    wrong_side = height % _SIDE_FACTOR or width % _SIDE_FACTOR
    if wrong_side or min(height, width) < _LEAST_SIDE:
        raise ValueError(
            f'{data} has patches of {height} x {width} pixels, but both sides must be '
            f'multiples of {_SIDE_FACTOR}, and {_LEAST_SIDE} or more. Cut them to such a '
            'size, for example 64 x 64.'
        )
    for stage in ('fit', 'test'):
        real.setup(stage)
    counts = {s: len(getattr(real, f'{s}_dataset')) for s in _LEAST_SAMPLES}
    if any(counts[s] < least for s, least in _LEAST_SAMPLES.items()):
        raise ValueError(
            f'{data} has too few samples in a split: {_show(counts)}; needed are '
            f'{_show(_LEAST_SAMPLES)}. Add samples, or change the lists.'
        )
    return counts, (height, width)


def describe_splits(data: Path, counts: Mapping[str, int]) -> str:
    """Say how many patches each split has, and who made the splits.

    Args:
        data: Folder of pairs.
        counts: Number of samples of each split.

    Returns:
        A sentence or two.
    """
    said = (
        f'{counts["train"]} patches to train on, {counts["val"]} to validate and '
        f'{counts["test"]} to test'
    )
    if PairFolder(data).count_splits():
        return f'{said}.'
    if (data / PLACES).exists():
        return f'{said}, by the places of {PLACES}.'
    return (
        f'{said}, chosen at random. Where patches are neighbours, scores are too good: '
        f'give neighbours the same place in {PLACES}.'
    )


def _show(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{count} for {split}' for split, count in counts.items())
