# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Plant faults into real pairs, and show which measure reacts to which.

python experiments/faults.py data/hls_worldcover --out runs/faults/hls
python experiments/faults.py --out runs/faults/scenes

A third of the places that are not for test is kept from judges and references. Their
pairs of one date, with a fault planted, are measured as if they had been generated;
without one they are real, and must raise no alarm. Writes faults.md and faults.json. A
second start goes on where the first one stopped.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad, pixel_shuffle, pixel_unshuffle
from torchgeo.datamodules import BaseDataModule
from torchvision.transforms.functional import gaussian_blur

from torchgeo_specdm.files import write_text
from torchgeo_specdm.metrics.detail import OCTAVES
from torchgeo_specdm.objects import Config, make_object
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.pairs.tiles import TileDataset
from torchgeo_specdm.pairs.writer import PairWriter
from torchgeo_specdm.scenes.writing import write_scenes
from torchgeo_specdm.trust.lights import lights
from torchgeo_specdm.trust.measures import read_measures
from torchgeo_specdm.trust.measuring import measure_pairs

Pair = tuple[Tensor, Tensor]
#: Training, validation and test scenes where no data are given.
SCENES = (200, 100, 100)
#: A class with a smaller share of the pixels is not worth leaving out.
_LEAST_AREA = 0.005


#: Training tiles whose principal components are kept.
_SEEN = 200


class Column(NamedTuple):
    """A number of the table.

    Attributes:
        meaning: For the legend.
        noticed: A change by so much against real pairs is printed bold.
    """

    meaning: str
    noticed: float


_RATIO = 'over the larger of floor and held-out'
_TO_TRAINING = 'to that of training pairs'
COLUMNS = {
    'FD': Column(f'Frechet distance of images, {_RATIO}', 0.4),
    'FD texture': Column(f'Frechet distance of textures, {_RATIO}', 0.4),
    'FD mask': Column(f'Frechet distance of masks, {_RATIO}', 0.4),
    'prec': Column('precision of images', 0.15),
    'rec': Column('recall of images', 0.15),
    'cov': Column('coverage of images', 0.15),
    'fine': Column(f'power above 1/4 cycle a pixel, {_TO_TRAINING}', 0.3),
    'mid': Column(f'power of 1/8 to 1/4 cycle a pixel, {_TO_TRAINING}', 0.3),
    'steps': Column(f'steps on a grid, {_TO_TRAINING}', 0.1),
    'bands': Column(
        f'agreement of fine detail of bands, the lowest, {_TO_TRAINING}', 0.2
    ),
    'form': Column('structure, 0 is a random field and 1 is as in training', 0.3),
    'lines': Column(f'boundary pixels of masks, {_TO_TRAINING}', 0.2),
    'mSAD': Column('angle between mean spectra of classes, radians', 0.03),
    'gain': Column('brightness over that of training images', 0.05),
    'spread': Column('standard deviation within classes, likewise', 0.1),
    'NDVI': Column('shift of the NDVI of classes, in standard deviations', 0.1),
    'area': Column('total variation of class areas', 0.05),
    'gone': Column('missing classes', 1),
    'judge': Column('alignment by judges, 0 is shuffled and 1 is real', 0.1),
    'edges': Column('alignment by edges, likewise', 0.1),
    'LDA': Column('alignment by spectra, likewise', 0.1),
    'near': Column('share of samples suspiciously near a training sample', 0.05),
    'alarm': Column('alarms of memorisation, by pixels and by features', 1),
}


def read_columns(measures: Any) -> dict[str, float | None]:
    """Find the numbers of the table in measures.json; None where there is none."""
    names = ('image', 'texture', 'mask')
    image, texture, mask = (measures['fidelity'][name] for name in names)
    spectra, alignment = measures['spectra']['synthetic'], measures['alignment']
    nearness, detail = measures['memorisation'], measures['detail']['synthetic']
    return {
        'FD': _over_real(image['frechet']),
        'FD texture': _over_real(texture['frechet']),
        'FD mask': _over_real(mask['frechet']),
        'prec': image['precision']['value'],
        'rec': image['recall']['value'],
        'cov': image['coverage']['value'],
        'fine': detail['power'][OCTAVES[3]],
        'mid': detail['power'][OCTAVES[2]],
        'steps': detail['seams'],
        'bands': detail['correlation'],
        'form': detail['structure'],
        'lines': detail['boundary'],
        'mSAD': spectra['msad'],
        'gain': spectra['gain'],
        'spread': spectra['spread'],
        'NDVI': spectra['index_shift'].get('ndvi'),
        'area': measures['area']['total_variation'],
        'gone': len(measures['area']['missing']),
        'judge': alignment['calibrated'],
        'edges': alignment['edges']['calibrated'],
        'LDA': alignment['spectrum']['calibrated'],
        'near': nearness['pixels']['share'],
        'alarm': sum(nearness[name]['alarm'] for name in ('pixels', 'features')),
    }


def _over_real(distance: Mapping[str, float]) -> float:
    return distance['value'] / max(distance['floor'], distance['held_out'])


