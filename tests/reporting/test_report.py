# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import base64
import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from torch import nn

from tests.study.fakes import open_data, pixel_codec, write_changed, write_generator
from torchgeo_specdm import PairFolderDataModule
from torchgeo_specdm.reporting import report
from torchgeo_specdm.reporting.report import number, write_report
from torchgeo_specdm.study.design import REAL, arm_label
from torchgeo_specdm.study.measures import measure
from torchgeo_specdm.study.runs import Run, differences
from torchgeo_specdm.study.statistics import verdict

#: Names that break pages, formulas and tables.
NAMES = ('<b>water</b>', 'woods & "parks"', r'crops $\frac$, $5', '_town')
DASH, MINUS = '\N{EN DASH}', '\N{MINUS SIGN}'
PLAN = {
    'steps': {'autoencoder': 600, 'diffusion': 2000, 'network': 400},
    'patch_size': 32,
    'precision': '32-true',
}
FACTS = {
    'data': 'my <fields>',
    'demo': False,
    'codec': 'pixels',
    'why': 'as asked with --codec',
    'plan': PLAN,
    'pilot': [[100, 0.31], [200, 0.42], [400, 0.425]],
    'settled': True,
    'updates': 200,
    'network': 'segmenter',
    'score': 'miou',
    'minutes': 7.25,
    'configs': {'train.yaml': '# torchgeo fit\nmodel: <x>\n'},
}


