# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from torchgeo_specdm.pairs.plotting import plot_sample, show_image, show_mask
from torchgeo_specdm.pairs.spec import SampleSpec

SPEC = SampleSpec(
    bands=('B02', 'B03', 'B04', 'B08'),
    classes=('land', 'water', 'ice'),
    dates=2,
    nodata=0,
    ignore_index=255,
    colors=((255, 0, 0), (0, 0, 255), (0, 255, 0)),
)


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    plt.switch_backend('agg')
    yield
    plt.close('all')


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


class TestImage:
    def test_red_first(self) -> None:
        image = torch.zeros(4, 2, 2)
        image[2] = 100
        shown = show_image(image, SPEC, (0, 100))
        assert shown.dtype == np.float32
        assert np.array_equal(shown, np.broadcast_to([1.0, 0, 0], (2, 2, 3)))

    def test_stretch(self) -> None:
        image = torch.linspace(1000, 2000, 101).expand(4, 1, 101).clone()
        shown = show_image(image, SPEC)[0, :, 0]
        assert shown[0] == 0 and shown[-1] == 1
        assert shown[50] == pytest.approx(0.5)

    def test_missing_pixels_are_white_and_do_not_darken(self) -> None:
        image = torch.linspace(1000, 2000, 100).reshape(1, 10, 10).repeat(4, 1, 1)
        image[:, :3] = torch.nan
        shown = show_image(image, SPEC)
        assert shown[:3].min() == 1
        # were zeros counted, 1300 would be shown at two thirds of full brightness
        assert shown[3].max() < 0.15

    @pytest.mark.parametrize('value', [0.0, 7.0, float('nan')])
    def test_constant(self, value: float) -> None:
        shown = show_image(torch.full((4, 2, 2), value), SPEC)
        assert np.isfinite(shown).all()

    def test_gradient(self) -> None:
        assert show_image(torch.ones(4, 2, 2, requires_grad=True), SPEC).shape[2] == 3


class TestMask:
    def test_colors(self) -> None:
        shown = show_mask(torch.tensor([[0, 1], [255, -1]]), SPEC)
        assert shown.dtype == np.float32
        wanted = [[[1, 0, 0], [0, 0, 1]], [[1, 1, 1], [1, 1, 1]]]
        assert np.array_equal(shown, np.array(wanted))


class TestFigure:
    def test_one_date(self) -> None:
        sample = {'image': torch.rand(4, 6, 6), 'mask': torch.zeros(6, 6).long()}
        figure = plot_sample(sample, SPEC)
        assert titles(figure) == ['Image', 'Mask']
        assert legend(figure) == ['land']

    def test_two_dates_and_prediction(self) -> None:
        sample = {
            'image': torch.rand(2, 4, 6, 6),
            'mask': torch.full((1, 6, 6), 255),
            'prediction': torch.tensor([[[0, 2]]]).repeat(1, 6, 3),
        }
        figure = plot_sample(sample, SPEC, suptitle='Place')
        assert titles(figure) == ['Image 1', 'Image 2', 'Mask', 'Prediction']
        assert figure.get_suptitle() == 'Place'
        assert legend(figure) == ['land', 'ice']
        shown = figure.axes[3].images[0].get_array()
        assert np.array_equal(np.asarray(shown)[0, :2], [[1, 0, 0], [0, 1, 0]])

    def test_without_titles(self) -> None:
        sample = {'image': torch.rand(4, 6, 6), 'mask': torch.full((6, 6), 255)}
        figure = plot_sample(sample, SPEC, show_titles=False)
        assert titles(figure) == ['', '']
        assert legend(figure) == []

    def test_image_alone(self) -> None:
        figure = plot_sample({'image': torch.rand(4, 6, 6)}, SPEC)
        assert titles(figure) == ['Image']
        figure.canvas.draw()
