# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchgeo.models import ResNet50_Weights, resnet50

from torchgeo_specdm.bands import TEN_BANDS
from torchgeo_specdm.metrics import features
from torchgeo_specdm.metrics.features import (
    Features,
    FeatureSample,
    InceptionFeatures,
    RandomFeatures,
    Sentinel2Features,
    band_planes,
    make_extractor,
    mask_planes,
)
from torchgeo_specdm.pairs.spec import SampleSpec

from ..processes import on_two_processes

SPEC = SampleSpec(TEN_BANDS, ('land', 'water'))


class TestRandomFeatures:
    def test_frozen_values(self) -> None:
        # they must be the same for ever, or old and new numbers cannot be compared
        planes = torch.arange(2 * 3 * 8 * 8).mul(0.37).sin().view(2, 3, 8, 8)
        found = RandomFeatures(3, features=4)(planes)
        expected = [
            *(1.5308458, 1.2846111, 2.0117102, 1.3116345),
            *(1.1331443, 1.6255872, 0.3914103, 2.1741123),
            *(2.6308229, 0.8339938, 2.4998293, 1.0463316),
            *(3.5507092, 2.4238386, 3.8637214, 1.9091194),
        ]
        assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)

    def test_are_the_same_whatever_the_global_seed(self) -> None:
        planes = torch.rand(3, 4, 16, 16)
        torch.manual_seed(1)
        first = RandomFeatures(4)(planes)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(first, RandomFeatures(4)(planes))
        assert torch.equal(state, torch.get_rng_state())
        assert first.shape == (3, 64) and first.dtype == torch.float64

    def test_batches_do_not_matter(self) -> None:
        planes, extractor = torch.rand(5, 3, 16, 16), RandomFeatures(3)
        each = torch.cat([extractor(plane[None]) for plane in planes])
        # they are computed in single precision
        torch.testing.assert_close(extractor(planes), each, rtol=1e-4, atol=1e-5)

    def test_half_precision_outside_does_not_reach_them(self) -> None:
        planes, extractor = torch.rand(3, 4, 16, 16), RandomFeatures(4)
        plain = extractor(planes)
        with torch.autocast('cpu', torch.bfloat16):
            assert torch.equal(plain, extractor(planes))

    def test_what_is_missing_is_left_out(self) -> None:
        planes, extractor = torch.randn(3, 3, 24, 24), RandomFeatures(3)
        planes[0, 1, :, 12:] = torch.nan
        # squares of 3 pixels are known, and none of 7
        planes[1, :, 5:] = torch.nan
        found = extractor(planes)
        for row, known in ((0, planes[:1, :, :, :12]), (2, planes[2:])):
            wanted = extractor(known)[0]
            torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=0)
        assert found[1].isnan().all()


class TestPlanes:
    def test_bands_are_standardised(self) -> None:
        images = torch.tensor([2, 30]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
        planes = band_planes(images, torch.tensor([1, 20.0]), torch.tensor([2.0, 5]))
        assert planes.dtype == torch.float32
        assert planes[0, :, 1, 1].tolist() == [0.5, 2]

    def test_classes_get_a_plane_each(self) -> None:
        planes = mask_planes(torch.tensor([[[0, 2, 1, 255, -1, 3]]]), 3)
        assert planes.dtype == torch.float32
        assert planes[0, :, 0, :3].T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
        assert planes[0, :, 0, 3:].isnan().all()


class TestMakeExtractor:
    def test_random_is_of_all_bands(self) -> None:
        extractor = make_extractor('random', SPEC)
        planes = torch.rand(2, 10, 16, 16)
        assert extractor(planes).shape == (2, extractor.num_features)
        assert torch.equal(extractor(planes), RandomFeatures(10)(planes))

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=r"features='vgg' must be 'random'.*Use"):
            make_extractor('vgg', SPEC)


