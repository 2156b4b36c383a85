# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Trainer for the segmentation of images with any number of bands."""

import math
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ..compat import BaseTask
from ..datasets.spec import SampleSpec
from ..metrics.segmentation import SegmentationScores, count_labelled
from ..models.segformer import AnySize, Stem, band_mapper, segformer
from .guards import StepGuard

#: The networks to choose from.
ModelName: TypeAlias = Literal['segformer', 'unet', 'deeplabv3+']

#: The losses to choose from.
LossName: TypeAlias = Literal['ce', 'ce+dice']

_WEIGHT_DECAY = 0.01
_WARMUP_START = 1e-6
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class MultispectralSegmentationTask(
    StepGuard,
    BaseTask,  # type: ignore[misc,unused-ignore]
):
    """Semantic segmentation with macro scores, right at its edges.

    Beside TorchGeo's task it takes any image size, reads the number of bands and
    classes from the datamodule, and does not go on where nothing or nonsense would be
    trained (see :class:`~torchgeo_specdm.tasks.guards.StepGuard`).

    A batch has ``image``, float (B, C, H, W), normalised by the datamodule, and
    ``mask``, int64 (B, H, W) or (B, 1, H, W), class ids or ``ignore_index``. Binary
    tasks have two classes.

    Logged for validation and test (``test_`` instead of ``val_``):

    * ``val_miou``, ``val_f1``: means over the classes that occur in the masks or the
      predictions of the epoch; ``val_accuracy``: share of right pixels;
    * ``val_iou/<class>``: IoU of each class, NaN for a class that does not occur. The
      name is that of the datamodule's ``spec``, the class id without one;
    * ``val_loss``: mean over labelled pixels.

    In training, ``train_loss`` is logged at every step, and after an epoch
    ``train_unlabelled_batches``: the number of batches without a labelled pixel, whose
    loss is 0. For ``ModelCheckpoint``, use ``monitor: val_miou`` and ``mode: max``, as
    in the attributes of this class.

    The optimiser and its schedule are those of SegFormer (segformer.md): AdamW with
    weight decay .01 except on norms, linear warm-up, then linear decay to 0 at the last
    step of the run.
    """

    monitor = 'val_miou'
    mode = 'max'
    class_weights: Tensor | None

    def __init__(
        self,
        model: ModelName = 'segformer',
        backbone: str = 'mit_b0',
        in_channels: int | None = None,
        num_classes: int | None = None,
        stem: Stem = 'widen',
        weights: bool = False,
        loss: LossName = 'ce',
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
        lr: float = 6e-5,
        head_lr_factor: float = 10.0,
        warmup: float = 0.05,
    ) -> None:
        """Initialize a new MultispectralSegmentationTask instance.

        Args:
            model: The network; all take any image size.
            backbone: ``'mit_b0'`` ... ``'mit_b5'``, or another encoder that
                segmentation_models_pytorch has for the network, such as ``'resnet18'``
                (``'deeplabv3+'`` takes no ``'mit_...'``).
            in_channels: Number of bands; None for that of the datamodule's ``spec``.
            num_classes: Number of classes; None likewise.
            stem: ``'widen'`` or ``'map'``, how many bands get into a backbone made for
                three (see :func:`~torchgeo_specdm.models.segformer.segformer`). A
                ``'map'`` starts from the RGB bands if ``in_channels`` is read from the
                ``spec``, else at random.
            weights: Whether to fetch ImageNet weights for the backbone.
            loss: Cross-entropy, or its sum with soft Dice, which favours rare classes.
            class_weights: Weight of each class in the cross-entropy, above 0.
            ignore_index: Mask value of pixels without a label; None to read it from the
                ``spec`` if there is one. A class id leaves that class out of loss and
                scores.
            lr: Highest learning rate of the backbone. The default is for a pre-trained
                one; from scratch, 1e-3 with ``head_lr_factor=1`` is a fair start.
            head_lr_factor: Learning rate of all other layers, as a multiple of ``lr``.
            warmup: Share of the steps with a growing learning rate, in [0, 1).

        Raises:
            ValueError: If a choice is unknown or a value does not fit.
        """
        _require_choice('model', model, get_args(ModelName))
        _require_choice('stem', stem, get_args(Stem))
        _require_choice('loss', loss, get_args(LossName))
        if not 0 <= warmup < 1:
            raise ValueError(
                f'warmup={warmup} is a share of the steps and must be in [0, 1). Use '
                '0.05 for one step in twenty.'
            )
        # BaseTask keeps weights out of the hyperparameters and builds the model
        self.weights = weights
        self._rgb: tuple[int, int, int] | None = None
        super().__init__()

    def configure_models(self) -> None:
        """Build the network, if bands and classes are known already."""
        self.model: AnySize | None = None
        if self._is_resolved():
            self.model = _build(self.hparams, self.weights, self._rgb)

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
        self._dice = smp.losses.DiceLoss(
            'multiclass', ignore_index=self.hparams['ignore_index']
        )

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
        known = _resolve(self.hparams, spec if isinstance(spec, SampleSpec) else None)
        if any(self.hparams[name] != value for name, value in known.items()):
            self.save_hyperparameters(known)
            if self.model is None:
                self._rgb = spec.rgb if isinstance(spec, SampleSpec) else None
                self.configure_models()
            self.configure_losses()
            self.configure_metrics()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a training batch.

        Args:
            batch: See the class.
            batch_idx: Index of the batch.

        Returns:
            The loss, scalar.
        """
        loss, _, _, labelled = self._step(batch)
        self.log('train_loss', loss, batch_size=len(batch['image']))
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

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score a validation batch.

        Args:
            batch: See the class.
            batch_idx: Index of the batch.
        """
        self._evaluate(batch, 'val', self.val_scores)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score a test batch.

        Args:
            batch: See the class.
            batch_idx: Index of the batch.
        """
        self._evaluate(batch, 'test', self.test_scores)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Predict the class of each pixel.

        Args:
            batch: See the class; ``mask`` is not needed.
            batch_idx: Index of the batch.

        Returns:
            Class ids, int64 (B, H, W).
        """
        logits: Tensor = self(batch['image'])
        return logits.argmax(1)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation set."""
        self._log_scores('val', self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test set."""
        self._log_scores('test', self.test_scores)

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
        optimizer = AdamW(self._parameter_groups())
        share, total = self.hparams['warmup'], 0 if endless else int(steps)
        scheduler = LambdaLR(optimizer, partial(_factor, warmup=share, steps=total))
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }

    def _is_resolved(self) -> bool:
        return None not in (self.hparams['in_channels'], self.hparams['num_classes'])

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and head, norms and others: four groups with their own rates."""
        assert self.model is not None
        encoder = self.model.network.get_submodule('encoder')
        backbone = {id(p) for p in encoder.parameters()}
        norms = {
            id(p)
            for module in self.model.modules()
            if isinstance(module, _NORMS)
            for p in module.parameters()
        }
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for p in self.model.parameters():
            groups.setdefault((id(p) in backbone, id(p) in norms), []).append(p)
        lr, factor = self.hparams['lr'], self.hparams['head_lr_factor']
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
        mask = batch['mask'].long()
        if mask.ndim == 4 and mask.shape[1] == 1:
            mask = mask.squeeze(1)
        labelled = count_labelled(mask, self.hparams['num_classes'], ignore_index)
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
        if self.hparams['loss'] == 'ce+dice':
            loss = loss + self._dice(logits, mask)
        return loss, logits, mask, labelled

    def _evaluate(
        self, batch: dict[str, Tensor], split: str, scores: SegmentationScores
    ) -> None:
        loss, logits, mask, labelled = self._step(batch)
        # weighted by labelled pixels, so unlabelled batches do not lower the mean
        self.log(
            f'{split}_loss', loss, on_epoch=True, batch_size=labelled, sync_dist=True
        )
        scores.update(logits.argmax(1), mask)

    def _log_scores(self, split: str, scores: SegmentationScores) -> None:
        values = scores.compute()
        scores.reset()
        spec = getattr(getattr(self.trainer, 'datamodule', None), 'spec', None)
        names = getattr(spec, 'classes', range(len(values['iou'])))
        logged = {f'{split}_{key}': values[key] for key in ('miou', 'f1', 'accuracy')}
        for name, iou in zip(names, values['iou'], strict=True):
            logged[f'{split}_iou/{name}'] = iou
        # equal on all processes already; their mean silences Lightning's warning
        self.log_dict(logged, sync_dist=True)


def _build(given: Any, weights: bool, rgb: tuple[int, int, int] | None) -> AnySize:
    """The network that the hyperparameters ask for, for any image size."""
    backbone, stem = given['backbone'], given['stem']
    bands, classes = given['in_channels'], given['num_classes']
    if given['model'] == 'segformer':
        return segformer(backbone, bands, classes, stem, weights, rgb)
    mapper = band_mapper(stem, bands, rgb)
    architecture = smp.Unet if given['model'] == 'unet' else smp.DeepLabV3Plus
    network = architecture(
        encoder_name=backbone,
        encoder_weights='imagenet' if weights else None,
        in_channels=bands if mapper is None else 3,
        classes=classes,
    )
    return AnySize(network, bands, mapper)


def _resolve(given: Any, spec: SampleSpec | None) -> dict[str, int | None]:
    """Fill in from the spec what was not given, and compare what was."""
    names = ('in_channels', 'num_classes', 'ignore_index')
    values: dict[str, int | None] = {name: given[name] for name in names}
    if spec is not None:
        if spec.dates != 1:
            raise ValueError(
                f'the data has dates={spec.dates} images per sample, but segmentation '
                'takes one. Use a change detection task, or data of one date.'
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


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r} is not known. Use one of {list(choices)}.')
