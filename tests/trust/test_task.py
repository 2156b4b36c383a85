# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rasterio
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torchgeo.main import main as torchgeo

from torchgeo_specdm import (
    GenerationDataModule,
    Generator,
    PairFolder,
    PairFolderDataModule,
    TrustDataModule,
    TrustTask,
)
from torchgeo_specdm.trust.judges import share_places
from torchgeo_specdm.trust.lights import codec_sentences, paints_labels
from torchgeo_specdm.trust.measures import read_measures
from torchgeo_specdm.trust.scores import read_scores

from ..conftest import PAIR_CLASSES, PAIR_SPECTRA, quiet_trainer, write_pair_folder
from ..datamodules.torchgeo_fakes import deepglobe, sen12ms
from ..processes import run_ranks
from ..study.fakes import Change, open_data, pixel_codec, write_changed, write_generator
from ..tasks.oracle import ORACLE

IGNORED = 255


@pytest.fixture(scope='module')
def real(pair_folder: Path) -> PairFolderDataModule:
    return open_data(pair_folder)


def measure(task: TrustTask, real: Any, synthetic: Any, batch_size: int = 5) -> Any:
    """What a test of Lightning logs, and all that was measured."""
    data = TrustDataModule(open_data(real), synthetic, batch_size=batch_size)
    (logged, *_) = quiet_trainer(task.out).test(task, data, verbose=False)
    return logged, read_measures(task.out)


@pytest.fixture
def measured(
    real: PairFolderDataModule, untrained: Path, tmp_path: Path
) -> Callable[[Change], Any]:
    """Measure changed training pairs as if they were generated."""

    def run(change: Change) -> Any:
        synthetic = write_changed(real, tmp_path / 'synthetic', change)
        task = TrustTask(str(tmp_path / 'out'), ORACLE, str(untrained), updates=1)
        logged, found = measure(task, real.root, synthetic)
        assert logged['alignment'] == pytest.approx(found['alignment']['calibrated'])
        return found

    return run


@pytest.fixture(scope='module')
def copies(real: PairFolderDataModule, tmp_path_factory: Any) -> Path:
    """The training pairs themselves, as if they were generated."""
    out: Path = tmp_path_factory.mktemp('copies') / 'set'
    return write_changed(real, out, lambda image, mask: (image, mask))


def test_spectra_of_a_fold_are_read_by_those_of_the_others(tmp_path: Path) -> None:
    """A place whose classes look different is not explained by itself."""
    folder = write_pair_folder(tmp_path / 'pairs')
    for number, fold in enumerate(share_places(range(16), 2)):
        path = folder / 'images' / f'{number:03d}.tif'
        with rasterio.open(folder / 'masks' / path.name) as raster:
            mask = raster.read(1)
        with rasterio.open(path, 'r+') as raster:
            # each class looks like the next one in the second fold
            raster.write(PAIR_SPECTRA[(mask + fold) % 4].transpose(2, 0, 1))
    task = TrustTask(str(tmp_path / 'out'), ORACLE, updates=1)
    measure(task, folder, folder)
    rows = list(read_scores(tmp_path / 'out' / 'scores' / 'real.jsonl'))
    assert len(rows) == 16
    assert all(row['spectrum'] < 0.05 for row in rows)


