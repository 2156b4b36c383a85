# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The trustworthy samples of a generated folder, and as many taken at random."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bars import bar
from ..datasets.pairs import PairFolder
from ..files import sha256
from ..pairs.copying import CopyWriter
from ..pairs.fingerprint import read_seen_samples, write_seen_samples
from ..pairs.manifest import read_manifest, require_unchanged
from ..pairs.valid import labelled_pixels
from ..philox import philox
from .choosing import Decision, choose
from .choosing import balance as balanced
from .filter_summary import FilterSummary, write_cards
from .scores import TRUST, read_scores

_SCORES = ('synthetic.jsonl', 'real.jsonl')
#: What a manifest line says that is not true of a copy.
_REPLACED = ('id', 'index', 'scores', 'accepted', 'reason', 'files')
#: Streams of random numbers: the samples of the control, and its pixels.
_SAMPLES, _PIXELS = 0, 1


# nine parameters: four folders, and what is kept and why
def filter_pairs(
    folder: str | Path,
    out: str | Path,
    scores: str | Path,
    quantile: float | None = 0.1,
    copies: float | None = 0.01,
    readings: str | Path | None = None,
    balance: int | None = None,
    seed: int = 0,
    by: Sequence[str] = TRUST,
) -> FilterSummary:
    """Write a copy of a folder of pairs with its trustworthy samples only.

    Beside it, ``<out>-random`` gets as many samples taken at random, so that a gain
    from filtering can be told from a gain from having fewer samples. Image files are
    copied byte for byte, ``training_samples.txt`` goes along, and the manifests have
    a line for every sample, also for those left out. Of a folder with ``train.txt``
    only the samples in it are used. Run again, it writes what is missing.

    Args:
        folder: The folder of pairs.
        out: The folder to write to.
        scores: The folder of ``synthetic.jsonl`` and ``real.jsonl`` (see :func:`choose`).
        quantile: Scores in *by* must reach this quantile of the real ones, in 0..1;
            None does not look at them. Not used with *readings*.
        copies: Distances to training samples must reach this quantile of the real ones,
            in 0..1; None does not look at them.
        readings: A folder that :func:`.relabel` wrote from *folder*. Pixels whose mask
            is not what was read get the ignore index, and samples are left out for
            being copies only. In the control as many pixels of each sample get it,
            in other places. None leaves out whole samples.
        balance: Keep this many of the accepted samples, those whose classes cover
            areas as equal as possible; None keeps all.
        seed: Seed of the random choices.
        by: Scores to go by: any of ``agreement``, ``edges`` and ``spectrum``.

    Returns:
        What is left.

    Raises:
        FileExistsError: If a folder to write to holds something else or other settings.
        FileNotFoundError: If a folder or the scores are missing.
        ValueError: If an option, the scores or the readings do not fit, files were
            changed after they were written, or no sample is left.
    """
    if seed < 0:
        raise ValueError(f'seed={seed} must be 0 or more.')
    quantile = quantile if readings is None else None
    judged, real = (Path(scores) / name for name in _SCORES)
    samples = _Samples(Path(folder), judged, readings)
    decision = choose(samples.scores, read_scores(real), quantile, copies, by)
    before, after = samples.areas()
    reasons = _leave_out(decision, after, balance, samples.pairs.root)
    at_random = _leave_out_at_random(reasons, seed)
    out = Path(out)
    control = out.with_name(f'{out.name}-random')
    summary = _summarise(decision, reasons, before, after, samples, control)
    settings = {
        'samples': samples.pairs.digest(),
        'scores': _digest(map(sha256, (judged, real))),
        'quantile': quantile,
        'copies': copies,
        'by': list(by),
        'readings': samples.read_from,
        'balance': balance,
        'seed': seed,
    }
    # both before any sample is written: either folder may be taken
    writer = samples.open(out, reasons, settings | {'kept': 'trusted'})
    other = samples.open(control, at_random, settings | {'kept': 'random'})
    samples.write(writer, reasons)
    samples.write(other, at_random, seed)
    write_cards(writer, other, summary, folder, readings is not None)
    return summary


