# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Paint a scene that is larger than the patch, for a mask made by hand.

python experiments/demo/scene.py --generator runs/demo/diffusion --out runs/demo/scene

Needs the generator of diffusion.yaml. Writes a mask of a river, fields, a wood and a
town, and lets ``torchgeo-specdm generate --masks`` paint it. Prints the peak memory and
how strong edges across the borders of windows are beside those elsewhere, and saves a
picture.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray
from rasterio.transform import from_origin

from torchgeo_specdm import Generator, PairFolder
from torchgeo_specdm.cli import main as command
from torchgeo_specdm.codecs.windows import window_starts
from torchgeo_specdm.metrics.stitching import seam_strength
from torchgeo_specdm.pairs.geotiffs import write_class_raster
from torchgeo_specdm.pairs.plotting import show_image, show_mask

_CROPLAND, _GRASS, _FOREST, _WATER, _BUILT, _SOIL = range(6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--generator', type=Path, required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--size', type=int, default=1024)
    options = parser.parse_args()
    masks, drawn = options.out / 'plans', options.out / 'drawn'
    masks.mkdir(parents=True, exist_ok=True)
    generator = Generator.load(options.generator)
    place = {'crs': 'EPSG:32632', 'transform': from_origin(600_000, 5_300_000, 10, 10)}
    mask = draw_mask(options.size)
    write_class_raster(masks / 'valley.tif', mask, generator.codec.spec, **place)
    started = time.monotonic()
    given = ['--generator', str(options.generator), '--masks', str(masks)]
    if command(['generate', *given, '--out', str(drawn)]):
        raise SystemExit(1)
    minutes = (time.monotonic() - started) / 60
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    folder = PairFolder(drawn)
    sample = folder[0]
    borders = window_borders(options.size, generator)
    factor = generator.codec.factor
    seams = seam_strength(sample['image'], (borders, borders), factor)
    print(
        f'{options.size} x {options.size} pixels in {minutes:.1f} minutes, peak memory '
        f'{memory:.0f} MB, edges across borders of windows {seams:.3f} times those '
        'across other borders of cells.'
    )
    image = show_image(sample['image'], folder.spec)
    both = np.concatenate([show_mask(sample['mask'], folder.spec), image], axis=1)
    imsave(options.out / 'scene.jpg', both, pil_kwargs={'quality': 80})


def draw_mask(size: int) -> NDArray[np.uint8]:
    """Classes of the demo scenes (H, W): a valley with a town."""
    y, x = np.mgrid[:size, :size] / size
    random = np.random.default_rng(0)
    # fields: rows of strips, each of one class
    strips = (7 * y + 0.6 * np.sin(5 * x)).astype(int), (9 * x + y).astype(int)
    kinds = random.choice([_CROPLAND, _CROPLAND, _GRASS, _SOIL], (16, 16))
    mask = kinds[strips[0] % 16, strips[1] % 16]
    mask[(x - 0.85) ** 2 + 0.7 * (y - 0.2) ** 2 < 0.06] = _FOREST
    mask[y > 0.93 + 0.04 * np.sin(9 * x)] = _FOREST
    away = np.abs(y - 0.55 - 0.16 * np.sin(4 * x + 0.5))
    mask[away < 0.055] = _GRASS
    town = (np.abs(x - 0.3) < 0.16) & (np.abs(y - 0.3) < 0.12)
    streets = (np.abs((16 * x) % 1 - 0.5) > 0.4) | (np.abs((16 * y) % 1 - 0.5) > 0.4)
    mask[town & ~streets] = _BUILT
    mask[town & streets] = _SOIL
    mask[away < 0.03] = _WATER
    return mask.astype(np.uint8)


def window_borders(size: int, generator: Generator) -> list[int]:
    """Pixels before which windows begin or end inside a scene."""
    window: int = generator.config['patch_size'][0]
    starts = window_starts(size, window, generator.codec.factor)
    ends = [start + window for start in starts]
    return sorted({*starts, *ends} - {0, size})


if __name__ == '__main__':
    main()
