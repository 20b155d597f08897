"""Keyframes to points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dust3r_ros.alignment.cloud import concatenate, keyframe_cloud, map_cloud
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.trajectory import look_at
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


def test_every_point_projects_onto_its_pixel() -> None:
    frame = keyframe()
    cloud = keyframe_cloud(frame, 1.5)
    rows, columns = np.nonzero((frame.depth > 0) & (frame.confidence > 1.5))
    assert len(cloud) == len(rows) > 20
    pixels = project(
        transform(invert(frame.w_T_c), cloud.points), FOCAL, ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    )
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
