from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.resize import Resize

sides = st.integers(1, 3000)
long_edges = st.sampled_from([64, 224, 320, 500, 512])


def fitted(width: int, height: int, long_edge: int) -> Resize:
    assume(round(min(width, height) * long_edge / max(width, height)) >= 16)
    return Resize.fit(width, height, long_edge)


@given(sides, sides, long_edges)
def test_size_is_in_multiples_and_loses_less_than_one(width: int, height: int, long_edge: int) -> None:
    resize = fitted(width, height, long_edge)
    for native, working in ((width, resize.width), (height, resize.height)):
        assert working % 16 == 0
        assert -0.5 <= native * long_edge / max(width, height) - working < 16.0


@given(sides, sides, long_edges)
def test_the_middle_stays_the_middle(width: int, height: int, long_edge: int) -> None:
    resize = fitted(width, height, long_edge)
    middle = resize.to_working([(width - 1) / 2, (height - 1) / 2])
    np.testing.assert_allclose(middle, [(resize.width - 1) / 2, (resize.height - 1) / 2], atol=0.5)


@given(sides, sides, long_edges)
def test_the_scale_is_one_up_to_a_native_pixel(width: int, height: int, long_edge: int) -> None:
    resize = fitted(width, height, long_edge)
    # what is kept of the native image has the working image's shape to half a native pixel
    common = max(resize.width / width, resize.height / height)
    for working, scale in ((resize.width, resize.scale_x), (resize.height, resize.scale_y)):
        assert abs(working / scale - working / common) <= 0.5 + 1e-9
    if resize.scale_x >= 1.0 and resize.scale_y >= 1.0:
        assert resize.scale_x == resize.scale_y


@given(sides, sides, long_edges, st.floats(-100, 4000), st.floats(-100, 4000))
def test_there_and_back(width: int, height: int, long_edge: int, u: float, v: float) -> None:
    resize = fitted(width, height, long_edge)
    np.testing.assert_allclose(resize.to_native(resize.to_working([[u, v]])), [[u, v]], atol=1e-6)


@pytest.mark.parametrize(
    ("width", "height", "long_edge"),
    [(640, 480, 512), (1241, 376, 512), (480, 854, 320), (1000, 751, 224), (160, 120, 512), (101, 77, 512)],
)
def test_the_image_moves_as_the_pixels_do(width: int, height: int, long_edge: int) -> None:
    """A soft blob is found where ``to_working`` says, to a tenth of a pixel."""
    resize = Resize.fit(width, height, long_edge)
    place = np.array([0.61 * width, 0.43 * height])
    spread = 3 * max(1.0, 1 / resize.scale)
    v, u = np.mgrid[:height, :width]
    blob = 250 * np.exp(-((u - place[0]) ** 2 + (v - place[1]) ** 2) / (2 * spread**2))
    small = resize.apply(np.rint(np.dstack([blob] * 3)).astype(np.uint8))
    assert small.shape == (resize.height, resize.width, 3)
    assert small.dtype == np.uint8 and small.flags.c_contiguous
    v, u = np.mgrid[: resize.height, : resize.width]
    weight = small[..., 0].astype(float)
    found = [np.average(u, weights=weight), np.average(v, weights=weight)]
    np.testing.assert_allclose(found, resize.to_working(place), atol=0.1)


def test_shrinking_averages() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640), dtype=np.uint8)
    expected = cv2.resize(noise, (320, 240), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(Resize.fit(640, 480, 320).apply(noise), expected)


def test_an_image_that_fits_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (384, 512, 3), dtype=np.uint8)
    resize = Resize.fit(512, 384, 512)
    np.testing.assert_array_equal(resize.apply(image), image)
    assert not np.shares_memory(resize.apply(image), image), "the caller may use it again"
    np.testing.assert_array_equal(resize.apply(image[:, ::-1]), image[:, ::-1])
    assert resize.focal_to_working(400.0) == 400.0


@pytest.mark.parametrize(
    ("arguments", "named"), [((2000, 20, 512), "2000x20"), ((0, 480, 512), "0x480"), ((640, 480, 8), "8 pixels")]
)
def test_impossible_sizes_are_named(arguments: tuple[int, int, int], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Resize.fit(*arguments)


@pytest.mark.parametrize("image", [np.zeros((480, 641, 3), np.uint8), np.zeros((480, 640, 3), np.float32)])
def test_a_foreign_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="640x480"):
        Resize.fit(640, 480, 512).apply(image)
