# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""The cases of training: the streams that are given, drawn, or absent."""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor, nn

#: The case in which all streams are drawn together, as published.
JOINT = 'joint'
_STREAM = re.compile(r'image(_[1-9]\d*)?|mask')


class Role(IntEnum):
    """The part that a stream plays for a sample.

    Attributes:
        GIVEN: Clean, at time 0, and not learned.
        DRAWN: Noised to a time from 1 to T, and learned.
        ABSENT: Noise alone, at time T, and not learned.
    """

    GIVEN = 0
    DRAWN = 1
    ABSENT = 2


class Cases(nn.Module):
    """Cases of training with their shares.

    A case is called after its streams: those before ``|`` are drawn, those behind it
    given, and the others absent. ``image|mask`` paints an image for a mask,
    ``mask|image`` reads an image, ``image_2|image_1,mask`` paints a change, and
    ``image`` learns images alone. ``image`` stands for those of all dates, and
    ``joint`` for all streams. Cases of streams that a codec does not have are left
    out, so one list serves any number of dates.

    Args:
        shares: Share of training samples of each case; only ratios count.
        streams: Names of the streams in order.

    Raises:
        ValueError: If a name is no case, a share is negative, or no case is left.
    """

    shares: Tensor
    roles: Tensor
    masks: Tensor

    def __init__(self, shares: Mapping[str, float], streams: Iterable[str]) -> None:
        """Make the table of roles."""
        super().__init__()
        self.streams = [*streams]
        found = {name: _read_case(name, self.streams) for name in shares}
        kept = {n: roles for n, roles in found.items() if roles and shares[n] > 0}
        if not kept or min(shares.values()) < 0:
            raise ValueError(
                f'cases={dict(shares)} must have shares of 0 or more, and one above 0 '
                f'of streams that the codec has: {self.streams}. Add joint.'
            )
        weights = torch.tensor([float(shares[name]) for name in kept])
        self.register_buffer('shares', weights / weights.sum(), persistent=False)
        self.register_buffer('roles', torch.tensor([*kept.values()]), persistent=False)
        masks = torch.tensor([stream == 'mask' for stream in self.streams])
        self.register_buffer('masks', masks, persistent=False)
        #: Roles of all streams in each case that is left.
        self.known = kept

    @property
    def separate(self) -> bool:
        """Whether streams ever differ in time."""
        return any(role != Role.DRAWN for row in self.known.values() for role in row)

    def draw(self, count: int, labelled: Tensor | None = None) -> Tensor:
        """Choose a case for each training sample by lot.

        Args:
            count: Number of samples B.
            labelled: Whether each sample has labels, bool (B,); all have if None. The
                mask of one without is absent, whatever the case, and if that leaves
                nothing to draw, all its images are drawn.

        Returns:
            Roles, int64 (B, S).
        """
        chosen = torch.multinomial(self.shares, count, replacement=True)
        roles = self.roles[chosen]
        if labelled is None or 'mask' not in self.streams:
            return roles
        hidden = ~labelled.to(roles.device)[:, None]
        roles = roles.where(~(hidden & self.masks), Role.ABSENT)
        empty = (roles != Role.DRAWN).all(1, keepdim=True)
        return roles.where(~(empty & ~self.masks), Role.DRAWN)

    def knows(self, roles: Sequence[Role]) -> bool:
        """Tell whether training has cases of these roles.

        Args:
            roles: Role of each stream, in order.
        """
        return [*roles] in self.known.values()


def case_name(roles: Mapping[str, Role]) -> str:
    """Name the case of some roles.

    Args:
        roles: Role of each stream.
    """
    drawn, given = (
        ','.join(stream for stream, own in roles.items() if own == role)
        for role in (Role.DRAWN, Role.GIVEN)
    )
    if all(role == Role.DRAWN for role in roles.values()):
        return JOINT
    return f'{drawn}|{given}' if given else drawn


def _read_case(name: str, streams: Sequence[str]) -> list[Role] | None:
    """Roles of the streams in a case, or None if it has streams that are not there."""
    if name == JOINT:
        return [Role.DRAWN for _ in streams]
    parts = [part.split(',') for part in name.split('|')]
    words = [word.strip() for part in parts for word in part]
    if len(parts) > 2 or not all(_STREAM.fullmatch(word) for word in words):
        raise ValueError(
            f'cases has {name!r}, but a case is called joint, or after its streams '
            'such as image|mask: those before | are drawn, those behind it given.'
        )
    named = [[*_expand(part, streams)] for part in parts]
    both = [stream for part in named for stream in part]
    if len({*both}) < len(both):
        raise ValueError(f'cases has {name!r}, which names a stream twice. Drop one.')
    if not {*both} <= {*streams} or not all(named):
        return None
    roles = dict.fromkeys(streams, Role.ABSENT)
    for role, part in zip((Role.DRAWN, Role.GIVEN), named, strict=False):
        roles |= dict.fromkeys(part, role)
    return [*roles.values()]


def _expand(words: Sequence[str], streams: Sequence[str]) -> Iterable[str]:
    """Names of streams, with those of all dates for ``image``."""
    for word in words:
        if word.strip() == 'image':
            yield from (s for s in streams if s != 'mask' and _STREAM.fullmatch(s))
        else:
            yield word.strip()