class Page(HTMLParser):
    """The parts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self._hidden = self._cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == 'style'
        if tag == 'tr':
            self.cells.append([])
        self._cell = tag in ('td', 'th') or (self._cell and tag != 'tr')
        if tag in ('td', 'th'):
            self.cells[-1].append('')

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False
        self._cell = self._cell and tag not in ('td', 'th')

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(data)
            if self._cell:
                self.cells[-1][-1] += data

    @property
    def text(self) -> str:
        return ' '.join(' '.join(self.texts).split())

    def row(self, name: str) -> list[str]:
        (found,) = [cells[1:] for cells in self.cells if cells and cells[0] == name]
        return found


def runs(seeds: int = 3, ratios: tuple[float, ...] = (0, 1, 5)) -> list[Run]:
    made = []
    for seed in range(seeds):
        for ratio in ratios:
            score = 0.4 + 0.01 * seed + 0.02 * ratio + 0.001 * seed * ratio
            iou: dict[str, float | None] = dict.fromkeys(NAMES, score)
            iou['_town'] = None
            arm = 'synthetic' if ratio else REAL
            scores = {'miou': score, 'f1': score + 0.1, 'accuracy': 0.7}
            made.append(Run('net', arm, ratio, 0, seed, 0, 200, scores, iou))
    return made


class Judge(nn.Module):
    def forward(self, images: Any) -> Any:
        return images[:, :4]


@pytest.fixture(scope='module')
def study(
    pair_folder: Path, tiny_settings: dict[str, Any], tmp_path_factory: Any
) -> tuple[Path, PairFolderDataModule, Any]:
    """Results without training; one class was never generated."""
    out: Path = tmp_path_factory.mktemp('report')
    real: PairFolderDataModule = open_data(pair_folder)
    spec = replace(real.spec, classes=NAMES)
    write_generator(pixel_codec(real, spec), tiny_settings, out / 'diffusion')
    write_changed(real, out / 'synthetic', lambda x, m: (x, m.where(m != 3, 0)), spec)
    measures = measure(out / 'diffusion', out / 'synthetic', real, Judge())
    return out, real, json.loads(json.dumps(measures, allow_nan=False))


@pytest.fixture(scope='module')
def whole(study: tuple[Path, PairFolderDataModule, Any]) -> Page:
    """The page of three seeds with all its pictures."""
    out, real, measures = study
    open_figures = plt.get_fignums()
    path = write_report(out, real, runs(), measures, FACTS)
    assert path == out / 'report.html'
    assert plt.get_fignums() == open_figures
    return Page(path.read_text(encoding='utf-8'))


@pytest.fixture
def page(
    study: tuple[Path, PairFolderDataModule, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Page]:
    """Write a changed page, without its pictures, which take their time."""
    out, real, measures = study
    for name in ('score_dots', 'pair_grid', 'class_areas', 'class_spectra_figure'):
        monkeypatch.setattr(report, name, lambda *arguments: None)
    monkeypatch.setattr(report, 'save', lambda *arguments: None)
    monkeypatch.setattr(report, 'as_data_uri', lambda figure: 'data:,')
    for name in ('diffusion', 'synthetic'):
        (tmp_path / name).symlink_to(out / name)

    def make(measures: Any = measures, seeds: int = 3, **changes: Any) -> Page:
        done = changes.pop('runs', runs(seeds))
        path = write_report(tmp_path, real, done, measures, FACTS | changes)
        return Page(path.read_text(encoding='utf-8'))

    return make


class TestPage:
    def test_asks_nothing_of_the_network(
        self, whole: Page, study: tuple[Path, PairFolderDataModule, Any]
    ) -> None:
        found = whole
        for tag, attributes in found.tags:
            assert tag not in ('script', 'link', 'iframe', 'object', 'base')
            for name in ('src', 'href', 'srcset', 'action', 'data'):
                value = attributes.get(name)
                assert value is None or value.startswith('data:image/png;base64,')
        html = (study[0] / 'report.html').read_text(encoding='utf-8')
        assert not re.search(r'url\(|@import|https?:', html)

    def test_begins_with_the_verdict(self, whole: Page) -> None:
        found = whole
        sentences = [verdict(arm_label(*k), d) for k, d in differences(runs()).items()]
        # the largest ratio first
        texts = [text for text in found.texts if text in sentences]
        assert texts == sentences[::-1] and len(texts) == 2
        assert found.text.index(texts[0]) < 200 < found.text.index('Scores on the test')

    def test_scores_of_each_arm(self, whole: Page) -> None:
        found = whole
        assert found.row('real only') == ['41.0', '1.0', '51.0', '70.0', '']
        treated = found.row('5x synthetic')
        assert treated[:4] == ['51.5', '1.5', '61.5', '70.0']
        low, high = (100 * v for v in differences(runs())['synthetic', 5][1:3])
        assert treated[4] == f'+10.5 [+{low:.1f}, +{high:.1f}]'

    def test_a_loss_has_a_true_minus(self, page: Callable[..., Page]) -> None:
        worse = [
            replace(run, scores=run.scores | {'miou': 0.5 - 0.02 * run.ratio})
            for run in runs()
        ]
        cell = page(runs=worse).row('1x synthetic')[4]
        assert cell == '-2.0 [-2.0, -2.0]'.replace('-', MINUS)

    def test_numbers_have_their_references(
        self, whole: Page, study: tuple[Path, PairFolderDataModule, Any]
    ) -> None:
        found, m = whole, study[2]
        image, alignment = m['fidelity']['image'], m['alignment']
        cells = found.row('Fréchet distance, images')
        assert cells[:2] == [f'{image[key]:.1f}' for key in ('value', 'floor')]
        assert cells[2] == 'real against real, both of n = 8'
        cells = found.row('Alignment: a judge reads the image and finds its mask')
        accuracies = [alignment[key]['accuracy'] for key in ('synthetic', 'real')]
        assert cells[:2] == [f'{100 * a:.1f}\N{NO-BREAK SPACE}%' for a in accuracies]
        assert (
            f'Shuffled pairs {100 * alignment["shuffled"]["accuracy"]:.1f}' in cells[2]
        )
        assert (
            'mean of 3 of 4 classes'
            in found.row('Angle between class spectra (mSAD)')[2]
        )
        names = ('Fréchet distance, masks', 'Class areas, total variation')
        for name in (*names, 'Reconstructed images', 'Reconstructed masks'):
            value, reference, note = found.row(name)
            assert value and reference and note

    def test_names_are_escaped_and_read_as_they_are(self, whole: Page) -> None:
        found = whole
        for name in NAMES:
            assert found.row(name)[0] in ('41.0', DASH)
        assert 'my <fields>' in found.text and 'model: <x>' in found.text
        assert not {'b', 'fields', 'x'} & {tag for tag, _ in found.tags}

    @pytest.mark.parametrize('seeds', [1, 3])
    def test_what_is_no_number_is_a_dash(
        self, page: Callable[..., Page], seeds: int
    ) -> None:
        found = page(seeds=seeds)
        assert not re.search(r'\b(nan|inf|None|undefined)\b', found.text, re.IGNORECASE)
        assert found.row('_town') == [DASH] * 3
        spread, difference = found.row('1x synthetic')[1::3]
        assert (spread == DASH) == (seeds == 1)
        assert (f'[{DASH}, {DASH}]' in difference) == (seeds == 1)

    def test_nothing_measured_is_a_dash(
        self, page: Callable[..., Page], study: tuple[Path, PairFolderDataModule, Any]
    ) -> None:
        measures = json.loads(json.dumps(study[2]))
        measures['alignment']['calibrated'] = None
        measures['spectra']['msad'] = None
        measures['reconstruction']['cross_entropy'] = None
        found = page(measures=measures)
        assert found.row('Alignment between shuffled and real')[0] == DASH
        assert found.row('Angle between class spectra (mSAD)')[0] == DASH

    def test_says_what_it_cannot_say(self, whole: Page) -> None:
        text = whole.text
        assert (
            'The generator and the segmenter saw the same 16 labelled samples' in text
        )
        assert 'over seeds, on one split' in text
        assert 'hardly notice blur: read them with the pictures' in text
        assert 'Not chosen' in text and 'equal updates' in text
        assert 'demo scenes' not in text and 'still rising' not in text

    @pytest.mark.parametrize(
        'change, note',
        [
            ({'demo': True}, 'the numbers say nothing about real images'),
            ({'settled': False}, 'Real-only was still rising on validation'),
            ({'transparency': 1.2}, 'the codec paints the label into the image'),
            ({'accuracy': 0.99}, 'agree with the judge better than real test pairs'),
        ],
    )
    def test_warns(
        self,
        page: Callable[..., Page],
        study: tuple[Path, PairFolderDataModule, Any],
        change: dict[str, Any],
        note: str,
    ) -> None:
        measures = json.loads(json.dumps(study[2]))
        measures['alignment']['synthetic']['accuracy'] = 0.1
        assert note not in page(measures=measures).text
        for name, value in change.items():
            part = measures['alignment']
            part = part['synthetic'] if name == 'accuracy' else part
            part[name] = value
        facts = {name: change[name] for name in FACTS.keys() & change.keys()}
        assert note in page(measures=measures, **facts).text

    def test_settings(self, whole: Page) -> None:
        found = whole
        assert found.row('stage 2') == ['2000 steps, 32-true']
        assert found.row('patches') == ['32 pixels']
        pilots = (
            '100 updates: validation mIoU 31.0; 200 updates: validation mIoU 42.0; '
        )
        assert found.row('pilot, real only')[0].startswith(pilots)
        assert found.row('time of the last start') == ['7.2 min']

    def test_pictures_are_of_one_width(
        self, whole: Page, study: tuple[Path, PairFolderDataModule, Any]
    ) -> None:
        pictures = [a for tag, a in whole.tags if tag == 'img']
        assert len(pictures) == 4
        assert all(picture['alt'] for picture in pictures)
        files = [
            base64.b64decode(str(picture['src']).partition(',')[2])
            for picture in pictures
        ]
        files.append((study[0] / 'pairs.png').read_bytes())
        # the width in the header of a PNG
        assert {struct.unpack('>I', file[16:20])[0] for file in files} == {1280}


@pytest.mark.parametrize(
    'value, form, expected',
    [
        (0.5, '.1f', '0.5'),
        (-0.25, '+.2f', f'{MINUS}0.25'),
        (0.25, '+.2f', '+0.25'),
        (None, '.1f', DASH),
        (float('nan'), '.1f', DASH),
        (float('-inf'), '.1f', DASH),
        (7, '.0f', '7'),
    ],
)
def test_number(value: float | None, form: str, expected: str) -> None:
    assert number(value, form) == expected
