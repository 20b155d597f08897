"""Levels of blur."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scale_space import FIRST_BLUR, LAYERS, ScaleSpace


def test_a_blob_is_as_wide_and_low_as_each_level_says() -> None:
    """A Gaussian of 6 pixels blurred by s has a width of sqrt(6^2 + s^2); images come with a blur of half a pixel."""
    size, middle = 6.0, 64
    y, x = np.mgrid[:129, :129] - middle
    image = np.round(250 * np.exp(-(x**2 + y**2) / (2 * size**2))).astype(np.uint8)
    space = ScaleSpace.of(image)
    for octave, levels in enumerate(space.octaves[:2]):
        for level, values in enumerate(levels):
            blur = FIRST_BLUR * 2.0 ** (octave + level / LAYERS)
            expected = 250 * size**2 / (size**2 + blur**2 - 0.25)
            assert values[middle >> octave, middle >> octave] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("shape, octaves", [((480, 640), 5), ((24, 24), 1), ((23, 400), 0), ((1, 1), 0)])
def test_octaves_get_smaller_until_nothing_can_be_seen(shape: tuple[int, int], octaves: int) -> None:
    space = ScaleSpace.of(np.full(shape, 9, np.uint8))
    assert len(space.octaves) == octaves
    for k, levels in enumerate(space.octaves):
        assert levels.shape == (LAYERS + 3, -(-shape[0] // 2**k), -(-shape[1] // 2**k))
        np.testing.assert_allclose(levels, 9.0, atol=1e-4)
