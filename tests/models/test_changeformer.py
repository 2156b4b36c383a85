# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from copy import deepcopy
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from torchgeo_specdm.models import ChangeFormer
from torchgeo_specdm.models.changeformer import _Encoder, _load_mit

from .conftest import count


@pytest.fixture(scope='module')
def model() -> ChangeFormer:
    torch.manual_seed(0)
    return ChangeFormer(in_channels=4, num_classes=3).eval()


@pytest.fixture(scope='module')
def mit() -> nn.Module:
    """MiT-B2 at random, with every parameter away from 0 and 1."""
    torch.manual_seed(0)
    encoder: nn.Module = smp.encoders.get_encoder('mit_b2', weights=None).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return encoder


class TestEncoder:
    def test_with_five_heads_it_is_mit_b2(self, mit: nn.Module) -> None:
        encoder = _Encoder(3, heads=(1, 2, 5, 8)).eval()
        _load_mit(encoder, mit.state_dict())
        image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
        with torch.no_grad():
            # in double, as the epsilon of a norm shows in the seventh digit
            found = encoder.double()(image)
            expected = deepcopy(mit).double()(image)[2:]
        assert [f.shape[1:] for f in found] == [
            (64, 16, 24),
            (128, 8, 12),
            (320, 4, 6),
            (512, 2, 3),
        ]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)

    def test_with_four_heads_it_differs_from_the_third_stage_on(
        self, mit: nn.Module
    ) -> None:
        encoder = _Encoder(3).eval()
        _load_mit(encoder, mit.state_dict())
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            pairs = zip(encoder(image), mit(image)[2:], strict=True)
        same = [torch.allclose(ours, theirs, atol=1e-3) for ours, theirs in pairs]
        assert same == [True, True, False, False]

    def test_skips_blocks_more_often_the_deeper_they_are(self) -> None:
        with torch.device('meta'):
            encoder = _Encoder(3)
        rates = [
            module.drop_prob
            for name, module in encoder.named_modules()
            if name.endswith('drop_path')
        ]
        assert rates == pytest.approx([i / 150 for i in range(16)])


class TestChangeFormer:
    @pytest.mark.parametrize('bands, total', [(3, 24_296_992), (10, 24_318_944)])
    def test_counts_of_the_released_network(self, bands: int, total: int) -> None:
        with torch.device('meta'):
            model = ChangeFormer(bands)
        assert count(model) == total
        assert count(model.encoder) == total - 100_704

    def test_width(self) -> None:
        with torch.device('meta'):
            model = ChangeFormer(width=32)
        assert count(model) - count(model.encoder) == 32_896 + 4_128 + 9_248

    def test_order_of_the_dates_does_not_matter(
        self, model: ChangeFormer, pair: Tensor
    ) -> None:
        with torch.no_grad():
            logits, swapped = model(pair), model(pair.flip(1))
        torch.testing.assert_close(logits, swapped, rtol=1e-4, atol=1e-6)
        assert logits.std() > 1e-4

    def test_equal_dates_have_one_answer_everywhere(
        self, model: ChangeFormer, pair: Tensor
    ) -> None:
        with torch.no_grad():
            logits = model(pair[:, :1].expand(-1, 2, -1, -1, -1))
        # differences of 0 leave the biases, which start at 0
        torch.testing.assert_close(logits, torch.zeros_like(logits), rtol=0, atol=1e-6)

    def test_relu_logits_are_those_above_zero(self, pair: Tensor) -> None:
        torch.manual_seed(0)
        model = ChangeFormer(4, 3).eval()
        with torch.no_grad():
            logits = model(pair)
            model.relu_logits = True
            cut = model(pair)
        assert logits.min() < 0 < logits.max()
        assert torch.equal(cut, logits.clamp(min=0))

    def test_relu_logits_by_argument(self, pair: Tensor) -> None:
        assert ChangeFormer(4, relu_logits=True).eval()(pair).min() == 0

    def test_what_learns(self, pair: Tensor) -> None:
        torch.manual_seed(0)
        model = ChangeFormer(4).double().eval()
        model(pair.double()).square().sum().backward()
        largest = {
            name: 0.0 if p.grad is None else float(p.grad.abs().max())
            for name, p in model.named_parameters()
        }
        # what both dates get added alike is gone in their difference
        alike = {f'projections.{i}.bias' for i in range(4)}
        alike.add('encoder.stages.3.norm.bias')
        floor = 1e-9 * max(largest.values())
        assert {name for name, value in largest.items() if value < floor} == alike

    def test_weights_are_those_of_mit_b2_for_these_bands(
        self, mit: nn.Module, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def fetch(name: str, in_channels: int, weights: str) -> Any:
            asked.append((name, in_channels, weights))
            encoder = smp.encoders.mix_transformer.MixVisionTransformerEncoder(
                **smp.encoders.encoders[name]['params']
            )
            encoder.load_state_dict(mit.state_dict())
            # what get_encoder does when it has weights
            encoder.set_in_channels(in_channels, pretrained=True)
            return encoder

        monkeypatch.setattr(smp.encoders, 'get_encoder', fetch)
        ChangeFormer(10)
        assert asked == []
        model = ChangeFormer(10, weights=True)
        assert asked == [('mit_b2', 10, 'imagenet')]
        first = model.encoder.get_parameter('stages.0.embed.weight')
        rgb = mit.get_parameter('patch_embed1.proj.weight')
        assert torch.equal(first[:, 7], rgb[:, 1] * 0.3)
        last = model.encoder.get_parameter('stages.3.blocks.2.mlp.contract.weight')
        assert torch.equal(last, mit.get_parameter('block4.2.mlp.fc2.weight'))
