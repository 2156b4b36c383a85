# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from functools import partial

import pytest
import torch
from torch import Tensor

from torchgeo_specdm.models import BandMapper, segformer
from torchgeo_specdm.models.segformer import band_mapper

from .conftest import count

#: Logits of two pixels, from torch 2.15 and segmentation_models_pytorch 0.6.
STORED = [-0.52538, 1.86424, 0.96634, -1.83404, 0.27978, 0.66726]


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Networks without values; the encoder reads its drop rates, so these stay."""
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))
    return torch.device('meta')


class TestBandMapper:
    def test_has_33_parameters_for_ten_bands(self) -> None:
        assert count(BandMapper(10, rgb=(2, 1, 0))) == 33

    def test_rgb_starts_as_a_copy_of_three_bands(self, image: Tensor) -> None:
        mapper = BandMapper(4, rgb=(2, 1, 0))
        assert torch.equal(mapper(image), image[:, [2, 1, 0]])

    def test_one_band_may_be_shown_three_times(self) -> None:
        image = torch.rand(1, 1, 8, 8)
        mapped = BandMapper(1, rgb=(0, 0, 0))(image)
        assert torch.equal(mapped, image.expand(1, 3, 8, 8))

    def test_kaiming_starts_at_random(self) -> None:
        weight = BandMapper(4, init='kaiming').weight
        assert weight.shape == (3, 4, 1, 1)
        assert weight.unique().numel() == 12

    def test_all_parameters_learn(self, image: Tensor) -> None:
        mapper = BandMapper(4, rgb=(2, 1, 0))
        mapper(image).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in mapper.parameters())

    @pytest.mark.parametrize('rgb', [None, (0, 1), (0, 1, 4), (-1, 0, 1)])
    def test_refuses_other_channels(self, rgb: tuple[int, int, int] | None) -> None:
        with pytest.raises(ValueError, match=r'three channels out of 0\.\.3'):
            BandMapper(4, rgb=rgb)

    def test_refuses_unknown_init(self) -> None:
        with pytest.raises(ValueError, match=r"'xavier'.*\['rgb', 'kaiming'\]"):
            BandMapper(4, init='xavier')  # type: ignore[arg-type]


class TestSegFormer:
    @pytest.mark.parametrize(
        'backbone, encoder, total',
        [
            ('mit_b0', 3_319_392, 3_717_485),
            ('mit_b1', 13_151_424, 13_680_589),
            ('mit_b2', 24_196_288, 27_356_621),
            ('mit_b3', 44_072_128, 47_232_461),
            ('mit_b4', 60_842_688, 64_003_021),
            ('mit_b5', 81_443_008, 84_603_341),
        ],
    )
    def test_counts_of_the_paper(
        self, backbone: str, encoder: int, total: int, no_memory: torch.device
    ) -> None:
        with no_memory:
            model = segformer(backbone, in_channels=3, num_classes=13)
        assert count(model.network.get_submodule('encoder')) == encoder
        assert count(model) == total

    @pytest.mark.parametrize(
        'width, total', [(256, 24_725_453), (None, 27_356_621), (768, 27_356_621)]
    )
    def test_head_width(
        self, width: int | None, total: int, no_memory: torch.device
    ) -> None:
        with no_memory:
            model = segformer('mit_b2', num_classes=13, head_width=width)
        assert count(model) == total

    def test_counts_of_the_stems(self, no_memory: torch.device) -> None:
        with no_memory:
            widened = segformer(in_channels=10, num_classes=13, stem='widen')
        mapped = segformer(in_channels=10, num_classes=13, stem='map', rgb=(2, 1, 0))
        assert count(widened) == 3_717_485 + 7 * 7 * 7 * 32
        assert count(mapped) == 3_717_485 + 33

    def test_stored_logits(self, image: Tensor) -> None:
        torch.manual_seed(0)
        logits = segformer(in_channels=4, num_classes=3).eval()(image)
        assert logits.shape == (2, 3, 64, 64)
        assert logits.dtype == torch.float32
        found = logits[0, :, 0, 0].tolist() + logits[1, :, 31, 47].tolist()
        assert found == pytest.approx(STORED, abs=1e-4)

    def test_multiples_of_32_are_not_touched(self, image: Tensor) -> None:
        model = segformer(in_channels=4).eval()
        assert torch.equal(model(image), model.network(image))

    def test_gradient_reaches_the_mapper(self, image: Tensor) -> None:
        model = segformer(in_channels=4, stem='map', rgb=(2, 1, 0))
        model(image).square().sum().backward()
        assert model.mapper is not None
        gradient = model.mapper.weight.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any()

    def test_mapper_without_rgb_starts_at_random(self) -> None:
        mapper = band_mapper('map', 4)
        assert mapper is not None
        assert mapper.weight.unique().numel() == 12

    def test_refuses_unknown_backbone(self) -> None:
        with pytest.raises(ValueError, match=r"'mit_b6'.*'mit_b5'"):
            segformer('mit_b6')

    def test_refuses_unknown_stem(self) -> None:
        with pytest.raises(ValueError, match=r"'fold'.*\['widen', 'map'\]"):
            segformer(stem='fold')  # type: ignore[arg-type]
