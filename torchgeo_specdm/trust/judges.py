# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks trained on real pairs that judge others, each on pairs it never saw."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torchgeo.datamodules import NonGeoDataModule

from ..codecs import load_state
from ..datamodules.subset import SubsetDataModule
from ..files import CONFIG, read_json, save_module
from ..objects import Config, make_object
from ..pairs.spec import SampleSpec
from ..tasks.support.progress import StepProgressBar
from ..tasks.support.trainer import small_trainer


class Judges(nn.Module):
    """Cross-fitted networks: number k has not seen the places of fold k.

    Args:
        networks: Take normalised images and give class scores (B, K, H, W).
        mean: Mean of each band that they were trained with, (C,).
        std: Standard deviation of each band, (C,).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, networks: Sequence[nn.Module], mean: Tensor, std: Tensor
    ) -> None:
        """Keep the networks, frozen."""
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer('mean', mean.float().reshape(-1, 1, 1))
        self.register_buffer('std', std.float().reshape(-1, 1, 1))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Log of the mean probability that the networks give to each class.

        Args:
            images: Normalised with :attr:`mean` and :attr:`std`, (B, C, H, W) or
                (B, T, C, H, W).

        Returns:
            (B, K, H, W).
        """
        chances = [network(images).softmax(1) for network in self.networks]
        return torch.stack(chances).mean(0).clamp(min=1e-9).log()

    @torch.no_grad()
    def read(self, images: Tensor, folds: Tensor | None = None) -> Tensor:
        """Read the classes in images.

        Args:
            images: Digital numbers (B, C, H, W), or (B, T, C, H, W) with T dates.
            folds: Fold of each image (B,), read by the one network that never saw
                it; None for images that no network saw, which all of them read.

        Returns:
            Class positions, int64 (J, B, H, W), of one reader or of all.
        """
        images = (images.float() - self.mean) / self.std
        if folds is None:
            return torch.stack([network(images).argmax(1) for network in self.networks])
        shape = (len(images), *images.shape[-2:])
        read = torch.zeros(shape, dtype=torch.long, device=images.device)
        for number, network in enumerate(self.networks):
            own = folds == number
            if own.any():
                read[own] = network(images[own]).argmax(1)
        return read[None]


def share_places(places: Sequence[int], folds: int) -> list[int]:
    """Share places between folds, so that these have about equally many samples.

    Args:
        places: The place of each sample.
        folds: Number of folds.

    Returns:
        The fold of each sample; samples of one place have one fold.

    Raises:
        ValueError: If there are fewer places than folds.
    """
    sizes = Counter(places)
    if not 2 <= folds <= len(sizes):
        raise ValueError(
            f'folds={folds} must be from 2 to {len(sizes)}, the number of places of '
            'the training samples: a judge needs places that it never saw. Use 2.'
        )
    filled, fold_of = [0] * folds, {}
    for place, size in sizes.most_common():
        fold_of[place] = filled.index(min(filled))
        filled[fold_of[place]] += size
    return [fold_of[place] for place in places]


def train_judges(
    real: NonGeoDataModule,
    folds: Sequence[int],
    network: Config,
    updates: int,
    out: Path,
    strategy: Strategy,
    settings: Mapping[str, Any],
    spec: SampleSpec,
) -> None:
    """Train what is missing of the judges, one for each fold.

    Each process trains them all, since Lightning waits for all processes when any of
    them begins a run; the first one writes.

    Args:
        real: The real data.
        folds: Fold of each training sample.
        network: The task that each judge is, ``class_path`` and ``init_args``.
        updates: Optimiser steps of each.
        out: Folder to write them to.
        strategy: Of the trainer that the judges are for.
        settings: Arguments of the trainer of the judges.
        spec: What the samples are.

    Raises:
        RuntimeError: If a judge took fewer steps.
    """
    count = max(folds) + 1
    config = {'network': network, 'updates': updates, 'folds': list(folds)}
    missing = [k for k in range(count) if not _is_trained(out / str(k), config)]
    # all must have looked before the first one writes
    strategy.barrier()
    device = strategy.root_device
    given = {
        'accelerator': device.type,
        'devices': 1 if device.index is None else [device.index],
        **settings,
    }
    for number in missing:
        seen = [i for i, fold in enumerate(folds) if fold != number]
        with isolate_rng():
            seed_everything(number, workers=True, verbose=False)
            task = _make_judge(network, spec)
            bar = StepProgressBar(f'judge {number + 1} of {count}')
            bars = [bar] if strategy.is_global_zero else []
            run = small_trainer(updates, given, bars)
            run.fit(task, datamodule=SubsetDataModule(real, seen))
        # Lightning passes over an empty loader, and any task may be a judge
        if run.global_step < updates:
            raise RuntimeError(
                f'Judge {number + 1} took {run.global_step} of {updates} optimiser '
                'steps: one that has not learned tells nothing. Remove limits of its '
                'trainer, or add training samples.'
            )
        if strategy.is_global_zero:
            save_module(out / str(number), config, task)
    strategy.barrier()


def _is_trained(folder: Path, config: Mapping[str, Any]) -> bool:
    path = folder / CONFIG
    return path.exists() and read_json(path) == config


def _make_judge(network: Config, spec: SampleSpec) -> LightningModule:
    """A task, which has to be told its sizes: most datamodules have no spec."""
    sizes = {'in_channels': spec.num_bands, 'num_classes': spec.num_classes}
    given = network.get('init_args', {})
    sizes = {name: size for name, size in sizes.items() if name not in given}
    return make_object(network, LightningModule, **sizes)


def load_judges(
    out: Path, count: int, spec: SampleSpec, mean: Tensor, std: Tensor
) -> Judges:
    """Read what :func:`train_judges` wrote.

    Args:
        out: The folder.
        count: Number of judges.
        spec: What the samples are.
        mean: Mean of each band of the real data.
        std: Standard deviation of each band.

    Returns:
        The judges.
    """
    networks = []
    for folder in (out / str(number) for number in range(count)):
        task = _make_judge(read_json(folder / CONFIG)['network'], spec)
        load_state(task, folder)
        networks.append(task)
    return Judges(networks, mean, std)
