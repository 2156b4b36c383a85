# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client

from tests.study.worlds import (
    TinyTask,
    pairs_data,
    read_study,
    table_of,
    tiny_recipe,
    tiny_task,
    write_yaml,
)
from torchgeo_specdm.cli import main
from torchgeo_specdm.reporting.study import write_study
from torchgeo_specdm.study.cluster import (
    UnfitWorker,
    do_step,
    open_cluster,
    run_on_cluster,
)
from torchgeo_specdm.study.engine import Engine
from torchgeo_specdm.study.runs import Run


class DiesOnce(TinyTask):
    """A network whose first training ends with its process."""

    def on_train_batch_start(self, *rest: Any) -> None:
        if not Path('died').exists():
            Path('died').touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Dies(TinyTask):
    """A network whose every training ends with its process."""

    def on_train_batch_start(self, *rest: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Endless(TinyTask):
    """A network that says in which process it trains, and does not come to an end."""

    def on_train_batch_start(self, *rest: Any) -> None:
        Path('training').write_text(str(os.getpid()))
        time.sleep(60)


def network(kind: type[TinyTask]) -> dict[str, Any]:
    return tiny_task() | {'class_path': f'{__name__}.{kind.__name__}'}


@pytest.fixture(scope='module')
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The cluster that several GPUs get, whose processes import once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        patch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        get_context('forkserver').set_forkserver_preload([__name__, 'torchgeo.main'])
        forkserver.ensure_running()
        method = {'distributed.worker.multiprocessing-method': 'forkserver'}
        with dask.config.set(method), open_cluster(None, 2) as client:
            yield client


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies with relative paths."""
    monkeypatch.chdir(tmp_path)


def without_seconds(runs: list[Run]) -> list[Run]:
    return [replace(run, seconds=0) for run in runs]


def test_equals_one_process(
    client: Client,
    pair_folder: Path,
    tiny_settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = client.run(os.getenv, 'CUDA_VISIBLE_DEVICES')
    assert sorted(shown.values()) == ['0', '1']
    recipe = tiny_recipe(tiny_settings)
    arm = {'generator': 'own', 'ratios': [0.5]}
    arms = {
        'mix': arm | {'ratios': [0.5, 1]},
        'vary': arm | {'source': 'vary'},
        'relabel': arm | {'relabel': True},
        'broken': arm | {'generator': 'broken'},
    }
    given: dict[str, Any] = {
        'data': pairs_data(pair_folder, 4),
        'arms': arms,
        'generators': {'own': recipe, 'broken': recipe | {'preset': 'nothing'}},
        'sizes': [8],
        'updates': 1,
        'most_updates': 2,
    }
    tables = []
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        # reasons name files
        monkeypatch.chdir(tmp_path / name)
        study, said = read_study(Path(), pair_folder, **given), list[str]()
        engine = Engine(study, say=said.append)
        cells = study.cells()
        if name == 'one':
            runs = engine.run(cells)
        else:
            runs = run_on_cluster(client, engine, cells)
            # 12 runs, a pilot, held-out samples, real ones, two generators with their
            # joint pairs, variations, and two networks that read masks
            assert said[-1].startswith('[22/22]')
            # all is there, also for a process that begins with the folder
            assert Engine(study).run(cells) == runs
        write_study(study, runs)
        tables.append((without_seconds(runs), table_of(study.out)))
    assert tables[0] == tables[1]
    reasons = [run.reason for run in runs]
    assert [bool(reason) for reason in reasons] == [run.arm == 'broken' for run in runs]


def test_workers_that_die(client: Client, world: Path) -> None:
    # more that die than workers, so that what they die of waits beside what they do
    dying = {f'always {i}': network(Dies) for i in range(3)}
    models = {'net': tiny_task(), 'once': network(DiesOnce), **dying}
    study = read_study(Path(), world / 'rich', models=models, seeds=1)
    runs = run_on_cluster(client, Engine(study), study.cells())
    *always, net, once = sorted(runs, key=lambda run: run.model)
    for run in always:
        assert run.reason.startswith('Workers died in this step, also while no')
    alone = replace(study, out=Path('alone'), models={'net': tiny_task()})
    (wanted,) = Engine(alone).run(alone.cells())
    assert not wanted.reason and Path('died').exists()
    assert without_seconds([net, replace(once, model='net')]) == 2 * without_seconds(
        [wanted]
    )


@pytest.fixture
def listening() -> Iterator[None]:
    """Ctrl-C is heard, which a shell lets processes in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('listening')
@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stops_what_workers_do(
    client: Client, world: Path, capsys: Any, number: signal.Signals, code: int
) -> None:
    def stop() -> None:
        deadline = time.monotonic() + 90
        while not Path('training').exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    models = {'endless': network(Endless)}
    path = write_yaml(Path(), world / 'rich', models=models, seeds=1)
    watch = threading.Thread(target=stop)
    watch.start()
    address = client.cluster.scheduler_address
    assert main(['study', str(path), '--scheduler', address]) == code
    watch.join()
    assert 'The same command goes on from here' in capsys.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path('training').read_text()), 0)
    assert not any(client.processing().values()) and not Path('out/runs').exists()


def test_a_worker_must_see_the_folder(world: Path, tmp_path: Path) -> None:
    study = read_study(Path(), world / 'rich')
    text = json.dumps(asdict(study), default=str)
    step = Engine(study).step(study.cells()[0])
    for folder, missing in ((tmp_path / 'a', tmp_path / 'a'), (tmp_path, 'out/study')):
        with pytest.raises(UnfitWorker, match=f'does not see {missing}'):
            do_step(text, str(folder), '', step)


def test_a_scheduler_that_is_not_there(world: Path, capsys: Any) -> None:
    path = str(write_yaml(Path(), world / 'rich'))
    with dask.config.set({'distributed.comm.timeouts.connect': '0.2s'}):
        assert main(['study', path, '--scheduler', 'tcp://127.0.0.1:1']) == 1
    said = capsys.readouterr().err
    assert '--scheduler tcp://127.0.0.1:1 does not answer as a Dask scheduler' in said


@pytest.mark.parametrize('gpus', [0, 2])
def test_without_distributed(
    world: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    monkeypatch.setitem(sys.modules, 'distributed', None)
    monkeypatch.delitem(sys.modules, 'torchgeo_specdm.study.cluster')
    monkeypatch.setattr('torch.cuda.device_count', lambda: gpus)
    monkeypatch.setattr(Engine, 'run', lambda self, cells, retry: self.begin() or [])
    quiet = {'trainer': {'enable_progress_bar': False}}
    path = str(write_yaml(Path(), world / 'rich', **quiet))
    install = 'install it: pip install distributed.'
    if gpus:
        assert main(['study', path]) == 0
        wanted = f'One of 2 GPUs is used. For all, {install}\n'
    else:
        assert main(['study', path, '--scheduler', 'tcp://127.0.0.1:1']) == 1
        wanted = (
            'torchgeo-specdm: --scheduler tcp://127.0.0.1:1 needs the package '
            f'distributed; {install}\n'
        )
    assert capsys.readouterr().err == wanted
