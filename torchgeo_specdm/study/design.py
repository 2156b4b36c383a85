# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The design of a study: models, arms, ratios, real sizes and seeds."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import ConfigDict

from ..choices import require_choice
from ..codecs import CODECS
from ..files import Count, Seed, check_json, read_yaml
from ..objects import Config
from ..presets import GENERATORS
from .controls import Control

#: The arm that every study has and that all others are compared with.
REAL = 'real only'
#: The real training samples that a run leaves out, as images without labels.
REST = 'rest'
#: Sources that need the pairs of a generator, not the generator itself.
FROM_PAIRS = ('joint', 'blurred', 'shifted')
#: Generators see the labels that the networks see, or (as in the paper) all of them.
Protocol = Literal['same_labels', 'all_labels']

#: Kinds of :class:`Step`.
Kind = Literal[
    'pilot', 'held_out', 'real', 'generator', 'joint', 'pairs', 'reading', 'run'
]

#: Most seeds that one number may stand for.
_MOST_SEEDS = 1000
#: A misspelt key would be lost in silence.
_STRICT = ConfigDict(extra='forbid')


class Cell(NamedTuple):
    """One training of the grid.

    Attributes:
        model: Name of the network.
        arm: Name of the arm.
        ratio: Synthetic samples for each real one; 0 in arms without any.
        size: Real training samples; 0 for all of them.
        seed: Seed of the initial weights and the order of the samples.
    """

    model: str
    arm: str
    ratio: float
    size: int
    seed: int

    @property
    def title(self) -> str:
        """A few words for people."""
        size = self.size or 'all'
        label = arm_label(self.arm, self.ratio)
        return f'{self.model}, {label}, {size} real pairs, seed {self.seed}'


#: Words for what a step makes, where its kind is none.
_MADE = {'held_out': 'samples held out', 'joint': 'pairs', 'real': 'real samples'}


@dataclass(frozen=True)
class Step:
    """One step of a study, done once for all cells that need it.

    Attributes:
        kind: The thing that is made: how long to train (``pilot``), hashes of the samples
            ``held_out`` of training, the ``real`` training samples as a folder of
            pairs, a ``generator``, the ``joint`` pairs that it draws, other ``pairs``,
            pairs with the masks that a network reads in them (``reading``), or a
            ``run``.
        name: Name that no other step of this kind has.
        cell: A cell that needs it; which one makes no difference.
    """

    kind: Kind
    name: str
    cell: Cell = field(compare=False)

    @property
    def title(self) -> str:
        """A few words for people."""
        if self.kind == 'run':
            return self.cell.title
        return f'{_MADE.get(self.kind, self.kind)}: {self.name}'


