# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from torchgeo_specdm import MultispectralChangeDetectionTask
from torchgeo_specdm.cli import main
from torchgeo_specdm.codecs.autoencoder import PatchAutoencoder
from torchgeo_specdm.diffusion import JointDenoiser
from torchgeo_specdm.models import ChangeFormer, PFSegNet, SiamCRNN
from torchgeo_specdm.models.convert import (
    CONVERTERS,
    changeformer_weights,
    ldm_autoencoder_weights,
    ldm_unet_weights,
    load_weights,
    pfsegnet_weights,
    siamcrnn_weights,
)

from . import published
from .conftest import count

_Network = TypeVar('_Network', bound=nn.Module)
#: What the released code gave: mean, standard deviation and twelve values between.
FROZEN = {
    'siamcrnn': """
        0.054591 0.128149 0.097421 0.137448 0.173545 0.217048 0.183678 0.090128
        0.057635 -0.029135 -0.074798 -0.026074 -0.122324 -0.116302
    """,
    'changeformer': """
        0.368718 0.506434 0.0 0.0 0.0 1.004078 0.0 0.0 0.0 0.831428 0.0 0.0 0.0
        1.192234
    """,
    'pfsegnet': """
        0.010169 0.095955 0.081282 0.025161 -0.131301 -0.084762 -0.185762
        -0.118716 0.205716 0.065421 0.010769 0.025337 0.06036 0.031159
    """,
    'ldm-unet': """
        0.046531 0.444546 -0.371384 0.098213 0.171828 0.570605 -0.005303 0.107063
        -0.431593 0.243021 0.356652 -0.299619 0.358615 -0.51423
    """,
    'ldm-autoencoder': """
        0.090242 0.447398 -0.183278 -0.865781 -1.017851 0.584136 -0.028909
        0.010114 0.042191 0.136676 0.010342 -0.207151 0.162553 0.798093
    """,
}


