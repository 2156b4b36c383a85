# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What every codec promises, tested on all of them."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.codecs import (
    Codec,
    PixelCodec,
    ReconstructionScores,
    TwoStreamCodec,
    load_codec,
    make_codec,
    require_learnable,
    require_learned,
    save_codec,
)
from torchgeo_specdm.presets import load_preset

BANDS = ('B02', 'B03', 'B04', 'B08')
CLASSES = ('water', 'forest', 'town')
SMALL = {'layers': 1, 'stem': 2, 'groups': 8, 'attention': False}
SINGLE = {'widths': [16, 16], 'latents': 5, **SMALL}
#: Name of the codec and its settings; each works on squares of 4 pixels.
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    'two_stream': (
        'two_stream',
        {
            'image_widths': [16, 16],
            'mask_widths': [16, 16],
            'image_latents': 3,
            'mask_latents': 2,
            **SMALL,
        },
    ),
    'one_hot': ('single_stream', {'mask_input': 'one_hot', **SINGLE}),
    'index': ('single_stream', {'mask_input': 'index', **SINGLE}),
    'pixels': ('pixels', {'fold': 4}),
}
LEARNED = ['two_stream', 'one_hot', 'index']


def spec_of(dates: int) -> SampleSpec:
    return SampleSpec(BANDS, CLASSES, dates=dates, ignore_index=255)


