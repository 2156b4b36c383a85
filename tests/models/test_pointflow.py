# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchgeo_specdm.models.pointflow import PointFlow, Points, point_counts, resize


class TestPointFlow:
    def maps(self, size: int, width: int = 8) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        coarse = torch.randn(2, width, size, size, generator=generator)
        fine = torch.randn(2, width, 2 * size, 2 * size, generator=generator)
        return coarse.requires_grad_(), fine.requires_grad_()

    @pytest.mark.parametrize(
        'size, points, counts',
        [
            ((1, 1), 'scaled', (1, 1, 1)),
            ((2, 5), 'scaled', (1, 1, 2)),
            ((4, 4), 'scaled', (2, 2, 4)),
            ((16, 16), 'scaled', (8, 8, 64)),
            ((28, 28), 'scaled', (14, 9, 128)),
            ((4, 4), 'paper', (14, 9, 16)),
            ((28, 28), 'paper', (14, 9, 128)),
            ((112, 112), 'paper', (14, 9, 128)),
        ],
    )
    def test_counts(
        self, size: tuple[int, int], points: Points, counts: tuple[int, int, int]
    ) -> None:
        assert point_counts(*size, points) == counts

    def test_corners_are_aligned(self) -> None:
        ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        assert resize(ramp, (1, 7))[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3]

    def test_pixels_that_are_no_point_are_kept(self) -> None:
        coarse, fine = self.maps(8)
        flowed, edges = PointFlow(8)(coarse, fine)
        assert flowed.shape == fine.shape
        assert edges.shape == (2, 1, 8, 8)
        changed = (flowed != fine).any(1)
        # 16 of 64 pixels are edges and 16 match best
        assert (changed.sum((1, 2)) >= 16).all() and (changed.sum((1, 2)) <= 32).all()
        assert not changed[:, 1::2].any() and not changed[:, :, 1::2].any()

    def test_points_take_in_the_coarse_points(self) -> None:
        coarse, fine = self.maps(6)
        flow = PointFlow(8)
        seen: list[Tensor] = []
        flow.certainty.register_forward_hook(lambda *x: seen.append(x[2].sigmoid()))
        flowed, edges = flow(coarse, fine)
        best = F.adaptive_max_pool2d(seen[0], 3)
        salient = coarse * (1 + resize(best, (6, 6)))
        for sample in range(2):
            expected = fine[sample].clone()
            rows, columns = divmod6(edges[sample].flatten().topk(9).indices)
            # edges are read at the centres of the coarse pixels
            centres = torch.stack([columns, rows], 1).add(0.5).div(3).sub(1)
            read = F.grid_sample(
                fine[sample, None], centres[None, None], align_corners=False
            )
            source = coarse[sample, :, rows, columns]
            expected[:, 2 * rows, 2 * columns] = attend(read[0, :, 0], source)

            # matches at the pixel that is written
            found = (seen[0][sample] == value for value in best[sample].flatten())
            rows, columns = divmod6(torch.stack([x.flatten().nonzero() for x in found]))
            rows, columns = rows.flatten(), columns.flatten()
            target = fine[sample, :, 2 * rows, 2 * columns]
            source = salient[sample, :, rows, columns]
            expected[:, 2 * rows, 2 * columns] = attend(target, source)
            torch.testing.assert_close(flowed[sample], expected)

    def test_edges_are_sought_where_nothing_matches(self) -> None:
        coarse, fine = self.maps(4)
        flow = PointFlow(8)
        seen: list[Tensor] = []
        flow.certainty.register_forward_hook(lambda *x: seen.append(x[2].sigmoid()))
        flow.edge.register_forward_hook(lambda *x: seen.append(x[1][0]))
        flow(coarse, fine)
        smooth = resize(F.avg_pool2d(seen[0], 2), (4, 4))
        torch.testing.assert_close(seen[1], coarse * (1 - smooth))

    def test_more_points_than_pixels(self) -> None:
        coarse, fine = self.maps(4)
        flowed, _ = PointFlow(8, 'paper')(coarse, fine)
        changed = (flowed != fine).any(1)
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[::2, ::2] = True
        assert flowed.isfinite().all()
        assert torch.equal(changed, expected.expand(2, 8, 8))

    def test_a_match_overwrites_an_edge(self) -> None:
        coarse, fine = self.maps(1)
        flow = PointFlow(8, 'paper')
        matches = flow.coarse_match(coarse), flow.fine_match(fine[..., :1, :1])
        certainty = flow.certainty(torch.cat(matches, 1)).sigmoid()
        expected = fine.detach().clone()
        expected[..., :1, :1] += (coarse * (1 + certainty)).detach()
        torch.testing.assert_close(flow(coarse, fine)[0].detach(), expected)

    def test_gradients(self) -> None:
        coarse, fine = self.maps(8)
        flow = PointFlow(8)
        flowed, edges = flow(coarse, fine)
        flowed.square().sum().backward(retain_graph=True)
        assert coarse.grad is not None and coarse.grad.any()
        assert fine.grad is not None and fine.grad.any()
        matching = flow.coarse_match, flow.fine_match, flow.certainty
        assert all(layer.weight.grad.any() for layer in matching)
        assert all(p.grad is None for p in flow.edge.parameters())
        edges.square().sum().backward()
        assert all(p.grad.any() for p in flow.edge.parameters())

    def test_large_values_in_half_precision(self) -> None:
        coarse, fine = (100 * x.bfloat16() for x in self.maps(4))
        flowed, _ = PointFlow(8).bfloat16()(coarse, fine)
        assert flowed.dtype == torch.bfloat16
        assert flowed.isfinite().all()


def divmod6(points: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of points on a map of 6 x 6 pixels."""
    return points // 6, points % 6


def attend(target: Tensor, source: Tensor) -> Tensor:
    """What points with features (D, P) become."""
    return source @ (target.T @ source).softmax(1).T + target
