# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Telling whether two labelled samples are the same, whatever they are called."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..files import write_text

_SEEN = 'training_samples.txt'


def fingerprint(sample: Mapping[str, Any]) -> str | None:
    """Hash the content of a sample.

    Args:
        sample: ``image`` in raw units and ``mask``, of any shape.

    Returns:
        16 hexadecimal digits, or None for a sample of one value (blank patches are
        equal without being copies).
    """
    # adding 0 makes -0.0, which equals 0.0, the same bytes
    image: Tensor = (sample['image'].detach().cpu().to(torch.float32) + 0).contiguous()
    mask: Tensor = sample['mask'].detach().cpu().to(torch.int64).contiguous()
    if image.numel() == 0 or bool((image == image.flatten()[0]).all()):
        return None
    digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=8)
    digest.update(mask.numpy().tobytes())
    return digest.hexdigest()


def fingerprints(dataset: Dataset[Any]) -> list[str]:
    """Hash every sample of a map-style data set.

    A data set that crops at random in ``__getitem__`` gives other hashes each time,
    so copies in it cannot be found in this way.

    Args:
        dataset: Data set of samples with ``image`` and ``mask``.

    Returns:
        The different fingerprints, sorted.
    """
    found = {fingerprint(dataset[i]) for i in range(len(dataset))}  # type: ignore[arg-type]
    return sorted(value for value in found if value is not None)


def write_seen_samples(root: str | Path, fingerprints: list[str]) -> None:
    """Write which real samples a generator saw, for the leak check.

    Args:
        root: The generator's folder, or a folder that it wrote.
        fingerprints: Fingerprints from :func:`fingerprints`.
    """
    text = ''.join(f'{value}\n' for value in sorted(fingerprints))
    write_text(Path(root) / _SEEN, text)


def read_seen_samples(root: str | Path) -> set[str]:
    """Read what :func:`write_seen_samples` wrote; empty if there is no such file."""
    path = Path(root) / _SEEN
    return set(path.read_text(encoding='utf-8').split()) if path.exists() else set()
