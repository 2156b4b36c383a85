# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Real samples of any data sets as a folder of pairs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rasterio.windows import Window, transform
from torch import Tensor

from ..files import write_text
from .facts import BandMoments
from .layout import PLACES, PlacedSample, write_table
from .manifest import read_manifest
from .rasters import Place
from .spec import SampleSpec
from .valid import mark_missing
from .writer import PairWriter


class Cut(NamedTuple):
    """The way that larger samples are cut into tiles."""

    tile: int  #: side of a tile in pixels
    stride: int  #: pixels from tile to tile


def write_real_pairs(
    root: Path,
    spec: SampleSpec,
    sets: Mapping[str, Any],
    settings: Mapping[str, Any],
    card: str,
    bands: Sequence[str] | Literal['live'] | None = None,
    cut: Cut | None = None,
) -> Path:
    """Write real samples as a folder of pairs, with a list for each split.

    Samples that are there already are kept. Where the data sets name ``places``, or
    samples are cut, ``places.csv`` tells which pairs share ground. A data set with the
    method ``place`` also tells where samples lie.

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
        cut: The way to cut samples into tiles; what is left over is dropped, and so are
            tiles without a label. None keeps samples whole.

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
    writer = PairWriter(root, spec, {}, settings, real=('image', 'mask'))
    writer.clean()
    done = writer.done()
    placed: list[PlacedSample] = []
    for split, dataset in sets.items():
        names = getattr(dataset, 'places', None)
        for number in range(len(dataset)):
            sample = dataset[number] if cut else {}
            top, left = getattr(dataset, 'corner', _no_corner)(number)
            for row, column in _corners(sample, cut):
                index = len(placed)
                record = {'index': index, 'split': split}
                if index not in done:
                    sample = sample or dataset[number]
                    part = _cut_out(sample, row, column, cut)
                    image = mark_missing(part['image'], spec.nodata)
                    part = part | {'image': image[..., channels, :, :]}
                    place = _place(dataset, number, row, column)
                    tiled = cut is not None or hasattr(dataset, 'corner')
                    _write(writer, part, record, place, tiled)
                name = names[number] if names else f'{split}_{number}'
                placed.append(
                    PlacedSample(f'{index:06d}', name, top + row, left + column)
                )
    _write_lists(root, sets)
    # samples of one place, whose corners are not known, might lie anywhere in it
    loose = any(
        hasattr(s, 'places') and not hasattr(s, 'corner') for s in sets.values()
    )
    if cut or any(hasattr(dataset, 'places') for dataset in sets.values()):
        width = 2 if loose else 4
        rows = (row[:width] for row in placed)
        write_table(root / PLACES, PlacedSample._fields[:width], rows)
    writer.finish(card)
    return root


def _images(spec: SampleSpec, sets: Mapping[str, Any]) -> Iterator[Tensor]:
    """The images of all sets, NaN where missing."""
    for dataset in sets.values():
        for index in range(len(dataset)):
            yield mark_missing(dataset[index]['image'], spec.nodata)


def _write(
    writer: PairWriter,
    sample: dict[str, Tensor],
    record: Mapping[str, Any],
    place: Place,
    tiled: bool,
) -> None:
    """Write a sample; a tile without a label is left out."""
    name, ignored = f'{record["index"]:06d}', writer.spec.ignore_index
    mask = sample['mask'].reshape(sample['mask'].shape[-2:]).numpy()
    if tiled and ignored is not None and (mask == ignored).all():
        writer.reject(name, 'no pixel has a label', record)
        return
    image, missing = sample['image'].numpy(), sample['image'].isnan().numpy()
    writer.write(name, image, mask, record, place, missing)


def _write_lists(root: Path, sets: Mapping[str, Any]) -> None:
    rows = [row for row in read_manifest(root) if row['accepted']]
    if not rows:
        raise ValueError(
            f'{root} gets 0 pairs: no tile has a label, or no sample is as large as a '
            'tile. Take a smaller tile.'
        )
    for split in sets:
        ids = sorted(row['id'] for row in rows if row['split'] == split)
        write_text(root / f'{split}.txt', ''.join(f'{name}\n' for name in ids))


def _corners(sample: Mapping[str, Tensor], cut: Cut | None) -> list[tuple[int, int]]:
    """Row and column of each tile of a sample; of a whole one if it is not cut."""
    if cut is None:
        return [(0, 0)]
    rows, columns = (
        range(0, side - cut.tile + 1, cut.stride) for side in sample['mask'].shape[-2:]
    )
    return [*product(rows, columns)]


def _no_corner(number: int) -> tuple[int, int]:
    """A sample that is a place of its own."""
    return 0, 0


def _cut_out(
    sample: Mapping[str, Tensor], row: int, column: int, cut: Cut | None
) -> dict[str, Tensor]:
    if cut is None:
        return dict(sample)
    window = (..., slice(row, row + cut.tile), slice(column, column + cut.tile))
    return {key: sample[key][window] for key in ('image', 'mask')}


def _place(dataset: Any, number: int, row: int, column: int) -> Place:
    """Where a part of a sample lies, if the data set says where the sample does."""
    place: Place = dataset.place(number) if hasattr(dataset, 'place') else {}
    if not place:
        return {}
    window = Window(column, row, 1, 1)
    return place | {'transform': transform(window, place['transform'])}
