# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Scenes of two dates, and a generator that paints into them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rasterio.transform import from_origin

from tests.data.pairs import write_tiff
from torchgeo_specdm import Generator
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.diffusion import JointProcess
from torchgeo_specdm.pairs.spec import SampleSpec

from ..diffusion.oracle import FLAT, flat_denoiser

BANDS = ('B02', 'B03')
SPEC = SampleSpec(
    BANDS, ('no change', 'change'), dates=2, dtype='uint16', ignore_index=255
)
SIZE = 24
PLACE = {'crs': 'EPSG:32632', 'transform': from_origin(6e5, 5e6, 10, 10)}


def write_scenes(
    root: Path, count: int = 3, dates: int = 2, no_label: int = 255
) -> Path:
    """Scenes of noise with a change in a corner of the first one."""
    random = np.random.default_rng(0)
    for i in range(count):
        image = random.integers(500, 3000, (len(BANDS), SIZE, SIZE)).astype(np.uint16)
        mask = np.zeros((1, SIZE, SIZE), np.uint8)
        mask[0, 2:8, 3:7] = i == 0
        mask[0, -1] = no_label
        for date in range(dates):
            stem = f'{i}_{date + 1}' if dates == 2 else str(i)
            # an acquisition of another day, brighter and with a cloud of nodata
            image = image + np.uint16(200 * date)
            image[:, :2, -3:] = 0 if i == 2 else 900
            write_tiff(root / 'images' / f'{stem}.tif', image, BANDS, nodata=0, **PLACE)
        if dates == 2:
            write_tiff(root / 'masks' / f'{i}.tif', mask, **PLACE)
    if no_label != 255:
        spec = replace(SPEC, ignore_index=no_label, no_label=(no_label,), nodata=0)
        (root / 'dataset.json').write_text(json.dumps(spec.to_dict()))
    return root


def write_painter(root: Path) -> Path:
    """A generator of two dates with fixed weights."""
    torch.manual_seed(0)
    codec = make_codec('pixels', SPEC, {'fold': 2})
    mask = torch.randint(0, 2, (8, 1, 16, 16))
    batch = {'image': torch.rand(8, 2, 2, 16, 16) * 3000, 'mask': mask}
    codec.fit_scaling(batch['image'].flatten(0, 1))
    codec.fit_statistics([batch])
    process = {
        'prediction': 'sample',
        'cases': {'joint': 1.0, 'image_2|image_1,mask': 1.0},
    }
    config = {
        'stage': 'diffusion',
        'process': process,
        'denoiser': FLAT,
        'sampling': {'sampler': 'dpm', 'steps': 3},
        'patch_size': [16, 16],
    }
    made = JointProcess(codec.streams, **process)  # type: ignore[arg-type]
    denoiser = flat_denoiser(codec.latent_channels, 3)
    Generator(codec, made, denoiser, config).save(root)
    (root / 'training_samples.txt').write_text('')
    return root
