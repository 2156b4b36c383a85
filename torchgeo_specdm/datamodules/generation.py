# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The samples to generate, batch by batch, and the folder that takes them."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchgeo.datamodules import BaseDataModule

from ..datasets.pairs import PairFolder
from ..datasets.rasters import ImageFolder, MaskFolder
from ..diffusion.noise import SEED_LIMIT, stream_random
from ..pairs.classes import CLASSES
from ..pairs.layout import DESCRIPTION
from ..pairs.spec import SampleSpec

_log = logging.getLogger(__name__)


#: Folders that samples are given from.
Source = PairFolder | MaskFolder | ImageFolder


class BatchDataset(Dataset[dict[str, Any]]):
    """Whole batches of sample numbers, with the given samples if there are any.

    A batch always holds the same numbers, so a resumed run and a run on several
    processes compute the very same batches.

    Args:
        batches: Sample numbers of each batch.
        source: Folder of given samples, or None.
        seed: Seed of the run, which also chooses crops, flips and turns of given
            samples.
        size: Height and width of the samples, which given ones are cropped to; None
            keeps these whole and as they lie, and draws patches without them.
        given: Keys of the source's samples that are kept.
        start: Keys of the source's samples that are varied.
        strength: Distance that they are varied, in 0..1; 1 forgets them.
    """

    def __init__(
        self,
        batches: Sequence[Sequence[int]],
        source: Source | None,
        seed: int,
        size: tuple[int, int] | None,
        given: tuple[str, ...] = (),
        start: tuple[str, ...] = (),
        strength: float = 1.0,
    ) -> None:
        """Keep the arguments."""
        self.batches = batches
        self.source = source
        self.seed = seed
        self.size = size
        self.given = given
        self.start = start
        self.strength = strength

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One batch: ``index`` (B,), ``seed``, ``strength``, ``size``, what is given.

        What is given are ``given`` and ``start``, each with tensors (B, ...).
        """
        indices = self.batches[position]
        batch: dict[str, Any] = {
            'index': torch.tensor([*indices]),
            'seed': self.seed,
            'strength': self.strength,
            'size': self.size,
            'given': {},
            'start': {},
        }
        if self.source is not None:
            found = [self._take(index, self.source) for index in indices]
            for use in ('given', 'start'):
                for key in getattr(self, use):
                    batch[use][key] = torch.stack([sample[key] for sample in found])
        return batch

    def lot(self, index: int) -> dict[str, int]:
        """Crop, flip and turn of a given sample, by lot of its number.

        Args:
            index: Number of the drawn sample.

        Returns:
            ``top`` and ``left`` of the crop in pixels, ``flip`` (0 or 1, after the
            turn) and ``turns`` by 90 degrees; empty where samples are kept whole.
        """
        if self.size is None or self.source is None:
            return {}
        shape = self.source.size(index % len(self.source))
        random = stream_random(self.seed, index, 'choice')
        free = (full - part for full, part in zip(shape, self.size, strict=True))
        top, left = (int(random.integers(rest + 1)) for rest in free)
        flip, turns = int(random.integers(2)), int(random.integers(4))
        turns = turns if self.size[0] == self.size[1] else turns // 2 * 2
        return {'top': top, 'left': left, 'flip': flip, 'turns': turns}

    def record(self, index: int, mask: NDArray[np.integer[Any]]) -> dict[str, Any]:
        """Entries of the manifest that say what a sample was drawn from.

        Args:
            index: Number of the drawn sample.
            mask: Class positions of the sample (H, W).

        Returns:
            Plain JSON types: the ``source`` and the lot of a given sample.
        """
        if self.source is None:
            return {}
        return {'source': self.source.ids[index % len(self.source)], **self.lot(index)}

    def _take(self, index: int, source: Source) -> dict[str, Tensor]:
        """A sample of the source, whole, or cropped, flipped and turned."""
        sample = source[index % len(source)]
        if self.size is None:
            return sample
        height, width = self.size
        lot, moved = self.lot(index), {}
        rows = slice(lot['top'], lot['top'] + height)
        columns = slice(lot['left'], lot['left'] + width)
        for key in (*self.given, *self.start):
            value = torch.rot90(sample[key][..., rows, columns], lot['turns'], (-2, -1))
            moved[key] = (value.flip(-1) if lot['flip'] else value).contiguous()
        return moved


class GenerationDataModule(BaseDataModule):
    """Tells :class:`SpecDMTask` in ``torchgeo predict`` what to draw.

    A :class:`TrustDataModule` takes one too, to measure what a generator draws.

    Writes a folder of pairs (:class:`PairFolder`). A killed run is finished by the
    same command; a folder of other settings, or of given samples that have changed
    since, is refused. The samples do not depend on how many processes draw them.
    """

    # nine parameters: four of any run, and five that say what is drawn
    def __init__(
        self,
        out: str,
        count: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        masks: str | None = None,
        vary: str | None = None,
        strength: float = 0.6,
        augment: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Initialize a new GenerationDataModule instance.

        Args:
            out: Folder to write to.
            count: Number of samples; None for one of each given sample.
            seed: Seed of the run, from 0 to 2**63 - 1.
            batch_size: Samples drawn at once.
            masks: A folder of pairs, or of masks alone in the codes of the classes:
                images are drawn for its masks, of their size and where they lie.
            vary: A folder of pairs: its images are noised part of the way and
                denoised, its masks kept.
            strength: Distance that *vary* goes from the image, in 0..1; 1 forgets it.
            augment: Whether given samples are cropped to the generator's patch, flipped
                and turned by lot, as the manifest tells, for more of them than there
                are masks. The drawn samples then lie nowhere.
            size: Height and width in pixels of samples without given ones, from the
                patches of training up; None for these patches.

        Raises:
            ValueError: If a number is out of range, both folders are given, or neither
                folder nor number.
        """
        super().__init__(BatchDataset, batch_size)
        # there may be fewer batches than processes
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if (count is not None and count < 1) or batch_size < 1:
            raise ValueError(
                f'count={count} and batch_size={batch_size} must be 1 or more.'
            )
        if count is None and masks is None and vary is None:
            raise ValueError(
                'count=None says nothing where no samples are given. Give a number, such '
                'as --count 100.'
            )
        if size is not None and not masks is vary is None:
            raise ValueError(
                f'size={tuple(size)} is of samples without given ones, which have a '
                'size of their own. Leave it out, or leave out masks and vary.'
            )
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f'seed={seed} must be 0 or more and below {SEED_LIMIT}.')
        if masks is not None and vary is not None:
            raise ValueError(
                f'masks={masks!r} and vary={vary!r} exclude each other. Give one: '
                'masks for new images, vary for variations of the images.'
            )
        if vary is not None and not 0 < strength < 1:
            raise ValueError(
                f'strength={strength} must lie between 0 and 1. 0.6 keeps large '
                'shapes and redraws texture.'
            )
        self.out = Path(out)
        self.count = count
        self.seed = seed
        self.mode = 'joint' if masks is vary is None else 'masks' if masks else 'vary'
        self.strength = strength if vary is not None else 1.0
        self.source_folder = masks or vary
        self.augment = augment
        self.size = size
        #: Further settings, which are written down with the others.
        self.settings: dict[str, Any] = {}
        #: Streams of the samples that are real, not drawn.
        self.real: tuple[str, ...] = ()

    def setup(self, stage: str) -> None:
        """Check the given samples, and put all samples into batches.

        Args:
            stage: Only 'predict' makes sense here.

        Raises:
            ValueError: If the task has no generator, or given samples are of another
                kind than the generator's.
        """
        task: Any = None if self.trainer is None else self.trainer.lightning_module
        if getattr(task, 'generator_folder', None) is None:
            raise ValueError(
                'GenerationDataModule needs a SpecDMTask(stage="diffusion", '
                'generator=FOLDER) in torchgeo predict, or a TrustTask(generator='
                'FOLDER) in torchgeo test. Set model.init_args.generator.'
            )
        generator = task.generator
        #: What the samples will be.
        self.spec: SampleSpec = generator.codec.spec
        self._require_match()
        height, width = generator.config['patch_size']
        batches = self._batches((height, width))
        size = (height, width) if self.augment else self.size
        self.predict_dataset = self.make_dataset(batches, size)

    def make_dataset(
        self, batches: Sequence[Sequence[int]], size: tuple[int, int] | None
    ) -> BatchDataset:
        """Make the data set of what is given.

        Args:
            batches: Sample numbers of each batch.
            size: Height and width of the samples; None keeps given ones whole.

        Returns:
            The data set.
        """
        start = ('image',) if self.mode == 'vary' else ()
        return BatchDataset(
            batches, self.source, self.seed, size, ('mask',), start, self.strength
        )

    def sample_name(self, index: int) -> str:
        """The name of a sample that is written.

        Args:
            index: Number of the sample.
        """
        return f'{index:06d}'

    def keep_own(self, written: set[int], rank: int, processes: int) -> None:
        """Keep the batches that this process has to draw.

        Args:
            written: Numbers of the samples that are there.
            rank: Number of the process, from 0.
            processes: Number of all processes.
        """
        dataset = self.predict_dataset
        assert isinstance(dataset, BatchDataset)
        left = [batch for batch in dataset.batches if not written.issuperset(batch)]
        dataset.batches = left[rank::processes]
        _log.info('%d samples are there.', len(written))

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole batches, so no further batching."""
        assert self.predict_dataset is not None
        # Lightning would share them out again, and fail where there are too few
        own: DistributedSampler[Any] = DistributedSampler(
            self.predict_dataset, 1, 0, shuffle=False
        )
        return DataLoader(self.predict_dataset, batch_size=None, sampler=own)

    def on_after_batch_transfer(
        self, batch: dict[str, Any], dataloader_idx: int
    ) -> dict[str, Any]:
        """Leave the batch as it is: codecs take digital numbers."""
        return batch

    @cached_property
    def source(self) -> Source | None:
        """The folder of given samples, if there is one."""
        if self.source_folder is None:
            return None
        root = Path(self.source_folder)
        described = (root / DESCRIPTION).exists() or (root / CLASSES).exists()
        if self.mode == 'masks' and not (described and (root / 'images').is_dir()):
            return MaskFolder(root, self.spec)
        # test masks must not end up in training data
        split: Any = 'train' if (root / 'train.txt').exists() else None
        folder = PairFolder(root, split)
        known = {*self.spec.bands} <= {*folder.spec.bands}
        if self.mode == 'vary' and known:
            return PairFolder(root, split, self.spec.bands)
        return folder

    @cached_property
    def source_digest(self) -> str | None:
        """A hash of what is used of the given samples, if there are any."""
        if self.source is None:
            return None
        return self.source.digest(images=self.mode == 'vary')

    def _batches(self, patch: tuple[int, int]) -> list[list[int]]:
        """Numbers of the samples of each batch, which are of one size."""
        source, most = self.source, self.batch_size or 1
        count = self.count or len(source or ())
        sizes: dict[str, tuple[int, int]] = {'size': self.size or patch}
        if source is not None:
            used = range(min(count, len(source)))
            sizes = {f'{source.root}/{source.ids[i]}': source.size(i) for i in used}
        _require_size(sizes, patch)
        drawn = [patch] if self.augment else [*sizes.values()]
        runs = groupby(range(count), lambda number: drawn[number % len(drawn)])
        return [
            numbers[start : start + most]
            for numbers in (list(run) for _, run in runs)
            for start in range(0, len(numbers), most)
        ]

    def _require_match(self) -> None:
        """Refuse given samples that do not suit the generator."""
        if self.source is None:
            return
        names = ['classes']
        if self.mode == 'vary':
            names += ['bands', 'dates', 'scale']
        self.spec.require_match(
            self.source.spec, 'the generator', str(self.source_folder), names
        )


def _require_size(sizes: Mapping[str, tuple[int, int]], patch: tuple[int, int]) -> None:
    """Refuse samples, by their name, that are smaller than patches of the generator."""
    small = [n for n, s in sizes.items() if s[0] < patch[0] or s[1] < patch[1]]
    if small:
        raise ValueError(
            f'{small[0]} has {sizes[small[0]]} pixels ({len(small)} such in all), but '
            f'the generator has learned patches of {patch}. Take samples of that size '
            'or larger ones.'
        )
