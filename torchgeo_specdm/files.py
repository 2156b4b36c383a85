# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Files that are whole or not there, and folders of weights without pickles."""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from jsonargparse import get_loader
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'

#: Numbers of files: what is counted, seeds of 32 bits, and finite ones.
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

#: Settings of networks: a number above this makes one that no machine can hold.
_MOST_SETTING = 8192


def _require_bounded(settings: Any) -> Any:
    """Refuse numbers in nested settings that are not finite or far too large."""
    parts = settings.values() if isinstance(settings, dict) else settings
    if isinstance(settings, dict | list):
        for part in parts:
            _require_bounded(part)
    elif isinstance(settings, int | float) and not abs(settings) <= _MOST_SETTING:
        raise ValueError(
            f'{settings} must be a number from {-_MOST_SETTING} to {_MOST_SETTING}.'
        )
    return settings


Settings = Annotated[dict[str, Any], AfterValidator(_require_bounded)]

#: Of a form that may have further entries: later versions may write more.
OPEN = ConfigDict(extra='allow')

_Form = TypeVar('_Form')
#: Most characters of a wrong value that an error shows.
_SHOWN = 80


@contextmanager
def naming_what_fails(path: Path) -> Iterator[None]:
    """Make an error of writing name the file and the remedy, as few libraries do.

    Args:
        path: The file.

    Raises:
        OSError: Instead of the error of the system or of safetensors.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise OSError(
            f'{path} could not be written ({reason}). Make room there, or choose '
            'another folder, and run the same command again.'
        ) from error


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write under another name, flush to the disk, and rename.

    Args:
        path: The final path; an old file stays until the new one is whole.
        write: Writes the path that it is given.

    Raises:
        OSError: If the file could not be written; the message names it.
    """
    # processes of two hosts that share a disk may have the same number
    part = path.with_name(f'{path.name}.{secrets.token_hex(4)}.part')
    try:
        with naming_what_fails(path):
            write(part)
            with part.open('rb+') as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step, unless it holds just that already.

    Machines that share a folder may find one finished, and do not disturb each other
    when nothing is left to do.
    """
    if path.is_file() and path.read_bytes() == text.encode():
        return
    write_atomically(path, lambda part: part.write_text(text, encoding='utf-8'))


def write_verified(path: Path, data: bytes) -> str:
    """Write bytes in one step, and read them back before they get their name.

    They are hashed once, as they are in memory.

    Args:
        path: The final path.
        data: Content to write.

    Returns:
        The hexadecimal SHA-256 of the file.

    Raises:
        OSError: If the file does not hold what was written.
    """

    def write(part: Path) -> None:
        part.write_bytes(data)
        if part.read_bytes() != data:
            raise OSError('it does not read back as it was written')

    write_atomically(path, write)
    return hashlib.sha256(data).hexdigest()


def read_text(path: Path) -> str:
    """Read a text file that any editor may have written.

    Args:
        path: The file, in UTF-8 with or without a byte order mark.

    Returns:
        Its text, lines ending in a plain newline.

    Raises:
        ValueError: If the file is in another encoding, or no text; the message names
            it.
    """
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is no UTF-8 text ({error}). Save it again as UTF-8.'
        ) from error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def digest_files(files: Mapping[str, Sequence[Path]]) -> str:
    """Hash named files, wherever they lie.

    Args:
        files: Files of each name, in order.

    Returns:
        16 hexadecimal digits of names and contents.
    """
    content = hashlib.sha256()
    for name, paths in files.items():
        content.update('\n'.join([name, *map(sha256, paths), '']).encode())
    return content.hexdigest()[:16]


def read_json(path: Path, form: type[_Form]) -> _Form:
    """Read a JSON file of a declared form.

    Args:
        path: The file.
        form: Type of the content: a ``TypedDict``, a dataclass, or ``dict[str, Any]``.

    Returns:
        The content; further entries of a ``TypedDict`` are left out, unless it is
        :data:`OPEN`.

    Raises:
        ValueError: If the content is of another form; the message names file and
            entry.
    """
    return check_json(read_text(path), form, str(path))


def read_json_lines(
    path: Path, form: type[_Form], torn: bool = False
) -> Iterator[_Form]:
    """Read a file with one JSON value a line, one by one.

    Args:
        path: The file.
        form: Type of each line, as of :func:`read_json`.
        torn: Whether to leave out lines that are no JSON at all: a killed writer may
            leave half a line.

    Yields:
        The content of each line.

    Raises:
        ValueError: If a line is of another form; the message names file, line and
            entry.
    """
    with path.open(encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, 1):
            if not torn or _is_json(line):
                yield check_json(line, form, f'{path}, line {number}')


def check_json(text: str, form: type[_Form], where: str) -> _Form:
    """Check a JSON text against a declared form.

    Args:
        text: The text.
        form: Type of the content, as of :func:`read_json`.
        where: Where the text is from, for the message.

    Returns:
        The content.

    Raises:
        ValueError: If it is of another form.
    """
    kind: Any = form
    try:
        # strict: '3' is no number, but a list is a tuple, which JSON does not know
        checked: _Form = _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ValueError(f'{where} {_describe_fault(dict(fault))} Mend it.') from error
    return checked


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


@cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _describe_fault(fault: Mapping[str, Any]) -> str:
    """One fault that pydantic found, as the end of a sentence."""
    place = '.'.join(map(str, fault['loc'])) or 'the content'
    match fault['type']:
        case 'json_invalid':
            return f'is not valid JSON ({fault["ctx"]["error"]}).'
        case 'missing':
            return f'lacks {place}.'
        case 'unexpected_keyword_argument' | 'extra_forbidden':
            return f'has {place}, which does not exist.'
        case 'value_error':
            where = f' at {place}' if fault['loc'] else ''
            return f'is wrong{where}: {fault["ctx"]["error"]}'
    shown = repr(fault['input'])
    if len(shown) > _SHOWN:
        shown = f'{shown[:_SHOWN]}...'
    rule = re.sub(r'^\w+ should', 'must', fault['msg'])
    return f'has {place}={shown}, but it {rule}.'


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML of keys as ``torchgeo fit`` does, to which 1e-4 is a number.

    Raises:
        ValueError: If the file holds anything else; the message names it.
    """
    try:
        values = get_loader('yaml')(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f'{path} is no YAML: {error}') from error
    if type(values) is not dict:
        raise ValueError(
            f'{path} must hold keys and values, not {type(values).__name__}. Mend it.'
        )
    return values


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as a safetensors file, whole or not at all.

    Args:
        path: The file; its folder is made if needed.
        tensors: Tensors by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}

    def write(part: Path) -> None:
        part.touch()
        mode = part.stat().st_mode
        save_file(state, part)
        # safetensors lets only the owner read what it makes, whatever the umask
        part.chmod(mode)

    write_atomically(path, write)


