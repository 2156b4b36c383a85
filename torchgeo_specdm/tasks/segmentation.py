# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Trainer for the segmentation of images with any number of bands."""

from typing import Any, ClassVar, Literal, TypeAlias, get_args

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from ..choices import require_choice
from ..datamodules.support.mixing_checks import require_unseen
from ..diffusion import Generator
from ..models.denoiser import DenoiserSegmenter
from ..models.pfsegnet import PFSegNet, pfsegnet_loss
from ..models.segformer import AnySize, Stem, band_mapper, segformer
from ..pairs.spec import SampleSpec
from ..pairs.valid import fill_missing
from .pixelwise import PixelTask

#: The networks to choose from.
ModelName: TypeAlias = Literal[
    'segformer', 'pfsegnet', 'unet', 'deeplabv3+', 'denoiser'
]

#: The losses to choose from.
LossName: TypeAlias = Literal['ce', 'ce+dice']


class MultispectralSegmentationTask(PixelTask):
    """Semantic segmentation with macro scores, right at its edges.

    Beside TorchGeo's task it takes any image size, reads the number of bands and
    classes from the datamodule, and does not go on where nothing or nonsense would be
    trained (see :class:`~torchgeo_specdm.tasks.support.guards.StepGuard`).

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

    The optimiser and its schedule are those of
    :class:`~torchgeo_specdm.tasks.pixelwise.PixelTask`.
    """

    other_dates: ClassVar[str] = 'Use a change detection task, or data of one date.'

    # hyperparameters, as in TorchGeo's task: a YAML sets each
    def __init__(
        self,
        model: ModelName = 'segformer',
        backbone: str = 'mit_b0',
        in_channels: int | None = None,
        num_classes: int | None = None,
        stem: Stem = 'widen',
        weights: bool | str = False,
        loss: LossName = 'ce',
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
        lr: float = 6e-5,
        head_lr_factor: float = 10.0,
        warmup: float = 0.05,
        freeze_backbone: bool = False,
    ) -> None:
        """Initialize a new MultispectralSegmentationTask instance.

        Args:
            model: The network; all take any image size.
            backbone: ``'mit_b0'`` ... ``'mit_b5'``, or another encoder that
                segmentation_models_pytorch has for the network, such as ``'resnet18'``
                (``'deeplabv3+'`` takes no ``'mit_...'``). For ``'pfsegnet'``, one of
                :class:`~torchgeo_specdm.models.pfsegnet.PFSegNet`, as ``'resnet50s'``.
                For ``'denoiser'``, the folder of a generator of the same bands (see
                :class:`~torchgeo_specdm.models.denoiser.DenoiserSegmenter`), which must
                not have seen validation or test samples.
            in_channels: Number of bands; None for that of the datamodule's ``spec``.
            num_classes: Number of classes; None for that of the datamodule's ``spec``.
            stem: ``'widen'`` or ``'map'``, how many bands get into a backbone made for
                three (see :func:`~torchgeo_specdm.models.segformer.segformer`). A
                ``'map'`` starts from the RGB bands if ``in_channels`` is read from the
                ``spec``, else at random.
            weights: Whether to fetch ImageNet weights for the backbone; or the name of
                weights of TorchGeo, such as ``'ResNet18_Weights.SENTINEL2_ALL_MOCO'``,
                which fetches them; or a file to begin with: a checkpoint of this task
                with the same model and backbone, trained on other data, or what
                ``torchgeo-specdm convert pfsegnet`` wrote.
            loss: Cross-entropy, or its sum with soft Dice, which favours rare classes.
                ``'pfsegnet'`` trains on the cross-entropy of the hard pixels and on
                edges (see :func:`~torchgeo_specdm.models.pfsegnet.pfsegnet_loss`); its
                ``val_loss`` is that of all networks.
            class_weights: Weight of each class in the cross-entropy, above 0.
            ignore_index: Mask value of pixels without a label; None to read it from the
                ``spec`` if there is one. A class id leaves that class out of loss and
                scores.
            lr: Highest learning rate of the backbone. The default is for a pre-trained
                one; from scratch, 1e-3 with ``head_lr_factor=1`` is a fair start.
            head_lr_factor: Learning rate of all other layers, as a multiple of ``lr``.
            warmup: Share of the steps with a growing learning rate, in [0, 1).
            freeze_backbone: Whether the backbone keeps its weights.

        Raises:
            ValueError: If a choice is unknown or a value does not fit.
        """
        require_choice('model', model, get_args(ModelName))
        require_choice('stem', stem, get_args(Stem))
        require_choice('loss', loss, get_args(LossName))
        if not 0 <= warmup < 1:
            raise ValueError(
                f'warmup={warmup} is a share of the steps and must be in [0, 1). Use '
                '0.05 for one step in twenty.'
            )
        # BaseTask keeps weights out of the hyperparameters and builds the model
        self.weights = weights
        super().__init__()

    def setup(self, stage: str) -> None:
        """Read from the datamodule what was not given; match a denoiser to it.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: If bands or classes are not those of the data, or a denoiser was
                trained on validation or test samples.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, 'datamodule', None)
        if stage != 'fit' or not isinstance(self.model, DenoiserSegmenter) or not data:
            return
        spec, root = getattr(data, 'spec', None), self.hparams['backbone']
        if isinstance(spec, SampleSpec):
            named = type(data).__name__
            self.model.codec.spec.require_match(spec, root, named, ['bands', 'scale'])
        self.model.set_scaling(data.mean, data.std)
        require_unseen(data, self.model.seen, root)

    def build_network(self) -> nn.Module:
        """Build the network that the hyperparameters ask for.

        Returns:
            From (B, C, H, W) of any size to logits (B, K, H, W).
        """
        given = self.hparams
        backbone, stem = given['backbone'], given['stem']
        bands, classes = given['in_channels'], given['num_classes']
        fetch = self.weights is True
        if given['model'] == 'denoiser':
            if self.weights or stem != 'widen':
                raise ValueError(
                    f'weights={self.weights} and stem={stem!r} are of other networks: a '
                    'denoiser has bands and weights of its own. Leave both out.'
                )
            return DenoiserSegmenter(Generator.load(backbone), classes)
        if given['model'] == 'segformer':
            return segformer(backbone, bands, classes, stem, fetch, self.rgb)
        if given['model'] == 'pfsegnet':
            return PFSegNet(backbone, bands, classes, stem, fetch, self.rgb)
        mapper = band_mapper(stem, bands, self.rgb)
        architecture = smp.Unet if given['model'] == 'unet' else smp.DeepLabV3Plus
        network = architecture(
            encoder_name=backbone,
            encoder_weights='imagenet' if fetch else None,
            in_channels=bands if mapper is None else 3,
            classes=classes,
        )
        return AnySize(network, bands, mapper)

    def training_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        """Compute what is trained on: for PFSegNet, its own loss.

        Args:
            batch: ``image`` (B, C, H, W) and ``mask`` (B, H, W) or (B, 1, H, W).

        Returns:
            The loss, scalar, 0 where nothing is labelled; and the number of labelled
            pixels.
        """
        if not isinstance(self.model, PFSegNet):
            return super().training_loss(batch)
        mask, labelled = self._read_mask(batch)
        found = self.model.forward_with_edges(fill_missing(batch['image']))
        # float32, and a 0 with a gradient, for the reasons of every task
        logits, edges = (x.float() for x in found)
        if labelled == 0:
            return (logits.sum() + edges.sum()) * 0.0, labelled
        ignored = self.hparams['ignore_index']
        loss = pfsegnet_loss(logits, edges, mask, self.class_weights, ignored)
        if self.hparams['loss'] == 'ce+dice':
            loss = loss + self._dice(logits, mask)
        return loss, labelled
