# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The tables of a report."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from ..study.design import arm_label
from ..study.runs import Run, by_arm, differences, images_without_labels
from ..study.verdicts import NAMES
from ..trust.numbers import number, short

#: Columns of the table of samples, as they are called.
SAMPLE_COLUMNS = {
    'id': 'sample',
    'agreement': 'agreement',
    'edges': 'edges',
    'spectrum': 'spectrum',
    'distance': 'distance',
    'feature_distance': 'feature distance',
    'nearest': 'nearest',
    'accepted': 'accepted',
}
#: The meaning of these columns.
EXPLAINED = {
    'agreement': 'Agreement: share of the labelled pixels in which networks that '
    'learned from real pairs find the class that the mask says.',
    'edges': 'Edges: how well edges of the image tell where borders of the mask are, '
    'from 0.5 (chance) to 1.',
    'spectrum': 'Spectrum: share of the labelled pixels whose spectrum is more like '
    'that of their class in real pairs than like that of any other.',
    'distance': 'Distance: how far the image is from the nearest real training window '
    'after all turns and flips; a low one may be a copy.',
    'feature distance': 'Feature distance: the same in features of the image.',
    'nearest': 'Nearest: the training sample with that window.',
    'accepted': 'Accepted: whether its values were finite, so that it was kept.',
}
#: Rows of that table: more would make a page slow.
MOST_SAMPLES = 1000

_SIDES = {
    'synthetic': 'synthetic',
    'reconstructed': 'reconstructed',
    'held_out': 'real test',
    'real': 'real training',
    'shuffled': 'shuffled',
}
_FIDELITY_SIDES = {
    'value': 'synthetic',
    'reconstructed': 'reconstructed',
    'held_out': 'real test',
    'floor': 'real, halves',
}
_FIDELITY = {
    'frechet': 'Fréchet distance',
    'kernel': 'Kernel distance',
    'precision': 'Precision',
    'recall': 'Recall',
    'density': 'Density',
    'coverage': 'Coverage',
}
_DETAIL = {
    'power': 'Power',
    'contrast': 'Contrast within images',
    'levels': 'Spread of image means',
    'seams': 'Steps on a grid',
    'correlation': 'Agreement of fine detail between bands (lowest band)',
    'structure': 'Structure beyond a random field',
    'boundary': 'Boundary pixels of masks',
}
_SPECTRA = {
    'msad': 'Angle between class spectra (mSAD, radians)',
    'spread': 'Spread within classes, to the real one',
    'gain': 'Brightness, to the real one',
}
_COPIES = {
    'share': 'Suspiciously near to a training sample, %',
    'expected': 'Real samples of other places as near, %',
    'median_ratio': 'Median distance, to that of real samples of other places',
    'threshold': 'Distance below which a sample is near',
}
_CHANGE = {
    'inside': 'difference where changed',
    'outside': 'where not',
    'detection': 'changed pixel differs more, %',
    'changed': 'changed, %',
}


