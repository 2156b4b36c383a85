# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""A study on the workers of a Dask cluster, each of which does one step at a time."""

import json
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

import dask
from distributed import Client, Future, Nanny, Scheduler, SpecCluster, wait
from distributed.scheduler import KilledWorker
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..files import check_json
from .design import Cell, Step, Study
from .engine import Engine, describe_error
from .runs import Run, write_run

#: Seconds after which workers are counted anew: a cluster may grow.
_POLL = 5.0
#: Seconds that workers get to end and begin again when the study is stopped.
_PATIENCE = 15.0
#: A step seeds the random numbers of its process, which does no other meanwhile.
_ONE = threading.Lock()


class UnfitWorker(RuntimeError):
    """A worker that cannot do any step."""


@contextmanager
def open_cluster(address: str | None, count: int) -> Iterator[Client]:
    """Connect to a cluster, or start one here, which ends with the context.

    Args:
        address: Address of a scheduler; None for worker processes here.
        count: Number of worker processes, one for each of the first GPUs that there are.

    Yields:
        The client.

    Raises:
        OSError: If no scheduler answers.
    """
    if address is None:
        with _workers_here(count) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise OSError(
            f'--scheduler {address} does not answer as a Dask scheduler ({error}). Give '
            'the address that dask scheduler prints, such as tcp://10.0.0.1:8786.'
        ) from error
    with client:
        yield client


@contextmanager
def _workers_here(count: int) -> Iterator[SpecCluster]:
    """Processes of this machine, each with a GPU of its own."""
    shown = os.environ.get('CUDA_VISIBLE_DEVICES')
    devices = shown.split(',') if shown else [*map(str, range(count))]
    local = {'host': '127.0.0.1', 'dashboard': False}
    alike = {'nthreads': 1, 'memory_limit': 0, 'resources': {'GPU': 1}}
    alike |= local | {'silence_logs': logging.ERROR}
    workers = {
        number: {
            'cls': Nanny,
            'options': alike | {'env': {'CUDA_VISIBLE_DEVICES': device}},
        }
        for number, device in enumerate(devices[:count])
    }
    # after a death the step is done once more, by itself
    options = local | {'allowed_failures': 0}
    scheduler = {'cls': Scheduler, 'options': options}
    # daemons could not start processes that load samples
    with (
        dask.config.set({'distributed.worker.daemon': False}),
        SpecCluster(workers, scheduler, silence_logs=logging.ERROR) as cluster,
    ):
        yield cluster


def run_on_cluster(
    client: Client, engine: Engine, cells: Sequence[Cell], retry: bool = False
) -> list[Run]:
    """Train and test what is missing, as :meth:`Engine.run` does, on many machines.

    All workers read and write the folder of the study under the same path as this
    process. A step whose worker dies is done again, at last while no other one runs:
    the worker may have died of another step that waited there.

    Args:
        client: Client of the cluster.
        engine: Engine of the study; its callbacks are not used.
        cells: Cells of the study.
        retry: Whether to do failed runs again.

    Returns:
        All runs of these cells, in their order; a failed one has a reason.

    Raises:
        UnfitWorker: If a worker does not see the folder of the study.
        RuntimeError: If the scheduler has gone.
    """
    engine.begin()
    graph = dict[Step, list[Step]]()
    for cell in engine.missing(cells, retry):
        _add(graph, engine, engine.step(cell))
    shared = _Shared(client, engine, graph)
    with _stopping(client, shared.running):
        shared.work()
    return engine.finished(cells)


def _add(graph: dict[Step, list[Step]], engine: Engine, step: Step) -> None:
    """Add a step, and all that it needs, to a graph."""
    if step not in graph:
        graph[step] = engine.needs(step)
        for need in graph[step]:
            _add(graph, engine, need)


