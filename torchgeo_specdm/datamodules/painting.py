# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Real scenes to paint changes into."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from ..datasets.pairs import PairFolder
from ..datasets.rasters import ImageFolder, MaskFolder
from ..diffusion.noise import stream_random
from ..pairs.spec import SampleSpec
from .generation import BatchDataset, GenerationDataModule

#: The side of a mask is scaled by 2 to a power between these.
_OCTAVES = (-1.0, 1.0)
#: Moved masks that are tried before one that meets nothing of an image is taken.
_TRIES = 20


def require_change(spec: SampleSpec, whose: str) -> None:
    """Refuse samples between which no change can be painted.

    Args:
        spec: Description of the samples.
        whose: Words of the message for who has them, such as 'the generator has'.

    Raises:
        ValueError: If they have other than two dates and two classes.
    """
    if spec.dates != 2 or spec.num_classes != 2:
        raise ValueError(
            f'Change is painted between 2 dates with 2 classes, but {whose} '
            f'{spec.dates} date(s) and the classes {list(spec.classes)}. Learn a '
            'generator from pairs of change.'
        )


class ChangeBatches(BatchDataset):
    """Batches of real first dates, with masks of what is painted into second ones.

    Args:
        batches: Sample numbers of each batch.
        source: Folder of pairs of two dates, or of images of one.
        seed: Seed of the run, which also moves the masks.
        donors: Masks of change (H, W), each with some.
        names: Name of each donor.
        strength: Distance from the real second date, in 0..1; 1 forgets it.
        first_outside: Whether the first date is kept outside, not the second one.
    """

    def __init__(
        self,
        batches: Sequence[Sequence[int]],
        source: PairFolder | ImageFolder,
        seed: int,
        donors: Sequence[Tensor],
        names: Sequence[str],
        strength: float,
        first_outside: bool,
    ) -> None:
        """Keep the arguments."""
        super().__init__(batches, source, seed, None, strength=strength)
        self.donors = donors
        self.names = names
        self.first_outside = first_outside

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One batch, with what is ``given``, the ``start``, and the pixels ``inside``."""
        indices = self.batches[position]
        parts = [self._scene(index) for index in indices]
        first, second, mask, inside = (torch.stack(part) for part in zip(*parts))
        return {
            'index': torch.tensor([*indices]),
            'seed': self.seed,
            'strength': self.strength,
            'size': None,
            'given': {'image_1': first, 'mask': mask},
            'start': {'image_2': second},
            'inside': inside,
        }

    def lot(self, index: int) -> dict[str, Any]:
        """The donor of a mask and how it is moved, by lot of the sample's number.

        Args:
            index: Number of the drawn sample.

        Returns:
            ``mask_source``, ``flip``, ``turns``, ``factor`` of its side, and ``top``
            and ``left``, pixels that it is moved by.
        """
        return self._moved(index)[1]

    def _scene(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """First and second date, the mask of all changes, and the pixels to paint."""
        assert self.source is not None
        sample = self.source[index % len(self.source)]
        image, moved = sample['image'], self._moved(index)[0]
        dates = image if image.ndim == 4 else torch.stack([image, image])
        first, second = dates[0], dates[0 if self.first_outside else 1]
        valid = (first.isfinite() & second.isfinite()).all(0)
        inside = moved & valid
        mask = torch.zeros(valid.shape, dtype=torch.long)
        if image.ndim == 4 and not self.first_outside:
            # what has changed anyway is no news, but is change
            mask = sample['mask'].reshape(valid.shape).clone()
            inside &= mask == 0
        mask[inside] = 1
        return first, second, mask, inside

    def _moved(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """A moved mask of the size of a scene, and how it was moved."""
        assert self.source is not None
        height, width = self.source.size(index % len(self.source))
        random = stream_random(self.seed, index, 'choice')
        for _ in range(_TRIES):
            number = int(random.integers(len(self.donors)))
            lot = {
                'mask_source': self.names[number],
                'flip': int(random.integers(2)),
                'turns': int(random.integers(4)),
                'factor': float(2 ** random.uniform(*_OCTAVES)),
                'top': int(random.integers(-height // 2, height // 2 + 1)),
                'left': int(random.integers(-width // 2, width // 2 + 1)),
            }
            moved = move_mask(self.donors[number], lot, (height, width))
            if moved.any():
                break
        return moved, lot


def move_mask(mask: Tensor, lot: dict[str, Any], size: tuple[int, int]) -> Tensor:
    """Flip, turn, scale and move a mask.

    Args:
        mask: Bool (h, w).
        lot: ``flip``, ``turns``, ``factor``, ``top`` and ``left``.
        size: Height and width of the result.

    Returns:
        Bool (H, W), false where the moved mask does not reach.
    """
    turned = torch.rot90(mask, lot['turns'], (0, 1))
    turned = turned.flip(1) if lot['flip'] else turned
    sides = [max(1, round(side * lot['factor'])) for side in turned.shape]
    scaled = interpolate(turned[None, None].float(), sides, mode='nearest')[0, 0] > 0
    moved = torch.zeros(size, dtype=torch.bool)
    # the middles lie on each other where nothing is moved
    offsets = [
        (full - side) // 2 + lot[name]
        for full, side, name in zip(size, sides, ('top', 'left'), strict=True)
    ]
    here = [
        slice(max(offset, 0), min(offset + side, full))
        for offset, side, full in zip(offsets, sides, size, strict=True)
    ]
    there = [
        slice(window.start - offset, window.stop - offset)
        for window, offset in zip(here, offsets, strict=True)
    ]
    if all(window.stop > window.start for window in here):
        moved[here[0], here[1]] = scaled[there[0], there[1]]
    return moved


class ChangeDataModule(GenerationDataModule):
    """Tells :class:`SpecDMTask` in ``torchgeo predict`` to paint change into scenes.

    First dates are real. Second dates are the real ones, or the first ones, equal to
    the bit, but for the pixels of a new mask, in which the generator paints a change.
    The masks are those of real changes, flipped, turned, scaled and moved by lot. What
    has changed between real dates stays marked as change.
    """

    def __init__(
        self,
        out: str,
        change: str,
        count: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        masks: str | None = None,
        strength: float = 1.0,
        first_outside: bool = False,
    ) -> None:
        """Initialize a new ChangeDataModule instance.

        Args:
            out: Folder to write to.
            change: Folder of pairs of two dates, or of images of one date.
            count: Number of samples; None for one of each scene.
            seed: Seed of the run, from 0 to 2**63 - 1.
            batch_size: Samples drawn at once.
            masks: Folder of masks of change, or of pairs; those of *change* if None.
            strength: Distance of what is painted from the real second date, in 0..1;
                1 forgets it.
            first_outside: Whether second dates are the first ones outside of the mask,
                as if nothing else had changed, and not the real second ones.

        Raises:
            ValueError: If a number is out of range.
        """
        super().__init__(out, count, seed, batch_size, masks=change)
        if not 0 < strength <= 1:
            raise ValueError(
                f'strength={strength} must lie in 0..1 without 0. 1 paints anew, 0.6 '
                'keeps large shapes.'
            )
        self.mode = 'change'
        self.strength = strength
        self.mask_folder = masks or change
        self.settings = {'first_outside': first_outside}
        self.real = ('image_1',)

    def make_dataset(
        self, batches: Sequence[Sequence[int]], size: tuple[int, int] | None
    ) -> BatchDataset:
        """See :meth:`GenerationDataModule.make_dataset`."""
        donors, names = self._donors()
        return ChangeBatches(
            batches,
            self.source,
            self.seed,
            donors,
            names,
            self.strength,
            self.settings['first_outside'],
        )

    @cached_property
    def source(self) -> PairFolder | ImageFolder:
        """The folder of scenes."""
        root = Path(str(self.source_folder))
        if (root / 'masks').is_dir():
            # test scenes must not end up in training data
            split: Any = 'train' if (root / 'train.txt').exists() else None
            return PairFolder(root, split, self.spec.bands)
        return ImageFolder(root, replace(self.spec, dates=1))

    @cached_property
    def source_digest(self) -> str:
        """A hash of the scenes and of the masks."""
        return f'{self.source.digest()}-{self._masks.digest()}'

    @cached_property
    def _masks(self) -> PairFolder | MaskFolder:
        """The folder of masks of change."""
        if self.mask_folder == self.source_folder and isinstance(
            self.source, PairFolder
        ):
            return self.source
        return MaskFolder(self.mask_folder, self.spec)

    def _donors(self) -> tuple[list[Tensor], list[str]]:
        """Masks with some change, and their names."""
        masks: Dataset[dict[str, Tensor]] = self._masks
        found, names = [], []
        for index, name in enumerate(self._masks.ids):
            mask = masks[index]['mask']
            change = mask.reshape(mask.shape[-2:]) == 1
            if change.any():
                found.append(change)
                names.append(name)
        if not found:
            raise ValueError(
                f'{self.mask_folder} has {len(self._masks.ids)} masks without any '
                f'change ({self.spec.classes[1]}), but new masks are made of real ones. '
                'Give a folder of masks with change as masks.'
            )
        return found, names

    def _require_match(self) -> None:
        """Refuse a generator of other samples, and scenes that do not suit it."""
        require_change(self.spec, 'the generator has')
        names = ('bands', 'scale')
        folder = str(self.source_folder)
        self.spec.require_match(self.source.spec, 'the generator', folder, names)
