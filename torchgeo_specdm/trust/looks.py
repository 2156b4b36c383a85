# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The name of what is wrong with the detail of images and masks, by rule.

Source of the bounds: docs/notes/trust.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .numbers import State, find_number, graded

#: Power of fine octaves over real: good and doubtful from here on; above, the inverse.
_POWER, _POOR_POWER = 0.7, 0.4
#: The same of coarse octaves, which differ more from place to place: never bad.
_CONTRAST = 0.5
#: Seams over real: good and doubtful up to here.
_SEAMS, _CELLS = 1.15, 1.5
#: Correlation of bands and structure over real: good and doubtful from here on.
_ALIKE, _UNRELATED = 0.7, 0.4
_STRUCTURED, _CLOUDS = 0.6, 0.35
#: Boundaries of masks over real: good and doubtful from here on; above, the inverse.
_BOUNDARY, _SPECKLED = 0.6, 0.4
#: Octaves below and above an eighth of a cycle a pixel.
_COARSE = ('below 1/16', '1/16 to 1/8')
_FINE = ('1/8 to 1/4', 'above 1/4')

#: Error of the denoiser over that of a simpler estimate, from where on it is worse.
_WORSE = 1.05

Finding = tuple[State, str]


def denoiser_sentences(
    errors: Mapping[str, Mapping[str, Sequence[float]]],
) -> list[str]:
    """Say where the denoiser is worse than what needs no network.

    Args:
        errors: Errors by stream, as of :func:`~torchgeo_specdm.diffusion.read_errors`.

    Returns:
        A sentence for each stream and each simpler estimate that beats the network.
    """
    said = []
    simpler = {
        'noisy': 'the noisy latents themselves',
        'linear': 'the best linear estimate',
    }
    for stream, found in errors.items():
        for name, called in simpler.items():
            rows = zip(found['log_snr'], found['network'], found[name], strict=True)
            worse = [(n / s, level) for level, n, s in rows if n > _WORSE * s]
            if worse:
                ratio, level = max(worse)
                levels = ', '.join(f'{level:+g}' for _, level in worse)
                said.append(
                    f"The denoiser's estimate of {stream} is worse than {called} at "
                    f'log-SNR {levels} '
                    f'({ratio:.1f} times the squared error at {level:+g}).'
                )
    return said


def detail_findings(measures: Mapping[str, Any]) -> list[Finding]:
    """Say whether images are soft, grainy, blocky or without structure.

    Training images and real test images are real alike: a number is off by as much as
    it lies beyond both.

    Args:
        measures: Content of ``measures.json``.

    Returns:
        A state and words for each fault, else one that says that there is none; none
        at all if nothing was measured.
    """
    detail = measures.get('detail') or {}
    found = list(_findings(detail))
    faults = [finding for finding in found if finding[0] != 'good']
    if faults or not found:
        return faults
    powers = [_number(detail, 'power', octave) for octave in (*_COARSE, *_FINE)]
    known = [power for power in powers if power is not None]
    span = '' if not known else f' (power {min(known):.2f} to {max(known):.2f} times)'
    return [('good', f'their detail is that of real images at all frequencies{span}')]


def _findings(detail: Mapping[str, Any]) -> Iterator[Finding]:
    fine = _beyond(detail, 'power', _FINE)
    low, high = min(fine, default=None), max(fine, default=None)
    seams = max(_beyond(detail, 'seams'), default=None)
    blocky = seams is not None and seams > _SEAMS
    if low is not None:
        text = f'power of fine detail is {low:.2f} times that of real images'
        yield graded(low, _POWER, _POOR_POWER), f'they are soft: {text}'
    if seams is not None:
        text = f'steps on a regular grid are {seams:.2f} times those of real images'
        yield graded(1 / seams, 1 / _SEAMS, 1 / _CELLS), f'they are blocky: {text}'
    # seams are fine detail too
    if high is not None and not blocky:
        text = f'power of fine detail is {high:.2f} times that of real images'
        yield graded(1 / high, _POWER, _POOR_POWER), f'they are grainy: {text}'
    for ratio in _beyond(detail, 'correlation'):
        text = (
            f'agrees with that of the others {ratio:.2f} times as well as in real ones'
        )
        yield (
            graded(ratio, _ALIKE, _UNRELATED),
            f'they are grainy, or a band is shifted: fine detail of a band {text}',
        )
    for ratio in _beyond(detail, 'structure'):
        text = f'their gradients are at {ratio:.2f} of the way from a random field'
        state = graded(ratio, _STRUCTURED, _CLOUDS)
        yield state, f'they are without structure: {text} (0) to real images (1)'
    for ratio in _beyond(detail, 'power', _COARSE):
        off = graded(min(ratio, 1 / max(ratio, 1e-9)), _CONTRAST, 0)
        kind = 'flat' if ratio < 1 else 'too rich in contrast'
        text = f'power of large forms is {ratio:.2f} times that of real images'
        yield off, f'they are {kind}: {text}'
    for ratio in _beyond(detail, 'boundary'):
        state = graded(min(ratio, 1 / max(ratio, 1e-9)), _BOUNDARY, _SPECKLED)
        kind = 'coarser' if ratio < 1 else 'more speckled'
        text = f'{ratio:.2f} times as many of their pixels lie at a boundary'
        yield state, f'masks are {kind} than real ones: {text}'


def _beyond(
    detail: Mapping[str, Any], name: str, parts: tuple[str, ...] = ('',)
) -> list[float]:
    """Distance of synthetic numbers beyond training (1) and real test; 1 is between."""
    found = []
    for part in parts:
        path = (name, part) if part else (name,)
        value, other = (
            find_number(detail, side, *path) for side in ('synthetic', 'held_out')
        )
        if value is None:
            continue
        low, high = sorted((1.0, 1.0 if other is None else max(other, 1e-9)))
        found.append(min(value / low, 1.0) if value < low else max(value / high, 1.0))
    return found


def _number(detail: Mapping[str, Any], *path: str) -> float | None:
    return find_number(detail, 'synthetic', *path)
