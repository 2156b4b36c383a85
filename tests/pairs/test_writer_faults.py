# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Full disks, kills, second starts and several processes."""

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.data.pairs import digests
from tests.pairs.test_writer import COUNT, SPEC, make, run, sample
from tests.processes import die_at_rename, in_child
from torchgeo_specdm.pairs.spec import SampleSpec
from torchgeo_specdm.pairs.writer import PairWriter


class TestFullDisk:
    def size(self, tmp_path: Path) -> int:
        make(tmp_path / 'whole').write('a', *sample(0, size=64), {'index': 0})
        return (tmp_path / 'whole' / 'images' / 'a.tif').stat().st_size

    @pytest.mark.parametrize('percent', [10, 50, 90, 95, 97, 99, 99.99])
    def test_image(self, tmp_path: Path, percent: float) -> None:
        limit = int(self.size(tmp_path) * percent / 100)

        def write() -> None:
            writer = make(tmp_path / 'full')
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                writer.write('a', *sample(0, size=64), {'index': 0})
            except OSError as error:
                os._exit(7 if 'a.tif could not be written' in str(error) else 8)
            os._exit(0)

        assert in_child(write) == 7
        assert digests(tmp_path / 'full').keys() == {'dataset.json'}
        # with room again, the same command goes on
        writer = make(tmp_path / 'full')
        assert writer.done() == set()
        writer.write('a', *sample(0, size=64), {'index': 0})
        assert digests(tmp_path / 'full') == digests(tmp_path / 'whole')

    def test_silent_loss(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # some network disks accept everything and keep less
        writer, write_bytes = make(tmp_path), Path.write_bytes
        monkeypatch.setattr(
            Path, 'write_bytes', lambda path, data: write_bytes(path, data[:-1])
        )
        with pytest.raises(OSError, match=r'a\.tif could .*read back .*the same comm'):
            writer.write('a', *sample(0), {'index': 0})
        assert digests(tmp_path).keys() == {'dataset.json'}

    def test_manifest(self, tmp_path: Path) -> None:
        run(tmp_path)
        path = tmp_path / 'manifest.jsonl'
        whole = digests(tmp_path)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(''.join(lines[:-1]))
        limit = path.stat().st_size + 20

        def write() -> None:
            writer = make(tmp_path)
            # the files of the sample are smaller than this manifest
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                writer.append(json.loads(lines[-1]))
            except OSError as error:
                os._exit(7 if 'jsonl could not be written' in str(error) else 8)
            os._exit(0)

        assert in_child(write) == 7
        assert path.stat().st_size == limit
        assert make(tmp_path).done() == {0, 1, 2}
        assert run(tmp_path) == {3}
        assert digests(tmp_path) == whole


class TestKill:
    @pytest.mark.parametrize('renames', range(1, 2 * COUNT + 3))
    @pytest.mark.parametrize('after', [False, True])
    def test_finished_run_is_the_same(
        self, tmp_path: Path, renames: int, after: bool
    ) -> None:
        run(tmp_path / 'whole')
        root = tmp_path / 'killed'

        def die() -> None:
            die_at_rename(renames, after)
            run(root)

        assert in_child(die) == -signal.SIGKILL
        assert len([*root.rglob('*.part')]) == (not after)
        # renamed are dataset.json, then image and mask of each sample, then the card;
        # killed between a sample's last file and its line, it is written once more
        assert run(root) == {i for i in range(COUNT) if 3 + 2 * i >= renames}
        assert digests(root) == digests(tmp_path / 'whole')

    @pytest.mark.parametrize('after', [False, True])
    def test_while_the_manifest_is_sorted(self, tmp_path: Path, after: bool) -> None:
        run(tmp_path / 'whole')
        root = tmp_path / 'killed'
        run(root)
        (root / 'masks' / '000000.tif').unlink()

        def die() -> None:
            # image and mask of the lost sample, then the manifest
            die_at_rename(3, after)
            run(root)

        assert in_child(die) == -signal.SIGKILL
        assert [path.name[:8] for path in root.rglob('*.part')] == (
            [] if after else ['manifest']
        )
        assert run(root) == set()
        assert digests(root) == digests(tmp_path / 'whole')

    def test_in_the_manifest(self, tmp_path: Path) -> None:
        run(tmp_path / 'whole')
        root = tmp_path / 'killed'

        def die() -> None:
            write, count = os.write, 0

            def write_and_die(descriptor: int, data: bytes) -> int:
                nonlocal count
                count += 1
                if count == 3:
                    write(descriptor, data[: len(data) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return write(descriptor, data)

            os.write = write_and_die  # type: ignore[assignment]
            run(root)

        assert in_child(die) == -signal.SIGKILL
        assert not (root / 'manifest.jsonl').read_bytes().endswith(b'\n')
        assert run(root) == {2, 3}
        assert digests(root) == digests(tmp_path / 'whole')


class TestResume:
    def test_nothing_left(self, tmp_path: Path) -> None:
        assert run(tmp_path) == {0, 1, 2, 3}
        before = digests(tmp_path)
        assert run(tmp_path) == set()
        assert digests(tmp_path) == before

    @pytest.mark.parametrize('kind', ['images', 'masks'])
    @pytest.mark.parametrize('fault', ['deleted', 'edited', 'cut'])
    def test_damaged_file(self, tmp_path: Path, kind: str, fault: str) -> None:
        run(tmp_path)
        before = digests(tmp_path)
        path = tmp_path / kind / '000002.tif'
        data = path.read_bytes()
        path.unlink()
        if fault != 'deleted':
            path.write_bytes(data[:-1] + b'\xff' * (fault == 'edited'))
        assert run(tmp_path) == {2}
        assert digests(tmp_path) == before

    def test_line_without_files(self, tmp_path: Path) -> None:
        writer = make(tmp_path)
        lines = [{'id': '0', 'index': 0}, {'id': '1'}, {'id': '2', 'accepted': False}]
        text = ''.join(json.dumps(line) + '\n' for line in lines)
        (tmp_path / 'manifest.jsonl').write_text(text)
        assert writer.done() == set()

    def test_other_settings(self, tmp_path: Path) -> None:
        run(tmp_path)
        with pytest.raises(FileExistsError) as error:
            make(tmp_path, seed=1, strength=0.5)
        assert 'seed: 0 there, 1 here, strength: None there, 0.5 here' in str(
            error.value
        )
        assert 'mode' not in str(error.value)

    @pytest.mark.parametrize(
        ('field', 'value'),
        [('bands', ['B02', 'B03', 'B04']), ('dtype', 'int16'), ('nodata', None)],
    )
    def test_other_spec(self, tmp_path: Path, field: str, value: Any) -> None:
        run(tmp_path)
        spec = SampleSpec.from_dict(SPEC.to_dict() | {field: value})
        with pytest.raises(FileExistsError, match=f'settings .{field}: .* here'):
            make(tmp_path, spec)

    def test_foreign_folder(self, tmp_path: Path) -> None:
        (tmp_path / 'photo.jpg').touch()
        with pytest.raises(FileExistsError, match='not empty and has no dataset'):
            make(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ['photo.jpg']
        plain = tmp_path / 'plain'
        (plain / 'images').mkdir(parents=True)
        (plain / 'images' / 'a.tif').touch()
        with pytest.raises(FileExistsError, match='not empty and has no dataset'):
            make(plain)

    @pytest.mark.parametrize('extra', [{}, {'provenance': 'us'}, {'provenance': {}}])
    def test_description_of_others(self, tmp_path: Path, extra: dict[str, Any]) -> None:
        text = json.dumps(SPEC.to_dict() | extra)
        (tmp_path / 'dataset.json').write_text(text)
        with pytest.raises(FileExistsError, match='made by something else'):
            PairWriter(tmp_path, SPEC, {}, {})

    def test_file_in_the_way(self, tmp_path: Path) -> None:
        path = tmp_path / 'out'
        path.touch()
        with pytest.raises(FileExistsError, match='out is a file'):
            make(path)

    def test_parents_are_made(self, tmp_path: Path) -> None:
        make(tmp_path / 'a' / 'b')
        assert (tmp_path / 'a' / 'b' / 'dataset.json').exists()

    def test_clean(self, tmp_path: Path) -> None:
        run(tmp_path)
        before = digests(tmp_path)
        (tmp_path / 'images' / '000009.tif.1.part').touch()
        (tmp_path / 'manifest.jsonl.1.part').touch()
        make(tmp_path).clean()
        assert digests(tmp_path) == before


class TestTwoProcesses:
    def test_lines_stay_whole(self, tmp_path: Path) -> None:
        make(tmp_path)
        context = multiprocessing.get_context('fork')
        barrier = context.Barrier(2)

        def append(rank: int) -> None:
            writer = make(tmp_path)
            barrier.wait(30)
            for i in range(150):
                writer.append({'id': f'{rank}-{i}', 'index': i, 'pad': 'x' * (40 * i)})

        children = [context.Process(target=append, args=(rank,)) for rank in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
            assert child.exitcode == 0
        text = (tmp_path / 'manifest.jsonl').read_text()
        rows = [json.loads(line) for line in text.split('\n') if line]
        assert len(rows) == 300
        assert {row['id'] for row in rows} == {
            f'{rank}-{i}' for rank in range(2) for i in range(150)
        }
        assert all(len(row['pad']) == 40 * row['index'] for row in rows)
