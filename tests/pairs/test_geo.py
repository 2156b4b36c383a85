# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import pytest
import shapely
from torchgeo.datasets import L7Irish

from tests.data.geo import L7_SIZE, make_l7irish
from torchgeo_specdm.pairs.geo import GeoTiles, drop_shared_ground


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> L7Irish:
    root = tmp_path_factory.mktemp('l7')
    make_l7irish(root)
    return L7Irish(paths=str(root))


def area(dataset: L7Irish, columns: slice) -> shapely.Geometry:
    """Some columns of the first scene."""
    west, south, _, north = dataset.index.geometry.iloc[0].bounds
    left, right = (west + 30 * column for column in (columns.start, columns.stop))
    return shapely.box(left, south, right, north)


def seen(tiles: GeoTiles) -> np.ndarray:
    """How many tiles show each pixel of the first scene."""
    west, north = (tiles.dataset.index.geometry.iloc[0].bounds[i] for i in (0, 3))
    counts = np.zeros(L7_SIZE, int)
    for tile in tiles.tiles:
        x, y = round((tile.left - west) / 30), round((north - tile.top) / 30)
        counts[y : y + tiles.tile, x : x + tiles.tile] += 1
    return counts


@pytest.mark.parametrize('stride', [4, 8])
def test_training_gives_way_where_tiles_share_ground(
    dataset: L7Irish, stride: int
) -> None:
    spans = {'train': slice(0, 70), 'val': slice(0, 24), 'test': slice(20, 46)}
    sets = {
        name: GeoTiles(dataset, 8, stride, area(dataset, columns))
        for name, columns in spans.items()
    }
    alone = seen(sets['test'])
    drop_shared_ground(sets)
    train, val, test = (seen(tiles) > 0 for tiles in sets.values())
    assert np.array_equal(seen(sets['test']), alone)
    assert train.any() and val.any() and test.any()
    assert not (train & val).any() and not ((train | val) & test).any()


@pytest.mark.parametrize('key', ['image', 'mask'])
def test_boxes_of_another_size_are_refused(
    dataset: L7Irish, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = L7Irish.__getitem__

    def reprojected(self: L7Irish, query: Any) -> dict[str, Any]:
        sample = load(self, query)
        return sample | {key: sample[key][..., :-1]}

    tiles = GeoTiles(dataset, 8, 8, area(dataset, slice(0, 16)))
    assert tiles[0]['image'].shape == (9, 8, 8)
    monkeypatch.setattr(L7Irish, '__getitem__', reprojected)
    said = rf'L7Irish gives a {key} of \(8, 7\) pixels for a box of 8 x 8 in EPSG:3857'
    with pytest.raises(ValueError, match=said):
        tiles[0]


def test_no_tile_lies_in_two_places(dataset: L7Irish) -> None:
    tiles = GeoTiles(dataset, 8, 4, area(dataset, slice(0, 70)))
    shown: dict[str, set[tuple[float, float]]] = {}
    for tile in tiles.tiles:
        corners = {
            (tile.left + 30 * x, tile.top - 30 * y) for x in range(8) for y in range(8)
        }
        shown.setdefault(tile.place, set()).update(corners)
    pixels = [pixel for place in shown.values() for pixel in place]
    assert len(shown) > 3 and len(pixels) == len({*pixels})
