# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What is measured of a generated set, each number beside its reference."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchgeo.datamodules import NonGeoDataModule

from ..datasets.pairs import PairFolder
from ..datasets.spec import SampleSpec
from ..diffusion import Generator
from ..metrics.alignment import calibrated, judge_agreement
from ..metrics.fidelity import distance_with_floor, image_features, mask_features
from ..metrics.segmentation import SegmentationScores
from ..metrics.spectral import class_spectra, class_spectral_angle, mean_spectral_angle
from ..metrics.tiles import Tiles, cut_tiles

_BATCH = 64


def measure(
    generator: Path, synthetic: Path, datamodule: NonGeoDataModule, judge: nn.Module
) -> dict[str, Any]:
    """Measure codec and generated set against real data.

    Args:
        generator: Folder that stage 2 wrote.
        synthetic: Folder of pairs that it generated.
        datamodule: Real data, after ``setup``, with ``mean`` and ``std``; the judge
            was trained on its training split.
        judge: Takes normalised images and gives class scores.

    Returns:
        ``reconstruction``, ``fidelity``, ``alignment``, ``spectra`` and ``area``,
        plain numbers with their counts.
    """
    codec = Generator.load(generator).codec
    spec = codec.spec
    folder = PairFolder(synthetic)
    size = int(folder[0]['image'].shape[-1])
    fake = cut_tiles(folder, size)
    train = cut_tiles(datamodule.train_dataset, size)
    held_out = cut_tiles(datamodule.test_dataset, size)
    decoded, logits = _decode(codec, held_out)
    mean, std = datamodule.mean, datamodule.std
    judged: dict[str, Any] = {
        name: judge_agreement(
            judge, _normalise(t.images, mean, std), t.masks, len(spec.classes)
        )._asdict()
        for name, t in {
            'real': held_out,
            'reconstructed': held_out._replace(images=decoded.images),
            'synthetic': fake,
            'shuffled': fake._replace(masks=fake.masks.roll(1, 0)),
        }.items()
    }
    chance, real = judged['shuffled']['accuracy'], judged['real']['accuracy']
    judged['calibrated'] = calibrated(judged['synthetic']['accuracy'], chance, real)
    judged['transparency'] = judged['reconstructed']['accuracy'] / real
    judged['count'] = len(fake.images)
    return {
        'reconstruction': _reconstruction(held_out, decoded, logits, spec),
        'fidelity': _fidelity(train, fake, mean, std, spec),
        'alignment': judged,
        'spectra': _spectra(train, held_out, fake, spec),
        'area': _area(train, held_out, fake, spec),
    }


def _decode(codec: Any, tiles: Tiles) -> tuple[Tiles, Tensor]:
    """Tiles through the codec and back, and the class scores."""
    images, masks, scores = [], [], []
    for start in range(0, len(tiles.images), _BATCH):
        window = slice(start, start + _BATCH)
        sample, logits = codec.roundtrip(
            {'image': tiles.images[window], 'mask': tiles.masks[window]}
        )
        images.append(sample['image'])
        masks.append(sample['mask'])
        scores.append(logits)
    decoded = Tiles(torch.cat(images), torch.cat(masks), tiles.groups)
    return decoded, torch.cat(scores)


def _reconstruction(
    real: Tiles, decoded: Tiles, logits: Tensor, spec: SampleSpec
) -> dict[str, float]:
    """RMSE and spectral angle on reflectance, mask scores, on held-out tiles."""
    scores = SegmentationScores(spec.num_classes, ignore_index=-1)
    known = (real.masks >= 0) & (real.masks < spec.num_classes)
    target = real.masks.where(known, -1)
    scores.update(decoded.masks, target)
    found = scores.compute()
    a, b = decoded.images * spec.scale, real.images * spec.scale
    entropy = nn.functional.cross_entropy(logits.float(), target, ignore_index=-1)
    return {
        'rmse': float((a - b).square().mean().sqrt()),
        'sad': float(mean_spectral_angle(a, b)),
        'cross_entropy': float(entropy),
        'mask_accuracy': float(found['accuracy']),
        'mask_miou': float(found['miou']),
        'count': len(real.images),
    }


def _fidelity(
    train: Tiles, fake: Tiles, mean: Tensor, std: Tensor, spec: SampleSpec
) -> dict[str, Any]:
    pairs = {
        'image': [image_features(t.images, mean, std) for t in (train, fake)],
        'mask': [mask_features(t.masks, spec.num_classes) for t in (train, fake)],
    }
    return {
        name: distance_with_floor(real, synthetic, train.groups)._asdict()
        for name, (real, synthetic) in pairs.items()
    }


def _spectra(
    train: Tiles, held_out: Tiles, fake: Tiles, spec: SampleSpec
) -> dict[str, Any]:
    """Angles between class mean spectra: synthetic, and held-out real, to train."""
    sums = [
        class_spectra(t.images * spec.scale, t.masks, spec.num_classes)
        for t in (train, held_out, fake)
    ]
    means = [(s[:, :-1] / s[:, -1:]).tolist() for s in sums]
    angles = class_spectral_angle(sums[0], sums[2])
    return {
        'msad': float(angles.nanmean()),
        'msad_held_out': float(class_spectral_angle(sums[0], sums[1]).nanmean()),
        'per_class': dict(zip(spec.classes, angles.tolist(), strict=True)),
        'means': {'train': means[0], 'held_out': means[1], 'synthetic': means[2]},
    }


def _area(
    train: Tiles, held_out: Tiles, fake: Tiles, spec: SampleSpec
) -> dict[str, Any]:
    """Share of each class, and the total variation from the training set."""
    shares = []
    for tiles in (train, held_out, fake):
        known = (tiles.masks >= 0) & (tiles.masks < spec.num_classes)
        counts = np.bincount(tiles.masks[known].numpy(), minlength=spec.num_classes)
        shares.append(counts / max(counts.sum(), 1))
    return {
        'train': shares[0].tolist(),
        'held_out': shares[1].tolist(),
        'synthetic': shares[2].tolist(),
        'total_variation': float(np.abs(shares[0] - shares[2]).sum() / 2),
        'total_variation_held_out': float(np.abs(shares[0] - shares[1]).sum() / 2),
    }


def _normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