def batch_of(dates: int, count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Digital numbers whose level depends on the class, whole ones."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 3, (count, 4, 4), generator=random)
    mask = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    level = torch.tensor([[200, 300, 250, 100], [300, 500, 400, 3000], [1500] * 4])
    image = level[mask].movedim(-1, 1)[:, None].repeat(1, dates, 1, 1, 1).float()
    noise = torch.randint(-30, 30, image.shape, generator=random)
    image = image + noise
    if dates == 1:
        return {'image': image[:, 0], 'mask': mask}
    return {'image': image, 'mask': mask[:, None]}


def make(kind: str, dates: int = 1, fitted: bool = True) -> Codec:
    torch.manual_seed(0)
    name, settings = CODECS[kind]
    codec = make_codec(name, spec_of(dates), settings)
    codec.fit_scaling(batch_of(dates)['image'].flatten(0, -4))
    if fitted:
        codec.fit_statistics([batch_of(dates, seed=seed) for seed in range(3)])
    return codec.eval()


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
        if kind in ('two_stream', 'pixels'):
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
        if kind == 'pixels':
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

    def test_statistics_of_nothing_or_nan(self, kind: str) -> None:
        codec, batch = make(kind, fitted=False), batch_of(1)
        with pytest.raises(ValueError, match='statistics need numbers'):
            codec.fit_statistics([])
        batch['image'][0, 0, 0, 0] = float('nan')
        with pytest.raises(ValueError, match='statistics need numbers'):
            codec.fit_statistics([batch])


@pytest.mark.parametrize('dates', [1, 2])
@pytest.mark.parametrize('kind', CODECS)
class TestIgnoredPixels:
    def test_do_not_break_anything(self, kind: str, dates: int) -> None:
        codec, batch = make(kind, dates), batch_of(dates)
        batch['mask'][..., :3] = 255
        assert bool(codec.encode(batch).isfinite().all())
        losses = codec.loss(batch)
        assert all(bool(value.isfinite()) for value in losses.values())

    def test_are_of_no_class(self, kind: str, dates: int) -> None:
        codec = make(kind, dates)
        mask = torch.tensor([[[0, 1], [2, 255]]])
        hot = codec.one_hot(mask)
        assert hot[0, :, 1, 1].tolist() == [-1, -1, -1]
        assert hot[0, :, 1, 0].tolist() == [-1, -1, 1]
        assert hot[0, :, 0, 0].tolist() == [1, -1, -1]

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

    def test_all_ignored_is_finite_with_gradient(self, kind: str, dates: int) -> None:
        codec, batch = make(kind, dates), batch_of(dates)
        batch['mask'].fill_(255)
        losses = codec.loss(batch)
        assert float(losses['mask']) == 0
        assert bool(losses['loss'].isfinite())
        if kind == 'pixels':
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


def moved(branch: torch.nn.Module) -> bool:
    """Whether a gradient has arrived."""
    gradients = [p.grad for p in branch.parameters() if p.grad is not None]
    return any(bool(g.any()) for g in gradients)


class TestKl:
    def test_is_a_mean_in_float32(self) -> None:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        from torchgeo_specdm.codecs.autoencoder import mean_kl

        # half a mean of squares of 300, more than float16 holds
        parameters = torch.full((2, 4, 8, 8), 300.0, dtype=torch.float16)
        parameters[:, 2:] = 0
        assert float(mean_kl(DiagonalGaussianDistribution(parameters))) == 45_000
        standard = DiagonalGaussianDistribution(torch.zeros(2, 4, 8, 8))
        assert float(mean_kl(standard)) == 0


class TestTwoStream:
    def perturbed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch | {'mask': (batch['mask'] + 1) % 3}

    @pytest.mark.parametrize('dates', [1, 2])
    def test_the_image_branch_never_sees_the_mask(self, dates: int) -> None:
        codec, batch = make('two_stream', dates), batch_of(dates)
        mask = codec.streams['mask']
        a, b = (codec.encode(x) for x in (batch, self.perturbed(batch)))
        assert torch.equal(a[:, : mask.start], b[:, : mask.start])
        assert not torch.equal(a[:, mask], b[:, mask])
        x, y = codec.decode(a), codec.decode(b)
        assert torch.equal(x['image'], y['image'])

    def test_the_mask_branch_never_sees_the_image(self) -> None:
        codec, batch = make('two_stream'), batch_of(1)
        other = batch | {'image': batch['image'] * 0.5}
        mask = codec.streams['mask']
        a, b = codec.encode(batch), codec.encode(other)
        assert torch.equal(a[:, mask], b[:, mask])
        assert torch.equal(codec.decode(a)['mask'], codec.decode(b)['mask'])

    def test_gradients_do_not_cross(self) -> None:
        codec = make('two_stream').train()
        assert isinstance(codec, TwoStreamCodec)
        losses = codec.loss(batch_of(1))
        losses['mask'].backward(retain_graph=True)
        assert moved(codec.mask_branch) and not moved(codec.image_branch)
        codec.zero_grad()
        (losses['l1'] + losses['sad']).backward()
        assert moved(codec.image_branch) and not moved(codec.mask_branch)

    def test_no_parameter_is_shared(self) -> None:
        codec = make('two_stream')
        assert isinstance(codec, TwoStreamCodec)
        image, mask = (
            {p.data_ptr() for p in branch.parameters()}
            for branch in (codec.image_branch, codec.mask_branch)
        )
        assert not image & mask
        assert len(image) + len(mask) == len(list(codec.parameters()))

    def test_dates_share_the_image_branch(self) -> None:
        counts = {
            sum(p.numel() for p in make('two_stream', dates).parameters())
            for dates in (1, 2, 3)
        }
        assert len(counts) == 1

    def test_a_date_is_encoded_without_the_others(self) -> None:
        codec, batch = make('two_stream', 2), batch_of(2)
        other = batch | {'image': batch['image'].clone()}
        other['image'][:, 1] += 400
        a, b = codec.encode(batch), codec.encode(other)
        first, second = codec.streams['image_1'], codec.streams['image_2']
        assert torch.equal(a[:, first], b[:, first])
        assert not torch.equal(a[:, second], b[:, second])

    def test_levels_must_agree(self) -> None:
        settings = CODECS['two_stream'][1] | {'mask_widths': [16]}
        with pytest.raises(ValueError, match='equally many levels'):
            make_codec('two_stream', spec_of(1), settings)


class TestSingleStream:
    def test_is_what_two_stream_is_not(self) -> None:
        # the baseline entangles: its image changes with the mask
        codec, batch = make('one_hot'), batch_of(1)
        other = batch | {'mask': (batch['mask'] + 1) % 3}
        a, b = (codec.decode(codec.encode(x).detach()) for x in (batch, other))
        assert not torch.equal(a['image'], b['image'])

    def test_index_takes_the_nearest_number(self) -> None:
        codec = make('index')
        number = torch.tensor([-1.2, -0.6, -0.4, 0.1, 0.6, 3.0]).view(1, 1, 1, 6)
        scores = -(number - torch.tensor([-1.0, 0, 1]).view(1, 3, 1, 1)).abs()
        assert scores.argmax(1).flatten().tolist() == [0, 0, 1, 1, 2, 2]
        mask = torch.tensor([0, 0, 1, 1, 2, 2]).view(1, 1, 6)
        wanted = (0.2 + 0.4 + 0.4 + 0.1 + 0.4 + 2.0) / 6
        assert float(codec.mask_loss(scores, mask)) == pytest.approx(wanted)

    def test_input_is_one_of_two(self) -> None:
        settings = CODECS['index'][1] | {'mask_input': 'both'}
        with pytest.raises(ValueError, match="mask_input='both' must be"):
            make_codec('single_stream', spec_of(1), settings)


class TestPixels:
    @pytest.mark.parametrize('dates', [1, 2, 3])
    def test_exact(self, dates: int) -> None:
        codec, batch = make('pixels', dates), batch_of(dates)
        codec.fit_scaling(
            torch.stack([batch['image'].flatten(0, -4)[0] * f for f in (0, 1.2)])
        )
        codec.fit_statistics([batch])
        sample = codec.decode(codec.encode(batch))
        assert torch.equal(sample['image'].round(), batch['image'])
        assert torch.equal(sample['mask'], batch['mask'])

    @pytest.mark.parametrize('dates', [2, 3])
    def test_dates_keep_their_order(self, dates: int) -> None:
        batch = batch_of(dates)
        batch['image'][:, -1] += 500
        codec = make('pixels', dates, fitted=False)
        codec.fit_scaling(batch['image'].flatten(0, -4))
        codec.fit_statistics([batch])
        sample = codec.decode(codec.encode(batch))
        torch.testing.assert_close(sample['image'], batch['image'], rtol=0, atol=0.01)

    @pytest.mark.parametrize('classes', [1, 2, 3, 4, 5, 17])
    def test_every_class_survives(self, classes: int) -> None:
        names = [f'class_{i}' for i in range(classes)]
        spec = SampleSpec(('B02',), tuple(names), ignore_index=255)
        codec = PixelCodec(spec, fold=1)
        codec.center.fill_(0)
        codec.half_range.fill_(1)
        mask = torch.arange(classes).view(1, 1, classes)
        sample = {'image': torch.rand(1, 1, 1, classes), 'mask': mask}
        codec.fit_statistics([sample])
        assert torch.equal(codec.decode(codec.encode(sample))['mask'], mask)
        # and noise on the bits does not make a class that is not there
        latent = torch.randn(4, codec.latent_channels, 8, 8)
        assert int(codec.decode(latent)['mask'].max()) < classes

    def test_no_label_lies_between_the_codes(self) -> None:
        codec, batch = make('pixels'), batch_of(1)
        batch['mask'].fill_(255)
        assert not bool(codec.encode(batch)[:, codec.streams['mask']].any())

    def test_nothing_to_learn(self) -> None:
        assert not list(make('pixels').parameters())
        assert not PixelCodec.trainable


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
        assert float(scaled.max()) == 1.5

    def test_many_pixels_and_bands(self) -> None:
        bands = tuple(f'band_{i}' for i in range(20))
        codec = PixelCodec(SampleSpec(bands, ('a', 'b')), fold=1)
        levels = torch.arange(20.0).view(20, 1, 1)
        codec.fit_scaling(torch.rand(1, 1, 1001, 1000) + levels)
        torch.testing.assert_close(
            codec.center, torch.arange(20) + 0.5, atol=0.01, rtol=0
        )


class TestFolder:
    @pytest.mark.parametrize('kind', CODECS)
    def test_round_trip_is_bitwise(self, kind: str, tmp_path: Path) -> None:
        codec = make(kind, dates=2)
        save_codec(codec, tmp_path)
        loaded = load_codec(tmp_path)
        assert type(loaded) is type(codec)
        assert loaded.spec == codec.spec
        assert loaded.settings == codec.settings
        wanted = codec.state_dict()
        assert all(torch.equal(v, wanted[k]) for k, v in loaded.state_dict().items())
        batch = batch_of(2)
        assert torch.equal(loaded.encode(batch), codec.encode(batch))
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            'config.json',
            'model.safetensors',
        ]

    def broken(self, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
        save_codec(make('pixels'), tmp_path)
        config = json.loads((tmp_path / 'config.json').read_text())
        change(config)
        (tmp_path / 'config.json').write_text(json.dumps(config))
        return tmp_path

    def test_no_statistics(self, tmp_path: Path) -> None:
        save_codec(make('pixels', fitted=False), tmp_path)
        with pytest.raises(RuntimeError, match='no latent statistics'):
            load_codec(tmp_path)

    def test_of_stage_diffusion(self, tmp_path: Path) -> None:
        folder = self.broken(tmp_path, lambda c: c.update(stage='diffusion'))
        with pytest.raises(ValueError, match="written by stage 'diffusion'"):
            load_codec(folder)

    def test_lacks_a_field(self, tmp_path: Path) -> None:
        folder = self.broken(tmp_path, lambda c: c['spec'].pop('classes'))
        with pytest.raises(ValueError, match='classes'):
            load_codec(folder)
        folder = self.broken(tmp_path / 'b', lambda c: c.pop('settings'))
        with pytest.raises(ValueError, match='settings'):
            load_codec(folder)

    def test_weights_of_another(self, tmp_path: Path) -> None:
        folder = self.broken(tmp_path, lambda c: c['settings'].update(fold=2))
        with pytest.raises(ValueError, match=r'do not fit its config\.json'):
            load_codec(folder)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match='must have written it'):
            load_codec(tmp_path / 'nowhere')


