# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The whole path in one call: the smallest study with a report."""

import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .announcing import Announcer, tell
from .bars import duration
from .codecs import load_codec, mask_fidelity
from .datamodules.pairs import PairFolderDataModule
from .datasets.pairs import PairFolder
from .diffusion.generator import GeneratorConfig
from .files import CONFIG, read_config, read_json, read_yaml, write_text
from .objects import Config
from .pairs.export import write_real_pairs
from .pairs.tiles import TileDataset
from .preparing import count_samples, describe_splits, split_samples
from .reporting.advice import Evidence, caveats
from .reporting.folder import FACTS, report_folder
from .scenes.writing import write_scenes
from .settings import content_hash, require_same_settings
from .study.configs import mixed_config, pairs_config, unlabelled_config
from .study.design import Arm, Recipe, Study
from .study.engine import Engine
from .study.planning import PlanFile, make_plan
from .study.runs import Run, table
from .study.stages import draw_pairs, learn_stage, write_config
from .study.verdicts import NAMES, verdicts
from .tasks.support.networks import NETWORKS
from .tasks.support.plateau import Curve
from .tasks.support.progress import StepProgressBar
from .trust.lights import lights
from .trust.measures import MEASURES, read_measures
from .trust.measuring import measure_pairs, real_config

_RATIOS = (1.0, 3.0, 5.0)
_SEEDS = 3
#: Seeds of 32 bits, a few of them in a row.
_MOST_SEED = 4_000_000_000
_SCENES = (100, 40, 100)
_SCENE_SIZE = 64
_REAL_SHARE = 0.5
#: Most tiles that the masks of the codec are judged by.
_JUDGED = 512
#: Most bands that pixels are drawn of; cells of more are too long for a small denoiser.
_PIXEL_BANDS = 24
#: Where a codec is learned, it is used from this share of right mask pixels on held-out
#: patches. On real patches it lost to folded pixels at 0.79 (docs/notes/autoencoder.md)
#: and won at 0.92, before there was a prior (experiments/RESULTS.md).
_TRANSPARENT = 0.9
_WHY_PIXELS = (
    'its denoiser begins with a prior for images of one date, and nothing of an image '
    'is lost'
)
#: What is compared, for each task: most pixels do not change.
_SCORES: dict[str, Any] = {'segmentation': 'miou', 'change': 'change_f1'}