class TestMeasures:
    def test_copies_are_as_good_as_real_and_found(
        self, measured: Any, tmp_path: Path
    ) -> None:
        found = measured(lambda image, mask: (image, mask))
        assert found['counts'] == {'train': 16, 'held_out': 4, 'synthetic': 16}
        alignment = found['alignment']
        for side in ('real', 'held_out', 'reconstructed', 'synthetic'):
            # noise of the sensor makes some dark pixel look like another
            assert alignment['judge'][side]['accuracy'] > 0.99
        assert alignment['judge']['shuffled']['accuracy'] == pytest.approx(
            0.25, abs=0.2
        )
        assert alignment['transparency'] == 1
        assert alignment['calibrated'] == pytest.approx(1, abs=0.01)
        assert found['overlap']['train-test']['of'] == 4
        assert alignment['edges']['synthetic'] == alignment['edges']['real'] > 0.9
        assert alignment['spectrum']['synthetic'] > 0.95
        assert alignment['spectrum']['shuffled'] < 0.5
        # folded pixels keep image and mask apart
        assert alignment['swapped']['own'] > 0.99
        assert alignment['swapped']['other'] < 0.01
        for part in found['fidelity'].values():
            assert part['frechet']['value'] < part['frechet']['floor']
        spectra = found['spectra']['synthetic']
        assert spectra['msad'] < 1e-4 and spectra['classes'] == 4
        assert list(spectra['per_class']) == list(PAIR_CLASSES)
        assert found['area']['total_variation'] == pytest.approx(0)
        assert found['reconstruction']['rmse'] < 1e-5
        rows = list(read_scores(tmp_path / 'out' / 'scores' / 'real.jsonl'))
        assert [row['index'] for row in rows] == list(range(16))
        assert all(row['agreement'] > 0.99 for row in rows)
        found = found['memorisation']
        assert found['pixels']['alarm'] and found['features']['alarm']
        for near in found['nearest']:
            # the folder was written in the order of the training samples
            assert near['distance'] == pytest.approx(0, abs=1e-3)
            assert near['nearest'] == near['id']

    def test_wrong_labels_are_seen(self, measured: Any, tmp_path: Path) -> None:
        def wrong(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return image, mask.where(mask == IGNORED, (mask + 1) % 4)

        found = measured(wrong)
        assert found['alignment']['judge']['synthetic']['accuracy'] < 0.01
        assert found['alignment']['calibrated'] < 0
        assert found['alignment']['spectrum']['calibrated'] < 0
        assert found['alignment']['judge']['real']['accuracy'] > 0.99
        assert found['spectra']['synthetic']['msad'] > 0.2
        scores = read_scores(tmp_path / 'out' / 'scores' / 'synthetic.jsonl')
        assert all(row['agreement'] < 0.01 for row in scores)

    def test_spectra_in_real_units(self, measured: Any) -> None:
        found = measured(lambda image, mask: (0.5 * image, mask))
        curves = found['spectra']['curves']
        means = torch.tensor(curves['train']['mean'])
        half = torch.tensor(curves['synthetic']['mean'])
        torch.testing.assert_close(half, means / 2, atol=1e-4, rtol=0)
        # reflectance near that of the classes, and no angle between light and shade
        light = means / torch.from_numpy(PAIR_SPECTRA * 1e-4)
        assert light.min() > 0.8 and light.max() < 1.2
        assert found['spectra']['synthetic']['msad'] < 0.01
        assert found['spectra']['synthetic']['gain'] == pytest.approx(0.5, rel=1e-3)
        frechet = found['fidelity']['image']['frechet']
        assert frechet['value'] > frechet['floor']

    def test_a_class_that_is_missing(self, measured: Any) -> None:
        def without_town(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            return image, mask.where(mask != 3, 0)

        found = measured(without_town)
        spectra = found['spectra']['synthetic']
        assert found['area']['missing'] == ['town']
        assert found['area']['missing_held_out'] == []
        shares = [found['area'][side][3] for side in ('train', 'held_out')]
        assert shares[0] != shares[1] and found['area']['missing_share'] == min(shares)
        assert spectra['classes'] == 3 and spectra['msad'] is not None
        assert found['spectra']['curves']['synthetic']['mean'][3] == [None] * 6
        lost = found['area']['train'][3]
        assert found['area']['total_variation'] == pytest.approx(lost)


def paint(sample: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """What a codec of one stream may do: the image comes from the mask alone."""
    mask = sample['mask'].where(sample['mask'] < 4, 0)
    image = torch.from_numpy(PAIR_SPECTRA).float()[mask].movedim(-1, 1)
    logits = torch.nn.functional.one_hot(mask, 4).movedim(-1, 1).float()
    return {'image': image, 'mask': mask}, logits


def test_a_codec_that_paints_labels_is_named(
    pair_folder: Path, copies: Path, untrained: Path, tmp_path: Path
) -> None:
    class Painted(TrustTask):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            assert self.codec is not None
            self.codec.roundtrip = paint  # type: ignore[method-assign]

    task = Painted(str(tmp_path / 'out'), ORACLE, str(untrained), updates=1)
    _, found = measure(task, pair_folder, copies)
    swapped = found['alignment']['swapped']
    assert swapped['other'] > 0.95 and swapped['own'] < 0.05
    assert swapped['original_other'] < 0.05
    assert paints_labels(found)
    assert 'paints labels into images' in codec_sentences(found)[-1]


def test_a_judge_that_took_no_step_is_refused(
    pair_folder: Path, copies: Path, tmp_path: Path
) -> None:
    nothing = {'limit_train_batches': 0}
    task = TrustTask(str(tmp_path / 'out'), ORACLE, updates=3, trainer=nothing)
    with pytest.raises(RuntimeError, match='Judge 1 took 0 of 1 optimiser steps'):
        measure(task, pair_folder, copies)
    assert not (tmp_path / 'out' / 'judges').exists()


@pytest.mark.parametrize('make', [deepglobe, sen12ms])
def test_any_datamodule_of_torchgeo(make: Any, tmp_path: Path) -> None:
    datamodule, synthetic, _ = make(tmp_path)
    datamodule.num_workers = 1
    # it says neither bands nor classes, and the judge is not told how many there are
    judge = {
        'class_path': 'torchgeo_specdm.MultispectralSegmentationTask',
        'init_args': {'model': 'unet', 'backbone': 'resnet18'},
    }
    task = TrustTask(str(tmp_path / 'out'), judge, updates=2, folds=3)
    data = TrustDataModule(datamodule, synthetic)
    quiet_trainer(tmp_path).test(task, data, verbose=False)
    found = read_measures(tmp_path / 'out')
    assert data.spec.classes == PairFolder(synthetic).spec.classes
    assert len(found['area']['train']) == data.spec.num_classes
    assert found['counts']['synthetic'] == len(PairFolder(synthetic))
    # noise in images and masks: nothing can be read
    assert found['alignment']['judge']['real']['accuracy'] < 0.5
    assert found['fidelity']['image']['frechet']['value'] is not None
    weights = [
        load_file(tmp_path / 'out' / 'judges' / n / 'model.safetensors') for n in '012'
    ]
    assert all(v.isfinite().all() for judge in weights for v in judge.values())


def test_judges_are_used_again(pair_folder: Path, copies: Path, tmp_path: Path) -> None:
    weights = [tmp_path / 'out' / 'judges' / n / 'model.safetensors' for n in '01']

    def run(updates: int) -> list[int]:
        task = TrustTask(str(tmp_path / 'out'), ORACLE, updates=updates)
        measure(task, pair_folder, copies)
        return [path.stat().st_mtime_ns for path in weights]

    first = run(1)
    assert run(1) == first
    assert all(a != b for a, b in zip(run(2), first, strict=True))
    # without a generator there is no codec to measure
    found = read_measures(tmp_path / 'out')
    assert 'reconstruction' not in found and 'transparency' not in found['alignment']


def test_too_many_pairs_for_overlap_are_said(
    pair_folder: Path, copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torchgeo_specdm.trust.task._MOST_PAIRS', 63)
    task = TrustTask(str(tmp_path / 'out'), ORACLE, updates=1)
    # 16 training and 4 test samples
    with pytest.warns(UserWarning, match=r'64 pairs .* torchgeo-specdm overlap'):
        _, found = measure(task, pair_folder, copies)
    assert found['overlap'] == {}


def write_test(
    out: Path, devices: int, generator: Path, root: Any, synthetic: Any
) -> Path:
    """The YAML of ``torchgeo test``, as users write it."""
    config = {
        'trainer': {
            'accelerator': 'cpu',
            'devices': devices,
            'strategy': 'auto' if devices == 1 else 'ddp',
            'logger': False,
            'enable_progress_bar': False,
            'default_root_dir': str(out),
        },
        'model': {
            'class_path': 'torchgeo_specdm.TrustTask',
            'init_args': {
                'out': str(out),
                'judge': ORACLE,
                'generator': str(generator),
                'updates': 1,
            },
        },
        'data': {
            'class_path': 'torchgeo_specdm.TrustDataModule',
            'init_args': {
                'real': {
                    'class_path': 'torchgeo_specdm.PairFolderDataModule',
                    'init_args': {'root': str(root), 'batch_size': 8},
                },
                'synthetic': synthetic,
                # the last batch of two processes is of another size
                'batch_size': 3,
            },
        },
    }
    path = out.with_suffix('.yaml')
    path.write_text(yaml.safe_dump(config))
    return path


def run_on_two(path: Path) -> None:
    """Run ``torchgeo test`` on two processes."""
    run_ranks(lambda: torchgeo(['test', '--config', str(path)]), path.parent)


def test_two_processes_find_what_one_finds(
    real: PairFolderDataModule, untrained: Path, tmp_path: Path
) -> None:
    synthetic = write_changed(real, tmp_path / 'set', lambda i, m: (0.9 * i + 30, m))
    found = []
    for devices in (1, 2):
        out = tmp_path / str(devices)
        path = write_test(out, devices, untrained, real.root, str(synthetic))
        if devices == 1:
            torchgeo(['test', '--config', str(path)])
        else:
            run_on_two(path)
        scores = out / 'scores' / 'synthetic.jsonl'
        found.append((read_measures(out), scores.read_text()))
    assert flat(found[0][0]) == pytest.approx(flat(found[1][0]), rel=1e-6, nan_ok=True)
    rows = [json.loads(line) for line in found[1][1].splitlines()]
    assert [row['index'] for row in rows] == list(range(16))
    assert len(found[0][1].splitlines()) == 16


def test_a_generator_is_measured_without_a_folder(
    pair_folder: Path, untrained: Path, tmp_path: Path
) -> None:
    one, two = (tmp_path / name for name in ('one', 'two'))
    drawing = GenerationDataModule(str(one / 'set'), 10, batch_size=4)
    task = TrustTask(str(one), ORACLE, str(untrained), updates=1)
    measure(task, pair_folder, drawing, 3)
    init = {'out': str(two / 'set'), 'count': 10, 'batch_size': 4}
    path = 'torchgeo_specdm.GenerationDataModule'
    config = {'class_path': path, 'init_args': init}
    run_on_two(write_test(two, 2, untrained, pair_folder, config))
    drawn = []
    for out in (one, two):
        assert read_measures(out)['counts']['synthetic'] == 10
        folder = PairFolder(out / 'set')
        drawn.append(torch.stack([folder[i]['image'] for i in range(10)]))
        rows = read_scores(out / 'scores' / 'synthetic.jsonl')
        assert [row['id'] for row in rows] == folder.ids
        assert (out / 'set' / 'README.md').exists()
    assert torch.equal(*drawn)
    # the generator's own, not those of another
    made = Generator.load(untrained)
    expected = made.sample(range(4), 0)['image']
    assert torch.equal(drawn[0][:4], expected.round().clamp(0, 65535))


def test_drawing_needs_a_generator(pair_folder: Path, tmp_path: Path) -> None:
    task = TrustTask(str(tmp_path / 'out'), ORACLE)
    drawing = GenerationDataModule(str(tmp_path / 'set'), 4)
    with pytest.raises(ValueError, match=r'TrustTask\(generator=FOLDER\)'):
        measure(task, pair_folder, drawing)
    assert not (tmp_path / 'set').exists()


def test_a_generator_of_another_kind_does_not_draw(
    real: PairFolderDataModule, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    spec = replace(real.spec, classes=('water', 'forest', 'crops', 'city'))
    codec = pixel_codec(real, spec)
    generator = write_generator(codec, tiny_settings, tmp_path / 'stage2')
    task = TrustTask(str(tmp_path / 'out'), ORACLE, str(generator))
    drawing = GenerationDataModule(str(tmp_path / 'set'), 4)
    with pytest.raises(ValueError, match=r"'town'.*'city'"):
        measure(task, real.root, drawing)
    assert not [*(tmp_path / 'set').rglob('*.tif')]


def flat(value: Any, name: str = '') -> dict[str, Any]:
    """All numbers of nested measures by their path."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return {name: value} if isinstance(value, int | float) else {}
    return {k: v for key, part in parts for k, v in flat(part, f'{name}/{key}').items()}


def test_it_needs_both_sides(pair_folder: Path, tmp_path: Path) -> None:
    task = TrustTask(str(tmp_path), ORACLE)
    with pytest.raises(TypeError, match=r'PairFolderDataModule.*TrustDataModule'):
        quiet_trainer(tmp_path).test(task, PairFolderDataModule(str(pair_folder)))
