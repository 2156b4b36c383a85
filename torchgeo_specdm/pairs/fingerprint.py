# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Telling whether two labelled samples are the same, whatever they are called."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_text

#: Fingerprints of the real samples that a generator saw, one a line.
SEEN = 'training_samples.txt'


def fingerprint(sample: Mapping[str, Any], labels: bool = True) -> str | None:
    """Hash the content of a sample.

    Args:
        sample: ``image`` in raw units and ``mask``, of any shape.
        labels: Whether the mask counts; without it, samples of one image are equal.

    Returns:
        16 hexadecimal digits; None for a sample of one value (blank patches are equal
        without being copies), or without image or mask.
    """
    if 'image' not in sample or (labels and 'mask' not in sample):
        return None
    # adding 0 makes -0.0, which equals 0.0, the same bytes
    image: Tensor = (sample['image'].detach().cpu().to(torch.float32) + 0).contiguous()
    if image.numel() == 0 or bool((image == image.flatten()[0]).all()):
        return None
    digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=8)
    if labels:
        mask: Tensor = sample['mask'].detach().cpu().to(torch.int64).contiguous()
        digest.update(mask.numpy().tobytes())
    return digest.hexdigest()


def write_seen_samples(root: str | Path, fingerprints: Iterable[str]) -> None:
    """Write which real samples a generator saw, for the leak check.

    Args:
        root: The generator's folder, or a folder that it wrote.
        fingerprints: Fingerprints of the samples (see :func:`fingerprint`).
    """
    text = ''.join(f'{value}\n' for value in sorted(fingerprints))
    write_text(Path(root) / SEEN, text)


def read_seen_samples(root: str | Path) -> set[str]:
    """Read what :func:`write_seen_samples` wrote; empty if there is no such file."""
    path = Path(root) / SEEN
    return set(path.read_text(encoding='utf-8').split()) if path.exists() else set()
