# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The networks that are trained where none is named."""

from ...objects import Config
from ...pairs.spec import SampleSpec

#: The network that is trained where none is named, for each task.
NETWORKS: dict[str, Config] = {
    'segmentation': {
        'class_path': 'torchgeo_specdm.MultispectralSegmentationTask',
        'init_args': {
            'model': 'segformer',
            'backbone': 'mit_b0',
            'lr': 1e-3,
            'head_lr_factor': 1.0,
        },
    },
    'change': {
        'class_path': 'torchgeo_specdm.MultispectralChangeDetectionTask',
        'init_args': {
            'model': 'changeformer',
            'backbone': 'mit_b0',
            # few pixels change: without it, hundreds of steps find no change at all
            'class_weights': [1.0, 5.0],
            'lr': 1e-3,
        },
    },
}


def default_network(spec: SampleSpec) -> Config:
    """The network for samples of one or of several dates.

    Args:
        spec: Description of the samples.

    Returns:
        ``class_path`` and ``init_args`` of a task.
    """
    return NETWORKS['change' if spec.dates > 1 else 'segmentation']
