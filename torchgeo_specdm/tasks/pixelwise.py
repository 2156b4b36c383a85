# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The common base of the tasks that give every pixel a class."""

import math
from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchgeo.models import get_weight

from ..compat import BaseTask
from ..datamodules.support.adapter import digital_numbers
from ..metrics.segmentation import SegmentationScores, count_labelled
from ..models.convert import load_weights
from ..pairs.spec import SampleSpec
from ..pairs.valid import fill_missing
from .support.guards import StepGuard
from .support.maps import ClassMapWriter
from .support.pictures import SHOWN, log_samples
from .support.trainer import can_fuse

_WEIGHT_DECAY = 0.01
_WARMUP_START = 1e-6
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
#: Weight of the Lovasz loss beside the cross-entropy (docs/notes/networks.md).
_LOVASZ_WEIGHT = 0.75


class PixelTask(
    StepGuard,
    BaseTask,  # type: ignore[misc,unused-ignore]
):
    """Training, scores and schedule of a task that gives every pixel a class.

    A subclass has the hyperparameters ``in_channels``, ``num_classes``, ``loss``,
    ``class_weights``, ``ignore_index``, ``lr``, ``warmup`` and ``freeze_backbone``
    (maybe ``head_lr_factor``), says in ``dates`` how many images a sample has, and builds
    its network in :meth:`build_network`. The first three are read from the
    datamodule's ``spec`` where they are None.

    The optimiser and its schedule are those of SegFormer (docs/notes/networks.md):
    AdamW with weight decay .01 except on norms, linear warm-up, then linear decay to 0
    at the last step of the run.
    """

    monitor = 'val_miou'
    mode = 'max'
    #: Images of one place in a sample, and the task for data that have others.
    dates: ClassVar[int] = 1
    other_dates: ClassVar[str] = ''
    #: Channels of red, green and blue, where a spec tells them.
    rgb: tuple[int, int, int] | None = None
    class_weights: Tensor | None
    #: Whether to fetch ImageNet weights; or TorchGeo's by name; or a file.
    weights: bool | str
    model: nn.Module | None

    @abstractmethod
    def build_network(self) -> nn.Module:
        """Build the network that the hyperparameters ask for.

        Returns:
            Takes a batch of images and gives logits (B, K, H, W); its backbone is the
            submodule ``encoder``, its own or that of its submodule ``network``.
        """

    def configure_models(self) -> None:
        """Build the network, if bands and classes are known already.

        Raises:
            RuntimeError: If its weights cannot be fetched.
            ValueError: If ``weights`` are those of another network.
        """
        self.model = None
        if not self._is_resolved():
            return
        try:
            self.model = self.build_network()
            if isinstance(self.weights, str):
                self._load_weights(self.weights)
        except OSError as error:
            backbone = self.hparams['backbone']
            raise RuntimeError(
                f'the weights of {backbone} cannot be fetched ({error}). Build '
                'the task once with network access, which keeps them in the cache, or '
                'set weights to false.'
            ) from error
        self._encoder().requires_grad_(not self.hparams['freeze_backbone'])

    def configure_losses(self) -> None:
        """Keep the class weights on the device.

        Raises:
            ValueError: If their number is not that of the classes, or one is not
                positive.
        """
        weights, classes = self.hparams['class_weights'], self.hparams['num_classes']
        if weights is not None and (
            classes not in (None, len(weights)) or min(weights) <= 0
        ):
            raise ValueError(
                f'class_weights={weights} must be one positive number for each of '
                f'{classes} classes. To leave a class out, use ignore_index.'
            )
        values = None if weights is None else torch.tensor(weights).float()
        self.register_buffer('class_weights', values, persistent=False)
        ignored = self.hparams['ignore_index']
        self._dice = smp.losses.DiceLoss('multiclass', ignore_index=ignored)
        self._lovasz = smp.losses.LovaszLoss('multiclass', ignore_index=ignored)

    def configure_metrics(self) -> None:
        """Build the scores, if the classes are known already."""
        if self._is_resolved():
            shared = self.hparams['num_classes'], self.hparams['ignore_index']
            self.val_scores = SegmentationScores(*shared)
            self.test_scores = SegmentationScores(*shared)

    def setup(self, stage: str) -> None:
        """Read from the datamodule's spec what was not given.

        What was read is saved with the hyperparameters, so a checkpoint loads without
        the datamodule.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: If bands or classes are not known, or not those of the data.
        """
        super().setup(stage)
        spec = getattr(getattr(self.trainer, 'datamodule', None), 'spec', None)
        spec = spec if isinstance(spec, SampleSpec) else None
        known = _resolve(self.hparams, spec, self.dates, self.other_dates)
        if any(self.hparams[name] != value for name, value in known.items()):
            self.save_hyperparameters(known)
            if self.model is None:
                self.rgb = None if spec is None else spec.rgb
                self.configure_models()
            self.configure_losses()
            self.configure_metrics()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a training batch.

        Args:
            batch: ``image`` and ``mask``, as the task describes them.
            batch_idx: Index of the batch.

        Returns:
            The loss, scalar.
        """
        loss, labelled = self.training_loss(batch)
        self.log('train_loss', loss, batch_size=len(batch['image']))
        # a tensor, which Lightning leaves where it is
        rate = torch.tensor(self.trainer.optimizers[0].param_groups[0]['lr'])
        self.log('lr', rate)
        self.log(
            'train_unlabelled_batches',
            float(labelled == 0),
            on_step=False,
            on_epoch=True,
            reduce_fx='sum',
            batch_size=1,
            sync_dist=True,
        )
        return loss

    def training_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        """Compute what is trained on, for networks with a loss of their own too.

        Args:
            batch: ``image`` and ``mask``, as the task describes them.

        Returns:
            The loss, scalar, 0 where nothing is labelled; and the number of labelled
            pixels.
        """
        loss, _, _, labelled = self._step(batch)
        return loss, labelled

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score a validation batch.

        Args:
            batch: ``image`` and ``mask``, as the task describes them.
            batch_idx: Index of the batch.
        """
        logits = self.evaluate(batch, 'val', self.val_scores)
        data: Any = getattr(self.trainer, 'datamodule', None)
        if batch_idx == 0 and data is not None:
            kept = {key: batch[key][:SHOWN] for key in ('image', 'mask')}
            kept['image'] = digital_numbers(data, kept['image'])
            kept['prediction'] = logits[:SHOWN].argmax(1)
            log_samples(self, 'image', lambda: kept, data.plot)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score a test batch.

        Args:
            batch: ``image`` and ``mask``, as the task describes them.
            batch_idx: Index of the batch.
        """
        self.evaluate(batch, 'test', self.test_scores)

    def forward(self, image: Tensor) -> Any:
        """Run the network, with missing values filled.

        Args:
            image: Normalised images, NaN where missing.

        Returns:
            Logits (B, K, H, W), float.
        """
        return self.model(fill_missing(image))  # type: ignore[misc]

    def configure_callbacks(self) -> list[Callback]:
        """Bring along what writes the maps of ``torchgeo predict``."""
        return [ClassMapWriter()]

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Predict the class of each pixel.

        Args:
            batch: ``image``, as the task describes it; ``mask`` is not needed.
            batch_idx: Index of the batch.

        Returns:
            Class ids, int64 (B, H, W).
        """
        logits: Tensor = self(batch['image'])
        return logits.argmax(1)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation set."""
        self.log_scores('val', self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test set."""
        self.log_scores('test', self.test_scores)

    def on_fit_end(self) -> None:
        """Say where the weights are, and how to test them."""
        super().on_fit_end()
        # the best ones, or the last ones where no score chooses
        saver: Any = self.trainer.checkpoint_callback
        path = saver and (saver.best_model_path or saver.last_model_path)
        config = Path(self.trainer.log_dir or '', 'config.yaml')
        if path and config.is_file():
            rank_zero_info(
                f'The weights are in {path}. Score them on the test set: '
                f'torchgeo test --config {config} --ckpt_path {path}'
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and linear decay over all steps of the run.

        Returns:
            Optimizer and learning rate scheduler.

        Raises:
            ValueError: If the run has no known end.
        """
        steps = self.trainer.estimated_stepping_batches
        endless = steps < 0 or math.isinf(steps)
        # Lightning calls a run of no batch endless too; StepGuard says what is wrong
        if endless and self.trainer.limit_train_batches != 0:
            raise ValueError(
                f'max_steps={self.trainer.max_steps} and '
                f'max_epochs={self.trainer.max_epochs} give the run no end, but the '
                'learning rate falls to 0 at the last step. Set one of them.'
            )
        optimizer = AdamW(self._parameter_groups(), fused=can_fuse(self.trainer))
        share, total = self.hparams['warmup'], 0 if endless else int(steps)
        scheduler = LambdaLR(optimizer, partial(_factor, warmup=share, steps=total))
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }

    def _encoder(self) -> nn.Module:
        """The backbone of the network."""
        network: Any = getattr(self.model, 'network', self.model)
        encoder: nn.Module = network.get_submodule('encoder')
        return encoder

    def _load_weights(self, weights: str) -> None:
        """Start from TorchGeo's weights of a backbone, or from a file."""
        assert self.model is not None
        if '_Weights.' not in weights:
            load_weights(self.model, weights)
            return
        try:
            found = get_weight(weights).get_state_dict(progress=True)
            self._encoder().load_state_dict(found)
        except (RuntimeError, ValueError) as error:
            given, reason = self.hparams, str(error).splitlines()[-1].strip()
            raise ValueError(
                f'weights={weights!r} must be weights of TorchGeo for the backbone '
                f'{given["backbone"]} and {given["in_channels"]} bands ({reason}). Use '
                'the backbone and the bands that they were made for.'
            ) from error

    def _is_resolved(self) -> bool:
        return None not in (self.hparams['in_channels'], self.hparams['num_classes'])

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and head, norms and others: four groups with their own rates."""
        assert self.model is not None
        backbone = {id(p) for p in self._encoder().parameters()}
        norms = {
            id(p)
            for module in self.model.modules()
            if isinstance(module, _NORMS)
            for p in module.parameters()
        }
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for p in self.model.parameters():
            groups.setdefault((id(p) in backbone, id(p) in norms), []).append(p)
        lr, factor = self.hparams['lr'], self.hparams.get('head_lr_factor', 1.0)
        return [
            {
                'params': params,
                'lr': lr if in_backbone else lr * factor,
                'weight_decay': 0.0 if is_norm else _WEIGHT_DECAY,
            }
            for (in_backbone, is_norm), params in groups.items()
        ]

    def _step(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, int]:
        """Loss, logits (B, K, H, W), mask (B, H, W) and number of labelled pixels."""
        ignore_index = self.hparams['ignore_index']
        mask, labelled = self._read_mask(batch)
        # float32: the sum over a large batch of half-precision terms is not exact
        logits = self(batch['image']).float()
        if labelled == 0:
            # the mean over no pixel is NaN; this 0 still has a gradient, as DDP needs
            return logits.sum() * 0.0, logits, mask, labelled
        loss = F.cross_entropy(
            logits,
            mask,
            weight=self.class_weights,
            ignore_index=-100 if ignore_index is None else ignore_index,
        )
        match self.hparams['loss']:
            case 'ce+dice':
                loss = loss + self._dice(logits, mask)
            case 'ce+lovasz':
                loss = loss + _LOVASZ_WEIGHT * self._lovasz(logits, mask)
        return loss, logits, mask, labelled

    def _read_mask(self, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        """Mask, int64 (B, H, W), and its number of labelled pixels."""
        mask = batch['mask'].long()
        if mask.ndim == 4 and mask.shape[1] == 1:
            mask = mask.squeeze(1)
        given = self.hparams
        return mask, count_labelled(mask, given['num_classes'], given['ignore_index'])

    def evaluate(
        self, batch: dict[str, Tensor], split: str, scores: SegmentationScores
    ) -> Tensor:
        """Log the loss of a batch and count its pixels.

        Args:
            batch: ``image`` and ``mask``, as the task describes them.
            split: 'val' or 'test'.
            scores: Scores that count the pixels.

        Returns:
            Logits (B, K, H, W), float32.
        """
        loss, logits, mask, labelled = self._step(batch)
        # weighted by labelled pixels, so unlabelled batches do not lower the mean
        self.log(
            f'{split}_loss', loss, on_epoch=True, batch_size=labelled, sync_dist=True
        )
        scores.update(logits.argmax(1), mask)
        return logits

    def log_scores(self, split: str, scores: SegmentationScores) -> None:
        """Log the scores of all pixels counted, and forget them.

        Args:
            split: 'val' or 'test'.
            scores: Scores that counted the pixels.
        """
        values = scores.compute()
        scores.reset()
        self.log_values(split, values)

    def log_values(self, prefix: str, values: dict[str, Tensor]) -> None:
        """Log the scores of an epoch: means, and the IoU of each class.

        Args:
            prefix: 'val', 'test' or longer.
            values: Values of
                :class:`~torchgeo_specdm.metrics.segmentation.SegmentationScores`.
        """
        spec = getattr(getattr(self.trainer, 'datamodule', None), 'spec', None)
        names = getattr(spec, 'classes', range(len(values['iou'])))
        logged = self.summary(values)
        for name, iou in zip(names, values['iou'], strict=True):
            logged[f'iou/{name}'] = iou
        # equal on all processes already; their mean silences Lightning's warning
        prefixed = {f'{prefix}_{name}': value for name, value in logged.items()}
        self.log_dict(prefixed, sync_dist=True)

    def summary(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Choose what is logged beside the IoU of each class.

        Args:
            values: Values of
                :class:`~torchgeo_specdm.metrics.segmentation.SegmentationScores`.

        Returns:
            Scalars by name.
        """
        return {key: values[key] for key in ('miou', 'f1', 'accuracy')}


def _resolve(
    given: Any, spec: SampleSpec | None, dates: int, other_dates: str
) -> dict[str, int | None]:
    """Fill in from the spec what was not given, and compare what was."""
    names = ('in_channels', 'num_classes', 'ignore_index')
    values: dict[str, int | None] = {name: given[name] for name in names}
    if spec is not None:
        if spec.dates != dates:
            raise ValueError(
                f'the data has dates={spec.dates} images per sample, but this task '
                f'takes {dates}. {other_dates}'
            )
        found = (spec.num_bands, spec.num_classes, spec.ignore_index)
        for name, value in zip(names, found, strict=True):
            values[name] = value if values[name] is None else values[name]
            if name != 'ignore_index' and values[name] != value:
                raise ValueError(
                    f'{name}={values[name]} of the task must be that of the data, '
                    f'{value} ({list(spec.bands)} and {list(spec.classes)}). Leave it '
                    'out to take it from the data, or use data of the same kind.'
                )
    if values['in_channels'] is None or values['num_classes'] is None:
        raise ValueError(
            f'in_channels={values["in_channels"]} and '
            f'num_classes={values["num_classes"]} must be known before the network is '
            'built. Give both to the task, or use a datamodule with a `spec`.'
        )
    return values


def _factor(step: int, warmup: float, steps: int) -> float:
    """Learning rate after ``step`` of ``steps`` steps, as a share of the highest."""
    decay = max(0.0, 1 - step / max(steps, 1))
    rising = warmup * steps
    if step >= rising:
        return decay
    return decay * (_WARMUP_START + (1 - _WARMUP_START) * step / rising)
