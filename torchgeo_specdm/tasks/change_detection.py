# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Trainer for change detection between two images with any number of bands."""

from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from torch import Tensor, nn
from torchgeo.models import FCSiamConc, FCSiamDiff

from ..choices import require_choice
from ..metrics.segmentation import SegmentationScores
from ..metrics.stitching import UNSEEN, Stitched, Stitcher
from ..models.changeformer import ChangeFormer
from ..models.padding import check_pair, pad_to_32
from ..models.siamcrnn import SiamCRNN
from ..pairs.geotiffs import write_class_raster
from ..pairs.spec import SampleSpec
from .pixelwise import PixelTask

#: The networks to choose from.
ModelName: TypeAlias = Literal['changeformer', 'siamcrnn', 'fcsiamdiff', 'fcsiamconc']

#: The losses to choose from.
LossName: TypeAlias = Literal['ce', 'ce+lovasz']

#: The encoder of a network that nobody chose one for.
_BACKBONES = {'changeformer': 'mit_b2'}

#: Position of the changed class where there are two.
_CHANGE = 1
#: Scores that are logged for each test scene, if there are two classes.
_BY_SCENE = ('change_f1', 'change_precision', 'change_recall')


class MultispectralChangeDetectionTask(PixelTask):
    """Change detection with the scores of the changed class beside the macro ones.

    A batch has ``image``, float (B, 2, C, H, W), normalised by the datamodule, and
    ``mask``, int64 (B, 1, H, W) or (B, H, W), class ids or ``ignore_index``; class 1
    is change. Any size of at least one pixel is taken.

    Logged for validation and test (``test_`` instead of ``val_``):

    * ``val_miou``, ``val_f1``: macro means over the classes that occur, as SpecDM
      reports them (docs/notes/networks.md); ``val_accuracy``: share of right pixels;
    * ``val_change_iou``, ``val_change_f1``, ``val_change_precision``,
      ``val_change_recall``: of class 1, as most others report them (with two classes);
    * ``val_iou/<class>``, ``val_loss``;
    * the same scores with ``stitched_`` after ``val_``, if the batches say in ``tile``
      where they lie (see :class:`~torchgeo_specdm.metrics.stitching.Stitcher`): there
      each pixel of a scene counts once, with the mean probabilities of all its tiles;
    * ``test_stitched_change_f1/<scene>``, and precision and recall alike (with two
      classes), of several test scenes whose names the data set tells in ``scenes``.

    In training, ``train_loss`` is logged at every step. Optimiser and schedule are
    those of :class:`~torchgeo_specdm.tasks.pixelwise.PixelTask`.
    """

    dates: ClassVar[int] = 2
    other_dates: ClassVar[str] = 'Use data of two dates, or a segmentation task.'
    # where maps are written belongs to a run, not to the model
    ignore = ('weights', 'out')

    # hyperparameters, as in TorchGeo's task: a YAML sets each
    def __init__(
        self,
        model: ModelName = 'changeformer',
        backbone: str | None = None,
        in_channels: int | None = None,
        num_classes: int | None = None,
        weights: bool | str = False,
        loss: LossName = 'ce',
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
        lr: float = 1e-4,
        warmup: float = 0.05,
        relu_logits: bool = False,
        out: str | None = None,
        freeze_backbone: bool = False,
    ) -> None:
        """Initialize a new MultispectralChangeDetectionTask instance.

        Args:
            model: :class:`~torchgeo_specdm.models.changeformer.ChangeFormer`,
                :class:`~torchgeo_specdm.models.siamcrnn.SiamCRNN`, or TorchGeo's
                fully-convolutional Siamese networks.
            backbone: ChangeFormer: ``'mit_b2'`` (None, as published) or ``'mit_b0'``;
                others: ``'resnet18'`` (None), ``'resnet34'``, ``'resnet50'`` or
                ``'resnet101'``; TorchGeo's networks take any encoder of
                segmentation_models_pytorch.
            in_channels: Number of bands of one date; None for that of the datamodule's
                ``spec``.
            num_classes: Number of classes; None for that of the datamodule's ``spec``.
            weights: Whether to fetch ImageNet weights for the encoder; or the name of
                weights of TorchGeo, such as ``'ResNet18_Weights.SENTINEL2_ALL_MOCO'``,
                which fetches them for FC-Siam networks; or a file to begin with: a
                checkpoint of this task with the same model and backbone, trained on
                other data, or what ``torchgeo-specdm convert`` wrote for ChangeFormer
                or SiamCRNN.
            loss: Cross-entropy, or its sum with 0.75 times the Lovasz loss, as
                SiamCRNN's authors train (docs/notes/networks.md).
            class_weights: Weight of each class in the cross-entropy, above 0;
                SiamCRNN's authors use [1, 10].
            ignore_index: Mask value of pixels without a label; None to read it from the
                ``spec`` if there is one.
            lr: Highest learning rate.
            warmup: Share of the steps with a growing learning rate, in [0, 1).
            relu_logits: ChangeFormer only: clip the logits at zero, as published.
            out: Folder for the predicted map of each scene, ``<scene>.tif``, that
                ``torchgeo test`` and ``torchgeo predict`` write; None for none.
            freeze_backbone: Whether the backbone keeps its weights.

        Raises:
            ValueError: If a choice is unknown or a value does not fit.
        """
        require_choice('model', model, get_args(ModelName))
        require_choice('loss', loss, get_args(LossName))
        # BaseTask keeps these out of the hyperparameters and builds the model
        self.weights = weights
        self.out = out
        self.stitcher = Stitcher()
        super().__init__()

    def build_network(self) -> nn.Module:
        """Build the network that the hyperparameters ask for.

        Returns:
            From (B, 2, C, H, W) of any size to logits (B, K, H, W).
        """
        given = self.hparams
        bands, classes = given['in_channels'], given['num_classes']
        fetch = self.weights is True
        backbone: Any = given['backbone'] or _BACKBONES.get(given['model'], 'resnet18')
        match given['model']:
            case 'changeformer':
                return ChangeFormer(
                    bands,
                    classes,
                    given['relu_logits'],
                    weights=fetch,
                    backbone=backbone,
                )
            case 'siamcrnn':
                return SiamCRNN(backbone, bands, classes, fetch)
        siamese = FCSiamDiff if given['model'] == 'fcsiamdiff' else FCSiamConc
        network = siamese(
            encoder_name=backbone,
            encoder_weights='imagenet' if fetch else None,
            in_channels=bands,
            classes=classes,
        )
        return _AnySizePair(network, bands)

    def evaluate(
        self, batch: dict[str, Tensor], split: str, scores: SegmentationScores
    ) -> Tensor:
        """Log the loss of a batch, count its pixels and remember where they lie.

        Args:
            batch: ``image`` (B, 2, C, H, W), ``mask``, and maybe ``tile``.
            split: 'val' or 'test'.
            scores: Scores that count the pixels.

        Returns:
            Logits (B, K, H, W), float32.
        """
        logits = super().evaluate(batch, split, scores)
        self._stitch(batch, logits)
        return logits

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Predict the class of each pixel.

        Args:
            batch: ``image`` (B, 2, C, H, W), and maybe ``tile``.
            batch_idx: Index of the batch.

        Returns:
            Class ids, int64 (B, H, W).
        """
        logits: Tensor = self(batch['image'])
        self._stitch(batch, logits)
        return logits.argmax(1)

    def summary(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Choose what is logged beside the IoU of each class.

        Args:
            values: Values of
                :class:`~torchgeo_specdm.metrics.segmentation.SegmentationScores`.

        Returns:
            Scalars by name.
        """
        found = super().summary(values)
        if self.hparams['num_classes'] == 2:
            names = {'iou': 'iou', 'f1': 'class_f1'}
            names |= {'precision': 'precision', 'recall': 'recall'}
            for name, key in names.items():
                found[f'change_{name}'] = values[key][_CHANGE]
        return found

    def log_scores(self, split: str, scores: SegmentationScores) -> None:
        """Log the scores of all tiles and of the scenes, and write the scenes.

        Args:
            split: 'val' or 'test'.
            scores: Scores that counted the pixels of the tiles.
        """
        super().log_scores(split, scores)
        found = self.stitcher.scenes()
        if found:
            self.log_values(f'{split}_stitched', self._count(*found.values()))
        if split == 'test':
            self._log_scenes(found)
            self._write_maps()
        self.stitcher.reset()

    def _count(self, *scenes: Stitched) -> dict[str, Tensor]:
        """Scores of stitched scenes, each pixel counted once."""
        total = SegmentationScores(self.hparams['num_classes'], UNSEEN)
        ignored = self.hparams['ignore_index']
        for prediction, mask in scenes:
            mask = mask if ignored is None else mask.where(mask != ignored, UNSEEN)
            total.update(prediction, mask.where(prediction != UNSEEN, UNSEEN))
        # the scenes were gathered already
        total.sync_on_compute = False
        return total.compute()

    def _log_scenes(self, found: dict[int, Stitched]) -> None:
        """Log the scores of each test scene: a single one may decide their total."""
        datamodule = getattr(self.trainer, 'datamodule', None)
        scenes = getattr(getattr(datamodule, 'test_dataset', None), 'scenes', None)
        if scenes is None or len(found) < 2:
            return
        for number, stitched in found.items():
            values, scene = self.summary(self._count(stitched)), scenes[number].name
            for name in [key for key in _BY_SCENE if key in values]:
                self.log(f'test_stitched_{name}/{scene}', values[name], sync_dist=True)

    def on_predict_epoch_end(self) -> None:
        """Write the predicted scenes."""
        self._write_maps()
        self.stitcher.reset()

    def _stitch(self, batch: dict[str, Tensor], logits: Tensor) -> None:
        """Remember the tiles of a batch, if it says where they lie."""
        if 'tile' in batch:
            self.stitcher.add(logits.softmax(1), batch['tile'], batch.get('mask'))
        elif self.out and (self.trainer.testing or self.trainer.predicting):
            raise ValueError(
                f'out={self.out!r} asks for maps, but the batches have no `tile` that '
                'says where in a scene they lie. Use OSCDDataModule, or leave out out.'
            )

    def _write_maps(self) -> None:
        """Write each stitched scene as a GeoTIFF of classes."""
        found = self.stitcher.scenes()
        if self.out is None or not self.trainer.is_global_zero:
            return
        Path(self.out).mkdir(parents=True, exist_ok=True)
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        predicting = self.trainer.predicting
        dataset = datamodule.predict_dataset if predicting else datamodule.test_dataset
        spec: SampleSpec = datamodule.spec
        for number, stitched in found.items():
            scene = dataset.scenes[number]
            write_class_raster(
                Path(self.out) / f'{scene.name}.tif',
                stitched.prediction.numpy(),
                spec,
                crs=scene.crs,
                transform=scene.transform,
            )


class _AnySizePair(nn.Module):
    """A Siamese network that needs sizes divisible by 32, made to take any."""

    def __init__(self, network: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.network = network
        self.in_channels = in_channels

    def forward(self, image: Tensor) -> Tensor:
        """From (B, 2, C, H, W) to logits (B, K, H, W)."""
        check_pair(image, self.in_channels)
        height, width = image.shape[-2:]
        padded = pad_to_32(image)
        if self.training and len(image) == 1 and padded.shape[-2:] == (32, 32):
            raise ValueError(
                f'a batch of one pair of {height}x{width} pixels leaves one value a '
                'channel, which batch normalisation cannot be trained on. Use a '
                'batch_size of 2 or more, or patches of more than 32 pixels.'
            )
        logits: Tensor = self.network(padded)
        return logits[..., :height, :width]
