# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import TrustDataModule, TrustTask
from torchgeo_specdm.reporting.collect import collect_measures, rank_samples

from ..conftest import quiet_trainer
from ..study.fakes import open_data, write_changed
from ..tasks.oracle import ORACLE

IGNORED = 255
SIDE = 16
#: Generated samples that are copies, one for each turn.
COPIES = 8


class Measured(NamedTuple):
    """A set with copies, measured."""

    trust: Path
    data: TrustDataModule
    generator: Path
    #: Which sample was planted, upper row and left column of its window.
    planted: list[tuple[int, int, int]]


@pytest.fixture(scope='module')
def measured(
    pair_folder: Path, untrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    """Copies are turned windows of training samples; the rest is wrong and bright."""
    root = tmp_path_factory.mktemp('collect')
    real = open_data(pair_folder)
    planted: list[tuple[int, int, int]] = []

    def change(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        number = len(planted)
        top, left = 2 * number % 15 + 1, (5 * number + 3) % 16
        planted.append((number, top, left))
        pair = [x[..., top : top + SIDE, left : left + SIDE] for x in (image, mask)]
        if number >= COPIES:
            image, mask = 3 * pair[0], pair[1]
            return image, mask.where(mask == IGNORED, (mask + 1) % 4)
        if number >= 4:
            pair = [x.flip(-1) for x in pair]
        image, mask = (x.rot90(number % 4, (-2, -1)) for x in pair)
        return image.contiguous(), mask.contiguous()

    synthetic = write_changed(real, root / 'synthetic', change)
    data = TrustDataModule(open_data(pair_folder), synthetic)
    task = TrustTask(str(root / 'out'), ORACLE, str(untrained), updates=1)
    quiet_trainer(root).test(task, data, verbose=False)
    return Measured(root / 'out', data, untrained, planted)


def test_neighbours_lie_as_the_copies_do(measured: Measured) -> None:
    found = collect_measures(measured.trust, measured.data, None)['nearest']
    # in order of their distance, which is that of rounding
    ids = [int(caption.split(':')[0]) for caption in found.captions]
    assert sorted(ids) == list(range(COPIES))
    assert all(caption.endswith(': distance 0.00') for caption in found.captions)
    tiles = measured.data.tiles['synthetic']
    for i, number in enumerate(ids):
        assert torch.equal(found.generated.images[i], tiles[number]['image'])
        assert torch.equal(found.training.images[i], tiles[number]['image'])
        assert torch.equal(found.training.masks[i], tiles[number]['mask'])


def test_copies_are_found_where_they_were_cut(measured: Measured) -> None:
    found = collect_measures(measured.trust, measured.data, None)['scores']
    rows = {int(row['id']): row for row in found}
    for number, top, left in measured.planted[:COPIES]:
        assert int(rows[number]['nearest']) == number
        assert (rows[number]['row'], rows[number]['column']) == (top, left)
        assert rows[number]['turn'] == undone(number)


def undone(turn: int) -> int:
    """The turn that undoes another: a flip and a turn are their own inverse."""
    return turn if turn >= 4 else -turn % 4


def test_pairs_that_fit_are_the_best(measured: Measured) -> None:
    found = collect_measures(measured.trust, measured.data, None)
    shown: dict[str, list[int]] = {}
    for name in ('best', 'worst'):
        tiles, captions = found[name]
        shown[name] = [int(caption.split(':')[0]) for caption in captions]
        for i, number in enumerate(shown[name]):
            tile = measured.data.tiles['synthetic'][number]
            assert torch.equal(tiles.images[i], tile['image'])
            assert torch.equal(tiles.masks[i], tile['mask'])
    assert len(set(shown['best'])) == 8 and max(shown['best']) < COPIES
    assert set(shown['worst']) == set(range(COPIES, 16))
    assert 'agreement 0.0' in found['worst'].captions[0]
    assert 'agreement 1.00' in found['best'].captions[0]


def test_rows_are_spread_over_the_sets(measured: Measured) -> None:
    tiles = measured.data.tiles
    rows = collect_measures(measured.trust, measured.data, measured.generator)['rows']
    assert list(rows) == ['real', 'reconstructed', 'generated']
    for name, of, step in (('real', 'held_out', 2), ('generated', 'synthetic', 2)):
        expected = torch.stack([tiles[of][i * step]['image'] for i in range(8)])
        assert torch.equal(rows[name].images, expected)
    # this codec loses nothing
    torch.testing.assert_close(rows['reconstructed'].images, rows['real'].images)
    # and what has no label gets none
    assert (rows['real'].masks == IGNORED).any()
    assert torch.equal(rows['reconstructed'].masks, rows['real'].masks)
    alone = collect_measures(measured.trust, measured.data, None)['rows']
    assert list(alone) == ['real', 'generated']


def rows_of(**scores: list[float | None]) -> list[dict[str, float | None]]:
    count = len(next(iter(scores.values())))
    usual: dict[str, list[float | None]] = dict.fromkeys(
        ('agreement', 'edges', 'spectrum'), [None] * count
    )
    columns = usual | scores
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


class TestRanks:
    def test_one_score(self) -> None:
        assert rank_samples(rows_of(agreement=[0.2, 0.9, 0.1, 0.5])) == [1, 3, 0, 2]

    def test_scores_count_alike_whatever_their_spread(self) -> None:
        rows = rows_of(agreement=[0.1, 0.5, 0.9], edges=[0.503, 0.502, 0.501])
        # equal in sum, so as they come
        assert rank_samples(rows) == [0, 1, 2]
        rows = rows_of(
            agreement=[0.1, 0.5, 0.9],
            edges=[0.503, 0.502, 0.501],
            spectrum=[0.2, 0.7, 0.1],
        )
        assert rank_samples(rows) == [1, 0, 2]

    def test_none_is_in_the_middle(self) -> None:
        rows = rows_of(agreement=[0.1, None, 0.9, 0.3, 0.8])
        assert rank_samples(rows) == [2, 4, 1, 3, 0]

    def test_ties_are_equal(self) -> None:
        rows = rows_of(agreement=[0.5, 0.5, 0.5], spectrum=[0.1, 0.3, 0.2])
        assert rank_samples(rows) == [1, 2, 0]

    def test_without_any_score_as_they_come(self) -> None:
        assert rank_samples(rows_of(edges=[None, None, None])) == [0, 1, 2]
