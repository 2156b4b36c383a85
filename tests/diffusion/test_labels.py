# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from torch.nn.functional import cross_entropy

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.codecs import PixelCodec
from torchgeo_specdm.diffusion import JointProcess
from torchgeo_specdm.diffusion.labels import LabelCodes

CLASSES = 5
SPEC = SampleSpec(bands=('red',), classes=tuple('abcde'), ignore_index=255)


def codec_of(fold: int) -> PixelCodec:
    return PixelCodec(SPEC, fold=fold)


def bits_of(codec: PixelCodec, mask: torch.Tensor) -> torch.Tensor:
    images = torch.zeros(len(mask), 1, 1, *mask.shape[-2:])
    return codec.to_latent(images, mask)[:, codec.streams['mask']]


@pytest.mark.parametrize('fold', [1, 4])
class TestLabelCodes:
    def test_cross_entropy_is_that_of_the_scores(self, fold: int) -> None:
        codec = codec_of(fold)
        labels = LabelCodes(codec.codes, fold)
        mask = torch.randint(CLASSES, (3, 8, 8))
        output = torch.randn_like(bits_of(codec, mask))
        pixels = torch.nn.functional.pixel_shuffle(output, fold)
        scores = 2 * torch.einsum('bchw,kc->bkhw', pixels, codec.codes)
        wanted = cross_entropy(scores, mask, reduction='none')
        found = labels.cross_entropy(output, bits_of(codec, mask))
        found = torch.nn.functional.pixel_shuffle(found, fold)
        for bit in range(codec.codes.shape[1]):
            torch.testing.assert_close(found[:, bit], wanted)

    def test_mean_code_is_sure_where_the_output_is(self, fold: int) -> None:
        codec = codec_of(fold)
        labels = LabelCodes(codec.codes, fold)
        mask = torch.arange(CLASSES).repeat(16)[:64].view(1, 8, 8)
        bits = bits_of(codec, mask)
        torch.testing.assert_close(labels.expected(5 * bits), bits)
        # without an opinion, the mean of the codes that there are
        middle = labels.expected(torch.zeros_like(bits))
        middle = torch.nn.functional.pixel_shuffle(middle, fold)[0, :, 0, 0]
        torch.testing.assert_close(middle, codec.codes.mean(0))


class TestProcess:
    def test_refuses_latents_that_are_no_bits(self) -> None:
        codec = codec_of(4)
        labels = LabelCodes(codec.codes, 4)
        with pytest.raises(ValueError, match='label bits'):
            JointProcess(codec.streams, 'sample', categorical=True)
        with pytest.raises(ValueError, match="prediction='v' must be sample"):
            JointProcess(codec.streams, 'v', categorical=True, labels=labels)

    def test_masks_are_classes_and_images_numbers(self) -> None:
        codec = codec_of(4)
        labels = LabelCodes(codec.codes, 4)
        plain, process = (
            JointProcess(codec.streams, 'sample', categorical=c, labels=labels)
            for c in (False, True)
        )
        mask = torch.randint(CLASSES, (2, 16, 16))
        latent = codec.to_latent(torch.randn(2, 1, 1, 16, 16), mask)
        noise, times = torch.randn_like(latent), torch.full((2, 2), 500)
        output = torch.randn_like(latent)
        args = output, latent, noise, times
        squared, losses = plain.loss(*args), process.loss(*args)
        assert losses['loss_image_1'] == squared['loss_image_1']
        bits = codec.streams['mask']
        entropy = labels.cross_entropy(output[:, bits], latent[:, bits])
        assert float(losses['loss_mask']) == pytest.approx(float(entropy.mean()))
        estimate = process.clean_estimate(output, noise, times)
        assert torch.equal(estimate[:, : bits.start], output[:, : bits.start])
        assert torch.equal(estimate[:, bits], labels.expected(output[:, bits]))

    def test_what_has_no_label_is_not_learned(self) -> None:
        codec = codec_of(4)
        labels = LabelCodes(codec.codes, 4)
        process = JointProcess(codec.streams, 'sample', categorical=True, labels=labels)
        mask = torch.randint(CLASSES, (2, 16, 16))
        mask[:, :8] = 255
        batch = {'image': torch.zeros(2, 1, 16, 16), 'mask': mask}
        latent = codec.to_latent(torch.zeros(2, 1, 1, 16, 16), mask)
        output = torch.randn_like(latent).requires_grad_()
        times = torch.full((2, 2), 500)
        coverage = codec.coverage(batch)
        noise = torch.randn_like(latent)
        process.loss(output, latent, noise, times, coverage)['loss_mask'].backward()
        gradient = output.grad[:, codec.streams['mask']]  # type: ignore[index]
        assert not bool(gradient[:, :, :2].any())
        assert bool(gradient[:, :, 2:].any())
