# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""What to generate, batch by batch, and where to write it."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchgeo.datamodules import BaseDataModule
from tqdm import tqdm

from ..datasets.pairs import PairFolder
from ..diffusion.noise import stream_random
from ..files import WEIGHTS, sha256
from ..pairs.card import data_card
from ..pairs.fingerprint import read_seen_samples, write_seen_samples
from ..pairs.spec import SampleSpec
from ..pairs.writer import PairWriter

_log = logging.getLogger(__name__)


class BatchDataset(Dataset[dict[str, Tensor]]):
    """Whole batches of sample numbers, with the given samples if there are any.

    A batch always holds the same numbers, so a resumed run and a run on several
    processes compute the very same batches.

    Args:
        batches: Sample numbers of each batch.
        source: Folder of given samples, or None.
        seed: Chooses crops, flips and turns of given samples.
        size: Height and width that given samples are cropped to.
        keys: What of given samples is needed: ``mask``, and maybe ``image``.
    """

    def __init__(
        self,
        batches: list[list[int]],
        source: PairFolder | None,
        seed: int,
        size: tuple[int, int],
        keys: tuple[str, ...] = ('image', 'mask'),
    ) -> None:
        """Keep the arguments."""
        self.batches = batches
        self.source = source
        self.seed = seed
        self.size = size
        self.keys = keys

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """One batch: ``index`` (B,), and what is needed of given samples."""
        indices = self.batches[position]
        batch = {'index': torch.tensor(indices)}
        if self.source is not None:
            given = [self._given(index, self.source) for index in indices]
            for key in self.keys:
                batch[key] = torch.stack([sample[key] for sample in given])
        return batch

    def _given(self, index: int, source: PairFolder) -> dict[str, Tensor]:
        """A given sample, cropped, flipped and turned by lot of its number."""
        sample = source[index % len(source)]
        height, width = self.size
        free = [
            full - part
            for full, part in zip(sample['mask'].shape[-2:], self.size, strict=True)
        ]
        if min(free) < 0:
            raise ValueError(
                f'{source.mask_path(source.ids[index % len(source)])} has '
                f'{tuple(sample["mask"].shape[-2:])} pixels, but the generator draws '
                f'patches of {self.size}. Give masks of at least that size.'
            )
        random = stream_random(self.seed, index, 'choice')
        top, left = (int(random.integers(rest + 1)) for rest in free)
        flip, turns = int(random.integers(2)), int(random.integers(4))
        if height != width:
            turns = turns // 2 * 2
        moved = {}
        for key in self.keys:
            value = sample[key][..., top : top + height, left : left + width]
            value = torch.rot90(value, turns, (-2, -1))
            moved[key] = (value.flip(-1) if flip else value).contiguous()
        return moved