class _Shared:
    """Steps that the workers of a cluster share.

    Args:
        client: Client of the cluster.
        engine: Engine of the study.
        graph: The steps to do, each with those that it needs.
    """

    def __init__(
        self, client: Client, engine: Engine, graph: dict[Step, list[Step]]
    ) -> None:
        """Begin with nothing done."""
        self.client, self.engine, self.graph = client, engine, graph
        self.running: dict[Future[Run | None], Step] = {}
        self.failed: dict[Step, str] = {}
        self.ready: list[Step] = []
        self.suspects = set[Step]()
        self.done = 0
        study = json.dumps(asdict(engine.study), default=str)
        self.start = (study, str(Path.cwd()), secrets.token_hex(4))

    def work(self) -> None:
        """Do all steps."""
        if not self._workers():
            self.engine.say('No worker has joined the scheduler yet; waiting for one.')
        sorter = TopologicalSorter(self.graph)
        sorter.prepare()
        while sorter.is_active():
            self.ready = sorted([*self.ready, *sorter.get_ready()], key=self._turn)
            while self.ready and self._has_room(self.ready[0]):
                step = self.ready.pop(0)
                causes = [self.failed[n] for n in self.graph[step] if n in self.failed]
                if causes:
                    self._finish(step, causes[0])
                    sorter.done(step)
                else:
                    self._submit(step)
            sorter.done(*self._wait())

    def _workers(self) -> list[dict[str, Any]]:
        return [*self.client.scheduler_info()['workers'].values()]

    def _turn(self, step: Step) -> tuple[bool, bool]:
        """Sort what others wait for first, and what a worker may have died of last."""
        return step in self.suspects, step.kind == 'run'

    def _has_room(self, step: Step) -> bool:
        """Whether a worker is free for a step.

        What waits at a worker counts as what it dies of, so nothing does; but where
        workers may join, one step waits, or nobody would see that more are wanted. What
        a worker may have died of runs by itself, so that it alone is to blame.
        """
        if step in self.suspects:
            return not self.running
        if not self.suspects.isdisjoint(self.running.values()):
            return False
        spare = 1 if self.client.cluster is None else 0
        return len(self.running) < len(self._workers()) + spare

    def _submit(self, step: Step) -> None:
        gpus = any(worker['resources'].get('GPU') for worker in self._workers())
        again = ', alone' if step in self.suspects else ''
        future = self.client.submit(
            do_step,
            *self.start,
            step,
            key=f'{step.kind}-{self.start[-1]}-{step.name}{again}',
            resources={'GPU': 1} if gpus else None,
        )
        self.running[future] = step

    def _wait(self) -> list[Step]:
        """Wait for a step, but not for long; give those that are finished."""
        if not self.running:
            # they may all be about to begin again
            self.client.wait_for_workers(1)
            return []
        with suppress(TimeoutError):
            wait([*self.running], _POLL, 'FIRST_COMPLETED')
        finished = []
        for future in [f for f in self.running if f.done()]:
            error, step = future.exception(), self.running.pop(future)
            if isinstance(error, UnfitWorker):
                raise error
            if isinstance(error, KilledWorker) and step not in self.suspects:
                self.suspects.add(step)
                self.ready.append(step)
                continue
            run = future.result() if error is None else None
            if run is not None:
                # a shared disk may be late to show here what a worker has written
                write_run(self.engine.study.out, run)
            self._finish(step, '' if error is None else _reason(error))
            finished.append(step)
        return finished

    def _finish(self, step: Step, reason: str) -> None:
        """Note that a step is done, or why it has failed."""
        self.done += 1
        self.engine.say(f'[{self.done}/{len(self.graph)}] {step.title}')
        if reason:
            self.failed[step] = reason
        if reason and step.kind == 'run':
            self.engine.fail(step.cell, reason)


def _reason(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return (
            'Workers died in this step, also while no other one ran, maybe for want of '
            'memory. Their logs say more.'
        )
    return describe_error(error)


def do_step(study: str, folder: str, start: str, step: Step) -> Run | None:
    """Do a step of a study on a worker, whose earlier steps are done.

    Args:
        study: The study as JSON.
        folder: Folder that paths of the study are relative to.
        start: Differs from start to start: data are read anew in each.
        step: The step.

    Returns:
        The run, of the step of a run.

    Raises:
        UnfitWorker: If this worker does not see the folder of the study.
    """
    with _ONE:
        try:
            os.chdir(folder)
            engine = _engine(study, start)
        except FileNotFoundError as error:
            raise UnfitWorker(
                f'A worker on {socket.gethostname()} does not see {error.filename}. '
                'Start workers where the folder of the study is under the same path.'
            ) from error
        engine.make(step)
        runs = engine.finished([step.cell]) if step.kind == 'run' else []
        return next(iter(runs), None)


@lru_cache(maxsize=1)
def _engine(text: str, start: str) -> Engine:
    """The engine of this worker for all steps of a start, so that data are read once."""
    study = check_json(text, Study, 'The study')
    os.stat(study.out / 'study.json')
    # the bars and notes of many processes would be mixed
    for name in ('pytorch', 'fabric'):
        logging.getLogger(f'lightning.{name}').setLevel(logging.WARNING)
    return Engine(study, lambda title: [ProgressBar()], lambda said: None)


@contextmanager
def _stopping(
    client: Client, running: dict[Future[Run | None], Step]
) -> Iterator[None]:
    """End the steps in hand if the study ends before them: Ctrl-C, SIGTERM, an error."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SIGTERMException

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except CancelledError as error:
        raise RuntimeError(
            'The Dask scheduler has gone. What is finished is kept: start it again, and '
            'the same command goes on.'
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        # workers here end with the cluster
        if running and client.cluster is None:
            keys = {future.key for future in running}
            # a scheduler that has gone cannot be asked, and a worker without a nanny can
            # only finish what it does
            with suppress(OSError, RuntimeError, ValueError):
                steps = client.processing()
                client.cancel([*running])
                busy = [
                    worker for worker, own in steps.items() if keys.intersection(own)
                ]
                client.restart_workers(busy, _PATIENCE, raise_for_error=False)
