# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import itertools

import numpy as np
import pytest
import torch

from torchgeo_specdm.diffusion import sample_noise, stream_random

STREAMS = {'image_1': slice(0, 3), 'image_2': slice(3, 6), 'mask': slice(6, 8)}


class TestStreamRandom:
    def test_frozen_numbers(self) -> None:
        # another release of NumPy that changes these changes every sample ever drawn
        bits = stream_random(7, 11, 'mask').integers(0, 2**32, 8)
        assert bits.tolist() == [
            777074178,
            1347039957,
            76516824,
            682321621,
            214669217,
            3386291389,
            2823060110,
            592804795,
        ]
        values = stream_random(7, 11, 'image_1').standard_normal(8, np.float32)
        np.testing.assert_allclose(
            values,
            [
                -1.2840041,
                -0.4244154,
                -0.8390763,
                -2.7356658,
                -0.1606793,
                -0.5655993,
                -2.1553507,
                -0.7522327,
            ],
            rtol=0,
            atol=1e-6,
        )

    @pytest.mark.parametrize(
        'other',
        [
            (8, 11, 'mask', 0),
            (7, 12, 'mask', 0),
            # swapped, and 32 bits apart: what simpler seeding confuses
            (11, 7, 'mask', 0),
            (7 + 2**32, 11, 'mask', 0),
            (7, 11, 'image_1', 0),
            (7, 11, 'image_and_mask', 0),
            (7, 11, 'choice', 0),
            (7, 11, 'mask', 1),
        ],
    )
    def test_every_part_matters(self, other: tuple[int, int, str, int]) -> None:
        a = stream_random(7, 11, 'mask', 0).standard_normal(1000)
        b = stream_random(*other).standard_normal(1000)
        assert not np.intersect1d(a, b).size
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15

    @pytest.mark.parametrize('seed, index', [(2**64, 0), (-1, 0), (0, 2**64)])
    def test_numbers_of_more_than_64_bits(self, seed: int, index: int) -> None:
        with pytest.raises(ValueError, match=f'must be from 0 to {2**64 - 1}'):
            stream_random(seed, index, 'mask')


class TestSampleNoise:
    def test_is_standard_normal(self) -> None:
        noise = sample_noise(0, range(32), STREAMS, (16, 16))
        assert noise.shape == (32, 8, 16, 16) and noise.dtype == torch.float32
        assert abs(float(noise.mean())) < 0.02
        assert abs(float(noise.std()) - 1) < 0.02

    def test_depends_on_seed_and_index_alone(self) -> None:
        together = sample_noise(3, [5, 2, 9], STREAMS, (4, 4))
        alone = [sample_noise(3, [i], STREAMS, (4, 4)) for i in (5, 2, 9)]
        assert torch.equal(together, torch.cat(alone))

    def test_threads_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = sample_noise(3, range(40), STREAMS, (4, 4), 2)
        monkeypatch.setattr('torchgeo_specdm.diffusion.noise._MANY', 0)
        assert torch.equal(sample_noise(3, range(40), STREAMS, (4, 4), 2), alone)

    def test_no_two_samples_share_noise(self) -> None:
        pairs = itertools.product(range(8), range(64))
        drawn = [
            sample_noise(s, [i], STREAMS, (2, 2)).numpy().ravel() for s, i in pairs
        ]
        values = np.concatenate(drawn)
        # float32 normals repeat by chance, but not in blocks
        assert np.unique(values).size > 0.99 * values.size
        assert len({x.tobytes() for x in drawn}) == len(drawn)

    def test_a_stream_keeps_its_noise_when_others_change(self) -> None:
        all_streams = sample_noise(3, [5], STREAMS, (4, 4))
        fewer = {'image_1': slice(0, 3), 'mask': slice(3, 5)}
        some = sample_noise(3, [5], fewer, (4, 4))
        assert torch.equal(all_streams[:, [0, 1, 2, 6, 7]], some)
