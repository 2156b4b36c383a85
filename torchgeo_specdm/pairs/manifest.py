# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One line for each sample of a folder: where it comes from, and its scores."""

import json
from pathlib import Path
from typing import Any

MANIFEST = 'manifest.jsonl'


def read_manifest(root: Path) -> list[dict[str, Any]]:
    """Read ``manifest.jsonl``; a torn line (a killed writer) is dropped.

    Args:
        root: The folder of pairs.

    Returns:
        One dict a line, the last one of an id winning, in file order.
    """
    path = root / MANIFEST
    rows: dict[str, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding='utf-8', errors='replace').split('\n'):
            try:
                row = json.loads(line)
                rows[row['id']] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
    return list(rows.values())
