# Copyright (c) torchgeo_specdm Contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest

from torchgeo_specdm.metrics.detail import OCTAVES
from torchgeo_specdm.trust.lights import codec_sentences, lights, paints_labels
from torchgeo_specdm.trust.looks import denoiser_sentences

LOOKS, FIT, COPIED = 'looks real', 'labels fit', 'not copied'


def states(measures: dict[str, Any]) -> dict[str, str]:
    return {light.name: light.state for light in lights(measures)}


def fidelity(value: Any, floor: Any = 10.0, held_out: Any = 8.0, **more: Any) -> Any:
    frechet = {'value': value, 'floor': floor, 'held_out': held_out}
    return {'frechet': frechet, **more}


def aligned(calibrated: Any, **more: Any) -> dict[str, Any]:
    return {'alignment': {'calibrated': calibrated, **more}}


def edges(synthetic: float) -> dict[str, float]:
    return {'synthetic': synthetic, 'shuffled': 0.5, 'real': 0.7}


def near(**found: Any) -> dict[str, Any]:
    usual = {'share': 0.01, 'expected': 0.01, 'median_ratio': 0.95}
    return {'memorisation': {'pixels': usual | {'alarm': False} | found}}


@pytest.mark.parametrize(
    'image, expected',
    [
        (fidelity(9.0), 'good'),
        (fidelity(15.0), 'good'),
        (fidelity(15.1), 'doubtful'),
        # the larger reference counts
        (fidelity(15.1, 8.0, 12.0), 'good'),
        (fidelity(30.1), 'bad'),
        (fidelity(12.0, None, 12.0), 'good'),
        (fidelity(12.0, None, None), 'not measured'),
        (fidelity(None), 'not measured'),
        (fidelity(float('nan')), 'not measured'),
        (fidelity(9.0, coverage={'value': 0.46, 'floor': 0.9}), 'good'),
        (fidelity(9.0, coverage={'value': 0.44, 'floor': 0.9}), 'bad'),
        (fidelity(9.0, coverage={'value': None, 'floor': 0.9}), 'good'),
    ],
)
def test_looks_real(image: Any, expected: str) -> None:
    assert states({'fidelity': {'image': image, 'mask': fidelity(99.0)}}) == {
        LOOKS: expected,
        FIT: 'not measured',
        COPIED: 'not measured',
    }


def test_the_worst_date_counts() -> None:
    measures = {'fidelity': {'image_1': fidelity(9.0), 'image_2': fidelity(20.0)}}
    light = lights(measures)[0]
    assert light.state == 'doubtful'
    assert light.sentence == (
        'Images of date 2 are 2.0 times as far from the real training images as other '
        'real images are (Fréchet distance 20 against 10).'
    )


def test_textures_count_beside_images() -> None:
    light = lights({'fidelity': {'image': fidelity(9.0), 'texture': fidelity(99.0)}})[0]
    assert light.state == 'bad'
    assert light.sentence.startswith('Images are 0.9 times as far')
    assert light.sentence.endswith(
        '; textures are 9.9 times as far from the real training ones as other real ones '
        'are (Fréchet distance 99 against 10).'
    )


@pytest.mark.parametrize(
    'gain, expected',
    [(0.89, 'doubtful'), (0.9, 'good'), (1.1, 'good'), (1.11, 'doubtful')],
)
def test_brightness(gain: float, expected: str) -> None:
    measures = {
        'fidelity': {'image': fidelity(9.0)},
        'spectra': {'synthetic': {'gain': gain}},
    }
    assert states(measures)[LOOKS] == expected
    measures['fidelity'] = {'image': fidelity(99.0)}
    assert states(measures)[LOOKS] == 'bad'


@pytest.mark.parametrize(
    'found, expected',
    [
        (aligned(0.9), 'good'),
        (aligned(1.02), 'good'),
        (aligned(0.89), 'doubtful'),
        (aligned(0.6), 'doubtful'),
        (aligned(0.59), 'bad'),
        (aligned(None), 'not measured'),
        (aligned(0.95, edges=edges(0.67)), 'good'),
        (aligned(0.95, edges=edges(0.65)), 'doubtful'),
        (aligned(0.95, spectrum=edges(0.65)), 'doubtful'),
        (aligned(0.3, edges=edges(0.65)), 'bad'),
        # what does not tell real pairs from shuffled ones says nothing
        (aligned(0.95, edges=edges(0.4) | {'real': 0.51}), 'good'),
        (aligned(0.95, edges=edges(0.65) | {'real': None}), 'good'),
        (aligned(0.95, transparency=1.02), 'good'),
        (aligned(0.95, transparency=1.04), 'doubtful'),
        (aligned(0.3, transparency=1.04), 'bad'),
        (aligned(0.95, swapped={'other': 0.34, 'original_other': 0.3}), 'good'),
        (aligned(0.95, swapped={'other': 0.36, 'original_other': 0.3}), 'doubtful'),
        (aligned(0.95, swapped={'other': 0.36, 'original_other': None}), 'good'),
    ],
)
def test_labels_fit(found: dict[str, Any], expected: str) -> None:
    assert states(found)[FIT] == expected


