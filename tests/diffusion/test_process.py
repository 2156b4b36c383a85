# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from torchgeo_specdm.diffusion import JointProcess

STREAMS = {'image_1': slice(0, 2), 'image_2': slice(2, 4), 'mask': slice(4, 5)}
PREDICTIONS = ('epsilon', 'v', 'sample')


def make(**settings: Any) -> JointProcess:
    return JointProcess(STREAMS, **settings)


def noised(process: JointProcess) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    latent, noise = torch.randn(2, 64, 5, 4, 4)
    times = torch.randint(1, 1001, (64, 3))
    return latent, noise, times, process.add_noise(latent, noise, times)


def truth(
    process: JointProcess,
    latent: torch.Tensor,
    noise: torch.Tensor,
    times: torch.Tensor,
) -> torch.Tensor:
    """What a network without error gives."""
    if process.prediction == 'epsilon':
        return noise
    if process.prediction == 'sample':
        return latent
    widths = torch.tensor([2, 2, 1])
    alpha = process.signal[times].repeat_interleave(widths, 1)[..., None, None]
    return alpha * noise - (1 - alpha**2).sqrt() * latent * process.signal_scale


class TestSchedule:
    def test_frozen_numbers(self) -> None:
        signal = make().signal
        found = [float(signal[t]) for t in (0, 1, 250, 500, 750, 1000)]
        wanted = [1, 0.9992498, 0.7330918, 0.388687, 0.1325951, 0.0258586]
        assert found == pytest.approx(wanted, abs=2e-6)
        # LDM's own numbers for this schedule (docs/notes/diffusion.md)
        assert float(signal[500]) ** 2 == pytest.approx(0.1511, abs=1e-4)
        assert float(signal[1000]) ** 2 == pytest.approx(6.69e-4, abs=1e-6)

    @pytest.mark.parametrize('steps', [10, 1000])
    def test_is_what_diffusers_calls_scaled_linear(self, steps: int) -> None:
        process = make(num_steps=steps)
        theirs = DDPMScheduler(**process.schedule).alphas_cumprod
        torch.testing.assert_close(process.signal[1:].square(), theirs)
        assert process.schedule['beta_schedule'] == 'scaled_linear'
        assert len(process.signal) == steps + 1

    def test_is_not_in_checkpoints(self) -> None:
        assert not make().state_dict()


