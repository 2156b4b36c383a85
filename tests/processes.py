# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Tests that need processes of their own: forked, since importing takes seconds."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import distributed


def in_child(action: Callable[[], Any]) -> int:
    """Run in a process of its own; its exit code, negative for a signal."""
    child = multiprocessing.get_context('fork').Process(target=action)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def die_at_rename(number: int, after: bool = False) -> None:
    """Kill this process before or after it renames a file for the so-manieth time."""
    replace, count = os.replace, 0

    def replace_and_die(part: Path, path: Path) -> None:
        nonlocal count
        count += 1
        if count == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(part, path)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die  # type: ignore[assignment]


def on_two_processes(find: Callable[[int], Any], meeting: Path) -> list[Any]:
    """Run on two processes that can speak to each other.

    Args:
        find: Takes the rank and gives a plain result.
        meeting: A file that does not exist, where they meet.

    Returns:
        The result of each rank.
    """
    context = multiprocessing.get_context('fork')
    results = context.SimpleQueue()

    def work(rank: int) -> None:
        distributed.init_process_group(
            'gloo', f'file://{meeting}', rank=rank, world_size=2
        )
        results.put((rank, find(rank)))
        distributed.destroy_process_group()

    workers = [context.Process(target=work, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = dict(results.get() for _ in workers)
    return [found[0], found[1]]