class TestNames:
    def test_unknown_codec(self) -> None:
        with pytest.raises(ValueError, match=r"codec='vq' must be one of \['pixels'"):
            make_codec('vq', spec_of(1), {})

    def test_unknown_setting(self) -> None:
        with pytest.raises(ValueError, match=r"pixels codec does not take .*'folds'"):
            make_codec('pixels', spec_of(1), {'folds': 2})

    def test_groups_must_divide(self) -> None:
        settings = CODECS['one_hot'][1] | {'groups': 32}
        with pytest.raises(ValueError, match='multiples of groups=32'):
            make_codec('single_stream', spec_of(1), settings)

    def test_what_a_stage_takes(self, tmp_path: Path) -> None:
        require_learnable('two_stream')
        require_learned('pixels')
        with pytest.raises(ValueError, match='nothing to learn'):
            require_learnable('pixels')
        with pytest.raises(ValueError, match=r'no learned codec.*--ckpt_path'):
            require_learned('single_stream')
        with pytest.raises(FileNotFoundError):
            require_learned(str(tmp_path / 'nowhere'))


class TestPaperPreset:
    """Parameter counts of the published architecture (ldm.md, sections 1 and 4)."""

    def count(self, bands: int, classes: int) -> tuple[float, float]:
        spec = SampleSpec(
            tuple(f'band_{i}' for i in range(bands)),
            tuple(f'class_{i}' for i in range(classes)),
        )
        with torch.device('meta'):
            codec = make_codec(
                'two_stream', spec, load_preset('paper')['two_stream']['codec']
            )
        assert isinstance(codec, TwoStreamCodec)
        image, mask = (
            sum(p.numel() for p in branch.parameters()) / 1e6
            for branch in (codec.image_branch, codec.mask_branch)
        )
        return image, mask

    def test_autoencoders(self) -> None:
        assert self.count(10, 13) == (55.328198, 55.335113)
        assert self.count(3, 2) == (55.312063, 55.309758)

    def test_denoiser(self) -> None:
        from torchgeo_specdm.diffusion import JointDenoiser

        with torch.device('meta'):
            denoiser = JointDenoiser(6, 1, **load_preset('paper')['denoiser'])
        count = sum(p.numel() for p in denoiser.parameters()) / 1e6
        # UNet2DModel has no constant number of heads: 2 thousand less than LDM's
        assert count == pytest.approx(294.972, abs=0.001)
        assert count == pytest.approx(294.974, abs=0.003)

    def test_factor_and_streams(self) -> None:
        with torch.device('meta'):
            codec = make_codec(
                'two_stream', spec_of(2), load_preset('paper')['two_stream']['codec']
            )
        assert codec.factor == 4
        widths = {name: s.stop - s.start for name, s in codec.streams.items()}
        assert widths == {'image_1': 3, 'image_2': 3, 'mask': 3}


