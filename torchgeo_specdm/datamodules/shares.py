# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Samples whose classes have the shares that are asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .generation import BatchDataset, GenerationDataModule
from .labelling import MOST_DRAWS

#: Shares such as 0.1, 0.2 and 0.7 do not add up to 1 to the bit.
_ROUNDING = 1e-6


class ShareBatches(BatchDataset):
    """Batches of samples, for each of which a mask is chosen of several.

    Attributes:
        positions: Position in the mask of each class whose share is asked for.
        numbers: Number of the mask that was chosen for each sample.
        candidates: Mean shares of the masks that it was chosen from, in 0..1 (N, S).
    """

    positions: Mapping[str, int]
    numbers: Sequence[int]
    candidates: NDArray[np.float64]

    def __getitem__(self, position: int) -> dict[str, Any]:
        """As :meth:`BatchDataset.__getitem__`, with the ``number`` of each mask (B,)."""
        batch = super().__getitem__(position)
        numbers = [self.numbers[index] for index in self.batches[position]]
        return batch | {'number': torch.tensor(numbers)}

    def record(self, index: int, mask: NDArray[np.integer[Any]]) -> dict[str, Any]:
        """See :meth:`BatchDataset.record`; with shares of the mask and its rivals."""
        mean = dict(zip(self.positions, self.candidates[index].tolist(), strict=True))
        return {
            'number': self.numbers[index],
            'shares': {n: float((mask == p).mean()) for n, p in self.positions.items()},
            'candidates': mean,
        }


class ShareDataModule(GenerationDataModule):
    """Tells :class:`SpecDMTask` in ``torchgeo predict`` to meet shares of classes.

    For each sample several masks are drawn by themselves, and one is chosen that leads
    the classes of all masks towards what is asked for; then an image is drawn for it.
    """

    def __init__(
        self,
        out: str,
        class_share: dict[str, float],
        count: int | None = None,
        draws: int = 8,
        seed: int = 0,
        batch_size: int = 16,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Initialize a new ShareDataModule instance.

        Args:
            out: Folder to write to.
            class_share: Share of the area of all masks, in 0..1, of classes by their
                names or codes. Other classes get what is left.
            count: Number of samples.
            draws: Masks that each one is chosen from, 1 to 1000.
            seed: Seed of the run, from 0 to 2**63 - 1.
            batch_size: Samples drawn at once.
            size: Height and width of a sample in pixels, from the patches of training
                up; None for these patches.

        Raises:
            ValueError: If a number is out of range.
        """
        super().__init__(out, count, seed, batch_size, size=size)
        shares = class_share.values()
        if not shares or not min(shares) >= 0 or not sum(shares) <= 1 + _ROUNDING:
            raise ValueError(
                f'class_share={class_share} must have shares of 0 or more, whose sum '
                'is 1 at the most. Ask for less, for example {built-up: 0.2}.'
            )
        if not 1 <= draws <= MOST_DRAWS:
            raise ValueError(
                f'draws={draws} must be from 1 to {MOST_DRAWS}. 8 are enough where the '
                'share is not far from that of the training samples.'
            )
        self.mode = 'shares'
        self.settings = {'class_share': class_share, 'draws': draws}

    def setup(self, stage: str) -> None:
        """See :meth:`GenerationDataModule.setup`; refuses what has no such masks.

        Args:
            stage: Only 'predict' makes sense here.

        Raises:
            ValueError: If the generator cannot draw masks by themselves.
        """
        super().setup(stage)
        task: Any = self.trainer and self.trainer.lightning_module
        task.generator.require_masks()

    def make_dataset(
        self, batches: Sequence[Sequence[int]], size: tuple[int, int] | None
    ) -> BatchDataset:
        """See :meth:`GenerationDataModule.make_dataset`."""
        dataset = ShareBatches(batches, None, self.seed, size)
        asked: dict[str, float] = self.settings['class_share']
        dataset.positions = {n: self.spec.classes.index(n) for n in asked}
        return dataset

    def _require_match(self) -> None:
        """Refuse classes that there are not, and name those that there are."""
        spec, asked = self.spec, self.settings['class_share']
        if spec.dates > 1:
            raise ValueError(
                f'class_share={asked} is a share of land cover, but the classes of a '
                f'generator of {spec.dates} dates are kinds of change: '
                f'{list(spec.classes)}. Leave it out, or choose the changed area with '
                'the masks of --change.'
            )
        codes = {str(code): n for code, n in zip(spec.codes, spec.classes, strict=True)}
        names = {
            name: name if name in spec.classes else codes.get(name, '')
            for name in asked
        }
        known = [name for name in names.values() if name]
        if len({*known}) < len(asked):
            raise ValueError(
                f'class_share={asked} must name classes of the generator, each once: '
                f'{list(spec.classes)}, or their codes {list(spec.codes)}.'
            )
        if len(asked) == spec.num_classes and sum(asked.values()) < 1 - _ROUNDING:
            raise ValueError(
                f'class_share={asked} names all classes, so the sum must be 1, but it '
                f'is {sum(asked.values()):g}. Leave a class out, which gets the rest.'
            )
        self.settings['class_share'] = {names[name]: s for name, s in asked.items()}
