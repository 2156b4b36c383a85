# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Files that are whole or not there, and folders of weights without pickles."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'


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
    # hosts that share a disk may have processes of one number
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

    Args:
        path: The final path.
        data: Content to write.

    Returns:
        The hexadecimal SHA-256 of the file.

    Raises:
        OSError: If the file does not hold what was written.
    """
    digest = hashlib.sha256(data).hexdigest()

    def write(part: Path) -> None:
        part.write_bytes(data)
        if sha256(part) != digest:
            raise OSError('it does not read back as it was written')

    write_atomically(path, write)
    return digest


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If the file holds anything else; the message names it.
    """
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is not valid JSON ({error}). Mend it.') from error
    if type(values) is not dict:
        raise ValueError(
            f'{path} holds a JSON {type(values).__name__}, but must hold one object '
            '{...}. Mend it.'
        )
    return values


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


def save_module(folder: Path, config: Mapping[str, Any], module: nn.Module) -> None:
    """Write a module as ``config.json`` and ``model.safetensors``.

    The configuration comes last, so a folder that has one is whole.

    Args:
        folder: Folder to write to, made if needed; old files are replaced.
        config: Plain JSON types.
        module: The module whose state is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    write_atomically(folder / WEIGHTS, lambda part: save_file(state, part))
    write_text(folder / CONFIG, json.dumps(config, indent=2) + '\n')


def read_config(folder: Path, stage: str) -> dict[str, Any]:
    """Read the configuration of a stage's folder.

    Args:
        folder: Written by :func:`save_module`.
        stage: ``autoencoder`` or ``diffusion``: what the folder must come from.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the folder comes from the other stage.
    """
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(
            f'{path} does not exist, but stage {stage!r} must have written it. Finish '
            'that stage first, or correct the path.'
        )
    config = read_json(path)
    if config.get('stage') != stage:
        raise ValueError(
            f'{folder} was written by stage {config.get("stage")!r}, but here the '
            f'folder of stage {stage!r} is needed. Give the folder that this stage '
            'wrote.'
        )
    return config


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
