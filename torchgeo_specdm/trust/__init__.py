# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""How far generated pairs can be trusted: judges, lights, filter."""
