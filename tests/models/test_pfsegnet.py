# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchgeo_specdm.models import PFSegNet
from torchgeo_specdm.models.pfsegnet import (
    Encoder,
    edge_loss,
    hard_cross_entropy,
    mask_to_edges,
    pfsegnet_loss,
)
from torchgeo_specdm.models.pointflow import resize

from .conftest import count

IGNORED = 255


@pytest.fixture(scope='module')
def model() -> PFSegNet:
    torch.manual_seed(0)
    return PFSegNet('resnet18', 4, 3).eval()


class TestPFSegNet:
    @pytest.mark.parametrize(
        'backbone, bands, classes, millions',
        [
            ('resnet50s', 3, 14, 32.993),
            ('resnet101s', 3, 14, 51.986),
            ('resnet50s', 10, 14, 32.998),
        ],
    )
    def test_counts_of_the_released_network(
        self, backbone: Encoder, bands: int, classes: int, millions: float
    ) -> None:
        with torch.device('meta'):
            model = PFSegNet(backbone, bands, classes)
            larger = PFSegNet(backbone, bands, classes + 1)
        # three bands have a kernel of 64 x 3 x 3 each in the first layer
        assert round(count(model) / 1e6, 3) == millions
        assert count(larger) - count(model) == 257

    def test_counts_of_the_parts(self) -> None:
        with torch.device('meta'):
            network = PFSegNet(num_classes=14).network
        parts = {
            'context': 2.886,
            'laterals': 0.461,
            'flows': 1.880,
            'smooth': 1.771,
            'encoder.layer1': 0.236,
            'encoder.layer2': 1.220,
            'encoder.layer3': 7.098,
            'encoder.layer4': 14.965,
        }
        found = {x: round(count(network.get_submodule(x)) / 1e6, 3) for x in parts}
        assert found == parts

    def test_scales_and_dilations_of_the_encoder(self) -> None:
        with torch.device('meta'):
            encoder = PFSegNet().network.get_submodule('encoder')
            shapes = [tuple(f.shape[1:]) for f in encoder(torch.zeros(1, 3, 64, 96))]
        assert shapes == [(256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 2, 3)]
        for number, dilation in enumerate((1, 1, 2, 4), start=1):
            layers = encoder.get_submodule(f'layer{number}').modules()
            found = [x for x in layers if isinstance(x, nn.Conv2d)]
            wide = {x.dilation for x in found if x.kernel_size == (3, 3)}
            narrow = {x.dilation for x in found if x.kernel_size == (1, 1)}
            assert (wide, narrow) == ({(dilation, dilation)}, {(1, 1)})

    def test_edges_are_those_of_each_level(
        self, model: PFSegNet, image: Tensor
    ) -> None:
        seen: list[Tensor] = []
        flows = model.network.get_submodule('flows').children()
        hooks = [
            flow.register_forward_hook(lambda *x: seen.append(x[2][1]))
            for flow in flows
        ]
        with torch.no_grad():
            logits, edges = model.forward_with_edges(image)
            assert torch.equal(logits, model(image))
            _, odd = model.forward_with_edges(image[..., :37, :45])
        assert odd.shape == (2, 3, 37, 45)
        for hook in hooks:
            hook.remove()
        assert [len(x[0, 0]) for x in seen[:3]] == [2, 4, 8]
        for level in range(3):
            resized = resize(seen[level], (64, 64))
            assert torch.equal(edges[:, level], resized[:, 0])

    def test_all_parameters_learn(self, image: Tensor) -> None:
        torch.manual_seed(0)
        # statistics of the batch would hide the biases before them
        model = PFSegNet('resnet18', 4, 3, 'map').eval()
        logits, edges = model.forward_with_edges(image)
        (logits.square().sum() + edges.square().sum()).backward()
        missing = [
            name
            for name, p in model.named_parameters()
            if p.grad is None or not p.grad.any()
        ]
        assert missing == []

    def test_learns_classes_and_edges(self) -> None:
        torch.manual_seed(0)
        model = PFSegNet('resnet18', 1).train()
        mask = torch.zeros(2, 64, 64, dtype=torch.long)
        mask[0, :, 24:] = mask[1, 40:] = 1
        image = mask[:, None] + 0.2 * torch.randn(2, 1, 64, 64)
        target, labelled = mask_to_edges(mask), torch.ones_like(mask, dtype=torch.bool)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(15):
            logits, edges = model.forward_with_edges(image)
            losses.append(float(edge_loss(edges, target, labelled).detach()))
            optimizer.zero_grad()
            pfsegnet_loss(logits, edges, mask).backward()
            optimizer.step()
        assert losses[-1] < 0.6 * losses[0]
        assert (logits.argmax(1) == mask).float().mean() > 0.95

    def test_one_image_is_refused_in_training_only(self, image: Tensor) -> None:
        model = PFSegNet('resnet18', 4)
        with pytest.raises(ValueError, match=r'batch of one image.*batch_size of 2'):
            model(image[:1])
        with torch.no_grad():
            assert model.eval()(image[:1, :, :32, :32]).isfinite().all()

    def test_paper_points_do_not_change_the_parameters(self) -> None:
        with torch.device('meta'):
            scaled, paper = PFSegNet('resnet18'), PFSegNet('resnet18', points='paper')
        shapes = [
            {k: v.shape for k, v in m.state_dict().items()} for m in (scaled, paper)
        ]
        assert shapes[0] == shapes[1]
        counts = [m.network.get_submodule('flows.0').points for m in (scaled, paper)]
        assert counts == ['scaled', 'paper']

    @pytest.mark.parametrize(
        'name, value, choice',
        [
            ('backbone', 'mit_b0', 'resnet50s'),
            ('points', 'small', 'scaled'),
            ('stem', 'wide', 'widen'),
        ],
    )
    def test_refuses_typos(self, name: str, value: str, choice: str) -> None:
        with pytest.raises(ValueError, match=rf"{name}='{value}'.*'{choice}'"):
            PFSegNet(**{name: value})  # type: ignore[arg-type]


