# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from torchgeo_specdm import PairFolder, PairFolderDataModule
from torchgeo_specdm.cli import main
from torchgeo_specdm.scenes.writing import write_scenes
from torchgeo_specdm.study.runs import Run, write_run
from torchgeo_specdm.trust.measuring import real_config

from ..study.fakes import open_data, pixel_codec, write_generator

COPIES = 4


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Real pairs, and others as if generated: four are copies of training pairs."""
    root = tmp_path_factory.mktemp('trust')
    real, drawn = root / 'real', root / 'drawn'
    write_scenes(real, (30, 2, 6), size=32)
    write_scenes(drawn, (20, 1, 1), size=32, seed=1)
    for kind in ('images', 'masks'):
        copied = [*zip(PairFolder(real, 'train').ids, PairFolder(drawn).ids)][:COPIES]
        for ours, theirs in copied:
            shutil.copy(real / kind / f'{ours}.tif', drawn / kind / f'{theirs}.tif')
    description = json.loads((drawn / 'dataset.json').read_text())
    (drawn / 'dataset.json').write_text(json.dumps(description | {'ignore_index': 255}))
    # the copies are meant
    (drawn / 'manifest.jsonl').unlink()
    # what a generator writes has no splits
    for name in ('train', 'val', 'test'):
        (drawn / f'{name}.txt').unlink()
    return real, drawn


#: Options of the measures of :func:`measured`.
UPDATES = ['--updates', '25']


@pytest.fixture(scope='module')
def measured(
    folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], str]:
    """Results of a filter, its command, and what it said."""
    real, drawn = folders
    root = tmp_path_factory.mktemp('measured')
    command = ['filter', str(drawn), '--real', str(real), '--out', str(root / 'kept')]
    command += ['--trust', str(root / 'trust'), *UPDATES, '--quantile', '0']
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(command) == 0
    return root, command, said.getvalue()


def test_filter_and_report(
    folders: tuple[Path, Path],
    measured: tuple[Path, list[str], str],
    tiny_settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn, (root, command, said) = folders[1], measured
    trust = root / 'trust'
    kept, control = PairFolder(root / 'kept'), PairFolder(root / 'kept-random')
    copies = {*PairFolder(drawn).ids[:COPIES]}
    assert copies and not copies & {*kept.ids}
    assert len(kept) == len(control) <= len(PairFolder(drawn)) - COPIES
    assert f'{len(kept)} of 22' in said

    # judges and scores are there: nothing trains again, and real pairs are known
    monkeypatch.setattr(Trainer, 'fit', None)
    assert main(['report', str(drawn), '--trust', str(trust)]) == 0
    page = (trust / 'report.html').read_text(encoding='utf-8')
    for text in ('looks real', 'labels fit', 'not copied', 'not compared'):
        assert text in page.lower()
    measures = json.loads((trust / 'measures.json').read_text())
    nearest = {row['id'] for row in measures['memorisation']['nearest'][:COPIES]}
    assert nearest == copies

    # a generator has a codec, which is measured as well
    codec = pixel_codec(open_data(folders[0]))
    generator = write_generator(codec, tiny_settings, tmp_path / 'generator')
    again = ['report', str(drawn), '--trust', str(trust)]
    assert main([*again, '--generator', str(generator)]) == 0
    page = (trust / 'report.html').read_text(encoding='utf-8')
    assert 'Of 6 held-out samples, images come back with an error of 0.0000' in page

    # the same folder with other settings is refused
    assert main([*command, '--updates', '26']) == 1
    assert 'updates: 25 there, 26 here' in capsys.readouterr().err


#: What a stranger may write into any file of a folder of results.
PLANTED = {'class_path': 'planted.Thing', 'init_args': {}}


def plant(content: Any) -> Any:
    """The content of a JSON file with a class of a stranger wherever one may be."""
    if isinstance(content, list):
        return [plant(part) for part in content]
    if not isinstance(content, dict):
        return content
    if 'class_path' in content:
        return PLANTED
    return {key: plant(value) for key, value in content.items()}


def plant_everywhere(root: Path) -> int:
    """Plant a class in every JSON of a folder."""
    paths = [*root.rglob('*.json'), *root.rglob('*.jsonl')]
    for path in paths:
        whole = path.suffix == '.json'
        parts = [path.read_text()] if whole else path.read_text().splitlines()
        planted = [json.dumps(plant(json.loads(p)) | PLANTED) for p in parts]
        path.write_text('\n'.join(planted))
    return len(paths)


def require_doubtful_ignored(drawn: Path, readings: Path, out: Path) -> None:
    """Pixels that judges read otherwise are ignored, and no others are changed."""
    kept = PairFolder(out)
    before, read = (PairFolder(f).select(kept.ids) for f in (drawn, readings))
    for was, said, now in zip(before, read, kept, strict=True):
        doubtful = was['mask'] != said['mask']
        assert (now['mask'][doubtful] == kept.spec.ignore_index).all()
        assert (now['mask'] == was['mask'])[~doubtful].all()


def test_doubtful_pixels_and_results_that_name_code(
    folders: tuple[Path, Path],
    measured: tuple[Path, list[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / 'planted.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    real, drawn = (shutil.copytree(f, tmp_path / f.name) for f in folders)
    plant_everywhere(drawn)
    trust, study = tmp_path / 'drawn-trust', tmp_path / 'study'
    # judges of the same real pairs are there
    shutil.copytree(measured[0] / 'trust' / 'judges', trust / 'judges')
    pairs = ['--real', str(real), *UPDATES]
    filtered = ['filter', str(drawn), *pairs, '--pixels', '--by', 'edges', '--out']
    assert main([*filtered, str(tmp_path / 'kept')]) == 0
    require_doubtful_ignored(drawn, trust / 'readings', tmp_path / 'kept')
    run = Run('net', 'real only', 0, 0, 0, 0, 1, {'miou': 0.5}, {})
    write_run(study, run)
    settings = (trust / 'settings.json').read_text()
    # measures, scores, readings, two judges and the settings
    assert plant_everywhere(trust) > 7 and plant_everywhere(study) == 1

    # without --real, the measures would have to say what to build
    report = ['report', str(drawn), '--study', str(study)]
    assert main(report) == 1
    assert 'must not name code: give --real' in capsys.readouterr().err
    assert main([*report, *pairs]) == 1
    assert 'was begun with other settings' in capsys.readouterr().err
    # what the user names is what is built
    (trust / 'settings.json').write_text(settings)
    assert main([*report, *pairs]) == 0
    assert main([*filtered, str(tmp_path / 'again')]) == 0
    assert 'planted' not in sys.modules


def test_judges_that_read_nothing_are_not_asked(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, drawn = folders
    command = ['filter', str(drawn), '--real', str(real), '--updates', '1']
    command += ['--trust', str(tmp_path / 'trust'), '--out', str(tmp_path / 'kept')]
    for options in ([], ['--pixels', '--by', 'edges']):
        assert main([*command, *options]) == 1
        said = capsys.readouterr().err
        assert 'they tell nothing: train the judges longer (--updates above 1,' in said
        assert not (tmp_path / 'kept').exists()
    assert main([*command, '--by', 'edges', 'spectrum', '--balance', '2']) == 0
    assert len(PairFolder(tmp_path / 'kept')) == 2


def test_fewer_real_patches_than_a_batch(tmp_path: Path) -> None:
    write_scenes(tmp_path, (8, 2, 2), size=32)
    datamodule = PairFolderDataModule(**real_config(str(tmp_path))['init_args'])
    datamodule.setup('fit')
    assert len(next(iter(datamodule.train_dataloader()))['image']) == 8


def test_a_report_needs_real_pairs_once(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['report', str(folders[1]), '--trust', str(tmp_path / 'none')]
    assert main(command) == 1
    assert 'Give --real' in capsys.readouterr().err


def test_a_yaml_may_describe_its_samples(tmp_path: Path) -> None:
    data, path = {'class_path': 'any.DataModule'}, tmp_path / 'data.yaml'
    for content in (data, {'data': data}):
        path.write_text(json.dumps(content | {'spec': {'classes': ['a', 'b']}}))
        assert real_config(str(path)) == data
