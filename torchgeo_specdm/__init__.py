# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Learn, draw and judge labelled satellite image patches with TorchGeo."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

#: The one place that says it.
__version__ = '0.2.0'

if TYPE_CHECKING:
    from .datamodules.augmented import (
        SyntheticAugmentedDataModule as SyntheticAugmentedDataModule,
    )
    from .datamodules.batch_mixing import BatchMixDataModule as BatchMixDataModule
    from .datamodules.generation import GenerationDataModule as GenerationDataModule
    from .datamodules.in_memory import InMemoryDataModule as InMemoryDataModule
    from .datamodules.latents import LatentDataModule as LatentDataModule
    from .datamodules.oscd import OSCDDataModule as OSCDDataModule
    from .datamodules.pairs import PairFolderDataModule as PairFolderDataModule
    from .datamodules.segmunich import SegMunichDataModule as SegMunichDataModule
    from .datamodules.unlabelled import UnlabelledDataModule as UnlabelledDataModule
    from .datasets.oscd import OSCD as OSCD
    from .datasets.pairs import PairFolder as PairFolder
    from .datasets.segmunich import SegMunich as SegMunich
    from .diffusion import Generator as Generator
    from .pairs.spec import SampleSpec as SampleSpec
    from .tasks.change_detection import (
        MultispectralChangeDetectionTask as MultispectralChangeDetectionTask,
    )
    from .tasks.segmentation import (
        MultispectralSegmentationTask as MultispectralSegmentationTask,
    )
    from .tasks.specdm import SpecDMTask as SpecDMTask
    from .tasks.support.precision import AutoPrecision as AutoPrecision
    from .tasks.support.self_training import SelfTraining as SelfTraining
    from .trust.datamodule import TrustDataModule as TrustDataModule
    from .trust.task import TrustTask as TrustTask

#: The public names and their modules, loaded when first used (PEP 562), so that what
#: needs no network starts without torch.
_HOMES = {
    'SyntheticAugmentedDataModule': 'datamodules.augmented',
    'BatchMixDataModule': 'datamodules.batch_mixing',
    'GenerationDataModule': 'datamodules.generation',
    'InMemoryDataModule': 'datamodules.in_memory',
    'LatentDataModule': 'datamodules.latents',
    'OSCDDataModule': 'datamodules.oscd',
    'PairFolderDataModule': 'datamodules.pairs',
    'SegMunichDataModule': 'datamodules.segmunich',
    'UnlabelledDataModule': 'datamodules.unlabelled',
    'OSCD': 'datasets.oscd',
    'PairFolder': 'datasets.pairs',
    'SegMunich': 'datasets.segmunich',
    'Generator': 'diffusion',
    'SampleSpec': 'pairs.spec',
    'MultispectralChangeDetectionTask': 'tasks.change_detection',
    'MultispectralSegmentationTask': 'tasks.segmentation',
    'SpecDMTask': 'tasks.specdm',
    'AutoPrecision': 'tasks.support.precision',
    'SelfTraining': 'tasks.support.self_training',
    'TrustDataModule': 'trust.datamodule',
    'TrustTask': 'trust.task',
}
__all__ = tuple(sorted(_HOMES))


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(f'.{_HOMES[name]}', __name__), name)
    # only the first use comes here
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion."""
    return list(__all__)
