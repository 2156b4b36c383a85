# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A network without error must lead to the data, or the maths is wrong."""

from typing import Any

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import Generator
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.diffusion import JointProcess, sample_noise

from .oracle import COVARIANCE, MEAN, SPEC, batch_of, config_of, oracle_generator

INDICES = range(8)


DIAGONAL = torch.diag(COVARIANCE.diagonal())


def exact(noise: Tensor, scale: float, time: int = 1000) -> Tensor:
    """Where the flow without error leads, if streams are independent."""
    signal = float(JointProcess({'x': slice(0, 1)}).signal[time])
    mean, std = MEAN[:, None, None], COVARIANCE.diagonal().sqrt()[:, None, None]
    level = ((signal * scale * std) ** 2 + 1 - signal**2).sqrt()
    return mean + std * (noise - signal * scale * mean) / level


class TestSamplers:
    """A network without error must lead to the data, or the maths is wrong."""

    @pytest.mark.parametrize('scale', [1.0, 0.35])
    @pytest.mark.parametrize('prediction', ['epsilon', 'v', 'sample'])
    @pytest.mark.parametrize(
        ('sampler', 'steps', 'tolerance'), [('dpm', 20, 0.06), ('ddim', 400, 0.06)]
    )
    def test_deterministic_samplers_follow_the_flow(
        self, sampler: Any, steps: int, tolerance: float, prediction: str, scale: float
    ) -> None:
        generator = oracle_generator(prediction, scale, DIAGONAL, size=16)
        images = generator.sample(INDICES, 0, sampler, steps)['image'][:, :, 0]
        noise = sample_noise(0, INDICES, generator.process.streams, (16, 16))
        wanted = exact(noise, scale)[:, :2]
        assert float((images - wanted).abs().max()) < tolerance
        # all of the spread is there: a few equal steps would lose a third of it
        assert float(images.std() / wanted.std()) == pytest.approx(1, abs=0.02)

    @pytest.mark.parametrize('scale', [1.0, 0.35])
    @pytest.mark.parametrize(
        ('sampler', 'steps'), [('dpm', 30), ('sde', 30), ('ddim', 100), ('ddpm', 1000)]
    )
    def test_mean_and_covariance(self, sampler: Any, steps: int, scale: float) -> None:
        sample = oracle_generator('v', scale).sample(INDICES, 0, sampler, steps)
        pixels = sample['image'][:, :, 0].movedim(1, 0).flatten(1)
        torch.testing.assert_close(pixels.mean(1), MEAN[:2], atol=0.04, rtol=0)
        torch.testing.assert_close(
            # the published sampler itself is 3 % short of the spread at T = 1000
            torch.cov(pixels),
            COVARIANCE[:2, :2],
            atol=0.08 if sampler == 'ddpm' else 0.05,
            rtol=0,
        )
        # the mask is the sign of the third stream, which goes with the first
        share = torch.distributions.Normal(MEAN[2], COVARIANCE[2, 2].sqrt())
        wanted = 1 - float(share.cdf(torch.tensor(0.0)))
        assert float(sample['mask'].float().mean()) == pytest.approx(wanted, abs=0.02)
        first, mask = pixels[0], sample['mask'].flatten()
        assert float(first[mask == 1].mean() - first[mask == 0].mean()) > 0.7

    @pytest.mark.parametrize('steps', [7, 30, 600, 999])
    @pytest.mark.parametrize('sampler', ['dpm', 'ddim'])
    def test_any_number_of_steps(self, sampler: Any, steps: int) -> None:
        # diffusers' own DDIM guesses the next time and is off by 0.7 at 600 steps
        generator = oracle_generator('v', 1.0, DIAGONAL, size=4)
        images = generator.sample([0], 0, sampler, steps)['image'][:, :, 0]
        noise = sample_noise(0, [0], generator.process.streams, (4, 4))
        tolerance = 12 / steps**2 if sampler == 'dpm' else 6 / steps
        tolerance = max(tolerance, 0.015)
        assert float((images - exact(noise, 1.0)[:, :2]).abs().max()) < tolerance

    @pytest.mark.parametrize(('fixed', 'fresh'), [('ddim', 'ddpm'), ('dpm', 'sde')])
    def test_fresh_noise_makes_another_sampler(self, fixed: Any, fresh: Any) -> None:
        generator = oracle_generator(size=8)
        a, b, again = (
            generator.sample([0], 0, sampler, 20)['image']
            for sampler in (fixed, fresh, fresh)
        )
        assert float((a - b).abs().mean()) > 0.2
        assert torch.equal(b, again)

    def test_clip(self) -> None:
        generator = oracle_generator(size=16)
        free = generator.sample(INDICES, 0, steps=20)['image']
        clipped = generator.sample(INDICES, 0, steps=20, clip=1.0)['image']
        assert float(free.abs().max()) > 2
        assert float(clipped.abs().max()) <= 1 + 1e-5


