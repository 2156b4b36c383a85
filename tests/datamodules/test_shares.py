# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Samples whose classes have the shares that are asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import Generator, PairFolder, SampleSpec
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.datamodules.shares import ShareDataModule
from torchgeo_specdm.diffusion import JointProcess
from torchgeo_specdm.pairs.manifest import read_manifest

from ..conftest import Run
from ..data.pairs import digests
from ..diffusion.oracle import config_of, oracle_generator
from .generating import draw

#: The generator draws 51 % of its own accord.
ASKED = {'forest': 0.57}
COUNT = 9


def data(out: Path, **settings: Any) -> ShareDataModule:
    usual: dict[str, Any] = {'class_share': ASKED, 'count': COUNT, 'draws': 4}
    return ShareDataModule(str(out), **usual | {'batch_size': 4} | settings)


@pytest.fixture(scope='module')
def whole(diffusion_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    root = tmp_path_factory.mktemp('shares')
    draw(diffusion_run, data(root / 'set'), root)
    return root / 'set'


def test_shares_move_to_what_is_asked(whole: Path) -> None:
    masks = [sample['mask'] for sample in PairFolder(whole)]
    got = [float((mask == 1).float().mean()) for mask in masks]
    assert [row['shares'] for row in read_manifest(whole)] == [
        {'forest': x} for x in got
    ]
    mean = sum(got) / COUNT
    without = sum(row['candidates']['forest'] for row in read_manifest(whole)) / COUNT
    assert 0.45 < without < 0.54
    assert mean == pytest.approx(0.57, abs=0.01)


def test_samples_are_those_of_their_number(whole: Path, diffusion_run: Run) -> None:
    generator, folder = Generator.load(diffusion_run.out), PairFolder(whole)
    numbers = [row['number'] for row in read_manifest(whole)]
    assert [number // 1000 for number in numbers] == [*range(COUNT)]
    assert len({number % 1000 for number in numbers}) > 1
    mask = generator.sample_masks(numbers[:4], 0)
    sample = generator.sample(numbers[:4], 0, given={'mask': mask})
    for i, image in enumerate(generator.codec.limit(sample['image'])):
        assert torch.equal(folder[i]['mask'], mask[i])
        assert torch.equal(folder[i]['image'], image.round())


def test_batch_size_does_not_matter(
    whole: Path, diffusion_run: Run, tmp_path: Path
) -> None:
    draw(diffusion_run, data(tmp_path / 'set', batch_size=3), tmp_path)
    # codes name classes, too, and the folder does not mind which way they are named
    draw(diffusion_run, data(whole, class_share={'1': 0.57}), tmp_path)
    for one, other in zip(
        read_manifest(whole), read_manifest(tmp_path / 'set'), strict=True
    ):
        assert one | {'files': ()} == other | {'files': ()}
    # sums in another order may round a digital number the other way
    for one, other in zip(PairFolder(whole), PairFolder(tmp_path / 'set'), strict=True):
        assert torch.equal(one['mask'], other['mask'])
        differs = (one['image'] - other['image']).abs()
        assert differs.max() <= 1 and differs.mean() < 1e-3


def test_interrupted_run_is_finished(
    whole: Path, diffusion_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / 'set'
    sample_masks, counts = Generator.sample_masks, [0, 0]

    def stopping(*stops: int) -> Any:
        def count(self: Generator, indices: Any, *args: Any, **settings: Any) -> Tensor:
            counts[0] += 1
            counts[1] += len(indices)
            if counts[0] in stops:
                raise RuntimeError('stopped')
            return sample_masks(self, indices, *args, **settings)

        return count

    # once while masks are drawn to choose from, and once while images are
    monkeypatch.setattr(Generator, 'sample_masks', stopping(4, 12))
    for _ in range(2):
        with pytest.raises(RuntimeError, match='stopped'):
            draw(diffusion_run, data(out), tmp_path)
        with (out / '.candidates.jsonl').open('a') as file:
            file.write('{"index": 4, "sha')
    draw(diffusion_run, data(out), tmp_path)
    found, wanted = digests(out), digests(whole)
    del found['.candidates.jsonl'], wanted['.candidates.jsonl']
    assert found == wanted
    # 4 masks for each of 9, drawn once, but for the two calls that were stopped
    assert counts[1] == 4 * COUNT + COUNT + 4 + 4


def test_two_processes_write_the_set_of_one(
    whole: Path, diffusion_run: Run, tmp_path: Path
) -> None:
    trainer = {'devices': 2, 'strategy': 'ddp_fork'}
    draw(diffusion_run, data(tmp_path / 'set'), tmp_path, **trainer)
    found, wanted = digests(tmp_path / 'set'), digests(whole)
    # the order of its lines is that of the processes
    del found['.candidates.jsonl'], wanted['.candidates.jsonl']
    assert found == wanted


def test_what_was_asked_and_got_is_said(
    whole: Path, diffusion_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = (whole / 'README.md').read_text()
    assert "a mask chosen of 4 for the shares {'forest': 0.57}, and an image" in card
    settings = PairFolder(whole).provenance['settings']
    assert (settings['class_share'], settings['draws']) == (ASKED, 4)
    shares = {'town': 0.9, 'forest': 0.05}
    with caplog.at_level('INFO'):
        settings = {'class_share': shares, 'count': 2, 'draws': 2, 'size': (40, 51)}
        draw(diffusion_run, data(tmp_path / 'set', **settings), tmp_path)
    assert PairFolder(tmp_path / 'set')[1]['mask'].shape == (40, 51)
    (said,) = [r.message for r in caplog.records if 'samples are in' in r.message]
    first, town, forest = said.splitlines()
    assert first == f'2 samples are in {tmp_path / "set"}, 0 rejected.'
    assert town.startswith('town: 90.0% asked, ')
    assert 'It was not reached with 2 samples, each of which had 2 masks' in town
    assert forest.startswith('forest: 5.0% asked, ')


def test_out_of_memory(
    diffusion_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **settings: Any) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Generator, 'sample_masks', fail)
    with pytest.raises(RuntimeError, match='4 masks at once need more memory'):
        draw(diffusion_run, data(tmp_path / 'set'), tmp_path)


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        ({'class_share': {}}, r'class_share=\{\} must have shares'),
        ({'class_share': {'town': -0.1}}, 'shares of 0 or more'),
        ({'class_share': {'town': float('nan')}}, 'shares of 0 or more'),
        ({'class_share': {'town': 0.8, 'forest': 0.3}}, 'sum is 1 at the most'),
        ({'class_share': {'snow': 0.1}}, r"of the generator, each once: \['water'"),
        ({'class_share': {'water': 0.1, '0': 0.1}}, 'each once'),
        (
            {'class_share': dict.fromkeys(('0', '1', '2', '3'), 0.1)},
            r'names all classes, so the sum must be 1, but it is 0\.4',
        ),
        ({'draws': 0}, 'draws=0 must be from 1 to 1000'),
        ({'count': None}, 'count=None says nothing'),
    ],
)
def test_refused(
    diffusion_run: Run, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        draw(diffusion_run, data(tmp_path / 'set', **settings), tmp_path)
    assert not (tmp_path / 'set').exists()


def test_generators_that_cannot(tmp_path: Path) -> None:
    single = {'widths': [8, 8], 'groups': 4, 'latents': 2, 'layers': 1}
    spec = SampleSpec(('B02',), ('water', 'forest'))
    generators = [
        Generator(codec, JointProcess(codec.streams), torch.nn.Identity(), config_of(8))
        for codec in (
            make_codec('single_stream', spec, single),
            make_codec('pixels', spec, {'fold': 4}),
        )
    ]
    for generator, said in zip(
        (*generators, oracle_generator()),
        (
            'The single_stream codec .* given, varied or drawn alone',
            'never trained on mask, only on joint',
            'the classes of a generator of 2 dates are kinds of change',
        ),
        strict=True,
    ):
        drawing = data(tmp_path / 'set')
        task = SimpleNamespace(generator_folder='any', generator=generator)
        drawing.trainer = cast(Any, SimpleNamespace(lightning_module=task))
        with pytest.raises(ValueError, match=said):
            drawing.setup('predict')
