# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Three traffic lights and what the codec does to labels, by rule, in words."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .looks import detail_findings
from .numbers import State, find_number, graded, short

#: From worst to best.
_ORDER: tuple[State, ...] = ('bad', 'doubtful', 'good')
#: Frechet distance over that of real images, up to which a set looks real.
_REAL, _UNREAL = 1.5, 3.0
#: Share of the coverage between real images, below which a set has collapsed.
_COLLAPSED = 0.5
#: Ratio of brightness, synthetic to real.
_GAIN = (0.9, 1.1)
#: Share of real pixels of classes that are missing: rare ones may be.
_COMMON = 0.05
#: Of the way from shuffled (0) to real pairs (1).
_ALIGNED, _HALF_ALIGNED, _EDGES = 0.9, 0.6, 0.8
#: The same of single spectra, from where on images are cleaner than real ones.
_TOO_CLEAN = 1.5
#: A score that tells real from shuffled pairs by less tells nothing.
_TELLS = 0.02
#: Agreement of reconstructions over that of originals, above which labels are painted.
_TRANSPARENT = 1.03
#: Share of pixels by which a foreign mask may be read in an image decoded with it more
#: than in the original: a blurred image is read less surely too.
_PAINTED = 0.05
#: Distance of generated samples to the training set over that of real test samples.
_NEAR = 0.7


class Light(NamedTuple):
    """One question of trust and its answer.

    Attributes:
        name: ``looks real``, ``labels fit`` or ``not copied``.
        state: The answer.
        sentence: The numbers that it follows from, with their references.
    """

    name: str
    state: State
    sentence: str


def lights(measures: Mapping[str, Any]) -> list[Light]:
    """Judge a generated set by rule.

    *Looks real*: the Frechet distances of its images and of their textures (with several
    dates, of the worst) against the larger of real against real and real test against
    training: good up to 1.5 times, doubtful up to 3, else bad. Bad too if its coverage
    is below half of that of real images. Bad or doubtful if images are soft (power of
    fine detail below 0.4, 0.7 of the real one), grainy (above 2.5, 1.43 of it; or the
    bands' detail agrees below 0.4, 0.7), blocky (seams above 1.5, 1.15) or without
    structure (below 0.35, 0.6 of the way from a random field), or masks have too few or
    too many boundaries (by 2.5, 1.67 times). At most doubtful if the power of large
    forms is outside 0.5 to 2 of the real one, if the brightness is outside 0.9 to 1.1,
    or if classes lack that cover 5 % of the training pixels and of the test pixels.

    *Labels fit*: what a judge reads in the images agrees with their masks; 0 is as
    shuffled pairs, 1 as real ones. Good from 0.9 on, with edges and spectra from 0.8
    on where measured, doubtful from 0.6 on, else bad. At most doubtful if the codec
    paints labels into images (see :func:`codec_sentences`), which fakes agreement, or
    if single spectra agree far better than in real pairs, from 1.5 on: images cleaner
    than real ones teach little. Judges that read real pairs hardly better than shuffled
    ones, or had not stopped learning when their updates ended, tell nothing.

    *Not copied*: bad if more generated samples than chance explains lie as near to a
    training sample as hardly any real sample of another place does; doubtful if their
    median distance in pixels is below 0.7 of that of real samples; else good.

    Args:
        measures: Content of ``measures.json``; what is missing or None was not
            measured.

    Returns:
        The three lights, in this order.
    """
    return [_looks_real(measures), _labels_fit(measures), _not_copied(measures)]


def codec_sentences(measures: Mapping[str, Any]) -> list[str]:
    """Say whether the codec paints labels into images.

    Args:
        measures: Content of ``measures.json``.

    Returns:
        Sentences; none if nothing was measured.
    """
    said = []
    ratio = find_number(measures, 'alignment', 'transparency')
    if ratio is not None:
        said.append(_transparency_sentence(ratio))
    read, before = _swapped(measures)
    if read is not None and before is not None:
        own = find_number(measures, 'alignment', 'swapped', 'own')
        kept = '' if own is None else f', and the true mask in {own:.0%}'
        follows = (
            'The codec paints labels into images: agreement of generated pairs is no '
            'evidence that their images show what their masks say.'
            if read - before > _PAINTED
            else 'The codec does not paint labels into images.'
        )
        said.append(
            'The direct test: of images decoded with the mask of another sample, the '
            f'judge reads that other mask in {read:.0%} of the pixels ({before:.0%} in '
            f'the untouched originals){kept}. {follows}'
        )
    return said