def plant(
    pairs: list[Pair], training: TileDataset, spec: SampleSpec
) -> dict[str, list[Pair]]:
    """Each fault, as many pairs as without."""
    random = torch.Generator().manual_seed(0)
    count = len(pairs)
    images, masks = [list(side) for side in zip(*pairs, strict=True)]
    whole, seen = torch.stack(images), training.spread(_SEEN).images
    others = masks[count // 3 :] + masks[: count // 3]
    swapped = list(range(spec.num_bands))
    red, _, blue = spec.rgb
    swapped[red], swapped[blue] = blue, red
    beside = whole.clone()
    beside[:, red] = beside[:, red].roll(1, -1)
    copies = [cut_training(training, random) for _ in range(count // 5)]
    drawn = torch.randint(max(count // 20, 2), (count,), generator=random)

    def moved(pixels: int) -> list[Pair]:
        return [(image, move(mask, pixels)) for image, mask in pairs]

    def together(changed: Tensor) -> list[Pair]:
        return list(zip(changed, masks, strict=True))

    return {
        'none (real pairs)': pairs,
        'a fifth copied from training': copies + pairs[count // 5 :],
        'masks shuffled': list(zip(images, others, strict=True)),
        'masks moved by 2 pixels': moved(2),
        'masks moved by 8 pixels': moved(8),
        'red and blue swapped': together(whole[:, swapped]),
        'red moved by 1 pixel': together(beside),
        'gain of 10 %': together(whole * 1.1),
        'blurred (sigma 1 pixel)': together(gaussian_blur(whole, 7, 1.0)),
        'averaged over 4 x 4 pixels': together(average_blocks(whole)),
        'eight components of 4 x 4 pixels': together(keep_components(whole, seen)),
        'noise of a tenth': together(add_noise(whole)),
        'grid of period 4': together(add_grid(whole)),
        'phases at random': together(randomise_phases(whole)),
        'one class missing': leave_out(pairs, spec.num_classes),
        'collapsed to a twentieth': [pairs[i] for i in drawn.tolist()],
    }


def average_blocks(images: Tensor, side: int = 4) -> Tensor:
    """Images (N, C, H, W) in cells of one colour each."""
    cells = avg_pool2d(images, side)
    return cells.repeat_interleave(side, -1).repeat_interleave(side, -2)


def keep_components(
    images: Tensor, training: Tensor, count: int = 8, side: int = 4
) -> Tensor:
    """Images (N, C, H, W) in cells of a few principal components of training images."""
    rows = pixel_unshuffle(training, side).movedim(1, -1).flatten(0, 2)
    middle = rows.mean(0)
    basis = torch.pca_lowrank(rows - middle, count, center=False, niter=4)[2]
    cells = pixel_unshuffle(images, side).movedim(1, -1) - middle
    kept = cells @ basis @ basis.T + middle
    return pixel_shuffle(kept.movedim(-1, 1), side)


def add_noise(images: Tensor, share: float = 0.1) -> Tensor:
    """Images (N, C, H, W) with a share of each band's spread as noise of its own."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=random)
    return images + share * images.std((0, 2, 3), keepdim=True) * noise


def add_grid(images: Tensor, share: float = 0.1, period: int = 4) -> Tensor:
    """Images (N, C, H, W) with brighter lines, a share of each band's spread."""
    lines = torch.zeros(images.shape[-2:])
    lines[::period] += 1
    lines[:, ::period] += 1
    return images + share * images.std((0, 2, 3), keepdim=True) * lines


def randomise_phases(images: Tensor) -> Tensor:
    """Random fields (N, C, H, W) with the spectra and band correlations of images."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(len(images), 1, *images.shape[-2:], generator=random)
    turn = torch.fft.fft2(noise)
    middle = images.mean((2, 3), keepdim=True)
    turned = torch.fft.fft2(images - middle) * turn / turn.abs()
    return torch.fft.ifft2(turned).real + middle


def move(mask: Tensor, pixels: int) -> Tensor:
    """Move a mask (H, W) to the right; what enters mirrors its border."""
    wide = pad(mask[None].float(), (pixels, 0), mode='reflect')[0]
    return wide[:, : mask.shape[1]].long()


def turn(pair: Pair, number: int) -> Pair:
    """One of eight flips and quarter turns."""
    image, mask = (part.rot90(number % 4, (-2, -1)) for part in pair)
    return (image.flip(-1), mask.flip(-1)) if number >= 4 else (image, mask)


def cut_training(tiles: TileDataset, random: torch.Generator) -> Pair:
    """Copy a window of a training sample from anywhere, turned."""

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=random))

    sample = tiles.dataset[draw(len(tiles.dataset))]
    height, width = tiles.size
    top, left = (
        draw(whole - side + 1)
        for whole, side in zip(sample['mask'].shape, tiles.size, strict=True)
    )
    window = (..., slice(top, top + height), slice(left, left + width))
    return turn((sample['image'][window], sample['mask'][window]), draw(8))


def leave_out(pairs: list[Pair], classes: int) -> list[Pair]:
    """Let the rarest class be overgrown by what is nearest, in image and mask.

    Pairs of nothing else give way to others, turned.
    """
    masks = torch.stack([mask for _, mask in pairs])
    areas = torch.stack([(masks == k).float().mean() for k in range(classes)])
    rarest = areas.where(areas >= _LEAST_AREA, 1).argmin()
    left = []
    for image, mask in pairs:
        lost = (mask == rarest).numpy()
        if not lost.all():
            nearest = distance_transform_edt(
                lost, return_distances=False, return_indices=True
            )
            rows, columns = torch.from_numpy(nearest).long()
            left.append((image[:, rows, columns], mask[rows, columns]))
    return [turn(left[i % len(left)], i // len(left)) for i in range(len(pairs))]


def measure_faults(
    real: Config,
    out: Path,
    size: int,
    count: int,
    updates: int,
    judge: Config | None = None,
) -> dict[str, Any]:
    """Measure real pairs with each fault.

    Args:
        real: The real datamodule, with a validation set that is not for training.
        out: Folder to write to.
        size: Side of the pairs in pixels.
        count: Most pairs to measure.
        updates: Most optimiser steps of a judge.
        judge: The task that judges are.

    Returns:
        Of each fault ``values``, ``reaction`` (the difference to real pairs) and
        ``lights``.
    """
    data = make_object(real, BaseDataModule)
    data.setup('fit')
    training, kept = (
        TileDataset(source, (size, size))
        for source in (data.train_dataset, data.val_dataset)
    )
    count = min(count, len(kept))
    pairs = [kept.cut(i * len(kept) // count) for i in range(count)]
    judges = out / 'judges'
    judges.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for number, (fault, faulty) in enumerate(plant(pairs, training, data.spec).items()):
        folder = write(faulty, out / f'{number:02d}', data.spec, fault)
        trust = out / f'{number:02d}-trust'
        trust.mkdir(exist_ok=True)
        # the same judges for all
        if not (trust / 'judges').exists():
            (trust / 'judges').symlink_to(judges.absolute())
        measure_pairs(folder, real, trust, judge=judge, updates=updates)
        measures = read_measures(trust)
        values = read_columns(measures)
        first = next(iter(found.values()))['values'] if found else values
        found[fault] = {
            'values': values,
            'reaction': {
                name: None if None in (value, first[name]) else value - first[name]
                for name, value in values.items()
            },
            'lights': {light.name: light[1:] for light in lights(measures)},
        }
    return found


def write(pairs: list[Pair], root: Path, spec: SampleSpec, fault: str) -> Path:
    """Write pairs as a generator would."""
    settings = {'fault': fault, 'count': len(pairs)}
    writer = PairWriter(root, spec, {'synthetic': False}, settings)
    writer.clean()
    done = writer.done()
    for index, (image, mask) in enumerate(pairs):
        if index not in done:
            name = f'{index:04d}'
            writer.write(name, image.numpy(), mask.numpy(), {'index': index})
    writer.finish(f'Real pairs with a fault: {fault}.\n')
    return root


def table(found: Mapping[str, Any]) -> str:
    """Show all values as Markdown, bold what reacts."""
    names = list(next(iter(found.values()))['lights'])
    head = ['fault', *COLUMNS, *names]
    rows = [head, ['---'] * len(head)]
    for fault, row in found.items():
        cells = [fault]
        for name, column in COLUMNS.items():
            value, change = row['values'][name], row['reaction'][name]
            text = '-' if value is None else f'{value:.3g}'
            bold = change is not None and abs(change) >= column.noticed
            cells.append(f'**{text}**' if bold else text)
        rows.append([*cells, *(row['lights'][name][0] for name in names)])
    legend = '; '.join(
        f'*{name}*: {column.meaning} ({column.noticed:g})'
        for name, column in COLUMNS.items()
    )
    lines = [f'| {" | ".join(row)} |' for row in rows]
    note = 'Bold: off the first row by the number in brackets or more'
    return '\n'.join([*lines, '', f'{note}. {legend}.', ''])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', nargs='?', type=Path, help='folder of pairs; or scenes')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--size', type=int, default=64, help='side of a pair, pixels')
    parser.add_argument('--count', type=int, default=200, help='most pairs to measure')
    parser.add_argument('--updates', type=int, default=1600, help='most of a judge')
    options = parser.parse_args()
    out, root = options.out, options.data
    if root is None:
        root = out / 'scenes'
        write_scenes(root, SCENES, options.size)
    arguments = {
        'root': str(root.absolute()),
        'batch_size': 16,
        'patch_size': options.size,
        # the validation split of a small data set has too few pairs
        'fold': [0, 3],
    }
    real = {
        'class_path': 'torchgeo_specdm.PairFolderDataModule',
        'init_args': arguments,
    }
    found = measure_faults(real, out, options.size, options.count, options.updates)
    write_text(out / 'faults.json', json.dumps(found, indent=2) + '\n')
    write_text(out / 'faults.md', table(found))
    print(f'Written to {out}.')


if __name__ == '__main__':
    main()
