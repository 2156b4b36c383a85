# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Folder of pairs datamodule."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchgeo.datamodules import NonGeoDataModule

from ..datasets.pairs import PairFolder
from ..datasets.rasters import ImageFolder
from ..pairs.facts import fingerprints, survey
from ..pairs.layout import SPLITS, read_places
from ..pairs.spec import SampleSpec
from ..pairs.valid import fill_missing
from .support.ground import scored_ground
from .support.mixing_checks import require_same_units
from .support.preparation import (
    keep_samples,
    normalise,
    refuse_empty_training,
    require_patch,
)


class PairFolderDataModule(NonGeoDataModule):
    """LightningDataModule implementation for a folder of pairs.

    Uses the lists ``train.txt``, ``val.txt`` and ``test.txt`` where there are any
    (an empty one counts as none): without ``val.txt``, validation is cut out of
    ``train.txt``; without ``test.txt`` there is no test set. A folder without lists is
    split by *val_share* and *test_share*.

    What is cut out are whole places: those of the column ``place`` of ``places.csv``
    (columns ``id`` and ``place``) where there is one, so that no place is on both
    sides, else single samples. Patches that overlap need the former. Which places
    depends on *seed* and the names alone.

    Lists that give one place, or copies of one sample, to training and to another
    split are refused, unless ``row`` and ``column`` of ``places.csv`` (of the upper
    left pixel) tell that no pixel which training shows has a label there.

    With *fold*, training and validation samples are shared anew, place by place, for
    cross-validation: few validation samples cannot carry a choice.

    Normalises with mean and std of each band over the training split; training
    samples are cropped, flipped and turned at random. In training, samples are read
    once and kept while they fit into half of the free memory.
    """

    # ten parameters: five of any datamodule, and five that say what is in which split
    def __init__(
        self,
        root: str = 'data',
        batch_size: int = 16,
        num_workers: int = 0,
        bands: Sequence[str] | Literal['live'] | None = None,
        patch_size: int | None = None,
        val_share: float = 0.15,
        test_share: float = 0.15,
        seed: int = 0,
        fold: tuple[int, int] | None = None,
        predict_root: str | None = None,
    ) -> None:
        """Initialize a new PairFolderDataModule instance.

        Args:
            root: The folder.
            batch_size: Size of each mini-batch.
            num_workers: Number of workers for parallel data loading.
            bands: Names of the bands to load; ``live`` for all that are not the same
                everywhere, or missing, in the whole folder; None for all.
            patch_size: Side in pixels of the random crop in training, for samples of
                any size; validation and test see whole samples, or where they differ in
                size this much of the middle of each. None for no crop.
            val_share: Share of the samples for validation, if there is no list.
            test_share: Share of the samples for test, if there are no lists.
            seed: Seed of the split, if there are no lists, and of the folds.
            fold: (i, n) validates on part i, from 0, of n equal parts of all samples
                that are not for test, and trains on the others; None for no folds.
            predict_root: Folder of images to predict, or one image, which need no masks
                and may have any size; they are normalised as the training samples are.
                None for the images of *root*.

        Raises:
            ValueError: If the shares leave nothing to train or to validate on, or
                there is no such fold.
        """
        super().__init__(PairFolder, batch_size, num_workers)
        if fold is not None and not 0 <= fold[0] < fold[1]:
            raise ValueError(
                f'fold={tuple(fold)} must be (i, n) with i from 0 to n - 1. Use (0, 5) '
                'for the first of five.'
            )
        if not 0 < val_share < 1:
            raise ValueError(
                f'val_share={val_share} must lie between 0 and 1. Use 0.15.'
            )
        if not 0 <= test_share < 1 - val_share:
            raise ValueError(
                f'test_share={test_share} must be 0 or more and, with val_share='
                f'{val_share}, less than 1. Use 0.15.'
            )
        self.root = root
        self.bands = bands
        self.patch_size = patch_size
        self.val_share = val_share
        self.test_share = test_share
        self.seed = seed
        self.fold = fold
        self.predict_root = predict_root
        if patch_size is not None:
            self.collate_fn = partial(_collate_crops, patch_size)
        self._folder: PairFolder | None = None
        self._verified = False

    @property
    def spec(self) -> SampleSpec:
        """Description of a sample."""
        return self._everything().spec

    def prepare_data(self) -> None:
        """Read every sample once, so that a bad file is found before training.

        Raises:
            ValueError: With the first few faults, or if copies or labelled ground of
                training samples are for validation or test.
        """
        if self._verified:
            return
        folder = self._everything()
        folder.verify(one_size=self.patch_size is None)
        if self.patch_size is not None:
            sizes = [folder.facts(i).form.size for i in range(len(folder))]
            require_patch(self.patch_size, min(sizes, key=min))
        self._require_apart(folder)
        self._verified = True

    def setup(self, stage: str) -> None:
        """Set up datasets, statistics and augmentations.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: If there are fewer training samples than one batch needs, the
                crop does not fit, the lists share samples, the split of this stage is
                empty, or images to predict are in another unit.
        """
        folder, ids = self._everything(), self.split_ids()
        train = folder.select(ids['train'])
        if stage == 'fit':
            name = f'The training split of {self.root}'
            refuse_empty_training(name, len(train), self.batch_size)
            require_patch(self.patch_size, train.facts(0).form.size)
            self.train_dataset = train
        if stage in ('fit', 'validate'):
            self.val_dataset = self._alike(folder.select(ids['val']))
        if stage == 'test':
            if not ids['test']:
                raise ValueError(
                    f'{self.root} has no test set: 0 samples are for test. Write '
                    'test.txt, or remove all lists for a random split.'
                )
            self.test_dataset = self._alike(folder.select(ids['test']))
        if stage == 'predict':
            # scenes differ in size
            self.predict_batch_size = 1
            self.predict_dataset = self._images(train)
        if stage == 'fit':
            keep_samples(self, self.train_dataset, self.val_dataset)
        normalise(self, train, self.patch_size)

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Augment and normalise a batch, and fill what is missing.

        Args:
            batch: A batch on the device.
            dataloader_idx: The index of its loader.

        Returns:
            The batch for the task. Missing values are 0, the mean of their band, unless
            the task has ``takes_missing`` and gets NaN.
        """
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        task = None if self.trainer is None else self.trainer.lightning_module
        if getattr(task, 'takes_missing', False):
            return batch
        return batch | {'image': fill_missing(batch['image'])}

    def _images(self, train: PairFolder) -> ImageFolder:
        """The images to predict, whose first one must look like training samples."""
        images = ImageFolder(self.predict_root or self.root, train.spec, True)
        if self.predict_root is not None:
            bands = images[0]['image'].flatten(1)
            level = bands.abs().nanmean(1).nan_to_num()
            name, known = self.predict_root, survey(train).level
            require_same_units(self, name, train.spec.bands, known, level)
        return images

    def _everything(self) -> PairFolder:
        """The whole folder, opened once."""
        if self._folder is None:
            self._folder = PairFolder(self.root, bands=self.bands)
        return self._folder

    def _alike(self, folder: PairFolder) -> PairFolder:
        """Samples of one size: the middle of each where they differ."""
        side = self.patch_size
        if side is None:
            return folder
        sizes = {folder.facts(i).form.size for i in range(len(folder))}
        if len(sizes) > 1:
            folder.transforms = partial(_crop_middle, side)
        return folder

    def _require_apart(self, folder: PairFolder) -> None:
        """Refuse to score copies or the ground of training samples."""
        ids = self.split_ids()
        trained = fingerprints(folder.select(ids['train']))
        scored = folder.select([*ids['val'], *ids['test']])
        found = {name: scored.facts(i) for i, name in enumerate(scored.ids)}
        copies = [n for n, facts in found.items() if facts.fingerprint in trained]
        if copies:
            raise ValueError(
                f'{self.root} has {len(copies)} samples to validate or test on that are '
                f'copies of training samples, pixel by pixel: {copies[:5]}. Scores on '
                'them would say nothing: remove them, or name the place of both in '
                'places.csv and leave the split to it.'
            )
        # folds are by place already, and score nothing on test
        ids = self._split(folder)
        others = [*ids['val'], *ids['test']]
        if shared := scored_ground(folder, ids['train'], others):
            raise ValueError(
                f'{self.root} has {len(shared)} samples to validate or test on in '
                f'places that places.csv also names for training samples: {shared[:5]}. '
                'Scores on ground that is trained on would say nothing: mend the lists, '
                'or remove them all for a split by place. If pixels that both show have '
                'no label in these samples, give the columns row and column.'
            )

    def split_ids(self, folder: PairFolder | None = None) -> dict[str, list[str]]:
        """Find out what is in which split, without reading a sample.

        Args:
            folder: The whole folder, if it is open already.

        Returns:
            Ids of ``train``, ``val`` and ``test``; only test may be empty.

        Raises:
            ValueError: If a list is wrong, or there are too few places to share.
        """
        folder = folder or self._everything()
        ids = self._split(folder)
        if self.fold is not None:
            ids |= self._choose_fold(folder, [*ids['train'], *ids['val']], *self.fold)
        return ids

    def _split(self, folder: PairFolder) -> dict[str, list[str]]:
        """Ids of each split; only test may be empty."""
        listed = [s for s in SPLITS if (folder.root / f'{s}.txt').exists()]
        ids = {s: folder.choose_ids(s) if s in listed else [] for s in SPLITS}
        if not any(ids.values()):
            return ids | self._cut(folder, folder.ids, self.test_share)
        shared = sorted({*ids['train']} & {*ids['val'], *ids['test']})
        if shared or not ids['train']:
            raise ValueError(
                f'{self.root} has the lists {listed}, with {len(ids["train"])} samples '
                f'to train on, {len(shared)} of them also in another list: '
                f'{shared[:5]}. train.txt must give samples that no other list has: '
                'mend the lists, or remove them all for a random split.'
            )
        return ids if ids['val'] else ids | self._cut(folder, ids['train'], 0)

    def _cut(
        self, folder: PairFolder, ids: Sequence[str], test_share: float
    ) -> dict[str, list[str]]:
        """Divide samples by place, large places first, so that shares come close."""
        shares = {'train': 1 - self.val_share - test_share, 'val': self.val_share}
        if test_share:
            shares['test'] = test_share
        return self._share(folder, ids, shares)

    def _choose_fold(
        self, folder: PairFolder, ids: Sequence[str], fold: int, folds: int
    ) -> dict[str, list[str]]:
        """Validate on one of equal parts, by place, and train on the others."""
        shares = {f'fold {i}': 1 / folds for i in range(folds)}
        parts = self._share(folder, sorted(ids), shares)
        held_out = parts.pop(f'fold {fold}')
        return {'train': [n for part in parts.values() for n in part], 'val': held_out}

    def _share(
        self, folder: PairFolder, ids: Sequence[str], shares: Mapping[str, float]
    ) -> dict[str, list[str]]:
        """Divide samples by place, as wanted."""
        place_of = read_places(folder.root, ids)
        sizes = Counter(place_of[name] for name in ids)
        if len(sizes) < len(shares):
            raise ValueError(
                f'{self.root} has {len(sizes)} places to share between '
                f'{", ".join(shares)}, but each needs one of its own. Add samples of '
                'other places, or write train.txt, val.txt and test.txt.'
            )
        split_of = _assign(sizes, shares, len(ids), self.seed)
        cut: dict[str, list[str]] = {split: [] for split in shares}
        for name in ids:
            cut[split_of[place_of[name]]].append(name)
        return cut


def _crop_middle(side: int, sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """A square of the middle of a sample."""
    height, width = sample['mask'].shape[-2:]
    return _crop(side, (height - side) // 2, (width - side) // 2, sample)


def _collate_crops(side: int, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch; of samples that differ in size, squares at random places."""
    # images to predict have no mask
    if len({sample['image'].shape[-2:] for sample in samples}) > 1:
        samples = [_crop_somewhere(side, sample) for sample in samples]
    batch: dict[str, Tensor] = default_collate(samples)
    return batch


