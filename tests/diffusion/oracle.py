# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Data whose best denoiser is known in closed form, to test the maths around it."""

from typing import Any

import torch
from torch import Tensor, nn

from torchgeo_specdm import Generator, SampleSpec
from torchgeo_specdm.codecs import Codec
from torchgeo_specdm.codecs.base import Reconstruction
from torchgeo_specdm.diffusion import JointDenoiser, JointProcess

SPEC = SampleSpec(('B02', 'B03'), ('a', 'b', 'c'), ignore_index=255)

#: Mean and covariance of the latents of two dates and a mask, at each pixel.
MEAN = torch.tensor([0.5, -1.0, 0.2])
COVARIANCE = torch.tensor([[1.0, 0.3, 0.5], [0.3, 0.5, -0.2], [0.5, -0.2, 0.8]])

#: Every case that can be asked for.
CASES = dict.fromkeys(
    (
        'joint',
        'image|mask',
        'mask|image',
        'image_2|image_1,mask',
        'image_2,mask|image_1',
        'image_2|image_1',
        'image',
        'mask',
    ),
    1.0,
)


#: Settings of a small UNet.
FLAT: dict[str, Any] = {
    'widths': [8, 16],
    'attention': [False, True],
    'layers': 1,
    'groups': 4,
    'head_dim': 8,
    'residual_resampling': False,
}


class PlainCodec(Codec):
    """Latents are the pixels of one band: two dates, and a mask of two classes."""

    name = 'plain'
    trainable = False

    def __init__(self) -> None:
        spec = SampleSpec(('B02',), ('no', 'yes'), dates=2, scale=1.0, dtype='float32')
        super().__init__(spec, {}, {'image_1': 1, 'image_2': 1, 'mask': 1}, 1)
        # a wide range, so that nothing is clipped
        self.center.fill_(0)
        self.half_range.fill_(10)
        self.latent_mean.fill_(0)
        self.latent_std.fill_(1)

    def to_latent(self, images: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([images[:, :, 0] * 10, mask[:, None] * 2.0 - 1], 1)

    def from_latent(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.cat([-latent[:, 2:], latent[:, 2:]], 1)
        return latent[:, :2, None] / 10, scores

    def reconstruct(self, images: Tensor, mask: Tensor) -> Reconstruction:
        raise AssertionError('Oracles are asked for latents and for samples only.')


class OracleDenoiser(nn.Module):
    """The expected clean latent, given the noisy one, as the network would say it."""

    def __init__(
        self,
        process: JointProcess,
        mean: Tensor = MEAN,
        covariance: Tensor = COVARIANCE,
    ) -> None:
        super().__init__()
        self.process = process
        self.mean = mean.double()
        self.covariance = covariance.double()

    def forward(self, visible: Tensor, times: Tensor) -> Tensor:
        scale = self.process.signal_scale
        # streams have one channel each here: (B, S)
        alpha = self.process.signal[times].double()
        sigma = (1 - alpha.square()).sqrt()
        alpha = alpha * scale
        spread = (alpha.square() + sigma.square()).sqrt()
        noisy = visible.double() * spread[..., None, None]
        expected = self.posterior_mean(noisy, alpha, sigma)
        clean = expected * scale
        noise = (noisy - alpha[..., None, None] * expected) / sigma.clamp(min=1e-9)[
            ..., None, None
        ]
        if self.process.prediction == 'sample':
            return expected.float()
        if self.process.prediction == 'epsilon':
            return noise.float()
        level = self.process.signal[times].double()[..., None, None]
        return (level * noise - sigma[..., None, None] * clean).float()

    def posterior_mean(self, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | alpha x + sigma e = noisy] for Gaussian x, at each pixel."""
        gain = torch.diag_embed(alpha)
        seen = gain @ self.covariance @ gain + torch.diag_embed(sigma.square())
        weights = self.covariance @ gain @ torch.linalg.inv(seen)
        off = noisy - (alpha * self.mean)[..., None, None]
        return self.mean[:, None, None] + torch.einsum('bij,bjhw->bihw', weights, off)


def oracle_generator(
    prediction: str = 'v',
    signal_scale: float = 1.0,
    covariance: Tensor = COVARIANCE,
    size: int = 32,
) -> Generator:
    """A generator whose network makes no mistake."""
    codec = PlainCodec()
    process = JointProcess(codec.streams, prediction, CASES, signal_scale)
    denoiser = OracleDenoiser(process, covariance=covariance)
    return Generator(codec, process, denoiser, config_of(size))


def config_of(size: int) -> dict[str, Any]:
    """What drawing needs of a configuration."""
    sampling = {'sampler': 'dpm', 'steps': 20}
    return {'patch_size': [size, size], 'sampling': sampling}


def flat_denoiser(channels: int, times: int) -> JointDenoiser:
    """A small UNet whose weights do not depend on any random number generator."""
    denoiser = JointDenoiser(channels, times, **FLAT)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.ndim > 1:
                # large enough to matter, small enough to stay in range
                fan_in = parameter[0].numel()
                steps = torch.arange(parameter.numel(), dtype=torch.float64)
                values = (steps * 12.9898).sin() * 1.5 / fan_in**0.5
                parameter.copy_(values.view_as(parameter))
    return denoiser.eval()


def batch_of(count: int, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    mask = torch.randint(0, 3, (count, 16, 16))
    mask[:, 0] = 255
    return {'image': torch.rand(count, 2, 16, 16) * 1000, 'mask': mask}
