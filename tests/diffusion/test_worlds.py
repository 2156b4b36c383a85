# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""One small network learns every conditional of worlds in which it is known."""

import pytest
import torch
from torch import Tensor, nn

from torchgeo_specdm import Generator
from torchgeo_specdm.diffusion import JointProcess, warm_up_and_decay

from .oracle import CASES, PlainCodec, config_of

SIZE = 8
INDICES = range(32)


class Dense(nn.Module):
    """Sees all cells at once, which is enough for worlds of so few."""

    def __init__(self, process: JointProcess, width: int) -> None:
        super().__init__()
        self.process = process
        self.layers = nn.Sequential(
            nn.Linear(3 * SIZE**2 + 9, 256),
            nn.SiLU(),
            nn.Linear(256, width),
            nn.SiLU() if width > 1 else nn.Identity(),
            nn.Linear(width, 3 * SIZE**2),
        )

    def forward(self, visible: Tensor, times: Tensor) -> Tensor:
        signal = self.process.signal[times]
        ends = [(times == end).float() for end in (0, self.process.num_steps)]
        seen = torch.cat([visible.flatten(1), signal, *ends], 1)
        output: Tensor = self.layers(seen)
        return output.view_as(visible)


def learn(
    latent: Tensor,
    coverage: Tensor | None,
    steps: int,
    width: int,
    cases: dict[str, float],
) -> Generator:
    """Train on latents, half of each batch from each half of them."""
    torch.manual_seed(0)
    codec = PlainCodec()
    process = JointProcess(codec.streams, 'sample', cases)
    network = Dense(process, width)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    scheduler = warm_up_and_decay(optimizer, 10, steps)
    half = len(latent) // 2
    for _ in range(steps):
        chosen = torch.randint(half, (64,))
        chosen[32:] += half
        known = None if coverage is None else coverage[chosen]
        loss = process.training_losses(network, latent[chosen], known)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    assert loss.isfinite()
    return Generator(codec, process, network, config_of(SIZE))


def blocks(count: int) -> Tensor:
    """Masks (B, 1, H, W) of -1 and +1 in blocks."""
    signs = torch.randint(0, 2, (count, 1, 2, 2)) * 2.0 - 1
    return signs.repeat_interleave(SIZE // 2, 2).repeat_interleave(SIZE // 2, 3)


class TestChange:
    """Second dates are first ones, with the sign turned where the mask says so."""

    @pytest.fixture(scope='class')
    @staticmethod
    def generator() -> Generator:
        torch.manual_seed(0)
        mask = blocks(512)
        first = torch.randint(0, 2, (512, 1, 1, 1)) * 2.0 - 1
        first = first.expand_as(mask)
        return learn(torch.cat([first, -first * mask, mask], 1), None, 800, 256, CASES)

    def given(self) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(7)
        mask = blocks(32)
        first = (torch.randint(0, 2, (32, 1, 1, 1)) * 2.0 - 1).expand_as(mask)
        return first, -first * mask, (mask > 0).long()

    def test_images_determine_masks(self, generator: Generator) -> None:
        first, second, mask = self.given()
        images = torch.stack([first, second], 1)
        sample = generator.sample(INDICES, 0, steps=10, given={'image': images})
        assert float((sample['mask'] == mask).float().mean()) > 0.97

    def test_masks_and_first_dates_determine_second_ones(
        self, generator: Generator
    ) -> None:
        first, second, mask = self.given()
        given = {'image_1': first, 'mask': mask}
        sample = generator.sample(INDICES, 0, steps=10, given=given)
        error = sample['image'][:, 1] - second
        assert float(error.square().mean()) < 0.1

    def test_masks_determine_what_images_have_in_common(
        self, generator: Generator
    ) -> None:
        _, _, mask = self.given()
        sample = generator.sample(INDICES, 0, steps=10, given={'mask': mask})
        first, second = sample['image'].unbind(1)
        same = first.sign() == second.sign()
        assert float((same == (mask == 0)).float().mean()) > 0.9
        # but not the sign of the first date
        assert 0.2 < float((first.mean((1, 2, 3)) > 0).float().mean()) < 0.8

    def test_all_together(self, generator: Generator) -> None:
        sample = generator.sample(INDICES, 0, steps=10)
        same = sample['image'][:, 0].sign() == sample['image'][:, 1].sign()
        assert float((same == (sample['mask'] == 0)).float().mean()) > 0.85


def test_images_without_labels_lower_the_error_of_images_for_masks() -> None:
    """Two noisy labelled samples, and many more without labels, of two patterns."""
    torch.manual_seed(3)
    pattern = torch.randint(0, 2, (1, 1, SIZE, SIZE)) * 2.0 - 1

    def world(count: int) -> Tensor:
        signs = torch.tensor([1.0, -1.0]).repeat(count // 2)[:, None, None, None]
        images = pattern * signs + torch.randn(count, 1, SIZE, SIZE)
        mask = signs.expand(-1, 1, SIZE, SIZE)
        return torch.cat([images, images, mask], 1)

    known = torch.ones(512, 3, SIZE, SIZE)
    hidden = known.clone()
    hidden[:, 2] = 0
    repeated, unlabelled = world(2).repeat(256, 1, 1, 1), world(512)
    errors = []
    for second, coverage in ((repeated, known), (unlabelled, hidden)):
        latent, shares = torch.cat([repeated, second]), torch.cat([known, coverage])
        cases = {'image|mask': 1.0}
        generator = learn(latent, shares, 500, 4, cases)
        mask = (torch.arange(32) % 2)[:, None, None, None].expand(-1, 1, SIZE, SIZE)
        sample = generator.sample(INDICES, 0, steps=10, given={'mask': mask})
        signs = mask * 2.0 - 1
        found = (sample['image'][:, :, 0] * signs).mean((0, 1))
        errors.append(float((found - pattern[0, 0]).square().mean()))
    assert errors[1] < 0.7 * errors[0], errors