def detail(**synthetic: Any) -> dict[str, Any]:
    usual = {
        'power': dict.fromkeys(OCTAVES, 1.0),
        'seams': 1.02,
        'correlation': 1.0,
        'structure': 1.1,
        'boundary': 1.0,
    }
    # real test images have less fine detail than training ones, as their places are
    real = {'power': dict.fromkeys(OCTAVES, 0.9), 'seams': 1.05, 'structure': 1.3}
    return {'detail': {'synthetic': usual | synthetic, 'held_out': usual | real}}


def power(*values: float) -> dict[str, float]:
    return dict(zip(OCTAVES, values, strict=True))


@pytest.mark.parametrize(
    'synthetic, expected, word',
    [
        ({}, 'good', 'their detail is that of real images'),
        ({'power': power(0.9, 0.9, 0.9, 0.64)}, 'good', 'their detail is'),
        (
            {'power': power(1, 1, 1, 0.62)},
            'doubtful',
            'soft: power of fine detail is 0.69',
        ),
        ({'power': power(1, 1, 0.35, 1)}, 'bad', 'soft'),
        ({'power': power(1, 1, 1, 1.4)}, 'good', 'their detail is'),
        ({'power': power(1, 1, 1, 1.5)}, 'doubtful', 'grainy'),
        ({'power': power(1, 1, 1, 2.6)}, 'bad', 'grainy'),
        ({'correlation': 0.6}, 'doubtful', 'grainy'),
        ({'correlation': 0.3}, 'bad', 'grainy'),
        ({'seams': 1.2}, 'good', 'their detail is'),
        ({'seams': 1.3}, 'doubtful', 'blocky'),
        ({'seams': 2.0, 'power': power(1, 1, 1, 9)}, 'bad', 'blocky'),
        ({'structure': 0.5}, 'doubtful', 'without structure'),
        ({'structure': 0.1}, 'bad', 'without structure'),
        ({'structure': 1.5}, 'good', 'their detail is'),
        ({'power': power(0.4, 1, 1, 1)}, 'doubtful', 'flat'),
        ({'power': power(9, 1, 1, 1)}, 'doubtful', 'too rich in contrast'),
        ({'boundary': 0.5}, 'doubtful', 'masks are coarser'),
        ({'boundary': 3.0}, 'bad', 'masks are more speckled'),
        ({name: None for name in detail()['detail']['held_out']}, 'not measured', ''),
    ],
)
def test_detail(synthetic: dict[str, Any], expected: str, word: str) -> None:
    light = lights(detail(**synthetic))[0]
    assert light.state == expected
    assert word.lower() in light.sentence.lower()
    # what is blocky has its fine detail from there
    assert not ('blocky' in light.sentence and 'grainy' in light.sentence)


@pytest.mark.parametrize('share, expected', [(0.05, 'doubtful'), (0.04, 'good')])
def test_a_class_that_only_synthetic_masks_lack(share: float, expected: str) -> None:
    area = {'missing': ['water', 'ice'], 'missing_held_out': ['ice']}
    light = lights(detail() | {'area': area | {'missing_share': share}})[0]
    assert light.state == expected
    assert f'no mask has water (at least {share:.1%} of real pixels)' in light.sentence


@pytest.mark.parametrize('settled, expected', [(True, 'good'), (False, 'not measured')])
def test_judges_that_still_learn_light_no_lamp(settled: bool, expected: str) -> None:
    curve = [(200, 0.3), (400, 0.35), (800, 0.423)]
    light = lights(aligned(1.0, judges={'curve': curve, 'settled': settled}))[1]
    assert light.state == expected
    assert (
        '30.0% after 200, 35.0% after 400, 42.3% after 800' in light.sentence
    ) != settled


