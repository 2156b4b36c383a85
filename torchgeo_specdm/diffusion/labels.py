# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Label bits that are learned as classes."""

from einops import rearrange
from torch import Tensor, nn

#: Scores at which outputs of -1 and +1 name their class almost surely.
_SCALE = 2.0


class LabelCodes(nn.Module):
    """Scores of the class of each pixel, from the bits that a network gives for it.

    The network's output for the bits of a pixel is compared with the code of each
    class, which gives scores of classes. They are learned by cross-entropy, and the
    estimate of the clean bits is the mean code under their softmax. This is score
    interpolation (arXiv 2211.15089, section 3.1) with fixed embeddings.

    Args:
        codes: Code of each class in -1 and +1, (K, bits).
        fold: Side of the square of pixels that a cell of the latent holds.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, fold: int) -> None:
        """Keep the codes."""
        super().__init__()
        self.register_buffer('codes', codes.clone(), persistent=False)
        self.fold = fold

    def expected(self, output: Tensor) -> Tensor:
        """The mean code of each pixel.

        Args:
            output: Output of the network for the mask (B, bits x fold x fold, h, w).

        Returns:
            Bits from -1 to +1, of the same shape.
        """
        shares = self._scores(self._bits(output)).softmax(1)
        return (self.codes.T.to(shares) @ shares).reshape(output.shape)

    def cross_entropy(self, output: Tensor, latent: Tensor) -> Tensor:
        """Cross-entropy of each pixel, in the channel of each of its bits.

        Args:
            output: Output of the network for the mask (B, bits x fold x fold, h, w).
            latent: The true bits, or means of codes where a label is filled in; of the
                same shape.

        Returns:
            Natural logarithms of the same shape, 0 or more where bits are a code.
        """
        seen, true = self._bits(output), self._bits(latent)
        # of a code, or of a mean of codes, this is the mean score of its classes
        named = _SCALE * (seen * true).sum(1, keepdim=True)
        entropy = self._scores(seen).logsumexp(1, keepdim=True) - named
        return entropy.expand_as(seen).reshape(output.shape)

    def _bits(self, latent: Tensor) -> Tensor:
        """Bits of all pixels (B, bits, fold x fold x h x w), a view."""
        return rearrange(latent, 'b (c f) h w -> b c (f h w)', f=self.fold**2)

    def _scores(self, bits: Tensor) -> Tensor:
        """Scores of classes (B, K, N) of bits of pixels (B, bits, N)."""
        return _SCALE * self.codes.to(bits) @ bits
