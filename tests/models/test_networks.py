# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Promises that every network keeps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn

from torchgeo_specdm.models import ChangeFormer, PFSegNet, SiamCRNN, segformer

from .conftest import waves


class Case(NamedTuple):
    make: Callable[..., nn.Module]
    dates: tuple[int, ...] = ()
    #: Samples that it trains on at least.
    least: int = 1


CASES = {
    'segformer': Case(segformer),
    'pfsegnet': Case(partial(PFSegNet, 'resnet18'), least=2),
    'changeformer': Case(ChangeFormer, (2,)),
    'siamcrnn': Case(SiamCRNN, (2,)),
}


@pytest.fixture(scope='module', params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope='module')
def network(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.make(in_channels=4, num_classes=3).eval()


def images(case: Case, size: int, number: int = 2) -> Tensor:
    return waves(number, *case.dates, 4, size, size)


@pytest.mark.parametrize('height, width', [(37, 45), (5, 7), (64, 63), (1, 1)])
def test_any_size(case: Case, network: nn.Module, height: int, width: int) -> None:
    image = images(case, 64)[..., :height, :width]
    # the last row and column fill up to a multiple of 32
    rows = torch.arange(-(-height // 32) * 32).clamp(max=height - 1)
    columns = torch.arange(-(-width // 32) * 32).clamp(max=width - 1)
    with torch.no_grad():
        logits, padded = network(image), network(image[..., rows[:, None], columns])
    assert logits.shape == (2, 3, height, width)
    assert torch.equal(logits, padded[..., :height, :width])


def test_trains_on_few_small_samples(case: Case) -> None:
    network = case.make(in_channels=4).train()
    loss = network(images(case, 32, case.least)).square().mean()
    loss.backward()
    first = next(p for p in network.parameters() if p.ndim == 4)
    assert loss.isfinite()
    assert first.grad is not None and first.grad.isfinite().all() and first.grad.any()


def test_works_in_half_precision(case: Case) -> None:
    network = case.make(in_channels=4).eval().bfloat16()
    with torch.no_grad():
        logits = network(images(case, 32, 1).bfloat16())
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_refuses_other_shapes(case: Case, network: nn.Module) -> None:
    shapes = [(4, 32, 32), (1, 3, 32, 32), (1, 2, 4, 32, 32)]
    message = r'must be \(B, 4, H, W\)'
    if case.dates:
        shapes = [(1, 4, 32, 32), (1, 3, 4, 32, 32), (1, 2, 3, 32, 32)]
        message = r'must be \(B, 2, 4, H, W\).*Stack the dates'
    for shape in shapes:
        with pytest.raises(ValueError, match=message):
            network(torch.zeros(shape))


@pytest.mark.parametrize(
    'make, bands',
    [
        (partial(SiamCRNN, 'resnet18', 10), 10),
        (partial(PFSegNet, 'resnet18', 10), 10),
        (partial(PFSegNet, 'resnet18', 10, stem='map'), 3),
    ],
)
def test_weights_are_fetched_only_when_asked(
    make: Callable[..., nn.Module], bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model
    asked = []

    def fetch(name: str, pretrained: bool, **settings: Any) -> Any:
        asked.append((name, pretrained, settings['in_chans']))
        return create(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, 'create_model', fetch)
    with torch.device('meta'):
        make()
        make(weights=True)
    assert asked == [('resnet18', False, bands), ('resnet18', True, bands)]
