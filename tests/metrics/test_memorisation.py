# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.


import numpy as np
import pytest
import torch
from torch import Tensor

from torchgeo_specdm.metrics.memorisation import (
    NearestSamples,
    TrainingSample,
    memorisation,
)
from torchgeo_specdm.scenes.land import make_scene

#: Sides of the training samples and of the images.
WHOLE, SIDE = 48, 32
KINDS = ('pixels', 'features')


def images(seed: int, count: int, size: int) -> Tensor:
    scenes = [make_scene(seed, i, size)[0] for i in range(count)]
    return torch.from_numpy(np.stack(scenes).astype(np.float32))


def search(samples: Tensor, size: tuple[int, int] = (SIDE, SIDE)) -> NearestSamples:
    axes = [axis for axis in range(samples.ndim) if axis != samples.ndim - 3]
    rows = [TrainingSample(image, f'scene {i}') for i, image in enumerate(samples)]
    return NearestSamples(rows, size, samples.mean(axes), samples.std(axes))


@pytest.fixture(scope='module')
def training() -> Tensor:
    return images(0, 60, WHOLE)


@pytest.fixture(scope='module')
def nearest(training: Tensor) -> NearestSamples:
    return search(training)


@pytest.fixture(scope='module')
def reference(training: Tensor, nearest: NearestSamples) -> dict[str, Tensor]:
    """How near real samples come: training ones of other places, and unseen ones."""
    own = nearest.find(training[..., 8:40, 8:40], torch.eye(len(training)).bool())
    unseen = nearest.find(images(1, 140, SIDE))
    return {
        kind: torch.cat([own[kind].distance, unseen[kind].distance]) for kind in KINDS
    }


def crops(training: Tensor, row: int, column: int) -> Tensor:
    return training[:8, :, row : row + SIDE, column : column + SIDE]


