# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Features of images and masks, and a sample of fixed size of a stream of them."""

from typing import Any, NamedTuple, Self

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, max_pool2d, one_hot
from torchgeo.models import RCF, ResNet50_Weights, resnet50
from torchmetrics import Metric

from ..pairs.spec import SampleSpec
from ..pairs.valid import fill_missing, labelled_pixels

#: Sides of the random kernels; small ones see texture, large ones shapes.
_KERNELS = (3, 7)
#: Mean and standard deviation of red, green and blue of ImageNet's photos, in 0..1.
_PHOTOS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Side in pixels of the pictures that Inception was trained on.
_PHOTO_SIZE = 299
#: Length of the features of Inception and of ResNet-50.
_NETWORK_FEATURES = 2048
#: Mean and standard deviation, in reflectance x 10000, of each band of SSL4EO-S12, on
#: which the Sentinel-2 backbone was trained (the numbers are TorchGeo's).
_SSL4EO = {
    'B1': (1612.9, 791.0),
    'B2': (1397.6, 854.3),
    'B3': (1322.3, 878.7),
    'B4': (1373.1, 1144.9),
    'B5': (1561.0, 1127.5),
    'B6': (2108.4, 1164.2),
    'B7': (2390.7, 1276.0),
    'B8': (2318.7, 1249.5),
    'B8A': (2581.0, 1345.9),
    'B9': (837.7, 577.5),
    'B10': (22.0, 47.5),
    'B11': (2195.2, 1340.0),
    'B12': (1537.4, 1142.9),
}
#: Whole numbers from 0 to below this are exact in float64.
_EXACT = 2**53


class Extractor(nn.Module):
    """Turns planes (B, C, H, W) into features (B, num_features), float64.

    Planes are NaN where nothing is known. Features of a sample without anything to
    look at may be NaN.

    Attributes:
        num_features: Length of the features of one sample.
    """

    num_features: int

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation: statistics of a batch would move its features."""
        return super().train(False)


class RandomFeatures(Extractor):
    """Random convolutional features of all bands, or of one-hot masks.

    They need no download and no training, and are the same on every machine
    (docs/notes/torchgeo.md). They see spectra and texture and hardly notice blur
    (docs/notes/diffusion.md), so never show their distance without pictures.

    Args:
        channels: Number of bands or classes.
        features: Features of each kernel size.
        seed: Seed of the kernels, above 0 (TorchGeo ignores 0).
    """

    def __init__(self, channels: int, features: int = 32, seed: int = 1) -> None:
        """Make the kernels by lot."""
        super().__init__()
        self.num_features = len(_KERNELS) * features
        self.kernels = nn.ModuleList(
            RCF(channels, features, kernel_size=side, bias=0.0, seed=seed)
            for side in _KERNELS
        )

    @torch.no_grad()
    def forward(self, planes: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            planes: Standardised bands or classes (B, C, H, W); where a plane is NaN,
                no kernel is laid.

        Returns:
            Features (B, num_features), float64; NaN where no square of 7 pixels is
            known.
        """
        if min(planes.shape[-2:]) < max(_KERNELS):
            shape = (len(planes), self.num_features)
            return planes.new_full(shape, torch.nan, dtype=torch.float64)
        missing = planes.isnan().any(1, keepdim=True)
        # in half precision, real and synthetic differ by how they were rounded
        with torch.autocast(planes.device.type, enabled=False):
            planes = fill_missing(planes.float())
            parts = [_mean_response(kernel, planes, missing) for kernel in self.kernels]
        features = torch.cat(parts, 1).double()
        # where the large kernels find no room, nothing can be compared
        return features.where(~features.isnan().any(1, keepdim=True), torch.nan)


def _mean_response(kernel: nn.Module, planes: Tensor, missing: Tensor) -> Tensor:
    """Features (B, D) of one kernel size, from where all its pixels are known."""
    if not missing.any():
        features: Tensor = kernel(planes)
        return features
    weights: Any = kernel.weights
    found = conv2d(planes, weights, kernel.biases)  # type: ignore[arg-type]
    seen = max_pool2d(missing.float(), weights.shape[-1], stride=1) == 0
    found = torch.cat([found.clamp(min=0), -found.clamp(max=0)], 1) * seen
    return found.sum((2, 3)) / seen.sum((2, 3))


