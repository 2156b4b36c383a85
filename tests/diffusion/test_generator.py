# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from torchgeo_specdm import Generator, SampleSpec
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.diffusion import JointDenoiser, JointProcess, sample_noise
from torchgeo_specdm.diffusion.solver import falling_times, make_solver

from .oracle import COVARIANCE, MEAN, flat_denoiser, oracle_generator

INDICES = range(8)
DIAGONAL = torch.diag(COVARIANCE.diagonal())
SPEC = SampleSpec(('B02', 'B03'), ('a', 'b', 'c'), ignore_index=255)


@pytest.fixture(scope='module')
def generator() -> Generator:
    """Pixels of two bands and three classes, a network of fixed weights."""
    torch.manual_seed(0)
    codec = make_codec('pixels', SPEC, {'fold': 2})
    codec.fit_scaling(torch.rand(8, 2, 16, 16) * 1000)
    codec.fit_statistics([batch_of(8)])
    process = JointProcess(codec.streams, 'sample', 0.5, 0.35)
    denoiser = flat_denoiser(codec.latent_channels, len(codec.streams))
    config = {
        'stage': 'diffusion',
        'process': {'prediction': 'sample', 'independent': 0.5, 'signal_scale': 0.35},
        'denoiser': {
            'widths': [8, 16],
            'attention': [False, True],
            'layers': 1,
            'groups': 4,
            'head_dim': 8,
            'residual_resampling': False,
        },
        'sampling': {'sampler': 'dpm', 'steps': 4},
        'patch_size': [16, 16],
    }
    return Generator(codec, process, denoiser, config)


