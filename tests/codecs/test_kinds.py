# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What only one of the codecs promises."""

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.codecs import PixelCodec, TwoStreamCodec, make_codec
from torchgeo_specdm.codecs.autoencoder import mean_kl
from torchgeo_specdm.diffusion import JointDenoiser
from torchgeo_specdm.presets import load_preset

from .fakes import CODECS, batch_of, make, spec_of


def moved(branch: torch.nn.Module) -> bool:
    """Whether a gradient has arrived."""
    gradients = [p.grad for p in branch.parameters() if p.grad is not None]
    return any(bool(g.any()) for g in gradients)


class TestKl:
    def test_is_a_mean_in_float32(self) -> None:
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


class TestPaperPreset:
    """Parameter counts of the published architecture (docs/notes)."""

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
        with torch.device('meta'):
            denoiser = JointDenoiser(6, 1, **load_preset('paper')['denoiser'])
        count = sum(p.numel() for p in denoiser.parameters()) / 1e6
        assert count == pytest.approx(294.973830)

    def test_factor_and_streams(self) -> None:
        with torch.device('meta'):
            codec = make_codec(
                'two_stream', spec_of(2), load_preset('paper')['two_stream']['codec']
            )
        assert codec.factor == 4
        widths = {name: s.stop - s.start for name, s in codec.streams.items()}
        assert widths == {'image_1': 3, 'image_2': 3, 'mask': 3}


@pytest.mark.parametrize(('bands', 'latents'), [(3, 8), (13, 8), (50, 16), (200, 28)])
def test_latents_grow_with_the_bands(bands: int, latents: int) -> None:
    spec = SampleSpec(tuple(f'b{i}' for i in range(bands)), ('a', 'b'), dates=2)
    preset = load_preset('tiny', None)['two_stream']['codec']
    codec = make_codec('two_stream', spec, preset)
    assert codec.streams['image_2'] == slice(latents, 2 * latents)
    # as it is built again
    assert codec.settings['image_latents'] == latents