class TestSentinel2:
    def test_bands_are_found_by_name(self) -> None:
        bands = ('B8A', 'ndvi', 'b01', 'B12', 'B4')
        planes = torch.randn(2, 5, 8, 8)
        whole = Sentinel2Features(bands, pretrained=False).complete(planes)
        assert whole.shape == (2, 13, 8, 8)
        # mean and standard deviation of the bands in the network's data
        for slot, channel, mean, std in (
            (8, 0, 0.2581, 0.13459),
            (0, 2, 0.16129, 0.0791),
            (12, 3, 0.15374, 0.11429),
            (3, 4, 0.13731, 0.11449),
        ):
            expected = planes[:, channel] * std + mean
            torch.testing.assert_close(whole[:, slot], expected)
        # what is lacking is average
        assert whole[:, 10].unique().tolist() == pytest.approx([0.0022])
        assert whole[:, 1].unique().tolist() == pytest.approx([0.13976])

    def test_order_does_not_matter(self) -> None:
        extractor = Sentinel2Features(TEN_BANDS, pretrained=False)
        planes = torch.randn(2, 10, 32, 32)
        found = extractor.train()(planes)
        assert found.shape == (2, extractor.num_features) == (2, 2048)
        assert found.dtype == torch.float64 and not found.requires_grad
        turned = Sentinel2Features(TEN_BANDS[::-1], pretrained=False)
        turned.load_state_dict(extractor.state_dict())
        assert torch.equal(turned(planes.flip(1)), found)
        assert not torch.equal(turned(planes), found)
        # alone or in a batch
        torch.testing.assert_close(extractor(planes[:1]), found[:1])

    def test_weights_are_fetched_and_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weights = resnet50(in_chans=13)
        known = {k: v for k, v in weights.state_dict().items() if k[:3] != 'fc.'}
        fetched = []

        def fetch(self: ResNet50_Weights, **kwargs: Any) -> dict[str, Tensor]:
            fetched.append(self)
            return known

        monkeypatch.setattr(ResNet50_Weights, 'get_state_dict', fetch)
        Sentinel2Features(TEN_BANDS, pretrained=False)
        assert fetched == []
        extractor = make_extractor('sentinel2', SPEC)
        assert fetched == [ResNet50_Weights.SENTINEL2_ALL_MOCO]
        first = extractor.state_dict()['network.conv1.weight']
        assert torch.equal(first, known['conv1.weight'])
        # our table is in the order of their channels
        names = [name.upper() for name in fetched[0].meta['bands']]
        assert names == list(features._SSL4EO)

    def test_refuses_other_bands(self) -> None:
        with pytest.raises(ValueError, match=r"\['red', 'nir'\].*features='random'"):
            Sentinel2Features(('red', 'nir'), pretrained=False)


def test_inception_sees_red_green_and_blue() -> None:
    extractor = InceptionFeatures(SPEC.rgb, pretrained=False)
    planes = torch.randn(2, 10, 32, 32)
    found = extractor.train()(planes)
    assert found.shape == (2, extractor.num_features) == (2, 2048)
    assert found.dtype == torch.float64 and not found.requires_grad
    other = planes.clone()
    other[:, 3:] = 0
    assert torch.equal(extractor(other), found)
    assert not torch.equal(extractor(planes.roll(1, 1)), found)


