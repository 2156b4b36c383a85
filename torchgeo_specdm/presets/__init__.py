# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Settings that belong together: ``paper``, ``small`` and ``tiny``."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

PRESETS = ('paper', 'small', 'tiny')


def load_preset(
    name: str, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read a preset and lay overrides over it.

    Args:
        name: One of :data:`PRESETS`.
        overrides: Nested settings that replace those of the preset.

    Returns:
        Nested settings.

    Raises:
        ValueError: If the name or an overridden section is unknown.
    """
    if name not in PRESETS:
        raise ValueError(
            f'preset={name!r} must be one of {PRESETS}. tiny is for two cores, small '
            'for one GPU, paper as published.'
        )
    text = (files(__name__) / f'{name}.yaml').read_text(encoding='utf-8')
    preset: dict[str, Any] = yaml.safe_load(text)
    unknown = sorted(set(overrides or {}) - set(preset))
    if unknown:
        raise ValueError(
            f'settings {unknown} are no sections of a preset; there are '
            f'{sorted(preset)}. Correct the name.'
        )
    return _merge(preset, overrides or {})


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value
    return merged