def batch_of(count: int, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    mask = torch.randint(0, 3, (count, 16, 16))
    mask[:, 0] = 255
    return {'image': torch.rand(count, 2, 16, 16) * 1000, 'mask': mask}


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


class TestSolver:
    SCHEDULE = JointProcess({'x': slice(0, 1)}).schedule
    PRODUCTS = JointProcess({'x': slice(0, 1)}).signal[1:].square()

    @pytest.mark.parametrize('steps', [1, 2, 3, 20, 333, 999, 1000])
    def test_times_fall_from_the_last_to_the_first(self, steps: int) -> None:
        times = falling_times(steps, self.PRODUCTS)
        assert len(times) == steps
        assert times[0] == 1000
        assert times[-1] == 1 or steps == 1
        assert all(a > b for a, b in pairwise(times))

    def test_steps_are_equal_in_the_signal_to_noise_ratio(self) -> None:
        times = torch.tensor(falling_times(6, self.PRODUCTS)) - 1
        levels = (self.PRODUCTS / (1 - self.PRODUCTS)).log()[times]
        torch.testing.assert_close(
            levels.diff(), torch.full((5,), 2.762), atol=0.02, rtol=0
        )
        assert falling_times(6, self.PRODUCTS) == [1000, 797, 507, 154, 15, 1]

    def test_all_times_are_the_published_sampler(self) -> None:
        assert falling_times(1000, self.PRODUCTS) == list(range(1000, 0, -1))

    @pytest.mark.parametrize('strength', [1.0, 0.6, 0.01, 0.0001])
    def test_strength_enters_on_the_way(self, strength: float) -> None:
        full = make_solver('dpm', 20, 1.0, self.SCHEDULE).timesteps.tolist()
        part = make_solver('dpm', 20, strength, self.SCHEDULE).timesteps.tolist()
        start = max(1, round(strength * 1000)) - 1
        assert part[0] == start
        assert part[1:] == [time for time in full if time < start]

    @pytest.mark.parametrize('sampler', ['dpm', 'sde', 'ddim', 'ddpm'])
    def test_the_last_step_leaves_no_noise(self, sampler: Any) -> None:
        solver = make_solver(sampler, 3, 1.0, self.SCHEDULE)
        state = torch.full((1, 1, 2, 2), 5.0)
        for moment in solver.timesteps:
            clean = torch.full((1, 1, 2, 2), float(moment))
            (state,) = solver.step(
                clean, moment, state, variance_noise=torch.ones(1), return_dict=False
            )
        assert torch.equal(state, clean)

    def test_first_order_is_ddim(self) -> None:
        solver = make_solver('ddim', 10, 1.0, self.SCHEDULE)
        signal = JointProcess({'x': slice(0, 1)}).signal
        state, clean = torch.tensor([[1.3]]), torch.tensor([[0.4]])
        (found,) = solver.step(clean, solver.timesteps[0], state, return_dict=False)
        now, then = signal[solver.timesteps[:2] + 1]
        noise = (state - now * clean) / (1 - now**2).sqrt()
        wanted = then * clean + (1 - then**2).sqrt() * noise
        torch.testing.assert_close(found, wanted)

    def test_stochastic_first_order_is_the_posterior_of_ddpm(self) -> None:
        solver = make_solver('ddpm', 10, 1.0, self.SCHEDULE)
        signal = JointProcess({'x': slice(0, 1)}).signal.double()
        state, clean, fresh = (torch.tensor([[x]]) for x in (1.3, 0.4, -0.7))
        (found,) = solver.step(
            clean, solver.timesteps[0], state, variance_noise=fresh, return_dict=False
        )
        # Ho et al. 2020, Eq. 7, with a longer step
        now, then = signal[solver.timesteps[:2] + 1] ** 2
        alpha = now / then
        mean = then.sqrt() * (1 - alpha) / (1 - now) * clean
        mean = mean + alpha.sqrt() * (1 - then) / (1 - now) * state
        wanted = mean + ((1 - then) / (1 - now) * (1 - alpha)).sqrt() * fresh
        torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)


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
        given = batch_of(2)
        sample = generator.sample([0, 1], 0, given=given)
        assert torch.equal(sample['mask'], given['mask'])
        assert bool((sample['mask'] == 255).any())

    def test_images_are_not_looked_at(self, generator: Generator) -> None:
        given = batch_of(2)
        with_image = generator.sample([0, 1], 0, given=given)
        without = generator.sample([0, 1], 0, given={'mask': given['mask']})
        assert torch.equal(with_image['image'], without['image'])

    def test_other_masks_give_other_images(self, generator: Generator) -> None:
        a, b = (generator.sample([0, 1], 0, given=batch_of(2, s)) for s in (0, 1))
        assert float((a['image'] - b['image']).abs().mean()) > 1

    def test_need_a_stream_of_their_own(self) -> None:
        settings = {'widths': [8, 8], 'groups': 4, 'latents': 2, 'layers': 1}
        codec = make_codec('single_stream', SPEC, settings)
        process = JointProcess(codec.streams)
        bare = Generator(codec, process, torch.nn.Identity(), {'patch_size': [8, 8]})
        with pytest.raises(ValueError, match='no stream of its own for the mask'):
            bare.sample([0], 0, given=batch_of(1))

    def test_need_training_for_it(self) -> None:
        generator = oracle_generator()
        generator.process.independent = 0.0
        with pytest.raises(ValueError, match=r'trained with process\.independent=0'):
            generator.sample([0], 0, given={'mask': self.masks(1)})


class TestStrength:
    def given(self) -> dict[str, Tensor]:
        """Real samples: drawn from the distribution that the oracle knows."""
        sample = oracle_generator(size=16).sample(INDICES, seed=99, steps=50)
        return {key: sample[key] for key in ('image', 'mask')}

    def test_the_weaker_the_nearer(self) -> None:
        given, generator = self.given(), oracle_generator(size=16)
        far = [
            float(
                (
                    generator.sample(INDICES, 0, steps=50, given=given, strength=s)[
                        'image'
                    ]
                    - given['image']
                )
                .square()
                .mean()
                .sqrt()
            )
            for s in (0.01, 0.1, 0.3, 0.6, 1.0)
        ]
        assert far[0] < 0.15
        assert far == sorted(far)
        # at full strength nothing but the mask is left of the given sample
        assert far[-1] > 0.8

    def test_the_start_is_noised_as_far_as_the_sampler_thinks(self) -> None:
        given, generator = self.given(), oracle_generator('v', 1.0, DIAGONAL, size=16)
        sample = generator.sample(
            INDICES, 0, steps=1000, given=given, strength=0.4, sampler='ddim'
        )
        signal = generator.process.signal[400]
        noise = sample_noise(0, INDICES, generator.process.streams, (16, 16))
        start = signal * given['image'][:, :, 0] + (1 - signal**2).sqrt() * noise[:, :2]
        full = torch.cat([start, noise[:, 2:]], 1)
        wanted = exact(full, 1.0, 400)[:, :2]
        assert float((sample['image'][:, :, 0] - wanted).abs().max()) < 0.02

    def test_varied_samples_keep_the_distribution(self) -> None:
        given, generator = self.given(), oracle_generator(size=16)
        sample = generator.sample(INDICES, 0, steps=60, given=given, strength=0.6)
        assert torch.equal(sample['mask'], given['mask'])
        for a, b in ((0, 0), (1, 1)):
            real, fake = given['image'][:, a], sample['image'][:, b]
            assert float(fake.mean()) == pytest.approx(float(real.mean()), abs=0.06)
            assert float(fake.std()) == pytest.approx(float(real.std()), abs=0.06)


