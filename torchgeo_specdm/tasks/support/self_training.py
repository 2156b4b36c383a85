# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Self-training on images without labels: weak views teach strong ones."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ...datamodules.batch_mixing import cut_mix
from ...models.evaluating import evaluating
from ...pairs.valid import valid_pixels

#: Most that a strong view changes, in standard deviations of a band: gain and offset of
#: each band, uniform, and the noise of a pixel, normal.
_GAIN, _OFFSET, _NOISE = 0.3, 0.3, 0.2
#: Share of the strong views that get a rectangle of another one.
_CUT = 0.5


class SelfTraining(Callback):
    """Trains any segmentation task on images without labels, too.

    The method of FixMatch (Sohn et al. 2020) with CutMix between the strong views
    (French et al. 2020), for each batch of a
    :class:`~torchgeo_specdm.UnlabelledDataModule`: the network, as it is, reads the images
    without labels as the datamodule augments them, which is the weak view. Where it is
    sure of a class, that is the label of the pixel in the strong view of the same
    geometry, with other gains and offsets of its bands, noise, and a rectangle of another
    image; elsewhere the pixel stays without a label. The loss is that of the task: its
    mean over pixels with a label, real or read.

    The task must give logits (B, K, H, W) for a batch of images, K two or more, and have
    the ``ignore_index`` of the datamodule. Logged as ``train_pseudo_labelled``: the share
    of the pixels without a label that got one.
    """

    def __init__(self, threshold: float = 0.95) -> None:
        """Initialize a new SelfTraining instance.

        Args:
            threshold: Probability above which a class is taken for the label, in [0, 1).

        Raises:
            ValueError: If the threshold is out of range.
        """
        if not 0 <= threshold < 1:
            raise ValueError(
                f'threshold={threshold} is a probability and must be in [0, 1). Use '
                '0.95, or less if train_pseudo_labelled stays near 0.'
            )
        self.threshold = threshold
        self._seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a task that would take pixels without a label for a class.

        Raises:
            ValueError: If its ``ignore_index`` is not that of the datamodule.
        """
        self._seen = 0
        ignored = pl_module.hparams.get('ignore_index')
        data: Any = getattr(trainer, 'datamodule', None)
        wanted = getattr(getattr(data, 'spec', None), 'ignore_index', ignored)
        if ignored is None or ignored != wanted:
            raise ValueError(
                f'ignore_index={ignored} of {type(pl_module).__name__} must be the mask '
                f'value of pixels without a label, {wanted} here. Set it.'
            )

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Put strong views with the labels that were read into the batch."""
        image, mask = batch['image'], batch['mask']
        no_label: int = pl_module.hparams['ignore_index']
        alone = (mask == no_label).flatten(1).all(1)
        if not alone.any():
            return
        self._seen += int(alone.sum())
        weak = image[alone]
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            sure, label = _read(pl_module, weak).max(1)
        known = sure > self.threshold
        known &= valid_pixels(weak).reshape(len(weak), -1, *known.shape[1:]).all(1)
        share = known.float().mean()
        pl_module.log(
            'train_pseudo_labelled',
            share,
            on_step=False,
            on_epoch=True,
            batch_size=len(weak),
        )
        read = label.where(known, no_label).to(mask.dtype).reshape_as(mask[alone])
        views = cut_mix({'image': _strong(weak), 'mask': read}, _CUT)
        # new tensors: the loader may give its own again
        for key, view in views.items():
            batch[key] = batch[key].clone()
            batch[key][alone] = view

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to call a training without an image of this kind self-training.

        Raises:
            RuntimeError: If there was none.
        """
        if not self._seen:
            raise RuntimeError(
                'SelfTraining saw 0 images without labels, but needs some in the '
                'batches. Use UnlabelledDataModule.'
            )


def _read(task: LightningModule, image: Tensor) -> Tensor:
    """Probabilities (B, K, H, W) by the network as it predicts."""
    with evaluating(task):
        logits: Tensor = task(image)
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ValueError(
            f'{type(task).__name__} gives {tuple(logits.shape)}, but self-training needs '
            'logits (B, K, H, W) of two classes or more. Use a multiclass task.'
        )
    return logits.float().softmax(1)


def _strong(image: Tensor) -> Tensor:
    """The same geometry in another light, of images (B, ..., C, H, W)."""
    bands = (*image.shape[:-2], 1, 1)
    gain, offset = (2 * torch.rand(2, *bands, device=image.device) - 1).to(image.dtype)
    noise = torch.randn_like(image)
    light: Tensor = image * (1 + _GAIN * gain) + _OFFSET * offset
    return light + _NOISE * noise