def arm_label(arm: str, ratio: float) -> str:
    """Name an arm for people, such as ``5x synthetic``."""
    return f'{ratio:g}x {arm}' if ratio else arm


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        generator: Name of the generator of synthetic samples; None for none.
        ratios: Synthetic samples for each real one, one run each.
        use: ``mix`` them with the real ones, ``pretrain`` on them for half of the
            updates and go on with the real ones, or train on them ``only``. Or take
            their images ``unlabelled`` for self-training, as those below.
        real_share: Share of real samples in each batch of a mix; None for an even mix,
            and for half of the batch beside images without labels.
        source: Pairs drawn ``joint``, images drawn for real ``masks``, variations of
            real pairs (``vary``), their masks kept, or ``change`` painted into real
            pairs of two dates. Or real pairs with one fault of the generator:
            ``reconstructed`` by its codec, ``blurred`` to its detail, or masks
            ``shifted`` as far as its borders are off. Or, without a generator,
            ``quilts`` stitched from real pairs.
        strength: Distance that variations and painted change go from the real image,
            above 0 and below 1, or for ``change`` 1, which forgets it.
        relabel: Whether the masks of synthetic samples are what the network reads that
            was trained on the real ones alone.
        batch_mix: ``cutmix`` or ``copy_paste`` within each real batch.
        longer: Multiple of the updates.
        unlabelled: Images without labels for self-training
            (:class:`~torchgeo_specdm.SelfTraining`): folders of images or of pairs, and
            ``rest`` for the real training samples beyond the size of the run, their
            masks not looked at.
        nearest: Number of images without labels to retrieve from *unlabelled*, those
            that resemble a labelled one most; None for all of them.
    """

    __pydantic_config__: ClassVar = _STRICT

    generator: str | None = None
    ratios: tuple[float, ...] = ()
    use: Literal['mix', 'pretrain', 'only', 'unlabelled'] = 'mix'
    real_share: float | None = None
    source: Literal['joint', 'masks', 'vary', 'change'] | Control = 'joint'
    strength: float = 0.6
    relabel: bool = False
    batch_mix: Literal['cutmix', 'copy_paste'] | None = None
    longer: float = 1.0
    unlabelled: tuple[str, ...] = ()
    nearest: int | None = None

    @property
    def synthetic(self) -> bool:
        """Whether there are synthetic samples in it."""
        return self.generator is not None or self.source == 'quilts'

    def check(self, name: str, generators: Mapping[str, Any]) -> None:
        """Refuse an arm that contradicts itself.

        Args:
            name: Name of the arm.
            generators: The recipes of the study by name.

        Raises:
            ValueError: With the value, the rule and the remedy.
        """
        if self.generator is not None and self.generator not in generators:
            raise ValueError(
                f'arm {name!r} draws from generator={self.generator!r}, but the '
                f'generators are {list(generators)}. Add it, or use one of these.'
            )
        if self.source == 'quilts' and self.generator is not None:
            raise ValueError(
                f'arm {name!r} has source={self.source!r} and generator='
                f'{self.generator!r}, but quilts are stitched from real pairs alone. '
                'Leave the generator out.'
            )
        ratios, synthetic = list(self.ratios), self.synthetic
        if synthetic != bool(ratios):
            raise ValueError(
                f'arm {name!r} has generator={self.generator!r} and ratios={ratios}, '
                'but synthetic samples and ratios need each other. Give both or none.'
            )
        if not all(0 < x < math.inf for x in ratios) or len({*ratios}) < len(ratios):
            raise ValueError(
                f'arm {name!r} has ratios={ratios}, but all must be different numbers '
                'above 0. Use for example [1, 3, 5].'
            )
        plain = self.use == 'mix' and self.source == 'joint' and not self.relabel
        if not synthetic and not (plain and (self.unlabelled or not self.real_share)):
            raise ValueError(
                f'arm {name!r} has no generator, but use, source, relabel or '
                'real_share speak of synthetic samples. Name a generator.'
            )
        if not 0 < self.strength <= 1 or (self.source, self.strength) == ('vary', 1):
            raise ValueError(
                f'arm {name!r} has strength={self.strength}, but it must lie above 0 '
                'and below 1 (change may have 1). Use 0.6, which keeps large shapes.'
            )
        recipe = generators.get(self.generator or '')
        paired = recipe and recipe.pairs and not recipe.folder
        if paired and self.source not in FROM_PAIRS:
            raise ValueError(
                f'arm {name!r} has source={self.source!r}, but of generator '
                f'{self.generator!r} only the pairs are there. Give its folder.'
            )
        if not 0 < self.longer < math.inf:
            raise ValueError(
                f'arm {name!r} has longer={self.longer}, but it must be a number above '
                '0. Use 2 for twice the updates.'
            )
        if self.use == 'unlabelled' and self.relabel:
            raise ValueError(
                f'arm {name!r} has use={self.use!r} and relabel={self.relabel}, but '
                'self-training looks at no mask. Leave relabel out.'
            )
        if self.nearest is not None and (self.nearest < 1 or not self.unlabelled):
            raise ValueError(
                f'arm {name!r} has nearest={self.nearest} and unlabelled='
                f'{list(self.unlabelled)}, but it takes 1 or more of the images of '
                'unlabelled. Give both, or leave nearest out.'
            )
        alone = {'batch_mix': self.batch_mix, 'unlabelled': list(self.unlabelled)}
        given = [f'{key}={value!r}' for key, value in alone.items() if value]
        if len(given) + synthetic > 1:
            beside = ' beside a generator' if synthetic else ''
            raise ValueError(
                f'arm {name!r} has {" and ".join(given)}{beside}, but a rival must '
                'stand alone. Use two arms.'
            )


@dataclass(frozen=True)
class Recipe:
    """The ways to come by a generator.

    Attributes:
        pairs: Folder of pairs that it drew, if they are there already.
        folder: Folder that stage 2 wrote, if it is there already.
        codec: Name of a codec to learn one here, or of one of the
            :data:`~torchgeo_specdm.presets.GENERATORS`.
        preset: Preset of :class:`~torchgeo_specdm.SpecDMTask`.
        settings: Settings that replace parts of the preset.
        autoencoder: Steps of stage 1.
        diffusion: Steps of stage 2.
        passes: Augmented passes over the training set that stage 2 learns from.
        batch_size: Batch size of stage 2.
    """

    __pydantic_config__: ClassVar = _STRICT

    pairs: str | None = None
    folder: str | None = None
    codec: str = 'two_stream'
    preset: str = 'tiny'
    settings: Config = field(default_factory=dict)
    autoencoder: int = 1500
    diffusion: int = 3000
    passes: int = 20
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse a name that nothing is made of."""
        require_choice('codec', self.codec, [*CODECS, *GENERATORS])


