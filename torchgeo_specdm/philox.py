# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Random bits that are a function of a few whole numbers alone."""

import numpy as np
from numpy.random import Philox


def philox(seed: int, number: int, stream: int, step: int = 0) -> Philox:
    """Counter-based random bits, the same in every version of NumPy.

    They do not depend on order, batches, workers, processes or restarts, and those of
    two different argument lists have nothing in common.

    Args:
        seed: Seed of the run, 0 or more.
        number: Number of the sample, or of whatever else is made by lot, 0 or more.
        stream: Tells independent uses of one number apart, 0 or more.
        step: Tells steps of one stream apart, 0 or more.

    Returns:
        The bits: ``random_raw`` gives them as they are, NumPy's ``Generator`` makes
        numbers of a distribution from them.

    Raises:
        ValueError: If *seed* or *number* has more than 64 bits or is below 0.
    """
    if not (0 <= seed < 2**64 and 0 <= number < 2**64):
        raise ValueError(
            f'seed={seed} and number={number} must be from 0 to {2**64 - 1}. Use smaller '
            'ones.'
        )
    key = np.array([seed, number], np.uint64)
    return Philox(key=key, counter=np.array([0, 0, step, stream], np.uint64))
