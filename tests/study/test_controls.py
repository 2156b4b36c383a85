# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from tests.study.fakes import open_data, pixel_codec, write_changed, write_generator
from torchgeo_specdm import PairFolder, PairFolderDataModule
from torchgeo_specdm.study.controls import (
    blur_gains,
    border_distance,
    filter_image,
    make_controls,
    move_mask,
)


@pytest.fixture(scope='module')
def real(pair_folder: Path) -> PairFolderDataModule:
    return open_data(pair_folder)


@pytest.fixture(scope='module')
def training(real: PairFolderDataModule, tmp_path_factory: Any) -> Path:
    """The training pairs, as a folder of their own."""
    out: Path = tmp_path_factory.mktemp('real') / 'real'
    return write_changed(real, out, lambda image, mask: (image, mask))


def drawn(real: PairFolderDataModule, out: Path, blur: float, moved: int) -> Path:
    def change(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian_blur(image, 9, blur), move_mask(mask, moved, 0)

    return write_changed(real, out, change)


def detail(folder: Path) -> float:
    images = torch.stack([sample['image'] for sample in PairFolder(folder)])
    return float(images.diff(dim=-1).diff(dim=-1).std())


def test_reconstructed_pairs_are_those_of_the_codec(
    real: PairFolderDataModule, training: Path, tiny_settings: Any, tmp_path: Path
) -> None:
    codec = pixel_codec(real)
    generator = write_generator(codec, tiny_settings, tmp_path / 'generator')
    out = make_controls('reconstructed', training, tmp_path / 'out', 20, 0, generator)
    made, pairs = PairFolder(out), PairFolder(training)
    assert len(made) == 20
    for index in (0, 3, 19):
        sample, original = made[index], pairs[index % 16]
        assert torch.equal(sample['mask'], original['mask'])
        # a codec that loses nothing but the rounding
        torch.testing.assert_close(sample['image'], original['image'], atol=1.5, rtol=0)


def test_blurred_pairs_have_the_detail_of_the_generator(
    real: PairFolderDataModule, training: Path, tmp_path: Path
) -> None:
    generated = drawn(real, tmp_path / 'drawn', 1.2, 0)
    out = make_controls('blurred', training, tmp_path / 'out', 16, 0, generated)
    assert detail(out) == pytest.approx(detail(generated), rel=0.2)
    assert detail(out) < 0.5 * detail(training)
    made, pairs = PairFolder(out), PairFolder(training)
    for index in (0, 7):
        sample, original = made[index], pairs[index]
        assert torch.equal(sample['mask'], original['mask'])
        # the mean stays
        torch.testing.assert_close(
            sample['image'].mean((1, 2)),
            original['image'].mean((1, 2)),
            rtol=1e-2,
            atol=1,
        )


def test_a_sharp_generator_blurs_nothing(training: Path) -> None:
    pairs = PairFolder(training)
    gains = blur_gains(pairs, pairs)
    torch.testing.assert_close(gains, torch.ones_like(gains))
    image = pairs[0]['image']
    torch.testing.assert_close(filter_image(image, gains), image, atol=0.1, rtol=0)


@pytest.mark.parametrize('distance', [0, 1, 3])
def test_masks_are_moved_as_far_as_the_borders_are_off(
    real: PairFolderDataModule, training: Path, tmp_path: Path, distance: int
) -> None:
    generated = drawn(real, tmp_path / 'drawn', 0.1, distance)
    found = border_distance(PairFolder(training), PairFolder(generated))
    assert abs(found - distance) <= 1 and (found > 0) == (distance > 0)
    out = make_controls('shifted', training, tmp_path / 'out', 6, 0, generated)
    made, pairs = PairFolder(out), PairFolder(training)
    for index in range(6):
        sample, original = made[index], pairs[index]
        assert torch.equal(sample['image'], original['image'])
        expected = move_mask(original['mask'], found, index)
        assert torch.equal(sample['mask'], expected)


def test_masks_move_to_all_sides() -> None:
    mask = torch.arange(16).view(4, 4)
    right, down, left, up = (move_mask(mask, 1, direction) for direction in range(4))
    assert torch.equal(right[:, 1:], mask[:, :-1])
    assert torch.equal(left[:, :-1], mask[:, 1:])
    vertical = {tuple(down[1].tolist()), tuple(up[1].tolist())}
    assert vertical == {tuple(mask[0].tolist()), tuple(mask[2].tolist())}


def test_a_second_start_writes_what_is_missing(training: Path, tmp_path: Path) -> None:
    out = make_controls('quilts', training, tmp_path / 'out', 2, 0)
    first = (out / 'images' / '000001.tif').read_bytes()
    (out / 'images' / '000001.tif').unlink()
    make_controls('quilts', training, out, 3, 0)
    assert (out / 'images' / '000001.tif').read_bytes() == first
    assert len(PairFolder(out)) == 3
    with pytest.raises(FileExistsError, match='seed'):
        make_controls('quilts', training, out, 3, 1)