@dataclass(frozen=True)
class Study:
    """A study, as its YAML says.

    Attributes:
        out: Folder of results.
        data: The real datamodule, ``class_path`` and ``init_args``.
        models: The tasks by name, each with ``class_path`` and ``init_args``.
        arms: The ways to train by name; ``real only`` is always one.
        generators: The recipes of the generators by name.
        sizes: Numbers of real training samples; 0 for all.
        seeds: Seeds of the networks: initial weights and order.
        subsets: Number of real subsets, each with generators of its own; a seed uses
            the subset of its remainder.
        updates: Optimiser steps of each run.
        most_updates: If more than *updates*: double these until real-only stops rising
            on validation (two doublings add less than a point), up to this many.
        folds: Validate on each of so many parts of the training and validation samples
            in turn while doubling, and take the mean; 0 for the validation split.
        budget: Equal ``updates`` for all arms, or equal ``epochs``: an arm of ratio r
            then has 1 + r times as many updates, which favours it.
        protocol: Whether generators see the ``same_labels`` as the networks, or
            ``all_labels`` of the training set, as in the paper.
        score: Score that is compared: ``miou``, ``f1`` or, for change, ``change_f1``.
        trainer: Arguments of Lightning's trainer.
        spec: Fields of :class:`~torchgeo_specdm.SampleSpec` where the datamodule does not
            tell them, such as ``classes``.
    """

    __pydantic_config__: ClassVar = _STRICT

    out: Path
    data: Config
    models: dict[str, Config]
    arms: dict[str, Arm] = field(default_factory=dict)
    generators: dict[str, Recipe] = field(default_factory=dict)
    sizes: tuple[Count, ...] = (0,)
    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4)
    subsets: int = 1
    updates: int = 800
    most_updates: int = 0
    folds: int = 0
    budget: Literal['updates', 'epochs'] = 'updates'
    protocol: Protocol = 'same_labels'
    score: Literal['miou', 'f1', 'change_f1'] = 'miou'
    trainer: Config = field(default_factory=dict)
    spec: Config = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a grid without a run, or with arms that contradict themselves."""
        lists = {'models': self.models, 'sizes': self.sizes, 'seeds': self.seeds}
        for name, values in lists.items():
            if not values or len({*values}) < len(values):
                raise ValueError(
                    f'{name}={list(values)} must hold one or more different values.'
                )
        if min(self.sizes) < 0:
            raise ValueError(f'sizes={list(self.sizes)} must be 0 (all) or more each.')
        subsets = {seed % max(self.subsets, 1) for seed in self.seeds}
        if len(subsets) != self.subsets:
            raise ValueError(
                f'subsets={self.subsets} must be 1 or more, with a seed for each: seed s '
                f'uses subset s modulo subsets, and seeds={list(self.seeds)}.'
            )
        if self.folds < 0 or self.folds == 1:
            raise ValueError(
                f'folds={self.folds} must be 0 for none, or 2 or more parts.'
            )
        if self.updates < 1:
            raise ValueError(f'updates={self.updates} must be 1 or more.')
        if self.most_updates < 0 or 0 < self.most_updates < self.updates:
            raise ValueError(
                f'most_updates={self.most_updates} must be 0 for none, or at least '
                f'updates={self.updates}.'
            )
        if REAL in self.arms:
            raise ValueError(
                f'arms has {REAL!r}, which every study has. Leave it out, or choose '
                'another name.'
            )
        for name, arm in self.arms.items():
            arm.check(name, self.generators)
            if arm.unlabelled == (REST,) and 0 in self.sizes:
                raise ValueError(
                    f'arm {name!r} has unlabelled={[REST]}, but of all real samples '
                    f'(0 in sizes={list(self.sizes)}) no others remain. Add a folder of '
                    'images, or leave 0 out.'
                )

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a study from a YAML.

        Args:
            path: The file; the keys are the attributes of this class.

        Returns:
            The study.

        Raises:
            ValueError: If a key is unknown or missing, or a value does not fit.
        """
        values = read_yaml(Path(path))
        for name in ('arms', 'generators'):
            # an arm that sets nothing has all defaults
            given = values.get(name) or {}
            if isinstance(given, dict):
                values[name] = {key: value or {} for key, value in given.items()}
        count = values.get('seeds')
        if type(count) is int and 0 <= count <= _MOST_SEEDS:
            values['seeds'] = list(range(count))
        return check_json(json.dumps(values, default=str), cls, str(path))

    def arm(self, cell: Cell) -> Arm:
        """The arm of a cell."""
        return self.arms.get(cell.arm, Arm())

    def subset(self, cell: Cell) -> int:
        """Find the real subset and generator of a cell."""
        return cell.seed % self.subsets

    def cells(self) -> list[Cell]:
        """The whole grid: real only first, so that the noise is known early."""
        arms = [(REAL, 0.0)]
        for name, arm in self.arms.items():
            # the file of a run is named by it: 1 and 1.0 are one ratio
            arms += [(name, float(ratio)) for ratio in arm.ratios or (0.0,)]
        return [
            Cell(model, arm, ratio, size, seed)
            for rivals in (False, True)
            for size in self.sizes
            for model in self.models
            for seed in self.seeds
            for arm, ratio in arms
            if (arm != REAL) == rivals
        ]