def require_frozen(name: str, output: Tensor) -> None:
    """Compare with the released code, on the weights and the input of published.py."""
    flat = output.flatten()
    mean, std, *values = map(float, FROZEN[name].split())
    found = flat[:: len(flat) // 12 + 1].tolist()
    assert [flat.mean().item(), flat.std().item()] == pytest.approx(
        [mean, std], abs=1e-5
    )
    assert found == pytest.approx(values, abs=1e-5)


def built(make: Callable[[], _Network], state: dict[str, Tensor]) -> _Network:
    """A network with these weights, without drawing its own first."""
    with torch.device('meta'):
        network = make()
    network.load_state_dict(state, assign=True)
    return network.eval()


@pytest.fixture(scope='module')
def siamcrnn() -> dict[str, Tensor]:
    return published.fill(published.siamcrnn())


@pytest.fixture(scope='module')
def converted(
    siamcrnn: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp('published')
    wrapped = {f'module.{name}': value for name, value in siamcrnn.items()}
    torch.save({'state_dict': wrapped, 'epoch': 3}, folder / 'siamcrnn.pth')
    out = folder / 'new' / 'siamcrnn.safetensors'
    arguments = ['siamcrnn', str(folder / 'siamcrnn.pth'), '--out', str(out)]
    assert main(['convert', *arguments]) == 0
    return out


@pytest.mark.parametrize(
    ('layout', 'digest', 'parameters'),
    [
        (published.siamcrnn(), '80fd3a68e19f', 28_535_426),
        (published.pfsegnet(13), '40e1ae653871', 32_993_232),
        (published.changeformer(), '7ad7c5a25fc9', 32_659_360),
        (
            published.ldm_unet((192, 384, 384, 768, 768), (True,) * 4 + (False,), 6),
            '1a9eb3599c1e',
            294_973_830,
        ),
        (published.ldm_autoencoder((128, 256, 512), 10), 'c000bcfca211', 55_328_198),
    ],
)
def test_layouts_are_those_of_the_released_code(
    layout: published.Layout, digest: str, parameters: int
) -> None:
    assert published.digest(layout) == digest
    assert published.count(layout) == parameters


class TestOutputs:
    def test_siamcrnn(self, converted: Path) -> None:
        model = SiamCRNN('resnet34', 10).eval()
        assert count(model) == published.count(published.siamcrnn())
        load_weights(model, converted)
        with torch.no_grad():
            require_frozen('siamcrnn', model(published.noise(1, 2, 10, 64, 96)))

    def test_changeformer(self) -> None:
        layout = published.changeformer()
        state = changeformer_weights(published.fill(layout))
        model = built(lambda: ChangeFormer(relu_logits=True), state)
        never_called = {
            name: shape
            for name, shape in layout.items()
            if '.patch_block' in name or '.pnorm' in name
        }
        assert count(model) == published.count(layout) - published.count(never_called)
        with torch.no_grad():
            require_frozen('changeformer', model(published.noise(1, 2, 3, 64, 96)))

    def test_pfsegnet(self) -> None:
        layout = published.pfsegnet()
        state = pfsegnet_weights(published.fill(layout))
        model = built(lambda: PFSegNet('resnet50s', 3, 4, points='paper'), state)
        assert count(model) == published.count(layout)
        with torch.no_grad():
            both = model.forward_with_edges(published.noise(1, 3, 128, 160))
        require_frozen('pfsegnet', torch.cat(both, 1))

    def test_ldm_unet(self) -> None:
        widths, attention = (32, 64, 64), (True, True, False)
        model = JointDenoiser(6, 1, widths, attention)
        layout = published.ldm_unet(widths, attention, 6)
        assert count(model) == published.count(layout)
        model.load_state_dict(ldm_unet_weights(published.fill(layout)))
        with torch.no_grad():
            output = model(published.noise(2, 6, 16, 16), torch.tensor([[3], [801]]))
        require_frozen('ldm-unet', output)

    def test_ldm_autoencoder(self) -> None:
        widths = (32, 64, 128)
        model = PatchAutoencoder(10, 3, widths, 2, 1, 32, True)
        layout = published.ldm_autoencoder(widths, 10)
        assert count(model) == published.count(layout)
        model.load_state_dict(ldm_autoencoder_weights(published.fill(layout)))
        with torch.no_grad():
            posterior = model.encode(published.noise(1, 10, 32, 48))
            output = [posterior.parameters, model.decode(posterior.mode())]
        require_frozen('ldm-autoencoder', torch.cat([x.flatten() for x in output]))


class TestLDMUNet:
    WIDTHS, ATTENTION = (32, 32), (False, True)

    def bare(self) -> dict[str, Tensor]:
        return published.fill(published.ldm_unet(self.WIDTHS, self.ATTENTION, 4))

    def test_averaged_weights_are_taken_from_a_whole_model(self) -> None:
        bare = self.bare()
        whole = {
            f'model.diffusion_model.{name}': -value for name, value in bare.items()
        }
        whole['first_stage_model.quant_conv.bias'] = torch.zeros(6)
        found = ldm_unet_weights(whole)
        expected = ldm_unet_weights(bare)
        assert all(torch.equal(found[name], -expected[name]) for name in expected)
        whole |= {
            f'model_ema.diffusion_model{name.replace(".", "")}': value
            for name, value in bare.items()
        }
        found = ldm_unet_weights(whole)
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_levels_without_attention(self) -> None:
        model = JointDenoiser(4, 1, self.WIDTHS, self.ATTENTION)
        model.load_state_dict(ldm_unet_weights(self.bare()))


@pytest.mark.parametrize(
    ('convert', 'name'),
    [
        (changeformer_weights, 'Tenc_x2.patch_embed1.proj.weight'),
        (changeformer_weights, 'TDec.diff_c4.0.weight'),
        (siamcrnn_weights, 'encoder_2.conv1.weight'),
        (pfsegnet_weights, 'head.dsn.0.0.weight'),
        (ldm_unet_weights, 'input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight'),
        (ldm_unet_weights, 'label_emb.weight'),
        (ldm_autoencoder_weights, 'quantize.embedding.weight'),
    ],
)
def test_other_networks_are_refused(convert: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no weight of a"):
        convert({name: torch.zeros(2, 2)})


class TestFiles:
    def test_others_may_read_them(self, converted: Path, tmp_path: Path) -> None:
        plain = tmp_path / 'plain'
        plain.touch()
        assert converted.stat().st_mode == plain.stat().st_mode

    def test_layers_for_other_bands_and_classes_stay(
        self, converted: Path, siamcrnn: dict[str, Tensor]
    ) -> None:
        model = SiamCRNN('resnet34', 4, 3)
        before = model.head.weight.detach().clone()
        with pytest.warns(UserWarning, match=r'encoder\.conv1\.weight, head\.weight'):
            load_weights(model, converted)
        assert torch.equal(model.head.weight, before)
        expected = siamcrnn['smooth_layer_3.0.bias']
        assert torch.equal(model.get_parameter('smooth.0.0.bias'), expected)

    def test_another_backbone_is_refused(self, converted: Path) -> None:
        with pytest.raises(
            ValueError, match=r'no weights of a SiamCRNN .* layers differ'
        ):
            load_weights(SiamCRNN('resnet18', 3), converted)

    def test_a_task_starts_from_them(
        self, converted: Path, siamcrnn: dict[str, Tensor]
    ) -> None:
        task = MultispectralChangeDetectionTask(
            'siamcrnn', 'resnet34', 10, 2, weights=str(converted)
        )
        assert isinstance(task.model, SiamCRNN)
        assert torch.equal(task.model.head.bias, siamcrnn['main_clf_1.bias'])

    @pytest.mark.parametrize('kind', ['objects', 'text', 'empty', 'cut'])
    def test_what_cannot_be_read(
        self, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = tmp_path / 'model.pth', tmp_path / 'out.safetensors'
        torch.save({'state_dict': {}, 'callback': nn.Identity()}, path)
        whole = path.read_bytes()
        texts = {'text': b'weights', 'empty': b'', 'cut': whole[: len(whole) // 2]}
        path.write_bytes(texts.get(kind, whole))
        assert main(['convert', 'ldm-unet', str(path), '--out', str(out)]) == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert "torch.save(checkpoint['state_dict'], FILE)" in said
        assert not out.exists()

    def test_nothing_to_convert(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = tmp_path / 'model.pth', tmp_path / 'out.safetensors'
        torch.save({'epoch': 3}, path)
        assert main(['convert', 'siamcrnn', str(path), '--out', str(out)]) == 1
        assert 'holds no tensors by name' in capsys.readouterr().err
        assert not out.exists()

    @pytest.mark.parametrize('content', [None, b'text'])
    def test_weights_that_cannot_be_read(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / 'weights.safetensors'
        if content:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=r'weights=.* cannot be read .* wrote'):
            load_weights(nn.Identity(), path)

    def test_the_verb_knows_every_converter(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            main(['convert', 'vgg', 'model.pth', '--out', 'out.safetensors'])
        said = capsys.readouterr().err
        assert [name for name in CONVERTERS if name not in said] == []