class TestGivenMasks:
    def masks(self, count: int) -> Tensor:
        torch.manual_seed(1)
        return torch.randint(0, 2, (count, 1, 32, 32))

    @pytest.mark.parametrize('sampler', ['dpm', 'sde', 'ddim', 'ddpm'])
    @pytest.mark.parametrize('scale', [1.0, 0.35])
    def test_images_are_drawn_for_them(self, sampler: Any, scale: float) -> None:
        mask = self.masks(8)
        steps = {'dpm': 30, 'sde': 30, 'ddim': 100, 'ddpm': 1000}[sampler]
        sample = oracle_generator('v', scale).sample(
            INDICES, 0, sampler, steps, given={'mask': mask}
        )
        assert torch.equal(sample['mask'], mask)
        # Gaussian conditional of the images on the mask's latent, -1 or +1
        slope = COVARIANCE[:2, 2] / COVARIANCE[2, 2]
        rest = COVARIANCE[:2, :2] - slope[:, None] * COVARIANCE[2, :2]
        pixels = sample['image'][:, :, 0].movedim(1, 0).flatten(1)
        for label in (0, 1):
            here = pixels[:, mask.flatten() == label]
            wanted = MEAN[:2] + slope * (label * 2 - 1 - MEAN[2])
            torch.testing.assert_close(here.mean(1), wanted, atol=0.05, rtol=0)
            torch.testing.assert_close(torch.cov(here), rest, atol=0.06, rtol=0)

    def test_ignored_pixels_stay(self, generator: Generator) -> None:
        given = {'mask': batch_of(2)['mask']}
        sample = generator.sample([0, 1], 0, given=given)
        assert torch.equal(sample['mask'], given['mask'])
        assert bool((sample['mask'] == 255).any())

    def test_other_masks_give_other_images(self, generator: Generator) -> None:
        a, b = (
            generator.sample([0, 1], 0, given={'mask': batch_of(2, s)['mask']})
            for s in (0, 1)
        )
        assert float((a['image'] - b['image']).abs().mean()) > 1


#: Mean and covariance of drawn streams, when the others have a value.
def conditional(drawn: list[int], given: list[int], value: Tensor) -> tuple[Any, Any]:
    """Mean (D, N) and covariance (D, D) of a Gaussian, given values (G, N)."""
    slope = COVARIANCE[drawn][:, given] @ COVARIANCE[given][:, given].inverse()
    mean = MEAN[drawn, None] + slope @ (value - MEAN[given, None])
    return mean, COVARIANCE[drawn][:, drawn] - slope @ COVARIANCE[given][:, drawn]


