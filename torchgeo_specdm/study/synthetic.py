# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The synthetic samples that a study needs: learned, drawn and kept in its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchgeo.datamodules import NonGeoDataModule

from ..codecs import CODECS
from ..datamodules.support.adapter import describe_datamodule
from ..datamodules.support.mixing import decimal
from ..objects import make_object
from ..pairs.export import write_real_pairs
from ..pairs.manifest import read_manifest
from ..presets import named_generator
from ..tasks.support.trainer import fast_bfloat16
from ..trust.relabel import relabel
from .configs import subset_config
from .controls import make_controls
from .design import FROM_PAIRS, Cell, Study
from .stages import draw_pairs, learn_stage

_REAL_CARD = 'Real training samples of a study, for variations and new images.\n'


class SyntheticSets:
    """Makes generators and folders of pairs when a run first needs them.

    Args:
        study: The study that is run.
        real_count: Number of real training samples that a size stands for.
    """

    def __init__(self, study: Study, real_count: Callable[[int], int]) -> None:
        """Keep the arguments."""
        self.study = study
        self.real_count = real_count

    def count(self, cell: Cell) -> int:
        """Synthetic samples that a cell uses."""
        # rounded as in the mix: 0.29 of 100 is 29
        return int(decimal(cell.ratio) * self.real_count(cell.size))

    def folder(self, cell: Cell) -> Path:
        """The pairs of a cell, drawn if they are not there.

        Args:
            cell: A cell of an arm with a generator.

        Returns:
            A folder of pairs, with as many as any cell needs that shares it.
        """
        arm = self.study.arm(cell)
        if arm.source == 'joint':
            return self._joint(cell)
        out, real = self._home(cell) / self._name(cell), self._real(cell)
        count, subset = self._shared_count(cell), self.study.subset(cell)
        if arm.source == 'vary':
            source = {'vary': str(real), 'strength': arm.strength}
            return draw_pairs(self.generator(cell), out, count, subset, **source)
        if arm.source == 'masks':
            return draw_pairs(self.generator(cell), out, count, subset, masks=str(real))
        reference = None
        if arm.source == 'reconstructed':
            reference = self.generator(cell)
        elif arm.source != 'quilts':
            reference = self._joint(cell)
        return make_controls(arm.source, real, out, count, subset, reference)

    def generator(self, cell: Cell) -> Path:
        """The generator of a cell, learned if it is not there.

        Args:
            cell: A cell of an arm with a generator.

        Returns:
            The folder of stage 2, learned from the labels that the protocol allows.
        """
        study, arm = self.study, self.study.arm(cell)
        recipe = study.generators[str(arm.generator)]
        if recipe.folder is not None:
            return Path(recipe.folder)
        size = cell.size if study.protocol == 'same_labels' else 0
        subset, out = study.subset(cell), self._pool(cell) / str(arm.generator)
        data = subset_config(study.data, size, subset)
        codec, settings = named_generator(recipe.codec, recipe.settings)
        plan = {
            'steps': {'autoencoder': recipe.autoencoder, 'diffusion': recipe.diffusion},
            'precision': 'bf16-mixed' if fast_bfloat16() else '32-true',
            'passes': recipe.passes,
            'latent_batch_size': recipe.batch_size,
            'preset': recipe.preset,
            'spec': study.spec,
            'settings': settings,
        }
        if CODECS[codec].trainable:
            codec_folder = learn_stage('autoencoder', codec, data, out, plan, subset)
            return learn_stage('diffusion', str(codec_folder), data, out, plan, subset)
        return learn_stage('diffusion', codec, data, out, plan, subset)

    def _joint(self, cell: Cell) -> Path:
        """The pairs of the generator of a cell, for its own arms and their controls."""
        study, generator = self.study, str(self.study.arm(cell).generator)
        brought = study.generators[generator].pairs
        if brought is not None:
            return Path(brought)
        pool = self._pool(cell)
        count = max(
            self.count(other)
            for other in study.cells()
            if study.arm(other).generator == generator
            and study.arm(other).source in FROM_PAIRS
            and self._pool(other) == pool
        )
        out = pool / f'{generator}-joint'
        return draw_pairs(self.generator(cell), out, count, study.subset(cell))

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """A cell for each folder of pairs that has not all that it should have.

        Args:
            cells: Cells of the study.

        Returns:
            The first of the cells that share the folder.
        """
        firsts: dict[Any, Cell] = {}
        for cell in cells:
            key = self._key(cell)
            if key is not None and not self._brought(cell):
                firsts.setdefault(key, cell)
        return [cell for cell in firsts.values() if not self._complete(cell)]

    def relabelled(
        self,
        cell: Cell,
        folder: Path,
        updates: int,
        train: Callable[[], tuple[Any, Any, Any]],
    ) -> Path:
        """The pairs of a cell with the masks that a network reads in the images.

        Args:
            cell: A cell of the study.
            folder: The pairs of the cell.
            updates: Optimiser steps of the network.
            train: Trains and gives the network, the datamodule that it was trained on,
                and more.

        Returns:
            A folder of pairs.
        """
        # what a network reads depends on the real samples that it saw, also where the
        # pairs do not
        name = f'{self._name(cell)}-read-by-{cell.model}-{cell.seed}-{updates}'
        out = self._unit(cell) / name
        if not (out / 'README.md').exists():
            task, datamodule, _ = train()
            by = f'{cell.model}, trained on real samples, seed {cell.seed}'
            relabel(folder, out, task, datamodule.mean, datamodule.std, by)
        return out

    def _brought(self, cell: Cell) -> bool:
        """Whether the user has the pairs of a cell already."""
        arm = self.study.arm(cell)
        if arm.generator is None or arm.source != 'joint':
            return False
        return self.study.generators[arm.generator].pairs is not None

    def _complete(self, cell: Cell) -> bool:
        """Whether all pairs of a cell are drawn."""
        folder = self._home(cell) / self._name(cell)
        # the card comes last, but a study may have grown since; a rejected sample has
        # its line too
        drawn = (folder / 'README.md').exists()
        return drawn and len(read_manifest(folder)) >= self._shared_count(cell)

    def _shared_count(self, cell: Cell) -> int:
        """The most pairs that any cell needs of the folder of this one."""
        key = self._key(cell)
        return max(self.count(c) for c in self.study.cells() if self._key(c) == key)

    def _real(self, cell: Cell) -> Path:
        """The real training samples of a cell as a folder of pairs."""
        study, subset = self.study, self.study.subset(cell)
        out = self._unit(cell) / 'real'
        if (out / 'README.md').exists():
            return out
        config = subset_config(study.data, cell.size, subset)
        datamodule: Any = make_object(config, NonGeoDataModule)
        datamodule.prepare_data()
        datamodule.setup('fit')
        spec = describe_datamodule(datamodule, study.spec)
        settings = {'size': cell.size, 'subset': subset}
        sets = {'train': datamodule.train_dataset}
        return write_real_pairs(out, spec, sets, settings, _REAL_CARD)

    def _key(self, cell: Cell) -> Any:
        """The key that cells with one folder of pairs share; None without any."""
        if not self.study.arm(cell).synthetic:
            return None
        return self._home(cell), self._name(cell)

    def _name(self, cell: Cell) -> str:
        """Of the pairs of a cell."""
        arm = self.study.arm(cell)
        strength = f'-{arm.strength:g}' if arm.source == 'vary' else ''
        return f'{arm.generator or "real"}-{arm.source}{strength}'

    def _home(self, cell: Cell) -> Path:
        """Where the pairs of a cell are kept."""
        joint = self.study.arm(cell).source == 'joint'
        return self._pool(cell) if joint else self._unit(cell)

    def _unit(self, cell: Cell) -> Path:
        size, subset = self.study.unit(cell)
        return self.study.out / 'sets' / f'{size or "all"}-{subset}'

    def _pool(self, cell: Cell) -> Path:
        """Where generators are kept that see what the protocol allows."""
        if self.study.protocol == 'same_labels':
            return self._unit(cell)
        return self.study.out / 'sets' / f'pool-{self.study.subset(cell)}'
