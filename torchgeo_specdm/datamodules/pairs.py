# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Folder of pairs datamodule."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchgeo.datamodules import NonGeoDataModule

from ..datasets.pairs import PairFolder
from ..datasets.spec import SampleSpec
from .common import (
    evaluation_augmentations,
    measure_statistics,
    refuse_empty_training,
    training_augmentations,
)

_SPLITS = ('train', 'val', 'test')


class PairFolderDataModule(NonGeoDataModule):
    """LightningDataModule implementation for a folder of pairs.

    Uses the lists ``train.txt``, ``val.txt`` and ``test.txt``. A folder without lists
    is split at random: by the column ``place`` of ``places.csv`` (columns ``id`` and
    ``place``) where there is one, so that no place is in two splits, else by sample.
    Patches that overlap need the former.

    Normalises with mean and std of each band over the training split; training
    samples are cropped, flipped and turned at random.
    """

    def __init__(
        self,
        root: str = 'data',
        batch_size: int = 16,
        num_workers: int = 0,
        bands: Sequence[str] | None = None,
        patch_size: int | None = None,
        val_share: float = 0.15,
        test_share: float = 0.15,
        seed: int = 0,
    ) -> None:
        """Initialize a new PairFolderDataModule instance.

        Args:
            root: The folder.
            batch_size: Size of each mini-batch.
            num_workers: Number of workers for parallel data loading.
            bands: Names of the bands to load; None for all.
            patch_size: Side in pixels of the random crop in training; validation and
                test see the whole patch. None for no crop.
            val_share: Share of the samples for validation, if there are no lists.
            test_share: Share of the samples for test, if there are no lists.
            seed: Seed of the split, if there are no lists.

        Raises:
            ValueError: If the shares leave nothing to train on.
        """
        super().__init__(PairFolder, batch_size, num_workers)
        if val_share < 0 or test_share < 0 or val_share + test_share >= 1:
            raise ValueError(
                f'val_share={val_share} and test_share={test_share} must be positive '
                'and leave something for training. Use 0.15 each.'
            )
        self.root = root
        self.bands = bands
        self.patch_size = patch_size
        self.shares = (1 - val_share - test_share, val_share, test_share)
        self.seed = seed
        self._spec: SampleSpec | None = None

    @property
    def spec(self) -> SampleSpec:
        """What a sample is."""
        if self._spec is None:
            self._spec = PairFolder(self.root, bands=self.bands).spec
        return self._spec

    def prepare_data(self) -> None:
        """Read every sample once, so that a bad file is found before training."""
        PairFolder(self.root, bands=self.bands).verify()

    def setup(self, stage: str) -> None:
        """Set up datasets, statistics and augmentations.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: If there are fewer training samples than one batch needs.
        """
        everything = PairFolder(self.root, bands=self.bands)
        ids = self._split(everything)
        train, self.val_dataset, self.test_dataset = (
            everything.select(ids[split]) for split in _SPLITS
        )
        if stage == 'fit':
            refuse_empty_training(f'The training split of {self.root}', len(train),
                                  self.batch_size)
        self.train_dataset = train
        self.mean, self.std = measure_statistics(train)
        self.train_aug = training_augmentations(self.mean, self.std, self.patch_size)
        self.aug = evaluation_augmentations(self.mean, self.std)

    def _split(self, folder: PairFolder) -> dict[str, list[str]]:
        """Ids of each split; a missing list is an empty split."""
        root = Path(self.root)
        listed = [split for split in _SPLITS if (root / f'{split}.txt').exists()]
        if listed:
            ids = {
                split: folder.choose_ids(split) if split in listed else []
                for split in _SPLITS
            }
            shared = set(ids['train']) & {*ids['val'], *ids['test']}
            if shared or not ids['train']:
                raise ValueError(
                    f'The lists of {root} must give train.txt samples that are in no '
                    f'other list; {len(ids["train"])} are in it, shared are '
                    f'{sorted(shared)[:5]}. Mend the lists.'
                )
            return ids
        places = _read_places(root / 'places.csv', folder.ids)
        names = sorted(set(places))
        order = np.random.default_rng(self.seed).permutation(len(names))
        edges = np.rint(np.cumsum(self.shares) * len(names)).astype(int)
        split_of = {
            names[place]: _SPLITS[int(np.searchsorted(edges, rank, side='right'))]
            for rank, place in enumerate(order)
        }
        ids = {split: [] for split in _SPLITS}
        for name, place in zip(folder.ids, places, strict=True):
            ids[split_of[place]].append(name)
        return ids


def _read_places(path: Path, ids: list[str]) -> list[str]:
    """The place of each id; each id is a place of its own without the file."""
    if not path.exists():
        return ids
    with path.open(encoding='utf-8-sig', newline='') as file:
        places = {row['id']: row['place'] for row in csv.DictReader(file)}
    unknown = [name for name in ids if name not in places]
    if unknown:
        raise ValueError(
            f'{path} does not say where {len(unknown)} samples lie: {unknown[:5]}. '
            'Add them, so that no place gets into two splits.'
        )
    return [places[name] for name in ids]
