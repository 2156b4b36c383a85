# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from torch import Tensor

from torchgeo_specdm.scenes.land import make_scene


@pytest.fixture(scope='session')
def scenes() -> Tensor:
    """Demo scenes, each of another place: digital numbers (120, 10, 32, 32)."""
    images = [make_scene(0, index, 32)[0].astype(np.float32) for index in range(120)]
    return torch.from_numpy(np.stack(images))
