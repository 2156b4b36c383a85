# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from torchgeo_specdm.reporting.tables import measure_tables


def test_shares_of_near_samples_are_percentages() -> None:
    pixels = {'share': 0.05, 'expected': 0.012, 'median_ratio': 0.9, 'threshold': 7.25}
    (table,) = measure_tables({'memorisation': {'pixels': pixels}})
    assert table.columns == ['in pixels']
    assert [cells for _, cells in table.rows] == [['5.0'], ['1.2'], ['0.9'], ['7.25']]
    assert [name.endswith('%') for name, _ in table.rows] == [True, True, False, False]