def _crop_somewhere(side: int, sample: dict[str, Tensor]) -> dict[str, Tensor]:
    height, width = sample['mask'].shape[-2:]
    require_patch(side, (height, width))
    top = int(torch.randint(height - side + 1, ()))
    left = int(torch.randint(width - side + 1, ()))
    return _crop(side, top, left, sample)


def _crop(
    side: int, top: int, left: int, sample: dict[str, Tensor]
) -> dict[str, Tensor]:
    rows, columns = slice(top, top + side), slice(left, left + side)
    return {key: value[..., rows, columns] for key, value in sample.items()}


def _assign(
    sizes: Mapping[str, int], shares: Mapping[str, float], total: int, seed: int
) -> dict[str, str]:
    """The split of each place: none is empty, and samples are shared as wanted."""
    # by hash: the same on every machine, whatever the order of the files
    drawn = sorted(sizes, key=lambda p: blake2b(f'{seed}/{p}'.encode()).digest())
    drawn.sort(key=lambda place: -sizes[place])
    missing = {split: share * total for split, share in shares.items()}
    split_of: dict[str, str] = {}
    for rank, place in enumerate(drawn):
        empty = [split for split in shares if split not in split_of.values()]
        # the last places, the smallest ones, are kept for splits that have none
        choice = empty if len(drawn) - rank <= len(empty) else list(shares)
        split_of[place] = max(choice, key=missing.__getitem__)
        missing[split_of[place]] -= sizes[place]
    return split_of