class TestCopies:
    def test_exact(self, training: Tensor, nearest: NearestSamples) -> None:
        found = nearest.find(crops(training, 16, 16))
        for kind in KINDS:
            assert found[kind].sample.tolist() == list(range(8))
            assert found[kind].distance.max() < 1e-5
            assert found[kind].row.tolist() == found[kind].column.tolist() == [16] * 8
            assert found[kind].turn.tolist() == [0] * 8
        assert nearest.names[7] == 'scene 7'

    @pytest.mark.parametrize('turn', range(8))
    def test_turned(self, training: Tensor, nearest: NearestSamples, turn: int) -> None:
        copies = crops(training, 8, 0)
        # undo the turn that is to be found: turns first, then the flip
        turned = copies.rot90(-(turn % 4), (-2, -1))
        turned = turned.flip(-1) if turn >= 4 else turned
        found = nearest.find(turned)['pixels']
        assert found.sample.tolist() == list(range(8))
        assert found.distance.max() < 1e-5
        assert (found.row.tolist(), found.column.tolist()) == ([8] * 8, [0] * 8)
        assert found.turn.tolist() == [turn] * 8

    @pytest.mark.parametrize('turn', range(8))
    def test_features_are_turned_too(
        self, training: Tensor, nearest: NearestSamples, turn: int
    ) -> None:
        turned = crops(training, 0, 0).rot90(turn % 4, (-2, -1))
        turned = turned.flip(-1) if turn >= 4 else turned
        found = nearest.find(turned)['features']
        assert found.sample.tolist() == list(range(8))
        assert found.distance.max() < 1e-4

    @pytest.mark.parametrize(('row', 'column'), [(8, 16), (3, 3), (13, 6)])
    def test_noisy_crops_of_larger_samples(
        self,
        training: Tensor,
        nearest: NearestSamples,
        reference: dict[str, Tensor],
        row: int,
        column: int,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        copies = crops(training, row, column).rot90(1, (-2, -1))
        noise = torch.randn(copies.shape, generator=generator)
        copies = copies + 0.02 * nearest.std * noise
        found = nearest.find(copies)['pixels']
        assert found.sample.tolist() == list(range(8))
        assert (found.distance < reference['pixels'].min()).all()
        assert (found.row - row).abs().max() <= 1
        assert (found.column - column).abs().max() <= 1

    def test_windows_are_not_wider_than_needed(self, training: Tensor) -> None:
        whole = search(training[:4], (WHOLE, WHOLE))
        found = whole.find(training[:4])
        for kind in KINDS:
            assert found[kind].sample.tolist() == [0, 1, 2, 3]
            assert found[kind].row.tolist() == [0] * 4
            assert found[kind].distance.max() < 1e-5

    def test_oblong_windows(self, training: Tensor) -> None:
        oblong = search(training[:6], (16, 32))
        copies = training[:6, :, 10:26, 4:36]
        found = oblong.find(copies.flip(-2))['pixels']
        assert found.distance.max() < 1e-5
        # a flip up and down is one from left to right and a half turn
        assert found.turn.tolist() == [6] * 6
        assert (found.row.tolist(), found.column.tolist()) == ([10] * 6, [4] * 6)

    def test_dates(self, training: Tensor) -> None:
        both = torch.stack([training[:20], training[20:40]], 1)
        dated = search(both)
        found = dated.find(both[..., 4:36, 4:36])['pixels']
        assert found.sample.tolist() == list(range(20))
        assert found.distance.max() < 1e-5
        # a copy of one date alone is none of the pair
        mixed = torch.stack([both[:, 0], both.roll(1, 0)[:, 1]], 1)
        assert dated.find(mixed[..., 4:36, 4:36])['pixels'].distance.min() > 0.1

    def test_batch_size_does_not_matter(
        self, training: Tensor, nearest: NearestSamples, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unseen = images(2, 5, SIDE)
        together = nearest.find(unseen)
        # one training sample after the other
        monkeypatch.setattr('torchgeo_specdm.metrics.memorisation._MOST', 1)
        for i in range(5):
            alone = nearest.find(unseen[i : i + 1])
            for kind in KINDS:
                torch.testing.assert_close(
                    alone[kind].distance, together[kind].distance[i : i + 1]
                )
                assert alone[kind].sample == together[kind].sample[i]


class TestLeftOut:
    def test_own_ground(self, training: Tensor) -> None:
        places = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
        own = places[:, None] == places
        found = search(training[:8]).find(crops(training, 0, 0), own)
        for kind in KINDS:
            assert (places[found[kind].sample] != places).all()
            assert found[kind].distance.min() > 0.01

    def test_without_other_ground_all_is_infinitely_far(self, training: Tensor) -> None:
        skip = torch.ones(8, 2).bool()
        skip[7] = False
        found = search(training[:2]).find(crops(training, 0, 0), skip)
        assert found['pixels'].distance.isinf().tolist() == [True] * 7 + [False]


class TestRefusals:
    def test_no_samples(self) -> None:
        with pytest.raises(ValueError, match='0 training samples'):
            NearestSamples([], (32, 32), torch.zeros(3), torch.ones(3))

    def test_smaller_training_samples(self, training: Tensor) -> None:
        with pytest.raises(ValueError, match=r'scene 0 .*\(48, 48\).*\(64, 64\)'):
            search(training[:2], (64, 64))

    def test_training_samples_of_two_sizes(self, training: Tensor) -> None:
        rows = [
            TrainingSample(training[0], 'a'),
            TrainingSample(training[0, :, 1:], 'b'),
        ]
        with pytest.raises(ValueError, match=r'b .*\(10, 47, 48\).*Cut all alike'):
            NearestSamples(rows, (32, 32), torch.zeros(10), torch.ones(10))

    def test_images_of_another_size(
        self, training: Tensor, nearest: NearestSamples
    ) -> None:
        with pytest.raises(ValueError, match=r'\(48, 48\).*\(32, 32\)'):
            nearest.find(training[:1])


class TestMemorisation:
    def test_unseen_scenes_raise_no_alarm(
        self, nearest: NearestSamples, reference: dict[str, Tensor]
    ) -> None:
        found = nearest.find(images(3, 60, SIDE))
        for kind in KINDS:
            judged = memorisation(found[kind].distance, reference[kind])
            assert judged['alarm'] is False
            assert judged['median_ratio'] == pytest.approx(1, abs=0.25)
            assert judged['samples'] == 60
            assert judged['references'] == 200

    def test_planted_copies_raise_one(
        self, training: Tensor, nearest: NearestSamples, reference: dict[str, Tensor]
    ) -> None:
        mixed = torch.cat([images(3, 32, SIDE), crops(training, 3, 3)])
        found = nearest.find(mixed)['pixels']
        judged = memorisation(found.distance, reference['pixels'])
        assert judged['alarm'] is True
        assert judged['share'] >= 8 / 40
        assert judged['chance'] < 0.001

    @pytest.mark.parametrize('count', [5, 40, 1000])
    def test_false_alarms_are_as_rare_as_promised(self, count: int) -> None:
        random = np.random.default_rng(0)
        judged = [
            memorisation(random.random(200), random.random(count)) for _ in range(400)
        ]
        assert sum(row['alarm'] for row in judged) <= 2
        shares = [row['share'] for row in judged]
        assert np.mean(shares) == pytest.approx(judged[0]['expected'], rel=0.15)

    def test_few_references_expect_more(self) -> None:
        few = memorisation(np.ones(500), np.arange(2, 12))
        assert few['threshold'] == pytest.approx(2.09)
        assert few['expected'] == pytest.approx(1.09 / 11)
        assert few['share'] == 1
        assert few['alarm'] is True

    def test_ties_at_zero_are_expected(self) -> None:
        real = np.r_[np.zeros(10), np.linspace(1, 2, 90)]
        assert memorisation(real, real)['alarm'] is False
        assert memorisation(real, real)['share'] == 0.1
        copies = np.r_[np.zeros(60), np.linspace(1, 2, 40)]
        assert memorisation(copies, real)['alarm'] is True

    def test_infinite_references_are_left_out(self) -> None:
        judged = memorisation([1.0, 2.0], [1.0, 2.0, np.inf])
        assert judged['references'] == 2
        assert judged['median_ratio'] == 1

    @pytest.mark.parametrize(
        ('synthetic', 'reference', 'message'),
        [
            ([], [1.0], '0 synthetic distances are numbers'),
            ([1.0], [], '0 reference distances are numbers'),
            ([1.0], [np.inf], '0 reference distances are numbers'),
            ([np.nan], [1.0], '1 of 1 synthetic distances are no numbers'),
            ([1.0], [np.nan, 1.0], '1 of 2 reference distances are no numbers'),
        ],
    )
    def test_refuses_what_is_no_number(
        self, synthetic: list[float], reference: list[float], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            memorisation(synthetic, reference)
