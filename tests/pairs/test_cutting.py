# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import tifffile
import yaml
from rasterio.transform import Affine, from_origin
from scipy.io import savemat
from shapely.geometry import Polygon, box

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


def test_scene_and_raster(
    scene: tuple[Path, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, codes = scene
    labels = write_tiff(tmp_path / 'labels.tif', codes[None].astype(np.uint8), **PLACE)
    out = tmp_path / 'out'
    # of 80 tiles, the blank one is left out
    assert export_scene(path, labels, out, 8) == 79
    assert '1 of 80 tiles are left out' in caplog.text
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
    for attribute, said in (('x', "no 'x' among"), (None, 'several columns among')):
        with pytest.raises(ValueError, match=rf'{said} .*cover.*attribute'):
            export_scene(
                path, tmp_path / 'labels.gpkg', tmp_path / 'b', 16, None, attribute
            )


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
    # tiles that overlap have room in blocks of 11 pixels, with one more beside each
    overlapping = tmp_path / 'overlapping'
    assert (
        export_scene(tmp_path / 'cube.mat', tmp_path / 'labels.mat', overlapping, 8, 3)
        == 36
    )
    assert len({*PairFolder(overlapping).places}) == 9
    sample = folder[folder.ids.index('00016_00008')]
    assert np.array_equal(sample['image'], cube[:, 16:24, 8:16])
    wanted = codes[16:24, 8:16].astype(int) - 1
    found = sample['mask'].numpy()
    assert np.array_equal(np.where(found == 255, -1, found), wanted)


@pytest.mark.parametrize(
    ('dtype', 'value', 'nodata', 'empty'),
    [
        ('int16', -9999, -9999, -9999),
        ('uint16', 65535, 65535, 65535),
        ('float32', np.nan, np.nan, 255),
        ('float32', np.nan, None, 255),
    ],
)
def test_labels_with_gaps(
    scene: tuple[Path, np.ndarray],
    tmp_path: Path,
    dtype: str,
    value: float,
    nodata: float | None,
    empty: int,
) -> None:
    path, codes = scene
    labels = codes.astype(dtype)
    # a whole tile, and a part of one: others have none
    labels[16:32, 16:32] = labels[40, 40] = value
    # by less than anything is measured
    place = PLACE | {'transform': from_origin(500_000 + 1e-6, 5_300_000, 10, 10)}
    labels = write_tiff(tmp_path / 'labels.tif', labels[None], nodata=nodata, **place)
    out = tmp_path / 'out'
    assert export_scene(path, labels, out, 16) == 19
    codes[40, 40] = empty
    folder = PairFolder(out)
    folder.verify()
    for name in folder.ids:
        row, column = map(int, name.split('_'))
        with rasterio.open(out / 'masks' / f'{name}.tif') as source:
            assert source.nodata == empty
            found = source.read(1)
        assert (found == codes[row : row + 16, column : column + 16]).all()


@pytest.mark.parametrize('kind', ['mask', 'alpha'])
def test_holes_that_a_mask_tells(
    scene: tuple[Path, np.ndarray], tmp_path: Path, kind: str
) -> None:
    path, codes = scene
    seen = np.full(codes.shape, 255, np.uint8)
    seen[:, :20] = 0
    image = image_of(codes, 3).astype(np.uint8)
    if kind == 'alpha':
        image = np.concatenate([image, seen[None]])
    write_tiff(path, image, **PLACE)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, 'r+') as target,
    ):
        target.update_tags(wavelengths='{490, 560, 665}')
        if kind == 'mask':
            target.write_mask(seen)
    labels = write_tiff(tmp_path / 'labels.tif', codes[None].astype(np.uint8), **PLACE)
    # one column of tiles shows nothing
    assert export_scene(path, labels, tmp_path / 'out', 16) == 4 * 4
    folder = PairFolder(tmp_path / 'out')
    folder.verify()
    assert folder.spec.num_bands == 3
    if kind == 'mask':
        assert folder.spec.wavelengths == (490, 560, 665)
    for name, sample in zip(folder.ids, folder, strict=True):
        row, column = map(int, name.split('_'))
        here = seen[row : row + 16, column : column + 16] > 0
        assert np.array_equal(~sample['image'].isnan().any(0).numpy(), here)


def test_cube_and_labels_in_one_file(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).integers(0, 9000, (33, 35, 20)).astype(np.uint16)
    codes = np.random.default_rng(1).integers(0, 4, (33, 35)).astype(np.uint8)
    savemat(tmp_path / 'a.mat', {'cube': cube, 'gt': codes})
    export_scene(tmp_path / 'a.mat', tmp_path / 'a.mat', tmp_path / 'out', 8)
    folder = PairFolder(tmp_path / 'out')
    sample = folder[folder.ids.index('00016_00008')]
    assert np.array_equal(sample['mask'], codes[16:24, 8:16])


def squares(
    values: list[Any], crs: str | None = 'EPSG:32632'
) -> geopandas.GeoDataFrame:
    """Columns of the scene with a value each, 160 m wide."""
    shapes = [
        box(500_000 + 160 * i, 5_299_000, 500_160 + 160 * i, 5_300_000)
        for i in range(len(values))
    ]
    return geopandas.GeoDataFrame({'kind': values}, geometry=shapes, crs=crs)