class TestIdentity:
    def test_frozen_loop(self, generator: Generator) -> None:
        # a change of scheduler, noise or network arithmetic shows here first
        sample = generator.sample([0, 1], 7, steps=10)
        assert float(sample['image'].double().sum()) == pytest.approx(
            530373.778, rel=1e-4
        )
        assert int(sample['mask'].sum()) == pytest.approx(785, abs=2)

    def test_batch_size_and_order_do_not_matter(self, generator: Generator) -> None:
        together = generator.sample([4, 0, 7, 2], 3)
        alone = [generator.sample([i], 3) for i in (4, 0, 7, 2)]
        images = torch.cat([s['image'] for s in alone])
        scale = float(images.abs().max())
        assert float((together['image'] - images).abs().max()) < 1e-4 * scale
        masks = torch.cat([s['mask'] for s in alone])
        assert float((together['mask'] == masks).float().mean()) >= 0.999

    def test_seed_and_index_do(self, generator: Generator) -> None:
        a = generator.sample([0, 1], 3)['image']
        b = generator.sample([0, 1], 4)['image']
        assert float((a[0] - a[1]).abs().mean()) > 1
        assert float((a - b).abs().mean()) > 1

    def test_the_state_of_other_generators_does_not(self, generator: Generator) -> None:
        torch.manual_seed(0)
        a = generator.sample([0], 3, sampler='ddpm')['image']
        torch.manual_seed(1)
        assert torch.equal(a, generator.sample([0], 3, sampler='ddpm')['image'])

    def test_contract_of_a_sample(self, generator: Generator) -> None:
        sample = generator.sample([0, 1], 3)
        assert sample['image'].shape == (2, 2, 16, 16)
        assert sample['image'].dtype == torch.float32
        assert sample['mask'].shape == (2, 16, 16)
        assert sample['mask'].dtype == torch.int64
        assert int(sample['mask'].max()) <= 2
        assert not sample['image'].requires_grad


