# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.bands import TEN_BANDS
from torchgeo_specdm.pairs.tiles import Tiles
from torchgeo_specdm.reporting import report
from torchgeo_specdm.reporting.advice import Evidence
from torchgeo_specdm.reporting.report import (
    Captioned,
    Neighbours,
    ReportContent,
    read_curves,
    write_report,
)
from torchgeo_specdm.study.design import REAL, arm_label
from torchgeo_specdm.study.runs import Run, differences
from torchgeo_specdm.study.statistics import verdict
from torchgeo_specdm.trust.numbers import number

#: Names that break pages, formulas and tables.
NAMES = ('<script>alert(1)</script>', 'woods & "parks"', r'crops $\frac$, $5', '_town')
DASH, MINUS = '\N{EN DASH}', '\N{MINUS SIGN}'
SPEC = SampleSpec(TEN_BANDS, NAMES)
CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
    None,
)


def tiles(count: int = 8, size: int = 16) -> Tiles:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 3000, (count, 10, size, size), generator=generator)
    masks = torch.randint(4, (count, size, size), generator=generator)
    return Tiles(images.float(), masks)


def sides(value: float) -> dict[str, Any]:
    names = ('real', 'held_out', 'reconstructed', 'synthetic', 'shuffled')
    return {n: {'accuracy': value - i / 100, 'miou': 0.5} for i, n in enumerate(names)}


def _measures() -> dict[str, Any]:
    frechet = {'value': 14.2, 'floor': 8.1, 'held_out': 10.3, 'reconstructed': None}
    curve = {'mean': [[0.1] * 10] * 4, 'std': [[0.01] * 10] * 4}
    shares = [0.4, 0.3, 0.2, 0.1]
    return {
        'counts': {'train': 16, 'held_out': 4, 'synthetic': 80},
        'reconstruction': {
            'rmse': 0.0123,
            'sad': 0.041,
            'cross_entropy': None,
            'mask_accuracy': 0.987,
            'mask_miou': 0.951,
            'count': 4,
        },
        'denoising': {
            'mask': {
                'log_snr': [0, 4],
                'network': [0.2, 0.18],
                'noisy': [1.0, 0.018],
                'linear': [0.3, 0.017],
            }
        },
        'detail': {
            'synthetic': {'power': {'above 1/4': 0.31}, 'seams': 1.5},
            'held_out': {'power': {'above 1/4': 0.94}, 'seams': 1.02},
        },
        'fidelity': {'image': {'frechet': frechet, 'samples': 16}},
        'spectra': {
            'synthetic': {'msad': 0.043, 'gain': 1.04, 'per_class': {NAMES[0]: 0.1}},
            'names': list(NAMES),
            'curves': {'train': curve, 'synthetic': curve},
        },
        'area': {
            'train': shares,
            'held_out': shares,
            'synthetic': shares,
            'total_variation': 0.12,
            'total_variation_held_out': 0.05,
            'missing': [NAMES[3]],
            'missing_held_out': [NAMES[3]],
        },
        'alignment': {'judge': sides(0.8), 'calibrated': 0.95, 'transparency': 1.08},
        'memorisation': {'pixels': {'median_ratio': 0.6, 'alarm': False}},
        'overlap': {
            'train-test': {'samples': 3, 'of': 4},
            'train-val': {'samples': 0, 'of': 5},
        },
    }


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


def full() -> ReportContent:
    samples = [
        {'id': f'{i:06d}', 'agreement': i / 1200, 'accepted': i > 5}
        for i in range(1200)
    ]
    samples[1]['agreement'] = None
    captions = [f'agreement 0.{i} <i>' for i in range(8)]
    return ReportContent(
        'my <fields>',
        SPEC,
        samples,
        {'real': tiles(), 'reconstructed': tiles(), 'generated': tiles()},
        Captioned(tiles(), captions),
        Captioned(tiles(), captions),
        Neighbours(tiles(), tiles(), [f'distance 0.01{i}' for i in range(8)]),
        {'diffusion': {'train_loss': [(0.0, 1.0), (10.0, 0.5)]}},
        Evidence(runs(), measures=_measures()),
        settings={
            'updates': 200,
            'pilot': [[100, 0.31]],
            'a.yaml': '# torchgeo fit\nm: <x>\n',
        },
        made={'versions': {'torch': '2.6'}, 'seeds': [0, 1]},
        notes=['These are procedural <demo> scenes.'],
    )


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
        self._hidden = tag in ('style', 'script')
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

    @property
    def sections(self) -> list[str | None]:
        return [attributes['id'] for tag, attributes in self.tags if tag == 'section']

    def row(self, name: str) -> list[str]:
        (found,) = [cells[1:] for cells in self.cells if cells and cells[0] == name]
        return found


