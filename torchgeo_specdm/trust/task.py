# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Says how far a set of generated pairs can be trusted."""

import json
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..codecs import Codec, ReconstructionScores
from ..compat import BaseTask
from ..datamodules.support.adapter import split_datasets
from ..diffusion import Generator
from ..files import write_text
from ..metrics.class_spectra import ClassSpectra, SpectrumClassifier
from ..metrics.edges import edge_agreement
from ..metrics.features import make_extractor
from ..metrics.memorisation import NearestSamples, TrainingSample
from ..metrics.segmentation import SegmentationScores
from ..objects import Settings
from ..pairs.valid import labelled_pixels
from ..tasks.support.drawing import draw_missing
from ..tasks.support.guards import require_writable
from ..tasks.support.plateau import settled
from .datamodule import SETS, TrustDataModule
from .judges import Judges, JudgeTraining, load_judges, share_places
from .measures import MEASURES
from .overlap import overlaps_between_splits
from .scores import ScoreFiles, read_scores
from .sides import Alignment, Readings, Side, sample_agreement
from .summary import nearness, plain, summarise

#: Nearest pairs that are listed.
_NEAREST = 16
#: Files of the scores of each set.
_SCORED = {'train': 'real', 'held_out': 'held_out', 'synthetic': 'synthetic'}
#: Pairs of samples up to which splits are searched for common ground.
_MOST_PAIRS = 100_000


