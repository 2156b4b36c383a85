# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The result of filtering, in words."""

from pathlib import Path
from typing import NamedTuple

from ..pairs.copying import CopyWriter
from .scores import TRUST

#: Share of the samples below which a filter is worth a hint.
_FEW = 0.1

_CARD = """# Filtered image patches

{summary}

The samples are those of `{source}`, image files byte for byte; `manifest.jsonl` holds
scores and reasons, also of those that were left out. The thresholds were chosen on
real samples, each judged by networks that did not see it. What `README.md` of the
source says holds here too.

Train with `{control}` as well: only what this folder gains over that one comes from
filtering, the rest from having fewer {fewer}.
"""
_CONTROL_CARD = """# Image patches taken at random

A control: {count} of the {total} samples of `{source}`, image files byte for byte,
taken at random whatever their scores, as many as filtering left in `{filtered}`.{fewer}
What `README.md` of the source says holds here too.
"""
_FEWER_PIXELS = ' In each, as many pixels as were read otherwise have no label.'


class FilterSummary(NamedTuple):
    """The result of filtering a folder."""

    accepted: int  #: samples that were kept
    total: int  #: samples that there were
    classes: dict[str, float | None]  #: share of its pixels kept, None for no pixels
    reasons: dict[str, int]  #: samples that each reason left out, most first
    thresholds: dict[str, float]  #: the least value of each score that passes
    real: float  #: share of the real samples that pass too, in 0..1
    control: Path  #: the folder with as many samples taken at random


def summary_text(summary: FilterSummary) -> str:
    """Say in a few lines what filtering left.

    Args:
        summary: Result of :func:`filter_pairs`.

    Returns:
        Lines of text, without a newline at the end.
    """
    share = summary.accepted / summary.total
    classes = ', '.join(
        f'{name} {"none there" if part is None else f"{part:.1%}"}'
        for name, part in summary.classes.items()
    )
    least = ', '.join(f'{key} {value:.3g}' for key, value in summary.thresholds.items())
    lines = [
        f'{summary.accepted} of {summary.total} samples kept ({share:.1%})',
        f'real samples that would pass: {summary.real:.1%}',
        f'least values, from real samples: {least or "none"}',
        f'pixels kept: {classes}',
        *(f'{reason}: {count}' for reason, count in summary.reasons.items()),
        f'control, as many taken at random: {summary.control}',
        *_hint(summary),
    ]
    return '\n'.join(lines)


def write_cards(
    writer: CopyWriter,
    control: CopyWriter,
    summary: FilterSummary,
    source: str | Path,
    pixels: bool,
) -> None:
    """Sort the manifests and say what both folders are.

    Args:
        writer: Writer of the filtered folder, with all of its samples.
        control: Writer of the folder with as many samples taken at random.
        summary: The result of filtering.
        source: The folder that was filtered.
        pixels: Whether pixels were left out instead of samples.
    """
    card = _CARD.format(
        summary=summary_text(summary),
        source=source,
        control=control.root,
        fewer='samples and pixels' if pixels else 'samples',
    )
    writer.finish(card)
    card = _CONTROL_CARD.format(
        count=summary.accepted,
        total=summary.total,
        source=source,
        filtered=writer.root,
        fewer=_FEWER_PIXELS if pixels else '',
    )
    control.finish(card)


def _hint(summary: FilterSummary) -> list[str]:
    """Advice where hardly anything passes."""
    failed = {
        name: summary.reasons.get(f'{name} below {least:.3g}', 0)
        for name, least in summary.thresholds.items()
        if name in TRUST
    }
    hardest = max(failed, key=failed.__getitem__, default='')
    few = summary.accepted < _FEW * summary.total
    # balance leaves out samples too
    if not few or failed.get(hardest, 0) < summary.total / 2:
        return []
    others = ' '.join(name for name in failed if name != hardest)
    remedy = (
        f'--by {others} leaves it out' if others else 'a lower --quantile asks less'
    )
    hint = (
        f'{failed[hardest]} of {summary.total} fail by {hardest}, in which real samples '
        f'are better: train the generator further, or {remedy}'
    )
    return [hint]
