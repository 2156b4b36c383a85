# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

from torchgeo_specdm.preparing import describe_splits

from .data.pairs import make_pairs


def test_says_who_made_the_splits(tmp_path: Path) -> None:
    root = make_pairs(tmp_path, 3)
    counts = {'train': 1, 'val': 1, 'test': 1}
    said = '1 patches to train on, 1 to validate and 1 to test'
    for name, who in (
        ('', ', chosen at random. Where patches are neighbours'),
        ('places.csv', ', by the places of places.csv.'),
        ('train.txt', '.'),
    ):
        if name:
            (root / name).write_text('0000')
        assert describe_splits(root, counts).startswith(said + who)
