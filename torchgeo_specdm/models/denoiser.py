# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Segmentation with the features of a denoiser."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, pixel_shuffle

from ..diffusion import Generator
from ..diffusion.given import encode_parts

#: Times of 1000 at which features are taken, as Baranchuk et al. (2022) do.
_TIMES = (50, 150, 250)
_WIDTH = 128


class DenoiserSegmenter(nn.Module):
    """A light head over what a generator's denoiser sees in an image.

    Label-efficient segmentation with diffusion models (Baranchuk et al. 2022): the
    image is noised to several times, with the mask absent, and the outputs of all
    decoder blocks of the denoiser at all of these times, brought to the cells of the
    latent, are the features of a cell. Two convolutions of single cells read them, the
    second one with the classes of all pixels of a cell. The noise is the same for all
    images, so a prediction is a function of the image alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, generator: Generator, num_classes: int) -> None:
        """Initialize a new DenoiserSegmenter instance.

        Args:
            generator: Trained, for one date, with a mask stream of its own.
            num_classes: Number of classes K.

        Raises:
            ValueError: If the generator draws several dates, or image and mask as one.
        """
        super().__init__()
        codec = generator.codec
        if {*codec.streams} != {'image_1', 'mask'}:
            raise ValueError(
                f'The generator has the streams {list(codec.streams)}, but features of '
                'an image need image_1 and mask. Use one of one date with the codec '
                'two_stream or pixels.'
            )
        self.codec = codec.requires_grad_(False)
        self.process = generator.process
        #: The backbone, by the name that tasks know it by.
        self.encoder = generator.denoiser
        #: Fingerprints of what the generator was trained on.
        self.seen = generator.seen
        #: Images without labels among them.
        self.unlabelled = int(generator.config.get('training', {}).get('unlabelled', 0))
        self.window: Any = tuple(generator.config['patch_size'])
        bands = codec.spec.num_bands
        self.register_buffer('mean', torch.zeros(bands, 1, 1))
        self.register_buffer('std', torch.ones(bands, 1, 1))
        channels = sum(self.encoder.network.config['block_out_channels'])
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels * len(_TIMES)),
            nn.Conv2d(channels * len(_TIMES), _WIDTH, 1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, num_classes * codec.factor**2, 1),
        )

    def set_scaling(self, mean: Any, std: Any) -> None:
        """Say how images are normalised, since the codec takes digital numbers.

        Args:
            mean: Mean of each band, or a single one, in digital numbers.
            std: Standard deviation of each band, or a single one.
        """
        for own, given in ((self.mean, mean), (self.std, std)):
            own.copy_(torch.as_tensor(given).reshape(-1, 1, 1).expand_as(own))

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of a batch.

        Args:
            image: Normalised images, float (B, C, H, W), of any size.

        Returns:
            Logits of each class, (B, K, H, W).
        """
        height, width = image.shape[-2:]
        step = self.codec.factor * self.encoder.divisor
        # whole cells at every level
        image = pad(image, (0, -width % step, 0, -height % step), 'replicate')
        with torch.no_grad():
            parts = {'image_1': image.float() * self.std + self.mean}
            latent = encode_parts(parts, self.codec, self.window)
            # absent, as in training: noise alone
            latent[:, self.codec.streams['mask']] = 0
        found = [x for time in _TIMES for x in self._features(latent, time)]
        logits = pixel_shuffle(self.head(torch.cat(found, 1)), self.codec.factor)
        return logits[..., :height, :width]

    def _features(self, latent: Tensor, time: int) -> list[Tensor]:
        """Outputs of the decoder blocks at a time, each (B, D, h, w)."""
        steps = self.process.num_steps
        drawn = math.ceil(time / 1000 * steps)
        roles = {'image_1': drawn, 'mask': steps}
        times = torch.tensor([roles[s] for s in self.codec.streams])
        times = times.to(latent.device).expand(len(latent), -1)
        random = torch.Generator().manual_seed(time)
        noise = torch.randn(latent.shape[1:], generator=random).to(latent)
        noisy = self.process.add_noise(latent, noise, times)
        found: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda *seen: found.append(seen[-1]))
            for block in self.encoder.network.up_blocks
        ]
        try:
            self.encoder(self.process.network_input(noisy, times), times)
        finally:
            for hook in hooks:
                hook.remove()
        return [interpolate(x, size=latent.shape[-2:], mode='bilinear') for x in found]
