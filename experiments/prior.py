# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Train the generator of procedural scenes that others begin with.

python experiments/prior.py --minutes 90 --out torchgeo_specdm/presets/scenes

Half of the scenes have the legend of six classes, half that of thirteen. A quarter of
the crops get another brightness and contrast, since other data differ in both. Needs
no data and no network; writes a generator in half precision, as it is shipped.
"""

import argparse
import math
import time
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from torchgeo_specdm import Generator
from torchgeo_specdm.codecs import Codec, make_codec
from torchgeo_specdm.diffusion import move_average
from torchgeo_specdm.presets import generator_settings, load_preset
from torchgeo_specdm.scenes.land import make_scene, scene_spec

SIZE, PATCH, BATCH = 128, 64, 16
#: Another part of the world than that of any demo.
SEED = 777_001
RATE, WARMUP, DECAY = 1e-3, 100, 0.999


def make_scenes(count: int) -> tuple[Tensor, Tensor]:
    """Make images (N, 10, 128, 128), digital numbers, and masks (N, 128, 128)."""
    pairs = [
        make_scene(SEED, index, SIZE, hard=index % 2 == 0)
        for index in tqdm(range(count), desc='scenes')
    ]
    images, masks = (
        torch.stack([*map(torch.from_numpy, part)]) for part in zip(*pairs)
    )
    return images, masks


def draw_crops(images: Tensor, masks: Tensor, codec: Codec) -> Tensor:
    """Latents of crops at random places, flipped and turned at random."""
    crops = []
    for scene in torch.randint(len(images), (BATCH,)).tolist():
        top, left = torch.randint(SIZE - PATCH + 1, (2,)).tolist()
        turns, flip = int(torch.randint(4, ())), bool(torch.randint(2, ()))
        parts = (
            part[scene, ..., top : top + PATCH, left : left + PATCH]
            for part in (images, masks)
        )
        parts = (torch.rot90(part, turns, (-2, -1)) for part in parts)
        crops.append([part.flip(-1) if flip else part for part in parts])
    image, mask = map(torch.stack, zip(*crops))
    latent = codec.encode({'image': image.float(), 'mask': mask.long()})
    bands = latent[:, codec.streams['image_1']]
    mean = bands.mean((2, 3), keepdim=True)
    contrast, shift = (
        0.3 + 0.9 * torch.rand(BATCH, 1, 1, 1),
        torch.randn(BATCH, 1, 1, 1),
    )
    other = mean + contrast * (bands - mean) + shift / 2
    changed = torch.rand(BATCH, 1, 1, 1) < 0.25
    latent[:, codec.streams['image_1']] = other.where(changed, bands)
    return latent


def train(generator: Generator, images: Tensor, masks: Tensor, seconds: float) -> int:
    """Train for so long; the generator gets the averaged weights.

    Returns:
        The number of updates.
    """
    denoiser = deepcopy(generator.denoiser).requires_grad_(True)
    optimizer = torch.optim.AdamW(denoiser.parameters(), RATE, weight_decay=1e-2)
    start, step = time.monotonic(), 0
    with tqdm(total=round(seconds), unit='s') as bar:
        while (done := (time.monotonic() - start) / seconds) < 1:
            step += 1
            rate = RATE * min(1, step / WARMUP) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]['lr'] = rate
            latent = draw_crops(images, masks, generator.codec)
            loss = generator.process.training_losses(denoiser, latent)['loss']
            if not loss.isfinite():
                raise SystemExit(f'The loss is {float(loss)} at update {step}.')
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(denoiser.parameters(), 1)
            optimizer.step()
            move_average(generator.denoiser, denoiser, step, DECAY)
            bar.set_postfix(update=step, loss=f'{float(loss.detach()):.3f}')
            bar.update(round(done * seconds) - bar.n)
    return step


def main() -> None:
    """Parse the arguments, train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, help='folder to write')
    parser.add_argument('--minutes', type=float, default=90, help='time of training')
    parser.add_argument('--scenes', type=int, default=3000, help='number of scenes')
    parser.add_argument('--seed', type=int, default=0, help='of weights and batches')
    args = parser.parse_args()
    images, masks = make_scenes(args.scenes)
    torch.manual_seed(args.seed)
    codec = make_codec('pixels', scene_spec(hard=True), {'fold': 4})
    codec.fit_scaling(images[:400].float())
    codec.fit_statistics(
        {'image': images[i : i + 50].float(), 'mask': masks[i : i + 50].long()}
        for i in range(0, min(len(images), 600), 50)
    )
    settings = generator_settings(load_preset('tiny'), 'pixels')
    config = {'stage': 'diffusion', **settings, 'patch_size': [PATCH, PATCH]}
    generator = Generator.build(codec, config).requires_grad_(False)
    updates = train(generator, images, masks, 60 * args.minutes)
    training = {'scenes': len(images), 'updates': updates, 'batch_size': BATCH}
    generator.config['training'] = training | {'seed': args.seed}
    generator.denoiser.half()
    generator.save(args.out)


if __name__ == '__main__':
    main()
