# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Drawing a batch of samples, and writing it."""

import logging
import signal
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.nn.functional import one_hot

from ...bars import bar
from ...datamodules.generation import BatchDataset, GenerationDataModule
from ...datamodules.labelling import MOST_DRAWS
from ...datamodules.shares import ShareDataModule
from ...diffusion import Generator
from ...files import WEIGHTS, sha256
from ...pairs.card import data_card
from ...pairs.facts import fingerprints
from ...pairs.fingerprint import read_seen_samples, write_seen_samples
from ...pairs.manifest import manifest_lines
from ...pairs.writer import PairWriter
from .shares import choose_masks, describe_shares
from .variation import measure_variation

_log = logging.getLogger(__name__)

#: Threads that write samples while the next ones are drawn.
_THREADS = 4


def draw_batch(generator: Generator, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Draw the samples of a batch.

    Args:
        generator: Generator, which draws with its own sampler settings.
        batch: Batch of :class:`BatchDataset`: ``index`` (B,), ``seed``, ``strength``,
            ``size``, ``given`` and ``start``; maybe the pixels ``inside`` that are drawn,
            or the number of ``draws`` of the mask of each given image, or the ``number``
            (B,) of the mask that each sample begins with.

    Returns:
        ``index`` (B,), ``image`` and ``mask`` (see :meth:`Generator.sample`), drawn
        values no further than training went; ``clipped`` (B,), the share of values that
        did go further; where images are given or varied ``missing``, of their shape:
        what they have no value for; and with several draws the ``confidence`` of the
        mask.

    Raises:
        RuntimeError: If the device has too little memory.
    """
    indices = batch['index'].tolist()
    names = ('seed', 'given', 'start', 'strength', 'size', 'inside')
    settings = {name: batch[name] for name in names if name in batch}
    try:
        if 'number' in batch:
            indices = batch['number'].tolist()
            mask = generator.sample_masks(indices, batch['seed'], size=batch['size'])
            settings['given'] = {'mask': mask}
        if 'draws' in batch:
            sample = label_images(generator, indices, batch['draws'], settings)
        else:
            sample = generator.sample(indices, **settings)
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f'{len(indices)} samples at once need more memory than the device has. '
            'Set a smaller batch_size and another folder, since one folder holds '
            'batches of one size.'
        ) from error
    codec, image = generator.codec, sample['image']
    sample['image'] = codec.limit(image)
    if codec.spec.ignore_index is not None:
        # folders that are given may have another value for no label
        labelled = codec.labelled(sample['mask'])
        sample['mask'] = sample['mask'].where(labelled, codec.spec.ignore_index)
    known = batch['given'] | batch['start']
    dates = [known[name] for name in sorted(known) if name != 'mask']
    if dates:
        source = (dates[0] if 'image' in known else torch.stack(dates, 1)).to(image)
        sample['missing'] = source.isnan()
        # what was given stays as it is
        sample['image'] = image.where(image == source, sample['image'])
    beyond = (sample['image'] != image) & image.isfinite()
    sample['clipped'] = beyond.flatten(1).float().mean(1)
    return {'index': batch['index'], **sample}


def label_images(
    generator: Generator,
    indices: Sequence[int],
    draws: int,
    settings: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Draw several masks for each of some images, and count how far they agree.

    Args:
        generator: Generator, trained to read images.
        indices: Number of each image.
        draws: Masks for each image.
        settings: Further arguments of :meth:`Generator.sample`, the ``given`` images
            among them.

    Returns:
        ``image``; the ``mask`` of the most frequent class, the first of several, without
        a label where the image has no value at all; and its ``confidence``, the share
        of masks that have this class, float32 (B, H, W).
    """
    spec = generator.codec.spec
    votes: Tensor | int = 0
    for draw in range(draws):
        # numbers do not depend on how many there are for an image
        numbers = [index * MOST_DRAWS + draw for index in indices]
        sample = generator.sample(numbers, **settings)
        mask = sample['mask'].reshape(len(numbers), *sample['mask'].shape[-2:])
        votes = votes + one_hot(mask, spec.num_classes)
    assert isinstance(votes, Tensor)
    count, mode = votes.max(-1)
    if spec.ignore_index is not None:
        image = sample['image'].reshape(len(mode), -1, *mode.shape[-2:])
        mode = mode.where(image.isfinite().any(1), spec.ignore_index)
    confidence = count.float() / draws
    return sample | {
        'mask': mode.reshape(sample['mask'].shape),
        'confidence': confidence,
    }


def draw_missing(trainer: Trainer, task: Any, data: GenerationDataModule) -> None:
    """Draw what is missing of a folder outside of ``predict``, on all processes.

    Args:
        trainer: Tells the processes.
        task: Has a ``generator``, and its ``generator_folder``.
        data: Datamodule that says what to draw, after its ``setup``.
    """
    writer = PairPredictionWriter()
    writer.open(trainer, task, data)
    batches = data.predict_dataset
    assert isinstance(batches, BatchDataset)
    hidden = not trainer.is_global_zero
    try:
        for position in bar(range(len(batches)), 'generating', hidden=hidden):
            drawn = draw_batch(task.generator, batches[position])
            writer.write_on_batch_end(trainer, task, drawn)
        writer.finish(trainer)
    finally:
        writer.stop()
    trainer.strategy.barrier()


class PairPredictionWriter(BasePredictionWriter):
    """Writes drawn samples, batch by batch, into the folder of the datamodule.

    :class:`SpecDMTask` brings it along to ``torchgeo predict``. A batch is written
    while the next one is drawn. After SIGTERM it leaves with exit code 143 once the
    samples in hand are written; the same command goes on from there.
    """

    _pool: ThreadPoolExecutor | None = None

    def __init__(self) -> None:
        """Initialize a new PairPredictionWriter instance."""
        super().__init__('batch')

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the folder, and keep no sample in memory that is written there.

        Args:
            trainer: Has the datamodule.
            pl_module: The task that draws.
            stage: 'predict'.

        Raises:
            TypeError: If the datamodule does not say what to draw.
        """
        super().setup(trainer, pl_module, stage)
        data = getattr(trainer, 'datamodule', None)
        if not isinstance(data, GenerationDataModule):
            raise TypeError(
                f'SpecDMTask was given {type(data).__name__} to predict from, but must '
                'know what to draw. Use GenerationDataModule(out=FOLDER, count=NUMBER).'
            )
        self.open(trainer, pl_module, data)
        trainer.predict_loop.return_predictions = False
        # a batch tells the numbers of its samples itself
        warnings.filterwarnings('ignore', "Couldn't infer the batch indices")

    def open(self, trainer: Trainer, task: Any, data: GenerationDataModule) -> None:
        """Make the folder or check it, and keep what this process has to draw.

        Args:
            trainer: Tells the processes.
            task: Has a ``generator``, and its ``generator_folder``.
            data: Datamodule that says what to draw, after its ``setup``.

        Raises:
            FileExistsError: If the folder holds something else, or was begun with
                other settings.
            OSError: If the folder cannot be written.
        """
        self.data, self.config = data, task.generator.config
        self._pool = ThreadPoolExecutor(_THREADS)
        self._writing: list[Future[None]] = []
        if trainer.is_global_zero:
            _open_folder(task, data).clean()
            seen = read_seen_samples(task.generator_folder)
            if data.real and data.source is not None:
                # its images are in what is written
                seen |= {*fingerprints(data.source, images=True)}
            write_seen_samples(data.out, seen)
        trainer.strategy.barrier()
        self.folder = _open_folder(task, data)
        self.written = self.folder.done()
        data.keep_own(self.written, trainer.global_rank, trainer.world_size)
        # no process may write before all have seen what is there
        trainer.strategy.barrier()
        task.generator.to(trainer.strategy.root_device)
        if isinstance(data, ShareDataModule):
            choose_masks(trainer, task.generator, data, self.folder)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the generator is too poor to vary what it was given.

        Args:
            trainer: Tells the process.
            pl_module: Has the generator.
        """
        task: Any = pl_module
        if self.data.mode == 'vary' and trainer.is_global_zero:
            found = measure_variation(task.generator, self.data.source)
            if found.poor:
                _log.warning(str(found))

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Any, *args: Any
    ) -> None:
        """Begin to write the samples of a batch that are not there yet.

        Args:
            trainer: Tells whether to stop.
            pl_module: Not needed.
            prediction: From :func:`draw_batch`.
            *args: Not needed: the prediction tells the numbers of its samples.

        Raises:
            OSError: If a sample of the batch before could not be written.
            SIGTERMException: After SIGTERM, when what is being written is whole.
        """
        self._settle(trainer)
        images, masks = (prediction[key].cpu().numpy() for key in ('image', 'mask'))
        missing, sure = prediction.get('missing'), prediction.get('confidence')
        source, batches = self.data.source, self.data.predict_dataset
        assert isinstance(batches, BatchDataset)
        for i, index in enumerate(prediction['index'].tolist()):
            if index in self.written:
                continue
            record: dict[str, Any] = {'index': index, 'seed': self.data.seed}
            record['clipped'] = float(prediction['clipped'][i])
            mask = masks[i].reshape(masks.shape[-2:])
            record |= batches.record(index, mask)
            place = {}
            if source is not None and not self.data.augment:
                place = source.place(index % len(source))
            assert self._pool is not None
            write = self._pool.submit(
                self.folder.write,
                self.data.sample_name(index),
                images[i],
                mask,
                record,
                place,
                None if missing is None else missing[i].cpu().numpy(),
                None if sure is None else sure[i].cpu().numpy(),
            )
            self._writing.append(write)

    def _settle(self, trainer: Trainer) -> None:
        """Wait until all samples that were given are written, or stop."""
        for write in self._writing:
            if not trainer.received_sigterm:
                write.result()
        if trainer.received_sigterm:
            self.stop()
            raise SIGTERMException(128 + signal.SIGTERM)
        self._writing = []

    def stop(self) -> None:
        """Wait until what was drawn is written."""
        if self._pool is not None:
            self._pool.shutdown()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop, so that what was drawn is kept."""
        self.stop()

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Finish the folder, also where Lightning skipped an empty loop."""
        self.finish(trainer)
        self.stop()

    def finish(self, trainer: Trainer) -> None:
        """Sort the manifest and write the data card, when all processes are done.

        Args:
            trainer: Tells the processes.

        Raises:
            OSError: If a sample could not be written.
            RuntimeError: If not a single sample was accepted.
        """
        self._settle(trainer)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self.folder.finish(data_card(self.folder.root, self.config))
            rank_zero_info(describe_samples(self.folder.root))


