# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks for segmentation and change detection."""

from .changeformer import ChangeFormer
from .pfsegnet import PFSegNet
from .segformer import AnySize, BandMapper, segformer
from .siamcrnn import SiamCRNN

__all__ = ('AnySize', 'BandMapper', 'ChangeFormer', 'PFSegNet', 'SiamCRNN', 'segformer')
