# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Learn, draw and judge labelled satellite image patches with TorchGeo."""
