# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Learn, draw and judge labelled satellite image patches with TorchGeo."""

from .datamodules.augmented import SyntheticAugmentedDataModule
from .datamodules.batch_mixing import BatchMixDataModule
from .datamodules.generation import GenerationDataModule
from .datamodules.latents import LatentDataModule
from .datamodules.oscd import OSCDDataModule
from .datamodules.pairs import PairFolderDataModule
from .datamodules.segmunich import SegMunichDataModule
from .datasets.oscd import OSCD
from .datasets.pairs import PairFolder
from .datasets.segmunich import SegMunich
from .diffusion import Generator
from .pairs.spec import SampleSpec
from .tasks.change_detection import MultispectralChangeDetectionTask
from .tasks.segmentation import MultispectralSegmentationTask
from .tasks.specdm import SpecDMTask
from .trust.datamodule import TrustDataModule
from .trust.task import TrustTask

__all__ = (
    'OSCD',
    'BatchMixDataModule',
    'GenerationDataModule',
    'Generator',
    'LatentDataModule',
    'MultispectralChangeDetectionTask',
    'MultispectralSegmentationTask',
    'OSCDDataModule',
    'PairFolder',
    'PairFolderDataModule',
    'SampleSpec',
    'SegMunich',
    'SegMunichDataModule',
    'SpecDMTask',
    'SyntheticAugmentedDataModule',
    'TrustDataModule',
    'TrustTask',
)
