# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The whole path in one call: the smallest study with a report."""

import json
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from torchgeo.main import main as torchgeo

from .codecs import load_codec
from .datamodules.pairs import PairFolderDataModule
from .datasets.pairs import PairFolder
from .files import CONFIG, write_text
from .reporting.report import write_report
from .study.comparison import Comparison, differences, enough_updates, settled
from .study.measures import measure
from .study.planning import fast_bfloat16, time_steps
from .study.statistics import verdict
from .synthesis.demo import write_scenes
from .tasks.progress import StepProgressBar

_PATCH = 32
_BATCH = 16
_LATENT_BATCH = 32
_RATIOS = (0, 1, 3, 5)
_SEEDS = 3
_SCENES = (100, 40, 100)
#: Shares of the time: stage 1, stage 2, and each training of the comparison's updates.
_SHARES = {'autoencoder': 0.14, 'diffusion': 0.28, 'compare': 0.45}
#: The learned codec is used from this share of right mask pixels on held-out patches.
_TRANSPARENT = 0.97
_SEGMENTER = {
    'model': 'segformer',
    'backbone': 'mit_b0',
    'lr': 1e-3,
    'head_lr_factor': 1.0,
}


@dataclass
class Quickstart:
    """Scenes or the user's pairs, to a verdict; each finished step is kept.

    Attributes:
        out: Folder of results.
        data: Folder of pairs, or None for demo scenes.
        minutes: About how long it may take on this machine.
        seed: Seed of the scenes, the trainings and the generated set.
        codec: ``two_stream``, ``pixels``, or ``auto``.
    """

    out: Path
    data: Path | None = None
    minutes: float = 12
    seed: int = 0
    codec: Literal['auto', 'two_stream', 'pixels'] = 'auto'

    def run(self) -> Path:
        """Run what is not done yet.

        Returns:
            The path of ``report.html``.

        Raises:
            ValueError: If the data are no sound folder of pairs.
        """
        started = time.monotonic()
        warnings.filterwarnings('ignore')
        for name in ('lightning.pytorch', 'lightning.fabric'):
            logging.getLogger(name).setLevel(logging.ERROR)
        data = self._prepare_data()
        self.out.mkdir(parents=True, exist_ok=True)
        plan = self._plan(data)
        codec, why = self._learn_codec(data, plan)
        self._learn_denoiser(data, codec, plan)
        self._generate(plan)
        comparison, updates, curve = self._find_updates(data, plan)
        measures = self._measure(comparison, updates)
        self._say(
            f'Training {len(_RATIOS) * _SEEDS} segmenters with {updates} updates each',
            len(_RATIOS) * _SEEDS * (updates * plan['segmenter_seconds'] + 2),
        )
        runs = comparison.run(updates)
        facts = {
            'data': str(data) if self.data else 'procedural demo scenes',
            'demo': self.data is None,
            'codec': codec,
            'why': why,
            'plan': plan,
            'pilot': curve,
            'settled': settled(curve),
            'updates': updates,
            'minutes': (time.monotonic() - started) / 60,
            'configs': {
                path.name: path.read_text(encoding='utf-8')
                for path in sorted((self.out / 'configs').glob('*.yaml'))
            },
        }
        report = write_report(self.out, comparison, runs, measures, facts)
        self._print_end(report, differences(runs))
        return report

    def _prepare_data(self) -> Path:
        """The folder of real pairs, every file of it read once."""
        if self.data is None:
            data = self.out / 'scenes'
            self._say(f'Drawing {sum(_SCENES)} demo scenes into {data}', 10)
            write_scenes(data, _SCENES, size=64, seed=self.seed)
            return data
        self._say(f'Checking every file of {self.data}', None)
        PairFolder(self.data).verify()
        return self.data

    def _plan(self, data: Path) -> dict[str, Any]:
        """Steps that fit the minutes, by timing a few of each kind here."""
        path = self.out / 'plan.json'
        if path.exists():
            plan: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
            return plan
        self._say('Timing a few steps of each kind on this machine', 15)
        precision = 'bf16-mixed' if fast_bfloat16() else '32-true'
        datamodule: Any = self._datamodule(data)
        datamodule.setup('fit')
        seconds = time_steps(datamodule.spec, _SEGMENTER, _PATCH, _BATCH, _LATENT_BATCH)
        budget = 60 * self.minutes
        runs = len(_RATIOS) * _SEEDS + 4
        plan = {
            'precision': precision,
            'samples': len(datamodule.train_dataset),
            'patch_size': _PATCH,
            'autoencoder_steps': _bounded(
                budget * _SHARES['autoencoder'] / seconds['autoencoder'], 100, 20_000
            ),
            'diffusion_steps': _bounded(
                budget * _SHARES['diffusion'] / seconds['diffusion'], 200, 50_000
            ),
            'most_updates': _bounded(
                budget * _SHARES['compare'] / runs / seconds['segmenter'], 40, 20_000
            ),
            **{f'{name}_seconds': value for name, value in seconds.items()},
        }
        write_text(path, json.dumps(plan, indent=2))
        return plan

    def _learn_codec(self, data: Path, plan: dict[str, Any]) -> tuple[str, str]:
        """Stage 1, and the choice of the codec with its reason."""
        if self.codec == 'pixels':
            return 'pixels', 'as asked with --codec'
        folder = self.out / 'autoencoder'
        steps = plan['autoencoder_steps']
        if not (folder / CONFIG).exists():
            self._say(
                f'Stage 1: learning the two-stream autoencoder, {steps} steps',
                steps * plan['autoencoder_seconds'],
            )
            task = {'stage': 'autoencoder', 'codec': 'two_stream', 'out': str(folder)}
            self._fit('autoencoder', task, self._data_config(data), steps, plan)
        accuracy = self._mask_accuracy(folder, data)
        said = (
            f'it gets {accuracy:.1%} of the mask pixels of validation patches back, and '
            f'{_TRANSPARENT:.0%} are wanted'
        )
        if self.codec == 'two_stream':
            return 'two_stream', f'as asked with --codec; {said}'
        if accuracy >= _TRANSPARENT:
            return 'two_stream', said
        return 'pixels', (
            f'the two-stream autoencoder was not good enough after {steps} steps: {said}'
        )

    def _learn_denoiser(self, data: Path, codec: str, plan: dict[str, Any]) -> None:
        """Stage 2."""
        folder = self.out / 'diffusion'
        if (folder / CONFIG).exists():
            return
        steps = plan['diffusion_steps']
        self._say(
            f'Stage 2: learning the joint diffusion model ({codec}), {steps} steps',
            steps * plan['diffusion_seconds'],
        )
        name = 'pixels' if codec == 'pixels' else str(self.out / 'autoencoder')
        task = {'stage': 'diffusion', 'codec': name, 'out': str(folder)}
        latents = {
            'class_path': 'torchgeo_specdm.LatentDataModule',
            'init_args': {
                'real': self._data_config(data),
                'passes': 16,
                'batch_size': _LATENT_BATCH,
            },
        }
        self._fit('diffusion', task, latents, steps, plan)

    def _generate(self, plan: dict[str, Any]) -> None:
        """Draw as many pairs as the largest ratio needs."""
        count = max(_RATIOS) * plan['samples']
        self._say(f'Generating {count} labelled pairs', count / 20)
        config = {
            'seed_everything': self.seed,
            'trainer': {
                'logger': False,
                'callbacks': [_progress('generating')],
                'default_root_dir': str(self.out / 'logs' / 'generate'),
            },
            'model': {
                'class_path': 'torchgeo_specdm.SpecDMTask',
                'init_args': {
                    'stage': 'diffusion',
                    'generator': str(self.out / 'diffusion'),
                },
            },
            'data': {
                'class_path': 'torchgeo_specdm.GenerationDataModule',
                'init_args': {
                    'out': str(self.out / 'synthetic'),
                    'count': count,
                    'seed': self.seed,
                    'batch_size': 50,
                },
            },
        }
        torchgeo(['predict', '--config', self._write_config('generate', config)])

    def _find_updates(
        self, data: Path, plan: dict[str, Any]
    ) -> tuple[Comparison, int, list[tuple[int, float]]]:
        """The comparison, and how long its segmenters have to train."""
        comparison = Comparison(
            real=lambda: self._datamodule(data),
            synthetic=self.out / 'synthetic',
            out=self.out / 'comparison',
            ratios=_RATIOS,
            seeds=range(self.seed, self.seed + _SEEDS),
            task=_SEGMENTER,
            callbacks=lambda title: [StepProgressBar(title)],
        )
        self._write_segmenter_config(data, plan)
        most = plan['most_updates']
        self._say(
            'Finding how long a segmenter must train until real-only stops rising',
            2 * most * plan['segmenter_seconds'],
        )
        curve = comparison.find_updates(max(most // 4, 10), most)
        return comparison, enough_updates(curve), curve

    def _measure(self, comparison: Comparison, updates: int) -> dict[str, Any]:
        """Reconstruction, fidelity, alignment and spectra."""
        path = self.out / 'measures.json'
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
            return found
        self._say('Measuring, with a segmenter trained on real pairs as judge', 30)
        judge, datamodule = comparison.judge(updates)
        datamodule.setup('test')
        measures = measure(
            self.out / 'diffusion', self.out / 'synthetic', datamodule, judge
        )
        write_text(path, json.dumps(measures, indent=2))
        return measures

    def _mask_accuracy(self, folder: Path, data: Path) -> float:
        codec = load_codec(folder)
        datamodule: Any = self._datamodule(data)
        datamodule.setup('validate')
        right = total = 0
        for sample in datamodule.val_dataset:
            mask = sample['mask']
            known = (mask >= 0) & (mask < codec.spec.num_classes)
            decoded, _ = codec.roundtrip(
                {'image': sample['image'][None], 'mask': mask[None]}
            )
            right += int((decoded['mask'][0] == mask)[known].sum())
            total += int(known.sum())
        return right / max(total, 1)

    def _fit(
        self,
        stage: str,
        task: dict[str, Any],
        data: dict[str, Any],
        steps: int,
        plan: dict[str, Any],
    ) -> None:
        """Run a stage through TorchGeo's command line, from its last checkpoint."""
        logs = self.out / 'logs' / stage
        config = {
            'seed_everything': self.seed,
            'trainer': {
                'max_steps': steps,
                'precision': plan['precision'],
                'gradient_clip_val': 1.0,
                'check_val_every_n_epoch': 10,
                'num_sanity_val_steps': 0,
                'enable_model_summary': False,
                'log_every_n_steps': 10,
                'default_root_dir': str(logs),
                'logger': {
                    'class_path': 'lightning.pytorch.loggers.CSVLogger',
                    'init_args': {'save_dir': str(logs), 'name': '', 'version': ''},
                },
                'callbacks': [
                    _progress(stage),
                    {
                        'class_path': 'lightning.pytorch.callbacks.ModelCheckpoint',
                        'init_args': {
                            'dirpath': str(logs),
                            'save_last': True,
                            'save_top_k': 0,
                            'every_n_train_steps': 200,
                        },
                    },
                ],
            },
            'model': {'class_path': 'torchgeo_specdm.SpecDMTask', 'init_args': task},
            'data': data,
        }
        arguments = ['fit', '--config', self._write_config(stage, config)]
        if (logs / 'last.ckpt').exists():
            arguments += ['--ckpt_path', str(logs / 'last.ckpt')]
        torchgeo(arguments)

    def _write_segmenter_config(self, data: Path, plan: dict[str, Any]) -> None:
        """What the comparison runs, as YAML to copy."""
        config = {
            'seed_everything': self.seed,
            'trainer': {'max_steps': plan['most_updates']},
            'model': {
                'class_path': 'torchgeo_specdm.MultispectralSegmentationTask',
                'init_args': _SEGMENTER,
            },
            'data': {
                'class_path': 'torchgeo_specdm.SyntheticAugmentedDataModule',
                'init_args': {
                    'synthetic': str(self.out / 'synthetic'),
                    'ratio': 1,
                    'real_share': 0.5,
                    'real': self._data_config(data),
                },
            },
        }
        self._write_config('segment', config)

    def _write_config(self, name: str, config: dict[str, Any]) -> str:
        path = self.out / 'configs' / f'{name}.yaml'
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump(config, sort_keys=False))
        return str(path)

    def _datamodule(self, data: Path) -> PairFolderDataModule:
        return PairFolderDataModule(**self._data_config(data)['init_args'])

    def _data_config(self, data: Path) -> dict[str, Any]:
        return {
            'class_path': 'torchgeo_specdm.PairFolderDataModule',
            'init_args': {
                'root': str(data),
                'batch_size': _BATCH,
                'patch_size': _PATCH,
                'seed': self.seed,
            },
        }

    def _say(self, what: str, seconds: float | None) -> None:
        left = '' if seconds is None else f' (about {max(seconds, 1) / 60:.1f} min)'
        print(f'{what}{left}', flush=True)

    def _print_end(self, report: Path, found: dict[float, Any]) -> None:
        print()
        for ratio, difference in found.items():
            print(verdict(ratio, difference))
        print(f'\nReport: {report}\nYAMLs to copy: {self.out / "configs"}')


def _bounded(value: float, low: int, high: int) -> int:
    return int(min(max(value, low), high))


def _progress(title: str) -> dict[str, Any]:
    return {
        'class_path': 'torchgeo_specdm.tasks.progress.StepProgressBar',
        'init_args': {'title': title},
    }
