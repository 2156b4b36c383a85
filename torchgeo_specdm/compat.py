# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The only file that knows which TorchGeo (0.8 to 0.10) is installed."""

from typing import Any

import shapely

try:
    # 0.10 moved trainers to tasks and dropped the suffix; the old names warn and go
    # away in 1.0
    from torchgeo.tasks import BaseTask
    from torchgeo.tasks import ChangeDetection as ChangeDetectionTask
    from torchgeo.tasks import SemanticSegmentation as SemanticSegmentationTask
except ImportError:
    from torchgeo.trainers import (  # type: ignore[attr-defined,unused-ignore]
        BaseTask,
        ChangeDetectionTask,
        SemanticSegmentationTask,
    )


def sampled_area(sampler: Any) -> shapely.Geometry:
    """The area that a sampler of TorchGeo draws boxes from, in coordinates."""
    # samplers since 0.10 have a geometry
    found: shapely.Geometry = getattr(sampler, 'roi', None) or sampler.geometry
    return found


__all__ = (
    'BaseTask',
    'ChangeDetectionTask',
    'SemanticSegmentationTask',
    'sampled_area',
)
