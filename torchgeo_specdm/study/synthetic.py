# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The synthetic samples that a study needs: learned, drawn and kept in its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchgeo.datamodules import NonGeoDataModule

from ..codecs import CODECS
from ..datamodules.painting import require_change
from ..datamodules.support.adapter import describe_datamodule
from ..datamodules.support.mixing import decimal
from ..datamodules.support.mixing_checks import (
    HeldOut,
    hash_held_out,
    open_folder,
    require_no_leak,
)
from ..files import read_json, write_text
from ..objects import make_object
from ..pairs.export import write_real_pairs
from ..pairs.layout import DESCRIPTION
from ..presets import named_generator
from ..tasks.support.trainer import fast_bfloat16
from ..trust.relabel import relabel
from .configs import subset_config
from .controls import make_controls
from .design import Cell, Kind, Step, Study
from .stages import draw_pairs, learn_stage

_REAL_CARD = 'Real training samples of a study, for variations and new images.\n'
#: What pairs of each source are made of.
_NEEDS: dict[str, tuple[Kind, ...]] = {
    'joint': ('generator',),
    'masks': ('generator', 'real'),
    'vary': ('generator', 'real'),
    'change': ('generator', 'real'),
    'reconstructed': ('generator', 'real'),
    'blurred': ('joint', 'real'),
    'shifted': ('joint', 'real'),
    'quilts': ('real',),
}
#: Sources whose samples go a chosen distance from the real ones.
_STRENGTH = ('vary', 'change')


