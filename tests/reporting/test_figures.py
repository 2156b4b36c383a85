# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.pairs.card import unit_row
from torchgeo_specdm.pairs.plotting import show_image, show_mask
from torchgeo_specdm.pairs.tiles import Tiles
from torchgeo_specdm.reporting.figures import (
    NARROW,
    as_data_uri,
    class_changes,
    pair_grid,
    save,
    score_dots,
)
from torchgeo_specdm.reporting.trust_figures import (
    class_areas,
    class_spectra_figure,
    training_curves,
)
from torchgeo_specdm.study.design import REAL
from torchgeo_specdm.study.runs import Run

#: To matplotlib a formula, and a wrong one.
FORMULA = r'a$\frac$ %_^'
SPEC = SampleSpec(('B12', 'B02', 'B03', 'B04'), ('water', FORMULA, 'land'))

STD = [[0.01, 0.02, 0.03, 0.04], [0.05] * 4, [None] * 4]
SPECTRA = {
    'names': ['water', FORMULA, 'land'],
    'curves': {
        'train': {
            'mean': [[0.4, 0.1, 0.2, 0.3], [0.8, 0.5, 0.6, 0.7], [None] * 4],
            'std': STD,
        },
        'synthetic': {
            'mean': [[0.3, 0.1, 0.2, 0.3], [None] * 4, [None] * 4],
            'std': [STD[0], [None] * 4, [None] * 4],
        },
    },
    'synthetic': {'per_class': {'water': 0.1234, FORMULA: None, 'land': None}},
}


def flat(names: tuple[str, ...], bands: int) -> dict[str, Any]:
    curve = {'mean': [[0.1] * bands] * len(names), 'std': [[0.1] * bands] * len(names)}
    return {'names': names, 'curves': {'train': curve, 'synthetic': curve}}


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    plt.close('all')


def tiles(count: int, seed: int = 0) -> Tiles:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(100, 3000, (count, 4, 16, 16), generator=generator).float()
    masks = torch.randint(3, (count, 16, 16), generator=generator)
    return Tiles(images, masks)


class TestPairGrid:
    def test_names_are_no_formulas(self) -> None:
        save(pair_grid({'real': tiles(1)}, SPEC), io.BytesIO())

    def test_images_and_masks_as_they_are(self) -> None:
        rows = {'real': tiles(3), 'generated': tiles(2, 1)}
        figure = pair_grid(rows, SPEC, columns=4)
        shown = [np.asarray(axis.get_images()[0].get_array()) for axis in figure.axes]
        # a row of two leaves places empty
        assert len(shown) == 2 * (3 + 2)
        bands = rows['real'].images[:, [3, 2, 1]].numpy()
        limits = tuple(np.percentile(bands, (2, 98)))
        for start, row in ((0, rows['real']), (6, rows['generated'])):
            for i in range(len(row.images)):
                image = show_image(row.images[i], SPEC, limits)
                np.testing.assert_allclose(shown[start + 2 * i], image, atol=1e-6)
                mask = show_mask(row.masks[i], SPEC)
                np.testing.assert_array_equal(shown[start + 2 * i + 1], mask)

    def test_a_pair_is_seen_as_one(self) -> None:
        figure = pair_grid({'real': tiles(3), 'generated': tiles(3)}, SPEC, columns=3)
        width, height = figure.get_size_inches()
        boxes = [axis.get_position() for axis in figure.axes]
        for image, mask in zip(boxes[::2], boxes[1::2], strict=True):
            # the mask touches its image from below, and both are square
            assert mask.y1 == pytest.approx(image.y0)
            assert (mask.x0, mask.x1) == pytest.approx((image.x0, image.x1))
            assert image.height * height == pytest.approx(image.width * width)
        between = [b.x0 - a.x1 for a, b in zip(boxes[:-2:2], boxes[2::2], strict=True)]
        assert between[0] > 0 and between[1] > 0
        # and a gap to the next row
        assert boxes[1].y0 - boxes[6].y1 > 0.1 / height
        assert all(0 <= box.x0 and box.x1 <= 1 for box in boxes)
        assert boxes[-1].y0 > 0

    def test_missing_pixels_do_not_set_the_stretch(self) -> None:
        row = tiles(2)
        figure = pair_grid({'real': row}, SPEC, columns=2)
        before = np.asarray(figure.axes[0].get_images()[0].get_array())
        row.images[1] = torch.nan
        row = Tiles(
            torch.cat([row.images[:1]] * 3 + [row.images[1:]]),
            row.masks[:1].repeat(4, 1, 1),
        )
        figure = pair_grid({'real': row}, SPEC, columns=2)
        after = np.asarray(figure.axes[0].get_images()[0].get_array())
        np.testing.assert_allclose(before, after, atol=0.05)

    @pytest.mark.parametrize('count', [2, 20])
    def test_every_class_is_in_the_legend_and_on_the_page(self, count: int) -> None:
        names = [f'Herbaceous wetland number {i}' for i in range(count)]
        spec = SampleSpec(('R', 'G', 'B'), tuple(names))
        row = Tiles(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))
        figure = pair_grid({'real': row}, spec)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == names
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.axes[-1].get_window_extent().y0 and box.y0 >= -1


