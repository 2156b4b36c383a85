# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What is measured of a generated set, each number beside its reference."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchgeo.datamodules import NonGeoDataModule

from ..codecs import Codec
from ..datasets.pairs import PairFolder
from ..datasets.spec import SampleSpec
from ..diffusion import Generator
from ..metrics.alignment import calibrated, judge_agreement
from ..metrics.change import change_evidence
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
        ``reconstruction``, ``fidelity``, ``alignment``, ``spectra`` and ``area``, and
        ``change`` with several dates: plain JSON numbers with their counts; None for
        what cannot be measured, such as the spectrum of a class that was not
        generated. Alignment is calibrated by ``accuracy``, with several dates by
        ``change_f1``, since most pixels do not change.
    """
    codec = Generator.load(generator).codec
    spec = codec.spec
    folder = PairFolder(synthetic)
    size = min(folder[0]['mask'].shape[-2:])
    fake = cut_tiles(folder, size)
    train = cut_tiles(datamodule.train_dataset, size)
    held_out = cut_tiles(datamodule.test_dataset, size)
    decoded, logits = _decode(codec, held_out)
    mean, std = datamodule.mean, datamodule.std
    sides = {
        'real': held_out,
        'reconstructed': held_out._replace(images=decoded.images),
        'synthetic': fake,
        'shuffled': fake._replace(masks=fake.masks.roll(1, 0)),
    }
    found = {
        'reconstruction': _reconstruction(held_out, decoded, logits, spec),
        'fidelity': _fidelity(train, fake, mean, std, spec),
        'alignment': _alignment(judge, sides, mean, std, spec),
        'spectra': _spectra(train, held_out, fake, spec),
        'area': _area(train, held_out, fake, spec),
    }
    if spec.dates > 1:
        dated = {'train': train, 'held_out': held_out, 'synthetic': fake}
        found['change'] = {
            name: change_evidence(t.images, t.masks, spec.scale)._asdict()
            for name, t in (dated | {'reconstructed': decoded}).items()
        }
    plain: dict[str, Any] = _without_nan(found)
    return plain


def mask_fidelity(codec: Codec, tiles: Tiles) -> float:
    """How much of the masks a codec gives back, in 0..1.

    Args:
        codec: The codec.
        tiles: Of a size that suits it.

    Returns:
        Share of right pixels among labelled ones; with several dates F1 of change,
        since a blank mask has most pixels right there. NaN if nothing can be scored.
    """
    decoded, _ = _decode(codec, tiles)
    scores = _mask_scores(tiles, decoded, codec.spec)
    several = codec.spec.dates > 1
    return float(scores['class_f1'][1] if several else scores['accuracy'])


def _decode(codec: Codec, tiles: Tiles) -> tuple[Tiles, Tensor]:
    """Tiles through the codec and back, and the class scores."""
    images, masks, scores = [], [], []
    for start in range(0, len(tiles.images), _BATCH):
        window = slice(start, start + _BATCH)
        sample, logits = codec.roundtrip(
            {'image': tiles.images[window], 'mask': tiles.masks[window]}
        )
        images.append(sample['image'])
        masks.append(sample['mask'].reshape(-1, *sample['mask'].shape[-2:]))
        scores.append(logits)
    decoded = Tiles(torch.cat(images), torch.cat(masks), tiles.groups)
    return decoded, torch.cat(scores)


def _reconstruction(
    real: Tiles, decoded: Tiles, logits: Tensor, spec: SampleSpec
) -> dict[str, float]:
    """RMSE and spectral angle on reflectance, mask scores, on held-out tiles."""
    found = _mask_scores(real, decoded, spec)
    # every number differs from NaN, so without nodata all pixels are seen
    nodata = math.nan if spec.nodata is None else spec.nodata
    seen = (real.images != nodata).any(-3)
    # reflectance (P, C)
    a, b = (t.images.movedim(-3, -1)[seen] * spec.scale for t in (decoded, real))
    target = _labels(real, spec)
    entropy = nn.functional.cross_entropy(logits.float(), target, ignore_index=-1)
    return {
        'rmse': float((a - b).square().mean().sqrt()),
        'sad': float(mean_spectral_angle(a, b)),
        'cross_entropy': float(entropy),
        'mask_accuracy': float(found['accuracy']),
        'mask_miou': float(found['miou']),
        'count': len(real.images),
    }


def _mask_scores(real: Tiles, decoded: Tiles, spec: SampleSpec) -> dict[str, Tensor]:
    """How decoded masks agree with the real ones."""
    scores = SegmentationScores(spec.num_classes, ignore_index=-1)
    scores.update(decoded.masks, _labels(real, spec))
    return scores.compute()


def _labels(tiles: Tiles, spec: SampleSpec) -> Tensor:
    """Class positions; -1 where there is no label."""
    known = (tiles.masks >= 0) & (tiles.masks < spec.num_classes)
    return tiles.masks.where(known, -1)


def _alignment(
    judge: nn.Module,
    sides: dict[str, Tiles],
    mean: Tensor,
    std: Tensor,
    spec: SampleSpec,
) -> dict[str, Any]:
    """How a judge reads each side, and where synthetic pairs lie between the others."""
    judged: dict[str, Any] = {}
    for name, tiles in sides.items():
        images = _normalise(tiles.images, mean, std)
        agreement = judge_agreement(judge, images, tiles.masks, spec.num_classes)
        judged[name] = {'miou': agreement.miou, 'accuracy': agreement.accuracy}
        if spec.dates > 1:
            judged[name]['change_f1'] = agreement.class_f1[1]
    key = 'accuracy' if spec.dates == 1 else 'change_f1'
    synthetic, real, shuffled, reconstructed = (
        judged[name][key] for name in ('synthetic', 'real', 'shuffled', 'reconstructed')
    )
    return judged | {
        'calibrated': calibrated(synthetic, shuffled, real),
        'transparency': reconstructed / real if real > 0 else math.nan,
        'score': key,
        'count': len(sides['synthetic'].images),
    }


def _fidelity(
    train: Tiles, fake: Tiles, mean: Tensor, std: Tensor, spec: SampleSpec
) -> dict[str, Any]:
    pairs = {
        name: [
            image_features(d[name], mean, std) for d in (_dates(train), _dates(fake))
        ]
        for name in _dates(train)
    }
    pairs['mask'] = [mask_features(t.masks, spec.num_classes) for t in (train, fake)]
    return {
        name: distance_with_floor(real, synthetic, train.groups)._asdict()
        for name, (real, synthetic) in pairs.items()
    }


def _spectra(
    train: Tiles, held_out: Tiles, fake: Tiles, spec: SampleSpec
) -> dict[str, Any]:
    """Angles between class mean spectra: synthetic, and held-out real, to train.

    Each class counts once for each date.
    """
    sums = [
        torch.cat(
            [
                class_spectra(images * spec.scale, t.masks, spec.num_classes)
                for images in _dates(t).values()
            ]
        )
        for t in (train, held_out, fake)
    ]
    means = [(s[:, :-1] / s[:, -1:]).tolist() for s in sums]
    angles = class_spectral_angle(sums[0], sums[2])
    names = list(spec.classes)
    if spec.dates > 1:
        dates = range(1, spec.dates + 1)
        names = [f'{name}, date {date}' for date in dates for name in spec.classes]
    return {
        'msad': float(angles.nanmean()),
        'classes': int(angles.isfinite().sum()),
        'msad_held_out': float(class_spectral_angle(sums[0], sums[1]).nanmean()),
        'per_class': dict(zip(names, angles.tolist(), strict=True)),
        'means': {'train': means[0], 'held_out': means[1], 'synthetic': means[2]},
    }


def _area(
    train: Tiles, held_out: Tiles, fake: Tiles, spec: SampleSpec
) -> dict[str, Any]:
    """Share of each class, and the total variation from the training set."""
    shares = []
    for tiles in (train, held_out, fake):
        labels = _labels(tiles, spec)
        counts = np.bincount(labels[labels >= 0].numpy(), minlength=spec.num_classes)
        shares.append(counts / max(int(counts.sum()), 1))
    return {
        'train': shares[0].tolist(),
        'held_out': shares[1].tolist(),
        'synthetic': shares[2].tolist(),
        'total_variation': float(np.abs(shares[0] - shares[2]).sum() / 2),
        'total_variation_held_out': float(np.abs(shares[0] - shares[1]).sum() / 2),
    }


def _dates(tiles: Tiles) -> dict[str, Tensor]:
    """Images (N, C, H, W) of each date, by the name of their stream."""
    if tiles.images.ndim == 4:
        return {'image': tiles.images}
    return {f'image_{i + 1}': x for i, x in enumerate(tiles.images.unbind(1))}


def _normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None instead, at any depth."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
