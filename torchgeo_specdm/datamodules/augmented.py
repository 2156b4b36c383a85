# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Synthetic augmentation of any NonGeo datamodule."""

import math
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchgeo.datamodules import BaseDataModule

from ..datasets.pairs import PairFolder
from ..pairs.facts import survey
from .support.mixed import MixedDataModule
from .support.mixing import MatchedSamples, decimal, require_form, sample_name, subset
from .support.mixing_checks import (
    MixOptions,
    open_folder,
    require_no_leak,
    require_room,
    require_same_names,
    require_same_units,
)


class SyntheticAugmentedDataModule(MixedDataModule):
    """Adds synthetic samples to the training set of another datamodule.

    Validation, test and prediction sets, augmentation, normalisation, collation and
    plots are those of the real datamodule; only its training set grows. Samples of a
    mixed set have the keys ``image`` and ``mask``, in the shapes, types and raw units
    of the real ones. If real and synthetic patches differ in size, the larger ones
    are cropped at random, so that a generator trained on crops can be used.

    The number of synthetic samples is ``ratio`` times the number of real ones used,
    rounded down: ratio 0.5 of 25 real samples is 12, ratio 1.5 is 37. Which ones is
    fixed by ``seed``, and subsets are nested. With ratio 0 and no ``real_limit`` the
    datamodule is the real one, to the number.

    The order of the samples is a function of the epoch and Lightning's global seed
    (``seed_everything``), not of the number of processes.
    """

    # nine parameters: the two sides, and what is taken of each
    def __init__(
        self,
        real: BaseDataModule,
        synthetic: str | Path | None = None,
        ratio: float = 1.0,
        real_limit: int | None = None,
        synthetic_limit: int | None = None,
        real_share: float | None = None,
        equal_updates: bool = False,
        seed: int = 0,
        leak_check: bool = True,
    ) -> None:
        """Initialize a new SyntheticAugmentedDataModule instance.

        Args:
            real: The datamodule to add to, with integer-indexed data sets.
            synthetic: A folder of pairs; not needed with ratio 0.
            ratio: Synthetic samples for each real one used.
            real_limit: Use just this many real training samples, chosen by *seed*;
                0 trains on synthetic samples only (all, or *synthetic_limit*).
            synthetic_limit: Use just this many synthetic samples, whatever *ratio*.
            real_share: Share of real samples in every batch, between 0 and 1, up to
                rounding to whole samples; the side that is short of samples repeats
                them. None, or ratio 0, shuffles all samples.
            equal_updates: Whether an epoch has only as many batches as with the real
                samples alone; the next epoch goes on where it stopped.
            seed: Chooses the subsets.
            leak_check: Whether to refuse synthetic samples whose generator was
                trained on validation or test samples, or does not say on which.

        Raises:
            TypeError: If *real* is no NonGeoDataModule.
            ValueError: If the numbers are out of range or contradict each other.
        """
        super().__init__(real)
        self.options = MixOptions(
            synthetic,
            ratio,
            real_limit,
            synthetic_limit,
            real_share,
            equal_updates,
            seed,
        )
        self.leak_check = leak_check
        self._unchanged = True

    def setup(self, stage: str) -> None:
        """Set up the data sets.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            FileNotFoundError: If there is no folder of synthetic samples.
            ValueError: If there are too few samples, they do not fit together, or the
                generator was trained on validation or test samples.
        """
        super().setup(stage)
        if stage == 'fit':
            # looking at samples must not move the random numbers of the training
            with isolate_rng(include_cuda=False):
                self.train_dataset = self._training_set()
            self._report()

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The loader of the mixed training set, or that of the real datamodule."""
        dataset = self.train_dataset
        if dataset is None or self._unchanged:
            return super().train_dataloader()
        return self.mixed_loader(dataset, self.options.real_share)

    def _training_set(self) -> Dataset[dict[str, Tensor]]:
        dataset, options = self.real_set(), self.options
        available = len(dataset)  # type: ignore[arg-type]
        real = available if options.real_limit is None else options.real_limit
        if real > available or available == 0:
            raise ValueError(
                f'{type(self.real).__name__} has {available} training samples, but '
                f'real_limit={options.real_limit} needs {max(real, 1)}. Use '
                'real_limit=None for all of them, and check that there are any.'
            )
        chosen = subset(real, available, options.seed, 0)
        self._unchanged = options.only_real and real == available
        if options.only_real:
            self.counts = (real, 0)
            return dataset if self._unchanged else Subset(dataset, chosen)
        folder = open_folder(options.synthetic)
        self.counts = (real, self._synthetic_count(real, folder))
        used = subset(self.counts[1], len(folder), options.seed, 1)
        mixed = self._mix(dataset, chosen, folder, used)
        if self.leak_check:
            require_no_leak(self.real, folder)
        return mixed

    def _synthetic_count(self, real: int, folder: PairFolder) -> int:
        """Number of synthetic samples to use with this many real ones."""
        ratio, limit = self.options.ratio, self.options.synthetic_limit
        if limit is None and real == 0:
            return len(folder)
        count = int(decimal(ratio) * real) if limit is None else limit
        wish = f'ratio={ratio} of {real} real samples'
        wish = wish if limit is None else f'synthetic_limit={limit}'
        if count < 1:
            raise ValueError(
                f'{wish} needs {count} synthetic samples, but a mix needs at least 1. '
                'Use a larger number, or 0 for none.'
            )
        if count > len(folder):
            raise ValueError(
                f'{wish} needs {count} synthetic samples, but {folder.root} has '
                f'{len(folder)}. Use a smaller number, or write more: torchgeo-specdm '
                f'generate --count {count}.'
            )
        return count

    def _mix(
        self,
        dataset: Dataset[dict[str, Tensor]],
        chosen: list[int],
        folder: PairFolder,
        used: list[int],
    ) -> Dataset[dict[str, Tensor]]:
        """Join the chosen samples of both sides, after comparing the sides."""
        ours, theirs = survey(dataset), survey(folder)
        real, synthetic = ours.form, theirs.form
        size = (
            min(real.size[0], synthetic.size[0]),
            min(real.size[1], synthetic.size[1]),
        )
        form = real._replace(size=size)
        # the shapes first: what follows needs the same bands
        shapes = [
            (*one, *synthetic.size) for one in (synthetic.channels, synthetic.layers)
        ]
        require_form(form, shapes[0], shapes[1], sample_name(folder, 0))
        require_room(self.real, size, folder.root)
        name, spec = str(folder.root), folder.spec
        require_same_names(self.real, dataset, spec, name, ours)
        require_same_units(self.real, name, spec.bands, ours.level, theirs.level)
        for side, found in (('Real', real.size), ('Synthetic', synthetic.size)):
            if found != size:
                rank_zero_info(
                    f'{side} training samples of {found} pixels are cropped at random '
                    f'to {size}, the size of the others.'
                )
        return ConcatDataset(
            [MatchedSamples(dataset, chosen, form), MatchedSamples(folder, used, form)]
        )

    def batches(self) -> int:
        """Batches of one process in an epoch, as many as Lightning would give."""
        if not self.options.equal_updates:
            return super().batches()
        return math.ceil(self.counts[0] / self.processes()[0]) // self.train_size

    def _report(self) -> None:
        """Say what will be trained on; nothing at all is an error."""
        (real, synthetic), batches = self.counts, self.batches()
        if batches == 0 and not (self._unchanged and self._keeps_last()):
            counted = f'{real} real' if self.options.equal_updates else real + synthetic
            raise ValueError(
                f'{counted} training samples do not fill one batch_size='
                f'{self.train_size} in each of {self.processes()[0]} process(es), so '
                'nothing would be trained. Use a smaller batch size or more samples.'
            )
        rank_zero_info(
            f'Training set: {real} real and {synthetic} synthetic samples, {batches} '
            f'batches of {self.train_size} in an epoch, {self._updates(batches)} '
            'updates.'
        )

    def _keeps_last(self) -> bool:
        return not getattr(self.real.train_dataloader(), 'drop_last', True)

    def _updates(self, batches: int) -> str:
        """Most changes of the weights that are to come, as far as is known."""
        trainer = self.trainer
        if trainer is None:
            return 'any number of'
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
        limits = [trainer.max_steps, steps * (trainer.max_epochs or -1)]
        return str(min((n for n in limits if n >= 0), default='any number of'))
