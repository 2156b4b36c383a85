# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import json
from typing import Any

import numpy as np
import pytest
import torch

from torchgeo_specdm import Generator, SampleSpec
from torchgeo_specdm.codecs import CODECS, make_codec
from torchgeo_specdm.presets import (
    GENERATORS,
    PRESETS,
    generator_settings,
    load_preset,
    named_generator,
)

SPEC = SampleSpec(('B02', 'B03'), ('a', 'b', 'c'))


@pytest.mark.parametrize('name', PRESETS)
@pytest.mark.parametrize('codec', CODECS)
def test_every_preset_builds_every_codec(name: str, codec: str) -> None:
    preset = load_preset(name)
    # no weights: the networks of the paper have 400 million
    with torch.device('meta'):
        made = make_codec(codec, SPEC, preset[codec]['codec'])
        config = generator_settings(preset, codec) | {'patch_size': [128, 128]}
        generator = Generator.build(made, config)
    times = len(made.streams) if generator.process.cases.separate else 1
    assert len(generator.denoiser.embeddings) == times - 1
    assert generator.process.num_steps == 1000
    # what follows from the number of bands is settled
    wanted = {k: v for k, v in preset[codec]['codec'].items() if v is not None}
    assert wanted.items() <= made.settings.items()
    assert None not in made.settings.values()
    assert {'lr', 'warmup', 'weight_decay'} <= set(preset['autoencoder'])
    assert 0 < preset['diffusion']['ema'] < 1


def test_paper_is_as_published() -> None:
    preset = load_preset('paper')
    # the paper prints none of these two; they are those of latent diffusion
    assert preset['autoencoder'] == {
        'lr': 1.1e-4,
        'warmup': 0,
        'weight_decay': 0.0,
        'betas': [0.5, 0.9],
        'decay': False,
    }
    assert preset['diffusion'] == {
        'lr': 5e-5,
        'warmup': 10_000,
        'weight_decay': 0.01,
        'betas': [0.9, 0.999],
        'decay': False,
        'ema': 0.9999,
    }
    assert preset['denoiser'] == {
        'widths': [192, 384, 384, 768, 768],
        'attention': [True, True, True, True, False],
        'layers': 2,
        'groups': 32,
        'head_dim': None,
        'residual_resampling': True,
    }
    assert preset['two_stream']['process'] == {
        'prediction': 'epsilon',
        'cases': {'joint': 1.0},
        'signal_scale': 1.0,
    }
    assert preset['schedule'] == {
        'num_steps': 1000,
        'beta_start': 0.0015,
        'beta_end': 0.0155,
    }
    assert preset['sampling'] == {
        'sampler': 'ddpm',
        'steps': 1000,
        'clip': None,
        'guidance': 0.0,
    }
    assert preset['two_stream']['codec'] == {
        'image_widths': [128, 256, 512],
        'mask_widths': [128, 256, 512],
        'image_latents': 3,
        'mask_latents': 3,
        'layers': 2,
        'stem': 1,
        'groups': 32,
        'attention': True,
        'sad_weight': 0.1,
        'kl_weight': 1.9e-8,
    }


def test_pixels_predict_the_sample() -> None:
    for name in PRESETS:
        assert load_preset(name)['pixels']['process']['prediction'] == 'sample'


class TestNamedGenerators:
    @pytest.mark.parametrize('name', GENERATORS)
    def test_every_preset_knows_them(self, name: str) -> None:
        codec, settings = named_generator(name, {})
        for preset in PRESETS:
            with torch.device('meta'):
                given = load_preset(preset, settings)[codec]['codec']
                made = make_codec(codec, SPEC, given)
            assert made.settings.items() >= GENERATORS[name][1].get('codec', {}).items()

    def test_no_two_are_the_same(self) -> None:
        found = [repr(GENERATORS[name]) for name in GENERATORS]
        assert len({*found}) == len(found)

    def test_the_user_goes_before_the_name(self) -> None:
        given = {
            'single_stream': {'codec': {'latents': 4, 'sad_weight': 0.2}},
            'diffusion': {'lr': 1e-5},
        }
        codec, settings = named_generator('ldm, weak mask', given)
        assert codec == 'single_stream' and settings['diffusion'] == {'lr': 1e-5}
        assert settings['single_stream']['codec'] == {
            'latents': 4,
            'sad_weight': 0.2,
            'mask_input': 'index',
        }
        assert 'mask_input' not in given['single_stream']['codec']

    def test_a_codec_is_its_own_name(self) -> None:
        assert named_generator('two_stream', {'diffusion': {}}) == (
            'two_stream',
            {'diffusion': {}},
        )


class TestOverrides:
    def test_replace_what_they_name(self) -> None:
        plain = load_preset('tiny')
        changed = load_preset(
            'tiny', {'diffusion': {'lr': 2e-4}, 'sampling': {'clip': 3.0}}
        )
        assert changed['diffusion'] == plain['diffusion'] | {'lr': 2e-4}
        assert changed['sampling'] == plain['sampling'] | {'clip': 3.0}
        assert changed['denoiser'] == plain['denoiser']

    def test_numbers_of_numpy_can_be_written(self) -> None:
        given = {
            'diffusion': {'lr': np.float64(2e-4)},
            'denoiser': {'groups': np.int64(8)},
        }
        written = json.loads(json.dumps(load_preset('tiny', given)))
        assert written['diffusion']['lr'] == 2e-4
        assert written['denoiser']['groups'] == 8

    def test_cases_are_replaced_as_a_whole(self) -> None:
        own = {'image_1|mask': 1.0}
        preset = load_preset('tiny', {'pixels': {'process': {'cases': own}}})
        assert preset['pixels']['process']['cases'] == own
        assert preset['pixels']['process']['prediction'] == 'sample'

    def test_are_not_kept(self) -> None:
        load_preset('tiny', {'two_stream': {'codec': {'stem': 1}}})
        assert load_preset('tiny')['two_stream']['codec']['stem'] == 2

    @pytest.mark.parametrize(
        ('overrides', 'said'),
        [
            ({'difusion': {}}, r"settings \['difusion'\] do not exist"),
            # once read but never looked at: the run would use the preset's
            ({'diffusion': {'learning_rate': 1}}, r"\['diffusion.learning_rate'\]"),
            ({'two_stream': {'codec': {'stems': 1}}}, r'two_stream\.codec\.stems'),
            ({'denoiser': 5}, 'denoiser=5 must be like'),
            ({'diffusion': {'lr': {'x': 1}}}, r'diffusion\.lr=.* must be like'),
            (
                {'diffusion': {'lr': '1e-4'}},
                r"diffusion\.lr='1e-4' .*1.0e-4 as a number",
            ),
        ],
    )
    def test_refused(self, overrides: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            load_preset('tiny', overrides)

    def test_unknown_preset(self) -> None:
        with pytest.raises(ValueError, match="preset='huge' must be one of"):
            load_preset('huge')