class TestAnyStream:
    @pytest.fixture
    def real(self) -> dict[str, Tensor]:
        """Samples of the distribution that the oracle knows."""
        return oracle_generator().sample(INDICES, seed=99, steps=50)

    def test_second_dates_for_first_ones_and_masks(
        self, real: dict[str, Tensor]
    ) -> None:
        given = {'image_1': real['image'][:, 0], 'mask': real['mask']}
        sample = oracle_generator().sample(INDICES, 0, steps=30, given=given)
        assert torch.equal(sample['image'][:, 0], given['image_1'])
        assert torch.equal(sample['mask'], given['mask'])
        labels = given['mask'].flatten() * 2.0 - 1
        value = torch.stack([given['image_1'].flatten(), labels])
        mean, rest = conditional([1], [0, 2], value)
        off = sample['image'][:, 1].flatten() - mean[0]
        assert float(off.mean()) == pytest.approx(0, abs=0.03)
        assert float(off.var()) == pytest.approx(float(rest[0, 0]), abs=0.04)
        # what is left does not go with what is given
        assert abs(float(torch.corrcoef(torch.stack([off, value[0]]))[0, 1])) < 0.03

    def test_masks_for_images(self, real: dict[str, Tensor]) -> None:
        given = {'image': real['image']}
        sample = oracle_generator().sample(INDICES, 0, steps=30, given=given)
        assert torch.equal(sample['image'], real['image'])
        value = real['image'][:, :, 0].movedim(1, 0).flatten(1)
        mean, rest = conditional([2], [0, 1], value)
        chance = torch.distributions.Normal(0, 1).cdf(mean[0] / rest[0, 0].sqrt())
        mask = sample['mask'].flatten().float()
        # calibrated: of pixels with a chance of a class so many have it
        for low in (0.0, 0.2, 0.4, 0.6, 0.8):
            here = (chance >= low) & (chance < low + 0.2)
            wanted = float(chance[here].mean())
            assert float(mask[here].mean()) == pytest.approx(wanted, abs=0.05)

    def test_second_dates_and_masks_for_first_ones(
        self, real: dict[str, Tensor]
    ) -> None:
        given = {'image_1': real['image'][:, 0]}
        sample = oracle_generator().sample(INDICES, 0, steps=30, given=given)
        mean, rest = conditional([1], [0], given['image_1'].flatten()[None])
        off = sample['image'][:, 1].flatten() - mean[0]
        assert float(off.var()) == pytest.approx(float(rest[0, 0]), abs=0.04)

    @pytest.mark.parametrize('guidance', [0.5, 1.0])
    def test_guidance_follows_the_mask_further(self, guidance: float) -> None:
        mask = torch.ones(8, 1, 32, 32, dtype=torch.long)
        plain, guided = (
            oracle_generator().sample(INDICES, 0, 'dpm', 30, None, w, {'mask': mask})
            for w in (0.0, guidance)
        )
        first = [float(s['image'][:, 0].mean()) for s in (plain, guided)]
        # towards where the mask pulls it, away from the mean of all
        pull = first[0] - float(MEAN[0])
        assert pull > 0.3
        assert 1.1 < (first[1] - float(MEAN[0])) / pull < 1 + 1.5 * guidance
        assert torch.equal(plain['mask'], guided['mask'])

    def test_the_codec_of_one_stream_refuses(self) -> None:
        settings = {'widths': [8, 8], 'groups': 4, 'latents': 2, 'layers': 1}
        codec = make_codec('single_stream', SPEC, settings)
        process = JointProcess(codec.streams)
        bare = Generator(codec, process, torch.nn.Identity(), config_of(8))
        for name in ('image', 'mask'):
            with pytest.raises(ValueError, match='has one stream for image and mask'):
                bare.sample([0], 0, given={name: batch_of(1)[name]})

    def test_only_what_was_trained(self) -> None:
        generator = oracle_generator()
        generator.process = JointProcess(generator.codec.streams, 'v')
        sample = generator.sample(INDICES, 0, steps=2)
        with pytest.raises(ValueError, match=r'never trained on mask\|image_1,image_2'):
            generator.sample(INDICES, 0, given={'image': sample['image']})
        generator.process = JointProcess(
            generator.codec.streams, 'v', {'image|mask': 1.0}
        )
        mask = {'mask': sample['mask']}
        generator.sample(INDICES, 0, steps=2, given=mask)
        with pytest.raises(ValueError, match='never trained on image_1,image_2, only'):
            generator.sample(INDICES, 0, given=mask, guidance=1.0)


class TestScenes:
    """Samples that are larger than what the network has learned."""

    @pytest.mark.parametrize('sampler', ['dpm', 'ddpm'])
    def test_are_those_of_a_network_for_their_size(self, sampler: Any) -> None:
        # a network that looks at single pixels is the same for any size
        mask = torch.randint(0, 2, (2, 1, 40, 27), generator=torch.manual_seed(0))
        drawn = [
            oracle_generator(size=size).sample(
                [0, 1], 3, sampler, 20, given=given, size=(40, 27)
            )
            for given in (None, {'mask': mask})
            for size in (16, 27)
        ]
        for small, large in (drawn[:2], drawn[2:]):
            torch.testing.assert_close(small['image'], large['image'])
            assert torch.equal(small['mask'], large['mask'])
        assert torch.equal(drawn[3]['mask'], mask)

    @pytest.mark.parametrize('size', [(33, 50), (32, 16)])
    def test_do_not_depend_on_their_batch(
        self, generator: Generator, size: tuple[int, int]
    ) -> None:
        many = generator.sample([4, 0, 7], 3, size=size)
        one = generator.sample([0], 3, size=size)
        for key in ('image', 'mask'):
            assert many[key].shape[-2:] == size
            assert torch.equal(many[key][1], one[key][0])

    def test_varied_a_little_are_those_given(self, generator: Generator) -> None:
        given = {
            'image': torch.rand(1, 2, 45, 31) * 1000,
            'mask': torch.randint(0, 3, (1, 45, 31)),
        }
        patch = {key: value[..., 9:25, 7:23] for key, value in given.items()}
        scene, alone = (
            generator.sample(
                [0],
                0,
                given={'mask': sample['mask']},
                start={'image': sample['image']},
                strength=0.01,
            )
            for sample in (given, patch)
        )
        off = [
            float((drawn['image'] - kept['image']).abs().mean())
            for drawn, kept in ((scene, given), (alone, patch))
        ]
        assert off[0] < 1.2 * off[1]


