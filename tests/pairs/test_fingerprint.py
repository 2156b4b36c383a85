# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest
import torch
from torch import Tensor

from torchgeo_specdm.pairs.facts import fingerprints
from torchgeo_specdm.pairs.fingerprint import (
    fingerprint,
    read_seen_samples,
    write_seen_samples,
)


@pytest.fixture
def sample() -> dict[str, Tensor]:
    torch.manual_seed(0)
    image = torch.randint(0, 9999, (3, 4, 4)).float()
    return {'image': image, 'mask': torch.randint(0, 5, (4, 4))}


class TestFingerprint:
    def test_is_of_the_content(self, sample: dict[str, Tensor]) -> None:
        value = fingerprint(sample)
        assert value is not None and len(value) == 16
        assert int(value, 16) >= 0
        copy = {
            'image': sample['image'].double().mT.contiguous().mT,
            'mask': sample['mask'].byte()[None],
            'other': torch.zeros(1),
        }
        assert fingerprint(copy) == value

    def test_every_pixel_counts(self, sample: dict[str, Tensor]) -> None:
        value = fingerprint(sample)
        for key in ('image', 'mask'):
            other = {k: v.clone() for k, v in sample.items()}
            other[key][..., -1, -1] += 1
            assert fingerprint(other) != value

    def test_frozen(self) -> None:
        # folders on disk hold these numbers: they must not change with the code
        image = torch.arange(8.0).reshape(2, 2, 2)
        found = fingerprint({'image': image, 'mask': torch.arange(4).reshape(2, 2)})
        assert found == '32e6701e4a8817cb'

    def test_signed_zero(self, sample: dict[str, Tensor]) -> None:
        sample['image'][0, 0] = 0.0
        negative = sample | {'image': sample['image'].clone()}
        negative['image'][0, 0] = -0.0
        assert fingerprint(sample) == fingerprint(negative)

    @pytest.mark.parametrize('shape', [(3, 4, 4), (3, 0, 0)])
    def test_blank(self, shape: tuple[int, ...]) -> None:
        mask = torch.zeros(shape[-2:], dtype=torch.long)
        assert fingerprint({'image': torch.full(shape, 7.0), 'mask': mask}) is None


class TestSeen:
    def test_round_trip(self, tmp_path: Path, sample: dict[str, Tensor]) -> None:
        blank = {'image': torch.zeros(3, 4, 4), 'mask': sample['mask']}
        other = sample | {'image': sample['image'] + 1}
        found = fingerprints([sample, blank, other, sample])  # type: ignore[arg-type]
        # the first sample that has each
        assert found == {fingerprint(sample): 0, fingerprint(other): 2}
        write_seen_samples(tmp_path, found)
        assert read_seen_samples(tmp_path) == {*found}
        write_seen_samples(str(tmp_path), [])
        assert read_seen_samples(str(tmp_path)) == set()

    def test_no_file(self, tmp_path: Path) -> None:
        assert read_seen_samples(tmp_path) == set()