def run(arm: str, ratio: float, seed: int, score: float | None = 0.5) -> Run:
    scores = {'miou': score, 'f1': 0.2}
    iou = {'water': score, FORMULA: 0.5 if ratio else 0.25, 'never': None}
    return Run('net', arm, ratio, 0, seed, 0, 10, scores, iou)


def test_score_dots_joins_the_runs_of_a_seed() -> None:
    arms = [('mine', 5), (REAL, 0), ('mine', 1)]
    runs = [
        run(arm, ratio, seed, 0.1 * seed + 0.01 * ratio)
        for arm, ratio in arms
        for seed in (0, 1)
    ]
    (axis,) = score_dots(runs).axes
    lines = [np.asarray(line.get_xydata()).tolist() for line in axis.get_lines()]
    assert np.allclose(lines[0], [[0, 5], [1, 0], [2, 1]])
    assert np.allclose(lines[1], [[0, 15], [1, 10], [2, 11]])
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ['5x mine', 'real only', '1x mine']
    assert axis.get_ylabel() == 'test mIoU in points'
    (axis,) = score_dots(runs, 'f1').axes
    assert np.asarray(axis.get_lines()[0].get_ydata()).tolist() == [20, 20, 20]


def test_score_dots_show_the_interval_of_the_difference() -> None:
    real, mine = (0.10, 0.20, 0.30), (0.15, 0.26, 0.37)
    runs = [run(REAL, 0, seed, score) for seed, score in enumerate(real)]
    runs += [run('mine', 1, seed, score) for seed, score in enumerate(mine)]
    # a pair alone has no interval
    runs.append(run('once', 1, 0, 0.5))
    (axis,) = score_dots(runs).axes
    (bar,) = axis.containers
    (low, high) = bar[2][0].get_segments()[0][:, 1]
    # t(2) = 4.303; differences of 5, 6 and 7 points over a mean of 20
    half = 4.303 / 3**0.5
    assert (low, high) == pytest.approx((26 - half, 26 + half), abs=0.01)


def test_class_changes_are_differences_of_means() -> None:
    runs = [run(REAL, 0, 0, 0.2), run(REAL, 0, 1, 0.4)]
    runs += [run('mine', 1, 0, 0.7), run('mine', 1, 1, None), run(FORMULA, 0, 0, 0.1)]
    figure = class_changes(runs)
    save(figure, io.BytesIO())
    (axis,) = figure.axes
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    assert np.allclose(heights, [[40, 25, np.nan], [-20, 0, np.nan]], equal_nan=True)
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ['water', FORMULA, 'never']


@pytest.mark.filterwarnings('ignore:No artists with labels')
@pytest.mark.parametrize('count', range(1, 9))
def test_as_many_arms_as_a_study_has(count: int) -> None:
    names = [REAL, *(f'{FORMULA} arm {i}' for i in range(1, count))]
    runs = [run(name, 0, seed) for name in names for seed in range(5)]
    # one arm is not there yet, one has failed, and one has no score
    runs.append(replace(runs[-1], seed=7, scores={}, iou={}, reason='lost'))
    runs.append(run('pending', 3, 0, None))
    for figure in (score_dots(runs), class_changes(runs)):
        figure.draw_without_rendering()
        # every name is inside the page
        (axis,) = figure.axes
        for label in (*axis.get_xticklabels(), axis.yaxis.label):
            box = label.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1


@pytest.mark.filterwarnings('ignore:No artists with labels')
@pytest.mark.parametrize('runs', [[], [replace(run(REAL, 0, 0), scores={}, iou={})]])
def test_nothing_to_draw_is_an_empty_figure(runs: list[Run]) -> None:
    for figure in (score_dots(runs), class_changes(runs)):
        save(figure, io.BytesIO())


