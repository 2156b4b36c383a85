# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Objects from configurations, as TorchGeo's command line makes them."""

from typing import TYPE_CHECKING, Any, TypeVar

import torchgeo.datamodules  # noqa: F401
from jsonargparse import ArgumentError, ArgumentParser

# short names are those of classes that are imported, as on TorchGeo's command line
from . import compat  # noqa: F401

#: ``class_path``, ``init_args`` and ``dict_kwargs``, or a whole configuration of them.
Config = dict[str, Any]
#: Nested settings of a task, plain values all of them. The type of the values is left
#: out: what is called ``Any`` jsonargparse builds if it names a class, and on TorchGeo's
#: command line a checkpoint brings such arguments along.
if TYPE_CHECKING:
    Settings = dict[str, Any]
else:
    Settings = dict

_Made = TypeVar('_Made')


def make_object(config: Config, kind: type[_Made], **arguments: Any) -> _Made:
    """Build what a configuration describes, as ``torchgeo fit`` would.

    A configuration names code, so it must be one that the user wrote: what is read
    from a folder of results never gets here.

    Args:
        config: ``class_path``, a dotted path or the name of a class of TorchGeo,
            ``init_args`` and, for the arguments behind ``**kwargs``, ``dict_kwargs``.
            Arguments that are objects are configurations too.
        kind: The class that the object must be of; nothing else is called.
        **arguments: Further ``init_args``.

    Returns:
        The object.

    Raises:
        ValueError: If there is no such class, it is of another kind, or it does not
            take the arguments.
    """
    given = {**config, 'init_args': {**config.get('init_args', {}), **arguments}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument('--object', type=kind, required=True)
    try:
        parsed = parser.parse_object({'object': given})
    except ArgumentError as error:
        said = ' '.join(str(error).removeprefix('Parser key "object":').split())
        raise ValueError(
            f'class_path={config.get("class_path")!r} gives no {kind.__name__} ({said})'
            '. Write class_path, init_args and dict_kwargs as torchgeo fit takes them.'
        ) from error
    made: _Made = parser.instantiate(parsed).object
    return made
