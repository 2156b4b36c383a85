# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Images to draw masks for."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..datasets.pairs import PairFolder
from ..datasets.rasters import ImageFolder
from .generation import BatchDataset, GenerationDataModule

#: Most masks that are drawn for one image: their numbers must not meet.
MOST_DRAWS = 1000


class LabelBatches(BatchDataset):
    """Batches of given images, for each of which several masks are drawn."""

    draws: int

    def __getitem__(self, position: int) -> dict[str, Any]:
        """As :meth:`BatchDataset.__getitem__`, with the number of ``draws``."""
        return super().__getitem__(position) | {'draws': self.draws}


class LabellingDataModule(GenerationDataModule):
    """Tells :class:`SpecDMTask` in ``torchgeo predict`` what images to label.

    Writes a folder of pairs: the images as they are, where they lie, the class that
    most of the masks drawn for each of them have at a pixel, and the share of masks
    that agree on it, ``confidence/<id>.tif`` (float32, 0..1).
    """

    def __init__(
        self, out: str, images: str, draws: int = 8, seed: int = 0, batch_size: int = 16
    ) -> None:
        """Initialize a new LabellingDataModule instance.

        Args:
            out: Folder to write to.
            images: Folder of images, or of pairs, whose masks are not looked at.
            draws: Masks that are drawn for each image, 1 to 1000.
            seed: Seed of the run, from 0 to 2**63 - 1.
            batch_size: Images at once.

        Raises:
            ValueError: If a number is out of range.
        """
        super().__init__(out, None, seed, batch_size, masks=images)
        if not 1 <= draws <= MOST_DRAWS:
            raise ValueError(
                f'draws={draws} must be from 1 to {MOST_DRAWS}. 8 tell sure pixels from '
                'doubtful ones.'
            )
        self.mode = 'images'
        self.settings = {'draws': draws}
        self.real = ('image',)

    def make_dataset(
        self, batches: Sequence[Sequence[int]], size: tuple[int, int] | None
    ) -> BatchDataset:
        """See :meth:`GenerationDataModule.make_dataset`."""
        given = (batches, self.source, self.seed, size, ('image',))
        dataset = LabelBatches(*given)
        dataset.draws = self.settings['draws']
        return dataset

    def sample_name(self, index: int) -> str:
        """The name of the image."""
        assert self.source is not None
        return self.source.ids[index]

    @cached_property
    def source(self) -> PairFolder | ImageFolder:
        """The folder of images."""
        root = Path(str(self.source_folder))
        if (root / 'masks').is_dir():
            return PairFolder(root, bands=self.spec.bands)
        return ImageFolder(root, self.spec)

    @cached_property
    def source_digest(self) -> str:
        """A hash of the images."""
        return self.source.digest(masks=False)

    def _require_match(self) -> None:
        """Refuse images that do not suit the generator; their masks may be any."""
        names = ('bands', 'dates', 'scale')
        folder = str(self.source_folder)
        self.spec.require_match(self.source.spec, 'the generator', folder, names)