@pytest.mark.parametrize('score', ['accuracy', 'change_f1'])
def test_judges_that_read_nothing_tell_nothing(score: str) -> None:
    def judged(real: float, held_out: float) -> dict[str, Any]:
        values = {'shuffled': 0.2, 'real': real, 'held_out': held_out}
        return {
            'score': score,
            'judge': {side: {score: value} for side, value in values.items()},
        }

    assert states(aligned(1.0, **judged(0.6, 0.25)))[FIT] == 'good'
    for share in (1.0, -3.0, None):
        light = lights(aligned(share, **judged(0.6, 0.21)))[1]
        assert light.state == 'not measured'
        assert '(21.0%) hardly better than those of shuffled ones (20.0%)' in light[2]
    # what needs no judge still tells
    both = aligned(1.0, **judged(0.1, 0.2), edges=edges(0.55))
    light = lights(both)[1]
    assert light.state == 'doubtful' and 'edges are only' in light.sentence


def test_too_clean_spectra() -> None:
    spectrum = {'synthetic': 0.9, 'shuffled': 0.1, 'real': 0.5, 'held_out': 0.3}
    assert states(aligned(1.0, spectrum=spectrum))[FIT] == 'doubtful'
    spectrum['synthetic'] = 0.6
    assert states(aligned(1.0, spectrum=spectrum))[FIT] == 'good'


def test_the_lower_of_two_real_sides_is_enough() -> None:
    found = edges(0.6) | {'held_out': 0.62}
    assert states(aligned(1.0, edges=found))[FIT] == 'good'
    assert states(aligned(1.0, edges=edges(0.6)))[FIT] == 'doubtful'


def test_a_painting_codec_is_named() -> None:
    swapped = {'own': 0.2, 'other': 0.7, 'original_other': 0.3}
    measures = aligned(0.99, transparency=1.08, swapped=swapped)
    assert 'this agreement is false' in lights(measures)[1].sentence
    better, direct = codec_sentences(measures)
    assert 'better than the originals do (1.08 times' in better
    assert 'paints the label into the image, or smooths' in better
    assert 'other mask in 70% of the pixels (30% in the untouched originals)' in direct
    assert 'paints labels into images' in direct and paints_labels(measures)


def test_an_honest_codec_is_named() -> None:
    swapped = {'own': 0.8, 'other': 0.31, 'original_other': 0.3}
    measures = aligned(0.99, transparency=0.99, swapped=swapped)
    assert 'false' not in lights(measures)[1].sentence and not paints_labels(measures)
    as_well, direct = codec_sentences(measures)
    assert 'as well as the originals do' in as_well
    assert 'does not paint' in direct
    assert 'loses detail' in codec_sentences(aligned(0.9, transparency=0.8))[0]
    assert codec_sentences({}) == []


@pytest.mark.parametrize(
    'found, expected',
    [
        (near(), 'good'),
        (near(median_ratio=0.7), 'good'),
        (near(median_ratio=0.69), 'doubtful'),
        (near(alarm=True), 'bad'),
        (near(alarm=None, median_ratio=None), 'not measured'),
        ({'memorisation': {'nearest': [{'id': 'a'}]}}, 'not measured'),
        ({'memorisation': {**near()['memorisation'], 'features': None}}, 'good'),
    ],
)
def test_not_copied(found: dict[str, Any], expected: str) -> None:
    assert states(found)[COPIED] == expected


def test_either_kind_of_distance_raises_the_alarm() -> None:
    measures = near()
    features = {'share': 0.2, 'expected': 0.01, 'alarm': True}
    measures['memorisation']['features'] = features
    light = lights(measures)[2]
    assert light.state == 'bad'
    assert 'in features, 20.0% of the samples lie suspiciously near' in light.sentence
    assert '(real ones of other places 1.0%)' in light.sentence


def test_nothing_measured() -> None:
    assert [light[:2] for light in lights({})] == [
        (LOOKS, 'not measured'),
        (FIT, 'not measured'),
        (COPIED, 'not measured'),
    ]
    empty = {'fidelity': None, 'alignment': None, 'spectra': None, 'memorisation': None}
    assert lights(empty) == lights({})


def test_a_denoiser_worse_than_no_network_is_named() -> None:
    levels: dict[str, list[float]] = {
        'log_snr': [-2, 0, 2, 4],
        'noisy': [7.4, 1.0, 0.135, 0.018],
        'linear': [0.6, 0.3, 0.1, 0.015],
    }
    good = levels | {'network': [0.5, 0.2, 0.09, 0.0151]}
    bad = levels | {'network': [0.5, 0.2, 0.2, 0.18]}
    assert denoiser_sentences({'image_1': good, 'mask': good}) == []
    noisy, linear = denoiser_sentences({'image_1': good, 'mask': bad})
    assert noisy == (
        "The denoiser's estimate of mask is worse than the noisy latents themselves at "
        'log-SNR +2, +4 (10.0 times the squared error at +4).'
    )
    assert 'the best linear estimate at log-SNR +2, +4 (12.0 times' in linear
