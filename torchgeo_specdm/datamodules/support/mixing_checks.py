# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Checks of a mix of real and synthetic samples before it is trained on."""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datamodules import NonGeoDataModule

from ...datasets.pairs import PairFolder
from ...pairs.facts import Survey, declared_names, declared_spec, fingerprints, survey
from ...pairs.fingerprint import SEEN, read_seen_samples
from ...pairs.manifest import require_unchanged
from ...pairs.spec import SampleSpec

#: Hashes of samples, and the first sample that has each, by split.
HeldOut = dict[str, dict[str, int]]
#: Means of the same band that differ by more than this factor have other units.
UNIT_FACTOR = 10.0
#: What other people's setup('test') raises where there is no test set.
_NO_TEST_SET = (
    AssertionError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class MixOptions:
    """The options of a mix, free of contradictions.

    Args:
        synthetic: The folder of pairs, if there is one.
        ratio: Synthetic samples for each real one.
        real_limit: Number of real samples, None for all.
        synthetic_limit: Number of synthetic samples, None for *ratio*.
        real_share: Share of real samples in each batch, or None.
        equal_updates: Whether real samples alone set the length of an epoch.
        seed: Chooses the subsets.

    Raises:
        ValueError: If a number is out of range or contradicts another.
    """

    synthetic: str | Path | None
    ratio: float
    real_limit: int | None
    synthetic_limit: int | None
    real_share: float | None
    equal_updates: bool
    seed: int

    def __post_init__(self) -> None:
        """Check each number, then what they ask for together."""
        if not _is_number(self.ratio) or self.ratio < 0:
            raise ValueError(
                f'ratio={self.ratio!r} must be a number, 0 or more, such as 1.0.'
            )
        _require_count('real_limit', self.real_limit, 0)
        _require_count('synthetic_limit', self.synthetic_limit, 1)
        _require_count('seed', self.seed, 0)
        share = self.real_share
        if share is not None and not (_is_number(share) and 0 < share < 1):
            raise ValueError(
                f'real_share={share!r} must lie between 0 and 1, such as 0.5. Use '
                'ratio=0 for real samples only, real_limit=0 for synthetic ones only.'
            )
        if self.real_limit == 0 and (share is not None or self.equal_updates):
            raise ValueError(
                f'real_limit=0 leaves no real samples, but real_share={share} or '
                f'equal_updates={self.equal_updates} counts them. Leave these out.'
            )
        if self.only_real and self.synthetic_limit is not None:
            raise ValueError(
                'ratio=0 leaves no synthetic samples, but synthetic_limit='
                f'{self.synthetic_limit} asks for some. Use another ratio, or leave it '
                'out.'
            )
        if self.synthetic is None and not self.only_real:
            raise ValueError(
                f'synthetic=None gives no samples, but ratio={self.ratio} and '
                f'real_limit={self.real_limit} ask for some. Name a folder that '
                'torchgeo-specdm generate wrote, or use ratio=0.'
            )

    @property
    def only_real(self) -> bool:
        """Whether no synthetic samples are wanted."""
        return self.ratio == 0 and self.real_limit != 0


def open_folder(root: str | Path | None) -> PairFolder:
    """Open the folder of synthetic samples.

    Args:
        root: The folder of pairs.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If its images and masks do not pair, or files were changed after
            they were drawn.
    """
    if root is None or not (Path(root) / 'images').is_dir():
        raise FileNotFoundError(
            f'synthetic={root} is no folder of pairs: {root}/images does not exist. '
            'Write one first: torchgeo-specdm generate --count N.'
        )
    require_unchanged(Path(root))
    return PairFolder(root)


def require_room(real: NonGeoDataModule, size: tuple[int, int], folder: Path) -> None:
    """Refuse samples that are smaller than the crops that the datamodule takes.

    Args:
        real: The real datamodule; its ``crop_size`` or ``patch_size``, if any, is
            looked at.
        size: Height and width of the samples of the mixed set.
        folder: Folder of the synthetic samples.

    Raises:
        ValueError: If a crop does not fit.
    """
    name = 'crop_size' if hasattr(real, 'crop_size') else 'patch_size'
    wanted = getattr(real, name, None)
    if wanted is None:
        return
    height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
    if size[0] < height or size[1] < width:
        raise ValueError(
            f'{type(real).__name__} crops to {(height, width)} pixels, but the samples '
            f'of {folder} leave only {size}. Generate samples of at least the crop '
            f'size, or set a smaller {name}.'
        )


def require_same_units(
    real: NonGeoDataModule,
    name: str,
    bands: Sequence[str],
    ours: Tensor,
    theirs: Tensor,
) -> None:
    """Refuse samples whose values are far from those of the real ones.

    Means of the same band must agree within a factor of 10. That most bands do not is
    an error; that some do not may be the generator's fault and is a warning.

    Args:
        real: The real datamodule.
        name: Name of the other samples in the message.
        bands: Names of their bands.
        ours: Mean absolute value of each band of the real samples, (C,).
        theirs: That of the others.

    Raises:
        ValueError: With the values of both sides, if most bands differ.
    """
    low, high = torch.minimum(ours, theirs), torch.maximum(ours, theirs)
    differ = (high > UNIT_FACTOR * low).nonzero().flatten().tolist()
    text = '; '.join(f'{bands[i]} {ours[i]:.4g} and {theirs[i]:.4g}' for i in differ)
    if 2 * len(differ) >= len(ours):
        raise ValueError(
            f'{type(real).__name__} and {name} have different units: mean '
            f'absolute values are {text}, but must agree within a factor of '
            f'{UNIT_FACTOR:g}. Use a folder in the raw units of the real data set.'
        )
    if differ:
        rank_zero_warn(
            f'Mean absolute values of {type(real).__name__} and {name} differ '
            f'by more than a factor of {UNIT_FACTOR:g} in some bands: {text}.'
        )


def require_same_names(
    real: NonGeoDataModule,
    dataset: Dataset[dict[str, Tensor]],
    synthetic: SampleSpec,
    name: str,
    seen: Survey | None = None,
) -> None:
    """Refuse synthetic samples with other bands, classes, dates or units.

    Args:
        real: The real datamodule.
        dataset: Training set of the real datamodule.
        synthetic: Description of the synthetic samples, present or to come.
        name: Name of the synthetic samples in the message.
        seen: Facts that are known of *dataset*; None looks at it.

    Raises:
        ValueError: With both values of what differs, as far as the real datamodule or
            its data set says it.
    """
    seen = seen or survey(dataset)
    if len(seen.level) != synthetic.num_bands:
        raise ValueError(
            f'{type(real).__name__} has images of {len(seen.level)} bands, but {name} '
            f'has {synthetic.num_bands}: {list(synthetic.bands)}. Use the same bands '
            'on both sides.'
        )
    spec = _known(real, dataset, synthetic, seen)
    spec.require_match(synthetic, type(real).__name__, name)


def hash_held_out(real: NonGeoDataModule) -> HeldOut:
    """Hash every validation and test sample, and their images.

    A data set that crops at random gives other hashes each time.

    Args:
        real: The real datamodule, set up for fitting; it is not changed.

    Returns:
        For ``val`` and ``test``, :func:`~torchgeo_specdm.pairs.facts.fingerprints`.
    """
    sets = {'val': real.val_dataset, 'test': test_set(real)}
    return {
        split: fingerprints(dataset, True) if dataset else {}
        for split, dataset in sets.items()
    }


def require_no_leak(
    real: NonGeoDataModule, folder: PairFolder, held_out: HeldOut | None = None
) -> None:
    """Refuse synthetic samples whose generator saw validation or test samples.

    Images without labels that it saw count as well. A data set that crops at random
    cannot be checked, nor a folder that is not said to come from a generator.

    Args:
        real: The real datamodule, set up for fitting; it is not changed.
        folder: The synthetic samples.
        held_out: Hashes of the validation and test samples, from
            :func:`hash_held_out`; None reads every one of them.

    Raises:
        ValueError: With the number of samples seen, or if the folder of a generator
            does not say which it saw.
    """
    seen, root = read_seen_samples(folder.root), folder.root
    # procedural scenes are synthetic, but nothing was trained to make them
    drawn = folder.provenance.get('synthetic') and 'scenes' not in folder.provenance
    if not seen and drawn:
        raise ValueError(
            f'{root} says that a generator drew it, but {SEEN} there does not say which '
            'samples the generator was trained on; validation and test samples may be '
            'among them. Copy this file from the folder of the generator, or use '
            'leak_check=False to go on without.'
        )
    if not seen:
        rank_zero_info(
            f'{root} does not say that a generator drew it, so validation and test '
            'samples among what one was trained on are not looked for.'
        )
        return
    require_unseen(real, seen, root, held_out)


def require_unseen(
    real: NonGeoDataModule,
    seen: set[str],
    root: Path | str,
    held_out: HeldOut | None = None,
) -> None:
    """Refuse a generator that saw validation or test samples.

    Args:
        real: The real datamodule, set up for fitting; it is not changed.
        seen: Fingerprints of what the generator was trained on.
        root: Folder of the generator, or of what it drew.
        held_out: Hashes of the validation and test samples, from
            :func:`hash_held_out`; None reads every one of them.

    Raises:
        ValueError: With the number of samples seen.
    """
    for split, found in (held_out or hash_held_out(real)).items():
        known = {found[value] for value in seen.intersection(found)}
        if known:
            raise ValueError(
                f'{len(known)} {split} samples of {type(real).__name__} are among '
                f'those that the generator of {root} was trained on; scores on them '
                'would say nothing. Train it on the training split of this datamodule, '
                'or use leak_check=False of a mix if they are no measure.'
            )


def test_set(real: NonGeoDataModule) -> Dataset[dict[str, Tensor]] | None:
    """Find the test set of a datamodule that is set up for something else.

    Args:
        real: The datamodule; it is not changed.

    Returns:
        The test set; None where it has none, or none on this disk.
    """
    found: Dataset[dict[str, Tensor]] | None = real.test_dataset
    if found is not None:
        return found
    probe = copy.copy(real)
    if 'download' in real.kwargs:
        probe.kwargs = real.kwargs | {'download': False}
    try:
        probe.setup('test')
    except _NO_TEST_SET as error:
        # many test sets are not public, or not on this disk
        rank_zero_info(f'The test set is not there to look for leaks: {error}')
        return None
    found = probe.test_dataset
    return found


def _known(
    real: NonGeoDataModule,
    dataset: Dataset[dict[str, Tensor]],
    synthetic: SampleSpec,
    seen: Survey,
) -> SampleSpec:
    """Facts of the real samples; what is not known is taken from the synthetic ones."""
    known: dict[str, Any] = {}
    spec = declared_spec(real, dataset)
    if spec is not None:
        known = {n: getattr(spec, n) for n in ('dates', 'scale', 'offset')}
        names, classes = spec.bands, spec.classes
    else:
        names, classes = declared_names(dataset, len(seen.level))
        # some data sets list other things as classes than labels
        classes = classes if len(classes) > seen.top else ()
    if names and not _stand_in(synthetic.bands):
        known['bands'] = names
    fewer = len(synthetic.classes) <= len(classes)
    if classes and not (_stand_in(synthetic.classes) and fewer):
        known |= {'classes': classes, 'colors': (), 'codes': ()}
    return replace(synthetic, ignore_index=None, **known)


def _stand_in(names: tuple[str, ...]) -> bool:
    """Whether a plain folder was given these names for want of better ones."""
    return all(re.fullmatch(r'(band|class)_\d+', name) for name in names)


def _require_count(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f'{name}={value!r} must be a whole number, {least} or more.')


def _is_number(value: Any) -> bool:
    numeric = isinstance(value, Real) and not isinstance(value, bool)
    return numeric and math.isfinite(value)
