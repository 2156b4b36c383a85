# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Scores of generated and of real samples, as trust is measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np

COUNT = 12
KEYS = ('agreement', 'edges', 'spectrum', 'distance', 'feature_distance')
#: Samples that are not to be trusted, and why.
BAD = {2: {'agreement': 0.1}, 5: {'edges': 0.2, 'spectrum': 0.1}, 7: {'distance': 0.0}}
GOOD = [i for i in range(COUNT) if i not in BAD]


def score(number: int, **values: Any) -> dict[str, Any]:
    given = dict.fromkeys(KEYS[:3], 0.9) | dict.fromkeys(KEYS[3:], 2.0)
    row = {'index': number, 'id': f'{number:06d}', 'nearest': '000031'}
    return row | given | values


def real_rows(count: int = 60) -> list[dict[str, Any]]:
    """Real scores from 0.5 to 0.9, and distances from 1 to 3."""
    steps = np.linspace(0, 1, count)
    return [
        score(i, **dict.fromkeys(KEYS[:3], 0.5 + 0.4 * x))
        | dict.fromkeys(KEYS[3:], 1 + 2 * x)
        for i, x in enumerate(steps.tolist())
    ]


def write_scores(
    root: Path, synthetic: list[dict[str, Any]], real: list[dict[str, Any]]
) -> Path:
    root.mkdir(exist_ok=True)
    for name, rows in (('synthetic', synthetic), ('real', real)):
        text = ''.join(json.dumps(row) + '\n' for row in rows)
        (root / f'{name}.jsonl').write_text(text)
    return root