class _Samples:
    """The samples to choose from, what was read in them, and their scores."""

    def __init__(self, folder: Path, scores: Path, readings: str | Path | None) -> None:
        listed = (folder / 'train.txt').exists()
        self.pairs = PairFolder(folder, 'train' if listed else None)
        require_unchanged(folder)
        self.scores = _match(read_scores(scores), self.pairs, scores)
        self._rows = {row['id']: row for row in read_manifest(folder)}
        rejected = {
            name for name, row in self._rows.items() if not row.get('accepted', True)
        }
        names = sorted(rejected.union(self.pairs.ids))
        self._number = {name: number for number, name in enumerate(names)}
        self._readings: PairFolder | None = None
        #: A hash of the readings.
        self.read_from: str | None = None
        if readings is not None:
            self._readings = _open_readings(Path(readings), self.pairs)
            self.read_from = self._readings.digest(images=False)

    def areas(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels of each class (N, K), in the masks and in those that are written."""
        classes = self.pairs.spec.num_classes
        found = []
        total = len(self.pairs)
        for position in bar(range(total), 'look', hidden=total < 100):
            _, *masks = self._load(position)
            labels = [mask[labelled_pixels(mask, classes)] for mask in masks]
            found.append([np.bincount(x, minlength=classes) for x in labels])
        both = np.array(found)
        return both[:, 0], both[:, 1]

    def open(
        self, out: Path, reasons: Sequence[str], settings: Mapping[str, Any]
    ) -> CopyWriter:
        """Begin a folder, or find it as it was left."""
        named = zip(self.pairs.ids, reasons, strict=True)
        # rounding differs between machines, and may decide near a tie
        chosen = {'chosen': _digest(name for name, reason in named if not reason)}
        origin = self.pairs.provenance
        provenance = {
            **origin,
            'filtered': True,
            'filtered_from': str(self.pairs.root),
            'origin': origin.get('settings'),
        }
        writer = CopyWriter(out, self.pairs.spec, provenance, {**settings, **chosen})
        writer.clean()
        if seen := read_seen_samples(self.pairs.root):
            write_seen_samples(out, sorted(seen))
        return writer

    def write(
        self, writer: CopyWriter, reasons: Sequence[str], seed: int | None = None
    ) -> None:
        """Write the samples without a reason, and a manifest line for all of them.

        With a seed, not the pixels that were read otherwise lose their label, but as
        many others.
        """
        done, total = writer.done(), len(self.pairs)
        relabelled = self.pairs.provenance.get('relabelled')
        tags = {'RELABELLED': 'YES'} if relabelled else {}
        for name in sorted(self._number.keys() - {*self.pairs.ids}):
            if self._number[name] not in done:
                reason = self._rows[name].get('reason', 'rejected before')
                writer.reject(name, reason, self._record(name))
        for position in bar(range(total), 'filter', hidden=total < 100):
            name, reason = self.pairs.ids[position], reasons[position]
            if self._number[name] in done:
                continue
            scores = self.scores[position]
            scores = {k: v for k, v in scores.items() if k not in ('id', 'index')}
            record = self._record(name) | {'scores': scores}
            if reason:
                writer.reject(name, reason, record)
                continue
            shift = 0
            if seed is not None:
                shift = philox(seed, _PIXELS, position).random_raw()
            image, _, mask = self._load(position, shift)
            paths = self.pairs.image_paths(name)
            writer.copy(name, image, paths, mask, record, tags)

    def _record(self, name: str) -> dict[str, Any]:
        """The manifest line of a sample, without files and scores."""
        row = self._rows.get(name, {})
        kept = {key: value for key, value in row.items() if key not in _REPLACED}
        return {'index': self._number[name]} | kept

    def _load(
        self, position: int, shift: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Image, mask (H, W), and mask without the pixels that were read otherwise.

        A shift moves these pixels to others that have labels.
        """
        sample = self.pairs[position]
        image = sample['image'].numpy()
        mask = sample['mask'].numpy().reshape(image.shape[-2:])
        if self._readings is None:
            return image, mask, mask
        reading = self._readings[position]
        if not np.array_equal(reading['image'].numpy(), image):
            raise ValueError(
                f'{self._readings.mask_path(self.pairs.ids[position])} was read in '
                f'another image than that of {self.pairs.root}. Relabel this folder.'
            )
        ignored = self.pairs.spec.ignore_index
        labelled = mask != ignored
        doubtful = (mask != reading['mask'].numpy().reshape(mask.shape))[labelled]
        moved = np.roll(doubtful, shift % mask.size)
        trusted = mask.copy()
        trusted[labelled] = np.where(moved, ignored, mask[labelled])
        return image, mask, trusted


def _leave_out(
    decision: Decision, areas: NDArray[np.int64], count: int | None, root: Path
) -> list[str]:
    """Why each sample is left out, empty if it is not."""
    reasons = ['; '.join(faults) for faults in decision.reasons]
    for position in np.flatnonzero(areas.sum(1) == 0):
        reasons[position] = reasons[position] or 'no labels left'
    accepted = np.flatnonzero([not reason for reason in reasons])
    if not len(accepted):
        found = _count(decision, reasons)
        counts = ', '.join(f'{reason}: {number}' for reason, number in found.items())
        raise ValueError(
            f'0 of the {len(reasons)} samples of {root} pass ({counts}), and a folder '
            'needs 1 or more. Use a lower quantile, go by fewer scores, or train the '
            'generator further.'
        )
    if count is not None:
        chosen = accepted[balanced(areas[accepted], count)]
        for position in np.setdiff1d(accepted, chosen):
            reasons[position] = 'not needed for balance'
    return reasons


def _leave_out_at_random(reasons: Sequence[str], seed: int) -> list[str]:
    """Keep as many samples, whatever they are."""
    raw = philox(seed, _SAMPLES, 0).random_raw(len(reasons))
    order = np.argsort(raw, kind='stable')
    kept = {*order[: reasons.count('')].tolist()}
    return ['' if i in kept else 'dropped at random' for i in range(len(reasons))]


def _summarise(
    decision: Decision,
    reasons: Sequence[str],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    samples: _Samples,
    control: Path,
) -> FilterSummary:
    kept = after[[not reason for reason in reasons]].sum(0)
    shares = zip(samples.pairs.spec.classes, kept, before.sum(0), strict=True)
    return FilterSummary(
        accepted=reasons.count(''),
        total=len(reasons),
        classes={n: float(part / all_) if all_ else None for n, part, all_ in shares},
        reasons=_count(decision, reasons),
        thresholds=decision.thresholds,
        real=decision.real,
        control=control,
    )


def _count(decision: Decision, reasons: Sequence[str]) -> dict[str, int]:
    """Samples that each reason left out, most first."""
    faults = Counter(fault for found in decision.reasons for fault in found)
    passed = zip(decision.accepted, reasons, strict=True)
    faults.update(reason for accepted, reason in passed if accepted and reason)
    return dict(faults.most_common())


def _match(
    rows: Sequence[dict[str, Any]], pairs: PairFolder, path: Path
) -> list[dict[str, Any]]:
    """The scores of each sample of a folder, in its order."""
    by_name = {row['id']: row for row in rows}
    missing = [name for name in pairs.ids if name not in by_name]
    unknown = sorted(by_name.keys() - {*pairs.choose_ids(None, accepted_only=False)})
    if missing or unknown or len(by_name) < len(rows):
        raise ValueError(
            f'{path} lacks {len(missing)} samples of {pairs.root} ({missing[:5]}), has '
            f'{len(unknown)} that are not there ({unknown[:5]}) and '
            f'{len(rows) - len(by_name)} twice, but must have each one once. Measure '
            'this folder again.'
        )
    return [by_name[name] for name in pairs.ids]


def _open_readings(readings: Path, pairs: PairFolder) -> PairFolder:
    """The masks that a network read in the images of a folder, in the same order."""
    if pairs.spec.ignore_index is None:
        raise ValueError(
            f'{pairs.root} has no ignore index to mark doubtful pixels with. Add '
            '"ignore_index": 255 to its dataset.json, or leave out whole samples.'
        )
    found = PairFolder(readings)
    pairs.spec.require_match(found.spec, str(pairs.root), str(readings))
    missing = sorted({*pairs.ids}.difference(found.ids))
    if missing:
        raise ValueError(
            f'{readings} lacks {len(missing)} samples of {pairs.root}: {missing[:5]}. '
            'Relabel this folder to the end.'
        )
    return found.select(pairs.ids)


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:16]
