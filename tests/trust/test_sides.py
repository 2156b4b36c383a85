# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.trust.sides import sample_agreement


@pytest.mark.parametrize('dates, share', [(1, 0.75), (2, 0.5)])
def test_pixels_without_a_label_do_not_count(dates: int, share: float) -> None:
    spec = SampleSpec(('red',), ('still', 'changed'), dates, ignore_index=255)
    # of the labelled pixels, all of the first class are right and none of the second
    masks = torch.tensor([[[0, 0, 0, 1, 255, 255]], [[255] * 6]])
    found = sample_agreement(torch.zeros(1, *masks.shape), masks, spec)
    assert float(found[0]) == share and bool(found[1].isnan())