class TestReconstructionScores:
    def test_do_not_depend_on_batches(self) -> None:
        codec, batch = make('one_hot'), batch_of(1, 6)
        batch['mask'][0, :9] = 255
        results = []
        for size in (6, 4, 1):
            scores = ReconstructionScores(len(CLASSES))
            for start in range(0, 6, size):
                part = {k: v[start : start + size] for k, v in batch.items()}
                scores.update(codec, part)
            results.append(scores.compute())
        for name, value in results[0].items():
            for other in results[1:]:
                torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5)

    def test_nothing_lost_is_nil(self) -> None:
        codec, batch = make('pixels'), batch_of(1)
        codec.fit_scaling(
            torch.stack([batch['image'].flatten(0, -4)[0] * f for f in (0, 1.2)])
        )
        codec.fit_statistics([batch])
        scores = ReconstructionScores(len(CLASSES))
        scores.update(codec, batch)
        found = {name: float(value) for name, value in scores.compute().items()}
        assert found['rmse'] < 1e-6 and found['sad'] < 1e-4
        assert found['miou'] == found['mask_accuracy'] == 1

    def test_units_are_reflectance_and_radians(self) -> None:
        codec, batch = make('pixels'), batch_of(1)
        brighter = batch | {'image': batch['image'] + 100}
        wanted = {'rmse': 0.01}
        scores = ReconstructionScores(len(CLASSES))

        def roundtrip(sample: Any) -> Any:
            logits = torch.nn.functional.one_hot(batch['mask'], 3).movedim(-1, 1)
            return brighter, logits.float() * 9

        codec.roundtrip = roundtrip  # type: ignore[method-assign]
        scores.update(codec, batch)
        found = scores.compute()
        assert float(found['rmse']) == pytest.approx(wanted['rmse'], rel=1e-4)
        a, b = brighter['image'].double(), batch['image'].double()
        cosine = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
        angle = float(cosine.clamp(max=1).arccos().mean())
        assert float(found['sad']) == pytest.approx(angle, rel=1e-3)

    def test_absent_labels(self) -> None:
        codec, batch = make('pixels'), batch_of(1)
        batch['mask'].fill_(255)
        scores = ReconstructionScores(len(CLASSES))
        scores.update(codec, batch)
        found = scores.compute()
        assert bool(found['mask'].isnan()) and bool(found['miou'].isnan())
        assert bool(found['loss'].isfinite())
        scores.reset()
        scores.update(codec, batch_of(1))
        assert bool(scores.compute()['miou'].isfinite())