class InceptionFeatures(Extractor):
    """Features of red, green and blue in a network trained on photos.

    Only for comparison with others who look at red, green and blue: the weights are
    not those of any published Frechet distance, and the colours are stretched, so
    numbers are comparable with each other alone.

    Args:
        rgb: Channels of red, green and blue.
        pretrained: Download the weights of ImageNet; random weights are for tests.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, rgb: tuple[int, int, int], pretrained: bool = True) -> None:
        """Load the network."""
        super().__init__()
        self.rgb = rgb
        self.network = timm.create_model(
            'inception_v3.tf_in1k', pretrained=pretrained, num_classes=0
        )
        self.num_features = _NETWORK_FEATURES
        self.eval().requires_grad_(False)
        for name, values in zip(('mean', 'std'), _PHOTOS, strict=True):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    @torch.no_grad()
    def forward(self, planes: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            planes: Standardised bands (B, C, H, W).

        Returns:
            Features (B, num_features), float64.
        """
        with torch.autocast(planes.device.type, enabled=False):
            # brightness and contrast of a photo; the network wants 0..1 as -1..1
            colours = fill_missing(planes[:, self.rgb].float())
            photos = 2 * (colours * self.std + self.mean) - 1
            photos = interpolate(
                photos, (_PHOTO_SIZE, _PHOTO_SIZE), mode='bilinear', antialias=True
            )
            features: Tensor = self.network(photos)
        return features.double()


class Sentinel2Features(Extractor):
    """Features of up to 13 bands in a network trained on Sentinel-2 images.

    It is TorchGeo's ResNet-50 trained by MoCo on SSL4EO-S12. Bands are found by name,
    whatever their order. A band that the data lack has its average everywhere, and
    bands that Sentinel-2 lacks are left out. Pixels are not resized: the network was
    trained on pixels of 10 m.

    Args:
        bands: Names of the bands in channel order, such as ``B04`` or ``B4``.
        pretrained: Download the weights; random weights are for tests.

    Raises:
        ValueError: If none of the bands is one of Sentinel-2.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bands: tuple[str, ...], pretrained: bool = True) -> None:
        """Load the network and find the bands."""
        super().__init__()
        names = [band.upper().replace('B0', 'B') for band in bands]
        found = [(i, names.index(b)) for i, b in enumerate(_SSL4EO) if b in names]
        if not found:
            raise ValueError(
                f'bands={list(bands)} must hold Sentinel-2 bands, {list(_SSL4EO)}, for '
                "features='sentinel2'. Use features='random', which take any bands."
            )
        self.slots, self.channels = (list(part) for part in zip(*found, strict=True))
        weights = ResNet50_Weights.SENTINEL2_ALL_MOCO if pretrained else None
        self.network = resnet50(weights, in_chans=len(_SSL4EO), num_classes=0)
        self.num_features = _NETWORK_FEATURES
        self.eval().requires_grad_(False)
        mean, std = torch.tensor(list(_SSL4EO.values())).T.unsqueeze(-1).unsqueeze(-1)
        self.register_buffer('mean', mean / 10_000)
        self.register_buffer('std', std / 10_000)

    def complete(self, planes: Tensor) -> Tensor:
        """Put the bands where the network expects them, in its units.

        Args:
            planes: Standardised bands (B, C, H, W), filled where they are NaN.

        Returns:
            Reflectance (B, 13, H, W), float32, with the average and contrast of the
            images that the network was trained on.
        """
        batch, _, height, width = planes.shape
        whole = self.mean.new_zeros(batch, len(_SSL4EO), height, width)
        whole[:, self.slots] = fill_missing(planes[:, self.channels].float())
        return whole * self.std + self.mean

    @torch.no_grad()
    def forward(self, planes: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            planes: Standardised bands (B, C, H, W), of 32 pixels or more.

        Returns:
            Features (B, num_features), float64.
        """
        with torch.autocast(planes.device.type, enabled=False):
            features: Tensor = self.network(self.complete(planes))
        return features.double()


def make_extractor(name: str, spec: SampleSpec) -> Extractor:
    """Make the extractor of images that a user names.

    Args:
        name: ``random`` (all bands, no download), ``inception`` (red, green and blue)
            or ``sentinel2`` (bands by name); the last two download their weights.
        spec: Description of the samples.

    Returns:
        The extractor, for planes of :func:`band_planes`.

    Raises:
        ValueError: If the name is another one, or the bands do not suit it.
    """
    if name == 'random':
        return RandomFeatures(spec.num_bands)
    if name == 'inception':
        return InceptionFeatures(spec.rgb)
    if name == 'sentinel2':
        return Sentinel2Features(spec.bands)
    raise ValueError(
        f"features={name!r} must be 'random', 'inception' or 'sentinel2'. Use 'random' "
        'if nothing can be downloaded.'
    )