class TrustTask(BaseTask):  # type: ignore[misc,unused-ignore]
    """Measures a generated set in ``torchgeo test``, with a :class:`TrustDataModule`.

    Judges are networks trained on the real training samples with cross-fitting: the
    places are shared between *folds*, and each judge trains on all but one. Real
    training tiles are read by the judge that never saw them, everything else by all.

    Writes to *out*:

    * ``measures.json``: every number beside its references
    * ``scores/synthetic.jsonl``, ``real.jsonl`` (training) and ``held_out.jsonl``:
      scores of each sample
    * ``judges/``: the trained judges, used again by the next test

    Nothing that is kept grows with the number of samples but the scores on disk.
    """

    def __init__(
        self,
        out: str,
        judge: Settings,
        generator: str | None = None,
        updates: int = 1600,
        folds: int = 2,
        features: str = 'random',
        trainer: Settings | None = None,
    ) -> None:
        """Initialize a new TrustTask instance.

        Args:
            out: Folder to write to.
            judge: The task that judges are, ``class_path`` and ``init_args``; gives
                class scores (B, K, H, W) for normalised images.
            generator: Folder that stage 2 wrote: its codec is measured, and it draws
                the pairs if the datamodule says so; None measures without a codec.
            updates: Most optimiser steps of a judge: the first one begins with an
                eighth, and doubles until it reads places that it never saw no better.
            folds: Number of judges, 2 or more.
            features: Features of images: ``random``, or with a download ``inception``
                (red, green and blue only) or ``sentinel2``.
            trainer: Arguments of the trainer of the judges.
        """
        super().__init__()
        self.out = Path(out)
        self.generator_folder = generator

    def configure_models(self) -> None:
        """Read the generator if there is one; judges train on their own."""
        folder = self.hparams['generator']
        self.generator = None if folder is None else Generator.load(folder)

    def prepare_data(self) -> None:
        """Refuse data of one side only, or an unwritable *out*, before any work."""
        assert self._data
        require_writable(self.out)

    def setup(self, stage: str) -> None:
        """Draw pairs and train judges that are not there yet; count from nothing.

        Args:
            stage: 'test'.
        """
        data = self._data
        if data.drawing is not None:
            draw_missing(self.trainer, self, data.drawing)
            data.open_synthetic()
        self.spec = spec = data.spec
        of_sample = self._folds(data.real.train_dataset)
        training = JudgeTraining(
            data,
            of_sample,
            self.hparams['judge'],
            self.hparams['updates'],
            self.out / 'judges',
            self.trainer.strategy,
            self.hparams['trainer'] or {},
        )
        self.curve = training.run()
        data.real.trainer = self.trainer
        count = self.hparams['folds']
        shared = data.mean, data.std
        self.judges: Judges = load_judges(
            self.out / 'judges', count, self.hparams['judge'], spec, *shared
        )
        extractor = make_extractor(self.hparams['features'], spec)
        names = list(SETS)
        if self.codec is not None:
            self.codec.spec.require_match(spec, 'the generator', 'the real data')
            self.reconstruction = ReconstructionScores(spec.num_classes)
            kinds = ('own', 'other', 'original_other')
            self.swapped: Any = nn.ModuleDict(
                {name: SegmentationScores(spec.num_classes, -1) for name in kinds}
            )
            names.append('reconstructed')
        self.sides = {name: Side(spec, extractor, *shared) for name in names}
        # no ModuleDict, which may not have a 'train'; registered to go to the device
        self._registered = nn.ModuleList(self.sides.values())
        self.shuffled = Alignment(spec)
        tiles = data.tiles['train']
        #: Fold of each training tile.
        self.fold_of = [of_sample[tiles.sample_of(i)] for i in range(len(tiles))]

    @torch.no_grad()
    def on_test_start(self) -> None:
        """Learn the spectra of the classes, and look at the training samples."""
        loader = self.trainer.test_dataloaders[SETS.index('train')]
        count = self.hparams['folds']
        spectra = [ClassSpectra(self.spec).to(self.device) for _ in range(count)]
        whole = ClassSpectra(self.spec).to(self.device)
        for batch in loader:
            images, masks = (batch[k].to(self.device) for k in ('image', 'mask'))
            whole.update(images, masks)
            folds = self._fold(batch['index']).to(self.device)
            for fold, own in enumerate(spectra):
                chosen = folds != fold
                if chosen.any():
                    own.update(images[chosen], masks[chosen])
        #: One for each fold, fitted to the others, and one for what is not training.
        self.classifiers = [
            SpectrumClassifier.fit(own.compute(), self.spec)
            for own in (*spectra, whole)
        ]
        data = self._data
        self.nearest = NearestSamples(
            self._training_samples(), data.tiles['train'].size, data.mean, data.std
        ).to(self.device)
        self.scores = ScoreFiles(self.out / 'scores', self.global_rank)

    def test_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count a batch of one of the sets.

        Args:
            batch: A batch of a :class:`~torchgeo_specdm.pairs.tiles.TileDataset`.
            batch_idx: Index of the batch.
            dataloader_idx: Number of the set, an index into ``SETS``.
        """
        name = SETS[dataloader_idx]
        training = name == 'train'
        folds = self._fold(batch['index']).to(self.device) if training else None
        readings = self._read(batch['image'], folds)
        self.sides[name].update(batch, readings)
        if name == 'synthetic':
            self.shuffled.update(batch['image'], batch['other_mask'], readings)
        if name == 'held_out' and self.codec is not None:
            self._reconstruct(batch, readings)
        self._score(name, batch, readings)

    def on_test_epoch_end(self) -> None:
        """Put together what all processes counted, and write it down."""
        self.scores.close()
        found = summarise(
            {name: side.compute() for name, side in self.sides.items()},
            self.shuffled.compute(),
            self.spec,
        )
        found['alignment']['judges'] = {
            'curve': self.curve,
            'settled': settled(self.curve),
        }
        if self.codec is not None:
            found['reconstruction'] = self._reconstruction()
            found['alignment']['swapped'] = {
                name: score.compute()['accuracy']
                for name, score in self.swapped.items()
            }
        found['counts'] = {name: len(tiles) for name, tiles in self._data.tiles.items()}
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            self._write(found)
        self.trainer.strategy.barrier()
        image = next(iter(found['fidelity'].values()))['frechet']
        self.log_dict(
            {
                'alignment': float(found['alignment']['calibrated']),
                'frechet': float(image['value']),
                'frechet_floor': float(image['floor']),
                'msad': float(found['spectra']['synthetic']['msad']),
            },
            # equal on all processes already, which Lightning cannot know
            sync_dist=True,
            add_dataloader_idx=False,
        )

    def _write(self, found: dict[str, Any]) -> None:
        """Merge the scores, and write all numbers."""
        files = {
            name: self.scores.merge(name, self.trainer.world_size)
            for name in _SCORED.values()
        }
        synthetic = read_scores(files['synthetic'])
        # how near held-out samples come is a reference too
        real = chain(read_scores(files['real']), read_scores(files['held_out']))
        found['memorisation'] = nearness(synthetic, real)
        near = sorted(synthetic, key=lambda row: float(row['distance']))
        found['memorisation']['nearest'] = near[:_NEAREST]
        found['overlap'] = self._overlap()
        text = json.dumps(plain(found), indent=2, allow_nan=False)
        write_text(self.out / MEASURES, text + '\n')

    def _reconstruction(self) -> dict[str, Any]:
        """The loss of the codec on held-out tiles."""
        found = self.reconstruction.compute()
        return {
            'rmse': found['rmse'],
            'sad': found['sad'],
            'cross_entropy': found['mask'],
            'mask_accuracy': found['mask_accuracy'],
            'mask_miou': found['miou'],
            'count': len(self._data.tiles['held_out']),
        }

    def _overlap(self) -> dict[str, Any]:
        """Number of samples of each split whose ground another split shows too."""
        sets = split_datasets(self._data.real)
        pairs = math.prod(sorted(map(len, sets.values()))[-2:])
        if pairs > _MOST_PAIRS:
            rank_zero_warn(
                f'Splits were not searched for common ground: {pairs} pairs of samples '
                f'are more than {_MOST_PAIRS}. torchgeo-specdm overlap takes its time.'
            )
            return {}
        return {
            name: {
                'samples': len({overlap.second for overlap in overlaps}),
                'of': len(sets[name.split('-')[1]]),
            }
            for name, overlaps in overlaps_between_splits(self._data.real).items()
        }

    def _reconstruct(self, batch: dict[str, Tensor], original: Readings) -> None:
        """Pass tiles through the codec, with the true mask and with a wrong one."""
        assert self.codec is not None
        decoded, _ = self.codec.roundtrip(batch)
        self.reconstruction.update(self.codec, batch)
        # what is not known of the original is not held against its copy
        image = decoded['image'].where(batch['image'].isfinite(), torch.nan)
        mask = decoded['mask'].reshape(batch['mask'].shape)
        mask = mask.where(self.codec.labelled(batch['mask']), batch['mask'])
        side = batch | {'image': image, 'mask': mask}
        read = self._read(image, None)
        self.sides['reconstructed'].update(side, read, truth=batch['mask'])
        wrong, _ = self.codec.roundtrip(batch | {'mask': batch['other_mask']})
        read = self._read(wrong['image'], None)
        # where both masks agree, nothing can be told
        told = batch['mask'] != batch['other_mask']
        known = labelled_pixels(batch['mask'], self.spec.num_classes)
        true, other = (
            batch[name].where(told & known, -1) for name in ('mask', 'other_mask')
        )
        other = other.where(other < self.spec.num_classes, -1)
        for judge in range(len(read.judges)):
            self.swapped['own'].update(read.judges[judge], true)
            self.swapped['other'].update(read.judges[judge], other)
            self.swapped['original_other'].update(original.judges[judge], other)

    def _read(self, images: Tensor, folds: Tensor | None) -> Readings:
        """Let judges and spectra read images; a fold's own never saw it."""
        judges = self.judges.read(images, folds)
        if folds is None:
            return Readings(judges, self.classifiers[-1].predict(images))
        spectrum = torch.zeros_like(judges[0])
        for fold in set(folds.tolist()):
            chosen = folds == fold
            spectrum[chosen] = self.classifiers[fold].predict(images[chosen])
        return Readings(judges, spectrum)

    def _score(self, name: str, batch: dict[str, Tensor], readings: Readings) -> None:
        """Write down the scores of each sample of a batch."""
        images, masks = batch['image'], batch['mask']
        skip = None
        if name == 'train':
            # a real sample is its own nearest training sample
            tiles = self._data.tiles['train']
            samples = map(tiles.sample_of, batch['index'].tolist())
            skip = torch.stack([tiles.sharing_ground(n) for n in samples])
        found = self.nearest.find(images, skip)
        agreement = sample_agreement(readings.judges, masks, self.spec)
        spectrum = sample_agreement(readings.spectrum[None], masks, self.spec)
        edges = edge_agreement(images, masks, self.spec)
        pixels = found['pixels']
        for i, index in enumerate(batch['index'].tolist()):
            self.scores.write(
                _SCORED[name],
                {
                    'index': index,
                    'id': self._data.ids[index] if name == 'synthetic' else str(index),
                    'agreement': float(agreement[i]),
                    'edges': float(edges[i]),
                    'spectrum': float(spectrum[i]),
                    'distance': float(pixels.distance[i]),
                    'feature_distance': float(found['features'].distance[i]),
                    'nearest': self.nearest.names[int(pixels.sample[i])],
                    'row': int(pixels.row[i]),
                    'column': int(pixels.column[i]),
                    'turn': int(pixels.turn[i]),
                },
            )

    def _training_samples(self) -> Iterator[TrainingSample]:
        """All training samples, whole."""
        tiles = self._data.tiles['train']
        names = getattr(tiles.dataset, 'ids', range(len(tiles.dataset)))
        for number in range(len(tiles.dataset)):
            image = tiles.dataset[number]['image']
            yield TrainingSample(image, str(names[number]))

    def _fold(self, index: Tensor) -> Tensor:
        return torch.tensor([self.fold_of[i] for i in index.tolist()])

    def _folds(self, dataset: Any) -> list[int]:
        """Fold of each training sample."""
        places = getattr(dataset, 'places', None) or range(len(dataset))
        numbers = {name: i for i, name in enumerate(dict.fromkeys(places))}
        return share_places([numbers[name] for name in places], self.hparams['folds'])

    @property
    def codec(self) -> Codec | None:
        """The codec of the generator."""
        return None if self.generator is None else self.generator.codec

    @property
    def _data(self) -> TrustDataModule:
        datamodule = getattr(self.trainer, 'datamodule', None)
        if not isinstance(datamodule, TrustDataModule):
            raise TypeError(
                f'TrustTask was given {type(datamodule).__name__}, but needs real and '
                'generated samples side by side. Use TrustDataModule(real=..., '
                'synthetic=FOLDER).'
            )
        return datamodule
