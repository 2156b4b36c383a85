# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The common base of codecs: a labelled sample to one latent tensor, and back."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, one_hot

from ..metrics.spectral import mean_spectral_angle
from ..pairs.spec import SampleSpec
from ..pairs.valid import fill_missing, labelled_pixels
from .windows import in_windows

Sample = Mapping[str, Tensor]

#: Scaled pixel values are clipped here. The bulk lies in -1..1, but bright roofs, clouds
#: and snow lie far beyond; a clip at 1.5 alone cost an RMSE of .009 on held-out patches
#: (docs/notes/autoencoder.md).
_CLIP = 4.0
#: Percentiles of a band that become -1 and +1.
_PERCENTILES = (0.5, 99.5)
#: Percentiles are taken of at most this many pixels of a band.
_MOST_PIXELS = 1_000_000
#: A band that varies less than this share of its level is constant but for rounding.
_LEAST_RANGE = 1e-4
#: Values of a band lie between this and its negative until their range is measured.
_MOST = torch.finfo(torch.float32).max


class Reconstruction(NamedTuple):
    """The result of a pass through an autoencoder.

    Attributes:
        images: Scaled images (B, T, C, H, W).
        logits: Class scores (B, K, H, W).
        kl: Mean over latent elements of the KL divergence from a unit Gaussian.
    """

    images: Tensor
    logits: Tensor
    kl: Tensor