class SyntheticSets:
    """Makes generators and folders of pairs, step by step.

    Args:
        study: The study that is run.
        real: Gives the real datamodule.
    """

    def __init__(self, study: Study, real: Callable[[], NonGeoDataModule]) -> None:
        """Keep the arguments."""
        self.study = study
        self._real = real

    def count(self, cell: Cell) -> int:
        """Synthetic samples that a cell uses."""
        size = cell.size or len(self.fitted().train_dataset)  # type: ignore[arg-type]
        # rounded as in the mix: 0.29 of 100 is 29
        return int(decimal(cell.ratio) * size)

    def step(self, kind: Kind, cell: Cell) -> Step:
        """The step that makes something for a cell.

        Args:
            kind: The thing that is made: ``held_out``, ``real``, ``generator``, ``joint`` or
                ``pairs``.
            cell: A cell of an arm with synthetic samples.
        """
        return Step(kind, str(self.path(kind, cell)), cell)

    def pairs(self, cell: Cell) -> Step:
        """The step that makes the pairs of a cell."""
        joint = self.study.arm(cell).source == 'joint'
        return self.step('joint' if joint else 'pairs', cell)

    def path(self, kind: Kind, cell: Cell) -> Path:
        """Where a step leaves what it makes for a cell.

        Args:
            kind: One of the kinds that :meth:`step` takes.
            cell: A cell of an arm with synthetic samples.
        """
        if kind == 'held_out':
            return self.study.out / 'held_out.json'
        if kind == 'real':
            return self._unit(cell) / 'real'
        if kind == 'pairs':
            return self._unit(cell) / self._name(cell)
        generator = str(self.study.arm(cell).generator)
        recipe = self.study.generators[generator]
        if kind == 'joint':
            return Path(recipe.pairs or self._pool(cell) / f'{generator}-joint')
        return Path(recipe.folder or self._pool(cell) / generator / 'diffusion')

    def needs(self, step: Step) -> list[Step]:
        """The steps that must be done before one of these."""
        if step.kind not in ('joint', 'pairs'):
            return []
        source = self.study.arm(step.cell).source if step.kind == 'pairs' else 'joint'
        kinds = () if self._brought(step) else _NEEDS[source]
        return [self.step(kind, step.cell) for kind in ('held_out', *kinds)]

    def make(self, step: Step) -> None:
        """Do a step, if that is not done; all that it needs is there.

        Args:
            step: One that :meth:`step` gives.

        Raises:
            ValueError: If a generator has seen validation or test samples.
        """
        match step.kind:
            case 'held_out':
                # not kept from start to start: the samples may have changed
                found = hash_held_out(self.fitted())
                write_text(Path(step.name), json.dumps(found) + '\n')
            case 'real':
                self._export(step.cell)
            case 'generator':
                self._learn(step.cell)
            case _:
                if not self._brought(step):
                    self._draw(step)
                self._require_no_leak(step.cell, Path(step.name))

    def reading(self, cell: Cell, updates: int) -> Path:
        """Where the pairs of a cell lie with the masks that a network reads in them.

        Args:
            cell: A cell of the study.
            updates: Optimiser steps of the network.
        """
        # what a network reads depends on the real samples that it saw, also where the
        # pairs do not
        name = f'{self._name(cell)}-read-by-{cell.model}-{cell.seed}-{updates}'
        return self._unit(cell) / name

    def read(
        self, cell: Cell, updates: int, train: Callable[[], tuple[Any, Any, Any]]
    ) -> None:
        """Write the pairs of a cell with the masks that a network reads in the images.

        Args:
            cell: A cell of the study.
            updates: Optimiser steps of the network.
            train: Trains and gives the network, the datamodule that it was trained on,
                and more.
        """
        out = self.reading(cell, updates)
        if not (out / 'README.md').exists():
            task, datamodule, _ = train()
            by = f'{cell.model}, trained on real samples, seed {cell.seed}'
            pairs = Path(self.pairs(cell).name)
            relabel(pairs, out, task, datamodule.mean, datamodule.std, by)
        self._require_no_leak(cell, out)

    def unlabelled(self, cell: Cell) -> int:
        """Images without labels that the generator of a cell was trained on.

        Args:
            cell: A cell of an arm with synthetic samples, which are there.
        """
        path = Path(self.pairs(cell).name) / DESCRIPTION
        described = read_json(path, dict[str, Any]) if path.exists() else {}
        training = (described.get('provenance') or {}).get('training') or {}
        return int(training.get('unlabelled', 0))

    def _require_no_leak(self, cell: Cell, folder: Path) -> None:
        """Check pairs once, so that no run has to."""
        known = read_json(self.path('held_out', cell), HeldOut)
        require_no_leak(self._real(), open_folder(folder), known)

    def fitted(self) -> NonGeoDataModule:
        """The real datamodule with its data sets."""
        real = self._real()
        if real.train_dataset is None:
            real.prepare_data()
            real.setup('fit')
        return real

    def _learn(self, cell: Cell) -> None:
        """Learn a generator from the labels that the protocol allows."""
        study, name = self.study, str(self.study.arm(cell).generator)
        recipe = study.generators[name]
        if recipe.folder is not None:
            return
        uses = [arm.source for arm in study.arms.values() if arm.generator == name]
        if 'change' in uses:
            # before a training of hours, not when its first pair is drawn
            spec = describe_datamodule(self.fitted(), study.spec)
            require_change(spec, 'the data of the study have')
        size = cell.size if study.protocol == 'same_labels' else 0
        subset, out = study.subset(cell), self._pool(cell) / name
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
            codec = str(learn_stage('autoencoder', codec, data, out, plan, subset))
        learn_stage('diffusion', codec, data, out, plan, subset)

    def _draw(self, step: Step) -> None:
        """Draw or make as many pairs as any cell needs that shares their folder."""
        cell, out, subset = step.cell, Path(step.name), self.study.subset(step.cell)
        count = max(self.count(c) for c in self.study.cells() if self._uses(c, step))
        arm = self.study.arm(cell)
        real = str(self.path('real', cell))
        source: dict[str, Any] = {}
        if step.kind == 'pairs' and arm.source in _STRENGTH:
            source = {arm.source: real, 'strength': arm.strength}
        elif step.kind == 'pairs' and arm.source == 'masks':
            source = {'masks': real}
        elif step.kind == 'pairs':
            made = [kind for kind in _NEEDS[arm.source] if kind != 'real']
            reference = self.path(made[0], cell) if made else None
            make_controls(arm.source, Path(real), out, count, subset, reference)
            return
        draw_pairs(self.path('generator', cell), out, count, subset, **source)

    def _uses(self, cell: Cell, step: Step) -> bool:
        """Whether a cell trains on the pairs of a step, or on others made of them."""
        if not self.study.arm(cell).synthetic:
            return False
        own = self.pairs(cell)
        return step == own or step in self.needs(own)

    def _export(self, cell: Cell) -> None:
        """Write the real training samples of a cell as a folder of pairs."""
        study, subset = self.study, self.study.subset(cell)
        out = self.path('real', cell)
        if (out / 'README.md').exists():
            return
        config = subset_config(study.data, cell.size, subset)
        datamodule: Any = make_object(config, NonGeoDataModule)
        datamodule.prepare_data()
        datamodule.setup('fit')
        spec = describe_datamodule(datamodule, study.spec)
        settings = {'size': cell.size, 'subset': subset}
        sets = {'train': datamodule.train_dataset}
        write_real_pairs(out, spec, sets, settings, _REAL_CARD)

    def _brought(self, step: Step) -> bool:
        """Whether the user has the pairs of a step already."""
        if step.kind != 'joint':
            return False
        recipe = self.study.generators[str(self.study.arm(step.cell).generator)]
        return recipe.pairs is not None

    def _name(self, cell: Cell) -> str:
        """Of the pairs of a cell."""
        arm = self.study.arm(cell)
        strength = f'-{arm.strength:g}' if arm.source in _STRENGTH else ''
        return f'{arm.generator or "real"}-{arm.source}{strength}'

    def _unit(self, cell: Cell) -> Path:
        unit = f'{cell.size or "all"}-{self.study.subset(cell)}'
        return self.study.out / 'sets' / unit

    def _pool(self, cell: Cell) -> Path:
        """Where generators are kept that see what the protocol allows."""
        if self.study.protocol == 'same_labels':
            return self._unit(cell)
        return self.study.out / 'sets' / f'pool-{self.study.subset(cell)}'
