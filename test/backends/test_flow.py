"""Dense flow on images whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.backends.flow import dense_flow
from dust3r_ros.features.features import extract
from dust3r_ros.types import Image

HEIGHT, WIDTH = 120, 160


def texture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image:
    """Blobs of several sizes."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), s) * s for s in (1.2, 3, 8)]
    total = np.sum(layers, axis=0)
    return np.clip(128 + 55 * total / total.std(), 0, 255).astype(np.uint8)


def moved_by(image: Image, homography: np.ndarray) -> Image:
    """The image whose pixel H x shows what ``image`` shows at x."""
    size = image.shape[1], image.shape[0]
    return cv2.warpPerspective(image, homography, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def targets_of(homography: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    v, u = np.mgrid[:height, :width].astype(np.float64)
    return cv2.perspectiveTransform(np.stack([u, v], -1).reshape(1, -1, 2), homography).reshape(height, width, 2)


def flow_of(a: Image, b: Image) -> tuple:
    return dense_flow(a, b, lambda: (extract(a), extract(b)))


def check(flow, true: np.ndarray, part: float, pixels: float) -> None:
    """Where the flow claims to be consistent it is right; and it claims at least ``part`` of the image."""
    good = flow.error < 1.0
    assert good.mean() == pytest.approx(flow.consistent) and flow.consistent > part
    miss = np.linalg.norm(flow.target - true, axis=-1)[good]
    assert np.median(miss) < pixels and np.mean(miss < 1.5) > 0.97


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (6.5, 4.25), (-14.0, 3.0)])
def test_shifts(shift: tuple[float, float]) -> None:
    H = np.array([[1.0, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    a = texture()
    forth, back = flow_of(a, moved_by(a, H))
    check(forth, targets_of(H), 0.6, 0.15)
    check(back, targets_of(np.linalg.inv(H)), 0.6, 0.15)
    assert forth.target.shape == (HEIGHT, WIDTH, 2) and forth.target.dtype == forth.error.dtype == np.float32


def test_turned_and_grown() -> None:
    rotation = cv2.getRotationMatrix2D((80, 60), 5.0, 1.06)
    H = np.vstack([rotation, [0, 0, 1]])
    a = texture()
    forth, back = flow_of(a, moved_by(a, H))
    check(forth, targets_of(H), 0.7, 0.2)
    check(back, targets_of(np.linalg.inv(H)), 0.7, 0.2)


def test_what_leaves_the_image_is_not_consistent() -> None:
    H = np.array([[1.0, 0, 12], [0, 1, 0], [0, 0, 1]])
    a = texture()
    forth, _ = flow_of(a, moved_by(a, H))
    assert (forth.error[:, -10:] > 1.0).mean() > 0.9
    assert np.isinf(forth.error).any()
    assert np.isfinite(forth.target).all() and not np.isnan(forth.error).any()


def test_steps_too_wide_for_flow_are_carried_by_features() -> None:
    """A turn by 40 degrees about the axis and a shift of a third of the image."""
    rotation = cv2.getRotationMatrix2D((80, 60), 40.0, 1.0)
    H = np.vstack([rotation, [0, 0, 1]])
    H[0, 2] += 30
    big = texture(2 * HEIGHT, 2 * WIDTH, seed=3)
    a = big[60:180, 80:240].copy()
    G = np.array([[1.0, 0, -80], [0, 1, -60], [0, 0, 1]])  # big to a
    b = cv2.warpPerspective(big, H @ G, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    forth, _ = flow_of(a, b)
    check(forth, targets_of(H), 0.35, 0.5)
    nothing = extract(np.zeros((HEIGHT, WIDTH), np.uint8))
    without, _ = dense_flow(a, b, lambda: (nothing, nothing))
    assert without.consistent < 0.5 * forth.consistent


def test_features_are_asked_only_where_flow_fails() -> None:
    a = texture()
    H = np.array([[1.0, 0, 2], [0, 1, 1], [0, 0, 1]])

    def never() -> None:
        raise AssertionError("the flow alone is good enough")

    dense_flow(a, moved_by(a, H), never)


def test_images_of_different_sizes() -> None:
    big = texture(144, 192, seed=2)
    a, b = big[:112, :192], big[10:138, 5:117]
    forth, back = flow_of(a, b)
    assert forth.target.shape == (112, 192, 2) and back.target.shape == (128, 112, 2)
    v, u = np.mgrid[:112, :192]
    true = np.stack([u - 5.0, v - 10.0], -1)
    good = forth.error < 1.0
    assert np.mean(np.linalg.norm(forth.target - true, axis=-1)[good] < 1.0) > 0.97
    inside = (true[..., 0] >= 4) & (true[..., 0] <= 107) & (true[..., 1] >= 4)
    assert np.mean(good[inside]) > 0.8, "what both see is found"
    outside = true[..., 0] > 125
    assert np.mean(good[outside]) < 0.05, "what one alone sees is not"


def test_images_that_have_nothing_in_common() -> None:
    forth, back = flow_of(texture(seed=5), texture(seed=6))
    assert forth.consistent < 0.2 and back.consistent < 0.2


def test_blank_images_break_nothing() -> None:
    black = np.zeros((HEIGHT, WIDTH), np.uint8)
    for a, b in ((black, black), (black, texture()), (texture(), black)):
        for flow in flow_of(a, b):
            assert np.isfinite(flow.target).all() and not np.isnan(flow.error).any()


def test_the_same_images_give_the_same_flow() -> None:
    H = np.vstack([cv2.getRotationMatrix2D((80, 60), 35.0, 1.0), [0, 0, 1]])
    a = texture()
    b = moved_by(a, H)
    first, second = flow_of(a, b), flow_of(a, b)
    for x, y in zip(first, second, strict=True):
        np.testing.assert_array_equal(x.target, y.target)
        np.testing.assert_array_equal(x.error, y.error)


@pytest.mark.parametrize("deviation", [1.0, 2.0, 5.0])
def test_noise_is_no_texture(deviation: float) -> None:
    """A plain wall, or sky, beside something with texture, as a sensor shows it: each image has its own noise."""
    rng = np.random.default_rng(0)
    scene = texture().astype(np.float64)
    scene[:, WIDTH // 2 :] = 150
    a, b = (
        np.clip(np.round(image + rng.normal(0, deviation, image.shape)), 0, 255).astype(np.uint8)
        for image in (scene, np.roll(scene, 4, axis=1))
    )
    forth, _ = flow_of(a, b)
    found = np.isfinite(forth.error)
    assert found[8:-8, 8 : WIDTH // 2 - 8].mean() > 0.95
    assert found[8:-8, WIDTH // 2 + 8 : -8].mean() < 0.05