class TestInside:
    @pytest.mark.parametrize('strength', [0.6, 1.0])
    def test_only_there_is_drawn(self, strength: float) -> None:
        generator = oracle_generator()
        real = generator.sample(INDICES, seed=99, steps=50)
        inside = torch.zeros(8, 32, 32, dtype=torch.bool)
        inside[:, 8:24, 4:30] = True
        given = {'image_1': real['image'][:, 0], 'mask': real['mask']}
        sample = generator.sample(
            INDICES,
            0,
            steps=30,
            given=given,
            start={'image_2': real['image'][:, 1]},
            strength=strength,
            inside=inside,
        )
        before, after = real['image'][:, 1, 0], sample['image'][:, 1, 0]
        assert torch.equal(after[~inside], before[~inside])
        assert float((after != before)[inside].float().mean()) > 0.99
        # what is drawn is what first date and mask let expect
        labels = real['mask'][:, 0] * 2.0 - 1
        value = torch.stack([given['image_1'][:, 0][inside], labels[inside]])
        mean, rest = conditional([1], [0, 2], value)
        off = after[inside] - mean[0]
        assert float(off.mean()) == pytest.approx(0, abs=0.05)
        assert float(off.var()) == pytest.approx(float(rest[0, 0]), abs=0.05)

    def test_needs_what_stays_outside(self) -> None:
        mask = torch.zeros(1, 1, 32, 32, dtype=torch.long)
        inside = torch.ones(1, 32, 32, dtype=torch.bool)
        with pytest.raises(ValueError, match='samples to start from and only then'):
            oracle_generator().sample([0], 0, given={'mask': mask}, inside=inside)


class TestStrength:
    def parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Real masks and images: drawn from the distribution that the oracle knows."""
        sample = oracle_generator(size=16).sample(INDICES, seed=99, steps=50)
        return {'mask': sample['mask']}, {'image': sample['image']}

    def test_the_weaker_the_nearer(self) -> None:
        (given, start), generator = self.parts(), oracle_generator(size=16)
        far = []
        for strength in (0.01, 0.1, 0.3, 0.6, 0.99):
            sample = generator.sample(
                INDICES, 0, steps=50, given=given, start=start, strength=strength
            )
            error = sample['image'] - start['image']
            far.append(float(error.square().mean().sqrt()))
        assert far[0] < 0.15
        assert far == sorted(far)
        # nearly at full strength nothing but the mask is left of the given sample
        assert far[-1] > 0.8

    def test_the_start_is_noised_as_far_as_the_sampler_thinks(self) -> None:
        given, start = self.parts()
        generator = oracle_generator('v', 1.0, DIAGONAL, size=16)
        sample = generator.sample(
            INDICES, 0, 'ddim', 1000, given=given, start=start, strength=0.4
        )
        signal = generator.process.signal[400]
        noise = sample_noise(0, INDICES, generator.process.streams, (16, 16))
        begun = signal * start['image'][:, :, 0] + (1 - signal**2).sqrt() * noise[:, :2]
        full = torch.cat([begun, noise[:, 2:]], 1)
        wanted = exact(full, 1.0, 400)[:, :2]
        assert float((sample['image'][:, :, 0] - wanted).abs().max()) < 0.02

    def test_varied_samples_keep_the_distribution(self) -> None:
        (given, start), generator = self.parts(), oracle_generator(size=16)
        sample = generator.sample(
            INDICES, 0, steps=60, given=given, start=start, strength=0.6
        )
        assert torch.equal(sample['mask'], given['mask'])
        for a, b in ((0, 0), (1, 1)):
            real, fake = start['image'][:, a], sample['image'][:, b]
            assert float(fake.mean()) == pytest.approx(float(real.mean()), abs=0.06)
            assert float(fake.std()) == pytest.approx(float(real.std()), abs=0.06)


def test_masks_first_and_then_images_for_them(generator: Generator) -> None:
    shares = {'mask': 0.5, 'image|mask': 0.5}
    settings = generator.config['process'] | {'cases': shares}
    process = JointProcess(generator.codec.streams, **settings)
    sampling = {'sampler': 'sde', 'steps': 3, 'order': 'mask_first'}
    config = generator.config | {'sampling': sampling}
    first = Generator(generator.codec, process, generator.denoiser, config)
    pairs = first.sample([3, 4], seed=0)
    given = {'mask': pairs['mask']}
    again = first.sample([3, 4], seed=0, given=given)
    torch.testing.assert_close(again['image'], pairs['image'], rtol=0, atol=0)
    # the images that are absent in the first pass say nothing of the masks
    single = first.sample([4], seed=0)
    assert (single['mask'] == pairs['mask'][1:]).all()
    assert pairs['mask'].unique().numel() > 1


def test_masks_first_need_their_case(generator: Generator) -> None:
    sampling = {'sampler': 'sde', 'steps': 3, 'order': 'mask_first'}
    config = generator.config | {'sampling': sampling}
    parts = generator.codec, generator.process, generator.denoiser
    with pytest.raises(ValueError, match='never trained on mask'):
        Generator(*parts, config).sample([0], seed=0)
