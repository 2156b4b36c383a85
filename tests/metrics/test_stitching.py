# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchgeo_specdm.metrics.stitching import UNSEEN, Stitcher, seam_strength

from ..processes import on_two_processes

#: Row and column of overlapping tiles of 4 pixels that cover 6 x 7 pixels.
CORNERS = [(0, 0), (0, 3), (2, 0), (2, 3)]
SIZE = (6, 7)


def scene(number: int) -> Tensor:
    """Every pixel has a class of its own."""
    return (torch.arange(42).reshape(SIZE) + number) % 42


def tiles(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Certain probabilities, places and masks of the tiles of a scene."""
    truth = scene(number)
    masks = torch.stack([truth[r : r + 4, c : c + 4] for r, c in CORNERS])
    places = torch.tensor([[number, r, c, *SIZE] for r, c in CORNERS])
    return one_hot(masks, 42).movedim(-1, 1).float(), places, masks


@pytest.mark.parametrize('channel', [False, True])
def test_a_scene_of_coordinates_comes_back(channel: bool) -> None:
    stitcher = Stitcher()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    parts = [torch.cat(both)[order] for both in zip(tiles(3), tiles(1), strict=True)]
    for probabilities, place, mask in zip(*(p.split(3) for p in parts), strict=True):
        stitcher.add(probabilities, place, mask[:, None] if channel else mask)
    found = stitcher.scenes()
    assert list(found) == [1, 3]
    for number, stitched in found.items():
        assert torch.equal(stitched.prediction, scene(number))
        assert torch.equal(stitched.mask, scene(number))
    stitcher.reset()
    assert stitcher.scenes() == {}


def test_what_lies_beyond_the_scene_is_cut() -> None:
    probabilities, _, masks = tiles(0)
    stitcher = Stitcher()
    stitcher.add(probabilities[:1], torch.tensor([[5, 0, 0, 3, 2]]), masks[:1])
    found = stitcher.scenes()[5]
    assert torch.equal(found.prediction, scene(0)[:3, :2])
    assert torch.equal(found.mask, scene(0)[:3, :2])


def test_overlapping_tiles_decide_by_their_mean() -> None:
    stitcher = Stitcher()
    # two weak votes for class 0 against a strong one for class 1
    for chance in (0.55, 0.55, 0.05):
        probabilities = torch.tensor([chance, 1 - chance]).view(1, 2, 1, 1)
        stitcher.add(probabilities, torch.tensor([[0, 0, 0, 1, 2]]))
    stitched = stitcher.scenes()[0]
    assert stitched.prediction.tolist() == [[1, UNSEEN]]
    # without masks, nothing is known of the truth
    assert stitched.mask.tolist() == [[UNSEEN, UNSEEN]]


def test_a_tile_counts_less_towards_its_edge() -> None:
    stitcher = Stitcher()
    # the tiles share columns 1 to 4; each is sure of a class of its own
    for column, chance in ((0, 1.0), (1, 0.0)):
        probabilities = torch.tensor([chance, 1 - chance]).view(1, 2, 1, 1)
        tile = torch.tensor([[0, 0, column, 3, 6]])
        stitcher.add(probabilities.expand(1, 2, 3, 5), tile)
    prediction = stitcher.scenes()[0].prediction
    # whose middle is nearer decides
    assert prediction.tolist() == [[0, 0, 0, 1, 1, 1]] * 3


def test_processes_put_their_tiles_together(tmp_path: Path) -> None:
    def find(rank: int) -> bool:
        stitcher = Stitcher()
        # each process sees tiles of both scenes
        for number in (0, 1):
            probabilities, places, masks = (part[rank::2] for part in tiles(number))
            stitcher.add(probabilities, places, masks)
        found = stitcher.scenes()
        return all(
            torch.equal(found[number].prediction, scene(number))
            and torch.equal(found[number].mask, scene(number))
            for number in (0, 1)
        )

    assert on_two_processes(find, tmp_path / 'meeting') == [True, True]


class TestSeams:
    BORDERS = ([16, 32, 48], [20, 40])

    def noise(self) -> Tensor:
        return torch.randn(3, 64, 60, generator=torch.Generator().manual_seed(0))

    def test_without_any(self) -> None:
        assert seam_strength(self.noise(), self.BORDERS) == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize('axis', [-2, -1])
    def test_steps_at_borders(self, axis: int) -> None:
        tiles = torch.arange(64 if axis == -2 else 60) // (16 if axis == -2 else 20)
        shape = (64, 1) if axis == -2 else (60,)
        stepped = self.noise() + 3 * (tiles % 2).reshape(shape)
        assert seam_strength(stepped, self.BORDERS) > 1.5
        # in whatever unit a band is
        scaled = stepped * torch.tensor([1.0, 1e3, 1e-3])[:, None, None]
        strength = seam_strength(scaled, self.BORDERS)
        assert strength == pytest.approx(seam_strength(stepped, self.BORDERS))

    def test_cells_have_seams_of_their_own(self) -> None:
        cells = self.noise()[:, ::4, ::4].repeat_interleave(4, 1)
        cells = cells.repeat_interleave(4, 2) + 0.1 * self.noise()
        assert seam_strength(cells, self.BORDERS) > 3
        assert seam_strength(cells, self.BORDERS, 4) == pytest.approx(1, abs=0.15)