def band_planes(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Standardise images (B, C, H, W) with mean and std (C,) of real ones, float32.

    What is missing stays NaN.
    """
    return (images.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def mask_planes(masks: Tensor, num_classes: int) -> Tensor:
    """One plane for each class.

    Args:
        masks: Class positions (B, H, W), integer; other values are no label.
        num_classes: Number of classes.

    Returns:
        1 in the plane of the class, else 0, (B, num_classes, H, W), float32; pixels
        without a label are NaN in all planes.
    """
    known = labelled_pixels(masks, num_classes)
    planes = one_hot(masks.where(known, 0), num_classes).float()
    return planes.where(known[..., None], torch.nan).movedim(-1, 1)


class Features(NamedTuple):
    """Features of samples.

    Attributes:
        values: Features (N, D), float64.
        places: Number of the place that each sample was cut from (N,), int64.
    """

    values: Tensor
    places: Tensor


class FeatureSample(Metric):
    """A random sample of fixed size of the features of a stream.

    A hash of a sample's number decides whether it is kept: those with the smallest
    hashes are. So order, batches and processes do not matter, and a sample that comes
    twice, as a distributed sampler repeats some, counts once. Two streams with the
    same numbers, such as tiles and their reconstructions, keep the same ones, in the
    same order.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    rows: Tensor

    def __init__(self, num_features: int, size: int = 2000, seed: int = 0) -> None:
        """Initialize a new FeatureSample instance.

        Args:
            num_features: Length of the features of one sample.
            size: Most samples to keep, 1 or more.
            seed: Seed of the hash, 0 or more; another one keeps others.
        """
        super().__init__()
        self.seed = seed
        # hash, number, place and features of a sample in one row, so that they stay
        # together; rows in order of their hash, empty ones last
        empty = torch.full((size, 3 + num_features), torch.inf, dtype=torch.float64)
        self.add_state('rows', empty, dist_reduce_fx=_merge)

    def update(self, features: Tensor, index: Tensor, place: Tensor) -> None:
        """Offer the samples of a batch.

        Args:
            features: Features (B, D), finite, or all NaN where a sample shows nothing,
                which is passed over.
            index: Number of each sample in its set (B,), integer, 0 to 2**53 - 1.
            place: Number of the place that each sample was cut from (B,), integer, 0 to
                2**53 - 1.

        Raises:
            ValueError: If a number is out of range or a feature is not finite.
        """
        numbers = torch.stack([index, place], 1)
        if ((numbers < 0) | (numbers >= _EXACT)).any():
            raise ValueError(
                f'index and place are {int(numbers.min())}..{int(numbers.max())} but '
                'must be 0 to 2**53 - 1. Number samples and places from 0.'
            )
        shown = ~features.isnan().all(1)
        features, numbers = features[shown], numbers[shown]
        if not features.isfinite().all():
            raise ValueError(
                'features hold NaN or infinity but must be finite. Look for samples '
                'with such pixels, or for a standard deviation of 0.'
            )
        hashes = torch.from_numpy(_hash(numbers[:, 0].cpu().numpy(), self.seed))
        head = torch.cat([hashes[:, None].to(numbers.device), numbers.double()], 1)
        rows = torch.cat([head, features.double()], 1).to(self.rows.device)
        # once the sample is full, few of a batch can still come in
        rows = rows[rows[:, 0] <= self.rows[-1, 0]]
        if len(rows):
            self.rows = _smallest(torch.cat([self.rows, rows]), len(self.rows))

    def compute(self) -> Features:
        """Give the sample.

        Returns:
            Features of all samples seen, or of ``size`` of them, in order of their
            hash.
        """
        rows = self.rows[self.rows[:, 0].isfinite()]
        return Features(rows[:, 3:], rows[:, 2].long())


def _merge(states: Tensor) -> Tensor:
    """Merge the rows of processes (P, size, columns)."""
    return _smallest(states.flatten(0, 1), states.shape[1])


def _smallest(rows: Tensor, size: int) -> Tensor:
    """The rows of smallest hash, each number once, filled up with empty ones."""
    rows = rows[rows[:, 0].isfinite()]
    order = rows[:, 1].argsort(stable=True)
    rows = rows[order[rows[order, 0].argsort(stable=True)]]
    fresh = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    fresh[1:] = rows[1:, 1] != rows[:-1, 1]
    kept = rows[fresh][:size]
    empty = rows.new_full((size - len(kept), rows.shape[1]), torch.inf)
    return torch.cat([kept, empty])


def _hash(numbers: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Evenly spread whole numbers below 2**53 (SplitMix64), exact in float64."""
    key = _scramble(np.array([seed], np.uint64))
    mixed = _scramble(numbers.astype(np.uint64) ^ key)
    return (mixed >> np.uint64(11)).astype(np.float64)


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Different numbers become different ones, each bit depending on all."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
