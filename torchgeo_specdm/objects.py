# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Objects from configurations, as the YAMLs of Lightning's command line name them."""

from importlib import import_module
from typing import Any

#: ``class_path`` and ``init_args``, or a whole configuration of them.
Config = dict[str, Any]


def make_object(config: Config, **arguments: Any) -> Any:
    """Build what a configuration describes.

    Args:
        config: ``class_path``, a dotted path, and ``init_args``, which may hold
            further ones.
        **arguments: Further arguments.

    Returns:
        The object.

    Raises:
        ValueError: If there is no such class.
    """
    path = str(config.get('class_path'))
    module, _, name = path.rpartition('.')
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f'class_path={path!r} names no class ({error}). Give its module and name, '
            'such as torchgeo_specdm.PairFolderDataModule.'
        ) from error
    given = {
        key: make_object(value) if _describes_object(value) else value
        for key, value in config.get('init_args', {}).items()
    }
    return made(**given, **arguments)


def _describes_object(value: Any) -> bool:
    return isinstance(value, dict) and 'class_path' in value
