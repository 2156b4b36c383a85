# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from tests.conftest import quiet_trainer
from tests.data.pairs import NAMES, image_of, make_pairs, write_tiff
from torchgeo_specdm import MultispectralSegmentationTask, PairFolderDataModule
from torchgeo_specdm.datasets.rasters import ImageFolder

PLACE = {'crs': 'EPSG:32632', 'transform': from_origin(500_000, 5_300_000, 10, 10)}
CODES = [10, 523, 30]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_pairs(tmp_path / 'pairs', 8, size=16)
    for path in (root / 'masks').iterdir():
        with rasterio.open(path) as source:
            codes = np.array(CODES, np.uint16)[source.read()]
        write_tiff(path, codes)
    rows = ''.join(f'{code},class {code}\n' for code in CODES)
    (root / 'classes.csv').write_text(f'id,name\n{rows}')
    return root


def predict(root: Path, tmp_path: Path, scenes: Path | None = None) -> Path:
    # crops are for training alone
    data = PairFolderDataModule(
        str(root), batch_size=2, patch_size=8, predict_root=scenes and str(scenes)
    )
    trainer = quiet_trainer(tmp_path)
    trainer.predict(MultispectralSegmentationTask(), data)
    return Path(trainer.default_root_dir) / 'maps'


def test_scenes_of_any_size_without_masks(root: Path, tmp_path: Path) -> None:
    scenes = tmp_path / 'scenes'
    for number, size in enumerate((40, 52)):
        image = image_of(np.zeros((size, size + 4)), 4).astype(np.uint16)
        # in another order than the labelled ones, and with a hole
        image[:, :3] = 0
        path = scenes / f'{number}.tif'
        write_tiff(path, image[::-1], NAMES[::-1], nodata=0, **PLACE)
    maps = predict(root, tmp_path, scenes)
    assert sorted(path.name for path in maps.iterdir()) == ['0.tif', '1.tif']
    for number, size in enumerate((40, 52)):
        with rasterio.open(maps / f'{number}.tif') as source:
            assert (source.crs, source.transform) == tuple(PLACE.values())
            values = source.read(1)
            assert values.shape == (size, size + 4)
            assert (values[:3] == source.nodata).all()
            assert {*np.unique(values[3:])} <= {*CODES}
            assert source.tags()['CLASS_523'] == 'class 523'
            assert source.colormap(1)[523]


def test_the_folder_itself(root: Path, tmp_path: Path) -> None:
    maps = predict(root, tmp_path)
    assert len([*maps.iterdir()]) == 8
    # patches without a georeference get none
    with rasterio.open(maps / '0000.tif') as source:
        assert source.crs is None


@pytest.mark.parametrize('fault', ['values', 'scale'])
def test_other_units_are_refused(root: Path, tmp_path: Path, fault: str) -> None:
    image = image_of(np.zeros((16, 16)), 4).astype(np.uint16)
    image = image * 100 if fault == 'values' else image
    # one scene will do
    scene = write_tiff(tmp_path / 'scene.tif', image, NAMES)
    if fault == 'scale':
        with rasterio.open(scene, 'r+') as target:
            target.scales = [2e-5] * 4
    said = {'values': 'different units.*factor', 'scale': r'tif has the scale 2e-05'}
    data = PairFolderDataModule(str(root), batch_size=2, predict_root=str(scene))
    with pytest.raises(ValueError, match=said[fault]):
        data.setup('predict')
    write_tiff(scene, image_of(np.zeros((16, 16)), 4).astype(np.uint16), NAMES)
    data.setup('predict')
    assert data.predict_dataset.ids == ['scene']


def test_bands_are_found_by_name(root: Path, tmp_path: Path) -> None:
    spec = PairFolderDataModule(str(root), bands=['B08', 'B02']).spec
    image = ImageFolder(root, spec)[0]['image']
    assert image.shape[0] == 2 and (image[0] > image[1]).all()
    lower = np.arange(64, dtype=np.uint16).reshape(4, 4, 4)
    write_tiff(tmp_path / 'lower' / 'a.tif', lower, [name.lower() for name in NAMES])
    found = ImageFolder(tmp_path / 'lower', spec)[0]['image']
    assert np.array_equal(found, lower[[3, 0]])
    # GDAL calls near infrared alpha; where it is blank, the number of bands tells
    write_tiff(tmp_path / 'blank' / 'a.tif', np.zeros((4, 4, 4), np.uint8))
    whole = PairFolderDataModule(str(root)).spec
    assert ImageFolder(tmp_path / 'blank', whole)[0]['image'].shape == (4, 4, 4)
    write_tiff(tmp_path / 'other' / 'a.tif', np.ones((2, 4, 4), np.uint16), ['x', 'y'])
    with pytest.raises(ValueError, match=r"has the bands \['x', 'y'\], but"):
        ImageFolder(tmp_path / 'other', spec)[0]
    (tmp_path / 'none').mkdir()
    with pytest.raises(ValueError, match='has 0 images'):
        ImageFolder(tmp_path / 'none', spec)
