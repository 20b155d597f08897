"""Gaps in depth maps of planes and of what is none."""

from __future__ import annotations

import numpy as np

from dust3r_ros.depth.completion import fill_depth

HEIGHT, WIDTH, FOCAL = 120, 160, 150.0


def plane(slope: tuple[float, float] = (0.004, -0.002), near: float = 0.5) -> np.ndarray:
    """(H, W) depth of a slanted plane."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    return (1 / (near + slope[0] * (u - WIDTH / 2) / 2 + slope[1] * (v - HEIGHT / 2) / 2)).astype(np.float32)


def seen(
    depth: np.ndarray, known: np.ndarray, noise: float = 0.0, seed: int = 0, sure: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """What pairs say of it: noisy depth where ``known``, with confidence ``sure``."""
    noisy = depth * np.exp(noise * np.random.default_rng(seed).standard_normal(depth.shape))
    return np.where(known, noisy, 0).astype(np.float32), np.where(known, sure, 1).astype(np.float32)


def error(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.abs(np.log(np.maximum(found, 1e-9) / true))


def test_gaps_on_a_plane_are_closed_and_what_is_far_from_all_stays_unknown() -> None:
    true = plane()
    known = np.random.default_rng(1).random(true.shape) < 0.5
    known[40:44] = False
    known[60:, 80:] = False
    depth, confidence = fill_depth(*seen(true, known, noise=0.01, sure=10.0))
    sure = confidence > 1.5
    assert sure[:56].mean() > 0.995 and sure[:, :76].mean() > 0.995
    assert error(depth, true)[sure].max() < 0.08 and np.median(error(depth, true)[sure]) < 0.005
    assert (depth[70:, 90:] == 0).all() and (confidence[70:, 90:] == 1).all()
    assert depth.dtype == confidence.dtype == np.float32


def test_confidence_is_honest_about_noise() -> None:
    """The rule of stereo: precision is 0.03 / sqrt(C - 1), here of planes through noisy pixels."""
    true = plane()
    known = np.random.default_rng(1).random(true.shape) < 0.5
    levels = []
    for noise in (0.01, 0.05, 0.3):
        depth, confidence = fill_depth(*seen(true, known, noise))
        gap = ~known & (confidence > 1)
        levels.append(float(np.median(confidence[~known])))
        if gap.any():
            precision = 0.03 / np.sqrt(confidence[gap] - 1)
            assert np.mean(error(depth, true)[gap] < 2 * precision) > 0.95
    assert levels[0] > 2 > levels[1] > 1.2 and levels[2] < 1.1, "pixels that agree on nothing close no gap"


def test_neighbours_that_agree_are_no_surer_than_their_patches() -> None:
    """Depth without any noise of its own, which pairs are not sure of: all may be wrong together."""
    true, known = plane(), np.ones((HEIGHT, WIDTH), bool)
    known[40:44] = False
    levels = [np.median(fill_depth(*seen(true, known, sure=sure))[1][40:44]) for sure in (1.1, 1.5, 3.0)]
    assert 1 < levels[0] < levels[1] < levels[2] and levels[0] < 1.2


def test_two_surfaces_are_not_mixed() -> None:
    """A gap within a surface is closed; what is said of one along a border is of one of both surfaces."""
    true = np.where(np.arange(WIDTH)[None, :] < 80, plane(near=1.0), plane(near=0.4)).astype(np.float32)
    known = np.ones(true.shape, bool)
    known[:, 77:83] = False
    known[:, 40:43] = False
    depth, confidence = fill_depth(*seen(true, known, noise=0.01))
    sure = confidence > 1.5
    assert sure[:, 40:43].all()
    assert error(depth, true)[sure].max() < 0.1


def test_what_is_surer_than_its_surroundings_stays_as_it_is() -> None:
    true = plane()
    depth, confidence = seen(true, np.ones(true.shape, bool), noise=0.02)
    confidence[:] = 20
    found = fill_depth(depth, confidence)
    np.testing.assert_array_equal(found[0], depth)
    np.testing.assert_array_equal(found[1], confidence)


def test_nothing_known_and_images_too_small_break_nothing() -> None:
    nothing = np.zeros((HEIGHT, WIDTH), np.float32), np.ones((HEIGHT, WIDTH), np.float32)
    depth, confidence = fill_depth(*nothing)
    assert (depth == 0).all() and (confidence == 1).all()
    for shape in ((1, 1), (3, 5), (4, 4), (5, 161)):
        depth, confidence = fill_depth(np.ones(shape, np.float32), np.full(shape, 2, np.float32))
        assert depth.shape == shape and np.isfinite(depth).all() and (confidence >= 2).all()
        np.testing.assert_allclose(depth, 1, rtol=1e-4)