class TestMaskToEdges:
    def halves(self) -> Tensor:
        """Columns 0 to 4 are of class 0, columns 5 to 11 of class 3."""
        return torch.tensor([0] * 5 + [3] * 7).repeat(1, 4, 1)

    @pytest.mark.parametrize(
        'width, columns', [(2, [4, 5]), (4, [3, 4, 5, 6]), (8, [*range(1, 9)])]
    )
    def test_a_line(self, width: int, columns: list[int]) -> None:
        expected = torch.zeros(1, 4, 12, dtype=torch.bool)
        expected[..., columns] = True
        assert torch.equal(mask_to_edges(self.halves(), width), expected)

    def test_a_pixel(self) -> None:
        mask = torch.full((1, 6, 6), 7)
        mask[0, 2, 3] = 0
        expected = torch.zeros(1, 6, 6, dtype=torch.bool)
        expected[0, 1:4, 2:5] = True
        assert torch.equal(mask_to_edges(mask), expected)

    @pytest.mark.parametrize('ignored', [IGNORED, 1])
    def test_pixels_without_a_label(self, ignored: int) -> None:
        mask = self.halves()
        # nothing is known of the columns between, but for the last row
        mask[0, :3, 4:6] = ignored
        expected = torch.zeros(1, 4, 12, dtype=torch.bool)
        expected[0, 3, 4:6] = True
        assert torch.equal(mask_to_edges(mask, 2, ignored), expected)
        mask[0, 3, 0] = mask[0, 0, 11] = ignored
        assert torch.equal(mask_to_edges(mask, 2, ignored), expected)
        assert mask_to_edges(mask, 2).sum() > 2
        assert not mask_to_edges(mask.where(mask == ignored, ignored), 2, ignored).any()

    @pytest.mark.parametrize('size', [(1, 1), (1, 6), (6, 1)])
    def test_thin_masks(self, size: tuple[int, int]) -> None:
        mask = torch.arange(size[0] * size[1]).view(1, *size) // 3
        edges = mask_to_edges(mask, 8)
        assert edges.shape == mask.shape
        assert edges.all() == (mask.max() > 0)

    def test_does_not_depend_on_the_direction(self) -> None:
        mask = torch.randint(3, (2, 9, 9), generator=torch.Generator().manual_seed(0))
        mask[:, 2:7, 2:8] = 1
        for flipped in (lambda x: x.flip(-1), lambda x: x.mT):
            expected = flipped(mask_to_edges(mask, 4))
            assert torch.equal(mask_to_edges(flipped(mask), 4), expected)

    @pytest.mark.parametrize('width', [0, 1, 3])
    def test_refuses_widths(self, width: int) -> None:
        with pytest.raises(ValueError, match=rf'width={width} of an edge must be'):
            mask_to_edges(self.halves(), width)


