# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from torchgeo_specdm import Generator

from .oracle import batch_of


class TestIdentity:
    def test_frozen_loop(self, generator: Generator) -> None:
        # a change of scheduler, noise or network arithmetic shows here first
        sample = generator.sample([0, 1], 7, steps=10)
        assert float(sample['image'].double().sum()) == pytest.approx(
            537380.158, rel=1e-4
        )
        assert int(sample['mask'].sum()) == pytest.approx(785, abs=2)

    def test_batch_size_and_order_do_not_matter(self, generator: Generator) -> None:
        together = generator.sample([4, 0, 7, 2], 3)
        alone = [generator.sample([i], 3) for i in (4, 0, 7, 2)]
        images = torch.cat([s['image'] for s in alone])
        scale = float(images.abs().max())
        assert float((together['image'] - images).abs().max()) < 1e-4 * scale
        masks = torch.cat([s['mask'] for s in alone])
        assert float((together['mask'] == masks).float().mean()) >= 0.999

    def test_seed_and_index_do(self, generator: Generator) -> None:
        a = generator.sample([0, 1], 3)['image']
        b = generator.sample([0, 1], 4)['image']
        assert float((a[0] - a[1]).abs().mean()) > 1
        assert float((a - b).abs().mean()) > 1

    def test_the_state_of_other_generators_does_not(self, generator: Generator) -> None:
        torch.manual_seed(0)
        a = generator.sample([0], 3, sampler='ddpm')['image']
        torch.manual_seed(1)
        assert torch.equal(a, generator.sample([0], 3, sampler='ddpm')['image'])

    def test_settings_are_its_own_if_none_are_given(self, generator: Generator) -> None:
        own = {'sampler': 'ddpm', 'steps': 3, 'clip': 0.1}
        parts = generator.codec, generator.process, generator.denoiser
        other = Generator(*parts, generator.config | {'sampling': own})
        image = other.sample([0], 3)['image']
        assert torch.equal(image, generator.sample([0], 3, **own)['image'])
        for name, value in (('sampler', 'dpm'), ('steps', 4), ('clip', float('inf'))):
            changed = other.sample([0], 3, **{name: value})['image']
            assert float((image - changed).abs().mean()) > 1, name

    def test_contract_of_a_sample(self, generator: Generator) -> None:
        sample = generator.sample([0, 1], 3)
        assert sample['image'].shape == (2, 2, 16, 16)
        assert sample['image'].dtype == torch.float32
        assert sample['mask'].shape == (2, 16, 16)
        assert sample['mask'].dtype == torch.int64
        assert int(sample['mask'].max()) <= 2
        assert not sample['image'].requires_grad


class TestArguments:
    @pytest.mark.parametrize(
        ('arguments', 'said'),
        [
            ({'sampler': 'euler'}, "sampler='euler' must be one of"),
            ({'steps': 0}, 'steps=0 lie in 1..1000'),
            ({'steps': 1001}, 'steps=1001'),
            ({'strength': 0.5}, 'below 1 with samples to start from and only then'),
            ({'strength': 0.0}, 'strength=0.0'),
            ({'guidance': -1.0}, 'guidance=-1.0 must be 0 or more'),
            ({'indices': []}, 'must name one sample or more'),
            ({'indices': [-1]}, r'indices=\[-1\]'),
            ({'seed': -2}, 'seed=-2 be 0 or more'),
            ({'seed': 2**64}, 'and below 9223372036854775808'),
            ({'size': (16, 15)}, 'Samples of 16 x 15 pixels'),
        ],
    )
    def test_refused(
        self, generator: Generator, arguments: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            generator.sample(**{'indices': [0], 'seed': 0} | arguments)

    @pytest.mark.parametrize(
        ('arguments', 'said'),
        [
            ({'given': ('mask',)}, '2 of mask are given for 1 indices'),
            ({'start': ('image',)}, 'below 1 with samples to start from'),
            ({'start': ('mask',), 'strength': 0.5}, r"start has \['mask'\], but"),
            ({'given': ('image', 'mask')}, 'so nothing is left to draw'),
            ({'given': ('image_2',)}, r"\['image_2'\] cannot be given"),
            ({'given': ('bands',)}, r'must have 1 date\(s\) of 2 bands'),
        ],
    )
    def test_parts_must_suit(
        self, generator: Generator, arguments: dict[str, Any], said: str
    ) -> None:
        sample = batch_of(2) | {'image_2': torch.zeros(2, 2, 16, 16)}
        wrong = {'image': torch.zeros(2, 3, 16, 16)}
        for use in ('given', 'start'):
            names = arguments.get(use, ())
            parts = wrong if 'bands' in names else {n: sample[n] for n in names}
            arguments = arguments | {use: parts}
        with pytest.raises(ValueError, match=said):
            generator.sample([0], 0, **arguments)


class TestFolder:
    def test_round_trip_is_exact(self, generator: Generator, tmp_path: Path) -> None:
        generator.save(tmp_path)
        loaded = Generator.load(tmp_path)
        assert loaded.config == generator.config
        wanted, found = (g.sample([0, 1], 5) for g in (generator, loaded))
        assert torch.equal(wanted['image'], found['image'])
        assert torch.equal(wanted['mask'], found['mask'])
        assert not any(p.requires_grad for p in loaded.parameters())
        assert sorted(p.name for p in tmp_path.rglob('*.*')) == [
            'config.json',
            'config.json',
            'model.safetensors',
            'model.safetensors',
        ]

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r'config\.json does not exist'):
            Generator.load(tmp_path)

    def test_of_stage_autoencoder(self, generator: Generator, tmp_path: Path) -> None:
        generator.save(tmp_path)
        with pytest.raises(ValueError, match="written by stage 'autoencoder'"):
            Generator.load(tmp_path / 'codec')

    def test_cut_weights(self, generator: Generator, tmp_path: Path) -> None:
        generator.save(tmp_path)
        weights = tmp_path / 'model.safetensors'
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(ValueError, match=r'model\.safetensors cannot be read'):
            Generator.load(tmp_path)

    @pytest.mark.parametrize('value', ['nan', '-inf'])
    def test_weights_that_are_not_finite(
        self, generator: Generator, tmp_path: Path, value: str
    ) -> None:
        broken = deepcopy(generator)
        next(broken.denoiser.parameters()).data.view(-1)[-1] = float(value)
        broken.save(tmp_path)
        with pytest.raises(ValueError, match=rf'{tmp_path}/model\.safetensors has val'):
            Generator.load(tmp_path)

    def test_weights_of_another_network(
        self, generator: Generator, tmp_path: Path
    ) -> None:
        generator.save(tmp_path)
        config = json.loads((tmp_path / 'config.json').read_text())
        config['denoiser']['widths'] = [8, 24]
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r'do not fit its config\.json'):
            Generator.load(tmp_path)

    def test_unknown_setting(self, generator: Generator) -> None:
        config = generator.config | {'process': {'predicts': 'v'}}
        with pytest.raises(ValueError, match="argument 'predicts'"):
            Generator.build(generator.codec, config)

    def test_patches_that_do_not_go_through(self, generator: Generator) -> None:
        config = generator.config | {'patch_size': [10, 10]}
        with pytest.raises(ValueError, match=r'5 x 5 cells .* multiples of 2'):
            Generator.build(generator.codec, config)
