# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace

from torchgeo_specdm.reporting.tables import comparison_tables, measure_tables
from torchgeo_specdm.study.design import REAL
from torchgeo_specdm.study.runs import Run


def test_shares_of_near_samples_are_percentages() -> None:
    pixels = {'share': 0.05, 'expected': 0.012, 'median_ratio': 0.9, 'threshold': 7.25}
    (table,) = measure_tables({'memorisation': {'pixels': pixels}})
    assert table.columns == ['in pixels']
    assert [cells for _, cells in table.rows] == [['5.0'], ['1.2'], ['0.9'], ['7.25']]
    assert [name.endswith('%') for name, _ in table.rows] == [True, True, False, False]


def test_images_without_labels_have_a_column() -> None:
    scores: dict[str, float | None] = {'miou': 0.5}
    real = Run('net', REAL, 0.0, 0, 0, 0, 10, scores)
    first, _ = comparison_tables([real], 'miou')
    assert first.columns[0] == 'mIoU'
    taught = replace(real, arm='self-training', unlabelled=7)
    first, _ = comparison_tables([real, taught], 'miou')
    assert first.columns[:2] == ['images without labels', 'mIoU']
    assert [cells[:2] for _, cells in first.rows] == [['0', '50.0'], ['7', '50.0']]
