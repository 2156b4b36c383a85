# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Is a generator good enough to vary images?"""

from typing import Any, NamedTuple

import torch

from ...diffusion import Generator

#: A distance at which most of an image should still be there.
_STRENGTH = 0.2
_LOOKED_AT = 8
#: Variations this near to their images are good: in errors of the codec, or in standard
#: deviations of the images, which counts for codecs without errors
#: (docs/notes/diffusion.md).
_CODEC_ERRORS, _DEVIATIONS = 2.0, 0.4


class Variation(NamedTuple):
    """Root mean square differences of reflectance."""

    varied: float  #: of variations at strength 0.2, from their images
    decoded: float  #: of what the codec alone makes of the images
    spread: float  #: of the images, from the mean of each band

    @property
    def poor(self) -> bool:
        """Whether the network loses much more of the images than the codec does."""
        near = max(_CODEC_ERRORS * self.decoded, _DEVIATIONS * self.spread)
        return self.varied > near

    def __str__(self) -> str:
        """A sentence for the user."""
        return (
            f'Variations at strength {_STRENGTH} lie {self.varied:.3g} from their '
            f'images, which the codec alone misses by {self.decoded:.3g} and which vary '
            f'by {self.spread:.3g} (reflectance): this generator is too poor to vary '
            'them, and paints over what it should keep. Train it longer.'
        )


def measure_variation(generator: Generator, source: Any) -> Variation:
    """Vary a few samples a little, and compare them with themselves.

    Args:
        generator: The generator.
        source: Map-style data set of samples with ``image`` and ``mask``, of the
            generator's patch size or larger.

    Returns:
        The differences.
    """
    height, width = generator.config['patch_size']
    device, spec = generator.process.signal.device, generator.codec.spec
    count = min(_LOOKED_AT, len(source))
    samples = [source[i * len(source) // count] for i in range(count)]
    image, mask = (
        torch.stack([s[key][..., :height, :width] for s in samples]).to(device)
        for key in ('image', 'mask')
    )
    varied = generator.sample(
        range(count),
        0,
        given={'mask': mask},
        start={'image': image},
        strength=_STRENGTH,
    )
    decoded, _ = generator.codec.roundtrip({'image': image, 'mask': mask})
    middle = image.nanmean((-2, -1), keepdim=True).nanmean(0)

    def size(difference: torch.Tensor) -> float:
        found = spec.reflectance(difference, difference=True)
        return float(found.square().nanmean().sqrt())

    return Variation(
        *(size(other - image) for other in (varied['image'], decoded['image'], middle))
    )
