# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Tests that need processes of their own: forked, since importing takes seconds."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
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


def start_command(
    main: Callable[[list[str]], Any], arguments: Sequence[object], said: Path
) -> ForkProcess:
    """Run a command line in a process of its own.

    Args:
        main: The entry point.
        arguments: All but the name of the program.
        said: File for what it writes to standard error.

    Returns:
        The process, which ends as the command would.
    """

    def run() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
        # pytest's own do not lead there
        sys.stdout, sys.stderr = (os.fdopen(n, 'w', closefd=False) for n in (1, 2))
        sys.exit(main([str(argument) for argument in arguments]))

    child = multiprocessing.get_context('fork').Process(target=run)
    child.start()
    return child


def run_command(
    main: Callable[[list[str]], Any], arguments: Sequence[object], said: Path
) -> tuple[int | None, str]:
    """Run a command line in a process of its own, to its end.

    Args:
        main: The entry point.
        arguments: All but the name of the program.
        said: File for what it writes to standard error.

    Returns:
        The exit code and what it said.
    """
    child = start_command(main, arguments, said)
    _wait(child)
    return child.exitcode, said.read_text()


def run_ranks(action: Callable[[], Any], folder: Path) -> None:
    """Run on two processes, as Lightning's strategy ``ddp`` starts them.

    Args:
        action: Trains or predicts on two devices.
        folder: Folder for what they say.
    """
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]

    def work(arguments: list[str]) -> None:
        os.environ |= {'LOCAL_RANK': arguments[0], 'MASTER_PORT': str(port)}
        action()
        assert distributed.get_world_size() == 2

    files = [folder / f'rank_{rank}.txt' for rank in range(2)]
    ranks = [start_command(work, [rank], file) for rank, file in enumerate(files)]
    for rank in ranks:
        _wait(rank)
    for rank, file in zip(ranks, files, strict=True):
        assert rank.exitcode == 0, file.read_text()


def _wait(child: ForkProcess) -> None:
    """Wait for the end; whoever hangs is killed, or nothing would ever end."""
    child.join(120)
    if child.is_alive():
        child.kill()
        child.join()


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