def _transparency_sentence(ratio: float) -> str:
    """Explain the agreement of reconstructions over that of originals."""
    times = f'{ratio:.2f} times the agreement of the originals'
    if ratio > _TRANSPARENT:
        return (
            f'Reconstructions fit their masks better than the originals do ({times}): '
            'the codec paints the label into the image, or smooths away what misleads '
            'the judge.'
        )
    if ratio < 1 / _TRANSPARENT:
        return (
            f'Reconstructions fit their masks less well than the originals do ({times})'
            ': the codec loses detail, and generated pairs cannot do better than that.'
        )
    return (
        f'Reconstructions fit their masks as well as the originals do ({times}): the '
        'codec neither loses what tells classes apart nor adds to it.'
    )


def _looks_real(measures: Mapping[str, Any]) -> Light:
    """Frechet distances, coverage and brightness."""
    fidelity = measures.get('fidelity') or {}
    images = [name for name in fidelity if name.startswith('image')]
    states: list[State] = []
    said: list[str] = []
    textures = [name for name in fidelity if name.startswith('texture')]
    for names in (images, textures):
        found = [_distance(fidelity, name) for name in names]
        for ratio, words in sorted(part for part in found if part)[-1:]:
            states.append(graded(-ratio, -_REAL, -_UNREAL))
            said.append(words)
    for name in images:
        share = find_number(fidelity, name, 'coverage', 'value')
        floor = find_number(fidelity, name, 'coverage', 'floor')
        if share is not None and floor is not None and share < _COLLAPSED * floor:
            states.append('bad')
            said.append(
                f'{_called(name)} have collapsed: they cover {share:.0%} of the '
                f'variety of the real ones, other real images {floor:.0%}'
            )
    _add_findings(measures, states, said)
    return _light('looks real', states, said)


def _distance(fidelity: Mapping[str, Any], name: str) -> tuple[float, str] | None:
    """Frechet distance over that of real images, and what to say of it."""
    value, *references = (
        find_number(fidelity, name, 'frechet', key)
        for key in ('value', 'floor', 'held_out')
    )
    real = max((x for x in references if x is not None), default=0)
    if value is None or real <= 0:
        return None
    ratio, called = value / real, _called(name)
    same = 'images' if name.startswith('image') else 'ones'
    return ratio, (
        f'{called} are {ratio:.1f} times as far from the real training {same} as other '
        f'real {same} are (Fréchet distance {short(value)} against {short(real)})'
    )


def _add_findings(
    measures: Mapping[str, Any], states: list[State], said: list[str]
) -> None:
    """Detail, missing classes and brightness."""
    for state, words in detail_findings(measures):
        states.append(state)
        said.append(words)
    area = measures.get('area') or {}
    rare = area.get('missing_held_out') or []
    lost = [name for name in area.get('missing') or [] if name not in rare]
    if lost:
        share = find_number(area, 'missing_share') or 0
        states += ['doubtful'] if share >= _COMMON else []
        said.append(
            f'no mask has {", ".join(lost)} (at least {share:.1%} of real pixels)'
        )
    gain = find_number(measures, 'spectra', 'synthetic', 'gain')
    if gain is not None and not _GAIN[0] <= gain <= _GAIN[1]:
        states.append('doubtful')
        said.append(f'they are {gain:.2f} times as bright as the real ones')


def _labels_fit(measures: Mapping[str, Any]) -> Light:
    """Agreement with a judge, with edges and with spectra."""
    share = find_number(measures, 'alignment', 'calibrated')
    blind = blind_judges(measures) or unsettled_judges(measures)
    if share is None and not blind:
        return _light('labels fit', [], [])
    states: list[State] = []
    said = [blind]
    if share is not None and not blind:
        states = [graded(share, _ALIGNED, _HALF_ALIGNED)]
        start = 'A network trained on real pairs finds the generated labels'
        said = [
            f'{start} at {share:.2f} of the way from shuffled pairs (0) to real ones (1)'
        ]
    for name in ('edges', 'spectrum'):
        way = _way(measures, name)
        if way is not None and way < _EDGES:
            states.append('doubtful')
            what = {'edges': 'edges', 'spectrum': 'spectra'}[name]
            said.append(f'{what} are only at {way:.2f} of the way')
    way = _way(measures, 'spectrum', best=True)
    if way is not None and way > _TOO_CLEAN:
        states.append('doubtful')
        said.append('spectra agree better than real ones: the images are too clean')
    if paints_labels(measures) and not blind:
        states.append('doubtful')
        said.append(
            'but the codec paints labels into images, so that this agreement is false'
        )
    return _light('labels fit', states, said)