class TestLoss:
    def test_edge_loss_by_hand(self) -> None:
        target = torch.tensor([[[True, False, False, False]]])
        labelled = torch.ones_like(target)
        # weights of 3/4 for the edge and 1/4 for three others, each with ln 2
        expected = (0.75 + 3 * 0.25) / 4 * math.log(2)
        for levels in (1, 3):
            loss = edge_loss(torch.zeros(1, levels, 1, 4), target, labelled)
            assert float(loss) == pytest.approx(levels * expected)

    def test_edges_and_others_pull_alike(self) -> None:
        target = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.2
        edges = torch.zeros(2, 3, 8, 8, requires_grad=True)
        edge_loss(edges, target, torch.ones_like(target)).backward()
        assert edges.grad is not None
        inside = edges.grad[target[:, None].expand_as(edges)].sum()
        outside = edges.grad[~target[:, None].expand_as(edges)].sum()
        assert inside < 0
        torch.testing.assert_close(inside, -outside)

    def test_no_edge_is_no_loss(self) -> None:
        edges = torch.randn(1, 3, 4, 4, requires_grad=True)
        nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
        loss = edge_loss(edges, nothing, ~nothing)
        loss.backward()
        assert loss == 0
        assert edges.grad is not None and not edges.grad.any()

    def test_pixels_without_a_label_have_no_edge_loss(self) -> None:
        edges = torch.randn(1, 3, 4, 8)
        target = torch.rand(1, 4, 8) < 0.3
        labelled = torch.zeros_like(target)
        labelled[..., :5] = True
        known = edges[..., :5], target[..., :5], labelled[..., :5]
        found = edge_loss(edges, target, labelled)
        torch.testing.assert_close(found, edge_loss(*known))

    @pytest.mark.parametrize(
        'probabilities, hard',
        [
            ([0.99] * 30 + [0.6, 0.5], [0.6, 0.5]),
            # none is hard: a sixteenth of 32 is kept
            ([0.99] * 30 + [0.95, 0.9], [0.95, 0.9]),
            ([0.99] * 29 + [0.95, 0.72, 0.5], [0.72, 0.5]),
            ([0.6] * 30 + [0.5, 0.1], [0.6] * 30 + [0.5, 0.1]),
            ([0.8], [0.8]),
        ],
    )
    def test_cross_entropy_of_the_hard(
        self, probabilities: list[float], hard: list[float]
    ) -> None:
        mask = torch.zeros(1, 1, len(probabilities), dtype=torch.long)
        logits = torch.tensor(probabilities).logit().view(1, 1, 1, -1)
        logits = torch.cat([logits, torch.zeros_like(logits)], 1)
        expected = sum(-math.log(p) for p in hard) / len(hard)
        assert float(hard_cross_entropy(logits, mask)) == pytest.approx(expected)

        # the worst predictions are of pixels without a label
        logits = torch.cat([logits, logits.new_full((1, 2, 1, 40), -50.0)], 3)
        logits[:, 1, :, len(probabilities) :] = 50
        mask = F.pad(mask, (0, 40), value=IGNORED)
        loss = hard_cross_entropy(logits, mask, ignore_index=IGNORED)
        assert float(loss) == pytest.approx(expected)

    def test_classes_weigh_in_the_mean(self) -> None:
        mask = torch.tensor([[[0, 1]]])
        logits = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1).repeat(1, 1, 1, 2)
        logits[0, 0, 0, 1] = 1
        weights = torch.tensor([1.0, 3.0])
        expected = (math.log(2) + 3 * math.log(1 + math.e)) / 4
        loss = hard_cross_entropy(logits, mask, weights)
        assert float(loss) == pytest.approx(expected)

    def test_sum(self) -> None:
        generator = torch.Generator().manual_seed(0)
        mask = torch.randint(3, (2, 8, 8), generator=generator)
        mask[0, :2] = IGNORED
        logits = torch.randn(2, 3, 8, 8, generator=generator)
        edges = torch.randn(2, 3, 8, 8, generator=generator)
        target = mask_to_edges(mask, 4, IGNORED)
        expected = hard_cross_entropy(logits, mask, None, IGNORED)
        expected = expected + 25 * edge_loss(edges, target, mask != IGNORED)
        found = pfsegnet_loss(logits, edges, mask, None, IGNORED, 4)
        torch.testing.assert_close(found, expected)
