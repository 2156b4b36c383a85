# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from torchgeo_specdm.models import SiamCRNN
from torchgeo_specdm.models.siamcrnn import ResNet


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope='module')
def image() -> Tensor:
    """Two pairs of 64 x 64 with four bands, made without random numbers."""
    steps = torch.arange(2 * 2 * 4 * 64 * 64, dtype=torch.float32)
    return (torch.sin(steps * 0.37) + torch.cos(steps * 0.0011)).view(2, 2, 4, 64, 64)


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

    def test_order_of_the_dates_matters(self, model: SiamCRNN, image: Tensor) -> None:
        with torch.no_grad():
            logits, swapped = model(image), model(image.flip(1))
        assert (logits - swapped).abs().mean() > 0.05 * logits.std()

    @pytest.mark.parametrize('height, width', [(37, 45), (5, 7), (64, 63)])
    def test_any_size(
        self, model: SiamCRNN, image: Tensor, height: int, width: int
    ) -> None:
        image = image[..., :height, :width]
        rows = torch.arange(-(-height // 32) * 32).clamp(max=height - 1)
        columns = torch.arange(-(-width // 32) * 32).clamp(max=width - 1)
        with torch.no_grad():
            logits, padded = model(image), model(image[..., rows[:, None], columns])
        assert logits.shape == (2, 3, height, width)
        assert torch.equal(logits, padded[..., :height, :width])

    @pytest.mark.parametrize('backbone', ['resnet18', 'resnet50'])
    def test_all_parameters_learn(self, image: Tensor, backbone: ResNet) -> None:
        torch.manual_seed(0)
        # statistics of the batch would hide the biases before them
        model = SiamCRNN(backbone, 4).eval()
        model(image).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())

    def test_trains_on_one_small_pair(self, image: Tensor) -> None:
        model = SiamCRNN(in_channels=4).train()
        loss = model(image[:1, ..., :32, :32]).square().mean()
        loss.backward()
        gradient = model.encoder.get_parameter('conv1.weight').grad
        assert loss.isfinite()
        assert gradient is not None and gradient.isfinite().all() and gradient.any()

    def test_statistics_are_over_both_dates(self) -> None:
        model = SiamCRNN(in_channels=1).train()
        stem = model.encoder.get_submodule('bn1')
        image = torch.randn(1, 2, 1, 32, 32)
        seen = model.encoder.get_submodule('conv1')(image[0]).mean(dim=(0, 2, 3))
        model(image)
        torch.testing.assert_close(stem.get_buffer('running_mean'), 0.1 * seen)

    def test_works_in_half_precision(self, image: Tensor) -> None:
        model = SiamCRNN(in_channels=4).eval().bfloat16()
        with torch.no_grad():
            logits = model(image[:1, ..., :32, :32].bfloat16())
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()

    def test_weights_are_fetched_only_when_asked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create = timm.create_model
        asked = []

        def fetch(name: str, pretrained: bool, **settings: Any) -> Any:
            asked.append((name, pretrained, settings['in_chans']))
            return create(name, pretrained=False, **settings)

        monkeypatch.setattr(timm, 'create_model', fetch)
        with torch.device('meta'):
            SiamCRNN('resnet34', 10)
            SiamCRNN('resnet34', 10, weights=True)
        assert asked == [('resnet34', False, 10), ('resnet34', True, 10)]

    @pytest.mark.parametrize(
        'shape', [(1, 4, 32, 32), (1, 3, 4, 32, 32), (1, 2, 3, 32, 32)]
    )
    def test_refuses_other_shapes(
        self, model: SiamCRNN, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match=r'must be \(B, 2, 4, H, W\)'):
            model(torch.zeros(shape))

    def test_refuses_unknown_backbone(self) -> None:
        with pytest.raises(ValueError, match=r"'resnet152'.*'resnet101'"):
            SiamCRNN('resnet152')  # type: ignore[arg-type]
