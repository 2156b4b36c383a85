# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

"""Linear mixing, on a cube like Jasper Ridge: four materials in 198 bands."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from torchgeo_specdm import SampleSpec
from torchgeo_specdm.codecs import AbundanceCodec
from torchgeo_specdm.codecs.abundances import nearest_shares, purest
from torchgeo_specdm.metrics.spectral import mean_spectral_angle

BANDS, MATERIALS = 198, 4


def spectra() -> Tensor:
    """Reflectance (materials, bands) of tree, water, soil and road, all smooth."""
    x = torch.linspace(0, 1, BANDS)
    edge = torch.sigmoid((x - 0.2) * 60)
    tree = (
        0.04 + 0.4 * edge * (1 - 0.7 * x) - 0.1 * torch.exp(-((x - 0.6) ** 2) / 0.002)
    )
    water = 0.08 * torch.exp(-4 * x)
    soil = 0.08 + 0.3 * x.sqrt() - 0.06 * torch.exp(-((x - 0.75) ** 2) / 0.003)
    road = 0.15 + 0.05 * x + 0.03 * torch.sin(9 * x)
    return torch.stack([tree, water, soil, road])


def cube(
    seed: int = 0, count: int = 2, size: int = 32
) -> tuple[dict[str, Tensor], Tensor]:
    """Digital numbers of mixed pixels with noise, labels, and the true abundances."""
    random = torch.Generator().manual_seed(seed)
    coarse = 8 * torch.randn(count, MATERIALS, 6, 6, generator=random)
    abundances = interpolate(coarse, (size, size), mode='bicubic').softmax(1)
    image = torch.einsum('nkhw,kc->nchw', abundances, spectra())
    image = image + 0.003 * torch.randn(image.shape, generator=random)
    return {'image': image * 1e4, 'mask': abundances.argmax(1)}, abundances


@pytest.fixture(scope='module')
def codec() -> AbundanceCodec:
    spec = SampleSpec(tuple(f'band_{i}' for i in range(BANDS)), ('t', 'w', 's', 'r'))
    codec = AbundanceCodec(spec, MATERIALS, fold=1)
    batch, _ = cube()
    codec.fit_scaling(batch['image'])
    codec.fit_statistics([batch])
    return codec


class TestCube:
    def test_four_numbers_stand_for_198_bands(self, codec: AbundanceCodec) -> None:
        assert codec.streams['image_1'] == slice(0, MATERIALS)
        # a cube that it never saw
        batch, shares = cube(seed=1)
        found = codec.decode(codec.encode(batch))['image'] * 1e-4
        true = torch.einsum('nkhw,kc->nchw', shares, spectra())
        # the noise, .003 and .05 radians here, is left out instead of learned
        assert float((found - true).square().mean().sqrt()) < 0.0012
        assert float(mean_spectral_angle(found, true)) < 0.02

    def test_abundances_are_the_true_ones(self, codec: AbundanceCodec) -> None:
        batch, true = cube(seed=1)
        found = codec.to_pixels(codec.prepare(batch)[0][:, 0])
        assert float(found.min()) >= 0
        torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))
        errors = (found[:, :, None] - true[:, None]).abs().mean((0, 3, 4))
        assert float(errors.min(1).values.max()) < 0.1
        assert len(set(errors.argmin(1).tolist())) == MATERIALS

    def test_endmembers_are_the_materials(self, codec: AbundanceCodec) -> None:
        found = codec.endmembers * codec.half_range + codec.center
        angles = torch.stack(
            [
                torch.stack([mean_spectral_angle(f, true, dim=0) for f in found * 1e-4])
                for true in spectra()
            ]
        )
        assert float(angles.min(1).values.max()) < 0.1
        assert len(set(angles.argmin(1).tolist())) == MATERIALS

    def test_drawn_spectra_lie_between_the_endmembers(
        self, codec: AbundanceCodec
    ) -> None:
        drawn = codec.decode(2 * torch.randn(2, codec.latent_channels, 8, 8))['image']
        ends = codec.endmembers * codec.half_range + codec.center
        slack = 1e-3 * ends.abs().amax(0)[:, None, None]
        assert bool((drawn >= ends.amin(0)[:, None, None] - slack).all())
        assert bool((drawn <= ends.amax(0)[:, None, None] + slack).all())


class TestNearestShares:
    def test_shares_are_kept(self) -> None:
        shares = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
        torch.testing.assert_close(nearest_shares(shares), shares)

    def test_no_other_shares_are_nearer(self) -> None:
        random = torch.Generator().manual_seed(0)
        values = 2 * torch.randn(200, 3, generator=random)
        found = nearest_shares(values)
        grid = torch.cartesian_prod(*[torch.linspace(0, 1, 41)] * 2)
        grid = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
        best = torch.cdist(values, grid[grid[:, 2] >= 0]).min(1).values
        assert bool(((values - found).norm(dim=1) <= best + 1e-5).all())


class TestPurest:
    def test_corners_of_a_simplex(self) -> None:
        random = torch.Generator().manual_seed(0)
        corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
        shares = torch.rand(500, 4, generator=random)
        mixed = shares / shares.sum(1, keepdim=True) @ corners
        found = purest(torch.cat([mixed, corners]), 4)
        assert sorted(map(tuple, found.tolist())) == sorted(
            map(tuple, corners.tolist())
        )

    def test_more_than_there_are(self) -> None:
        found = purest(torch.tensor([[0.0, 0], [1, 0]]).repeat(5, 1), 4)
        assert bool(found.isfinite().all())


def test_one_endmember_is_refused() -> None:
    with pytest.raises(ValueError, match='endmembers=1 must be 2 or more'):
        AbundanceCodec(SampleSpec(('B02',), ('a',)), endmembers=1)
