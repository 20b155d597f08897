"""Keyframes to points."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from dust3r_ros.cloud.cloud import Cloud, concatenate, keyframe_cloud, map_cloud, thin
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.types import Keyframe

HEIGHT, WIDTH, FOCAL = 12, 20, 18.0


def keyframe(index: int = 0) -> Keyframe:
    rng = np.random.default_rng(index)
    depth = rng.uniform(1, 4, (HEIGHT, WIDTH)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = 0
    confidence = rng.uniform(1, 3, depth.shape).astype(np.float32)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pose = look_at(np.array([1.0, index, 2.0]), np.zeros(3), 0.3)
    return Keyframe(index, 1, 10, "camera", pose, FOCAL, image, depth, confidence)


def test_every_so_many_points_are_some_of_all() -> None:
    everything, some = keyframe_cloud(keyframe(), 1.5, 2), keyframe_cloud(keyframe(), 1.5, 2, every=3)
    np.testing.assert_array_equal(some.points, everything.points[::3])
    np.testing.assert_array_equal(some.colors, everything.colors[::3])
    np.testing.assert_array_equal(some.confidence, everything.confidence[::3])


def test_every_point_projects_onto_its_pixel() -> None:
    frame = keyframe()
    cloud = keyframe_cloud(frame, 1.5)
    rows, columns = np.nonzero((frame.depth > 0) & (frame.confidence > 1.5))
    assert len(cloud) == len(rows) > 20
    pixels = project(transform(invert(frame.w_T_c), cloud.points), FOCAL, ((WIDTH - 1) / 2, (HEIGHT - 1) / 2))
    np.testing.assert_allclose(pixels, np.stack([columns, rows], 1), atol=1e-3)
    np.testing.assert_array_equal(cloud.colors, frame.image[rows, columns])
    np.testing.assert_array_equal(cloud.confidence, frame.confidence[rows, columns])
    assert cloud.points.dtype == np.float32 and cloud.colors.dtype == np.uint8


def test_stride_takes_every_nth() -> None:
    frame = replace(keyframe(), depth=np.ones((HEIGHT, WIDTH), np.float32), confidence=np.full((HEIGHT, WIDTH), 2.0))
    assert len(keyframe_cloud(frame)) == HEIGHT * WIDTH
    coarse = keyframe_cloud(frame, stride=3)
    assert len(coarse) == 4 * 7
    every = {tuple(p) for p in keyframe_cloud(frame).points.tolist()}
    assert {tuple(p) for p in coarse.points.tolist()} <= every


def test_all_keyframes_in_order() -> None:
    frames = [keyframe(0), keyframe(1)]
    parts = [keyframe_cloud(f, 1.2, 2) for f in frames]
    whole = map_cloud(frames, 1.2, 2)
    assert len(whole) == len(parts[0]) + len(parts[1])
    np.testing.assert_array_equal(whole.points[: len(parts[0])], parts[0].points)
    np.testing.assert_array_equal(concatenate(parts).colors, whole.colors)


def test_nothing_to_show() -> None:
    for cloud in (map_cloud([]), keyframe_cloud(keyframe(), 99.0), concatenate([])):
        assert len(cloud) == 0 and cloud.points.shape == (0, 3) and cloud.colors.shape == (0, 3)
        assert (cloud.points.dtype, cloud.colors.dtype, cloud.confidence.dtype) == (np.float32, np.uint8, np.float32)


def test_no_depth_is_no_point_whatever_the_confidence() -> None:
    frame = replace(keyframe(), depth=np.zeros((HEIGHT, WIDTH), np.float32))
    assert len(keyframe_cloud(frame)) == 0


def random_cloud(count: int, seed: int = 0, center: float = 0.0) -> Cloud:
    rng = np.random.default_rng(seed)
    return Cloud(
        (center + rng.normal(0, 1, (count, 3))).astype(np.float32),
        rng.integers(0, 256, (count, 3), dtype=np.uint8),
        rng.uniform(1.1, 9, count).astype(np.float32),
    )


def cubes(cloud: Cloud, voxel: float) -> dict[tuple[int, ...], list[int]]:
    """Points by cube, the slow way."""
    found: dict[tuple[int, ...], list[int]] = {}
    for at, point in enumerate(cloud.points.astype(np.float64)):
        found.setdefault(tuple(int(c) for c in np.floor(point / voxel)), []).append(at)
    return found


def test_a_cube_holds_the_weighted_mean_of_its_points() -> None:
    cloud, voxel = random_cloud(3000, center=5.0), 0.3
    thinned = thin(cloud, voxel)
    expected = sorted(cubes(cloud, voxel).items())
    assert len(thinned) == len(expected) < 2500
    for at, (_, members) in enumerate(expected):
        weight = cloud.confidence[members].astype(np.float64) - 1
        np.testing.assert_allclose(thinned.points[at], weight @ cloud.points[members] / weight.sum(), atol=1e-5)
        np.testing.assert_allclose(thinned.colors[at], weight @ cloud.colors[members] / weight.sum(), atol=0.51)
        np.testing.assert_allclose(thinned.confidence[at], 1 + weight.sum(), rtol=1e-5)
    assert (thinned.points.dtype, thinned.colors.dtype, thinned.confidence.dtype) == (np.float32, np.uint8, np.float32)


def test_parts_may_be_thinned_before_the_whole() -> None:
    parts = [random_cloud(2000, seed) for seed in (1, 2)]
    at_once = thin(concatenate(parts), 0.25)
    in_parts = thin(concatenate([thin(parts[0], 0.25), parts[1]]), 0.25)
    np.testing.assert_allclose(in_parts.points, at_once.points, atol=1e-5)
    np.testing.assert_allclose(in_parts.confidence, at_once.confidence, rtol=1e-5)
    assert np.abs(in_parts.colors.astype(int) - at_once.colors).max() <= 1


def test_a_map_of_more_cubes_than_a_number_can_count_is_thinned_too() -> None:
    cloud = random_cloud(400)
    cloud.points[-1] = 1e9
    cloud.points[-2] = -1e9
    near = thin(Cloud(cloud.points[:-2], cloud.colors[:-2], cloud.confidence[:-2]), 0.1)
    whole = thin(cloud, 0.1)
    assert len(whole) == len(near) + 2
    np.testing.assert_array_equal(whole.points[1:-1], near.points)
    np.testing.assert_allclose(whole.points[-1], 1e9)


def test_points_that_are_nowhere_fall_out_and_a_voxel_must_be_a_length() -> None:
    cloud = random_cloud(50)
    cloud.points[3, 1], cloud.confidence[7] = np.nan, np.inf
    assert np.isfinite(thin(cloud, 1e-4).points).all() and len(thin(cloud, 1e-4)) == 48
    assert len(thin(concatenate([]), 1.0)) == 0
    for voxel in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(GeometryError, match="voxel is"):
            thin(cloud, voxel)


def test_a_million_points_take_a_fraction_of_a_second_per_core() -> None:
    cloud = random_cloud(1_000_000)
    start = time.process_time()
    thinned = thin(cloud, 0.05)
    assert len(thinned) < len(cloud) and time.process_time() - start < 2.0  # 0.2 to 0.4 s where measured
