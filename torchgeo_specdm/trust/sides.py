# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""All that is counted of one set of pairs, so that sets can be compared."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..metrics.change import ChangeEvidence
from ..metrics.class_spectra import ClassSpectra, SpectraSummary
from ..metrics.detail import DetailSummary, FineDetail
from ..metrics.edges import EdgeAgreement
from ..metrics.features import (
    Extractor,
    Features,
    FeatureSample,
    RandomFeatures,
    band_planes,
    mask_planes,
)
from ..metrics.segmentation import SegmentationScores
from ..metrics.texture import TextureFeatures
from ..pairs.spec import SampleSpec
from ..pairs.valid import labelled_pixels


class Readings(NamedTuple):
    """Classes that are read in the images of a batch, without a look at their masks.

    Attributes:
        judges: Class positions by each judge (J, B, H, W).
        spectrum: Class positions by the spectrum of each pixel (B, H, W).
    """

    judges: Tensor
    spectrum: Tensor


class Alignment(nn.Module):
    """Do masks fit their images? By judges, by edges and by spectra.

    Args:
        spec: Description of the samples.
    """

    def __init__(self, spec: SampleSpec) -> None:
        """Start with nothing seen."""
        super().__init__()
        self.spec = spec
        self.judge = SegmentationScores(spec.num_classes, ignore_index=-1)
        self.spectrum = SegmentationScores(spec.num_classes, ignore_index=-1)
        self.edges = EdgeAgreement(spec)

    def update(self, images: Tensor, masks: Tensor, readings: Readings) -> None:
        """Count the pixels of a batch.

        Args:
            images: Digital numbers (B, C, H, W), or (B, T, C, H, W) with T dates.
            masks: Class positions (B, H, W); other values are no label.
            readings: Classes that are read in the images.
        """
        known = labelled_pixels(masks, self.spec.num_classes)
        labels = masks.where(known, -1)
        for reading in readings.judges:
            self.judge.update(reading, labels)
        self.spectrum.update(readings.spectrum, labels)
        self.edges.update(images, masks)

    def compute(self) -> dict[str, Any]:
        """Compute the agreement of all pixels counted.

        Returns:
            ``judge`` with ``accuracy``, ``miou``, ``iou`` of each class and, with
            several dates, ``change_f1``, all in 0..1, counted over all judges;
            ``edges``, the chance in 0..1 that a boundary pixel has the stronger
            gradient; ``boundary``, the share of boundary pixels; and ``spectrum``, the
            mean over classes of the share of pixels whose spectrum is of their class.
            NaN where nothing could be counted.
        """
        judged, spectrum = self.judge.compute(), self.spectrum.compute()
        edges = self.edges.compute()
        found: dict[str, Any] = {
            'accuracy': float(judged['accuracy']),
            'miou': float(judged['miou']),
            'iou': judged['iou'].tolist(),
        }
        if self.spec.dates > 1:
            found['change_f1'] = float(judged['class_f1'][1])
        return {
            'judge': found,
            'edges': float(edges['auc']),
            'boundary': float(edges['boundary']),
            'spectrum': float(spectrum['recall'].nanmean()),
        }


class Looks(NamedTuple):
    """The counts of one set that need no judge.

    Attributes:
        spectra: Spectra of each class.
        features: Features of images and textures of each date and of masks, by name.
    """

    spectra: SpectraSummary
    features: dict[str, Features]


class SideSummary(NamedTuple):
    """The counts of one set.

    Attributes:
        alignment: Agreement of images and masks, from :meth:`Alignment.compute`.
        spectra: Spectra of each class.
        features: Features of the images of each date and of the masks, by name.
        change: Evidence of change, from :class:`ChangeEvidence`; None with one date.
        detail: Detail of the images.
    """

    alignment: dict[str, Any]
    spectra: SpectraSummary
    features: dict[str, Features]
    change: dict[str, float] | None
    detail: DetailSummary


