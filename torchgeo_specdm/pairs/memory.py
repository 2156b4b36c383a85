# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Samples that are read once and kept, in the smallest type that holds them."""

import logging
import re
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset, get_worker_info

#: Share of the free memory that kept samples may fill.
SHARE = 0.5
#: Types that numbers of files are stored in, small ones first.
_TYPES = (np.uint8, np.int16, np.uint16, np.int32)

_log = logging.getLogger(__name__)


class SampleMemory:
    """Keeps samples until they fill half of the memory that is free at the beginning.

    Digital numbers and classes are mostly whole, and are kept as such: as uint16, a
    patch takes half of what it takes as float32. Samples that do not fit are read each
    time. Each process has a memory of its own, and shares the room with the others.

    Args:
        processes: Processes on this machine that keep samples.
    """

    def __init__(self, processes: int = 1) -> None:
        """Measure the room."""
        self.room = int(SHARE * free_memory() / processes)
        self._kept: dict[Hashable, dict[str, Any]] = {}
        self._used = 0

    def take(
        self, key: Hashable, read: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        """A sample, read if it is not kept.

        Args:
            key: Name or number of the sample.
            read: Reads the sample of a key.

        Returns:
            The sample, equal to what was read; it may be changed.
        """
        if key in self._kept:
            return {name: _unpack(part) for name, part in self._kept[key].items()}
        sample = read(key)
        packed = {name: _pack(value) for name, value in sample.items()}
        size = sum(p[0].nbytes for p in packed.values() if isinstance(p, tuple))
        worker = get_worker_info()
        room = self.room // (worker.num_workers if worker else 1)
        if self._used + size <= room:
            self._kept[key] = packed
            self._used += size
        elif self._used <= room:
            # said once
            self._used = room + 1
            _log.warning(
                '%d samples fill the %.1f GB that may be kept in memory (half of what '
                'was free); the others are read each time.',
                len(self._kept),
                room / 1e9,
            )
        return sample


class InMemory(Subset[dict[str, Any]]):
    """Any data set whose samples are the same each time, kept when first read.

    Args:
        dataset: Map-style data set.
        memory: Keeps its samples.
    """

    def __init__(self, dataset: Dataset[dict[str, Any]], memory: SampleMemory) -> None:
        """Keep both."""
        super().__init__(dataset, range(len(dataset)))  # type: ignore[arg-type]
        self.memory = memory

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """The sample of a number."""
        return self.memory.take(index, self.dataset.__getitem__)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The samples of some numbers."""
        return [self[index] for index in indices]


def free_memory() -> int:
    """Bytes that this process can still get, in a container too; 0 if not known."""
    found = []
    status, group = Path('/proc/meminfo'), Path('/sys/fs/cgroup')
    if status.exists():
        lines = status.read_text(encoding='utf-8')
        if match := re.search(r'MemAvailable:\s+(\d+) kB', lines):
            found.append(int(match[1]) * 1024)
    if (group / 'memory.max').exists():
        limit, used, parts = (
            (group / f'memory.{name}').read_text(encoding='utf-8').strip()
            for name in ('max', 'current', 'stat')
        )
        if limit.isdigit():
            # files that were read count as used, but give way
            cached = re.search(r'^inactive_file (\d+)', parts, re.MULTILINE)
            spare = int(cached[1]) if cached else 0
            found.append(max(int(limit) - int(used) + spare, 0))
    return min(found, default=0)


def _pack(value: Any) -> Any:
    """A tensor as an array of the smallest type, and its own; other values as is."""
    if not isinstance(value, Tensor):
        return value
    numbers = value.numpy()
    for dtype in _TYPES:
        if numbers.dtype.itemsize > np.dtype(dtype).itemsize and _holds(dtype, numbers):
            return numbers.astype(dtype), numbers.dtype
    return numbers.copy(), numbers.dtype


def _unpack(part: Any) -> Any:
    """Undo :func:`_pack`."""
    # astype copies: nobody can write into what is kept
    return (
        torch.from_numpy(part[0].astype(part[1])) if isinstance(part, tuple) else part
    )


def _holds(dtype: Any, numbers: NDArray[Any]) -> bool:
    """Whether a type of integers holds numbers exactly; NaN is none of them."""
    limits = np.iinfo(dtype)
    if numbers.size == 0 or not (
        numbers.min() >= limits.min and numbers.max() <= limits.max
    ):
        return False
    return bool((numbers.astype(dtype) == numbers).all())
