# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Images of four bands, made without random numbers."""

import pytest
import torch
from torch import Tensor, nn


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def waves(*shape: int) -> Tensor:
    steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float32)
    return (torch.sin(steps * 0.37) + torch.cos(steps * 0.0011)).view(shape)


@pytest.fixture
def image() -> Tensor:
    """Two images of 64 x 64."""
    return waves(2, 4, 64, 64)


@pytest.fixture
def pair() -> Tensor:
    """Two pairs of 64 x 64."""
    return waves(2, 2, 4, 64, 64)
