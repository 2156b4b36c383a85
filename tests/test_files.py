# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import errno
import hashlib
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.processes import in_child
from torchgeo_specdm.files import (
    WEIGHTS,
    load_weights,
    read_config,
    read_json,
    read_text,
    read_yaml,
    save_module,
    sha256,
    write_atomically,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestAtomic:
    @pytest.mark.parametrize(
        'error', [OSError(errno.ENOSPC, 'full'), KeyboardInterrupt]
    )
    @pytest.mark.parametrize('old', [None, 'old'])
    def test_failure_leaves_what_was(
        self, tmp_path: Path, error: BaseException, old: str | None
    ) -> None:
        path = tmp_path / 'a.txt'
        if old is not None:
            path.write_text(old)

        def write(part: Path) -> None:
            part.write_text('half')
            assert names(tmp_path) != ['a.txt'] and part.suffix == '.part'
            raise error

        with pytest.raises((OSError, KeyboardInterrupt)):
            write_atomically(path, write)
        assert names(tmp_path) == ([] if old is None else ['a.txt'])
        assert old is None or path.read_text() == old

    def test_equal_text_is_not_written_again(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.txt'
        write_text(path, 'a\n')
        os.utime(path, (0, 0))
        write_text(path, 'a\n')
        assert path.stat().st_mtime == 0
        write_text(path, 'b\n')
        assert path.stat().st_mtime > 0 and path.read_text() == 'b\n'

    def test_flushed_before_it_gets_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, seen = tmp_path / 'a.txt', []
        sync = os.fsync

        def record(descriptor: int) -> None:
            seen.append(path.exists())
            sync(descriptor)

        monkeypatch.setattr(os, 'fsync', record)
        write_text(path, 'ä')
        assert seen == [False]
        assert path.read_bytes() == 'ä'.encode()
        assert names(tmp_path) == ['a.txt']

    @pytest.mark.parametrize('file', ['a.txt', 'model.safetensors'])
    def test_a_full_disk_is_named(self, tmp_path: Path, file: str) -> None:
        said = tmp_path / 'said'

        def write() -> None:
            with said.open('w') as note:
                note.write('x' * 400)
                resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
                try:
                    if file == 'a.txt':
                        write_text(tmp_path / file, 'a' * 600)
                    else:
                        save_module(tmp_path, {}, nn.Linear(20, 20))
                except OSError as error:
                    note.seek(0)
                    note.write(str(error))
                    note.truncate()

        assert in_child(write) == 0
        sentence = said.read_text()
        assert sentence.startswith(f'{tmp_path / file} could not be written (')
        assert 'Make room there' in sentence and names(tmp_path) == ['said']

    def test_two_writers_of_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.txt'

        def write(part: Path) -> None:
            part.write_text('outer')
            write_text(path, 'inner')

        write_atomically(path, write)
        assert path.read_text() == 'outer' and names(tmp_path) == ['a.txt']

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r'nowhere/a\.txt could .*No such file'):
            write_text(tmp_path / 'nowhere' / 'a.txt', '')

    def test_sha256(self, tmp_path: Path) -> None:
        (tmp_path / 'a').write_bytes(b'abc')
        assert sha256(tmp_path / 'a') == hashlib.sha256(b'abc').hexdigest()


class TestText:
    def test_of_any_editor(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.txt'
        path.write_bytes(b'\xef\xbb\xbfa\r\n\xc3\xa4\r')
        assert read_text(path) == 'a\nä\n'

    def test_other_encoding(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.txt'
        path.write_bytes('Grünland'.encode('latin-1'))
        with pytest.raises(ValueError, match=r'a\.txt is no UTF-8 text'):
            read_text(path)

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('{"a": 1', 'is not valid JSON'),
            ('', 'is not valid JSON'),
            ('[1]', r'has the content=\[1\], but it must be an object'),
            ('null', 'has the content=None, but it must be an object'),
            ('[' * 10**6, 'is not valid JSON'),
        ],
    )
    def test_wrong_json(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / 'a.json'
        path.write_text(text)
        with pytest.raises(ValueError, match=rf'a\.json {message}'):
            read_json(path, dict[str, Any])

    def test_json_with_byte_order_mark(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.json'
        path.write_text('{"a": "ä"}', encoding='utf-8-sig')
        assert read_json(path, dict[str, Any]) == {'a': 'ä'}

    def test_yaml_as_torchgeo_reads_it(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.yaml'
        path.write_text('lr: 1e-4\nsizes: [1e3, 2]\n')
        assert read_yaml(path) == {'lr': 1e-4, 'sizes': [1000.0, 2]}

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('a: [', 'is no YAML'),
            ('a: !!python/object/apply:os.getcwd []', 'is no YAML'),
            ('', 'must hold keys and values, not NoneType'),
            ('5', 'must hold keys and values, not int'),
        ],
    )
    def test_wrong_yaml(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / 'a.yaml'
        path.write_text(text)
        with pytest.raises(ValueError, match=rf'a\.yaml {message}'):
            read_yaml(path)


class TestModule:
    def test_round_trip(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        module, other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        module(torch.randn(4, 3, 5, 5))
        folder = tmp_path / 'new' / 'folder'
        save_module(folder, {'stage': 'autoencoder', 'width': 3}, module)
        form = dict[str, Any]
        assert names(folder) == ['config.json', 'model.safetensors']
        assert read_config(folder, 'autoencoder', form)['width'] == 3
        other.load_state_dict(load_weights(folder))
        for key, value in module.state_dict().items():
            assert torch.equal(value, other.state_dict()[key])

    @pytest.mark.parametrize('umask, mode', [(0o022, 0o644), (0o027, 0o640)])
    def test_mode_follows_the_umask(
        self, tmp_path: Path, umask: int, mode: int
    ) -> None:
        before = os.umask(umask)
        try:
            save_module(tmp_path, {}, nn.Linear(1, 1))
        finally:
            os.umask(before)
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {mode}

    def test_wrong_stage(self, tmp_path: Path) -> None:
        save_module(tmp_path, {'stage': 'autoencoder'}, nn.Linear(1, 1))
        with pytest.raises(
            ValueError, match=r"stage 'autoencoder', but .* 'diffusion'"
        ):
            read_config(tmp_path, 'diffusion', dict[str, Any])
        with pytest.raises(FileNotFoundError, match="stage 'diffusion' must have"):
            read_config(tmp_path / 'nowhere', 'diffusion', dict[str, Any])

    def test_broken_weights(self, tmp_path: Path) -> None:
        save_module(tmp_path, {'stage': 'autoencoder'}, nn.Linear(9, 9))
        path = tmp_path / WEIGHTS
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(ValueError, match=r'model\.safetensors cannot be read'):
            load_weights(tmp_path)
        path.unlink()
        with pytest.raises(ValueError, match=r'model\.safetensors cannot be read'):
            load_weights(tmp_path)

    def test_configuration_comes_last(self, tmp_path: Path) -> None:
        # a value that JSON does not know: the folder must not look whole
        with pytest.raises(TypeError):
            save_module(tmp_path, {'stage': object()}, nn.Linear(1, 1))
        with pytest.raises(FileNotFoundError):
            read_config(tmp_path, 'autoencoder', dict[str, Any])
