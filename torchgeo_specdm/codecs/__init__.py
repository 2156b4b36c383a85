# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Codecs: a labelled sample to a latent tensor and back."""

from .abundances import AbundanceCodec
from .base import Codec, Sample, by_channel
from .pixels import FoldedCodec, PixelCodec, fold_pixels, unfold_cells
from .scores import ReconstructionScores, mask_fidelity
from .single_stream import SingleStreamCodec
from .storage import (
    CODECS,
    codec_from_config,
    codec_to_config,
    load_codec,
    load_state,
    make_codec,
    require_learnable,
    require_learned,
    save_codec,
)
from .two_stream import TwoStreamCodec

__all__ = (
    'CODECS',
    'AbundanceCodec',
    'Codec',
    'FoldedCodec',
    'PixelCodec',
    'ReconstructionScores',
    'Sample',
    'SingleStreamCodec',
    'TwoStreamCodec',
    'by_channel',
    'codec_from_config',
    'codec_to_config',
    'fold_pixels',
    'load_codec',
    'load_state',
    'make_codec',
    'mask_fidelity',
    'require_learnable',
    'require_learned',
    'save_codec',
    'unfold_cells',
)
