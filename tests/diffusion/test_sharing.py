# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from torchgeo_specdm import Generator
from torchgeo_specdm.pairs.fingerprint import read_seen_samples, write_seen_samples


def test_a_folder_and_its_card(generator: Generator, tmp_path: Path) -> None:
    generator.save(tmp_path / 'learned')
    write_seen_samples(tmp_path / 'learned', {'0123456789abcdef'})
    Generator.load(tmp_path / 'learned').save_pretrained(tmp_path / 'shared')
    assert read_seen_samples(tmp_path / 'shared') == {'0123456789abcdef'}
    found = Generator.from_pretrained(str(tmp_path / 'shared'))
    assert found.config == generator.config
    wanted, drawn = (g.sample([0], 5) for g in (generator, found))
    assert torch.equal(wanted['image'], drawn['image'])
    card = ModelCard.load(tmp_path / 'shared' / 'README.md')
    assert card.data.library_name == 'torchgeo_specdm'
    assert all(name in card.text for name in generator.codec.spec.classes)


def test_only_safe_files_are_fetched(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator.save(tmp_path)
    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr('torchgeo_specdm.diffusion.sharing.snapshot_download', snapshot)
    monkeypatch.setattr(
        'huggingface_hub.hub_mixin.hf_hub_download',
        lambda **options: str(tmp_path / 'config.json'),
    )
    found = Generator.from_pretrained('user/name', revision='v1')
    assert found.config == generator.config
    assert asked['name'] == 'user/name' and asked['revision'] == 'v1'
    kinds = {'*.json', '*.md', '*.safetensors', '*.txt'}
    assert set(asked['allow_patterns']) == kinds
