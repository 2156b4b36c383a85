# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Any datamodule as a folder of pairs."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torchgeo.datamodules import BaseDataModule, GeoDataModule

from ...compat import sampled_area
from ...pairs.export import Cut, write_real_pairs
from ...pairs.facts import innermost
from ...pairs.geo import GeoTiles, drop_shared_ground, parts_of, said_by_files
from ...pairs.layout import SPLITS
from .adapter import describe_datamodule, describe_dataset, split_datasets

_log = logging.getLogger(__name__)


def export_datamodule(
    datamodule: BaseDataModule,
    out: Path,
    splits: Sequence[str] = SPLITS,
    tile: int | None = None,
    stride: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    bands: Sequence[str] | Literal['live'] | None = None,
) -> None:
    """Write the samples of a datamodule as a folder of pairs.

    Data sets of rasters (GeoDatamodules) are cut by a grid and keep their georeference.
    Samples of others are written as they are, or cut into tiles.

    Args:
        datamodule: The datamodule, not yet set up.
        out: Folder to write.
        splits: Names of the splits to write.
        tile: Side of a tile in pixels. None for the patches that a GeoDatamodule samples,
            and for whole samples of others.
        stride: Pixels from tile to tile; *tile* if None.
        overrides: Fields of :class:`SampleSpec` that the user gives.
        bands: Names of the bands to write, ``live`` for all but dead ones, or None for
            all.

    Raises:
        FileExistsError: If the folder was begun with other settings.
        ValueError: If tiles do not fit, a split is empty, or the samples are no pairs.
    """
    if (tile is not None and tile < 1) or (stride is not None and stride < 1):
        raise ValueError(f'tile={tile} and stride={stride} must be 1 or more.')
    if stride is not None and tile is None:
        raise ValueError(f'stride={stride} is between tiles. Give tile, too.')
    name, cut = type(datamodule).__name__, None
    given = dict(overrides or {})
    sets: Mapping[str, Any]
    if isinstance(datamodule, GeoDataModule):
        sets = _grids(datamodule, splits, tile, stride)
        known = said_by_files(sets) | given
        spec = describe_dataset(name, next(iter(sets.values())), known)
    else:
        sets = split_datasets(datamodule)
        spec = describe_datamodule(datamodule, given)
        sets = {split: found for split, found in sets.items() if split in splits}
        if tile is not None:
            cut = Cut(tile, stride or tile)
            _keep_whole(map(innermost, sets.values()))
    if not sets:
        raise ValueError(f'{name} has none of the splits {list(splits)}. Name others.')
    settings = {'exported': name, 'tile': tile, 'stride': stride, 'splits': [*sets]}
    card = f'# Pairs exported from {name}\n'
    write_real_pairs(out, spec, sets, settings, card, bands, cut)


def _grids(
    datamodule: GeoDataModule,
    splits: Sequence[str],
    tile: int | None,
    stride: int | None,
) -> dict[str, GeoTiles]:
    """The tiles of each split, which share no ground."""
    datamodule.prepare_data()
    sets = {}
    for split, stage in zip(SPLITS, ('fit', 'validate', 'test'), strict=True):
        datamodule.setup(stage)
        dataset = _first(datamodule, f'{split}_dataset', 'dataset')
        sampler = _first(datamodule, f'{split}_batch_sampler', f'{split}_sampler')
        if dataset is None or sampler is None or split not in splits:
            continue
        _keep_whole(parts_of(dataset))
        size = tile or round(sampler.size[1] / dataset.res[0])
        sets[split] = GeoTiles(dataset, size, stride or size, sampled_area(sampler))
        if not len(sets[split]):
            raise ValueError(
                f'No file of {split} is as large as a tile of {size} pixels. Take a '
                'smaller tile.'
            )
    drop_shared_ground(sets)
    return {split: tiles for split, tiles in sets.items() if len(tiles)}


def _first(datamodule: GeoDataModule, *names: str) -> Any:
    """The first attribute that is there; a sampler may be empty and still be one."""
    found = (getattr(datamodule, name, None) for name in names)
    return next((value for value in found if value is not None), None)


def _keep_whole(datasets: Iterable[Any]) -> None:
    """Take transforms off data sets, which might crop what is to be cut."""
    for dataset in datasets:
        if getattr(dataset, 'transforms', None) is not None:
            _log.warning(
                'Transforms of %s are left out: tiles are cut from whole samples.',
                type(dataset).__name__,
            )
            dataset.transforms = None
