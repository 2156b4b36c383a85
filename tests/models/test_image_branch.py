# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Image branches that begin with published weights, in files made with their layout."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import pairs, train
from torchgeo_specdm import SampleSpec, SpecDMTask
from torchgeo_specdm.codecs import TwoStreamCodec, load_codec
from torchgeo_specdm.models.convert import convert_file
from torchgeo_specdm.models.image_branch import begin_images

from . import published

WIDTHS = [32, 64]
#: Settings of a codec that the made weights fit.
FITTING: dict[str, Any] = {
    'image_widths': WIDTHS,
    'mask_widths': [32, 32],
    'image_latents': 3,
    'mask_latents': 2,
    'layers': 2,
    'stem': 1,
    'groups': 32,
    'attention': True,
}
#: Bands of the channels of the weights, and those of the data.
KNOWN = ['B04', 'B03', 'B02', 'B08']
SAME = ('B02', 'B03', 'B04', 'B08')


#: Settings of one that is trained fast.
SMALL = FITTING | {
    'image_widths': [8, 8],
    'mask_widths': [8, 8],
    'layers': 1,
    'groups': 4,
    'attention': False,
}


def make_network(settings: dict[str, Any], channels: int) -> AutoencoderKL:
    """A network in whose file the weights depend on their names alone."""
    network = AutoencoderKL(
        channels,
        channels,
        ('DownEncoderBlock2D',) * 2,
        ('UpDecoderBlock2D',) * 2,
        tuple(settings['image_widths']),
        settings['layers'],
        latent_channels=settings['image_latents'],
        norm_num_groups=settings['groups'],
        mid_block_add_attention=settings['attention'],
    )
    layout = {name: tuple(v.shape) for name, v in network.state_dict().items()}
    network.load_state_dict(published.fill(layout))
    return network.eval()


@pytest.fixture(scope='module')
def network() -> AutoencoderKL:
    return make_network(FITTING, 4)


