# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Train the generator of procedural scenes that others begin with.

python experiments/prior.py --minutes 90 --out torchgeo_specdm/presets/scenes

Half of the scenes have the legend of six classes, half that of thirteen. Half of the
crops are seen from further away, with pixels 1.5 to 3 times as large, and half get
other brightness and contrast, overall and by band, since other data differ in all of
these. Scenes are made beside the training by the processors that are free. Needs no
data and no network; takes a GPU where there is one; writes a generator in half
precision, as it is shipped.

The weights in the package come from an earlier form of this file, which saw crops from
near alone. What both came to is in docs/notes/diffusion.md.
"""

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, one_hot
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from torchgeo_specdm import Generator
from torchgeo_specdm.codecs import Codec, make_codec
from torchgeo_specdm.diffusion import move_average
from torchgeo_specdm.presets import generator_settings, load_preset
from torchgeo_specdm.scenes.land import make_scene, scene_spec

SIZE, PATCH, CHUNK = 192, 64, 20
#: Sides of what the crops from further away show, in pixels of the scenes.
FAR = (96, 128, 192)
#: Another part of the world than that of any demo.
SEED = 777_001
RATE, WARMUP, DECAY = 1e-3, 100, 0.9995
#: Chunks of scenes that are waited for before training begins.
FIRST = 15
SAVED_EVERY = 500


def make_chunk(number: int) -> tuple[Tensor, Tensor]:
    """Make images (N, 10, 192, 192), digital numbers, and masks (N, 192, 192)."""
    numbers = range(number * CHUNK, (number + 1) * CHUNK)
    pairs = [make_scene(SEED, i, SIZE, hard=i % 2 == 0) for i in numbers]
    images, masks = (
        torch.stack([*map(torch.from_numpy, part)]) for part in zip(*pairs)
    )
    return images.short(), masks.byte()


class Scenes:
    """Scenes on the device, which grow while others are made.

    Args:
        count: Scenes in the end.
        workers: Processes that make them.
        device: Where they are kept.
    """

    def __init__(self, count: int, workers: int, device: torch.device) -> None:
        """Begin to make scenes, and wait for the first ones."""
        chunks = -(-count // CHUNK)
        pool = multiprocessing.get_context('spawn').Pool(workers, _use_one_thread)
        self.coming = pool.imap_unordered(make_chunk, range(chunks))
        first = [next(self.coming) for _ in range(min(FIRST, chunks))]
        self.images, self.masks = (torch.cat(p).to(device) for p in zip(*first))

    def grow(self) -> None:
        """Take the scenes that are there by now."""
        new = []
        with suppress(multiprocessing.TimeoutError, StopIteration):
            while True:
                new.append(self.coming.next(timeout=0))
        if new:
            images, masks = (torch.cat(p).to(self.images.device) for p in zip(*new))
            self.images = torch.cat([self.images, images])
            self.masks = torch.cat([self.masks, masks])

    def crops(self, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Cut squares of so many pixels at random places."""
        where: dict[str, Any] = {'device': self.images.device}
        scene = torch.randint(len(self.images), (count, 1, 1), **where)
        top, left = torch.randint(SIZE - side + 1, (2, count, 1), **where)
        along = torch.arange(side, **where)
        rows, columns = (top + along)[:, :, None], (left + along)[:, None]
        bands = torch.arange(self.images.shape[1], **where)[:, None, None]
        images = self.images[scene[:, None], bands, rows[:, None], columns[:, None]]
        return images.float(), self.masks[scene, rows, columns].long()


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def draw_pairs(scenes: Scenes, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Crops of scenes, half of them from further away, flipped and turned."""
    near = scenes.crops(count // 2, PATCH)
    side = FAR[int(torch.randint(len(FAR), ()))]
    images, masks = scenes.crops(count - count // 2, side)
    shares = adaptive_avg_pool2d(one_hot(masks, classes).movedim(-1, 1).float(), PATCH)
    far = adaptive_avg_pool2d(images, PATCH), shares.argmax(1)
    images, masks = (torch.cat(parts) for parts in zip(near, far))
    order = torch.randperm(count, device=masks.device)
    parts = zip(images[order].tensor_split(8), masks[order].tensor_split(8))
    turned = [[_turn(part, turn) for part in pair] for turn, pair in enumerate(parts)]
    images, masks = (torch.cat(parts) for parts in zip(*turned))
    return images, masks


def _turn(part: Tensor, turn: int) -> Tensor:
    part = torch.rot90(part, turn % 4, (-2, -1))
    return part.flip(-1) if turn >= 4 else part


def change_light(bands: Tensor, pixels: int) -> Tensor:
    """Give half of the latents (B, D, h, w) other brightness and contrast.

    Args:
        bands: Latents of images.
        pixels: Channels of each band, one for each pixel of a cell.
    """
    count, depth = len(bands), bands.shape[1] // pixels

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, 1, 1, device=bands.device)

    def by_band(spread: float) -> Tensor:
        return spread * normal(count, depth).repeat_interleave(pixels, 1)

    share = torch.rand(2, count, 1, 1, 1, device=bands.device)
    contrast = (0.3 + 0.9 * share[0]) * (1 + by_band(0.15))
    shift = normal(count, 1) / 2 + by_band(0.2)
    mean = bands.mean((2, 3), keepdim=True)
    return torch.where(share[1] < 0.5, mean + contrast * (bands - mean) + shift, bands)


def draw_latents(scenes: Scenes, count: int, codec: Codec) -> Tensor:
    """Latents of random crops."""
    images, masks = draw_pairs(scenes, count, codec.spec.num_classes)
    latent = codec.encode({'image': images, 'mask': masks})
    bands = codec.streams['image_1']
    latent[:, bands] = change_light(latent[:, bands], codec.factor**2)
    return latent.contiguous(memory_format=torch.channels_last)


def train(
    generator: Generator, scenes: Scenes, batch: int, seconds: float, out: Path
) -> None:
    """Train for so long, and save the averaged weights now and then, and at the end."""
    device = scenes.images.device
    denoiser = deepcopy(generator.denoiser).requires_grad_(True)
    denoiser = denoiser.to(memory_format=torch.channels_last)
    fused = device.type == 'cuda'
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), RATE, weight_decay=1e-2, fused=fused
    )
    half = torch.autocast(
        device.type, torch.bfloat16, enabled=fused, cache_enabled=False
    )
    with half:
        forward = _capture(denoiser, draw_latents(scenes, batch, generator.codec))
    begun = generator.config['training']['updates']
    networks = generator.denoiser, denoiser
    average, trained = (tuple(network.parameters()) for network in networks)
    start, step = time.monotonic(), 0
    with tqdm(total=round(seconds), unit='s', mininterval=5) as bar:
        while (done := (time.monotonic() - start) / seconds) < 1:
            step += 1
            rate = RATE * min(1, step / WARMUP) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]['lr'] = rate
            latent = draw_latents(scenes, batch, generator.codec)
            with half:
                losses = generator.process.training_losses(forward, latent)
            optimizer.zero_grad()
            losses['loss'].backward()
            clip_grad_norm_(trained, 1)
            optimizer.step()
            move_average(average, trained, step, DECAY)
            if step % 200 == 0:
                scenes.grow()
                _say(bar, step, losses, done * seconds)
            if step % SAVED_EVERY == 0:
                save(generator, begun + step, len(scenes.images), out)
    save(generator, begun + step, len(scenes.images), out)


def save(generator: Generator, updates: int, scenes: int, out: Path) -> None:
    """Write the generator in half precision, as it is shipped."""
    generator.config['training'] |= {'updates': updates, 'scenes': scenes}
    shipped = deepcopy(generator).cpu()
    shipped.denoiser.half()
    shipped.save(out)


def _capture(denoiser: nn.Module, latent: Tensor) -> Callable[..., Tensor]:
    """On a GPU, replay the network as one graph: it is too small for calls one by one."""
    if latent.device.type != 'cuda':
        return denoiser
    times = torch.ones(len(latent), 2, dtype=torch.long, device=latent.device)
    graph: Callable[..., Tensor] = torch.cuda.make_graphed_callables(
        denoiser, (latent, times)
    )
    return graph


def _say(bar: Any, step: int, losses: dict[str, Tensor], seconds: float) -> None:
    values = {name: f'{float(value.detach()):.4f}' for name, value in losses.items()}
    if not bool(losses['loss'].isfinite()):
        raise SystemExit(f'The loss is {values["loss"]} at update {step}.')
    bar.set_postfix(update=step, **values)
    bar.update(round(seconds) - bar.n)


def make_generator(scenes: Scenes, begin: Path | None) -> Generator:
    """One with the settings of the preset tiny, untrained or with weights of another."""
    config = {'stage': 'diffusion', 'patch_size': [PATCH, PATCH]}
    config |= generator_settings(load_preset('tiny'), 'pixels')
    config['training'] = {'updates': 0}
    if begin is not None:
        other = Generator.load(begin)
        config['training'] |= other.config.get('training', {})
        generator = Generator.build(other.codec, config)
        generator.denoiser.load_state_dict(other.denoiser.float().state_dict())
        return generator.requires_grad_(False)
    codec = make_codec('pixels', scene_spec(hard=True), {'fold': 4})
    images, masks = (part.cpu() for part in scenes.crops(300, 128))
    codec.fit_scaling(images)
    parts = zip(images.split(50), masks.split(50))
    codec.fit_statistics({'image': image, 'mask': mask} for image, mask in parts)
    return Generator.build(codec, config).requires_grad_(False)


def main() -> None:
    """Parse the arguments, train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, help='folder to write')
    parser.add_argument('--minutes', type=float, default=90, help='time of training')
    parser.add_argument('--scenes', type=int, default=8000, help='number of scenes')
    parser.add_argument('--batch-size', type=int, default=128, help='crops an update')
    parser.add_argument('--seed', type=int, default=0, help='of weights and batches')
    parser.add_argument('--begin', type=Path, help='generator to go on from')
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    scenes = Scenes(args.scenes, max(1, (os.cpu_count() or 1) - 2), device)
    generator = make_generator(scenes, args.begin)
    last = {'batch_size': args.batch_size, 'seed': args.seed}
    generator.config['training'] |= last
    seconds = 60 * args.minutes
    train(generator.to(device), scenes, args.batch_size, seconds, args.out)


if __name__ == '__main__':
    main()
