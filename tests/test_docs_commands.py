# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The commands of README and documentation run, with less to do."""

import shutil
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin
from scipy.io import savemat
from shapely.geometry import box

from torchgeo_specdm.cli import main
from torchgeo_specdm.scenes.writing import write_scenes

from .data.pairs import make_pairs, write_tiff
from .study.fakes import open_data, pixel_codec, write_generator
from .test_docs import shown_commands

#: Verbs whose commands other tests run, shrunk.
ELSEWHERE = {
    'quickstart': 'tests/test_quickstart.py',
    'scenes': 'tests/test_cli.py',
    'study': 'tests/study/test_command.py',
    'convert': 'tests/models/test_convert.py',
    'reproduce': 'tests/test_reproduce.py',
    **dict.fromkeys(('filter', 'report'), 'tests/trust/test_measuring.py'),
}
COMMANDS = sorted(
    words
    for words in shown_commands()
    if words[0] == 'torchgeo-specdm'
    # an option of the program itself has no verb
    and not words[1].startswith('-')
    and words[1] not in ELSEWHERE
)
#: What is asked for here, instead of what pages ask for.
SHRUNK = {
    '--count 10000 --devices 4': '--count 2 --devices 1',
    '--count 100': '--count 2',
    '--size 1024 1024': '--size 48 48',
    '--draws 8': '--draws 2',
    '--tile 64': '--tile 32',
    '--vary REAL': '--vary REAL --count 2',
    '--change PAIRS': '--change PAIRS --count 2',
}


@pytest.fixture(scope='module')
def places(
    tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders and files, by the names that commands of pages give them."""
    root = tmp_path_factory.mktemp('places')
    real, few, drawn, two = (root / name for name in ('real', 'few', 'drawn', 'two'))
    write_scenes(real, (8, 1, 1), size=32)
    write_scenes(few, (1, 1, 1), size=32)
    write_scenes(drawn, (1, 1, 1), size=32, seed=1)
    write_scenes(two, (8, 1, 1), size=32, change=True)
    for split in ('train', 'val', 'test'):
        # what a generator writes has no splits
        (drawn / f'{split}.txt').unlink()
    painter, changer = (
        write_generator(
            pixel_codec(open_data(folder)), tiny_settings, root / f'of_{folder.name}'
        )
        for folder in (real, two)
    )
    place = {'crs': 'EPSG:32632', 'transform': from_origin(500_000, 5_300_000, 10, 10)}
    values = np.random.default_rng(0).integers(1, 3000, (4, 96, 96), np.uint16)
    scene = write_tiff(
        root / 'scene.tif', values, ('B02', 'B03', 'B04', 'B08'), **place
    )
    squares = [box(500_000, y, 500_960, y + 320) for y in (5_299_040, 5_299_360)]
    labels = root / 'labels.gpkg'
    named = {'class': ['field', 'wood'], 'geometry': squares}
    geopandas.GeoDataFrame(named, crs='EPSG:32632').to_file(labels)
    cube, codes = root / 'cube.mat', root / 'gt.mat'
    savemat(cube, {'cube': values.transpose(1, 2, 0)})
    savemat(codes, {'gt': values[0] % 4})
    classes = write_tiff(
        root / 'labels.tif', (values[:1] % 4).astype(np.uint8), **place
    )
    data = root / 'data.yaml'
    arguments = {'root': str(real), 'batch_size': 4}
    made = {'class_path': 'torchgeo_specdm.PairFolderDataModule'}
    data.write_text(yaml.safe_dump(made | {'init_args': arguments}))
    return {
        'REAL': real,
        'FOLDER': drawn,
        'pairs': shutil.copytree(drawn, root / 'pairs'),
        **dict.fromkeys(('MASKS', 'IMAGES'), few),
        **dict.fromkeys(('DIR', 'specdm-quickstart/diffusion'), painter),
        **dict.fromkeys(('data.yaml', 'datamodule.yaml'), data),
        **dict.fromkeys(('scene.tif', 'scene.vrt', 'ortho.tif'), scene),
        **dict.fromkeys(('labels.tif', 'landcover.tif'), classes),
        'labels.gpkg': labels,
        **dict.fromkeys(('cube.mat', 'Indian_pines_corrected.mat'), cube),
        **dict.fromkeys(('gt.mat', 'Indian_pines_gt.mat'), codes),
        # where change is painted
        'PAIRS': two,
        'DIR --change': changer,
        'MASKS --change': two,
    }


@pytest.mark.parametrize('words', COMMANDS, ids=lambda words: ' '.join(words[1:]))
def test_runs(
    words: tuple[str, ...],
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ' '.join(words[1:])
    for long, short in SHRUNK.items():
        line = line.replace(long, short)
    arguments = line.split(' ')
    # described, and written to
    places = places | {'DATA': make_pairs(tmp_path / 'plain')}
    painted = ' --change' if '--change' in arguments else ''
    for i in range(1, len(arguments)):
        if arguments[i - 1] != '--out':
            name = arguments[i]
            found = places.get(name + painted, places.get(name, name))
            arguments[i] = str(found)
    assert main(arguments) == 0
    if '--out' in arguments:
        assert [*Path(arguments[arguments.index('--out') + 1]).rglob('*.tif')]
