# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What a study needs, made without training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchgeo_specdm import Generator, PairFolderDataModule, SampleSpec
from torchgeo_specdm.codecs import Codec, make_codec
from torchgeo_specdm.pairs.fingerprint import write_seen_samples
from torchgeo_specdm.pairs.tiles import TileDataset
from torchgeo_specdm.pairs.writer import PairWriter
from torchgeo_specdm.presets import generator_settings, load_preset

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def open_data(folder: Path) -> PairFolderDataModule:
    """A real datamodule, set up."""
    datamodule = PairFolderDataModule(str(folder), batch_size=8)
    datamodule.setup('fit')
    datamodule.setup('test')
    return datamodule


def pixel_codec(real: PairFolderDataModule, spec: SampleSpec | None = None) -> Codec:
    """A codec that loses nothing."""
    codec = make_codec('pixels', spec or real.spec, {'fold': 4})
    tiles = TileDataset(real.train_dataset, (32, 32)).spread(512)
    codec.fit_scaling(tiles.images.flatten(0, -4))
    # nothing is clipped
    codec.half_range *= 2
    codec.fit_statistics([{'image': tiles.images, 'mask': tiles.masks}])
    return codec


def write_generator(codec: Codec, settings: dict[str, Any], out: Path) -> Path:
    """The folder of an untrained generator."""
    preset = generator_settings(load_preset('tiny', settings), codec.name)
    config = {
        'stage': 'diffusion',
        **preset,
        'patch_size': [32, 32],
        'training': {'samples': 16, 'updates': 0, 'datamodule': 'PairFolderDataModule'},
    }
    generator = Generator.build(codec, config)
    # before training it says nothing, whatever the noise
    nn.init.normal_(generator.denoiser.network.conv_out.weight, std=0.02)
    generator.save(out)
    # it saw no sample of any test
    write_seen_samples(out, ['0123456789abcdef'])
    return out


def write_changed(
    real: PairFolderDataModule,
    out: Path,
    change: Change,
    spec: SampleSpec | None = None,
) -> Path:
    """The training pairs, changed, as if they had been generated."""
    writer = PairWriter(out, spec or real.spec, {}, {})
    for i in range(len(real.train_dataset)):
        sample = real.train_dataset[i]
        image, mask = change(sample['image'], sample['mask'])
        writer.write(f'{i:03d}', image.numpy(), mask.numpy(), {'index': i})
    writer.finish('A test.')
    return out
