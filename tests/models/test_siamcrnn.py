# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from torch import Tensor

from torchgeo_specdm.models import SiamCRNN
from torchgeo_specdm.models.siamcrnn import ResNet

from .conftest import count


@pytest.fixture(scope='module')
def model() -> SiamCRNN:
    torch.manual_seed(0)
    return SiamCRNN(in_channels=4, num_classes=3).eval()


class TestSiamCRNN:
    @pytest.mark.parametrize(
        'backbone, bands, millions',
        [
            ('resnet18', 10, 18.427),
            ('resnet18', 13, 18.437),
            ('resnet34', 3, 28.513),
            ('resnet34', 10, 28.535),
            ('resnet34', 13, 28.545),
            ('resnet50', 10, 44.030),
            ('resnet50', 13, 44.039),
            ('resnet101', 10, 63.022),
            ('resnet101', 13, 63.031),
        ],
    )
    def test_counts_of_the_released_network(
        self, backbone: ResNet, bands: int, millions: float
    ) -> None:
        with torch.device('meta'):
            model = SiamCRNN(backbone, bands)
        assert round(count(model) / 1e6, 3) == millions

    def test_counts_of_the_parts(self) -> None:
        with torch.device('meta'):
            basic, bottleneck = SiamCRNN(), SiamCRNN('resnet101', 10)
        assert count(basic.cells) == 6_785_024
        assert count(basic.head) == 258
        assert count(bottleneck.encoder) == 42_522_112
        assert count(bottleneck.cells) == 20_056_064

    @pytest.mark.parametrize(
        'backbone, widths',
        [('resnet18', (64, 128, 256, 512)), ('resnet50', (256, 512, 1024, 2048))],
    )
    def test_scales_of_the_encoder(
        self, backbone: ResNet, widths: tuple[int, ...]
    ) -> None:
        with torch.device('meta'):
            encoder = SiamCRNN(backbone).encoder
            shapes = [f.shape[1:] for f in encoder(torch.zeros(1, 3, 64, 96))]
        sizes = [(16, 24), (8, 12), (4, 6), (4, 6)]
        assert shapes == [(w, *size) for w, size in zip(widths, sizes, strict=True)]

    def test_order_of_the_dates_matters(self, model: SiamCRNN, pair: Tensor) -> None:
        with torch.no_grad():
            logits, swapped = model(pair), model(pair.flip(1))
        assert (logits - swapped).abs().mean() > 0.05 * logits.std()

    @pytest.mark.parametrize('backbone', ['resnet18', 'resnet50'])
    def test_all_parameters_learn(self, pair: Tensor, backbone: ResNet) -> None:
        torch.manual_seed(0)
        # statistics of the batch would hide the biases before them
        model = SiamCRNN(backbone, 4).eval()
        model(pair).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())

    def test_statistics_are_over_both_dates(self) -> None:
        model = SiamCRNN(in_channels=1).train()
        stem = model.encoder.get_submodule('bn1')
        image = torch.randn(1, 2, 1, 32, 32)
        seen = model.encoder.get_submodule('conv1')(image[0]).mean(dim=(0, 2, 3))
        model(image)
        torch.testing.assert_close(stem.get_buffer('running_mean'), 0.1 * seen)

    def test_refuses_unknown_backbone(self) -> None:
        with pytest.raises(ValueError, match=r"'resnet152'.*'resnet101'"):
            SiamCRNN('resnet152')  # type: ignore[arg-type]
