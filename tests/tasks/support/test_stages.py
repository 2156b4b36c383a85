# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from torchgeo_specdm import Generator, SampleSpec
from torchgeo_specdm.codecs import make_codec
from torchgeo_specdm.presets import load_preset, prior_folder
from torchgeo_specdm.tasks.support.stages import DiffusionStage


def build(settings: Mapping[str, Any]) -> Generator:
    """The generator that stage 2 of ``tiny`` begins with, of three bands."""
    codec = make_codec(
        'pixels', SampleSpec(('B02', 'B03', 'B04'), ('a', 'b')), {'fold': 4}
    )
    for values in codec.buffers():
        # statistics that are not measured are NaN
        values.copy_(values.nan_to_num(1))
    return DiffusionStage.build(
        codec, load_preset('tiny', settings), [32, 32]
    ).generator


class TestPrior:
    def test_the_shipped_one_is_whole(self) -> None:
        folder = prior_folder('scenes')
        assert Generator.load(folder).config['training']['updates'] > 1000
        assert sum(p.stat().st_size for p in folder.rglob('*.*')) < 20e6

    def test_tiny_begins_with_it(self) -> None:
        generator = build({})
        assert generator.config['prior'] == 'scenes'
        shipped = Generator.load(prior_folder('scenes')).denoiser.state_dict()
        own = generator.denoiser.state_dict()
        name = 'network.mid_block.resnets.0.conv1.weight'
        torch.testing.assert_close(own[name], shipped[name], rtol=0, atol=0)

    @pytest.mark.parametrize(
        'settings',
        [
            {'pixels': {'prior': None}},
            {'denoiser': {'widths': [32, 64, 64]}},
            {'pixels': {'denoiser': {'detail': 0}}},
        ],
    )
    def test_other_settings_begin_at_random(self, settings: dict[str, Any]) -> None:
        assert 'prior' not in build(settings).config

    def test_one_of_the_user_must_fit(self, tmp_path: Path) -> None:
        build({'pixels': {'prior': None}}).save(tmp_path)
        assert build({'pixels': {'prior': str(tmp_path)}}).config['prior']
        narrow = {'widths': [32, 64, 64]}
        with pytest.raises(ValueError, match='Set prior: null'):
            build({'pixels': {'prior': str(tmp_path)}, 'denoiser': narrow})
