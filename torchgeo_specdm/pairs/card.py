# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The data card of a generated folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json
from .layout import DESCRIPTION
from .manifest import manifest_lines
from .spec import SampleSpec
from .units import quantity

_CARD = """# Synthetic labelled image patches

**{warning}**

| | |
|---|---|
| samples | {accepted} accepted, {rejected} rejected |
| bands | {bands} |
| classes | {classes} |
{unit}
| drawn as | {mode} |
| seed | {seed} |
| generator | {codec} codec, weights {generator} |
| trained on | {trained_on}, {updates} updates, preset {preset} |
| clipped to the range of training and {dtype} | {clipped:.2%} of the values |

`images/<id>.tif` and `masks/<id>.tif` are GeoTIFFs with band names, scale and class
colours (a GeoTIFF has none for negative codes), and open in QGIS as they are. They have
the georeference of the mask or image that they were drawn for, if it has one, and no
other. `manifest.jsonl` holds number,
seed and SHA-256 of each sample, `training_samples.txt` fingerprints of the real samples
that the generator saw.

## Before you train on it

The samples carry what the generator made of its training samples: their places,
seasons and label errors. Do not score models on them, and keep the real samples that
the generator saw out of validation and test (`SyntheticAugmentedDataModule` checks
this). Whether they help on your data is a question to measure, not to assume. The
licence and the terms of the real data extend to what was learned from them.
"""

_DRAWN = 'Every sample here was drawn by a generative model. None shows a real place.'
_WARNINGS = {
    'images': 'The images are real, and their masks were drawn by a generative model: '
    'the class of most masks, with the share that agrees in confidence/.',
    'change': 'First dates are real. Second dates are real outside of the masks, to '
    'the bit, and what they show inside was painted by a generative model.',
}
_MODES = {
    'joint': 'image and mask together',
    'masks': 'images for the masks of {source}',
    'images': 'masks for the images of {source}, {draws} for each',
    'shares': 'a mask chosen of {draws} for the shares {class_share}, and an image for it',
    'change': 'change painted into the scenes of {source} (strength {strength})',
    'vary': 'variations (strength {strength}) of the pairs of {source}',
}


def training_data(training: Mapping[str, Any]) -> str:
    """Say what a generator was trained on.

    Args:
        training: Record of the training in the configuration of a generator.

    Returns:
        A phrase, with the number of images without labels and the protocol if there
        were any.
    """
    samples, source = (training.get(n, 'unknown') for n in ('samples', 'datamodule'))
    text = f'{samples} samples of {source}'
    if 'unlabelled' in training:
        text += f' and {training["unlabelled"]} images without labels'
    if 'protocol' in training:
        text += f' ({training["protocol"]})'
    return text


def unit_row(spec: SampleSpec) -> str:
    """Say in a row of a table how digital numbers are meant.

    Args:
        spec: Description of the images.

    Returns:
        Markdown.
    """
    said = f'x {_once(spec.scale)}'
    if np.any(spec.offset):
        said = f'{said} + {_once(spec.offset)}'.replace('+ -', '- ')
    return f'| {quantity(spec)} | digital number {said} ({spec.dtype}) |'


def _once(values: float | tuple[float, ...]) -> str:
    """A number for all bands, or one for each."""
    numbers = dict.fromkeys(np.ravel(values).tolist())
    if len(numbers) == 1:
        return f'{next(iter(numbers)):g}'
    return 'one number for each band'


def data_card(folder: Path, config: Mapping[str, Any]) -> str:
    """Describe a generated folder in Markdown.

    Args:
        folder: Folder with description and manifest.
        config: Configuration of the generator.

    Returns:
        The text for ``README.md``.
    """
    description = read_json(folder / DESCRIPTION, dict[str, Any])
    provenance = description['provenance']
    settings = provenance['settings']
    accepted, rejected, clipped = 0, 0, 0.0
    for row in manifest_lines(folder):
        if row.get('accepted', True):
            accepted += 1
            clipped += row.get('clipped', 0.0)
        else:
            rejected += 1
    training = config.get('training', {})
    return _CARD.format(
        accepted=accepted,
        rejected=rejected,
        bands=', '.join(description['bands']),
        classes=', '.join(description['classes']),
        unit=unit_row(SampleSpec.from_dict(description)),
        dtype=description['dtype'],
        warning=_WARNINGS.get(settings['mode'], _DRAWN),
        mode=_MODES[settings['mode']].format_map(provenance | settings),
        seed=settings['seed'],
        codec=provenance['codec'],
        generator=settings['generator'],
        trained_on=training_data(training),
        updates=training.get('updates', 'unknown'),
        preset=training.get('preset', 'unknown'),
        clipped=clipped / max(accepted, 1),
    )
