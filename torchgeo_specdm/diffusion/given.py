# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Parts of samples that are given, by the streams they belong to."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..codecs import Codec, Sample
from ..pairs.spec import SampleSpec
from .cases import Role

#: Value of pixels without a label in masks that only fill a place.
_NO_LABEL = -1


def by_stream(parts: Sample, spec: SampleSpec, device: torch.device) -> Sample:
    """Sort parts of samples by stream.

    Args:
        parts: ``image`` (B, C, H, W) or (B, T, C, H, W), or ``image_1`` to ``image_T``
            (B, C, H, W), in digital numbers; ``mask`` (B, H, W) or (B, 1, H, W).
        spec: Description of a sample.
        device: Device to put them on.

    Returns:
        ``image_1`` to ``image_T`` (B, C, H, W) and ``mask`` (B, H, W), as far as they
        are there.

    Raises:
        ValueError: If a name is unknown, or the images have other dates or bands.
    """
    known = [f'image_{date + 1}' for date in range(spec.dates)]
    unknown = sorted({*parts} - {'image', 'mask', *known})
    if unknown:
        raise ValueError(
            f'{unknown} cannot be given: a sample has image, {", ".join(known)} and '
            'mask. Use one of these names.'
        )
    found = {}
    for name, value in parts.items():
        value = value.to(device)
        if name == 'mask':
            found['mask'] = value.reshape(len(value), *value.shape[-2:])
            continue
        names = known if name == 'image' else [name]
        shape = (len(value), -1, spec.num_bands, *value.shape[-2:])
        dates = value.reshape(shape) if value.shape[-3] == spec.num_bands else value
        if dates.ndim != 5 or dates.shape[1] != len(names):
            raise ValueError(
                f'{name} of the shape {tuple(value.shape)} is given, but it must have '
                f'{len(names)} date(s) of {spec.num_bands} bands: {list(spec.bands)}.'
            )
        found |= dict(zip(names, dates.unbind(1), strict=True))
    return found


def encode_parts(parts: Sample, codec: Codec, window: tuple[int, int]) -> Tensor:
    """Encode parts of samples; other streams hold what a blank sample gives.

    Args:
        parts: ``image_1`` to ``image_T`` (B, C, H, W) or ``mask`` (B, H, W), at least
            one of them. Their last row and column are repeated up to whole cells.
        codec: Codec with a stream for each part.
        window: Height and width in pixels of the windows that larger ones are encoded
            in.

    Returns:
        Latents (B, D, h, w), float32.
    """
    parts = {name: _extend(part, codec.factor) for name, part in parts.items()}
    first = next(iter(parts.values()))
    mask = parts.get('mask')
    if mask is None:
        shape = (len(first), *first.shape[-2:])
        mask = torch.full(shape, _NO_LABEL, device=first.device)
    images = codec.blank_image(mask)
    dates = parts.keys() - {'mask'}
    # of masks alone, they fill no memory
    images = images.clone() if dates else images
    for name in dates:
        images[:, _date(name)] = parts[name]
    return codec.encode({'image': images, 'mask': mask}, window).float()


def cells_of(pixels: Tensor, factor: int) -> Tensor:
    """Cells of a latent that have any of some pixels.

    Args:
        pixels: Bool (B, H, W).
        factor: Pixels of a cell's side; the last cells may reach beyond the pixels.

    Returns:
        Bool (B, 1, h, w).
    """
    values = pixels[:, None].float()
    return max_pool2d(values, factor, ceil_mode=True) > 0


def put_back(
    parts: Sample, sample: Mapping[str, Tensor], inside: Tensor | None = None
) -> dict[str, Tensor]:
    """Put given parts into drawn samples, equal to the bit.

    Args:
        parts: ``image_1`` to ``image_T`` (B, C, H, W) and ``mask`` (B, H, W), as far as
            they are given.
        sample: Drawn ``image`` and ``mask``.
        inside: Pixels that stay drawn, bool (B, H, W); none if None.

    Returns:
        ``image`` and ``mask`` of the same shapes.
    """
    image, mask = sample['image'].clone(), sample['mask'].clone()
    dates = image if image.ndim == 5 else image[:, None]
    planes = mask.view(len(mask), *mask.shape[-2:])
    for name, part in parts.items():
        drawn = planes if name == 'mask' else dates[:, _date(name)]
        if inside is not None:
            keep = inside if name == 'mask' else inside[:, None]
            part = drawn.where(keep, part.to(drawn))
        drawn.copy_(part)
    return {'image': image, 'mask': mask}


def without_condition(roles: Mapping[str, Role]) -> dict[str, Role]:
    """Roles in which what guides is absent: a given mask, or else all that is given.

    Args:
        roles: Role of each stream.
    """
    masked = roles.get('mask') == Role.GIVEN
    return {
        stream: Role.ABSENT
        if role == Role.GIVEN and (stream == 'mask' or not masked)
        else role
        for stream, role in roles.items()
    }


def require_streams(names: Collection[str], codec: Codec) -> None:
    """Refuse to treat streams apart from the others that a codec does not have.

    Args:
        names: Names of the streams.
        codec: The codec.

    Raises:
        ValueError: If it has one stream for all.
    """
    if {*names} - {*codec.streams}:
        raise ValueError(
            f'The {codec.name} codec has one stream for image and mask, so none of '
            'them can be given, varied or drawn alone. Train a two_stream or pixels '
            'generator.'
        )


def require_parts(
    kept: Sample,
    varied: Sample,
    codec: Codec,
    count: int,
    strength: float,
    inside: bool,
) -> None:
    """Refuse parts of samples that nothing can be drawn with.

    Args:
        kept: Given parts by stream.
        varied: Parts to start from by stream.
        codec: Codec of the generator.
        count: Number of samples to draw.
        strength: Share of the way to noise that *varied* is noised.
        inside: Whether only a region is drawn.

    Raises:
        ValueError: If they do not suit the codec, each other, or the number.
    """
    streams = {*codec.streams}
    require_streams({*kept, *varied}, codec)
    if {*kept} == streams:
        raise ValueError(
            f'{sorted(kept)} are given, so nothing is left to draw. Leave one out.'
        )
    needed = strength < 1 or inside
    if not 0 < strength <= 1 or needed != bool(varied):
        raise ValueError(
            f'strength={strength} must lie in 0..1 without 0, and be below 1 with '
            'samples to start from and only then, but for those that are drawn '
            'inside of a region. Use 0.6 with start.'
        )
    if varied and {*varied} != streams - {*kept}:
        raise ValueError(
            f'start has {sorted(varied)}, but {sorted(streams - {*kept})} are '
            'drawn, and all of them need a start. Give the others.'
        )
    for name, value in {**kept, **varied}.items():
        if len(value) != count:
            raise ValueError(
                f'{len(value)} of {name} are given for {count} indices. Give one '
                'for each.'
            )


def _extend(part: Tensor, factor: int) -> Tensor:
    """Repeat the last row and column of (..., H, W) up to multiples of a factor."""
    rows, columns = (
        torch.arange(-(-side // factor) * factor, device=part.device).clamp(
            max=side - 1
        )
        for side in part.shape[-2:]
    )
    return part[..., rows[:, None], columns]


def _date(stream: str) -> int:
    """Position of the date of an image stream."""
    return int(stream.removeprefix('image_')) - 1
