# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Procedural demo scenes, with labels that are right by construction."""
