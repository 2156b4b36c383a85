# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""``python -m torchgeo_specdm`` is the command ``torchgeo-specdm``."""

import sys

from .cli import main

sys.exit(main())
