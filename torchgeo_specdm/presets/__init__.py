# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Settings that belong together: ``paper``, ``small`` and ``tiny``."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PRESETS = ('paper', 'small', 'tiny')

#: Settings whose entries have names of the user's own, so they are replaced as a whole.
_WHOLE = 'cases'

#: Generators by name: their codec, and what replaces the settings of any preset.
#: SatSynth is published without code: pixels that are not folded, label bits and their
#: squared errors are its own; network, schedule and sampler are those of the preset.
#: UnmixDiff has no code either, and no labels. The LDM of the paper has no spectral
#: angle; it leaves open how the mask enters, so both ways are here.
GENERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    'specdm': ('two_stream', {}),
    'specdm without SAD': ('two_stream', {'codec': {'sad_weight': 0.0}}),
    'ldm': ('single_stream', {'codec': {'sad_weight': 0.0, 'mask_input': 'one_hot'}}),
    'ldm, weak mask': (
        'single_stream',
        {'codec': {'sad_weight': 0.0, 'mask_input': 'index'}},
    ),
    'satsynth': (
        'pixels',
        {'codec': {'fold': 1}, 'prior': None, 'process': {'categorical': False}},
    ),
    'unmixdiff': ('abundances', {}),
}

#: The folder of the generator of procedural scenes, which others can begin with.
SCENES = 'scenes'


def load_preset(
    name: str, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read a preset and lay overrides over it.

    Args:
        name: Name of the preset, one of :data:`PRESETS`.
        overrides: Nested settings that replace those of the preset.

    Returns:
        Nested settings.

    Raises:
        ValueError: If a name is unknown, or a value is of another kind.
    """
    if name not in PRESETS:
        raise ValueError(
            f'preset={name!r} must be one of {PRESETS}. tiny is for two cores, small '
            'for one GPU, paper as published.'
        )
    text = (files(__name__) / f'{name}.yaml').read_text(encoding='utf-8')
    preset: dict[str, Any] = yaml.safe_load(text)
    return _merge(preset, overrides or {}, '')


def generator_settings(preset: Mapping[str, Any], codec: str) -> dict[str, Any]:
    """The part of a preset that makes a generator.

    Args:
        preset: Preset from :func:`load_preset`.
        codec: Name of the codec.

    Returns:
        Settings of ``process``, ``denoiser`` and ``sampling``.
    """
    return {
        'process': preset['schedule'] | preset[codec]['process'],
        'denoiser': preset['denoiser'] | preset[codec].get('denoiser', {}),
        'sampling': preset['sampling'] | preset[codec].get('sampling', {}),
    }


def named_generator(
    name: str, settings: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Look up a generator by name.

    Args:
        name: One of :data:`GENERATORS`, or of a codec.
        settings: Settings of the user, which go before those that the name stands for.

    Returns:
        The name of the codec, and overrides for :func:`load_preset`.
    """
    codec, own = GENERATORS.get(name, (name, {}))
    if not own:
        return codec, dict(settings)
    section = {**own, **settings.get(codec, {})}
    section['codec'] = {**own.get('codec', {}), **section.get('codec', {})}
    return codec, {**settings, codec: section}


def prior_folder(name: str) -> Path:
    """The folder of a generator to begin with.

    Args:
        name: ``scenes``, which comes with the package, or a folder.
    """
    return Path(str(files(__name__) / SCENES)) if name == SCENES else Path(name)


def _merge(base: dict[str, Any], over: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Lay settings over others; a misspelt one would be lost in silence."""
    unknown = sorted(set(over) - set(base))
    if unknown:
        raise ValueError(
            f'settings {[path + key for key in unknown]} do not exist; there are '
            f'{sorted(path + key for key in base)}. Correct the name.'
        )
    merged = dict(base)
    for key, value in over.items():
        old = merged[key]
        if isinstance(old, dict) != isinstance(value, Mapping) or (
            isinstance(old, float | int) and isinstance(value, str)
        ):
            raise ValueError(
                f'settings {path}{key}={value!r} must be like {old!r}. YAML reads '
                '1e-4 as a text and 1.0e-4 as a number.'
            )
        # numpy's numbers cannot be written as JSON when the training has ended
        value = value.item() if isinstance(value, np.generic) else value
        nested = isinstance(old, dict) and isinstance(value, Mapping)
        deeper = nested and key != _WHOLE
        merged[key] = _merge(old, value, f'{path}{key}.') if deeper else value
    return merged
