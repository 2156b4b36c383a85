# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pickle

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from torchgeo_specdm.datamodules.support.preparation import (
    BatchAugmentation,
    measure_statistics,
    refuse_empty_training,
    require_patch,
)

SIZE = 8
#: Each pixel of each sample has a value of its own.
COORDINATES = torch.arange(32.0 * SIZE**2).reshape(32, SIZE, SIZE)


def make_batch(dates: int | None, channel: bool) -> dict[str, Tensor]:
    """Three bands, each a known function of the mask; dates add 10,000."""
    mask = COORDINATES.long()
    image = torch.stack([COORDINATES, 2 * COORDINATES, -COORDINATES], dim=1)
    if dates is not None:
        image = torch.stack([image + 10_000 * t for t in range(dates)], dim=1)
    return {'image': image, 'mask': mask[:, None] if channel else mask}


def symmetries(plane: Tensor) -> list[Tensor]:
    """The eight ways to turn and mirror a square."""
    return [
        torch.rot90(side, turns, (-2, -1))
        for side in (plane, plane.flip(-1))
        for turns in range(4)
    ]


class TestTraining:
    @pytest.mark.parametrize('patch_size', [None, 5, SIZE])
    @pytest.mark.parametrize('channel', [False, True])
    @pytest.mark.parametrize('dates', [None, 1, 3])
    def test_alignment(
        self, dates: int | None, channel: bool, patch_size: int | None
    ) -> None:
        torch.manual_seed(0)
        batch = make_batch(dates, channel)
        mean, std = torch.tensor([5.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 4.0])
        out = BatchAugmentation(mean, std, True, patch_size)(batch)
        side = patch_size or SIZE
        assert out['image'].shape == (*batch['image'].shape[:-2], side, side)
        assert out['mask'].shape == (*batch['mask'].shape[:-2], side, side)
        assert out['mask'].dtype == torch.int64
        mask = out['mask'].reshape(32, side, side).float()
        for t in range(dates or 1):
            image = out['image'] if dates is None else out['image'][:, t]
            assert torch.equal(image[:, 0], mask + 10_000 * t - 5)
            assert torch.equal(image[:, 1], (2 * mask + 10_000 * t) / 2)
            assert torch.equal(image[:, 2], (10_000 * t - mask) / 4)

    def test_all_symmetries(self) -> None:
        torch.manual_seed(0)
        batch = make_batch(None, False)
        out = BatchAugmentation(torch.zeros(3), torch.ones(3), True)(batch)
        found = set()
        for before, after in zip(batch['mask'], out['mask'], strict=True):
            equal = [torch.equal(side, after) for side in symmetries(before)]
            assert sum(equal) == 1
            found.add(equal.index(True))
        assert found == set(range(8))

    def test_crops_differ(self) -> None:
        torch.manual_seed(0)
        batch = make_batch(None, False)
        out = BatchAugmentation(torch.zeros(3), torch.ones(3), True, 3)(batch)
        corners = {(mask % SIZE**2).min().item() for mask in out['mask']}
        assert len(corners) > 8

    def test_not_square(self) -> None:
        batch = {'image': torch.rand(4, 3, 4, 6), 'mask': torch.zeros(4, 4, 6).long()}
        out = BatchAugmentation(torch.zeros(3), torch.ones(3), True)(batch)
        assert out['image'].shape == (4, 3, 4, 6) and out['mask'].shape == (4, 4, 6)

    def test_other_keys_and_input_stay(self) -> None:
        batch = make_batch(None, False) | {'is_synthetic': torch.ones(32)}
        before = {key: value.clone() for key, value in batch.items()}
        augment = BatchAugmentation(torch.zeros(3), torch.ones(3), True)
        out = pickle.loads(pickle.dumps(augment))(batch)
        assert torch.equal(out['is_synthetic'], before['is_synthetic'])
        assert all(torch.equal(batch[key], before[key]) for key in before)
        assert set(augment({'image': batch['image']})) == {'image'}

    def test_faults(self) -> None:
        batch = make_batch(None, False)
        with pytest.raises(ValueError, match=r'patch_size=9 does not fit .* 8x8'):
            BatchAugmentation(torch.zeros(3), torch.ones(3), True, 9)(batch)
        with pytest.raises(ValueError, match=r'3 bands, but .* over 4'):
            BatchAugmentation(torch.zeros(4), torch.ones(4), True)(batch)