def describe_samples(root: Path) -> str:
    """Say how many drawn samples a folder has.

    Args:
        root: The folder, with a manifest.

    Returns:
        A sentence, and one of each class whose share was asked for, line by line.

    Raises:
        RuntimeError: If not a single sample was accepted.
    """
    counts = Counter(row.get('accepted', True) for row in manifest_lines(root))
    accepted, rejected = counts[True], counts[False]
    if not accepted:
        raise RuntimeError(
            f'{root} has no sample: all {rejected} were rejected for pixels that are '
            'not finite. Train the generator longer and draw into another folder.'
        )
    said = '1 sample is' if accepted == 1 else f'{accepted} samples are'
    text = f'{said} in {root}, {rejected} rejected.'
    return '\n'.join([text, *describe_shares(root)])


def _open_folder(task: Any, data: GenerationDataModule) -> PairWriter:
    """The folder of a datamodule, for the samples of a task's generator."""
    generator, folder = task.generator, Path(task.generator_folder)
    settings = {
        'generator': sha256(folder / WEIGHTS)[:16],
        'codec': sha256(folder / 'codec' / WEIGHTS)[:16],
        'seed': data.seed,
        'mode': data.mode,
        # whose content counts, not the name
        'source_files': data.source_digest,
        'strength': data.strength,
        'augment': data.augment,
        'size': None if data.size is None else list(data.size),
        'sampling': generator.config['sampling'],
        # batches of another size differ by float noise
        'batch_size': data.batch_size,
        **data.settings,
    }
    provenance = {
        'synthetic': True,
        'source': data.source_folder,
        'codec': generator.codec.name,
        'training': generator.config.get('training', {}),
    }
    return PairWriter(
        data.out, generator.codec.spec, provenance, settings, real=data.real
    )