class TestArguments:
    @pytest.mark.parametrize(
        ('settings', 'said'),
        [
            ({'prediction': 'x'}, "prediction='x' must be one of"),
            ({'signal_scale': 0.0}, 'signal_scale=0.0'),
        ],
    )
    def test_refused(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            make(**settings)


class TestTimes:
    def test_shared_by_all_streams_as_published(self) -> None:
        torch.manual_seed(0)
        times = make().draw_times(4000)[0]
        assert bool((times == times[:, :1]).all())
        assert int(times.min()) >= 1 and int(times.max()) <= 1000
        # uniform: every tenth of the range gets its share
        counts = torch.histc(times[:, 0].float(), 10, 0.5, 1000.5)
        assert bool((counts > 300).all()) and bool((counts < 500).all())

    def test_given_is_clean_and_absent_is_noise(self) -> None:
        torch.manual_seed(0)
        process = make(cases={'joint': 1.0, 'image_2|image_1,mask': 1.0, 'image': 2.0})
        times, drawn = process.draw_times(8000)
        kinds = {
            'joint': drawn.all(1),
            'change': (drawn == torch.tensor([False, True, False])).all(1),
            'images': (drawn == torch.tensor([True, True, False])).all(1),
        }
        shares = {kind: float(rows.float().mean()) for kind, rows in kinds.items()}
        wanted = {'joint': 0.25, 'change': 0.25, 'images': 0.5}
        assert shares == pytest.approx(wanted, abs=0.02)
        assert not bool(times[kinds['change']][:, [0, 2]].any())
        assert bool((times[kinds['images']][:, 2] == 1000).all())
        # what is drawn together has one time
        assert torch.equal(times[kinds['images']][:, 0], times[kinds['images']][:, 1])
        assert int(times[drawn].min()) == 1 and int(times[drawn].max()) == 1000

    @pytest.mark.parametrize('batch', [1, 3, 100])
    def test_validation_times_cover_the_range_in_any_batching(self, batch: int) -> None:
        process = make()
        starts = range(0, 300, batch)
        times = torch.cat([process.spread_times(i, batch) for i in starts])[:300]
        assert torch.equal(times, process.spread_times(0, 300))
        counts = torch.histc(times[:, 0].float(), 10, 0.5, 1000.5)
        assert bool((counts >= 28).all())
        assert int(times.min()) >= 1 and int(times.max()) <= 1000


class TestNoising:
    def test_time_zero_is_clean_and_the_last_is_noise(self) -> None:
        process = make(signal_scale=0.5)
        latent, noise, _, _ = noised(process)
        clean = process.add_noise(latent, noise, torch.zeros(64, 3, dtype=torch.long))
        assert torch.equal(clean, latent * 0.5)
        last = process.add_noise(latent, noise, torch.full((64, 3), 1000))
        assert float((last - noise).abs().max()) < 0.1

    def test_each_stream_follows_its_own_time(self) -> None:
        process = make()
        latent, noise, _, _ = noised(process)
        times = torch.tensor([[1, 1000, 0]]).expand(64, -1)
        noisy = process.add_noise(latent, noise, times)
        assert float((noisy[:, :2] - latent[:, :2]).abs().max()) < 0.2
        assert float((noisy[:, 2:4] - noise[:, 2:4]).abs().max()) < 0.2
        assert torch.equal(noisy[:, 4], latent[:, 4])

    @pytest.mark.parametrize('scale', [1.0, 0.35])
    def test_the_network_sees_variance_one(self, scale: float) -> None:
        process = make(signal_scale=scale)
        latent, noise = torch.randn(2, 256, 5, 8, 8)
        for time in (0, 1, 300, 1000):
            times = torch.full((256, 3), time)
            noisy = process.add_noise(latent, noise, times)
            visible = process.network_input(noisy, times)
            assert float(visible.std()) == pytest.approx(1, abs=0.02)


class TestLoss:
    @pytest.mark.parametrize('scale', [1.0, 0.35])
    @pytest.mark.parametrize('prediction', PREDICTIONS)
    def test_nil_for_the_truth_and_positive_otherwise(
        self, prediction: str, scale: float
    ) -> None:
        process = make(prediction=prediction, signal_scale=scale)
        latent, noise, times, _ = noised(process)
        right = truth(process, latent, noise, times)
        losses = process.loss(right, latent, noise, times)
        assert set(losses) == {'loss', 'loss_image_1', 'loss_image_2', 'loss_mask'}
        assert all(float(value) < 1e-9 for value in losses.values())
        wrong = process.loss(right + 0.1, latent, noise, times)
        assert all(float(value) > 1e-4 for value in wrong.values())

    @pytest.mark.parametrize('scale', [1.0, 0.35])
    @pytest.mark.parametrize('prediction', PREDICTIONS)
    def test_clean_estimate_inverts(self, prediction: str, scale: float) -> None:
        process = make(prediction=prediction, signal_scale=scale)
        latent, noise, times, noisy = noised(process)
        output = truth(process, latent, noise, times)
        estimate = process.clean_estimate(output, noisy, times)
        torch.testing.assert_close(estimate, latent, rtol=1e-3, atol=2e-3)

    def test_sample_is_weighted_like_v(self) -> None:
        by_sample, by_v = (
            make(prediction=p, signal_scale=0.35) for p in ('sample', 'v')
        )
        latent, noise, times, noisy = noised(by_v)
        guess = latent + 0.3 * torch.randn_like(latent)
        widths = torch.tensor([2, 2, 1])
        alpha = by_v.signal[times].repeat_interleave(widths, 1)[..., None, None]
        sigma = (1 - alpha**2).sqrt()
        # the v that stands for the same guess
        v = (alpha * noisy - 0.35 * guess) / sigma
        torch.testing.assert_close(
            by_sample.loss(guess, latent, noise, times)['loss'],
            by_v.loss(v, latent, noise, times)['loss'],
            rtol=1e-3,
            atol=0,
        )

    @pytest.mark.parametrize('prediction', PREDICTIONS)
    def test_a_given_mask_is_not_learned(self, prediction: str) -> None:
        process = make(prediction=prediction)
        latent, noise, times, _ = noised(process)
        times[:, 2] = 0
        output = truth(process, latent, noise, times)
        output[:, 4] += 100
        output.requires_grad_()
        losses = process.loss(output, latent, noise, times)
        assert float(losses['loss']) < 1e-9
        assert float(losses['loss_mask']) == 0
        losses['loss'].backward()
        assert output.grad is not None
        assert not bool(output.grad[:, 4].any())

    def test_the_network_sees_nothing_of_an_absent_stream(self) -> None:
        process = make(prediction='v', cases={'image': 1.0}, signal_scale=1.0)
        latent, *_ = noised(process)
        seen = []

        def spy(visible: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            seen.append(visible)
            return torch.zeros_like(visible)

        # a latent so large that a thousandth of it would show
        for value in (0.0, 1e6):
            latent[:, 4] = value
            torch.manual_seed(0)
            losses = process.training_losses(spy, latent)
            assert float(losses['loss_mask']) == 0
        assert torch.equal(*seen)
        assert 0 < float(losses['loss']) < 100

    def test_the_mean_is_over_noised_elements(self) -> None:
        process = make(prediction='epsilon')
        latent, noise, times, _ = noised(process)
        times[:32, 2] = 0
        losses = process.loss(noise + 2.0, latent, noise, times)
        # an error of 2 everywhere is a loss of 4, whatever is left out
        assert all(float(value) == pytest.approx(4) for value in losses.values())

    @pytest.mark.parametrize('prediction', PREDICTIONS)
    def test_what_is_not_known_is_not_learned(self, prediction: str) -> None:
        process = make(prediction=prediction)
        latent, noise, times, _ = noised(process)
        coverage = torch.ones(64, 3, 4, 4)
        coverage[:32, 1, :2], coverage[:, 2] = 0, 0
        output = truth(process, latent, noise, times)
        output[:32, 2:4, :2] += 100
        output[:, 4] = 100
        output.requires_grad_()
        losses = process.loss(output, latent, noise, times, coverage)
        assert all(float(value) < 1e-9 for value in losses.values())
        losses['loss'].backward()
        assert output.grad is not None and not bool(output.grad[:, 4].any())
        assert not bool(output.grad[:32, 2:4, :2].any())

    def test_the_mean_is_over_known_shares(self) -> None:
        process = make(prediction='epsilon')
        latent, noise, times, _ = noised(process)
        coverage = torch.ones(64, 3, 4, 4)
        coverage[:, 0] = 0.5
        output = noise.clone()
        output[:, :2] += 2
        output[:, 2:] += 1
        losses = process.loss(output, latent, noise, times, coverage)
        assert float(losses['loss_image_1']) == pytest.approx(4)
        # two channels of weight one half, three of weight 1
        assert float(losses['loss']) == pytest.approx((4 + 3) / (1 + 3))

    def test_validation_repeats_itself(self) -> None:
        process = make(prediction='v')
        latent = torch.randn(6, 5, 4, 4)

        def nothing(visible: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(visible)

        losses = [process.validation_losses(nothing, latent, 0) for _ in range(2)]
        other = process.validation_losses(nothing, latent, 10_000)
        assert losses[0] == losses[1]
        assert losses[0]['loss'] != other['loss']
        torch.manual_seed(0)
        first = process.training_losses(nothing, latent)
        again = process.training_losses(nothing, latent)
        assert first['loss'] != again['loss']
