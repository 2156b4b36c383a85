# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from torchgeo_specdm.codecs import (
    load_codec,
    make_codec,
    require_learnable,
    require_learned,
    save_codec,
)

from .fakes import CODECS, batch_of, make, spec_of


class TestFolder:
    @pytest.mark.parametrize('kind', CODECS)
    def test_round_trip_is_bitwise(self, kind: str, tmp_path: Path) -> None:
        codec = make(kind, dates=2)
        save_codec(codec, tmp_path)
        loaded = load_codec(tmp_path)
        assert type(loaded) is type(codec)
        assert loaded.spec == codec.spec
        assert loaded.settings == codec.settings
        wanted = codec.state_dict()
        assert all(torch.equal(v, wanted[k]) for k, v in loaded.state_dict().items())
        batch = batch_of(2)
        assert torch.equal(loaded.encode(batch), codec.encode(batch))
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            'config.json',
            'model.safetensors',
        ]

    def broken(self, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
        save_codec(make('pixels'), tmp_path)
        config = json.loads((tmp_path / 'config.json').read_text())
        change(config)
        (tmp_path / 'config.json').write_text(json.dumps(config))
        return tmp_path

    def test_of_a_version_that_kept_no_range(self, tmp_path: Path) -> None:
        codec = make('pixels')
        weights = codec.state_dict()
        del weights['lowest'], weights['highest']
        save_codec(codec, tmp_path)
        save_file(weights, tmp_path / 'model.safetensors')
        far = 1e6 * batch_of(1)['image']
        assert torch.equal(load_codec(tmp_path).limit(far), far)
        assert not torch.equal(codec.limit(far), far)

    def test_no_statistics(self, tmp_path: Path) -> None:
        save_codec(make('pixels', fitted=False), tmp_path)
        with pytest.raises(ValueError, match=r'safetensors has values in latent_mean'):
            load_codec(tmp_path)

    @pytest.mark.parametrize('name', ['half_range', 'latent_std'])
    def test_scale_of_zero(self, tmp_path: Path, name: str) -> None:
        codec = make('pixels')
        getattr(codec, name)[0] = 0
        save_codec(codec, tmp_path)
        with pytest.raises(ValueError, match=rf'model\.safetensors has {name}=0, but'):
            load_codec(str(tmp_path))

    def test_of_stage_diffusion(self, tmp_path: Path) -> None:
        folder = self.broken(tmp_path, lambda c: c.update(stage='diffusion'))
        with pytest.raises(ValueError, match="written by stage 'diffusion'"):
            load_codec(folder)

    def test_lacks_a_field(self, tmp_path: Path) -> None:
        folder = self.broken(tmp_path, lambda c: c['spec'].pop('classes'))
        with pytest.raises(ValueError, match='classes'):
            load_codec(folder)
        folder = self.broken(tmp_path / 'b', lambda c: c.pop('settings'))
        with pytest.raises(ValueError, match='settings'):
            load_codec(folder)

    def test_weights_of_another(self, tmp_path: Path) -> None:
        folder = self.broken(tmp_path, lambda c: c['settings'].update(fold=2))
        with pytest.raises(ValueError, match=r'do not fit its config\.json'):
            load_codec(folder)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match='must have written it'):
            load_codec(tmp_path / 'nowhere')


class TestNames:
    def test_unknown_codec(self) -> None:
        with pytest.raises(
            ValueError, match=r"codec='vq' must be one of \['abundances'"
        ):
            make_codec('vq', spec_of(1), {})

    def test_unknown_setting(self) -> None:
        with pytest.raises(ValueError, match=r"pixels codec does not take .*'folds'"):
            make_codec('pixels', spec_of(1), {'folds': 2})

    def test_groups_must_divide(self) -> None:
        settings = CODECS['one_hot'][1] | {'groups': 32}
        with pytest.raises(ValueError, match='multiples of groups=32'):
            make_codec('single_stream', spec_of(1), settings)

    def test_what_a_stage_takes(self, tmp_path: Path) -> None:
        require_learnable('two_stream')
        require_learned('pixels')
        with pytest.raises(ValueError, match='nothing to learn'):
            require_learnable('pixels')
        with pytest.raises(ValueError, match=r'no learned codec.*--ckpt_path'):
            require_learned('single_stream')
        with pytest.raises(FileNotFoundError):
            require_learned(str(tmp_path / 'nowhere'))
