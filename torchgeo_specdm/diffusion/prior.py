# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A denoiser that begins with what another one has learned of other data."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..codecs import PixelCodec
from .generator import Generator


def begin_with(generator: Generator, prior: Generator) -> None:
    """Give an untrained denoiser the weights of another one, in place.

    The layers inside are copied. The first and the last one, whose channels are bands
    and label bits, are put together from those of the prior: it sees in each of its
    bands the nearest one that is there, and each band is drawn as its nearest one. So
    fields, shores and roads carry over, while colours and classes have to be learned.
    Several dates are seen as their mean, and each is drawn as the prior's only one.

    Args:
        generator: Untrained, with the codec ``pixels``.
        prior: Trained, with the codec ``pixels``, one date, and the same fold, widths
            and layers.

    Raises:
        ValueError: If codecs or networks differ in more than bands, classes and dates.
    """
    own, theirs = generator.codec, prior.codec
    if (
        not isinstance(own, PixelCodec)
        or not isinstance(theirs, PixelCodec)
        or own.factor != theirs.factor
    ):
        raise ValueError(
            f'The prior has the codec {theirs.name} with cells of {theirs.factor} '
            f'pixels, and the generator {own.name} with {own.factor}: only between two '
            'codecs pixels of equal fold does a prior carry over. Set prior: null.'
        )
    state = prior.denoiser.state_dict()
    pixels = _channels(own, theirs)
    cells = [torch.kron(matrix, torch.eye(own.factor**2)) for matrix in pixels]
    _replace(state, 'network.conv_in', 'network.conv_out', cells)
    state = _with_times(generator.denoiser, state)
    if 'detail.0.weight' in state:
        # noisy pixels, those of the UNet, and a plane for each time
        times = _planes(len(generator.denoiser.embeddings) + 1)
        read: Tensor = torch.block_diag(pixels[0], pixels[0], times)  # type: ignore[no-untyped-call]
        _replace(state, 'detail.0', 'detail.4', [read, pixels[1]])
    try:
        generator.denoiser.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f'The prior has a denoiser of {prior.config["denoiser"]}, and the generator '
            f'one of {generator.config["denoiser"]}, which its weights do not fit. Set '
            'prior: null.'
        ) from error


def _replace(
    state: dict[str, Tensor], first: str, last: str, maps: Sequence[Tensor]
) -> None:
    """Let the first and the last layer of some weights have other channels."""
    read, drawn = maps
    weights = f'{first}.weight'
    state[weights] = torch.einsum('wpij,po->woij', state[weights].float(), read)
    for name in (f'{last}.weight', f'{last}.bias'):
        state[name] = torch.tensordot(drawn, state[name].float(), dims=1)


def _planes(count: int) -> Tensor:
    """The two times of the prior, of image and mask, as sums of own ones (2, S)."""
    planes = torch.zeros(2, count)
    planes[0, 0] = planes[1, -1] = 1
    return planes


def _channels(own: PixelCodec, theirs: PixelCodec) -> tuple[Tensor, Tensor]:
    """The prior's pixels as sums of own ones (P, O), and own ones of its (O, P)."""
    bands, dates = own.spec.num_bands, own.spec.dates
    known = theirs.spec.num_bands
    bits, known_bits = own.codes.shape[1], theirs.codes.shape[1]
    read = torch.zeros(known + known_bits, dates * bands + bits)
    drawn = torch.zeros(dates * bands + bits, known + known_bits)
    apart = (_axis(own, theirs)[:, None] - _axis(theirs, own)).abs()
    for date in range(dates):
        first = date * bands
        read[torch.arange(known), first + apart.argmin(0)] = 1 / dates
        drawn[first + torch.arange(bands), apart.argmin(1)] = 1
    shared = torch.arange(min(bits, known_bits))
    read[known + shared, dates * bands + shared] = 1
    # bits that the prior has none of are drawn as its others, to be pulled apart
    every = torch.arange(bits)
    drawn[dates * bands + every, known + every % known_bits] = 1
    return read, drawn


def _axis(codec: PixelCodec, other: PixelCodec) -> Tensor:
    """Wavelengths of bands, or their positions in 0..1 where those are not all known."""
    waves = codec.spec.wavelengths
    if None in waves or None in other.spec.wavelengths:
        return torch.linspace(0, 1, codec.spec.num_bands)
    return torch.tensor(waves).log()


def _with_times(denoiser: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring the embeddings of times to the streams that there are.

    The prior has one beside the network's own, of the mask. It becomes the last one;
    those of further dates begin without a say, and so does the mask's where all
    streams share a time.
    """
    fresh = denoiser.state_dict()
    names = {name for name in fresh if name.startswith('embeddings.')}
    last = max((int(name.split('.')[1]) for name in names), default=0)
    found = {n: v for n, v in state.items() if not n.startswith('embeddings.')}
    for name in names:
        number, rest = name.removeprefix('embeddings.').split('.', 1)
        given = state.get(f'embeddings.0.{rest}')
        if int(number) < last or given is None:
            silent = rest.startswith('linear_2')
            found[name] = torch.zeros_like(fresh[name]) if silent else fresh[name]
        else:
            found[name] = given
    return found