class GenerationDataModule(BaseDataModule):
    """Tells :class:`SpecDMTask` in ``torchgeo predict`` what to draw.

    A :class:`TrustDataModule` takes one too, to measure what a generator draws.

    Writes a folder of pairs (:class:`PairFolder`). A killed run is finished by the
    same command; a folder of other settings, or of given samples that have changed
    since, is refused. The samples do not depend on how many processes draw them.
    """

    def __init__(
        self,
        out: str,
        count: int,
        seed: int = 0,
        batch_size: int = 16,
        masks: str | None = None,
        vary: str | None = None,
        strength: float = 0.6,
    ) -> None:
        """Initialize a new GenerationDataModule instance.

        Args:
            out: Folder to write to.
            count: Number of samples.
            seed: Seed of the run, 0 or more.
            batch_size: Samples drawn at once.
            masks: A folder of pairs: images are drawn for its masks.
            vary: A folder of pairs: its images are noised part of the way and
                denoised, its masks kept.
            strength: How far *vary* goes, in 0..1; 1 forgets the image.

        Raises:
            ValueError: If a number is out of range, or both folders are given.
        """
        super().__init__(BatchDataset, batch_size)
        if count < 1 or seed < 0 or batch_size < 1:
            raise ValueError(
                f'count={count} and batch_size={batch_size} must be 1 or more and '
                f'seed={seed} 0 or more.'
            )
        if masks is not None and vary is not None:
            raise ValueError(
                f'masks={masks!r} and vary={vary!r} exclude each other. Give one: '
                'masks for new images, vary for variations of the images.'
            )
        if vary is not None and not 0 < strength < 1:
            raise ValueError(
                f'strength={strength} must lie between 0 and 1. 0.6 keeps large '
                'shapes and redraws texture.'
            )
        self.out = Path(out)
        self.count = count
        self.seed = seed
        self.mode = 'joint' if masks is vary is None else 'masks' if masks else 'vary'
        self.strength = strength if vary is not None else 1.0
        self.source_folder = masks or vary

    def prepare_data(self) -> None:
        """Make or check the folder, once on each machine."""
        self._open_writer().clean()
        seen = sorted(read_seen_samples(self._task().generator_folder))
        write_seen_samples(self.out, seen)

    def setup(self, stage: str) -> None:
        """Find what is left to do.

        Args:
            stage: Only 'predict' makes sense here.

        Raises:
            ValueError: If given samples are of another kind than the generator's.
        """
        task = self._task()
        self.writer = self._open_writer()
        self.written = self.writer.done()
        size = self.batch_size or 1
        batches = [
            list(range(start, min(start + size, self.count)))
            for start in range(0, self.count, size)
        ]
        left = [batch for batch in batches if not self.written.issuperset(batch)]
        height, width = task.generator.config['patch_size']
        keys = ('mask',) if self.mode == 'masks' else ('image', 'mask')
        self.predict_dataset = BatchDataset(
            left, self.source, self.seed, (height, width), keys
        )
        _log.info('%d of %d samples are there.', len(self.written), self.count)
        if self.trainer is None:
            return
        # no process may write before all have seen what is there
        self.trainer.strategy.barrier()
        if not left and self.trainer.is_global_zero:
            # Lightning skips an empty loop, on_predict_end included
            self.finish()

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Whole batches, so no further batching."""
        assert self.predict_dataset is not None
        return DataLoader(self.predict_dataset, batch_size=None)

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Leave the batch as it is: codecs take digital numbers."""
        return batch

    def draw(self, batch: dict[str, Tensor]) -> None:
        """Draw the samples of a batch and write those that are not there yet.

        Args:
            batch: From :class:`BatchDataset`.
        """
        task, indices = self._task(), batch['index'].tolist()
        sample = task.generator.sample(
            indices,
            seed=self.seed,
            given=batch if 'mask' in batch else None,
            strength=self.strength,
            **task.sampling,
        )
        images, masks = (sample[key].cpu().numpy() for key in ('image', 'mask'))
        for i, index in enumerate(indices):
            if index in self.written:
                continue
            record: dict[str, Any] = {'index': index, 'seed': self.seed}
            if self.source is not None:
                record['source'] = self.source.ids[index % len(self.source)]
            mask = masks[i].reshape(masks.shape[-2:])
            self.writer.write(f'{index:06d}', images[i], mask, record)

    def draw_all(self) -> None:
        """Draw what is left without a loop of Lightning's, all processes together."""
        trainer, batches = self.trainer, self.predict_dataset
        assert trainer is not None and isinstance(batches, BatchDataset)
        self._task().generator.to(trainer.strategy.root_device)
        own = range(trainer.global_rank, len(batches), trainer.world_size)
        for position in tqdm(own, 'generating', disable=not trainer.is_global_zero):
            self.draw(batches[position])
        trainer.strategy.barrier()
        if trainer.is_global_zero and batches:
            self.finish()
        trainer.strategy.barrier()

    def finish(self) -> None:
        """Sort the manifest and write the data card."""
        task = self._task()
        self.writer.finish(data_card(self.writer.root, task.generator.config))

    def _task(self) -> Any:
        """The task that draws; it must have a generator."""
        task = None if self.trainer is None else self.trainer.lightning_module
        if getattr(task, 'generator', None) is None:
            raise ValueError(
                'GenerationDataModule needs a SpecDMTask(stage="diffusion", '
                'generator=FOLDER) in torchgeo predict, or a TrustTask(generator='
                'FOLDER) in torchgeo test. Set model.init_args.generator.'
            )
        return task

    @cached_property
    def source(self) -> PairFolder | None:
        """The folder of given samples, if there is one."""
        if self.source_folder is None:
            return None
        # test masks must not end up in training data
        listed = (Path(self.source_folder) / 'train.txt').exists()
        return PairFolder(self.source_folder, 'train' if listed else None)

    @cached_property
    def _source_digest(self) -> str | None:
        """A hash of what is used of the given samples."""
        if self.source is None:
            return None
        return self.source.digest(images=self.mode == 'vary')

    def _require_match(self, spec: SampleSpec) -> None:
        """Refuse given samples that do not suit the generator."""
        if self.source is None:
            return
        names = ['classes']
        if self.mode == 'vary':
            names += ['bands', 'dates', 'scale']
        spec.require_match(
            self.source.spec, 'the generator', str(self.source_folder), names
        )

    def _open_writer(self) -> PairWriter:
        task = self._task()
        self._require_match(task.generator.codec.spec)
        folder = Path(task.generator_folder)
        settings = {
            'generator': sha256(folder / WEIGHTS)[:16],
            'codec': sha256(folder / 'codec' / WEIGHTS)[:16],
            'seed': self.seed,
            'mode': self.mode,
            # whose content counts, not the name
            'source_files': self._source_digest,
            'strength': self.strength,
            'sampling': task.sampling,
            # batches of another size differ by float noise
            'batch_size': self.batch_size,
        }
        provenance = {
            'synthetic': True,
            'source': self.source_folder,
            'codec': task.generator.codec.name,
            'training': task.generator.config.get('training', {}),
        }
        return PairWriter(self.out, task.generator.codec.spec, provenance, settings)
