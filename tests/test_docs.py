# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Documents that are named exist, and commands in them are real."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio.transform import from_origin
from torchgeo.datamodules import BaseDataModule
from torchgeo.main import main as torchgeo

import torchgeo_specdm
from torchgeo_specdm.cli import main, make_parser
from torchgeo_specdm.datasets.pairs import PairFolder
from torchgeo_specdm.objects import make_object

from .data.pairs import make_pairs, write_tiff

ROOT = Path(__file__).parents[1]
#: Documents that commands write, not this repository.
WRITTEN = {'study.md', 'faults.md'}
SOURCES = [
    file
    for folder in ('torchgeo_specdm', 'tests', 'experiments')
    for file in sorted((ROOT / folder).rglob('*'))
    if file.suffix in {'.py', '.yaml'}
]
PAGES = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'experiments').glob('*.md'))]
PAGES += sorted((ROOT / 'docs').rglob('*.md'))
PAGES = [page for page in PAGES if '_build' not in page.parts]
#: Programs of others that pages show, and why no test here calls them.
OTHERS = {
    **dict.fromkeys(
        ('python3', 'pip', 'pytest', 'ruff', 'mypy', 'sphinx-build'), '.ci/run does'
    ),
    **dict.fromkeys(
        ('mkdir', 'cp', 'for', 'printf', 'cut', 'echo', 'gdalbuildvrt'),
        'a test below runs them',
    ),
    'dask': 'tests/study/test_cluster.py starts scheduler and workers in Python',
    'tensorboard': 'a server, of a package that is optional',
    'hf': 'needs the Hugging Face Hub',
}


def test_sources_name_documents_of_the_repository() -> None:
    named = {
        (str(file.relative_to(ROOT)), name)
        for file in SOURCES
        for name in re.findall(r'[\w./-]+\.md\b', file.read_text())
        if name not in WRITTEN
    }
    assert len(named) > 20
    assert [(f, name) for f, name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r'\]\(([^)#]+)', page.read_text())
    local = [link for link in links if '://' not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def commands_of(lines: Iterable[str]) -> set[tuple[str, ...]]:
    """Words of each command in lines of a shell, programs without their folder."""
    parts = [part for line in lines for part in line.split('&&')]
    found = (shlex.split(part.split('>>')[0], comments=True) for part in parts)
    return {(Path(words[0]).name, *words[1:]) for words in found if words}


def commands_in_blocks() -> set[tuple[str, ...]]:
    """Words of each command in a block of a page."""
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r'```sh\n(.*?)```', page.read_text(), re.DOTALL)
    ]
    return commands_of(line for block in blocks for line in block.splitlines())


def shown_commands() -> set[tuple[str, ...]]:
    """Words of each command of TorchGeo's or ours, in a block or in a line."""
    text = '\n'.join(page.read_text() for page in PAGES)
    prose = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
    inline = [
        code
        for code in re.findall(r'`+([^`\n]+)`+', prose)
        # a verb alone is a name, not a command
        if re.match(r'torchgeo(-specdm)? [\w-]+ \S', code) and '...' not in code
    ]
    return {
        words
        for words in commands_in_blocks() | commands_of(inline)
        if words[0] in ('torchgeo', 'torchgeo-specdm')
    }


def test_no_command_is_passed_over() -> None:
    for program, *words in commands_in_blocks():
        if program == 'python':
            assert (ROOT / words[0]).exists(), words
        else:
            assert program in {'torchgeo', 'torchgeo-specdm', *OTHERS}, program


def test_commands_are_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    commands = sorted(shown_commands())
    assert len(commands) > 40
    if find_spec('shtab') is None:
        commands.remove(('torchgeo-specdm', '--print-completion', 'bash'))
    for program, *words in commands:
        if program == 'torchgeo-specdm':
            parse = make_parser().parse_args
        elif len(words) > 3 and words[2].startswith('experiments/'):
            # those without further options are run in test_experiments.py
            parse, words = torchgeo, [*words, '--print_config']
        else:
            assert words[0] in ('fit', 'validate', 'test', 'predict')
            continue
        try:
            parse(words)
        except SystemExit as stop:
            assert stop.code == 0, f'{program} {words}: {capsys.readouterr().err}'
        if parse is torchgeo:
            # options may be known, and yet contradict each other
            made = yaml.safe_load(capsys.readouterr().out)['data']
            make_object(made, BaseDataModule)


def run_recipe(title: str) -> None:
    """Run the commands below a title of the page of recipes."""
    page = (ROOT / 'docs/your_data.md').read_text()
    block = page.split(f'## {title}\n')[1].split('```sh\n')[1].split('\n```')[0]
    for line in block.split('\n'):
        if line.startswith('torchgeo-specdm'):
            assert main(shlex.split(line)[1:]) == 0
        else:
            subprocess.run(['bash', '-ec', line], check=True)


