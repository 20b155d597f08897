"""Flow that begins where landmarks say: near things, which move far, are found."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.backends import flow, two_view
from dust3r_ros.backends.flow import seeded_targets
from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.features.features import extract
from dust3r_ros.types import Array, Array32, Image, View

H, W, F = 120, 160, 150.0
NEAR, FAR, STEP = 1.0, 5.0, 0.2  # units; the board moves by 30 pixels, the wall by 6
BOARD = slice(40, 72), slice(70, 96)


def texture(seed: int, shape: tuple[int, int]) -> Image:
    coarse = np.random.default_rng(seed).integers(40, 220, (shape[0] // 3 + 2, shape[1] // 3 + 2, 3)).astype(np.uint8)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def scene() -> tuple[Image, Image, Array32]:
    """A small board before a wall from two places, and the depth of the first image."""
    wall, board = texture(0, (H, W + 40)), texture(1, (32, 26))
    a, b = wall[:, 20 : 20 + W].copy(), wall[:, 26 : 26 + W].copy()
    a[BOARD] = board
    b[BOARD[0], 70 - 30 : 96 - 30] = board
    depth = np.full((H, W), FAR, np.float32)
    depth[BOARD] = NEAR
    return a, b, depth


def points(depth: Array32, count: int = 60) -> Array:
    """Landmarks (N, 3) in the camera, some of them on the board."""
    rng = np.random.default_rng(2)
    u, v = rng.integers(0, W, count), rng.integers(0, H, count)
    u[:8], v[:8] = rng.integers(70, 96, 8), rng.integers(40, 72, 8)
    z = depth[v, u].astype(float)
    return np.stack([(u - (W - 1) / 2) / F * z, (v - (H - 1) / 2) / F * z, z], axis=1)


def moved(right: float) -> Array:
    T = np.eye(4)
    T[0, 3] = right
    return T


def test_every_pixel_moves_as_the_landmark_nearest_to_it() -> None:
    _, _, depth = scene()
    found = seeded_targets(points(depth), moved(-STEP), F, F, (H, W), (H, W))
    assert found is not None and found.shape == (H, W, 2) and found.dtype == np.float32
    v, u = np.mgrid[:H, :W]
    np.testing.assert_allclose(found[..., 1], v, atol=1e-3)
    step = u - found[..., 0]
    assert set(np.unique(np.round(step, 2))) == {30.0, 6.0}
    assert (np.abs(step - F * STEP / depth) < 0.01).mean() > 0.9


def test_other_sizes_and_focals_of_the_other_view() -> None:
    _, _, depth = scene()
    found = seeded_targets(points(depth), np.eye(4), F, 2 * F, (H, W), (2 * H, 2 * W))
    assert found is not None
    v, u = np.mgrid[:H, :W]
    np.testing.assert_allclose(found[..., 0], 2 * (u - (W - 1) / 2) + (2 * W - 1) / 2, atol=1e-3)
    np.testing.assert_allclose(found[..., 1], 2 * (v - (H - 1) / 2) + (2 * H - 1) / 2, atol=1e-3)


def test_too_few_landmarks_and_what_lies_behind() -> None:
    _, _, depth = scene()
    some = points(depth)
    assert seeded_targets(some[:11], moved(-STEP), F, F, (H, W), (H, W)) is None
    assert seeded_targets(-some, moved(-STEP), F, F, (H, W), (H, W)) is None
    assert seeded_targets(np.zeros((0, 3)), moved(-STEP), F, F, (H, W), (H, W)) is None
    beyond = np.eye(4)
    beyond[2, 3] = -2.0  # the board is behind the other camera, the wall is not
    found = seeded_targets(some, beyond, F, F, (H, W), (H, W))
    assert found is not None and np.isnan(found[50:60, 78:88]).all() and np.isfinite(found).any()
    aside = seeded_targets(some, moved(-1e6), F, F, (H, W), (H, W))
    assert aside is not None and np.abs(aside).max() < 1000


@pytest.mark.parametrize("known", [True, False])
def test_a_near_thing_has_depth_where_landmarks_are_on_it(known: bool) -> None:
    a, b, depth = scene()
    backend = TwoViewBackend()
    backend.add(View(0, "front", a))
    backend.add(View(1, "front", b))
    poses = {0: np.eye(4), 1: moved(STEP)}
    landmarks = {view: points(depth) for view in (0, 1)} if known else None
    (found,) = backend.predict([(0, 1)], {"front": F}, poses, landmarks)
    right = np.abs(found.points_first[..., 2] / depth - 1) < 0.1
    sure = found.confidence_first > 1.5
    assert (sure & right)[:30].mean() > 0.7  # the wall, either way
    share = (sure & right)[BOARD].mean()
    assert share > 0.6 if known else share < 0.3
    assert (sure & ~right)[BOARD].mean() < 0.1


@pytest.mark.parametrize("known", [True, False])
def test_features_are_matched_only_where_no_landmark_says_more(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that have nothing in common, as where flow is lost."""
    described: list[Image] = []
    monkeypatch.setattr(two_view, "extract", lambda image: described.append(image) or extract(image))
    backend = TwoViewBackend()
    for view in (0, 1):
        backend.add(View(view, "front", texture(5 + view, (H, W))))
    landmarks = {view: points(scene()[2]) for view in (0, 1)} if known else None
    (found,) = backend.predict([(0, 1)], {"front": F}, {0: np.eye(4), 1: moved(STEP)}, landmarks)
    assert len(described) == (0 if known else 2) and (found.confidence_first > 1.5).mean() < 0.05


def test_a_compiler_changes_nothing_in_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flow.LIBRARY is not None
    points = np.random.default_rng(0).uniform([-2, -2, 0.3], [2, 2, 6], (200, 3))
    b_T_a = np.eye(4)
    b_T_a[:3, 3] = 0.4, -0.1, -2.0  # past the nearest points
    given = points, b_T_a, F, 1.1 * F, (H, W), (H + 10, W - 8)
    compiled = seeded_targets(*given)
    monkeypatch.setattr(flow, "LIBRARY", None)
    plain = seeded_targets(*given)
    assert compiled is not None and plain is not None
    np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-3)
    assert 0 < np.isnan(plain).mean() < 0.5
