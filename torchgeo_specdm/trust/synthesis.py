# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The measures of the paper's tables of synthesis, for which no judge is trained."""

from typing import Any

import torch

from ..codecs import Codec, ReconstructionScores
from ..metrics.features import make_extractor
from .datamodule import SETS, TrustDataModule
from .sides import LooksCounter
from .summary import compare_looks, plain


@torch.no_grad()
def measure_synthesis(
    data: TrustDataModule, codec: Codec | None = None, features: str = 'random'
) -> dict[str, Any]:
    """Measure fidelity, spectra and areas of a generated set, and its codec.

    Args:
        data: Both sides, set up.
        codec: Codec of the generator, if any; it is measured on held-out tiles.
        features: Features of images: ``random``, or with a download ``inception`` (red,
            green and blue only) or ``sentinel2``.

    Returns:
        Plain JSON types: ``fidelity``, ``spectra`` and ``area`` as of
        :func:`~torchgeo_specdm.trust.summary.compare_looks`, ``counts`` of tiles, and
        with a codec ``reconstruction``, as of
        :class:`~torchgeo_specdm.codecs.ReconstructionScores`.
    """
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    spec, extractor = data.spec, make_extractor(features, data.spec)
    scores = ReconstructionScores(spec.num_classes).to(device)
    codec = None if codec is None else codec.to(device)
    sides = {}
    for name, loader in zip(SETS, data.test_dataloader(), strict=True):
        side = LooksCounter(spec, extractor, data.mean, data.std).to(device)
        for batch in loader:
            batch = {key: value.to(device) for key, value in batch.items()}
            side.look(batch)
            if name == 'held_out' and codec is not None:
                scores.update(codec, batch)
        sides[name] = side.looks()
    found = compare_looks(sides, spec)
    found['counts'] = {name: len(data.tiles[name]) for name in SETS}
    if codec is not None:
        found['reconstruction'] = scores.compute()
    plained: dict[str, Any] = plain(found)
    return plained