class Table(NamedTuple):
    """Numbers beside their references.

    Attributes:
        title: Name of the measure.
        columns: Names of the columns.
        rows: A name and one text for each column.
        note: Note that the reader needs.
        folded: Whether it is opened on demand.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    note: str = ''
    folded: bool = False


def measure_tables(measures: Mapping[str, Any]) -> list[Table]:
    """All measures with their references.

    Args:
        measures: Content of ``measures.json``; what is missing has no table.

    Returns:
        The tables.
    """
    tables = [
        _detail(measures.get('detail') or {}),
        _fidelity(measures.get('fidelity') or {}),
        *_agreement(measures.get('alignment') or {}),
        *_spectra(measures.get('spectra') or {}),
        _copies(measures.get('memorisation') or {}),
        _change(measures.get('change') or {}),
    ]
    return [table for table in tables if table.rows]


def _detail(detail: Mapping[str, Any]) -> Table:
    sides = ('synthetic', 'reconstructed', 'held_out')
    rows = []
    for key, name in _DETAIL.items():
        values = [(detail.get(side) or {}).get(key) for side in sides]
        parts = next((list(v) for v in values if isinstance(v, Mapping)), None)
        for part in parts or [None]:
            found = [(v or {}).get(part) if parts else v for v in values]
            called = name if part is None else f'{name} {part} cycles a pixel'
            if any(value is not None for value in found):
                rows.append((called, [number(value, '.2f') for value in found]))
    note = (
        'Ratios to real training images, median over bands: 1 is equal. Blur lowers the '
        'power of high frequencies, noise raises it and lowers the agreement of bands. '
        'Steps on a grid are third differences where cells of 2, 4 or 8 pixels may meet, '
        'over those elsewhere. Structure: 0 is a random field, as of clouds, with '
        'whatever spectrum; 1 is as real. Spread of image means: how much places differ '
        'in brightness.'
    )
    return Table('Detail', [_SIDES[side] for side in sides], rows, note)


def _fidelity(fidelity: Mapping[str, Any]) -> Table:
    rows = []
    for part, found in fidelity.items():
        kind, _, date = part.partition('_')
        called = f'{kind}s' + (f', date {date}' if date else '')
        for key, name in _FIDELITY.items():
            if found.get(key):
                cells = [short(found[key].get(side)) for side in _FIDELITY_SIDES]
                rows.append((f'{name}, {called}', cells))
    counts = {found.get('samples') for found in fidelity.values()} - {None}
    sizes = ' and '.join(str(count) for count in sorted(counts))
    note = (
        'Against real training samples; real halves against each other. Precision and '
        'density: how many look real; recall and coverage: how much of what is real is '
        'there. Features of images and '
        'masks are random convolutions by default, which see colours and hardly blur; '
        'those of textures are moments of differences at three scales, which see blur, '
        'grain, cells and missing structure.'
    )
    if sizes:
        note += f' Sets of {sizes} samples.'
    return Table('How real', list(_FIDELITY_SIDES.values()), rows, note)


def _agreement(alignment: Mapping[str, Any]) -> list[Table]:
    rows = []
    judge = alignment.get('judge') or {}
    for score in ('accuracy', 'miou', 'change_f1'):
        values = [(judge.get(side) or {}).get(score) for side in _SIDES]
        if any(value is not None for value in values):
            called = 'pixels right' if score == 'accuracy' else NAMES[score]
            cells = [number(value, '.1f', 100) for value in values]
            rows.append((f'A judge finds the mask in the image: {called}, %', cells))
    for key, name in (
        ('edges', 'Edges of the mask are edges of the image, area under the curve'),
        ('spectrum', 'Pixels of the spectrum of their class, share'),
    ):
        if alignment.get(key):
            cells = [number(alignment[key].get(side), '.3f') for side in _SIDES]
            rows.append((name, cells))
    if alignment.get('calibrated') is not None:
        cells = [number(alignment['calibrated'], '.2f'), '', '', '1', '0']
        rows.append(('Agreement between shuffled and real', cells))
    note = (
        'The judge learned from real training pairs, and reads those that it did not '
        'learn from. Shuffled: images with the masks of other samples.'
    )
    curve = (alignment.get('judges') or {}).get('curve') or []
    steps = [f'{100 * value:.1f} after {updates:,}' for updates, value in curve]
    note += (
        f' By updates, it read places that it never saw at {", ".join(steps)}.'
        * bool(steps)
    )
    classes = [
        (name, [number(found.get(side), '.1f', 100) for side in ('real', 'synthetic')])
        for name, found in (alignment.get('per_class') or {}).items()
    ]
    return [
        Table('How labels fit', list(_SIDES.values()), rows, note),
        Table(
            'Agreement of each class, %',
            ['real training', 'synthetic'],
            classes,
            folded=True,
        ),
    ]


def _spectra(spectra: Mapping[str, Any]) -> list[Table]:
    sides = ('synthetic', 'reconstructed', 'held_out')
    found = {side: spectra.get(side) or {} for side in sides}
    rows = [
        (name, [number(found[side].get(key), '.3f') for side in sides])
        for key, name in _SPECTRA.items()
        if any(found[side].get(key) is not None for side in sides)
    ]
    shifts = {key: None for s in sides for key in found[s].get('index_shift') or {}}
    for key in shifts:
        values = [(found[side].get('index_shift') or {}).get(key) for side in sides]
        rows.append((f'Shift of {key.upper()}', [number(v, '.3f') for v in values]))
    indices = [
        (f'{key.upper()}, {name}', [number(value, '.3f') for value in pair])
        for key, classes in (found['synthetic'].get('indices') or {}).items()
        for name, pair in classes.items()
        if pair
    ]
    called = [_SIDES[side] for side in sides]
    return [
        Table('Spectra', called, rows, 'Against real training samples, by class.'),
        Table(
            'Indices of each class',
            ['real training', 'synthetic'],
            indices,
            folded=True,
        ),
    ]


def _copies(memorisation: Mapping[str, Any]) -> Table:
    sides = [side for side in ('pixels', 'features') if memorisation.get(side)]
    rows = []
    for key, name in _COPIES.items():
        values = [memorisation[side].get(key) for side in sides]
        if any(value is not None for value in values):
            share = name.endswith('%')
            cells = [number(v, '.1f', 100) if share else short(v) for v in values]
            rows.append((name, cells))
    note = 'Nearest training sample after all turns and flips.'
    return Table('Copies', [f'in {side}' for side in sides], rows, note)


def _change(change: Mapping[str, Any]) -> Table:
    rows = []
    for side in ('synthetic', 'reconstructed', 'held_out', 'train'):
        if found := change.get(side):
            share = ('detection', 'changed')
            cells = [
                number(found.get(key), '.1f', 100)
                if key in share
                else short(found.get(key))
                for key in _CHANGE
            ]
            rows.append((_SIDES['real' if side == 'train' else side], cells))
    note = (
        'Difference between dates in reflectance; in how many of 100 cases a changed '
        'pixel differs more than an unchanged one; and changed pixels.'
    )
    return Table('Change between dates', list(_CHANGE.values()), rows, note)


def comparison_tables(runs: Sequence[Run], score: str) -> list[Table]:
    """Scores of each arm, and the IoU of each class.

    Args:
        runs: Runs of one network and one real size, failed ones included.
        score: Name of the score that is compared.

    Returns:
        The tables, in points.
    """
    others = [name for name in ('miou', 'f1', 'accuracy') if name != score]
    called = [NAMES[name] for name in (score, *others)]
    values, found = by_arm(runs, score), differences(runs, score)
    images, rows = images_without_labels(runs), []
    for key, scored in values.items():
        points = [100 * value for value in scored.values()]
        spread = stdev(points) if len(points) > 1 else None
        cells = [str(images[key])] if images else []
        cells += [number(_mean(points)), number(spread)]
        for name in others:
            cells.append(number(_mean([*by_arm(runs, name)[key].values()]), '.1f', 100))
        difference = ''
        if key in found:
            m, low, high = (number(v, '+.1f', 100) for v in found[key][:3])
            difference = f'{m} [{low}, {high}]'
        rows.append((arm_label(*key), [*cells, difference]))
    columns = [called[0], '± over seeds', *called[1:], f'{called[0]} against real only']
    columns = [*(['images without labels'] if images else []), *columns]
    classes = []
    for name in next((run.iou for run in runs if run.iou), {}):
        cells = []
        for key in values:
            own = [r.iou.get(name) for r in runs if (r.arm, r.ratio) == key]
            known = [v for v in own if v is not None]
            cells.append(number(_mean(known), '.1f', 100))
        classes.append((name, cells))
    note = 'In points; F1 and IoU are means over classes.'
    labels = [arm_label(*key) for key in values]
    split = 'validation' if any(run.split == 'val' for run in runs) else 'test'
    return [
        Table(f'Scores on the {split} split', columns, rows, note),
        Table('IoU of each class', labels, classes, folded=True),
    ]


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def sample_table(
    scores: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """The table of generated samples.

    Args:
        scores: Lines of ``scores/synthetic.jsonl``.

    Returns:
        Names of the columns that any sample has, and for each of at most 1000 samples
        for each column what to sort by (empty for nothing) and what to show.
    """
    keys = [
        key for key in SAMPLE_COLUMNS if any(r.get(key) is not None for r in scores)
    ]
    rows = [[_cell(row.get(key)) for key in keys] for row in scores[:MOST_SAMPLES]]
    return [SAMPLE_COLUMNS[key] for key in keys], rows


def _cell(value: Any) -> tuple[str, str]:
    """The key to sort a cell by, and its text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return '', '\N{EN DASH}'
    if isinstance(value, bool):
        return str(int(value)), 'yes' if value else 'no'
    if isinstance(value, float):
        return repr(value), short(value)
    return str(value), str(value)