def save_module(folder: Path, config: Mapping[str, Any], module: nn.Module) -> None:
    """Write a module as ``config.json`` and ``model.safetensors``.

    The configuration comes last, so a folder that has one is whole.

    Args:
        folder: Folder to write to, made if needed; old files are replaced.
        config: Plain JSON types.
        module: The module whose state is written.
    """
    write_tensors(folder / WEIGHTS, module.state_dict())
    write_text(folder / CONFIG, json.dumps(config, indent=2) + '\n')


class _Stage(TypedDict):
    """The fields that the configurations of both stages have."""

    stage: str


def read_config(folder: Path, stage: str, form: type[_Form]) -> _Form:
    """Read the configuration of a stage's folder.

    Args:
        folder: Written by :func:`save_module`.
        stage: ``autoencoder`` or ``diffusion``: what the folder must come from.
        form: Type of the configuration of this stage, as of :func:`read_json`.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the folder comes from the other stage, or the configuration is
            of another form.
    """
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist, but stage {stage!r} must have written it. Finish '
            'that stage first, or correct the path.'
        )
    found = read_json(path, _Stage)['stage']
    if found != stage:
        raise ValueError(
            f'{folder} was written by stage {found!r}, but here the '
            f'folder of stage {stage!r} is needed. Give the folder that this stage '
            'wrote.'
        )
    return read_json(path, form)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Read ``model.safetensors`` of a folder.

    Raises:
        ValueError: If the file is missing or cut short; the message names it.
    """
    path = folder / WEIGHTS
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f'{path} cannot be read ({error}). Copy the folder again or train this '
            'stage again.'
        ) from error
