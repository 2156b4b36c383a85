# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Real samples of any data sets as a folder of pairs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..files import write_text
from .facts import BandMoments
from .manifest import read_manifest
from .spec import SampleSpec
from .valid import mark_missing
from .writer import PairWriter


def write_real_pairs(
    root: Path,
    spec: SampleSpec,
    sets: Mapping[str, Any],
    settings: Mapping[str, Any],
    card: str,
    bands: Sequence[str] | Literal['live'] | None = None,
) -> Path:
    """Write real samples as a folder of pairs, with a list for each split.

    Samples that are there already are kept.

    Args:
        root: The folder, made if needed.
        spec: Description of the samples.
        sets: Map-style data sets by the name of their split; samples have ``image``
            in digital numbers, (C, H, W) or (T, C, H, W), NaN where missing, and
            ``mask``, (H, W) or (1, H, W).
        settings: Settings that must be equal to go on in the same folder; plain JSON
            types.
        card: Markdown for ``README.md``, which comes last: a folder with it is whole.
        bands: Names of the bands to write; ``live`` for all that are not the same
            everywhere, or missing; None for all.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder was begun with other settings.
        ValueError: If a sample is not what *spec* says.
    """
    if bands == 'live':
        dead = reduce(BandMoments.join, map(BandMoments.of, _images(spec, sets))).dead
        bands = [name for name, gone in zip(spec.bands, dead, strict=True) if not gone]
    everything = spec.bands
    spec = spec if bands is None else spec.choose_bands(bands)
    channels = [everything.index(name) for name in spec.bands]
    writer = PairWriter(root, spec, {}, settings, synthetic=False)
    writer.clean()
    done = writer.done()
    numbers = [
        (split, i) for split, dataset in sets.items() for i in range(len(dataset))
    ]
    for index, (split, number) in enumerate(numbers):
        if index not in done:
            sample = sets[split][number]
            mask = sample['mask'].reshape(sample['mask'].shape[-2:]).numpy()
            image = mark_missing(sample['image'], spec.nodata)[..., channels, :, :]
            record = {'index': index, 'split': split}
            writer.write(
                f'{index:06d}',
                image.numpy(),
                mask,
                record,
                missing=image.isnan().numpy(),
            )
    rows = [row for row in read_manifest(root) if row['accepted']]
    for split in sets:
        names = [row['id'] for row in rows if row['split'] == split]
        write_text(
            root / f'{split}.txt', ''.join(f'{name}\n' for name in sorted(names))
        )
    writer.finish(card)
    return root


def _images(spec: SampleSpec, sets: Mapping[str, Any]) -> Iterator[Tensor]:
    """The images of all sets, NaN where missing."""
    for dataset in sets.values():
        for index in range(len(dataset)):
            yield mark_missing(dataset[index]['image'], spec.nodata)
