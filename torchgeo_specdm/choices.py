# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Arguments that are one of a few names."""

from collections.abc import Collection


def require_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Refuse a value that is not among the choices.

    Args:
        name: Name of the argument.
        value: The value that was given.
        choices: All that there are, in the order to name them.

    Raises:
        ValueError: With the value and the choices.
    """
    if value not in choices:
        raise ValueError(f'{name}={value!r} must be one of {list(choices)}.')