@pytest.fixture(scope='module')
def folder(network: AutoencoderKL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What diffusers writes."""
    path = tmp_path_factory.mktemp('weights') / 'vae'
    network.save_pretrained(path)
    return path


def ldm_state() -> dict[str, Tensor]:
    return published.fill(published.ldm_autoencoder(WIDTHS, 4))


def begun(path: Path, data: tuple[str, ...] = SAME, **settings: Any) -> TwoStreamCodec:
    codec = TwoStreamCodec(SampleSpec(data, ('a', 'b')), **FITTING).eval()
    begin_images(codec, image_weights(path, **settings))
    return codec


def image_weights(path: Path, **settings: Any) -> dict[str, Any]:
    usual = {'path': str(path), 'bands': KNOWN, 'range': None, 'frozen': False}
    return usual | settings


class TestLayouts:
    @pytest.mark.parametrize('layout', ['folder', 'file', 'pickle'])
    def test_of_diffusers(
        self, network: AutoencoderKL, folder: Path, tmp_path: Path, layout: str
    ) -> None:
        path = folder
        if layout == 'file':
            path = folder / 'diffusion_pytorch_model.safetensors'
        if layout == 'pickle':
            path = tmp_path / 'weights.pt'
            torch.save(network.state_dict(), path)
        x = published.noise(2, 4, 16, 16)
        # red, green and blue in the order of the data
        turned = x[:, [2, 1, 0, 3]]
        with torch.no_grad():
            found = begun(path).image_branch
            latent = found.encode(x).mode()
            wanted = network.encode(turned).latent_dist.mode()
            torch.testing.assert_close(latent, wanted)
            image = network.decode(wanted).sample[:, [2, 1, 0, 3]]
            torch.testing.assert_close(found.decode(latent), image)

    @pytest.mark.parametrize('layout', ['alone', 'first stage', 'converted'])
    def test_of_ldm(self, tmp_path: Path, layout: str) -> None:
        state, path = ldm_state(), tmp_path / 'model.ckpt'
        prefix = 'first_stage_model.' if layout == 'first stage' else ''
        state = {f'{prefix}{name}': value for name, value in state.items()}
        torch.save({'state_dict': state, 'global_step': 3}, path)
        if layout == 'converted':
            convert_file('ldm-autoencoder', path, tmp_path / 'own.safetensors')
            path = tmp_path / 'own.safetensors'
        branch = begun(path).image_branch.network.state_dict()
        first, last = (
            published.fill(published.ldm_autoencoder(WIDTHS, 4))[f'{name}.weight']
            for name in ('encoder.conv_in', 'decoder.conv_out')
        )
        assert torch.equal(branch['encoder.conv_in.weight'], first[:, [2, 1, 0, 3]])
        assert torch.equal(branch['decoder.conv_out.weight'], last[[2, 1, 0, 3]])


class TestBands:
    def test_others_have_no_influence_yet(self, folder: Path) -> None:
        codec = begun(folder, ('B11', *SAME))
        x = published.noise(1, 5, 16, 16)
        changed = torch.cat([x[:, :1] + 1, x[:, 1:]], 1)
        with torch.no_grad():
            latent = codec.image_branch.encode(x).mode()
            assert torch.equal(latent, codec.image_branch.encode(changed).mode())
            image = codec.image_branch.decode(latent)
        torch.testing.assert_close(image[:, 0], image[:, 1:].mean(1))

    def test_those_that_the_data_lack_are_left_out(
        self, network: AutoencoderKL, folder: Path
    ) -> None:
        codec = begun(folder, ('R', 'G'), bands=['R', 'G', None, None])
        found = codec.image_branch.network.encoder.conv_in.weight
        assert torch.equal(found, network.encoder.conv_in.weight[:, :2])

    def test_range(self, folder: Path) -> None:
        codec = begun(folder, range=[0, 1])
        # reflectance times 10000
        torch.testing.assert_close(codec.center, torch.full((4,), 5000.0))
        torch.testing.assert_close(codec.half_range, torch.full((4,), 5000.0))
        assert bool(begun(folder).center.isnan().all())


@pytest.mark.parametrize('frozen', [True, False])
def test_training(pair_folder: Path, tmp_path: Path, frozen: bool) -> None:
    before = make_network(SMALL, 6)
    before.save_pretrained(tmp_path / 'vae')
    weights = image_weights(
        tmp_path / 'vae', bands=None, range=[-0.1, 0.6], frozen=frozen
    )
    settings = {'two_stream': {'codec': SMALL, 'image_weights': weights}}
    task = SpecDMTask('autoencoder', str(tmp_path / 'codec'), settings=settings)
    run = train(task, pairs(pair_folder), tmp_path, epochs=1)
    assert all(torch.tensor(run.losses).isfinite())
    # nothing but the folder is needed from here on
    shutil.rmtree(tmp_path / 'vae')
    codec = load_codec(tmp_path / 'codec')
    assert isinstance(codec, TwoStreamCodec)
    assert float(codec.half_range[0]) == pytest.approx(3500)
    image_branch = codec.image_branch.network.state_dict()
    same = [torch.equal(v, image_branch[k]) for k, v in before.state_dict().items()]
    assert all(same) if frozen else not any(same)
    # norms begin with ones
    learned = codec.mask_branch.state_dict()
    norms = [name for name in learned if name.endswith('norm1.weight')]
    assert norms and not any(bool((learned[name] == 1).any()) for name in norms)


def renamed(path: Path) -> Path:
    path = path / 'other.ckpt'
    state = ldm_state()
    state['encoder.mid.attn_2.norm.weight'] = torch.ones(64)
    del state['quant_conv.bias']
    torch.save(state, path)
    return path


def pickled(path: Path) -> Path:
    torch.save({'state_dict': ldm_state(), 'callback': renamed}, path / 'model.ckpt')
    return path / 'model.ckpt'


def binary(path: Path) -> Path:
    make_network(SMALL, 4).save_pretrained(path / 'vae', safe_serialization=False)
    return path / 'vae'


def torn(path: Path) -> Path:
    (path / 'model.safetensors').write_bytes(b'cut off')
    return path / 'model.safetensors'


def of_a_unet(path: Path) -> Path:
    save_file({'down_blocks.0.weight': torch.ones(1)}, path / 'unet.safetensors')
    return path / 'unet.safetensors'


def of_half_a_network(path: Path) -> Path:
    state = {
        k: v for k, v in make_network(SMALL, 4).state_dict().items() if 'encoder' in k
    }
    save_file(state, path / 'half.safetensors')
    return path / 'half.safetensors'


@pytest.mark.parametrize(
    ('write', 'said'),
    [
        (lambda path: path / 'none', r"none' does not exist\. Give a folder"),
        (renamed, 'has no KL autoencoder as LDM and diffusers make it: '),
        (pickled, 'may run foreign code'),
        (binary, 'with safetensors'),
        (torn, r'cannot be read .* Download it again'),
        (of_a_unet, "'down_blocks.0.weight' is no weight of a LDM autoencoder"),
        (of_half_a_network, 'all layers differ, such as encoder.conv_in.weight'),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, write: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        begun(write(tmp_path))


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        ({'bands': KNOWN[:3]}, 'for each of the 4 channels of the weights'),
        ({'bands': [*KNOWN[:3], 'NIR']}, r'the data have \[\'B02\', \'B03\''),
        ({'bands': [None] * 4}, 'must name a band of the data'),
        ({'bands': ['B04', 'B03', 'B02', 'B02']}, 'has a band twice'),
        ({'bands': [*KNOWN[:3], None], 'frozen': True}, 'other bands have to be le'),
        ({'range': [1, 0]}, r'range=\[1, 0\] must be two reflectances'),
        ({'range': [0]}, 'must be two reflectances'),
        ({'range': 1.0}, 'must be two reflectances'),
        ({'range': ['0', '1']}, 'must be two reflectances'),
    ],
)
def test_settings(folder: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        begun(folder, **settings)


def test_a_codec_of_another_form_is_told_the_settings(
    folder: Path, tmp_path: Path
) -> None:
    spec = SampleSpec(SAME, ('a', 'b'))
    settings = FITTING | {'image_widths': [48, 64], 'groups': 16, 'image_latents': 4}
    with pytest.raises(
        ValueError,
        match=r"codec: {'image_widths': \[32, 64\], 'image_latents': 3, 'groups': 32}}}",
    ):
        begin_images(TwoStreamCodec(spec, **settings), image_weights(folder))
    # files do not tell the groups, and LDM has 32
    torch.save(ldm_state(), tmp_path / 'model.ckpt')
    codec = TwoStreamCodec(spec, **FITTING | {'groups': 16})
    with pytest.raises(ValueError, match=r"codec: {'groups': 32}}}, and mask_widths"):
        begin_images(codec, image_weights(tmp_path / 'model.ckpt'))