class TestEvaluation:
    @pytest.mark.parametrize('dates', [None, 2])
    def test_only_normalises(self, dates: int | None) -> None:
        batch = make_batch(dates, True)
        mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0])
        out = BatchAugmentation(mean, std)(batch)
        wanted = (batch['image'] - mean[:, None, None]) / std[:, None, None]
        assert torch.equal(out['image'], wanted)
        assert torch.equal(out['mask'], batch['mask'])


class Samples(TensorDataset):
    """Samples as dicts."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'image': self.tensors[0][index]}


class TestStatistics:
    @pytest.mark.parametrize('shape', [(9, 4, 5, 6), (9, 2, 4, 5, 6)])
    def test_against_all_at_once(self, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        images = 100 * torch.rand(shape) + 4000
        images.movedim(-3, 0)[2] += 10_000
        mean, std = measure_statistics(Samples(images))
        pixels = images.double().movedim(-3, 0).flatten(1)
        assert mean.shape == std.shape == (4,) and mean.dtype == torch.float32
        assert torch.allclose(mean.double(), pixels.mean(1), rtol=1e-6)
        assert torch.allclose(std.double(), pixels.std(1, correction=0), rtol=1e-6)

    def test_constant_band(self) -> None:
        images = torch.rand(3, 2, 4, 4)
        images[:, 1] = 0.1
        mean, std = measure_statistics(Samples(images))
        assert std[1] == 1 and mean[1] == pytest.approx(0.1)

    def test_evenly_spaced_part(self) -> None:
        images = torch.arange(101.0)[:, None, None, None].expand(101, 1, 2, 2)
        assert measure_statistics(Samples(images), max_samples=3)[0] == 50

    def test_faults(self) -> None:
        with pytest.raises(ValueError, match='the data set has 0'):
            measure_statistics(Samples(torch.zeros(0, 1, 2, 2)))
        images = torch.zeros(3, 1, 2, 2)
        images[1, 0, 0, 0] = torch.inf
        with pytest.raises(ValueError, match='sample 1 has infinite'):
            measure_statistics(Samples(images))
        images[:] = torch.nan
        with pytest.raises(ValueError, match=r'bands \[0\] have no valid pixel'):
            measure_statistics(Samples(images))

    def test_missing_values_do_not_count(self) -> None:
        images = 100 + 10 * torch.randn(5, 2, 8, 8)
        holed = torch.cat([images, images], -1)
        holed[..., 8:] = torch.nan
        # a band may miss what another has, and a sample a whole band
        holed[3, 0] = torch.nan
        mean, std = measure_statistics(Samples(holed))
        kept = images[[0, 1, 2, 4], 0], images[:, 1]
        for band, values in enumerate(kept):
            torch.testing.assert_close(mean[band], values.mean())
            torch.testing.assert_close(std[band], values.std(correction=0))


@pytest.mark.parametrize('samples', [0, 3])
def test_refuse_empty_training(samples: int) -> None:
    refuse_empty_training('x', 4, 4)
    with pytest.raises(ValueError, match=f'x has {samples} training samples .*=4;'):
        refuse_empty_training('x', samples, 4)


@pytest.mark.parametrize('patch_size', [-1, 0, 5])
def test_require_patch(patch_size: int) -> None:
    require_patch(4, (4, 6))
    require_patch(None, (4, 6))
    with pytest.raises(ValueError, match=f'patch_size={patch_size} .* 4x6'):
        require_patch(patch_size, (4, 6))