class TestArguments:
    @pytest.mark.parametrize(
        ('arguments', 'said'),
        [
            ({'sampler': 'euler'}, "sampler='euler' must be one of"),
            ({'steps': 0}, 'steps=0 lie in 1..1000'),
            ({'steps': 1001}, 'steps=1001'),
            ({'strength': 0.5}, 'below 1 it needs samples to vary'),
            ({'strength': 0.0}, 'strength=0.0'),
            ({'indices': []}, 'must name one sample or more'),
            ({'indices': [-1]}, r'indices=\[-1\]'),
            ({'seed': -2}, 'seed=-2 be 0 or more'),
        ],
    )
    def test_refused(
        self, generator: Generator, arguments: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            generator.sample(**{'indices': [0], 'seed': 0} | arguments)

    def test_given_must_suit(self, generator: Generator) -> None:
        mask = torch.zeros(2, 16, 16, dtype=torch.long)
        with pytest.raises(ValueError, match='2 samples are given for 1 indices'):
            generator.sample([0], 0, given={'mask': mask})
        with pytest.raises(ValueError, match='below 1 it needs samples to vary'):
            generator.sample([0, 1], 0, given={'mask': mask}, strength=0.5)

    def test_given_size_must_fit_the_codec(self, generator: Generator) -> None:
        mask = torch.zeros(1, 15, 16, dtype=torch.long)
        with pytest.raises(ValueError, match='multiples of 2'):
            generator.sample([0], 0, given={'mask': mask})


class TestFolder:
    def test_round_trip_is_exact(self, generator: Generator, tmp_path: Path) -> None:
        generator.save(tmp_path)
        loaded = Generator.load(tmp_path)
        assert loaded.config == generator.config
        wanted, found = (g.sample([0, 1], 5) for g in (generator, loaded))
        assert torch.equal(wanted['image'], found['image'])
        assert torch.equal(wanted['mask'], found['mask'])
        assert not any(p.requires_grad for p in loaded.parameters())
        assert sorted(p.name for p in tmp_path.rglob('*.*')) == [
            'config.json',
            'config.json',
            'model.safetensors',
            'model.safetensors',
        ]

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r'config\.json does not exist'):
            Generator.load(tmp_path)

    def test_of_stage_autoencoder(self, generator: Generator, tmp_path: Path) -> None:
        generator.save(tmp_path)
        with pytest.raises(ValueError, match="written by stage 'autoencoder'"):
            Generator.load(tmp_path / 'codec')

    def test_cut_weights(self, generator: Generator, tmp_path: Path) -> None:
        generator.save(tmp_path)
        weights = tmp_path / 'model.safetensors'
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(ValueError, match=r'model\.safetensors cannot be read'):
            Generator.load(tmp_path)

    def test_weights_of_another_network(
        self, generator: Generator, tmp_path: Path
    ) -> None:
        generator.save(tmp_path)
        config = json.loads((tmp_path / 'config.json').read_text())
        config['denoiser']['widths'] = [8, 24]
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r'do not fit its config\.json'):
            Generator.load(tmp_path)

    def test_unknown_setting(self, generator: Generator) -> None:
        config = generator.config | {'process': {'predicts': 'v'}}
        with pytest.raises(ValueError, match="argument 'predicts'"):
            Generator.build(generator.codec, config)

    def test_patches_that_do_not_go_through(self, generator: Generator) -> None:
        config = generator.config | {'patch_size': [10, 10]}
        with pytest.raises(ValueError, match=r'5 x 5 cells .* multiples of 2'):
            Generator.build(generator.codec, config)


class TestTimesOfStreams:
    def test_one_time_as_published(self, generator: Generator) -> None:
        config = generator.config | {'process': {'prediction': 'epsilon'}}
        published = Generator.build(generator.codec, config).denoiser
        assert not list(published.embeddings)
        assert not [n for n, _ in published.named_parameters() if 'class' in n]

    @torch.no_grad()
    def test_each_time_reaches_the_output(self) -> None:
        denoiser = flat_denoiser(3, 3)
        latent = torch.randn(1, 3, 8, 8)
        base = denoiser(latent, torch.tensor([[500, 500, 500]]))
        for stream in range(3):
            times = torch.tensor([[500, 500, 500]])
            times[0, stream] = 0
            assert float((denoiser(latent, times) - base).abs().max()) > 1e-3

    @torch.no_grad()
    def test_streams_are_not_interchangeable(self) -> None:
        denoiser = flat_denoiser(3, 3)
        # weights of a pattern give equal embeddings: break the tie
        torch.manual_seed(0)
        for parameter in denoiser.embeddings.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        latent = torch.randn(1, 3, 8, 8)
        a, b = (denoiser(latent, torch.tensor([t])) for t in ([5, 0, 900], [5, 900, 0]))
        assert float((a - b).abs().max()) > 1e-3


class TestDenoiser:
    @pytest.mark.parametrize(
        ('settings', 'said'),
        [
            ({'widths': [8, 12]}, r'widths=\[8, 12\] must be multiples of groups=8'),
            ({'attention': [True]}, r'attention=\[True\]'),
            ({'head_dim': 32}, 'head_dim=32 must divide'),
        ],
    )
    def test_refused(self, settings: dict[str, Any], said: str) -> None:
        plain = {'widths': [8, 16], 'attention': [False, False], 'head_dim': 8}
        with pytest.raises(ValueError, match=said):
            JointDenoiser(4, 2, groups=8, layers=1, **plain | settings)

    def test_size_is_refused_with_numbers(self) -> None:
        denoiser = flat_denoiser(3, 1)
        with pytest.raises(ValueError, match=r'7 x 8 cells .* multiples of 2'):
            denoiser(torch.zeros(1, 3, 7, 8), torch.ones(1, 1, dtype=torch.long))
