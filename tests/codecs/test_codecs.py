# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What every codec promises, tested on all of them."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.codecs import Codec, PixelCodec
from torchgeo_specdm.codecs.base import Reconstruction

from .fakes import BANDS, CLASSES, CODECS, LEARNED, batch_of, make


def steps(codec: Codec, batch: dict[str, Tensor], count: int = 25) -> list[float]:
    optimizer = torch.optim.AdamW(codec.parameters(), 5e-3)
    losses = []
    for _ in range(count):
        loss = codec.loss(batch)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def with_holes(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A fifth of each image is missing, in one square."""
    random = torch.Generator().manual_seed(0)
    for image, mask in zip(batch['image'], batch['mask'], strict=True):
        row, column = torch.randint(0, 10, (2,), generator=random).tolist()
        square = (slice(row, row + 7), slice(column, column + 7))
        image[:, *square], mask[square] = torch.nan, 255
    return batch


@pytest.mark.parametrize('dates', [1, 2, 3])
@pytest.mark.parametrize('kind', CODECS)
class TestShapesAndUnits:
    def test_latent_and_streams(self, kind: str, dates: int) -> None:
        codec, batch = make(kind, dates), batch_of(dates)
        latent = codec.encode(batch)
        assert latent.shape == (4, codec.latent_channels, 4, 4)
        assert latent.dtype == torch.float32
        ends = [(s.start, s.stop) for s in codec.streams.values()]
        assert ends[0][0] == 0 and ends[-1][1] == codec.latent_channels
        assert all(a[1] == b[0] for a, b in pairwise(ends))
        if kind in ('two_stream', 'pixels', 'abundances'):
            images = [f'image_{i + 1}' for i in range(dates)]
            assert list(codec.streams) == [*images, 'mask']

    def test_decoded_sample(self, kind: str, dates: int) -> None:
        codec, batch = make(kind, dates), batch_of(dates)
        sample = codec.decode(codec.encode(batch).detach())
        assert set(sample) == {'image', 'mask'}
        for key in sample:
            assert sample[key].shape == batch[key].shape
            assert sample[key].dtype == batch[key].dtype
        # digital numbers, not reflectance and not scaled values
        assert float(sample['image'].mean()) > 100
        assert int(sample['mask'].max()) < len(CLASSES)

    def test_latents_have_mean_0_and_std_1(self, kind: str, dates: int) -> None:
        codec = make(kind, dates)
        batches = [batch_of(dates, seed=seed) for seed in range(3)]
        latent = torch.cat([codec.encode(b) for b in batches]).detach()
        if kind in ('pixels', 'abundances'):
            # bits stay -1 and +1: a rare class would lie many deviations out
            bits = latent[:, codec.streams['mask']]
            assert set(bits.unique().tolist()) == {-1.0, 1.0}
            latent = latent[:, : codec.streams['mask'].start]
        pooled = latent.movedim(1, 0).flatten(1)
        assert float(pooled.mean(1).abs().max()) < 1e-3
        assert float((pooled.std(1) - 1).abs().max()) < 1e-2

    def test_roundtrip_is_encode_and_decode(self, kind: str, dates: int) -> None:
        codec, batch = make(kind, dates), batch_of(dates)
        sample, logits = codec.roundtrip(batch)
        wanted = codec.decode(codec.encode(batch).detach())
        torch.testing.assert_close(sample['image'], wanted['image'], rtol=0, atol=0.5)
        assert logits.shape == (4, len(CLASSES), 16, 16)
        same = (sample['mask'] == wanted['mask']).float().mean()
        assert float(same) > 0.99


@pytest.mark.parametrize('kind', CODECS)
class TestRefusals:
    def test_no_statistics(self, kind: str) -> None:
        codec = make(kind, fitted=False)
        for call in (
            lambda: codec.encode(batch_of(1)),
            lambda: codec.decode(torch.zeros(1, codec.latent_channels, 4, 4)),
        ):
            with pytest.raises(RuntimeError, match='no latent statistics'):
                call()

    def test_wrong_bands_and_dates(self, kind: str) -> None:
        codec, batch = make(kind), batch_of(1)
        with pytest.raises(ValueError, match=r"3 bands but .* 1 of 4: \['B02', 'B03'"):
            codec.encode({'image': batch['image'][:, :3], 'mask': batch['mask']})
        with pytest.raises(ValueError, match='2 date'):
            codec.encode(batch_of(2))

    @pytest.mark.parametrize('size', [(14, 16), (16, 18), (2, 16)])
    def test_sizes_that_do_not_divide(self, kind: str, size: tuple[int, int]) -> None:
        # AutoencoderKL alone would give fewer pixels back and say nothing
        codec = make(kind)
        batch = {
            'image': torch.zeros(1, 4, *size),
            'mask': torch.zeros(1, *size, dtype=torch.long),
        }
        with pytest.raises(ValueError, match=r'multiples of 4.*patch_size='):
            codec.encode(batch)

    def test_mask_of_another_size(self, kind: str) -> None:
        batch = batch_of(1)
        batch['mask'] = batch['mask'][:, :8]
        with pytest.raises(ValueError, match=r'masks of \(8, 16\) pixels'):
            make(kind).encode(batch)

    def test_statistics_of_nothing(self, kind: str) -> None:
        with pytest.raises(ValueError, match='statistics need numbers'):
            make(kind, fitted=False).fit_statistics([])


@pytest.mark.parametrize('dates', [1, 2])
@pytest.mark.parametrize('kind', CODECS)
class TestIgnoredPixels:
    def test_do_not_break_anything(self, kind: str, dates: int) -> None:
        codec, batch = make(kind, dates), batch_of(dates)
        batch['mask'][..., :3] = 255
        assert bool(codec.encode(batch).isfinite().all())
        losses = codec.loss(batch)
        assert all(bool(value.isfinite()) for value in losses.values())

    def test_look_like_those_around(self, kind: str, dates: int) -> None:
        codec = make(kind, dates)
        hot = codec.one_hot(torch.tensor([[[0, 1], [2, 255]], [[2, 255], [255, 2]]]))
        assert hot[0, :, 1, 0].tolist() == [-1, -1, 1]
        assert hot[0, :, 0, 0].tolist() == [1, -1, -1]
        torch.testing.assert_close(hot[0, :, 1, 1], torch.full((3,), -1 / 3))
        assert hot[1, :, 0, 1].tolist() == [-1, -1, 1]
        blank = codec.one_hot(torch.full((1, 2, 2), 255))
        assert bool((blank == -1).all())

    def test_do_not_count_in_the_mask_loss(self, kind: str, dates: int) -> None:
        codec = make(kind, dates)
        logits = torch.randn(1, 3, 4, 4)
        mask = torch.randint(0, 3, (1, 4, 4))
        mask[:, 2:] = 255
        wrong = logits.clone()
        wrong[:, :, 2:] = 50
        assert codec.mask_loss(logits, mask) == codec.mask_loss(wrong, mask)
        half = codec.mask_loss(logits[:, :, :2], mask[:, :2])
        torch.testing.assert_close(codec.mask_loss(logits, mask), half)

    def test_coverage_is_the_known_share_of_a_cell(self, kind: str, dates: int) -> None:
        codec, batch = make(kind, dates), batch_of(dates)
        assert torch.equal(
            codec.coverage(batch), torch.ones(4, len(codec.streams), 4, 4)
        )
        batch['mask'][0, ..., :6] = 255
        images = batch['image'].view(4, dates, 4, 16, 16)
        images[1, -1, :, :4], images[1, -1, 0, 4:6] = torch.nan, torch.nan
        found = codec.coverage(batch)
        if len(codec.streams) > 1:
            assert found[0, -1, 0].tolist() == [0, 0.5, 1, 1]
            assert found[1, dates - 1, :, 0].tolist() == [0, 1 - 1 / 8, 1, 1]
            assert bool((found[1, -1] == 1).all() and (found[0, :-1] == 1).all())
        else:
            assert found[0, 0, 0].tolist() == [0, 0.5, 1, 1]
            assert found[1, 0, 0, 0] == 1 - 1 / dates

    def test_holes_do_not_enter_statistics(self, kind: str, dates: int) -> None:
        codec = make(kind, dates)
        whole = codec.latent_mean.clone(), codec.latent_std.clone()
        batches = [batch_of(dates, seed=seed) for seed in range(3)]
        lost = batch_of(dates, seed=4)
        lost['image'].fill_(torch.nan)
        lost['mask'].fill_(255)
        codec.fit_statistics([*batches, lost])
        torch.testing.assert_close((codec.latent_mean, codec.latent_std), whole)
        # and are filled before anything is measured
        codec.fit_scaling(
            torch.cat([b['image'].flatten(0, -4) for b in (*batches, lost)])
        )
        assert all(bool(v.isfinite().all()) for v in codec.state_dict().values())

    def test_drawn_values_go_no_further_than_training(
        self, kind: str, dates: int
    ) -> None:
        codec, batch = make(kind, dates, fitted=False), batch_of(dates)
        assert torch.equal(codec.limit(batch['image'] * 1e6), batch['image'] * 1e6)
        batch['image'][0, ..., 0, :2, :2] = torch.nan
        halves = ({k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2))
        codec.fit_statistics(halves)
        bands = batch['image'].movedim(-3, 0).flatten(1)
        low, high = bands.nan_to_num(torch.inf).amin(1), bands.nan_to_num(-1).amax(1)
        far = torch.stack([batch['image'] - 1e4, batch['image'] + 1e4])
        far[..., -1, -1] = torch.inf
        below, above = (
            codec.limit(far).movedim(-3, 0)[..., :-1, :-1].flatten(2).unbind(1)
        )
        assert bool(((below == low[:, None]) | below.isnan()).all())
        assert bool(((above == high[:, None]) | above.isnan()).all())
        # which are rejected, not mended
        assert bool(codec.limit(far)[..., -1, -1].isinf().all())

    def test_all_ignored_is_finite_with_gradient(self, kind: str, dates: int) -> None:
        codec, batch = make(kind, dates), batch_of(dates)
        batch['mask'].fill_(255)
        losses = codec.loss(batch)
        assert float(losses['mask']) == 0
        assert bool(losses['loss'].isfinite())
        if not codec.trainable:
            return
        losses['loss'].backward()
        gradients = [p.grad for p in codec.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(g.isfinite().all()) for g in gradients)
        assert any(bool(g.any()) for g in gradients)


@pytest.mark.parametrize('kind', LEARNED)
class TestLearning:
    def test_loss_falls(self, kind: str) -> None:
        codec, batch = make(kind).train(), batch_of(1, 8)
        losses = steps(codec, batch)
        assert all(torch.tensor(losses).isfinite())
        assert sum(losses[-3:]) < 0.7 * sum(losses[:3])

    def test_every_parameter_learns(self, kind: str) -> None:
        codec = make(kind, dates=2).train()
        codec.loss(batch_of(2))['loss'].backward()
        silent = [n for n, p in codec.named_parameters() if p.grad is None]
        assert not silent

    def test_loss_is_the_sum_of_its_parts(self, kind: str) -> None:
        codec = make(kind)
        codec.settings |= {'sad_weight': 0.3, 'kl_weight': 0.01}
        parts = codec.loss(batch_of(1))
        wanted = parts['l1'] + 0.3 * parts['sad'] + parts['mask'] + 0.01 * parts['kl']
        torch.testing.assert_close(parts['loss'], wanted)
        assert all(float(parts[name]) > 0 for name in ('l1', 'sad', 'mask', 'kl'))

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_half_precision_is_finite(self, kind: str, dtype: torch.dtype) -> None:
        codec, batch = make(kind), batch_of(1)
        with torch.autocast('cpu', dtype):
            half = codec.loss(batch)
            latent = codec.encode(batch)
            sample = codec.decode(latent.detach())
        full = codec.loss(batch)
        assert latent.dtype == sample['image'].dtype == torch.float32
        for name, value in half.items():
            assert value.dtype == torch.float32
            assert float(value) == pytest.approx(float(full[name]), rel=0.1, abs=0.05)


def test_holes_cost_little() -> None:
    test, errors = with_holes(batch_of(1, 8, seed=5)), []
    for holed in (False, True):
        batch, seen = batch_of(1, 8), batch_of(1, 8, seed=5)
        codec = make('two_stream').train()
        losses = steps(codec, with_holes(batch) if holed else batch)
        assert all(math.isfinite(loss) for loss in losses)
        decoded = codec.roundtrip(test if holed else seen)[0]['image']
        errors.append(float((decoded - test['image']).square().nanmean().sqrt()))
    # nodata that is taken for data costs a multiple
    assert errors[1] < 1.4 * errors[0]


class TestScaling:
    def codec(self) -> Codec:
        return PixelCodec(SampleSpec(('B02',), ('a', 'b')), fold=1)

    def test_percentiles_become_one(self) -> None:
        codec = self.codec()
        codec.fit_scaling(torch.arange(10_001).float().view(1, 1, 73, 137))
        assert float(codec.center) == pytest.approx(5000)
        assert float(codec.half_range) == pytest.approx(4950, rel=1e-4)

    def test_constant_band(self) -> None:
        codec = self.codec()
        image = torch.full((2, 1, 4, 4), 5000.0)
        codec.fit_scaling(image)
        batch = {'image': image, 'mask': torch.zeros(2, 4, 4, dtype=torch.long)}
        codec.fit_statistics([batch])
        assert bool(codec.encode(batch).isfinite().all())
        decoded = codec.decode(torch.randn(2, codec.latent_channels, 4, 4))['image']
        # one part in ten thousand of the level for each deviation
        assert float((decoded - image).abs().max()) < 2.5
        # rounding errors of a datamodule are not blown up to full range
        scaled, _ = codec.prepare(batch | {'image': image * (1 + 1e-7)})
        assert float(scaled.abs().max()) < 0.01

    def test_band_that_is_nearly_always_the_same(self) -> None:
        codec = self.codec()
        image = torch.zeros(1, 1, 100, 100)
        image[0, 0, 0, :10] = 3000
        codec.fit_scaling(image)
        batch = {'image': image, 'mask': torch.zeros(1, 100, 100, dtype=torch.long)}
        codec.fit_statistics([batch])
        decoded = codec.decode(codec.encode(batch))['image']
        torch.testing.assert_close(decoded, image, rtol=0, atol=0.5)

    def test_outliers_are_clipped(self) -> None:
        codec = self.codec()
        image = torch.rand(1, 1, 100, 100) * 1000
        image[0, 0, 0, 0] = 60_000
        codec.fit_scaling(image)
        scaled, _ = codec.prepare(
            {'image': image, 'mask': torch.zeros(1, 100, 100, dtype=torch.long)}
        )
        assert float(scaled.max()) == 4

    def test_many_pixels_and_bands(self) -> None:
        bands = tuple(f'band_{i}' for i in range(20))
        codec = PixelCodec(SampleSpec(bands, ('a', 'b')), fold=1)
        levels = torch.arange(20.0).view(20, 1, 1)
        codec.fit_scaling(torch.rand(1, 1, 1001, 1000) + levels)
        torch.testing.assert_close(
            codec.center, torch.arange(20) + 0.5, atol=0.01, rtol=0
        )


@pytest.mark.parametrize('kind', LEARNED)
@pytest.mark.parametrize('dates', [1, 2])
def test_the_angle_of_the_loss_is_that_of_reflectance(
    kind: str, dates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, batch = make(kind, dates), batch_of(dates)
    numbers = batch['image'].reshape(4, dates, len(BANDS), 16, 16)
    turned = numbers.flip(2)
    center, half = (v[:, None, None] for v in (codec.center, codec.half_range))

    def angle(image: Tensor) -> Tensor:
        """The loss where a codec gives an image (B, T, C, H, W) back."""
        output = Reconstruction(
            (image - center) / half, torch.zeros(4, len(CLASSES), 16, 16), image.sum()
        )
        monkeypatch.setattr(codec, 'reconstruct', lambda images, mask: output)
        return codec.loss(batch)['sad']

    # another light is no other spectrum; about a centre it would be
    assert float(angle(1.5 * numbers)) < 1e-3
    cosine = (numbers * turned).sum(2) / numbers.norm(dim=2) / turned.norm(dim=2)
    wanted = cosine.double().clamp(-1, 1).acos().mean()
    assert float(angle(turned)) == pytest.approx(float(wanted), rel=1e-3)