@pytest.mark.parametrize(
    ('values', 'background', 'classes', 'codes'),
    [
        # without a value, no class
        (['sea', None, 'wood'], None, ('sea', 'wood'), (1, 0, 2, 0)),
        # whole numbers beside a gap are read as floating-point ones
        ([10.0, None, 2.0], None, ('class_2', 'class_10'), (10, 0, 2, 0)),
        (['30', '4', None], None, ('class_4', 'class_30'), (30, 4, 0, 0)),
        (['0', '4a', None], None, ('0', '4a'), (1, 2, 0, 0)),
        # 0 is a class here
        ([0, 1, 0], None, ('class_0', 'class_1'), (0, 1, 0, 255)),
        ([0, 1, 0], 'land', ('land', 'class_0', 'class_1'), (0, 1, 0, 255)),
        ([True, False], None, ('False', 'True'), (2, 1, 0, 0)),
        # outside is a class that polygons have, too
        (['sea', 'wood', None], 'sea', ('sea', 'wood'), (1, 2, 1, 1)),
    ],
)
def test_values_of_polygons(
    scene: tuple[Path, np.ndarray],
    tmp_path: Path,
    values: list[Any],
    background: str | None,
    classes: tuple[str, ...],
    codes: tuple[int, ...],
) -> None:
    labels, out = tmp_path / 'labels.gpkg', tmp_path / 'out'
    squares(values).to_file(labels)
    # the only column needs no name
    export_scene(scene[0], labels, out, 16, None, None, background)
    folder = PairFolder(out)
    folder.verify()
    assert folder.spec.classes == classes
    for column, code in enumerate(codes):
        found = out / 'masks' / f'00016_{16 * column:05d}.tif'
        if code in folder.spec.codes:
            with rasterio.open(found) as source:
                assert (source.read() == code).all()
        else:
            # nothing to learn from
            assert not found.exists()


@pytest.mark.parametrize(
    ('fault', 'said'),
    [
        ('empty', 'has 0 polygons with a value of kind'),
        ('layers', r"has the layers \['area', 'labels'\].*ogr2ogr"),
        ('crs', 'does not say what its coordinate system is.*-a_srs'),
        ('number', 'has kind=1099511627776, but a class is a word or a whole'),
        ('table', r'a\.csv has 1 layers, none with polygons'),
    ],
)
def test_polygons_that_do_not_tell(
    scene: tuple[Path, np.ndarray], tmp_path: Path, fault: str, said: str
) -> None:
    labels = tmp_path / {'crs': 'a.shp', 'table': 'a.csv'}.get(fault, 'a.gpkg')
    frame = squares([{'empty': None, 'number': 2**40}.get(fault, 'wood')])
    frame = squares(['wood'], None) if fault == 'crs' else frame
    if fault == 'layers':
        frame.to_file(labels, layer='area')
        frame.to_file(labels, layer='labels')
    elif fault == 'table':
        labels.write_text('kind,x,y\nwood,500000,5299000\n')
    else:
        frame.to_file(labels)
    with pytest.raises(ValueError, match=said):
        export_scene(scene[0], labels, tmp_path / 'out', 8, None, 'kind')


def test_scenes_that_are_no_image(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / 'a.tif', np.ones((1, 32, 32), np.complex64))
    with pytest.raises(ValueError, match=r'a\.tif holds complex numbers'):
        export_scene(path, path, tmp_path / 'out', 8)
    tifffile.imwrite(path, np.ones((4, 32, 32), np.uint16), photometric='minisblack')
    with pytest.raises(ValueError, match=r'a\.tif holds 4 data sets or pages'):
        export_scene(path, path, tmp_path / 'out', 8)


def test_a_scene_that_is_turned(tmp_path: Path) -> None:
    place = Affine.translation(500_000, 5_300_000) * Affine.rotation(30)
    place = place * Affine.scale(10, -10)
    image = np.ones((4, 32, 32), np.uint16)
    profile = {'crs': 'EPSG:32632', 'transform': place}
    path = write_tiff(tmp_path / 'scene.tif', image, NAMES, **profile)
    # in the corner that is not between those of the window
    corners = [place * corner for corner in ((24, 0), (32, 0), (32, 8), (24, 8))]
    shapes = [Polygon(corners)]
    frame = geopandas.GeoDataFrame({'kind': [1]}, geometry=shapes, crs='EPSG:32632')
    frame.to_file(tmp_path / 'labels.gpkg')
    export_scene(path, tmp_path / 'labels.gpkg', tmp_path / 'out', 32, None, 'kind')
    with rasterio.open(tmp_path / 'out' / 'masks' / '00000_00000.tif') as source:
        assert source.read(1)[:8, 24:].all() and source.read().sum() == 64


def test_labels_in_a_picture(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, codes = scene
    labels = tmp_path / 'labels.png'
    write_tiff(labels, codes[None].astype(np.uint8), driver='PNG')
    # painted over the scene in a program that knows no coordinates
    assert export_scene(path, labels, tmp_path / 'out', 8) == 79
    check(tmp_path / 'out', codes, 8)


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