def stream(count: int, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features from which number and place of a sample can be read."""
    index = torch.arange(first, first + count)
    place = index // 7
    return torch.stack([index, place, index.double().sin()], 1), index, place


def fill(sample: FeatureSample, parts: tuple[Tensor, ...], batch: int) -> Features:
    for part in zip(*(x.split(batch) for x in parts), strict=True):
        sample.update(*part)
    found: Features = sample.compute()
    return found


def same(first: Features, second: Features) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class TestFeatureSample:
    def test_order_and_batches_do_not_matter(self) -> None:
        parts = stream(500)
        found = fill(FeatureSample(3, size=40), parts, 500)
        assert found.values.shape == (40, 3) and found.values.dtype == torch.float64
        assert found.places.dtype == torch.int64
        order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
        mixed = tuple(x[order] for x in parts)
        for batch in (1, 7, 64):
            assert same(fill(FeatureSample(3, size=40), mixed, batch), found)

    def test_features_and_places_stay_together(self) -> None:
        values, places = fill(FeatureSample(3, size=40), stream(500), 9)
        assert torch.equal(values[:, 1].long(), places)
        assert torch.equal(values[:, 0].long() // 7, places)
        assert torch.equal(values[:, 0].sin(), values[:, 2])

    def test_a_short_stream_is_kept_whole(self) -> None:
        values, _ = fill(FeatureSample(3, size=40), stream(30), 8)
        assert values[:, 0].sort().values.tolist() == list(range(30))
        empty = FeatureSample(3).compute()
        assert empty.values.shape == (0, 3) and empty.places.shape == (0,)

    @pytest.mark.parametrize('size', [20, 100])
    def test_a_sample_that_comes_twice_counts_once(self, size: int) -> None:
        parts = stream(60)
        twice = tuple(torch.cat([x, x]) for x in parts)
        found = fill(FeatureSample(3, size=size), twice, 50)
        assert same(found, fill(FeatureSample(3, size=size), parts, 50))
        assert len(found.values) == min(size, 60)

    def test_every_sample_is_as_likely(self) -> None:
        counts = torch.zeros(50)
        for seed in range(200):
            values, _ = fill(FeatureSample(3, size=10, seed=seed), stream(50), 50)
            counts[values[:, 0].long()] += 1
        # 40 on average, with a standard deviation of 5.7
        assert counts.sum() == 2000
        assert counts.min() > 20 and counts.max() < 60
        assert 4 < counts.std() < 7.5

    def test_streams_of_the_same_numbers_keep_the_same(self) -> None:
        values, index, place = stream(500)
        first = fill(FeatureSample(3, size=40), (values, index, place), 16)
        other = fill(FeatureSample(3, size=40), (-values, index, place), 50)
        assert torch.equal(first.values, -other.values)

    def test_memory_does_not_grow(self) -> None:
        sample = FeatureSample(3, size=40)
        before = sample.rows.nbytes
        for first in range(0, 20_000, 1000):
            sample.update(*stream(1000, first))
            assert sample.metric_state.keys() == {'rows'}
            assert sample.rows.nbytes == sample.rows.untyped_storage().nbytes()
            assert sample.rows.nbytes == before

    def test_states_merge_exactly(self) -> None:
        parts = stream(500)
        first, second = FeatureSample(3, size=40), FeatureSample(3, size=40)
        first.update(*(x[:200] for x in parts))
        second.update(*(x[150:] for x in parts))
        first.merge_state(second)
        whole = fill(FeatureSample(3, size=40), parts, 50)
        assert same(first.compute(), whole)
        first.reset()
        assert len(first.compute().values) == 0

    def test_two_processes_give_the_same(self, tmp_path: Path) -> None:
        def find(rank: int) -> Any:
            sample = FeatureSample(3, size=40)
            # as a distributed sampler does: every other one, the first again at the end
            parts = tuple(torch.cat([x, x[:1]])[rank::2] for x in stream(501))
            found = fill(sample, parts, 30)
            return found.values.tolist(), found.places.tolist()

        whole = fill(FeatureSample(3, size=40), stream(501), 64)
        expected = (whole.values.tolist(), whole.places.tolist())
        assert on_two_processes(find, tmp_path / 'meeting') == [expected, expected]

    def test_refuses_numbers_that_are_not_exact(self) -> None:
        values, index, place = stream(3)
        for number in (-1, 2**53):
            with pytest.raises(ValueError, match=r'must be 0 to 2\*\*53 - 1'):
                FeatureSample(3).update(values, index.where(index > 0, number), place)

    def test_refuses_features_that_are_not_finite(self) -> None:
        values, index, place = stream(3)
        values[1, 2] = torch.nan
        with pytest.raises(ValueError, match=r'NaN or infinity.*standard deviation'):
            FeatureSample(3).update(values, index, place)
