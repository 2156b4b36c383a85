# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks trained on real pairs that judge others, each on pairs it never saw."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from ..codecs import load_state
from ..datamodules.subset import SubsetDataModule
from ..files import CONFIG, read_json, save_module
from ..metrics.segmentation import SegmentationScores
from ..objects import Config, make_object
from ..pairs.spec import SampleSpec
from ..pairs.valid import fill_missing, labelled_pixels
from ..tasks.support.plateau import Curve, CurveFile, doublings, enough_updates
from ..tasks.support.progress import StepProgressBar
from ..tasks.support.trainer import small_trainer
from .datamodule import TrustDataModule

#: The first training of a judge is this part of the longest.
_SHORTEST = 8


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
        images = fill_missing((images.float() - self.mean) / self.std)
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


@dataclass(frozen=True)
class JudgeTraining:
    """Trains what is missing of the judges, one for each fold.

    The first one trains for twice as long, again and again, until it reads the places
    of its own fold no better; the others train for as long as was enough for it.

    Each process trains them all, since Lightning waits for all processes when any of
    them begins a run; the first one writes.

    Attributes:
        data: Both sides, set up; judges learn from the training samples.
        folds: Fold of each training sample.
        network: The task that each judge is, ``class_path`` and ``init_args``.
        updates: Most optimiser steps of a judge.
        out: Folder to write them to.
        strategy: Strategy of the trainer that the judges are for.
        settings: Arguments of the trainer of the judges.
    """

    data: TrustDataModule
    folds: Sequence[int]
    network: Config
    updates: int
    out: Path
    strategy: Strategy
    settings: Mapping[str, Any]

    def run(self) -> Curve:
        """Train them.

        Returns:
            Updates and scores of the first judge, in 0..1: mIoU, or with several dates
            F1 of change.

        Raises:
            RuntimeError: If a judge took fewer steps.
        """
        config = {
            'network': self.network,
            'updates': self.updates,
            'folds': list(self.folds),
        }
        folders = [self.out / str(k) for k in range(max(self.folds) + 1)]
        missing = [k for k, path in enumerate(folders) if not _is_trained(path, config)]
        curve: Curve = []
        if 0 not in missing:
            curve = read_json(folders[0] / CONFIG, CurveFile)['curve']
        # all must have looked before the first one writes
        self.strategy.barrier()
        tried: dict[int, LightningModule] = {}

        def attempt(updates: int) -> float:
            tried[updates] = self._train(0, updates)
            # all processes must agree on what comes next
            return self.strategy.broadcast(self._score(tried[updates]))

        if 0 in missing:
            first = max(self.updates // _SHORTEST, 1)
            for _ in doublings(attempt, first, self.updates, curve):
                pass
        updates = enough_updates(curve)
        for number in missing:
            task = self._train(number, updates) if number else tried[updates]
            if self.strategy.is_global_zero:
                save_module(folders[number], config | {'curve': curve}, task)
        self.strategy.barrier()
        return curve

    def _train(self, number: int, updates: int) -> LightningModule:
        device = self.strategy.root_device
        given = {
            'accelerator': device.type,
            'devices': 1 if device.index is None else [device.index],
            **self.settings,
        }
        seen = [i for i, fold in enumerate(self.folds) if fold != number]
        title = f'judge {number + 1} of {max(self.folds) + 1}, {updates} updates'
        bars = [StepProgressBar(title)] if self.strategy.is_global_zero else []
        with isolate_rng():
            seed_everything(number, workers=True, verbose=False)
            task = _make_judge(self.network, self.data.spec)
            run = small_trainer(updates, given, bars)
            run.fit(task, datamodule=SubsetDataModule(self.data.real, seen))
        # Lightning passes over an empty loader, and any task may be a judge
        if run.global_step < updates:
            raise RuntimeError(
                f'Judge {number + 1} took {run.global_step} of {updates} optimiser '
                'steps: one that has not learned tells nothing. Remove limits of its '
                'trainer, or add training samples.'
            )
        return task

    def _score(self, task: LightningModule) -> float:
        """Score of the first judge on the fold that it never saw."""
        data, tiles = self.data, self.data.tiles['train']
        device = self.strategy.root_device
        judge = Judges([task], data.mean, data.std).to(device)
        classes = data.spec.num_classes
        score = SegmentationScores(classes, ignore_index=-1).to(device)
        unseen = [
            index
            for index in range(len(tiles))
            if not self.folds[tiles.sample_of(index)]
        ]
        for start in range(0, len(unseen), data.batch_size):
            cut = [
                tiles.cut(index) for index in unseen[start : start + data.batch_size]
            ]
            images, masks = (
                torch.stack(part).to(device) for part in zip(*cut, strict=True)
            )
            known = labelled_pixels(masks, classes)
            score.update(judge.read(images)[0], masks.where(known, -1))
        found = score.compute()
        value = found['class_f1'][1] if data.spec.dates > 1 else found['miou']
        return float(value.nan_to_num(0.0))


def _is_trained(folder: Path, config: Mapping[str, Any]) -> bool:
    path = folder / CONFIG
    return path.exists() and config.items() <= read_json(path, dict[str, Any]).items()


def _make_judge(network: Config, spec: SampleSpec) -> LightningModule:
    """A task, which has to be told its sizes: most datamodules have no spec."""
    sizes = {'in_channels': spec.num_bands, 'num_classes': spec.num_classes}
    given = network.get('init_args', {})
    sizes = {name: size for name, size in sizes.items() if name not in given}
    return make_object(network, LightningModule, **sizes)


def load_judges(
    out: Path, count: int, network: Config, spec: SampleSpec, mean: Tensor, std: Tensor
) -> Judges:
    """Read what :class:`JudgeTraining` wrote.

    Args:
        out: The folder.
        count: Number of judges.
        network: The task that each judge is: the folder holds weights alone, and does
            not say which code to run.
        spec: Description of the samples.
        mean: Mean of each band of the real data.
        std: Standard deviation of each band.

    Returns:
        The judges.
    """
    networks = []
    for folder in (out / str(number) for number in range(count)):
        task = _make_judge(network, spec)
        load_state(task, folder)
        networks.append(task)
    return Judges(networks, mean, std)