@dataclass
class Quickstart:
    """Scenes or the user's pairs, to a verdict; each finished step is kept.

    Attributes:
        out: Folder of results.
        data: Folder of pairs, or YAML of any datamodule (``class_path``, ``init_args``,
            ``dict_kwargs``, or these under ``data``, and maybe ``spec``), whose samples
            are written as a folder of pairs first; None for demo scenes.
        task: ``segmentation``, or ``change`` between two dates.
        minutes: About how long it may take on this machine.
        seed: Seed of the scenes, the trainings and the generated set.
        codec: ``two_stream``, ``pixels``, or ``auto``: pixels for images of one date
            and at most 24 bands; otherwise two streams, if masks come back well.
        bands: Names of the bands to use; ``live`` for all that are not the same
            everywhere, or missing; None for all.
        unlabelled: Folder of images without labels, which the generator learns from,
            too; None for none.
    """

    out: Path
    data: Path | None = None
    task: Literal['segmentation', 'change'] = 'segmentation'
    minutes: float = 12
    seed: int = 0
    codec: Literal['auto', 'two_stream', 'pixels'] = 'auto'
    bands: Sequence[str] | Literal['live'] | None = None
    unlabelled: Path | None = None

    def __post_init__(self) -> None:
        """Make paths absolute, for YAMLs that run from anywhere."""
        self.out = Path(self.out).absolute()
        self.data = None if self.data is None else Path(self.data).absolute()
        if self.unlabelled is not None:
            self.unlabelled = Path(self.unlabelled).absolute()
        self._extra_notes: list[str] = []
        self._announce = Announcer(self._learned(0))
        if not 0 < self.minutes < math.inf:
            raise ValueError(
                f'minutes={self.minutes} must be above 0. Use 12 for two cores.'
            )
        if not 0 <= self.seed <= _MOST_SEED:
            raise ValueError(f'seed={self.seed} must be from 0 to {_MOST_SEED}.')

    def run(self) -> Path:
        """Run what is not done yet.

        Returns:
            The path of ``report.html``.

        Raises:
            FileExistsError: If the folder of results was begun with other settings.
            ValueError: If the data are no sound folder of pairs, or too few.
        """
        started = time.monotonic()
        data = self._prepare_data()
        plan = self._plan(data)
        config = pairs_config(data, plan, self.seed, self.bands)
        real = PairFolderDataModule(**config['init_args'])
        learned = unlabelled_config(config, self.unlabelled)
        codec, why = self._learn_codec(real, learned, plan)
        tell(f'Codec {codec}: {why}.')
        self._learn_denoiser(codec, learned, plan)
        self._generate(plan)
        engine = self._engine(config, plan)
        curve = self._find_updates(engine)
        updates = engine.updates(engine.study.cells()[0])
        given = NETWORKS[self.task], self.out, updates, _REAL_SHARE, self.seed
        mixed = mixed_config(config, *given)
        write_config(self.out, 'train', 'fit', mixed)
        self._measure(config, engine)
        runs = self._compare(engine, plan)
        steps = plan['steps']
        first = f'{steps["autoencoder"]} steps' if 'autoencoder' in steps else 'none'
        settings = {
            'codec': f'{codec}: {why}',
            'stage 1': first,
            'stage 2': f'{steps["diffusion"]} steps, {plan["precision"]}',
            'patches': f'{plan["patch_size"]} pixels',
            'updates of each network': updates,
            'pilot, real only': [
                f'{u} updates: validation {NAMES[_SCORES[self.task]]} {100 * v:.1f}'
                for u, v in curve
            ],
            'time of the last start': duration(time.monotonic() - started),
        }
        facts = {
            'title': str(self.data or 'Procedural demo scenes'),
            'settings': settings,
            'made': {'command': self._command()},
            'notes': self._notes(plan),
        }
        write_text(self.out / FACTS, json.dumps(facts, indent=2) + '\n')
        report = report_folder(self.out)
        self._conclude(runs, curve, report)
        return report

    def _conclude(self, runs: Sequence[Run], curve: Curve, report: Path) -> None:
        """Print the verdict, the lights, where things lie, and the next command."""
        print()
        for sentence in verdicts(runs, _SCORES[self.task]):
            tell(sentence)
        evidence = Evidence(curve=curve)
        if evidence.still_rising:
            tell(caveats(evidence)[0])
        found = lights(read_measures(self.out / 'trust'))
        tell(' '.join(f'{x.name.capitalize()}: {x.state}.' for x in found))
        print(
            f'\nReport: {report}\nPairs:  {self.out / "synthetic"}\n'
            f'YAMLs to copy: {self.out / "configs"}'
        )
        if self.data is None:
            command = 'torchgeo-specdm quickstart --data FOLDER --out RESULTS'
            said = 'Your own patches'
        else:
            generator = shlex.quote(str(self.out / 'diffusion'))
            command = (
                f'torchgeo-specdm generate --generator {generator} --out MORE '
                '--count 100'
            )
            said = 'More pairs'
        print(f'{said}: {command}\nWhat to do now: at the top of the report.')

    def _notes(self, plan: Config) -> list[str]:
        """Sentences that a reader has to know before any number."""
        others = 'no others'
        if self.unlabelled is not None:
            config = read_config(self.out / 'diffusion', 'diffusion', GeneratorConfig)
            count = config.get('training', {})['unlabelled']
            others = (
                f'no other labels. The generator alone also saw {count} images without '
                'labels, which the networks did not: methods that train networks on '
                'such images are not compared here'
            )
        same = (
            f'The generator and the networks saw the same {plan["samples"]} labelled '
            f'training samples and {others}. All arms have equal updates; each batch '
            'of a mixed run is half real, so it sees half as many real crops. '
            'Intervals are of 95 %, over seeds, on one split: how other places would '
            'differ is not in them.'
        )
        notes = [same, *self._extra_notes]
        if self.data is None:
            notes.append(
                'These are procedural demo scenes: the numbers say nothing about real '
                'images. Use --data with a folder of your own.'
            )
        return notes

    def _command(self) -> str:
        """The command line that does the same."""
        words = ['torchgeo-specdm', 'quickstart']
        for name in ('data', 'task', 'minutes', 'seed', 'codec', 'unlabelled'):
            value = getattr(self, name)
            if value is not None:
                text = f'{value:g}' if name == 'minutes' else str(value)
                words += [f'--{name}', text]
        if self.bands is not None:
            words += ['--bands', *self.bands]
        return shlex.join(words)

    def _learned(self, bands: int) -> bool:
        """Whether there is a stage 1, for images of this many bands."""
        if self.codec != 'auto':
            return self.codec == 'two_stream'
        return self.task == 'change' or bands > _PIXEL_BANDS

    def _prepare_data(self) -> Path:
        """The folder of real pairs, every file of it read once, and fit for this."""
        data, described = self.out / 'scenes', 'demo scenes'
        if self.data is not None:
            data = self.out / 'real' if self.data.is_file() else self.data
            if self.data.is_file():
                self._write_real(data)
            folder = PairFolder(data, bands=self.bands)
            # dead ones are looked for once
            self.bands = None if self.bands is None else folder.spec.bands
            self._announce = Announcer(self._learned(folder.spec.num_bands))
            what = f'Checking every file of {data.name}'
            self._announce.part('data', what, 0.02 * len(folder))
            folder.verify()
            described = f'{self.data.name} {content_hash(data)}'
        #: What must be equal for a second start to go on in the same folder.
        self._settings = {
            'data': described,
            'task': self.task,
            'minutes': self.minutes,
            'seed': self.seed,
            'codec': self.codec,
            'bands': None if self.bands is None else list(self.bands),
        }
        if self.unlabelled is not None:
            if not self.unlabelled.is_dir():
                raise FileNotFoundError(
                    f'--unlabelled {self.unlabelled} is no folder. Give one of images '
                    'of all bands.'
                )
            digest = content_hash(self.unlabelled)
            self._settings['unlabelled'] = f'{self.unlabelled.name} {digest}'
        require_same_settings(self.out / 'plan.json', self._settings)
        if self.data is None:
            verb = 'Checking' if (data / 'README.md').exists() else 'Making'
            self._announce.part('data', f'{verb} {sum(_SCENES)} demo scenes', 10)
            change = self.task == 'change'
            write_scenes(data, _SCENES, _SCENE_SIZE, self.seed, change=change)
        return data

    def _write_real(self, out: Path) -> None:
        """The samples of a datamodule as a folder of pairs."""
        config = real_config(str(self.data))
        given = read_yaml(Path(str(self.data))).get('spec')
        spec, sets, self._extra_notes = split_samples(config, given, self.seed)
        self._announce = Announcer(self._learned(spec.num_bands))
        count = sum(map(len, sets.values()))
        what = f'Writing {count} samples of the datamodule as pairs'
        self._announce.part('data', what, 0.02 * count)
        card = f'Real samples of {config["class_path"]}.\n'
        write_real_pairs(out, spec, sets, {'seed': self.seed, 'data': config}, card)

    def _plan(self, data: Path) -> Config:
        """Steps that fit the minutes; the first start measures and keeps them."""
        counts, size = count_samples(data, self.task, self.seed, self.bands)
        tell(describe_splits(data, counts))
        samples = counts['train']
        runs = (1 + len(_RATIOS)) * _SEEDS
        path = self.out / 'plan.json'
        if path.exists():
            plan = dict(read_json(path, PlanFile)['plan'])
        else:
            self._announce.part(
                'timing', 'Timing a few steps of each kind on this machine', 15
            )
            spec = PairFolder(data, bands=self.bands).spec
            network, learned = NETWORKS[self.task], self._learned(spec.num_bands)
            plan = make_plan(spec, network, size, samples, self.minutes, runs, learned)
            self.out.mkdir(parents=True, exist_ok=True)
            content = {'settings': self._settings, 'plan': plan}
            write_text(path, json.dumps(content, indent=2) + '\n')
        self._announce.plan(plan, self.minutes, runs, int(max(_RATIOS) * samples))
        return plan

    def _learn_codec(
        self, real: PairFolderDataModule, config: Config, plan: Config
    ) -> tuple[str, str]:
        """Stage 1, and the choice of the codec with its reason."""
        if 'autoencoder' not in plan['steps']:
            why = 'as asked with --codec' if self.codec == 'pixels' else _WHY_PIXELS
            return 'pixels', why
        folder = self.out / 'autoencoder'
        steps = plan['steps']['autoencoder']
        if not (folder / CONFIG).exists():
            self._announce.part(
                'stage 1', f'Stage 1: two-stream autoencoder, {steps} steps'
            )
            learn_stage('autoencoder', 'two_stream', config, self.out, plan, self.seed)
        real.setup('validate')
        tiles = TileDataset(real.val_dataset, (plan['patch_size'], plan['patch_size']))
        found = mask_fidelity(load_codec(folder), tiles.spread(_JUDGED))
        change = self.task == 'change'
        said = (
            f'on validation patches it gets {"change" if change else "the masks"} back '
            f'with {found:.1%} {"F1" if change else "right pixels"}, and '
            f'{_TRANSPARENT:.0%} are wanted'
        )
        if self.codec == 'two_stream':
            return 'two_stream', f'as asked with --codec; {said}'
        if found >= _TRANSPARENT:
            return 'two_stream', said
        return 'pixels', (
            f'the two-stream autoencoder was not good enough after {steps} steps: {said}'
        )

    def _learn_denoiser(self, codec: str, config: Config, plan: Config) -> None:
        """Stage 2."""
        if (self.out / 'diffusion' / CONFIG).exists():
            return
        steps = plan['steps']['diffusion']
        self._announce.part(
            'stage 2', f'Stage 2: joint diffusion ({codec}), {steps} steps'
        )
        name = 'pixels' if codec == 'pixels' else str(self.out / 'autoencoder')
        learn_stage('diffusion', name, config, self.out, plan, self.seed)

    def _generate(self, plan: Config) -> None:
        """Draw as many pairs as the largest ratio needs, or what is missing of them."""
        count = int(max(_RATIOS) * plan['samples'])
        if (self.out / 'synthetic' / 'README.md').exists():
            self._announce.part(
                'pairs', f'Checking {count} generated pairs', count / 200
            )
        else:
            self._announce.part('pairs', f'Generating {count} labelled pairs')
        draw_pairs(self.out / 'diffusion', self.out / 'synthetic', count, self.seed)

    def _engine(self, config: Config, plan: Config) -> Engine:
        """The comparison: the smallest study."""
        most = plan['steps']['network']
        pairs = Recipe(pairs=str(self.out / 'synthetic'))
        mixed = Arm('own', _RATIOS, real_share=_REAL_SHARE)
        study = Study(
            out=self.out / 'comparison',
            data=config,
            models={self.task: NETWORKS[self.task]},
            arms={'synthetic': mixed},
            generators={'own': pairs},
            seeds=tuple(range(self.seed, self.seed + _SEEDS)),
            updates=max(most // 4, 1),
            most_updates=most,
            score=_SCORES[self.task],
        )
        return Engine(study, lambda title: [StepProgressBar(title)])

    def _find_updates(self, engine: Engine) -> Curve:
        """Find from real-only runs for how long the networks have to train."""
        if not (self.out / 'trust' / MEASURES).exists():
            self._announce.part('pilot', 'Finding how long a network must train')
        engine.begin()
        return engine.pilot(self.task, 0)

    def _measure(self, config: Config, engine: Engine) -> None:
        """Measure the trust that the generated pairs deserve."""
        trust, generator = self.out / 'trust', self.out / 'diffusion'
        if not (trust / MEASURES).exists():
            self._announce.part(
                'judges', 'Measuring, with judges trained on real pairs'
            )
            judge = engine.study.models[self.task]
            pairs = self.out / 'synthetic'
            most = engine.study.most_updates
            measure_pairs(pairs, config, trust, generator, judge, most)

    def _compare(self, engine: Engine, plan: Config) -> list[Run]:
        """Train and test the networks of all ratios and seeds."""
        cells = engine.study.cells()
        missing = len(cells) - len(engine.finished(cells))
        if missing:
            updates = engine.updates(cells[0])
            seconds = missing * (updates * plan['seconds']['network'] + 2)
            what = f'Training {missing} networks with {updates} updates each'
            self._announce.part('networks', what, seconds)
        runs = engine.run(cells)
        write_text(self.out / 'comparison' / 'runs.csv', table(runs))
        for run in runs:
            if run.reason:
                raise RuntimeError(f'{run.cell.title}: {run.reason}')
        return runs