class TestSpectra:
    def test_bands_are_in_the_order_of_wavelengths(self) -> None:
        figure = class_spectra_figure(SPECTRA, SPEC)
        real, synthetic = figure.axes[0].get_lines()
        assert np.asarray(real.get_ydata()).tolist() == [0.1, 0.2, 0.3, 0.4]
        assert np.asarray(synthetic.get_ydata()).tolist() == [0.1, 0.2, 0.3, 0.3]
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert labels == ['B02', 'B03', 'B04', 'B12']

    def test_spread_is_one_standard_deviation(self) -> None:
        figure = class_spectra_figure(SPECTRA, SPEC)
        real = figure.axes[0].collections[0]
        (path,) = real.get_paths()
        edges = {(round(x), round(float(y), 6)) for x, y in path.vertices}
        # B02 is first: 0.1 +- 0.02; B12 is last: 0.4 +- 0.01
        assert {(0, 0.08), (0, 0.12), (3, 0.39), (3, 0.41)} <= edges

    def test_what_was_not_measured_is_not_drawn(self) -> None:
        figure = class_spectra_figure(SPECTRA, SPEC)
        titles = [axis.get_title() for axis in figure.axes]
        # a class that neither side has gets no panel
        assert titles == ['water: 0.123 rad', FORMULA]
        synthetic = figure.axes[1].get_lines()[1]
        assert np.isnan(np.asarray(synthetic.get_ydata())).all()
        # drawing it would fail if it were read as a formula
        save(figure, io.BytesIO())

    def test_every_column_names_its_bands(self) -> None:
        names = tuple(f'class {i}' for i in range(5))
        spec = SampleSpec(('B02', 'B03'), names)
        figure = class_spectra_figure(flat(names, 2), spec)
        figure.draw_without_rendering()
        # two lines of three, of which the last place is empty
        ticks = [axis.xaxis.get_major_ticks()[0] for axis in figure.axes[:5]]
        assert [tick.label1.get_visible() for tick in ticks] == [
            False,
            False,
            True,
            True,
            True,
        ]

    def test_three_hundred_bands_stay_readable(self) -> None:
        spec = SampleSpec(tuple(f'band_{i + 1}' for i in range(300)), ('a', 'b'))
        axis = class_spectra_figure(flat(('a', 'b'), 300), spec).axes[0]
        assert len(axis.get_xticks()) == 12
        assert len(np.asarray(axis.get_lines()[0].get_ydata())) == 300

    def test_many_bands_lie_at_their_wavelengths(self) -> None:
        # without those of water vapour, and in any order
        waves = [w for w in range(2400, 400, -10) if not 1340 < w < 1440]
        names = tuple(f'{wave} nm' for wave in waves)
        spec = SampleSpec(names, ('a',), wavelengths=waves)
        figure = class_spectra_figure(flat(('a',), len(waves)), spec)
        (line, _), (axis,) = figure.axes[0].get_lines(), figure.axes
        x, y = (np.asarray(values) for values in line.get_data())
        assert axis.get_xlim()[0] < 410 and axis.get_xlim()[1] > 2400
        # one gap, in which no line is drawn
        assert x[np.isnan(y)].tolist() == [1440] and len(x) == len(waves) + 1

    @pytest.mark.parametrize(
        ('dtype', 'scale', 'offset', 'said'),
        [
            ('uint16', 2.75e-5, -0.2, 'reflectance'),
            ('uint8', 1 / 255, 0, 'brightness'),
            ('float32', 1, 0, 'value'),
        ],
    )
    def test_the_axis_says_what_is_shown(
        self, dtype: str, scale: float, offset: float, said: str
    ) -> None:
        spec = replace(SPEC, dtype=dtype, scale=scale, offset=offset)
        figure = class_spectra_figure(SPECTRA, spec)
        assert figure.get_supylabel() == said
        unit = unit_row(spec)
        assert unit.startswith(f'| {said} | digital number x {scale:g}')
        assert (' - 0.2 (uint16)' in unit) == (offset < 0)


def test_class_areas_in_percent() -> None:
    area = {
        'train': [0.5, 0.3, 0.2],
        'held_out': [0.4, 0.4, 0.2],
        'synthetic': [1, 0, 0],
    }
    figure = class_areas(area, SPEC)
    (axis,) = figure.axes
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    assert heights == [[50, 30, 20], [40, 40, 20], [100, 0, 0]]
    assert as_data_uri(figure).startswith('data:image/png;base64,iVBOR')
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize('lowest, scale', [(0.1, 'log'), (0.0, 'linear')])
def test_training_curves(lowest: float, scale: str) -> None:
    points = [(0.0, 1.0), (10.0, lowest)]
    figure = training_curves({'train_loss': points, FORMULA: points}, NARROW)
    (axis,) = figure.axes
    assert np.asarray(axis.get_lines()[0].get_xydata()).tolist() == [
        [0, 1],
        [10, lowest],
    ]
    assert axis.get_yscale() == scale
    save(figure, io.BytesIO())


def test_narrow_figures_hold_their_legends() -> None:
    area = {side: [0.5, 0.3, 0.2] for side in ('train', 'held_out', 'synthetic')}
    for figure in (
        class_areas(area, SPEC, NARROW),
        class_spectra_figure(SPECTRA, SPEC, NARROW),
        training_curves(
            {f'val_cross_entropy_{i}': [(0.0, 1.0)] for i in range(9)}, NARROW
        ),
    ):
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
