# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Real and generated samples side by side, to be measured."""

from pathlib import Path
from typing import Any

from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler
from torchgeo.datamodules import BaseDataModule

from ..datamodules.generation import GenerationDataModule
from ..datamodules.support.mixing_checks import require_same_names
from ..datamodules.support.wrapping import WrappingDataModule
from ..datasets.pairs import PairFolder
from ..pairs.facts import declared_spec
from ..pairs.manifest import require_unchanged
from ..pairs.spec import SampleSpec
from ..pairs.tiles import TileDataset

#: The loaders of a test, in order.
SETS = ('train', 'held_out', 'synthetic')


class TrustDataModule(WrappingDataModule):
    """Gives :class:`TrustTask` in ``torchgeo test`` what to measure.

    Three loaders, of tiles as large as the generated patches and in digital numbers:
    real training samples, real test samples, and generated ones. Each tile is seen
    once, on whatever number of processes.
    """

    def __init__(
        self,
        real: BaseDataModule,
        synthetic: str | Path | GenerationDataModule,
        batch_size: int = 64,
    ) -> None:
        """Initialize a new TrustDataModule instance.

        Args:
            real: The datamodule that the generator learned from, with ``mean`` and
                ``std``.
            synthetic: Folder of generated pairs, or of any others to be judged; or
                what the generator of the task shall draw first, as far as it is not
                there.
            batch_size: Tiles measured at once.
        """
        super().__init__(real)
        #: What is drawn first, if anything.
        self.drawing: GenerationDataModule | None = None
        if isinstance(synthetic, GenerationDataModule):
            self.drawing, synthetic = synthetic, synthetic.out
        self.synthetic = Path(synthetic)
        self.batch_size = batch_size
        self.tiles: dict[str, TileDataset] = {}

    @property
    def spec(self) -> SampleSpec:
        """Description of the samples, by the real datamodule or else by the folder."""
        return declared_spec(self.real) or self._folder.spec

    @property
    def ids(self) -> list[str]:
        """Names of the generated samples."""
        return self._folder.ids

    def setup(self, stage: str) -> None:
        """Set up the real data sets, and the generated one unless it must be drawn.

        Args:
            stage: 'test'.

        Raises:
            ValueError: If the generated samples are of another kind or were changed
                after they were drawn, or there are no real training or test samples
                to compare with.
        """
        super().setup('fit')
        super().setup(stage)
        training, _ = self._real_sets()
        if self.drawing is None:
            self.open_synthetic()
            return
        self.drawing.trainer = self.trainer
        self.drawing.setup('predict')
        # before the time that drawing takes
        self._require_same_names(training, self.drawing.spec)

    def open_synthetic(self) -> None:
        """Open the folder of generated pairs, once all of them are there.

        Raises:
            ValueError: If the generated samples are of another kind.
        """
        training, held_out = self._real_sets()
        self._folder = PairFolder(self.synthetic)
        require_unchanged(self.synthetic)
        self._require_same_names(training, self._folder.spec)
        height, width = self._folder[0]['mask'].shape[-2:]
        sources: dict[str, Any] = {
            'train': training,
            'held_out': held_out,
            'synthetic': self._folder,
        }
        self.tiles = {
            name: TileDataset(source, (height, width))
            for name, source in sources.items()
        }

    def test_dataloader(self) -> Any:
        """One loader for each of :data:`SETS`."""
        return [self._loader(self.tiles[name]) for name in SETS]

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Leave a batch as it is: what is measured are digital numbers.

        Args:
            batch: A batch on the device.
            dataloader_idx: The index of its loader.

        Returns:
            The batch.
        """
        return batch

    def _real_sets(self) -> list[Any]:
        """The training set and the test set of the real datamodule.

        Some have no labelled test set; their validation set is held out as well.
        """
        tested = self.real.test_dataset is not None
        names = ('train_dataset', 'test_dataset' if tested else 'val_dataset')
        found = [getattr(self.real, name) for name in names]
        for name, dataset in zip(names, found, strict=True):
            if dataset is None:
                raise ValueError(
                    f'{type(self.real).__name__} has {name}=None after setup, but '
                    'generated samples are compared with real ones of both sets. Use a '
                    'datamodule that sets them.'
                )
        return found

    def _require_same_names(self, training: Any, spec: SampleSpec) -> None:
        """Refuse generated samples with other bands or classes than the real ones."""
        require_same_names(self.real, training, spec, str(self.synthetic))

    def _loader(self, tiles: TileDataset) -> DataLoader[dict[str, Tensor]]:
        trainer = self.trainer
        sampler: Any = SequentialSampler(tiles)
        if trainer is not None and trainer.world_size > 1:
            # Lightning's own would repeat some, and sums would count them twice
            sampler = UnrepeatedDistributedSampler(
                tiles, trainer.world_size, trainer.global_rank, shuffle=False
            )
        return DataLoader(
            tiles, self.batch_size, sampler=sampler, num_workers=self.num_workers
        )
