# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The numbers of a generated set, each beside its references."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..metrics.class_spectra import SpectraSummary, class_areas, compare_spectra
from ..metrics.detail import OCTAVES, compare_detail
from ..metrics.fidelity import compare_features
from ..metrics.memorisation import memorisation
from ..pairs.spec import SampleSpec
from .sides import Looks, SideSummary

#: Alignments of these sides are shown beside each other.
_JUDGED = ('train', 'held_out', 'reconstructed', 'synthetic')


def summarise(
    sides: Mapping[str, SideSummary], shuffled: Mapping[str, Any], spec: SampleSpec
) -> dict[str, Any]:
    """Compare a generated set with real ones.

    Args:
        sides: ``train``, judged with cross-fitting, ``held_out``, ``synthetic``, and
            ``reconstructed`` if there is a codec.
        shuffled: Alignment of synthetic images with masks of others.
        spec: Description of the samples.

    Returns:
        ``fidelity``, ``detail``, ``spectra``, ``area``, ``alignment`` and, with
        several dates, ``change``: plain numbers, NaN where there is none.
    """
    found = {
        **compare_looks(sides, spec),
        'detail': _detail(sides, spec),
        'alignment': _alignment(sides, shuffled, spec),
    }
    if spec.dates > 1:
        found['change'] = {name: side.change for name, side in sides.items()}
    return found


def compare_looks(
    sides: Mapping[str, Looks | SideSummary], spec: SampleSpec
) -> dict[str, Any]:
    """Compare what needs no judge.

    Args:
        sides: ``train``, ``held_out``, ``synthetic``, and ``reconstructed`` if there is
            a codec.
        spec: Description of the samples.

    Returns:
        ``fidelity``, ``spectra`` and ``area``.
    """
    return {
        'fidelity': _fidelity(sides),
        'spectra': _spectra(sides, spec),
        'area': _areas(sides, spec),
    }


