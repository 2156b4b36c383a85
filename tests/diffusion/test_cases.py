# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch

from torchgeo_specdm.diffusion.cases import Cases, Role, case_name

GIVEN, DRAWN, ABSENT = Role.GIVEN, Role.DRAWN, Role.ABSENT
ONE, TWO = ('image_1', 'mask'), ('image_1', 'image_2', 'mask')


@pytest.mark.parametrize(
    ('name', 'streams', 'roles'),
    [
        ('joint', TWO, (DRAWN, DRAWN, DRAWN)),
        ('image|mask', ONE, (DRAWN, GIVEN)),
        ('image|mask', TWO, (DRAWN, DRAWN, GIVEN)),
        ('mask|image', TWO, (GIVEN, GIVEN, DRAWN)),
        ('image_2|image_1, mask', TWO, (GIVEN, DRAWN, GIVEN)),
        ('image_2|image_1', TWO, (GIVEN, DRAWN, ABSENT)),
        ('image', TWO, (DRAWN, DRAWN, ABSENT)),
        ('mask', ONE, (ABSENT, DRAWN)),
        ('joint', ('image_and_mask',), (DRAWN,)),
    ],
)
def test_roles_of_a_case(
    name: str, streams: tuple[str, ...], roles: tuple[Role, ...]
) -> None:
    cases = Cases({name: 1.0}, streams)
    assert [tuple(row) for row in cases.roles.tolist()] == [roles]
    assert cases.knows(roles) and cases.separate == (name != 'joint')
    # what an error says can be written down as a case
    said = case_name(dict(zip(streams, roles, strict=True)))
    assert torch.equal(Cases({said: 1.0}, streams).roles, cases.roles)


@pytest.mark.parametrize('streams', [ONE, ('image_and_mask',)])
def test_cases_of_other_streams_are_left_out(streams: tuple[str, ...]) -> None:
    cases = Cases({'joint': 1.0, 'image_2|image_1,mask': 3.0}, streams)
    assert [*cases.known] == ['joint'] and cases.shares.tolist() == [1.0]


@pytest.mark.parametrize(
    ('shares', 'said'),
    [
        ({'images|mask': 1}, "'images|mask', but a case is called joint, or after"),
        ({'image|mask|image': 1}, 'such as image'),
        ({'': 1}, 'such as image'),
        ({'image|image_1': 1}, 'names a stream twice'),
        ({'joint': -1}, 'shares of 0 or more'),
        ({'joint': 0}, 'and one above 0'),
        ({'image_3': 1}, r"streams that the codec has: \['image_1', 'image_2', 'mask"),
    ],
)
def test_refused(shares: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace('|', r'\|')):
        Cases(shares, TWO)


@pytest.mark.parametrize(
    ('name', 'roles'),
    [
        ('joint', (DRAWN, DRAWN, ABSENT)),
        ('image|mask', (DRAWN, DRAWN, ABSENT)),
        ('image_2|image_1,mask', (GIVEN, DRAWN, ABSENT)),
        # nothing would be left to draw
        ('mask|image', (DRAWN, DRAWN, ABSENT)),
        ('mask', (DRAWN, DRAWN, ABSENT)),
    ],
)
def test_images_without_labels(name: str, roles: tuple[Role, ...]) -> None:
    cases = Cases({name: 1.0}, TWO)
    drawn = cases.draw(2, torch.tensor([False, True]))
    assert tuple(drawn[0].tolist()) == roles
    assert torch.equal(drawn[1], cases.roles[0])
