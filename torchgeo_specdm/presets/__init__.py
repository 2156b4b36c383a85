# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Settings that belong together: ``paper``, ``small`` and ``tiny``."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

PRESETS = ('paper', 'small', 'tiny')


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
        'denoiser': preset['denoiser'],
        'sampling': preset['sampling'],
    }


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
        both = isinstance(old, dict) and isinstance(value, Mapping)
        merged[key] = _merge(old, value, f'{path}{key}.') if both else value
    return merged