class LooksCounter(nn.Module):
    """Counts what needs no judge; memory does not grow with the number of pairs.

    Args:
        spec: Description of the samples.
        extractor: Extractor of the features of images; shared between sides.
        mean: Mean of each band of real training samples (C,), in digital numbers.
        std: Standard deviation of each band.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, spec: SampleSpec, extractor: Extractor, mean: Tensor, std: Tensor
    ) -> None:
        """Start with nothing seen."""
        super().__init__()
        self.spec = spec
        self.register_buffer('mean', mean.float())
        self.register_buffer('std', std.float())
        self.spectra = ClassSpectra(spec)
        self.image_extractor = extractor
        self.mask_extractor = RandomFeatures(spec.num_classes)
        self.texture = TextureFeatures(spec.num_bands)
        dates = range(1, spec.dates + 1)
        #: End of the names of features of each date.
        self.ends = [f'_{date}' for date in dates] if spec.dates > 1 else ['']
        samples = {}
        for end in self.ends:
            samples[f'image{end}'] = FeatureSample(extractor.num_features)
            samples[f'texture{end}'] = FeatureSample(self.texture.num_features)
        samples['mask'] = FeatureSample(self.mask_extractor.num_features)
        self.features: Any = nn.ModuleDict(samples)

    def look(self, batch: dict[str, Tensor]) -> None:
        """Count a batch.

        Args:
            batch: A batch of a :class:`~torchgeo_specdm.pairs.tiles.TileDataset`.
        """
        images, masks = batch['image'], batch['mask']
        self.spectra.update(images, masks)
        dates = images.unbind(1) if self.spec.dates > 1 else (images,)
        numbers = batch['index'], batch['place']
        for end, date in zip(self.ends, dates, strict=True):
            planes = band_planes(date, self.mean, self.std)
            self.features[f'image{end}'].update(self.image_extractor(planes), *numbers)
            self.features[f'texture{end}'].update(self.texture(planes), *numbers)
        planes = mask_planes(masks, self.spec.num_classes)
        self.features['mask'].update(self.mask_extractor(planes), *numbers)

    def looks(self) -> Looks:
        """Finish, over all processes."""
        features = {name: sample.compute() for name, sample in self.features.items()}
        return Looks(self.spectra.compute(), features)


class Side(LooksCounter):
    """Counts one set of pairs, with judges.

    Args:
        spec: Description of the samples.
        extractor: Extractor of the features of images; shared between sides.
        mean: Mean of each band of real training samples (C,), in digital numbers.
        std: Standard deviation of each band.
    """

    def __init__(
        self, spec: SampleSpec, extractor: Extractor, mean: Tensor, std: Tensor
    ) -> None:
        """Start with nothing seen."""
        super().__init__(spec, extractor, mean, std)
        self.alignment = Alignment(spec)
        self.detail = FineDetail(spec)
        self.change = ChangeEvidence(spec) if spec.dates > 1 else None

    def update(
        self, batch: dict[str, Tensor], readings: Readings, truth: Tensor | None = None
    ) -> None:
        """Count a batch.

        Args:
            batch: A batch of a :class:`~torchgeo_specdm.pairs.tiles.TileDataset`.
            readings: Classes that are read in its images.
            truth: Masks (B, H, W) that the readings are compared with, where these are
                not those of the batch.
        """
        images, masks = batch['image'], batch['mask']
        self.alignment.update(images, masks if truth is None else truth, readings)
        self.detail.update(images)
        if self.change is not None:
            self.change.update(images, masks)
        self.look(batch)

    def compute(self) -> SideSummary:
        """Finish, over all processes."""
        looks = self.looks()
        return SideSummary(
            self.alignment.compute(),
            looks.spectra,
            looks.features,
            None if self.change is None else self.change.compute(),
            self.detail.compute(),
        )


def sample_agreement(readings: Tensor, masks: Tensor, spec: SampleSpec) -> Tensor:
    """Agreement of the judges with the mask of each sample.

    Args:
        readings: Class positions by each judge (J, B, H, W).
        masks: Class positions (B, H, W); other values are no label.
        spec: Description of the samples.

    Returns:
        Share of labelled pixels that the judges read as the mask says, mean over
        judges, in 0..1 (B,); with several dates the mean of this share over changed
        and unchanged pixels, since most do not change. NaN without a label.
    """
    right = (readings == masks).float().mean(0)
    if spec.dates == 1:
        groups = [labelled_pixels(masks, spec.num_classes)]
    else:
        groups = [masks == k for k in range(spec.num_classes)]
    shares = [(right * g).sum((1, 2)) / g.sum((1, 2)) for g in groups]
    return torch.stack(shares).nanmean(0)
