# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Scenes put together again from the tiles that they were cut into."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed

#: What a pixel holds that no tile covered.
UNSEEN = 255


class Stitched(NamedTuple):
    """A scene as a network sees it.

    Attributes:
        prediction: Class positions, int64 (H, W); :data:`UNSEEN` where no tile was.
        mask: True class positions, int64 (H, W); :data:`UNSEEN` where no tile was, and
            everywhere if no masks were given.
    """

    prediction: Tensor
    mask: Tensor


class Stitcher:
    """Averages the class probabilities of overlapping tiles, scene by scene.

    A pixel counts less the nearer it is to the edge of its tile, where a network sees
    half of its surroundings: plain means show lines along the borders of tiles.

    A batch says where its tiles lie in ``tile``, int64 (B, 5): number of the scene, row
    and column of the upper left pixel, height and width of the scene. One array of
    probabilities of each scene is kept on the CPU, however many tiles there are.
    """

    def __init__(self) -> None:
        """Initialize a new Stitcher instance, without scenes."""
        self.reset()

    def reset(self) -> None:
        """Forget all scenes."""
        self._sums: dict[int, Tensor] = {}
        self._masks: dict[int, Tensor] = {}

    def add(
        self, probabilities: Tensor, tile: Tensor, mask: Tensor | None = None
    ) -> None:
        """Add the tiles of a batch.

        Args:
            probabilities: Probabilities of each class, float (B, K, h, w).
            tile: Position of each tile (see the class).
            mask: True class positions (B, h, w) or (B, 1, h, w), if known.
        """
        weighted = probabilities.float().cpu() * _weights(*probabilities.shape[-2:])
        for i, corner in enumerate(tile.tolist()):
            scene, row, column, *size = corner
            if scene not in self._sums:
                self._sums[scene] = torch.zeros(probabilities.shape[1], *size)
                self._masks[scene] = torch.full(size, UNSEEN)
            window = (..., slice(row, size[0]), slice(column, size[1]))
            sums, masks = self._sums[scene][window], self._masks[scene][window]
            # a tile may be larger than its scene, and then ends beyond it
            height, width = map(min, sums.shape[-2:], probabilities.shape[-2:])
            inside = (..., slice(height), slice(width))
            sums[inside] += weighted[i][inside]
            if mask is not None:
                labels = mask[i].reshape(mask.shape[-2:])
                masks[inside] = labels[inside].cpu()

    def scenes(self) -> dict[int, Stitched]:
        """Put together what was added, by all processes.

        Returns:
            The scenes by number, in ascending order.
        """
        parts = [(self._sums, self._masks)]
        if distributed.is_available() and distributed.is_initialized():
            gathered: list[tuple[dict[int, Tensor], dict[int, Tensor]]]
            gathered = [({}, {})] * distributed.get_world_size()
            distributed.all_gather_object(gathered, parts[0])
            parts = gathered
        found = {}
        for scene in sorted({scene for sums, _ in parts for scene in sums}):
            # each process saw some of the tiles; a sum decides like the mean
            total = torch.stack([s[scene] for s, _ in parts if scene in s]).sum(0)
            masks = torch.stack([m[scene] for _, m in parts if scene in m])
            prediction = total.argmax(0).where(total.sum(0) > 0, UNSEEN)
            labels = masks.where(masks != UNSEEN, -1).amax(0)
            found[scene] = Stitched(prediction, labels.where(labels >= 0, UNSEEN))
        return found


def _weights(height: int, width: int) -> Tensor:
    """Weight of each pixel of a tile: a pyramid, above 0 everywhere."""
    ramps = [
        torch.minimum(up := torch.arange(1, side + 1), up.flip(0)) / side
        for side in (height, width)
    ]
    return ramps[0][:, None] * ramps[1]


def seam_strength(
    image: Tensor, borders: tuple[Sequence[int], Sequence[int]], cell: int = 1
) -> float:
    """Compare edges across the borders of tiles with those elsewhere.

    Args:
        image: A scene (C, H, W).
        borders: Rows and columns at which tiles begin or end: a border lies before
            each.
        cell: Side in pixels of cells that the scene is made of: elsewhere means the
            borders between other cells, for cells may have seams of their own.

    Returns:
        Mean size of the difference of two pixels across a border, over that elsewhere,
        mean over bands: 1 without seams.
    """
    sums = torch.zeros(2, len(image), dtype=torch.float64)
    counts = torch.zeros(2, 1, dtype=torch.float64)
    for axis, places in zip((-2, -1), borders, strict=True):
        steps = image.double().diff(dim=axis).abs().movedim(axis, 1)
        before = torch.arange(1, image.shape[axis])
        bordering = torch.isin(before, torch.tensor([*places]))
        for side, chosen in enumerate((bordering, ~bordering & (before % cell == 0))):
            sums[side] += steps[:, chosen].sum((1, 2))
            counts[side] += steps[0, chosen].numel()
    across, elsewhere = sums / counts
    return float((across / elsewhere).mean())
