# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Each table and figure of the paper by its command, on made files of true formats."""

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchgeo_specdm.cli import main
from torchgeo_specdm.reporting.paper import Values, write_table
from torchgeo_specdm.reproduce import Table, row_cells
from torchgeo_specdm.study.design import Study

from .test_experiments import DATA, EXPERIMENTS, shrink

PAPER = EXPERIMENTS / 'paper'
TABLES = {path.stem: path for path in sorted(PAPER.glob('*.yaml'))}
STUDIES = {n: p for n, p in TABLES.items() if 'arms' in yaml.safe_load(p.read_text())}
TABLES = {name: path for name, path in TABLES.items() if name not in STUDIES}


@pytest.mark.parametrize('name', TABLES)
def test_every_row_is_an_arm_of_every_study(name: str) -> None:
    table = Table.read(TABLES[name])
    assert f'reproduce experiments/paper/{name}.yaml --on ' in TABLES[name].read_text()
    assert {row for pair in table.better for row in pair} <= set(table.rows)
    for part in table.parts.values():
        for file in part.studies.values():
            study = Study.read(PAPER / file)
            found = row_cells(table, study)
            assert found.keys() == table.rows.keys()
            for row, cells in found.items():
                assert {(c.arm, c.ratio) for c in cells} == {table.rows[row]}
                runs = len(study.seeds) * len(study.models) * len(study.sizes)
                wanted = runs if table.kind == 'scores' else study.subsets
                assert len(cells) == wanted > 0
            assert set(part.paper) <= {*study.models, 'pairs'}
        for rows in part.paper.values():
            assert set(rows) <= set(table.rows)
            assert all(len(numbers) == len(part.columns) for numbers in rows.values())


@pytest.mark.parametrize('name', STUDIES)
def test_studies_follow_the_papers_protocol(name: str) -> None:
    study = Study.read(STUDIES[name])
    assert study.protocol == 'all_labels' and study.out == Path('runs/paper') / name
    assert f'study experiments/paper/{name}.yaml' in STUDIES[name].read_text()
    presets = {recipe.preset for recipe in study.generators.values()}
    assert presets == ({'paper'} if name in ('segmunich', 'oscd') else {'tiny'})


@pytest.mark.parametrize('on', ['segmunich', 'oscd'])
def test_all_tables_and_figures(
    on: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    DATA[on](tmp_path / 'data')
    shutil.copytree(PAPER, 'paper')
    values = yaml.safe_load(STUDIES[on].read_text())
    ratios = {name: arm['ratios'] for name, arm in values['arms'].items()}
    shrink(values, on, tiny_settings)
    for name, arm in values['arms'].items():
        arm['ratios'] = ratios[name]
    values['models'] = dict([*values['models'].items()][:1])
    Path('paper', f'{on}.yaml').write_text(yaml.safe_dump(values))
    wanted = [n for n in TABLES if on in str(yaml.safe_load(TABLES[n].read_text()))]
    assert len(wanted) == 6
    for name in wanted:
        assert main(['reproduce', f'paper/{name}.yaml', '--on', on]) == 0
        out = Path(values['out'])
        page = capsys.readouterr().out
        assert page.rstrip().endswith((out / f'{name}.md').read_text().rstrip())
        table = Table.read(Path('paper', f'{name}.yaml'))
        for picture in [line for line in page.splitlines() if line.startswith('![')]:
            assert (out / picture.split('](')[1].rstrip(')')).stat().st_size > 1000
        with (out / f'{name}.csv').open() as file:
            rows = list(csv.DictReader(file))
        if table.kind == 'figures':
            assert {row['set'] for row in rows} == {'real', *table.rows}
            continue
        columns = table.part(on).columns
        assert {(r['row'], r['column']) for r in rows} == {
            (row, column) for row in table.rows for column in columns
        }
        assert all(math.isfinite(float(row['value'])) for row in rows)
        assert all(f"| {column}, the paper's " in page for column in columns)
        assert "The paper's orderings here:" in page
        assert ('floor' in page) == (table.kind == 'synthesis')


def test_other_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['reproduce', str(TABLES['table1']), '--on', 'oscd']) == 1
    said = capsys.readouterr().err
    assert "on='oscd' is none of the data of this table: ['segmunich', 'hls'" in said


class TestWriteTable:
    def page(self, tmp_path: Path, first: list[float], second: list[float]) -> str:
        cells = [
            Values('pairs', row, 'FID', {f'draw {i}': v for i, v in enumerate(numbers)})
            for row, numbers in (('a', first), ('b', second))
        ]
        return write_table(
            tmp_path / 't', [], cells, [('a', 'b')], lower=True
        ).read_text()

    @pytest.mark.parametrize(
        ('first', 'said'),
        [
            ([1.0, 1.1, 0.9], 'a before b, FID: yes (better by +4'),
            ([9.0, 9.1, 8.9], 'a before b, FID: no, the other way'),
            ([1.0, 9.0, 5.0], 'a before b, FID: cannot be told apart'),
            ([1.0], 'a before b, FID: yes, by one pair (better by +4)'),
            ([5.0001], 'a before b, FID: equal to four digits, by one pair'),
            ([math.nan], '| a | 0 | \N{EN DASH} |'),
        ],
    )
    def test_orderings(self, tmp_path: Path, first: list[float], said: str) -> None:
        assert said in self.page(tmp_path, first, [5.0, 5.0, 5.0][: len(first)])