def nearness(
    synthetic: Iterable[Mapping[str, Any]], real: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Are samples copies of training samples?

    Args:
        synthetic: Scores of each generated sample, with ``distance`` (of pixels) and
            ``feature_distance`` to the nearest training sample.
        real: Scores of each real sample, with the same distances to the nearest one of
            another place.

    Returns:
        What :func:`memorisation` says of ``pixels`` and of ``features``; without a
        part that could not be compared.
    """
    drawn, reference = list(synthetic), list(real)
    found = {}
    for name, key in (('pixels', 'distance'), ('features', 'feature_distance')):
        sides = [
            [row[key] for row in rows if row[key] is not None]
            for rows in (drawn, reference)
        ]
        if all(sides):
            found[name] = memorisation(*sides)
    return found


def _fidelity(sides: Mapping[str, Looks | SideSummary]) -> dict[str, Any]:
    codec = sides.get('reconstructed')
    return {
        name: compare_features(
            real,
            sides['synthetic'].features[name],
            sides['held_out'].features[name],
            None if codec is None else codec.features[name],
        )
        for name, real in sides['train'].features.items()
    }


def _detail(sides: Mapping[str, SideSummary], spec: SampleSpec) -> dict[str, Any]:
    """Detail of each side over that of training images.

    Power is the median over bands, and ``per_band`` has that of each.
    """
    real = sides['train']
    names = list(spec.bands)
    if spec.dates > 1:
        dates = range(1, spec.dates + 1)
        names = [f'{band}, date {date}' for date in dates for band in spec.bands]
    found: dict[str, Any] = {'per_band': {name: {} for name in names}}
    for side in sides.keys() - {'train'}:
        ratio = compare_detail(real.detail, sides[side].detail)
        middle = ratio.power.nanquantile(0.5, 0).tolist()
        found[side] = ratio._asdict() | {
            'power': dict(zip(OCTAVES, middle, strict=True))
        }
        for name, power in zip(names, ratio.power.tolist(), strict=True):
            found['per_band'][name][side] = dict(zip(OCTAVES, power, strict=True))
        # reconstructed images are judged with the true masks
        if side != 'reconstructed':
            shares = (part.alignment['boundary'] for part in (sides[side], real))
            found[side]['boundary'] = _over(*shares)
    return found


def _over(value: float, real: float) -> float:
    return value / real if real > 0 else math.nan


def _spectra(
    sides: Mapping[str, Looks | SideSummary], spec: SampleSpec
) -> dict[str, Any]:
    real = sides['train'].spectra
    found: dict[str, Any] = {
        name: compare_spectra(real, side.spectra, spec)
        for name, side in sides.items()
        if name != 'train'
    }
    found['names'] = list(found['synthetic']['per_class'])
    found['curves'] = {name: _curves(side.spectra) for name, side in sides.items()}
    return found


def _curves(spectra: SpectraSummary) -> dict[str, Any]:
    """Mean and standard deviation of reflectance, for each date and class."""
    bands = spectra.covariance.shape[-1]
    return {
        name: getattr(spectra, name).reshape(-1, bands).tolist()
        for name in ('mean', 'std')
    }


def _areas(
    sides: Mapping[str, Looks | SideSummary], spec: SampleSpec
) -> dict[str, Any]:
    real = sides['train'].spectra
    synthetic = class_areas(real, sides['synthetic'].spectra)
    held_out = class_areas(real, sides['held_out'].spectra)
    # a class of a few training places is rare in others, which are real too
    shares = zip(synthetic['real'], held_out['other'], strict=True)
    expected = [min(pair) for pair in shares]
    return {
        'train': synthetic['real'],
        'synthetic': synthetic['other'],
        'held_out': held_out['other'],
        'total_variation': synthetic['total_variation'],
        'total_variation_held_out': held_out['total_variation'],
        'missing': [spec.classes[k] for k in synthetic['missing']],
        'missing_held_out': [spec.classes[k] for k in held_out['missing']],
        'missing_share': sum(expected[k] for k in synthetic['missing']),
    }


def _alignment(
    sides: Mapping[str, SideSummary], shuffled: Mapping[str, Any], spec: SampleSpec
) -> dict[str, Any]:
    """Agreement of each side, and where the synthetic one lies between the others."""
    parts = {n: sides[n].alignment for n in _JUDGED if n in sides}
    parts['shuffled'] = dict(shuffled)
    # the training samples were read by judges that never saw them
    parts['real'] = parts.pop('train')
    score = 'accuracy' if spec.dates == 1 else 'change_f1'
    judged = {name: part['judge'] for name, part in parts.items()}
    value = {name: part[score] for name, part in judged.items()}
    found: dict[str, Any] = {
        'score': score,
        'judge': judged,
        'calibrated': calibrated(value),
        'per_class': {
            name: {side: judged[side]['iou'][k] for side in ('real', 'synthetic')}
            for k, name in enumerate(spec.classes)
        },
    }
    for name in ('edges', 'spectrum'):
        sides_of = {side: part[name] for side, part in parts.items()}
        found[name] = sides_of | {'calibrated': calibrated(sides_of)}
    if 'reconstructed' in value:
        found['transparency'] = _over(value['reconstructed'], value['held_out'])
    return found


def calibrated(value: Mapping[str, float]) -> float:
    """Place the agreement of synthetic pairs between chance and real data.

    Real pairs of other places agree less with judges than those of the training
    places; either are as real as can be, so the lower of both is the 1.

    Args:
        value: Agreement of the ``synthetic`` pairs, of the ``shuffled`` ones, in which
            each image has another pair's mask, and of ``real`` and ``held_out`` pairs.

    Returns:
        0 for shuffled pairs, 1 for real ones; NaN if those do not differ.
    """
    low, high = value['shuffled'], min(value['real'], value['held_out'])
    return (value['synthetic'] - low) / (high - low) if high > low else math.nan


def plain(value: Any) -> Any:
    """Turn tensors into lists and NaN or infinity into None, as JSON needs it.

    Args:
        value: Numbers, texts, tensors, and dicts and lists of them.

    Returns:
        Plain JSON types.
    """
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
