# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Small codecs and batches for them."""

from typing import Any

import torch
from torch import Tensor

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.codecs import Codec, make_codec

BANDS = ('B02', 'B03', 'B04', 'B08')


CLASSES = ('water', 'forest', 'town')


SMALL = {'layers': 1, 'stem': 2, 'groups': 8, 'attention': False}


SINGLE = {'widths': [16, 16], 'latents': 5, **SMALL}


#: Name of the codec and its settings; each works on squares of 4 pixels.
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    'two_stream': (
        'two_stream',
        {
            'image_widths': [16, 16],
            'mask_widths': [16, 16],
            'image_latents': 3,
            'mask_latents': 2,
            **SMALL,
        },
    ),
    'one_hot': ('single_stream', {'mask_input': 'one_hot', **SINGLE}),
    'index': ('single_stream', {'mask_input': 'index', **SINGLE}),
    'pixels': ('pixels', {'fold': 4}),
    'abundances': ('abundances', {'endmembers': 3, 'fold': 4}),
}


LEARNED = ['two_stream', 'one_hot', 'index']


def spec_of(dates: int) -> SampleSpec:
    return SampleSpec(BANDS, CLASSES, dates=dates, ignore_index=255)


def batch_of(dates: int, count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Digital numbers whose level depends on the class, whole ones."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 3, (count, 4, 4), generator=random)
    mask = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    level = torch.tensor([[200, 300, 250, 100], [300, 500, 400, 3000], [1500] * 4])
    image = level[mask].movedim(-1, 1)[:, None].repeat(1, dates, 1, 1, 1).float()
    noise = torch.randint(-30, 30, image.shape, generator=random)
    image = image + noise
    if dates == 1:
        return {'image': image[:, 0], 'mask': mask}
    return {'image': image, 'mask': mask[:, None]}


def make(kind: str, dates: int = 1, fitted: bool = True) -> Codec:
    torch.manual_seed(0)
    name, settings = CODECS[kind]
    codec = make_codec(name, spec_of(dates), settings)
    codec.fit_scaling(batch_of(dates)['image'].flatten(0, -4))
    if fitted:
        codec.fit_statistics([batch_of(dates, seed=seed) for seed in range(3)])
    return codec.eval()
