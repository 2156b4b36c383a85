# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Change painted into real scenes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torchgeo_specdm import PairFolder
from torchgeo_specdm.datamodules.painting import ChangeDataModule, move_mask
from torchgeo_specdm.pairs.manifest import read_manifest

from .change_world import write_painter, write_scenes
from .generating import draw


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A generator of two dates with fixed weights."""
    return SimpleNamespace(out=write_painter(tmp_path_factory.mktemp('painter')))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether all values are equal, and missing where the others are."""
    return torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


@pytest.mark.parametrize('first_outside', [False, True])
@pytest.mark.parametrize(('strength', 'no_label'), [(0.5, 255), (1.0, 200)])
def test_unchanged_pixels_are_real_to_the_bit(
    run: Any, tmp_path: Path, strength: float, no_label: int, first_outside: bool
) -> None:
    real = PairFolder(write_scenes(tmp_path / 'real', no_label=no_label))
    assert real.spec.ignore_index == no_label
    data = ChangeDataModule(
        *(str(tmp_path / 'set'), str(real.root), 6),
        strength=strength,
        first_outside=first_outside,
    )
    draw(run, data, tmp_path)
    drawn = PairFolder(tmp_path / 'set')
    painted = 0
    for index, row in enumerate(read_manifest(drawn.root)):
        assert row['source'] == str(index % 3) and row['mask_source'] == '0'
        before, after = real[index % 3], drawn[index]
        assert drawn.place(index) == real.place(index % 3)
        first, second = before['image']
        second = first if first_outside else second
        now = after['mask'][0]
        old = torch.zeros_like(now) if first_outside else before['mask'][0]
        new = (now == 1) & (old != 1)
        assert same_bits(after['image'][0], first)
        assert same_bits(after['image'][1][:, ~new], second[:, ~new])
        # what had changed has changed, and what has no label has none
        blank = (old == no_label) | after['image'].isnan().all(1).any(0)
        assert torch.equal(now == 255, blank)
        assert bool((now[old == 1] == 1).all())
        there = new & second.isfinite().all(0)
        assert torch.equal(there, new)
        painted += int((after['image'][1] != second)[:, new].any(0).sum())
    assert painted > 100
    assert 'Second dates are real outside' in (drawn.root / 'README.md').read_text()


def test_images_of_one_date_become_pairs_of_change(run: Any, tmp_path: Path) -> None:
    masks = write_scenes(tmp_path / 'real') / 'masks'
    scenes = write_scenes(tmp_path / 'scenes', 2, dates=1)
    data = ChangeDataModule(str(tmp_path / 'set'), str(scenes), masks=str(masks))
    draw(run, data, tmp_path)
    drawn = PairFolder(tmp_path / 'set')
    assert len(drawn) == 2
    for index in range(2):
        (first, second), mask = drawn[index]['image'], drawn[index]['mask'][0]
        same = (first == second) | first.isnan()
        assert bool(same[:, mask != 1].all()) and bool((mask == 1).any())
        assert not bool(same[:, mask == 1].all())


class TestMovedMasks:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[1:3, 2:7] = True

    def move(self, size: tuple[int, int] = (6, 8), **lot: float) -> torch.Tensor:
        still = {'flip': 0, 'turns': 0, 'factor': 1.0, 'top': 0, 'left': 0}
        return move_mask(self.mask, still | lot, size)

    def test_stay_where_nothing_moves(self) -> None:
        assert torch.equal(self.move(), self.mask)

    def test_are_moved_turned_and_scaled(self) -> None:
        assert torch.equal(self.move(top=2, left=1)[2:, 1:], self.mask[:-2, :-1])
        assert torch.equal(self.move((8, 6), turns=1), self.mask.rot90(1, (0, 1)))
        assert torch.equal(self.move(flip=1), self.mask.flip(1))
        double = self.move((12, 16), factor=2.0)
        assert torch.equal(
            double, self.mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
        )

    def test_may_leave(self) -> None:
        assert not self.move(top=9).any() and not self.move(left=-9).any()


class TestRefusals:
    def test_masks_without_change(self, run: Any, tmp_path: Path) -> None:
        real = write_scenes(tmp_path / 'real')
        (real / 'train.txt').write_text('1\n2\n')
        data = ChangeDataModule(str(tmp_path / 'set'), str(real))
        with pytest.raises(
            ValueError, match=r'has 2 masks without any change \(change'
        ):
            draw(run, data, tmp_path)

    def test_generator_of_one_date(
        self, diffusion_run: Any, pair_folder: Path, tmp_path: Path
    ) -> None:
        data = ChangeDataModule(str(tmp_path / 'set'), str(pair_folder))
        with pytest.raises(ValueError, match=r'but the generator has 1 date\(s\)'):
            draw(diffusion_run, data, tmp_path)

    @pytest.mark.parametrize('strength', [0.0, 1.5])
    def test_strength(self, strength: float) -> None:
        with pytest.raises(ValueError, match=f'strength={strength} must lie in'):
            ChangeDataModule('out', 'scenes', strength=strength)