class Codec(nn.Module, ABC):
    """Turns samples into latents whose channels are named slices, the streams.

    A subclass says how scaled images and masks become a raw latent and back. Here
    are the parts all share: band scaling, latent standardisation, size checks and
    the loss.

    Args:
        spec: Description of a sample.
        settings: The constructor arguments of the subclass, to be saved.
        streams: Channels of each stream, in order.
        factor: Pixels of a latent cell's side.
    """

    #: The name in configurations.
    name: ClassVar[str]
    #: Whether there is something to learn in stage 1.
    trainable: ClassVar[bool] = True

    center: Tensor
    half_range: Tensor
    latent_mean: Tensor
    latent_std: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(
        self,
        spec: SampleSpec,
        settings: Mapping[str, Any],
        streams: Mapping[str, int],
        factor: int,
    ) -> None:
        """Prepare the buffers; statistics are NaN until they are measured."""
        super().__init__()
        self.spec = spec
        self.settings = dict(settings)
        self.factor = factor
        self.streams: dict[str, slice] = {}
        end = 0
        for stream, channels in streams.items():
            self.streams[stream] = slice(end, end + channels)
            end += channels
        self.latent_channels = end
        self._measured = False
        nan = float('nan')
        self.register_buffer('center', torch.full((spec.num_bands,), nan))
        self.register_buffer('half_range', torch.full((spec.num_bands,), nan))
        self.register_buffer('latent_mean', torch.full((end,), nan))
        self.register_buffer('latent_std', torch.full((end,), nan))
        self.register_buffer('lowest', torch.full((spec.num_bands,), -_MOST))
        self.register_buffer('highest', torch.full((spec.num_bands,), _MOST))

    @abstractmethod
    def to_latent(self, images: Tensor, mask: Tensor) -> Tensor:
        """Encode without standardisation.

        Args:
            images: Scaled images (B, T, C, H, W).
            mask: Class positions (B, H, W); other values mean "no label".

        Returns:
            Raw latents (B, D, h, w).
        """

    @abstractmethod
    def from_latent(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Decode raw latents.

        Args:
            latent: Raw latents (B, D, h, w).

        Returns:
            Scaled images (B, T, C, H, W) and class scores (B, K, H, W).
        """

    @abstractmethod
    def reconstruct(self, images: Tensor, mask: Tensor) -> Reconstruction:
        """Encode with sampled posteriors, and decode, with gradients."""

    def encode(self, sample: Sample, window: tuple[int, int] | None = None) -> Tensor:
        """Encode a batch; posterior modes, each channel with mean 0 and std 1.

        Args:
            sample: ``image`` in digital numbers (B, C, H, W) or (B, T, C, H, W) and
                ``mask`` (B, H, W) or (B, 1, H, W).
            window: Height and width in pixels of the windows that larger samples are
                encoded in; None encodes them whole.

        Returns:
            Latents (B, D, H / factor, W / factor).

        Raises:
            ValueError: If the size or number of bands does not fit.
            RuntimeError: If the statistics have not been measured.
        """
        self.require_statistics()
        self._require_fit(sample)

        def network(image: Tensor, mask: Tensor) -> Tensor:
            raw = self.to_latent(*self.prepare({'image': image, 'mask': mask}))
            return (raw - _channels(self.latent_mean)) / _channels(self.latent_std)

        parts = [sample['image'], sample['mask']]
        return in_windows(network, parts, window, self.factor)

    def decode(
        self, latent: Tensor, window: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """Decode a batch.

        Args:
            latent: Latents from :meth:`encode` or from a denoiser.
            window: Height and width in cells of the windows that larger latents are
                decoded in; None decodes them whole.

        Returns:
            ``image``, float32 digital numbers (B, C, H, W), or (B, T, C, H, W) with T
            dates, not yet rounded; ``mask``, int64 (B, H, W), or (B, 1, H, W).
        """
        self.require_statistics()

        def network(latent: Tensor) -> Tensor:
            raw = latent * _channels(self.latent_std) + _channels(self.latent_mean)
            images, logits = self.from_latent(raw)
            return torch.cat([self._digital_numbers(images).flatten(1, 2), logits], 1)

        joined = in_windows(network, [latent], window)
        classes = self.spec.num_classes
        images = rearrange(
            joined[:, :-classes], 'b (t c) h w -> b t c h w', t=self.spec.dates
        )
        return self._as_sample(images, joined[:, -classes:])

    def limit(self, image: Tensor) -> Tensor:
        """Clip values that were drawn to what the training set showed of their band.

        Args:
            image: Digital numbers (B, C, H, W) or (B, T, C, H, W).

        Returns:
            The same, with values that are not finite left as they are.
        """
        inside = image.clamp(_bands(self.lowest), _bands(self.highest))
        return inside.where(image.isfinite(), image)

    def roundtrip(self, sample: Sample) -> tuple[dict[str, Tensor], Tensor]:
        """Encode and decode a batch without gradients, as stage 2 will see it.

        Returns:
            The sample as in :meth:`decode` and the class scores (B, K, H, W).
        """
        with torch.no_grad():
            images, logits = self.from_latent(self.to_latent(*self.prepare(sample)))
        return self._as_sample(self._digital_numbers(images), logits), logits

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        """The stage-1 loss of a batch (SpecDM, Eq. 1 and 2).

        Image: mean L1 of scaled pixels + ``sad_weight`` x mean spectral angle of
        reflectance; mask: cross-entropy; and ``kl_weight`` x KL for all streams.

        Args:
            sample: ``image`` in digital numbers (B, C, H, W) or (B, T, C, H, W) and
                ``mask`` (B, H, W) or (B, 1, H, W).

        Returns:
            ``loss`` and its parts ``l1``, ``sad`` (radians), ``mask`` and ``kl``.
        """
        images, mask = self.prepare(sample)
        output = self.reconstruct(images, mask)
        # missing values teach nothing, and a blank spectrum has no angle
        valid = sample['image'].reshape(images.shape).isfinite()
        apart = (output.images - images).abs()
        l1 = apart.where(valid, 0).sum() / valid.sum().clamp(min=1)
        whole = valid.all(2, keepdim=True)
        sad = mean_spectral_angle(
            self.reflectance(output.images),
            self.reflectance(images).where(whole, 0),
            dim=2,
        )
        mask_loss = self.mask_loss(output.logits, mask)
        loss = (
            l1
            + self.settings.get('sad_weight', 0) * sad
            + mask_loss
            + self.settings.get('kl_weight', 0) * output.kl
        )
        return {'loss': loss, 'l1': l1, 'sad': sad, 'mask': mask_loss, 'kl': output.kl}

    def mask_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Mean cross-entropy over labelled pixels; 0 if none has a label."""
        target = mask.where(self.labelled(mask), -100)
        total = cross_entropy(
            logits.float(), target, ignore_index=-100, reduction='sum'
        )
        return total / (target >= 0).sum().clamp(min=1)

    def prepare(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Check a batch and scale its images.

        Args:
            sample: ``image`` in digital numbers (B, C, H, W) or (B, T, C, H, W) and
                ``mask`` (B, H, W) or (B, 1, H, W).

        Returns:
            Scaled images (B, T, C, H, W), filled where they are missing, and the mask
            (B, H, W).

        Raises:
            ValueError: If the bands or sizes do not fit.
        """
        images, mask = self._require_fit(sample)
        center, half = _bands(self.center), _bands(self.half_range)
        scaled = ((images - center) / half).clamp(-_CLIP, _CLIP)
        return fill_missing(scaled), mask

    def blank_image(self, mask: Tensor) -> Tensor:
        """Mid-range images for masks, where only the masks matter.

        Args:
            mask: (B, H, W) or (B, 1, H, W).

        Returns:
            Digital numbers (B, T, C, H, W).
        """
        shape = (len(mask), self.spec.dates, -1, *mask.shape[-2:])
        return _bands(self.center).expand(shape)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the latent of an image.

        Raises:
            ValueError: If the image's size is no multiple of the factor.
        """
        if height % self.factor or width % self.factor:
            raise ValueError(
                f'Patches of {height} x {width} pixels do not fit this codec: both '
                f'sides must be multiples of {self.factor}. Crop them, for example '
                f'with patch_size={height // self.factor * self.factor or self.factor}.'
            )
        return height // self.factor, width // self.factor

    def reflectance(self, images: Tensor) -> Tensor:
        """Turn scaled images (B, T, C, H, W) into reflectance, in float32."""
        return self.spec.reflectance(self._digital_numbers(images))

    def labelled(self, mask: Tensor) -> Tensor:
        """Where a mask has a class, of the same shape."""
        return labelled_pixels(mask, self.spec.num_classes)

    def coverage(self, sample: Sample) -> Tensor:
        """Share of each latent cell, in each stream, that is known.

        Missing values and pixels without a label are filled before they are encoded,
        so a latent is true to this share only.

        Args:
            sample: A batch with ``image`` and ``mask`` (see :meth:`encode`).

        Returns:
            Shares in 0..1 (B, S, H / factor, W / factor) for S streams: valid values
            of an image's pixels and bands, labelled pixels of a mask, and both in turn
            where image and mask share a stream.
        """
        mask = sample['mask'].flatten(0, -3)
        images = sample['image'].reshape(len(mask), -1, *sample['image'].shape[-3:])
        valid = images.isfinite().float().mean(2)
        label = self.labelled(mask).float()[:, None]
        if len(self.streams) == 1:
            known = valid.mean(1, keepdim=True) * label
        else:
            known = torch.cat([valid, label], 1)
        return avg_pool2d(known, self.factor)

    def one_hot(self, mask: Tensor) -> Tensor:
        """Masks (B, H, W) as -1 or +1 for each class (B, K, H, W).

        Pixels without a label are filled from those around, and -1 without any.
        """
        known = self.labelled(mask)
        hot = one_hot(mask.where(known, 0), self.spec.num_classes)
        hot = rearrange(hot, 'b h w k -> b k h w').to(self.center.dtype)
        return fill_missing(hot.where(known[:, None], torch.nan)) * 2 - 1

    def fit_scaling(self, images: Tensor) -> None:
        """Measure the band scaling: the 0.5th and 99.5th percentile become -1 and +1.

        Args:
            images: Digital numbers (N, C, H, W) of training samples.
        """
        quantiles = torch.tensor(_PERCENTILES, dtype=torch.float64) / 100
        for band in range(self.spec.num_bands):
            values = images[:, band].flatten().cpu()
            values = values[:: len(values) // _MOST_PIXELS + 1].double()
            values = values[values.isfinite()]
            low, high = torch.quantile(values, quantiles)
            if low == high:
                # nearly all pixels are equal: the rest must not be clipped away
                low, high = values.aminmax()
            center = (high + low) / 2
            self.center[band] = center
            # a constant band would divide by zero, or by its rounding errors
            floor = float(_LEAST_RANGE * center.abs().clamp(min=_LEAST_RANGE))
            self.half_range[band] = ((high - low) / 2).clamp(min=floor)

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Sample]) -> None:
        """Measure mean and std of each latent channel over the training set.

        A cell counts by its coverage. The range of each band is measured, too.

        Args:
            batches: Batches of the training set, each a sample that :meth:`encode`
                takes.

        Raises:
            ValueError: If there is no batch, or a latent is not finite.
        """
        count = torch.zeros(self.latent_channels, dtype=torch.float64)
        total, squares = torch.zeros_like(count), torch.zeros_like(count)
        low, high = (torch.full_like(self.lowest, most) for most in (_MOST, -_MOST))
        for sample in batches:
            bands = sample['image'].movedim(-3, 0).flatten(1)
            low = low.minimum(bands.where(bands.isfinite(), _MOST).amin(1))
            high = high.maximum(bands.where(bands.isfinite(), -_MOST).amax(1))
            latent = self.to_latent(*self.prepare(sample)).double().cpu()
            known = by_channel(self.streams, self.coverage(sample).double().cpu())
            count += known.sum((0, 2, 3))
            total += (known * latent).sum((0, 2, 3))
            squares += (known * latent.square()).sum((0, 2, 3))
        if not bool(count.any()) or not bool((total + squares).isfinite().all()):
            raise ValueError(
                f'The latents of {float(count.max()):g} cells have the sums '
                f'{total.tolist()}; their statistics need numbers. Look for infinite '
                'pixels or an empty training set.'
            )
        count = count.where(count > 0, 1)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.latent_mean.copy_(mean)
        # a channel that says nothing stays as it is
        self.latent_std.copy_(std.where(std > 1e-4, 1.0))
        # a band without any value keeps the widest range
        self.lowest.copy_(low.minimum(high))
        self.highest.copy_(high.maximum(low))

    def require_statistics(self) -> None:
        """Refuse to work on latents of unknown scale.

        Raises:
            RuntimeError: If the latent statistics have not been measured.
        """
        # asked until it is so, and then never again: a GPU has to be waited for
        self._measured = self._measured or bool(self.latent_std.isfinite().all())
        if not self._measured:
            raise RuntimeError(
                f'The {self.name} codec has no latent statistics; they are measured '
                'when stage 1 ends. Finish stage 1 and use the folder that it wrote.'
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        """Load weights; those of older versions come without a range."""
        for name in ('lowest', 'highest'):
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _require_fit(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Images (B, T, C, H, W) and mask (B, H, W) of a batch of the right form."""
        image, mask = sample['image'], sample['mask']
        images = image[:, None] if image.ndim == 4 else image
        if mask.shape[-2:] != images.shape[-2:]:
            raise ValueError(
                f'A batch has masks of {tuple(mask.shape[-2:])} pixels but images of '
                f'{tuple(images.shape[-2:])}; they must cover the same pixels.'
            )
        mask = mask.reshape(len(mask), *mask.shape[-2:])
        wanted = (self.spec.dates, self.spec.num_bands)
        if tuple(images.shape[1:3]) != wanted:
            raise ValueError(
                f'A batch has {images.shape[1]} date(s) of {images.shape[2]} bands but '
                f'this codec was made for {wanted[0]} of {wanted[1]}: '
                f'{list(self.spec.bands)}. Give it the same bands in the same order.'
            )
        self.latent_size(images.shape[-2], images.shape[-1])
        return images, mask

    def _digital_numbers(self, images: Tensor) -> Tensor:
        """Undo the scaling, in float32."""
        return images.float() * _bands(self.half_range) + _bands(self.center)

    def _as_sample(self, images: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Digital numbers of all dates and class scores to a sample."""
        mask = logits.argmax(1)
        if self.spec.dates == 1:
            return {'image': images[:, 0], 'mask': mask}
        return {'image': images, 'mask': mask[:, None]}


def _channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _bands(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


def by_channel(streams: Mapping[str, slice], values: Tensor) -> Tensor:
    """Repeat values of streams for each of their channels.

    Args:
        streams: Channels of each of S streams.
        values: (B, S, ...).

    Returns:
        (B, D, ...).
    """
    # sizes as plain numbers: from a tensor, a GPU would have to be waited for
    widths = [channels.stop - channels.start for channels in streams.values()]
    parts = zip(values.unbind(1), widths, strict=True)
    return torch.cat([p[:, None].expand(-1, n, *p.shape[1:]) for p, n in parts], 1)


def image_streams(spec: SampleSpec, channels: int) -> dict[str, int]:
    """Channels of the image streams ``image_1`` to ``image_T``."""
    return {f'image_{date + 1}': channels for date in range(spec.dates)}


def plain_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a codec's constructor as JSON types, to build it again.

    Args:
        arguments: ``locals()`` of the constructor, before it sets any variable.

    Returns:
        All but the description of the sample.
    """
    return {
        name: list(value) if isinstance(value, list | tuple) else value
        for name, value in arguments.items()
        if name not in ('self', 'spec', '__class__')
    }
