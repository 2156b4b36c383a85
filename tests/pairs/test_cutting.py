# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin
from scipy.io import savemat
from shapely.geometry import box

from tests.data.pairs import NAMES, image_of, make_pairs, write_tiff
from torchgeo_specdm import PairFolderDataModule
from torchgeo_specdm.cli import main
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.pairs.cutting import export_scene

PLACE = {'crs': 'EPSG:32632', 'transform': from_origin(500_000, 5_300_000, 10, 10)}


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A scene of 64 x 80 pixels that tells its codes, with a blank upper left corner."""
    codes = np.random.default_rng(0).integers(1, 4, (16, 20))
    codes = np.kron(codes, np.ones((4, 4), int))
    image = image_of(codes, 4).astype(np.uint16)
    image[:, :8, :8] = 0
    path = write_tiff(tmp_path / 'scene.tif', image, NAMES, nodata=0, **PLACE)
    return path, codes


def check(out: Path, codes: np.ndarray, size: int) -> None:
    """Every tile lies where it was cut, with the codes of its place."""
    folder = PairFolder(out)
    folder.verify()
    for name, sample in zip(folder.ids, folder, strict=True):
        row, column = map(int, name.split('_'))
        with rasterio.open(out / 'masks' / f'{name}.tif') as source:
            found = source.read(1)
            assert source.crs == PLACE['crs']
            assert source.transform * (0, 0) == (
                500_000 + 10 * column,
                5_300_000 - 10 * row,
            )
        assert (found == codes[row : row + size, column : column + size]).all()
        seen = ~sample['image'].isnan().any(0).numpy() & (found > 0)
        assert np.array_equal(
            sample['image'].numpy()[:, seen], image_of(found, 4)[:, seen]
        )


def test_scene_and_raster(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, codes = scene
    labels = write_tiff(tmp_path / 'labels.tif', codes[None].astype(np.uint8), **PLACE)
    out = tmp_path / 'out'
    # of 80 tiles, the blank one is left out
    assert export_scene(path, labels, out, 8) == 79
    check(out, codes, 8)
    folder = PairFolder(out)
    assert len({*folder.places}) == 2 * 3
    data = PairFolderDataModule(str(out), batch_size=4)
    data.setup('fit')
    assert {*data.train_dataset.places}.isdisjoint(data.val_dataset.places)
    with pytest.raises(FileExistsError, match='is there already'):
        export_scene(path, labels, out, 8)


def test_tiles_that_overlap_stay_in_their_block(
    scene: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, codes = scene
    labels = write_tiff(tmp_path / 'labels.tif', codes[None].astype(np.uint8), **PLACE)
    export_scene(path, labels, tmp_path / 'out', 8, 4)
    check(tmp_path / 'out', codes, 8)
    folder = PairFolder(tmp_path / 'out')
    ground: dict[tuple[int, int], str] = {}
    for name, place in zip(folder.ids, folder.places, strict=True):
        row, column = map(int, name.split('_'))
        for pixel in np.ndindex(8, 8):
            where = row + pixel[0], column + pixel[1]
            assert ground.setdefault(where, place) == place


@pytest.mark.parametrize('column', ['code', 'cover'])
@pytest.mark.parametrize('background', [None, 'sea'])
def test_polygons(
    scene: tuple[Path, np.ndarray], tmp_path: Path, column: str, background: str | None
) -> None:
    path, codes = scene
    shapes, names = [], ['field', 'road', 'wood']
    for row, column_ in np.ndindex(16, 20):
        if (row, column_) != (6, 6):
            west, north = 500_000 + 40 * column_, 5_300_000 - 40 * row
            code = int(codes[4 * row, 4 * column_])
            shape = box(west, north - 40, west + 40, north)
            shapes.append({'geometry': shape, 'code': code, 'cover': names[code - 1]})
    frame = geopandas.GeoDataFrame(shapes, crs='EPSG:32632')
    frame.to_file(tmp_path / 'labels.gpkg')
    out = tmp_path / 'out'
    export_scene(path, tmp_path / 'labels.gpkg', out, 16, None, column, background)
    codes[24:28, 24:28] = 0
    check(out, codes, 16)
    spec = PairFolder(out).spec
    wanted = names if column == 'cover' else ['class_1', 'class_2', 'class_3']
    assert list(spec.classes) == ([background] if background else []) + wanted
    with pytest.raises(ValueError, match=r"attribute='x' is no column .*'cover'"):
        export_scene(path, tmp_path / 'labels.gpkg', tmp_path / 'b', 16, None, 'x')


@pytest.mark.parametrize('last', [True, False])
def test_a_cube_of_matlab(tmp_path: Path, last: bool) -> None:
    random = np.random.default_rng(0)
    cube = random.integers(0, 9000, (20, 33, 35)).astype(np.uint16)
    codes = random.integers(0, 4, (33, 35)).astype(np.uint8)
    values = cube.transpose(1, 2, 0) if last else cube
    savemat(tmp_path / 'cube.mat', {'cube': values})
    savemat(tmp_path / 'labels.mat', {'labels': codes})
    out = tmp_path / 'out'
    export_scene(tmp_path / 'cube.mat', tmp_path / 'labels.mat', out, 8)
    folder = PairFolder(out, no_label=0)
    assert folder.spec.num_bands == 20 and len(folder) == 16
    # as small as it is, each split has places of its own
    assert len({*folder.places}) == 16
    sample = folder[folder.ids.index('00016_00008')]
    assert np.array_equal(sample['image'], cube[:, 16:24, 8:16])
    wanted = codes[16:24, 8:16].astype(int) - 1
    found = sample['mask'].numpy()
    assert np.array_equal(np.where(found == 255, -1, found), wanted)


def test_labels_on_another_grid(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, codes = scene
    moved = PLACE | {'transform': from_origin(500_005, 5_300_000, 10, 10)}
    labels = write_tiff(tmp_path / 'labels.tif', codes[None].astype(np.uint8), **moved)
    with pytest.raises(ValueError, match='one grid is needed'):
        export_scene(path, labels, tmp_path / 'out', 8)


def test_command(tmp_path: Path) -> None:
    root = make_pairs(tmp_path / 'pairs', 12, size=16)
    config = tmp_path / 'data.yaml'
    given = {'root': str(root), 'batch_size': 2}
    module = 'torchgeo_specdm.PairFolderDataModule'
    config.write_text(yaml.safe_dump({'class_path': module, 'init_args': given}))
    out = tmp_path / 'out'
    assert main(['export', str(config), '--out', str(out), '--tile', '8']) == 0
    assert len(PairFolder(out)) == 4 * 12
    assert PairFolder(out).count_splits().keys() == {'train', 'val', 'test'}
    # other settings are another folder
    assert main(['export', str(config), '--out', str(out)]) == 1
