# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks for segmentation and change detection."""

from .segformer import AnySize, BandMapper, segformer

__all__ = ('AnySize', 'BandMapper', 'segformer')