def blind_judges(measures: Mapping[str, Any]) -> str:
    """Say that the judges cannot even read real pairs, if so.

    Args:
        measures: Content of ``measures.json``.

    Returns:
        A sentence without its end; empty if they read real pairs better than shuffled
        ones, or nothing was measured.
    """
    score = str((measures.get('alignment') or {}).get('score'))
    low, known = _bounds(measures, 'judge', score)
    if low is None or not known or min(known) - low >= _TELLS:
        return ''
    better = 'hardly better' if min(known) > low else 'no better'
    return (
        'networks trained on real pairs read the labels of other real pairs '
        f'({min(known):.1%}) {better} than those of shuffled ones ({low:.1%}), so '
        'they tell nothing: train the judges longer'
    )


def unsettled_judges(measures: Mapping[str, Any]) -> str:
    """Say that the judges could still learn more, if so.

    Args:
        measures: Content of ``measures.json``.

    Returns:
        A sentence without its end; empty if two doublings of their updates in a row
        taught them nothing, or nothing was measured.
    """
    judges = (measures.get('alignment') or {}).get('judges') or {}
    if judges.get('settled', True):
        return ''
    curve = [f'{value:.1%} after {updates:,}' for updates, value in judges['curve']]
    return (
        'networks trained on real pairs had not stopped learning when their updates '
        f'ended (they read other real pairs at {", ".join(curve[-3:])}), so what they '
        'read in generated ones says little: train the judges longer'
    )


def paints_labels(measures: Mapping[str, Any]) -> bool:
    """Whether the codec paints labels into images.

    Args:
        measures: Content of ``measures.json``.

    Returns:
        What the direct test says, a foreign mask; without it, whether reconstructions
        agree better than originals.
    """
    read, before = _swapped(measures)
    if read is not None and before is not None:
        return read - before > _PAINTED
    # without the direct test, better than the originals is reason enough
    ratio = find_number(measures, 'alignment', 'transparency')
    return ratio is not None and ratio > _TRANSPARENT


def _not_copied(measures: Mapping[str, Any]) -> Light:
    """Nearest training samples of generated ones, in pixels and in features."""
    states: list[State] = []
    said = []
    for name, found in (measures.get('memorisation') or {}).items():
        if name not in ('pixels', 'features') or not found:
            continue
        alarm, ratio = found.get('alarm'), find_number(found, 'median_ratio')
        share, real = find_number(found, 'share'), find_number(found, 'expected')
        if alarm is None and ratio is None:
            continue
        # features of blander images are nearer to each other, copied or not
        near = name == 'pixels' and ratio is not None and ratio < _NEAR
        states.append('bad' if alarm else 'doubtful' if near else 'good')
        parts = []
        if share is not None:
            real_text = (
                '' if real is None else f' (real ones of other places {real:.1%})'
            )
            parts.append(
                f'{share:.1%} of the samples lie suspiciously near a training sample'
                + real_text
            )
        if ratio is not None:
            parts.append(f'the median distance is {ratio:.2f} times that of real ones')
        if not parts:
            parts.append(
                'more samples than chance explains are near' if alarm else 'fine'
            )
        said.append(f'in {name}, {", ".join(parts)}')
    return _light('not copied', states, said)


def _light(name: str, states: list[State], said: list[str]) -> Light:
    """The worst of several findings, in one sentence."""
    sentence = '; '.join(said) or 'there is no number that tells'
    state = min(states, key=_ORDER.index) if states else 'not measured'
    return Light(name, state, f'{sentence[0].upper()}{sentence[1:]}.')


def _way(measures: Mapping[str, Any], name: str, best: bool = False) -> float | None:
    """Part of the way from shuffled (0) to real pairs (1) that a score has come.

    Those of the training places and of others are real alike: 1 is the lower of both,
    or the *best*.
    """
    value = find_number(measures, 'alignment', name, 'synthetic')
    low, known = _bounds(measures, name)
    if value is None or low is None or not known:
        return None
    high = max(known) if best else min(known)
    return None if high - low < _TELLS else (value - low) / (high - low)


def _bounds(
    measures: Mapping[str, Any], name: str, *score: str
) -> tuple[float | None, list[float]]:
    """Agreement of shuffled pairs, and of real ones of training and other places."""
    low, *reals = (
        find_number(measures, 'alignment', name, side, *score)
        for side in ('shuffled', 'real', 'held_out')
    )
    return low, [real for real in reals if real is not None]


def _swapped(measures: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Share of a foreign mask read after decoding with it, and in the original."""
    read, before = (
        find_number(measures, 'alignment', 'swapped', key)
        for key in ('other', 'original_other')
    )
    return read, before


def _called(name: str) -> str:
    """``images``, ``textures``, or ``images of date 2``."""
    kind, _, date = name.partition('_')
    return f'{kind}s' + (f' of date {date}' if date else '')