def test_the_recipe_of_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (raw := make_pairs(Path('raw'), 3)).joinpath('images').rename('s2')
    for path in sorted((raw / 'masks').iterdir()):
        codes = 10 * np.random.default_rng(0).integers(1, 4, (1, 8, 8), np.uint8)
        write_tiff(Path('labels') / f'{path.stem}_mask.tif', codes)
    run_recipe('Two folders with names of their own')
    assert json.loads(capsys.readouterr().out)['codes'] == [10, 20, 30]


def test_the_recipe_of_sen1floods11(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = make_pairs(Path('raw'), 3, [None] * 13, dtype='int16')
    hand, lists = (
        Path('data/flood_events/HandLabeled'),
        Path('splits/flood_handlabeled'),
    )
    lists.mkdir(parents=True)
    for i, split in enumerate(('train', 'valid', 'test')):
        name = f'Ghana_{i}'
        for kind, folder in (('S2Hand', 'images'), ('LabelHand', 'masks')):
            (hand / kind).mkdir(parents=True, exist_ok=True)
            (raw / folder / f'000{i}.tif').rename(hand / kind / f'{name}_{kind}.tif')
        path = hand / 'LabelHand' / f'{name}_LabelHand.tif'
        codes = np.random.default_rng(i).integers(-1, 2, (1, 8, 8)).astype(np.int16)
        write_tiff(path, codes, nodata=-32768)
        line = f'{name}_S1Hand.tif,{name}_LabelHand.tif\n'
        (lists / f'flood_{split}_data.csv').write_text(line)
    run_recipe('Sen1Floods11')
    folder = PairFolder('DATA', 'val')
    assert folder.ids == ['Ghana_1'] and folder.spec.bands[8] == 'B8A'
    assert folder.spec.classes == ('land', 'water') and -1 in folder.spec.no_label
    assert folder[0]['mask'].unique().tolist() == [0, 1, 255]


@pytest.mark.skipif(shutil.which('gdalbuildvrt') is None, reason='needs gdal-bin')
def test_the_recipe_of_landsat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = {'crs': 'EPSG:32633', 'transform': from_origin(4e5, 5e6, 30, 30)}
    band = np.full((1, 96, 64), 8000, np.uint16)
    band[:, :, :5] = 0
    for number in range(1, 8):
        path = Path(f'LC08_L2SP_195023_SR_B{number}.TIF')
        write_tiff(path, band, nodata=0, **place)
    write_tiff(Path('landcover.tif'), (band > 0).astype(np.uint8), **place)
    run_recipe('Landsat Collection 2')
    folder = PairFolder('DATA')
    folder.verify()
    assert len(folder) == 6 and folder.spec.offset == -0.2
    assert folder.spec.rgb == (3, 2, 1)
    assert folder[0]['image'][:, :, :5].isnan().all()


def test_every_public_name_is_in_the_reference() -> None:
    pages = (ROOT / 'docs' / 'reference').glob('*.md')
    documented = {
        name
        for page in pages
        for name in re.findall(r'autoclass:: (\w+)$', page.read_text(), re.MULTILINE)
    }
    assert documented == set(torchgeo_specdm.__all__)


def _tests_of(file: Path) -> set[str]:
    """Names of tests and of classes of them, as pytest writes them."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (
                part.name for part in node.body if isinstance(part, ast.FunctionDef)
            )
            found |= {f'{node.name}::{name}' for name in inner}
    return {name for name in found if name.lower().startswith('test')}


def test_every_fault_has_a_test_or_a_reason() -> None:
    page = (ROOT / 'docs/reliability.md').read_text()
    rows = re.findall(r'^\| (\d+b?) \|(.*)\|$', page, re.MULTILINE)
    assert [number for number, _ in rows if number != '63b'] == [
        *map(str, range(1, 74))
    ]
    known = {file: _tests_of(file) for file in sorted((ROOT / 'tests').rglob('*.py'))}
    for number, row in rows:
        last = row.split(' | ')[-1]
        named = re.findall(r'`(tests/[\w/]+\.py)(?:::([\w:]+))?`', last)
        assert named or 'not tested' in last, number
        for file, name in named:
            assert not name or name in known[ROOT / file], f'{number}: {file}::{name}'


def test_nothing_is_unpacked_or_unpickled() -> None:
    unsafe = re.compile(
        r'weights_only\s*=\s*False|allow_pickle\s*=\s*True|\bpickle\.loads?\('
        r'|\.extract(all)?\(|\btarfile\b|yaml\.(unsafe_|full_)?load\('
        r'|(?<![\w.])(eval|exec)\('
    )
    for file in sorted((ROOT / 'torchgeo_specdm').rglob('*.py')):
        assert not unsafe.search(file.read_text()), file
