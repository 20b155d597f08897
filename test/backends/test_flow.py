"""Flows that are kept, and depth from exact flow with what confidence says of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.backends import flow as flow_module
from dust3r_ros.backends import two_view
from dust3r_ros.backends.flow import Flow, depth_from_flow, grid
from dust3r_ros.backends.two_view import PackedFlow
from dust3r_ros.geometry.pinhole import center_of, project, unproject
from dust3r_ros.geometry.rigid import pose, transform
from dust3r_ros.types import Array

SHAPE = (12, 20)
BYTES = 12 * 20 * 5


def flow(seed: int) -> Flow:
    rng = np.random.default_rng(seed)
    target = grid(*SHAPE) + rng.normal(0, 30, (*SHAPE, 2)).astype(np.float32)
    error = rng.uniform(0, 3, SHAPE).astype(np.float32)
    error[0] = np.inf
    return Flow(target, error)


def test_flow_comes_out_as_it_went_in() -> None:
    given = flow(0)
    packed = PackedFlow.of(given)
    found = packed.flow
    np.testing.assert_allclose(found.target, given.target, atol=1 / 64 + 1e-4)
    np.testing.assert_allclose(found.error[1:], given.error[1:], atol=1 / 128 + 1e-6)
    assert np.isinf(found.error[0]).all() and found.target.dtype == found.error.dtype == np.float32
    assert packed.size == BYTES


def test_targets_out_of_reach_and_large_errors_are_not_believed() -> None:
    given = flow(0)
    given.error[:] = 0.5
    given.target[3, 4], given.error[5, 6], given.target[7, 8] = (-5000, 3), 4.5, (1e9, 0)
    found = PackedFlow.of(given).flow
    assert np.isinf(found.error[[3, 5, 7], [4, 6, 8]]).all() and np.isinf(found.error).sum() == 3
    assert np.isfinite(found.target).all()


def test_a_compiler_changes_nothing_in_kept_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert two_view.LIBRARY is not None
    given = flow(0)
    given.target[3, 4], given.error[5, 6], given.target[7, 8] = (-5000, 3), 4.5, (1e9, 0)
    kept = []
    for library in (two_view.LIBRARY, None):
        monkeypatch.setattr(two_view, "LIBRARY", library)
        kept.append(PackedFlow.of(given).flow)
    np.testing.assert_array_equal(kept[0].target, kept[1].target)
    np.testing.assert_array_equal(kept[0].error, kept[1].error)


HEIGHT, WIDTH, FOCAL = 48, 64, 55.0


def waves(low: float = 2.0, high: float = 4.0) -> Array:
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return low + (high - low) * (0.5 + 0.5 * np.sin(u / 9) * np.cos(v / 7))


def exact_flow(
    depth: Array, b_T_a: Array, focal_b: float = FOCAL, shape_b: tuple[int, int] = (HEIGHT, WIDTH), off: float = 0.0
) -> Flow:
    """Where pixels of a lie in b, ``off`` pixels wrong in v; no round-trip error."""
    target = project(transform(b_T_a, unproject(depth, FOCAL)), focal_b, center_of(*shape_b))
    target[..., 1] += off
    known = np.isfinite(target).all(-1)
    return Flow(
        np.where(known[..., None], target, 0.0).astype(np.float32), np.where(known, 0.0, np.inf).astype(np.float32)
    )


def motion(x: float = 0.4, y: float = 0.0, z: float = 0.0, turn: tuple[float, float, float] = (0, 0, 0)) -> Array:
    return pose(Rotation.from_euler("xyz", turn, degrees=True).as_matrix(), [-x, -y, -z])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.floats(0.2, 0.6),
    st.floats(-0.4, 0.4),
    st.floats(-0.4, 0.4),
    st.tuples(*[st.floats(-12, 12)] * 3),
    st.sampled_from([40.0, 55.0, 90.0]),
)
def test_depth_is_exact(x: float, y: float, z: float, turn: tuple[float, float, float], focal_b: float) -> None:
    depth, b_T_a = waves(), motion(x, y, z, turn)
    found = depth_from_flow(exact_flow(depth, b_T_a, focal_b), b_T_a, FOCAL, focal_b, (HEIGHT, WIDTH), 1.0)
    good = found.confidence > 1
    assert good.mean() > 0.5
    np.testing.assert_allclose(found.depth[good], depth[good], rtol=2e-3)
    assert (found.depth[~good] == 0).all()
    assert found.depth.dtype == found.confidence.dtype == np.float32 and found.depth.shape == (HEIGHT, WIDTH)


def test_another_size_of_the_second_view() -> None:
    depth, b_T_a, shape_b = waves(), motion(), (96, 80)
    found = depth_from_flow(exact_flow(depth, b_T_a, 70.0, shape_b), b_T_a, FOCAL, 70.0, shape_b, 1.0)
    good = found.confidence > 1
    assert good.mean() > 0.9
    np.testing.assert_allclose(found.depth[good], depth[good], rtol=1e-3)


def test_depth_has_the_unit_of_the_baseline() -> None:
    depth = waves()
    small = depth_from_flow(exact_flow(depth, motion(0.4)), motion(0.4), FOCAL, FOCAL, (HEIGHT, WIDTH), 1.0)
    large = depth_from_flow(exact_flow(depth, motion(0.4)), motion(4.0), FOCAL, FOCAL, (HEIGHT, WIDTH), 1.0)
    np.testing.assert_allclose(large.depth, 10 * small.depth, rtol=1e-4)
    np.testing.assert_allclose(large.confidence, small.confidence, rtol=1e-4)


def test_confidence_falls_with_parallax() -> None:
    medians = []
    for baseline in (0.8, 0.4, 0.2, 0.1):
        b_T_a = motion(baseline)
        found = depth_from_flow(exact_flow(waves(), b_T_a), b_T_a, FOCAL, FOCAL, (HEIGHT, WIDTH), 0.1)
        medians.append(np.median(found.confidence))
    assert medians == sorted(medians, reverse=True) and len(set(medians)) == 4
    # Precision goes with parallax, so confidence above 1 with its square.
    assert (medians[2] - 1) / (medians[3] - 1) == pytest.approx(4.0, rel=0.2)


def test_confidence_falls_with_epipolar_error_and_round_trip_error() -> None:
    b_T_a, depth = motion(), waves()
    by_miss = [
        np.median(depth_from_flow(exact_flow(depth, b_T_a, off=off), b_T_a, FOCAL, FOCAL, (48, 64), 1.0).confidence)
        for off in (0.0, 0.4, 0.8, 1.2, 1.7)
    ]
    assert by_miss == sorted(by_miss, reverse=True) and by_miss[-1] == 1.0 < by_miss[-2]
    by_trip = []
    for error in (0.0, 0.5, 1.0, 1.4, 1.6):
        flow = exact_flow(depth, b_T_a)
        flow.error[:] = error
        by_trip.append(np.median(depth_from_flow(flow, b_T_a, FOCAL, FOCAL, (48, 64), 1.0).confidence))
    assert by_trip == sorted(by_trip, reverse=True) and by_trip[-1] == 1.0 < by_trip[-2]


def test_error_across_the_epipolar_line_does_not_change_depth() -> None:
    b_T_a, depth = motion(), waves()
    found = depth_from_flow(exact_flow(depth, b_T_a, off=1.0), b_T_a, FOCAL, FOCAL, (HEIGHT, WIDTH), 1.0)
    good = found.confidence > 1
    assert good.mean() > 0.9
    np.testing.assert_allclose(found.depth[good], depth[good], rtol=1e-3)


def test_confidence_is_about_the_error_it_foretells() -> None:
    """Flow with noise of the size that is assumed: relative errors are reference / sqrt(C - 1)."""
    rng = np.random.default_rng(0)
    b_T_a, depth = motion(0.5), waves()
    flow = exact_flow(depth, b_T_a)
    flow.target[:] += rng.normal(0, 0.4, flow.target.shape)
    found = depth_from_flow(flow, b_T_a, FOCAL, FOCAL, (HEIGHT, WIDTH), 1.0)
    good = (found.confidence > 1) & (found.confidence < 99)
    foretold = 0.03 / np.sqrt(found.confidence[good] - 1)
    ratio = np.abs(found.depth[good] / depth[good] - 1) / foretold
    assert 0.3 < np.median(ratio) < 1.2


def test_little_parallax_is_no_depth() -> None:
    b_T_a = motion(0.4)
    flow = exact_flow(waves(), b_T_a)
    assert (depth_from_flow(flow, b_T_a, FOCAL, FOCAL, (HEIGHT, WIDTH), 2.0).confidence > 1).any()
    assert (depth_from_flow(flow, b_T_a, FOCAL, FOCAL, (HEIGHT, WIDTH), 15.0).confidence == 1).all()


@pytest.mark.parametrize("b_T_a", [np.eye(4), motion(0.0, turn=(0, 8, 0))])
def test_turning_only_is_no_depth(b_T_a: Array) -> None:
    found = depth_from_flow(exact_flow(waves(), b_T_a), b_T_a, FOCAL, FOCAL, (HEIGHT, WIDTH), 1.0)
    assert (found.confidence == 1).all() and (found.depth == 0).all()


def test_matches_that_meet_behind_a_camera_are_no_depth() -> None:
    b_T_a = motion(0.4)
    flow = exact_flow(waves(), motion(-0.4))  # everything moved the wrong way
    found = depth_from_flow(flow, b_T_a, FOCAL, FOCAL, (HEIGHT, WIDTH), 1.0)
    assert (found.confidence == 1).all() and (found.depth == 0).all()


def test_nothing_matches() -> None:
    flow = exact_flow(waves(), motion())
    flow.error[:] = np.inf
    found = depth_from_flow(flow, motion(), FOCAL, FOCAL, (HEIGHT, WIDTH), 1.0)
    assert (found.confidence == 1).all()


def test_walking_forward_knows_all_but_the_middle() -> None:
    b_T_a = motion(0.0, 0.0, 0.6)
    found = depth_from_flow(exact_flow(waves(), b_T_a), b_T_a, FOCAL, FOCAL, (HEIGHT, WIDTH), 1.0)
    good = found.confidence > 1
    assert good[4:-4, :8].mean() > 0.9 and not good[23:25, 31:33].any()
    np.testing.assert_allclose(found.depth[good], waves()[good], rtol=5e-3)


def test_a_compiler_changes_nothing_in_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flow_module.LIBRARY is not None
    rng, b_T_a = np.random.default_rng(0), motion(0.5, 0.1, 0.2, (3, -2, 1))
    given = exact_flow(waves(), b_T_a, 60.0, (50, 60))
    given.target[:] += rng.normal(0, 0.5, given.target.shape)
    given.error[:] = np.where(rng.random(given.error.shape) < 0.2, np.inf, rng.uniform(0, 2, given.error.shape))
    compiled = depth_from_flow(given, b_T_a, FOCAL, 60.0, (50, 60), 1.0)
    monkeypatch.setattr(flow_module, "LIBRARY", None)
    plain = depth_from_flow(given, b_T_a, FOCAL, 60.0, (50, 60), 1.0)
    np.testing.assert_allclose(compiled.depth, plain.depth, rtol=1e-4)
    np.testing.assert_allclose(compiled.confidence, plain.confidence, rtol=1e-4)
    assert 0.2 < (plain.confidence > 1).mean() < 0.8


def test_a_compiler_changes_nothing_in_what_confirms_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for pixels at a limit, where sums of whole numbers do not round."""
    assert flow_module.LIBRARY is not None
    rng = np.random.default_rng(1)
    a = cv2.GaussianBlur(rng.integers(0, 256, (120, 160)).astype(np.uint8), (5, 5), 0)
    a[:, 100:130] = 90
    b = np.clip(np.roll(a, 3, axis=1) + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    forth, back = grid(120, 160) + np.float32([3, 0]), grid(120, 160) - np.float32([3, 0.2])
    compiled = flow_module._errors(a, b, forth, back)
    monkeypatch.setattr(flow_module, "LIBRARY", None)
    plain = flow_module._errors(a, b, forth, back)
    assert np.mean(np.isfinite(compiled) != np.isfinite(plain)) < 2e-3 and 0.3 < np.isfinite(plain).mean() < 0.95
    both = np.isfinite(compiled) & np.isfinite(plain)
    np.testing.assert_allclose(compiled[both], plain[both], atol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_shading_confirms_no_flow(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """Above a wall that moved, a sky that did not, brighter to the side, in images of unequal exposure."""
    if not compiled:
        monkeypatch.setattr(flow_module, "LIBRARY", None)
    rng, horizon, moved = np.random.default_rng(2), 80, 6
    wall = cv2.GaussianBlur(rng.uniform(0, 255, (80, 240 + moved)), (0, 0), 1.2)
    sky = np.tile(np.linspace(60, 250, 240), (horizon, 1))
    shown = np.vstack([sky, wall[:, moved:]]), np.vstack([sky - 5.0, wall[:, :240]])
    images = [np.clip(image + rng.normal(0, 1.0, image.shape), 0, 255).astype(np.uint8) for image in shown]
    step = np.float32([moved, 0])
    forth, back = flow_module.dense_flow(*images, None, (grid(160, 240) + step, grid(160, 240) - step))
    for found in (forth, back):
        assert np.mean(found.error[: horizon - 20, 20:-20] < 1.0) < 0.02, "of the sky, which began as the wall moved"
        assert np.mean(found.error[horizon + 8 :, 20:-20] < 1.0) > 0.9, "of the wall"
