# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""SegMunich datamodule."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from torchgeo.datamodules import NonGeoDataModule

from ..bands import TEN_BANDS
from ..datasets.segmunich import TRANSFORM_PATTERN, SegMunich, segmunich_spec
from ..pairs.spec import SampleSpec
from .support.preparation import (
    keep_samples,
    normalise,
    refuse_empty_training,
    require_patch,
)


class SegMunichDataModule(NonGeoDataModule):
    """SegMunich datamodule.

    Validation has a folder of its own only where ``val`` and ``test`` are both on disk.
    Else the one that is there is for testing, and validation is cut out of ``train`` by
    source tile: all stored transforms of a tile go to the same side, and which tiles
    depends on *seed* and their names alone. Neighbouring tiles still overlap by half,
    which file names do not tell.

    Batches are normalised with the mean and standard deviation of each band over the
    training split, measured in :meth:`setup`; in training they are also cropped,
    flipped and rotated by multiples of 90 degrees. Training patches are read once and
    kept while they fit into half of the free memory.
    """

    # ten parameters, half of them those of the data set
    def __init__(
        self,
        root: str = 'data',
        batch_size: int = 32,
        num_workers: int = 0,
        bands: Sequence[str] = TEN_BANDS,
        max_background: float | None = None,
        val_split: float = 0.1,
        patch_size: int | None = None,
        seed: int = 0,
        leaks: Literal['refuse', 'drop', 'allow'] = 'refuse',
        transform_pattern: str = TRANSFORM_PATTERN,
    ) -> None:
        """Initialize a new SegMunichDataModule instance.

        Args:
            root: The folder that holds ``train`` and ``test`` (or ``val``).
            batch_size: Size of each mini-batch.
            num_workers: Number of workers for parallel data loading.
            bands: Names of the bands to load, in this order.
            max_background: Leave out patches with a larger share (0 to 1) of
                background; None to keep all.
            val_split: Share of the source tiles of ``train`` to validate on, where
                there is no other split to do so.
            patch_size: Side of a random crop in training, in pixels; None for whole
                patches. Validation and test always see whole patches.
            seed: Chooses the source tiles to validate on.
            leaks: Treatment of copies of one tile in two splits (see
                :class:`~torchgeo_specdm.datasets.segmunich.SegMunich`).
            transform_pattern: Regular expression for the part of a file stem that
                tells the stored transform.

        Raises:
            ValueError: If *val_split* is not a share, or a band has no name or a
                double one.
        """
        if not 0 < val_split < 1:
            raise ValueError(
                f'val_split={val_split} must lie between 0 and 1, without both. Use '
                'for example 0.1.'
            )
        self.spec: SampleSpec = segmunich_spec(bands)
        super().__init__(
            SegMunich,
            batch_size,
            num_workers,
            root=root,
            bands=tuple(bands),
            max_background=max_background,
            leaks=leaks,
            transform_pattern=transform_pattern,
        )
        self.val_split = val_split
        self.patch_size = patch_size
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Set up the data sets, and the statistics of the training split.

        Args:
            stage: Either 'fit', 'validate' or 'test'.

        Raises:
            FileNotFoundError: If a split is missing.
            ValueError: If training would see no batch, the crop does not fit, or the
                data set is at fault (see
                :class:`~torchgeo_specdm.datasets.segmunich.SegMunich`).
        """
        train, val = self._split(SegMunich(split='train', **self.kwargs))
        if stage == 'fit':
            refuse_empty_training(
                f'SegMunich in {train.root}', len(train), self.batch_size
            )
            require_patch(self.patch_size, tuple(train[0]['mask'].shape))
            self.train_dataset = train
        if stage in ('fit', 'validate'):
            self.val_dataset = val
        if stage == 'test':
            self.test_dataset = SegMunich(split='test', **self.kwargs)
        if stage == 'fit':
            keep_samples(self, train)
        normalise(self, train, self.patch_size)

    def _split(self, train: SegMunich) -> tuple[SegMunich, SegMunich]:
        """Training and validation, of which no tile is in both."""
        if {'val', 'test'} <= set(train.folders):
            return train, SegMunich(split='val', **self.kwargs)
        # by hash: the same on every machine, whatever the order or number of files
        tiles = sorted(
            {train.source_of(name) for name in train.ids},
            key=lambda tile: blake2b(f'{self.seed}/{tile}'.encode()).digest(),
        )
        if len(tiles) < 2:
            raise ValueError(
                f'{train.root} has {len(train)} training patches of {len(tiles)} source '
                'tile; at least two tiles are needed, since validation takes whole '
                'ones. Add patches, or check transform_pattern.'
            )
        held = min(max(round(self.val_split * len(tiles)), 1), len(tiles) - 1)
        chosen = set(tiles[:held])
        return (
            train.subset([n for n in train.ids if train.source_of(n) not in chosen]),
            train.subset([n for n in train.ids if train.source_of(n) in chosen]),
        )
