# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Images without labels beside the labelled samples of any datamodule."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchgeo.datamodules import BaseDataModule, NonGeoDataModule

from ..datasets.pairs import PairFolder
from ..datasets.rasters import ImageFolder
from ..pairs.facts import SampleForm, Survey, declared_spec, fingerprints, survey
from ..pairs.spec import USUAL_IGNORE, SampleSpec
from .support.adapter import describe_datamodule
from .support.mixed import MixedDataModule
from .support.mixing import MatchedSamples, require_form
from .support.mixing_checks import hash_held_out, require_room, require_same_units
from .support.retrieval import nearest_images

#: Name of the protocol in which images of scored places are seen without labels.
LABELS_HERE = 'labels here, map there'


class WithoutLabels(Dataset[dict[str, Tensor]]):
    """Images of a data set with masks that have no label; its own are not read.

    Args:
        dataset: Gives samples with ``image``.
        form: Form of the labelled samples.
        no_label: Mask value of pixels without a label.
    """

    def __init__(
        self, dataset: Dataset[dict[str, Tensor]], form: SampleForm, no_label: int
    ) -> None:
        """Keep the arguments."""
        self.dataset = dataset
        self.form = form
        self.no_label = no_label

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``image`` as it is, and a ``mask`` without a label."""
        image = self.dataset[index]['image']
        shape = (*self.form.layers, *image.shape[-2:])
        mask = torch.full(shape, self.no_label, dtype=self.form.mask_dtype)
        return {'image': image, 'mask': mask}


class UnlabelledDataModule(MixedDataModule):
    """Adds images without labels to the training set of another datamodule.

    For both stages of :class:`SpecDMTask`, which learns the images of such samples and
    leaves their masks out of every loss, and for
    :class:`~torchgeo_specdm.SelfTraining` of other tasks. Validation, test and prediction
    sets, augmentation and normalisation are those of the real datamodule. Images that
    are larger than the labelled patches are cropped at random.
    """

    def __init__(
        self,
        real: BaseDataModule,
        unlabelled: str | BaseDataModule | Sequence[str | BaseDataModule],
        share: float = 0.5,
        scored_places: bool = False,
        nearest: int | None = None,
    ) -> None:
        """Initialize a new UnlabelledDataModule instance.

        Args:
            real: The datamodule with labels, with integer-indexed data sets.
            unlabelled: A folder of images or of pairs, or a datamodule, whose training
                set is taken; masks are not looked at. Or several of these.
            share: Share of images without labels in every training batch, between 0
                and 1, up to rounding to whole samples; who is short of samples repeats
                them.
            scored_places: Whether images of validation and test samples may be among
                those without labels. That is a protocol of its own, named in all that
                is written: labels here, map there.
            nearest: Number of images to take, those that resemble a labelled one most
                in spectra and texture; None for all of them.

        Raises:
            TypeError: If a datamodule is no NonGeoDataModule.
            ValueError: If *share* is out of range.
        """
        super().__init__(real)
        if not 0 < share < 1:
            raise ValueError(
                f'share={share} must lie between 0 and 1. Use 0.5, or the labelled '
                'datamodule alone for no images without labels.'
            )
        #: Folders and datamodules.
        self.unlabelled: list[Any] = (
            [*unlabelled]
            if isinstance(unlabelled, Sequence) and not isinstance(unlabelled, str)
            else [unlabelled]
        )
        for source in self.unlabelled or [None]:
            if not isinstance(source, str | NonGeoDataModule):
                raise TypeError(
                    f'unlabelled={type(source).__name__} must be a folder or a '
                    'NonGeoDataModule, whose samples are numbered. Write its images '
                    'into a folder.'
                )
        self.share = share
        self.scored_places = scored_places
        self.nearest = nearest

    @property
    def spec(self) -> SampleSpec:
        """Description of the samples, with a value for pixels without a label."""
        return self.describe(super().spec)

    def describe(self, spec: SampleSpec) -> SampleSpec:
        """See :meth:`WrappingDataModule.describe`."""
        if spec.ignore_index is not None:
            return spec
        return replace(spec, ignore_index=USUAL_IGNORE)

    def prepare_data(self) -> None:
        """Prepare the data of both sides."""
        super().prepare_data()
        for source in self.unlabelled:
            if isinstance(source, BaseDataModule):
                source.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up the data sets.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            ValueError: If the images have other bands, dates or units than the
                labelled ones, are smaller, are fewer than *nearest*, or are
                validation or test images.
        """
        super().setup(stage)
        if stage == 'fit':
            # looking at samples must not move the random numbers of the training
            with isolate_rng(include_cuda=False):
                self.train_dataset = self._training_set()
            labelled, unlabelled = self.counts
            rank_zero_info(
                f'Training set: {labelled} labelled samples and {unlabelled} images '
                f'without labels, {self.share:.0%} of each batch.'
            )

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The loader of labelled samples and images without labels."""
        assert self.train_dataset is not None
        return self.mixed_loader(self.train_dataset, 1 - self.share)

    def batches(self) -> int:
        """Batches of one process in an epoch, at least one."""
        return max(super().batches(), 1)

    def seen_samples(self) -> set[str]:
        """Fingerprints of all that is trained on: of images alone without labels."""
        images = fingerprints(self._images, True)
        return {*fingerprints(self.real_set()), *images}

    def weights(self) -> list[float]:
        """Chance of each training sample, in order, to be the next one of a batch."""
        labelled, unlabelled = self.counts
        first = [(1 - self.share) / labelled] * labelled
        return first + [self.share / unlabelled] * unlabelled

    def training_record(self) -> dict[str, Any]:
        """The part of the training's record that tells of images without labels."""
        labelled, unlabelled = self.counts
        record: dict[str, Any] = {
            'datamodule': type(self.real).__name__,
            'samples': labelled,
            'unlabelled': unlabelled,
            'unlabelled_share': self.share,
        }
        return record | ({'protocol': LABELS_HERE} if self.scored_places else {})

    def _training_set(self) -> Dataset[dict[str, Tensor]]:
        dataset = self.real_set()
        ours = survey(dataset)
        spec = declared_spec(self.real, dataset)
        value = None if spec is None else spec.ignore_index
        no_label = USUAL_IGNORE if value is None else value
        images, form = list[WithoutLabels](), ours.form
        for source in self.unlabelled:
            images.append(WithoutLabels(self._open(source), form, no_label))
            form = self._matched(form, ours, images[-1], _name(source))
        self._images: Dataset[dict[str, Tensor]] = ConcatDataset(images)
        if not self.scored_places:
            self._require_apart()
        if self.nearest is not None:
            near = nearest_images(dataset, self._images, self.nearest)
            self._images = Subset(self._images, near)
        self.counts = (len(dataset), len(self._images))  # type: ignore[arg-type]
        both = (dataset, self._images)
        return ConcatDataset(
            MatchedSamples(side, range(count), form)
            for side, count in zip(both, self.counts, strict=True)
        )

    def _matched(
        self, form: SampleForm, ours: Survey, images: WithoutLabels, name: str
    ) -> SampleForm:
        """The form of the samples, no larger than one more source of images has them."""
        theirs = survey(images)
        size = tuple(min(p) for p in zip(form.size, theirs.form.size, strict=True))
        form = form._replace(size=(size[0], size[1]))
        shapes = [
            (*one, *theirs.form.size) for one in (theirs.form.channels, form.layers)
        ]
        require_form(form, shapes[0], shapes[1], f'The first image of {name}')
        require_room(self.real, form.size, Path(name))
        bands = self._bands(len(ours.level))
        require_same_units(self.real, name, bands, ours.level, theirs.level)
        return form

    def _open(self, source: str | BaseDataModule) -> Dataset[dict[str, Tensor]]:
        """The data set of images without labels."""
        if isinstance(source, BaseDataModule):
            source.trainer = self.trainer
            source.setup('fit')
            if source.train_dataset is None:
                raise ValueError(
                    f'unlabelled={_name(source)} has no training set after setup. Use a '
                    'datamodule that sets train_dataset.'
                )
            found: Dataset[dict[str, Tensor]] = source.train_dataset
            return found
        spec = describe_datamodule(self.real)
        root = Path(source)
        if (root / 'masks').is_dir():
            return PairFolder(root, bands=spec.bands)
        return ImageFolder(root, spec)

    def _bands(self, count: int) -> list[str]:
        """Names of the bands, or their numbers."""
        spec = declared_spec(self.real, self.real_set())
        return [*spec.bands] if spec else [f'band {i + 1}' for i in range(count)]

    def _require_apart(self) -> None:
        """Refuse images that validation or test scores."""
        seen = {*fingerprints(self._images, True)}
        for split, found in hash_held_out(self.real).items():
            known = {found[value] for value in seen.intersection(found)}
            if known:
                raise ValueError(
                    f'{", ".join(map(_name, self.unlabelled))} has the images of '
                    f'{len(known)} {split} samples of '
                    f'{type(self.real).__name__}: scores would be those of another '
                    f'protocol, {LABELS_HERE}. Remove them, or set scored_places=True '
                    'if you mean it.'
                )


def _name(source: str | BaseDataModule) -> str:
    """Name of images without labels in messages."""
    return source if isinstance(source, str) else type(source).__name__