@pytest.fixture(scope='module')
def path(tmp_path_factory: Any) -> Path:
    """The page with all its parts and pictures."""
    open_figures = plt.get_fignums()
    out = tmp_path_factory.mktemp('report') / 'any name.html'
    assert write_report(out, full()) == out
    assert plt.get_fignums() == open_figures
    return out


@pytest.fixture(scope='module')
def whole(path: Path) -> Page:
    return Page(path.read_text(encoding='utf-8'))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a changed page, without its charts, which take their time."""
    monkeypatch.setattr(report, '_chart', lambda plot: {'wide': 'data:,', 'narrow': ''})

    def make(**changes: Any) -> Page:
        out = write_report(tmp_path / 'page.html', replace(full(), **changes))
        return Page(out.read_text(encoding='utf-8'))

    return make


class TestPage:
    def test_asks_nothing_of_the_network(self, whole: Page, path: Path) -> None:
        for tag, attributes in whole.tags:
            assert tag not in ('iframe', 'object', 'base')
            for name in ('src', 'href', 'srcset', 'action', 'data'):
                value = attributes.get(name)
                assert value is None or value.startswith('data:')
        html = path.read_text(encoding='utf-8')
        assert not re.search(r'url\(|@import|https?:', html)

    def test_every_section_in_its_order(self, whole: Page) -> None:
        assert whole.sections == [
            'trust',
            'pictures',
            'spectra',
            'areas',
            'extremes',
            'nearest',
            'comparison',
            'measures',
            'denoising',
            'training',
            'samples',
            'codec',
            'overlap',
            'citing',
            'settings',
        ]

    @pytest.mark.parametrize(
        'missing, change',
        [
            ('pictures', {'rows': {}}),
            ('extremes', {'best': None, 'worst': None}),
            ('nearest', {'nearest': None}),
            ('comparison', {'evidence': Evidence(measures=_measures())}),
            ('citing', {'made': {}}),
            ('training', {'curves': {}}),
            ('samples', {'scores': ()}),
            ('settings', {'settings': {}}),
        ],
    )
    def test_no_data_no_section(
        self, page: Any, whole: Page, missing: str, change: dict[str, Any]
    ) -> None:
        left = page(**change).sections
        assert left == [name for name in whole.sections if name != missing]

    @pytest.mark.parametrize(
        'missing, keys',
        [
            ('spectra', ['spectra']),
            ('areas', ['area']),
            ('overlap', ['overlap']),
            ('denoising', ['denoising']),
            ('codec', ['reconstruction', 'alignment']),
        ],
    )
    def test_not_measured_no_section(
        self, page: Any, whole: Page, missing: str, keys: list[str]
    ) -> None:
        measures = _measures()
        for key in keys:
            measures[key] = None
        left = page(evidence=Evidence(runs(), measures=measures)).sections
        assert left == [name for name in whole.sections if name != missing]

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        out = write_report(tmp_path / 'a.html', ReportContent('x', SPEC))
        found = Page(out.read_text(encoding='utf-8'))
        assert found.sections == ['trust']
        assert 'Not compared' in found.text and 'torchgeo-specdm study' in found.text
        assert found.texts.count('not measured') == 3

    def test_begins_with_the_verdict(self, whole: Page) -> None:
        sentences = [verdict(arm_label(*k), d) for k, d in differences(runs()).items()]
        # the largest ratio first
        texts = [text for text in whole.texts if text in sentences]
        assert texts == sentences[::-1] and len(texts) == 2
        assert whole.text.index(texts[0]) < 350 < whole.text.index('Looks real')
        boxes = [a['class'] for tag, a in whole.tags if tag == 'div' and a]
        assert boxes[:2] == ['caveats', 'verdict good']
        assert whole.text.index('3 seeds are few') < whole.text.index(texts[0])
        assert 'real only 41.0 \N{PLUS-MINUS SIGN} 1.0, 1x' in whole.text
        assert whole.text.index('Use them: 5x') < whole.text.index('Looks real')
        assert 'Not compared' not in whole.text

    def test_lights_have_words(self, whole: Page) -> None:
        names = ('Looks real', 'Labels fit', 'Not copied')
        after = [whole.texts[whole.texts.index(name) + 1] for name in names]
        assert after == ['bad', 'doubtful', 'doubtful']
        classes = [a['class'] for tag, a in whole.tags if tag == 'li' and 'class' in a]
        assert classes == after

    def test_scores_of_each_arm(self, whole: Page) -> None:
        assert whole.row('real only') == ['41.0', '1.0', '51.0', '70.0', '']
        treated = whole.row('5x synthetic')
        assert treated[:4] == ['51.5', '1.5', '61.5', '70.0']
        low, high = (100 * v for v in differences(runs())['synthetic', 5][1:3])
        assert treated[4] == f'+10.5 [+{low:.1f}, +{high:.1f}]'

    def test_failed_runs_are_left_out(self, page: Any) -> None:
        lost = [
            replace(run, scores={}, iou={}, reason='lost') if run.ratio == 5 else run
            for run in runs()
        ]
        row = page(evidence=Evidence(lost)).row('5x synthetic')
        assert row == [DASH] * 4 + ['']

    def test_numbers_stand_beside_their_references(self, whole: Page) -> None:
        assert whole.row('Fréchet distance, images') == ['14.2', DASH, '10.3', '8.1']
        judge = whole.row('A judge finds the mask in the image: pixels right, %')
        assert judge == ['77.0', '78.0', '79.0', '80.0', '76.0']
        assert 'synthetic 0.120, real test 0.050' in whole.text
        assert 'Never generated: _town' in whole.text
        assert 'masks with 98.7% of the pixels right (mIoU 95.1)' in whole.text
        assert 'codec paints the label into the image' in whole.text
        assert '3 of 4 samples share land' in whole.text
        assert 'train-val: 0 of 5 samples share land' in whole.text

    def test_texts_are_escaped(self, whole: Page, path: Path) -> None:
        assert len([tag for tag, _ in whole.tags if tag == 'script']) == 1
        assert '<script>alert' not in path.read_text(encoding='utf-8')
        assert not {'fields', 'x', 'i', 'demo'} & {tag for tag, _ in whole.tags}
        for text in (NAMES[0], 'my <fields>', 'm: <x>', '<demo>', '0.1 <i>'):
            assert text in whole.text
        assert whole.row(NAMES[1]) == ['41.0', '43.1', '51.5']
        assert whole.row('_town') == [DASH] * 3

    @pytest.mark.parametrize('seeds', [1, 3])
    def test_what_is_no_number_is_a_dash(self, page: Any, seeds: int) -> None:
        found = page(evidence=Evidence(runs(seeds), measures=_measures()))
        assert not re.search(r'\b(nan|inf|None|undefined)\b', found.text, re.IGNORECASE)
        spread, difference = found.row('1x synthetic')[1::3]
        assert (spread == DASH) == (seeds == 1)
        assert (f'[{DASH}, {DASH}]' in difference) == (seeds == 1)

    def test_detail_and_denoiser(self, whole: Page) -> None:
        row = whole.row('Power above 1/4 cycles a pixel')
        assert row == ['0.31', DASH, '0.94']
        assert whole.row('Steps on a grid') == ['1.50', DASH, '1.02']
        assert 'they are soft' in whole.text and 'they are blocky' in whole.text
        assert 'estimate of mask is worse than the noisy latents' in whole.text

    def test_pictures_and_their_switch(self, whole: Page) -> None:
        radios = [a for tag, a in whole.tags if tag == 'input']
        assert {a['type'] for a in radios} == {'radio'} and len(radios) == 3
        assert ['checked' in a for a in radios] == [True, False, False]
        pictures = [a for tag, a in whole.tags if tag == 'img']
        # 8 pairs in 3 rows and 3 combinations, 4 rows of chosen ones, and 5 charts
        assert len(pictures) == 2 * 8 * 3 * 3 + 2 * 8 * 4 + 5
        assert all(picture['alt'] for picture in pictures)

    def test_samples_can_be_sorted_and_are_cut(self, whole: Page, page: Any) -> None:
        heads = [a for tag, a in whole.tags if tag == 'th' and 'aria-sort' in a]
        assert [a['aria-sort'] for a in heads] == ['none'] * 3
        assert len([tag for tag, _ in whole.tags if tag == 'button']) == 3
        keys = [a['data-key'] for tag, a in whole.tags if 'data-key' in a]
        assert len(keys) == 3 * 1000 and keys[3:6] == ['000001', '', '0']
        assert 'The first 1000 of 1200 samples' in whole.text
        assert whole.row('000001') == [DASH, 'no']
        assert 'The first' not in page(scores=full().scores[:9]).text

    def test_scores_of_samples_are_explained(self, whole: Page) -> None:
        assert 'Agreement: share of the labelled pixels' in whole.text
        # there is no such column
        assert 'Edges: how well' not in whole.text

    def test_what_to_cite(self, whole: Page) -> None:
        assert whole.row('versions') == ['torch: 2.6']
        assert whole.row('seeds') == ['0, 1']

    def test_settings(self, whole: Page) -> None:
        assert whole.row('updates') == ['200'] and whole.row('pilot') == ['100, 0.31']
        assert 'a.yaml' in whole.texts and '# torchgeo fit' in whole.text


def test_the_page_is_small(page: Any, tmp_path: Path) -> None:
    noise = tiles(8, 256)
    noise = noise._replace(images=torch.stack([noise.images] * 2, 1))
    chosen = Captioned(noise, [''] * 8)
    page(
        spec=replace(SPEC, dates=2),
        rows=dict.fromkeys(('real', 'reconstructed', 'generated'), noise),
        best=chosen,
        worst=chosen,
        nearest=Neighbours(noise, noise, [''] * 8),
    )
    assert 1e6 < (tmp_path / 'page.html').stat().st_size < 15e6


def browse(page: Path, folder: Path, *options: str) -> tuple[str, str]:
    """What a browser makes of a page, and what it logs."""
    flags = (
        '--headless --no-sandbox --disable-gpu --disable-background-networking '
        '--disable-component-update --disable-sync --no-first-run '
        '--enable-logging=stderr --v=0 --virtual-time-budget=3000'
    )
    done = subprocess.run(
        [
            str(CHROMIUM),
            *flags.split(),
            f'--user-data-dir={folder}',
            *options,
            '--dump-dom',
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout, done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed')
class TestBrowser:
    def test_sorts_without_an_error(self, path: Path, tmp_path: Path) -> None:
        # a click on the second title, twice, after the page's own script
        clicks = "document.querySelectorAll('.sortable button')[1]"
        driver = f'<script>{clicks}.click(); {clicks}.click()</script></body>'
        driven = tmp_path / 'driven.html'
        html = path.read_text(encoding='utf-8')
        driven.write_text(html.replace('</body>', driver), encoding='utf-8')
        dom, log = browse(driven, tmp_path / 'profile')
        assert 'CONSOLE' not in log
        found = Page(dom)
        sort = [a['aria-sort'] for _, a in found.tags if 'aria-sort' in a]
        assert sort == ['none', 'descending', 'none']
        ids = [row[0] for row in found.cells if len(row) == 3 and row[0][:1] == '0']
        targets = [a['href'] for tag, a in found.tags if tag == 'a']
        assert targets == [f'#{name}' for name in found.sections]
        # the largest first, what was not measured last
        assert ids[:2] == ['000999', '000998'] and ids[-2:] == ['000000', '000001']


class TestCurves:
    def write(self, folder: Path, lines: str) -> None:
        folder.mkdir(parents=True)
        (folder / 'metrics.csv').write_text(lines)

    def test_reads_each_stage(self, tmp_path: Path) -> None:
        head = 'epoch,step,train_loss,val_loss,lr-AdamW,val_iou/water\n'
        self.write(
            tmp_path / 'autoencoder' / 'version_9',
            f'{head}0,0,1.0,,0.1,\n0,1,0.9,,0.1,\n0,1,,0.8,,0.3\n0,2,nan,,,\n',
        )
        # a later start, of which the number is more and the name sorts before
        self.write(
            tmp_path / 'autoencoder' / 'version_10', f'{head}0,1,0.7,,,\n0,2,0.6,,,\n'
        )
        self.write(tmp_path / 'diffusion', 'step,train_loss\n5,0.5\n')
        assert read_curves(tmp_path) == {
            'autoencoder': {
                'train_loss': [(0, 1.0), (1, 0.7), (2, 0.6)],
                'val_loss': [(1, 0.8)],
            },
            'diffusion': {'train_loss': [(5, 0.5)]},
        }
        assert read_curves(tmp_path / 'none') == {}

    def test_long_curves_are_means(self, tmp_path: Path) -> None:
        lines = ''.join(f'{i},{i % 2}\n' for i in range(4000))
        self.write(tmp_path / 'diffusion', f'step,train_loss\n{lines}')
        points = read_curves(tmp_path)['diffusion']['train_loss']
        assert len(points) == 400 and points[-1] == (3999, 0.5)


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
