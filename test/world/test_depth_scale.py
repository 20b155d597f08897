"""The unit of a map by measured depth: images and points, with holes, noise, outliers and a lens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dust3r_ros.types import Array, Camera, Frame, Keyframe
from dust3r_ros.world.depth_scale import SAMPLES, DepthRatio, depth_ratio, depth_samples, depth_scale, network_ratio

SCALE = 1.7  # metres per unit
WIDTH, HEIGHT, FOCAL = 320, 240, 260.0
CAMERA = Camera("camera", 2 * WIDTH, 2 * HEIGHT, 2 * FOCAL, focal_std=2.0)
BENT = Camera(
    "camera",
    2 * WIDTH,
    2 * HEIGHT,
    2 * FOCAL,
    2.0,
    principal_offset=(14.0, -9.0),
    distortion=(-0.25, 0.06, 0.0, 0.0, 0.0),
)


def surface(x: Array, y: Array) -> Array:
    """Metres along z of a slanted wall with a step in it, by x / z and y / z."""
    return np.where(x > 0.2, 4.0, 2.0 + 1.5 * x + 0.8 * y)


def keyframe(rng: np.random.Generator, noise: float = 0.02, index: int = 0) -> Keyframe:
    """What the map knows of the wall: in its unit, with noise and where it is confident."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    x, y = (u - (WIDTH - 1) / 2) / FOCAL, (v - (HEIGHT - 1) / 2) / FOCAL
    depth = surface(x, y) / SCALE * np.exp(noise * rng.normal(size=x.shape))
    known = rng.random(x.shape) < 0.7
    confidence = np.where(known, rng.uniform(1.5, 8.0, x.shape), 1.0)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return Keyframe(
        index,
        0,
        index,
        "camera",
        np.eye(4),
        FOCAL,
        image,
        np.where(known, depth, 0).astype(np.float32),
        confidence.astype(np.float32),
    )


def image_depth(camera: Camera, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Array:
    """What a sensor with this lens measures of the wall, (h, w) metres."""
    height, width = size
    v, u = np.mgrid[:height, :width]
    raw = (np.stack([u, v], axis=-1) + 0.5) * [camera.width / width, camera.height / height] - 0.5
    seen = (raw - camera.center) / camera.focal
    ideal = seen.copy()
    k1, k2, _, _, k3 = camera.distortion or (0.0,) * 5
    for _ in range(50):
        square = np.sum(ideal**2, axis=-1, keepdims=True)
        ideal = seen / (1 + square * (k1 + square * (k2 + square * k3)))
    return surface(ideal[..., 0], ideal[..., 1])


def frame(depth: Array | None = None, points: Array | None = None) -> Frame:
    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    parts = [None if part is None else part.astype(np.float32) for part in (depth, points)]
    return Frame(0, "camera", image, depth=parts[0], points=parts[1])


def log_error(given: Frame, camera: Camera = CAMERA, seed: int = 0) -> float:
    samples = depth_samples(given)
    assert samples is not None
    ratio = depth_ratio(samples, keyframe(np.random.default_rng(seed)), camera)
    assert ratio is not None and 0.01 < ratio.std < 0.1
    return ratio.log - math.log(SCALE)


@pytest.mark.parametrize("camera", [CAMERA, BENT])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (121, 160), (480, 640)])
def test_a_depth_image_through_the_lens(camera: Camera, size: tuple[int, int]) -> None:
    assert abs(log_error(frame(image_depth(camera, size)), camera)) < 0.005


def test_the_lens_matters() -> None:
    """Guards the test above: the bent image read as if it were not is further off."""
    assert abs(log_error(frame(image_depth(BENT)), CAMERA)) > 0.01


@pytest.mark.parametrize("nothing", [0.0, np.nan, np.inf, -1.0])
def test_sparse_depth_with_holes_and_outliers(nothing: float) -> None:
    rng = np.random.default_rng(1)
    depth = image_depth(CAMERA)
    depth *= 1 + 0.02 * rng.normal(size=depth.shape)
    wrong = rng.random(depth.shape) < 0.15
    depth[wrong] = rng.uniform(0.3, 8.0, np.count_nonzero(wrong))
    depth[rng.random(depth.shape) > 0.003] = nothing
    assert 100 < np.count_nonzero(depth > 0) < 400 or nothing == np.inf
    assert abs(log_error(frame(depth))) < 0.02


def test_points_need_no_lens() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-1.5, 1.5, (2, 3000))  # most of them beside the image
    z = surface(x, y)
    points = np.stack([x * z, y * z, z], axis=1)
    points[::10] *= -1.0  # behind
    points[1::10] = np.nan
    for camera in (CAMERA, BENT):
        assert abs(log_error(frame(points=points), camera)) < 0.01


def test_too_little_is_nothing() -> None:
    assert depth_samples(frame()) is None
    assert depth_samples(frame(np.zeros((HEIGHT, WIDTH)))) is None
    assert depth_samples(frame(points=np.zeros((0, 3)))) is None
    assert depth_samples(frame(points=np.full((50, 3), np.nan))) is None
    few = np.zeros((HEIGHT, WIDTH))
    few[10, :11] = 2.0
    assert depth_samples(frame(few)) is None
    beside = frame(points=np.tile([20.0, 0.0, 3.0], (50, 1)))
    samples = depth_samples(beside)
    assert samples is not None
    assert depth_ratio(samples, keyframe(np.random.default_rng(0)), CAMERA) is None


def test_samples_are_few_spread_and_always_the_same() -> None:
    depth = image_depth(CAMERA, (480, 640))
    one, other = depth_samples(frame(depth)), depth_samples(frame(depth))
    assert one is not None and other is not None and len(one.depth) == SAMPLES
    np.testing.assert_array_equal(one.at, other.at)
    assert np.ptp(one.at, axis=0).min() > 0.9
    assert len(np.unique(np.round(one.at[:, 0] * 640))) > 150, "no pattern of columns"


def test_keyframes_together() -> None:
    rng = np.random.default_rng(3)
    ratios = {k: DepthRatio(math.log(SCALE) + 0.03 * rng.normal(), 0.03, 0.0) for k in range(40)}
    found = depth_scale(ratios)
    assert found is not None and found.doubt == ""
    assert abs(math.log(found.scale / SCALE)) < 3 * found.relative_std < 0.05
    for k in range(14):
        ratios[k] = DepthRatio(math.log(0.5 * SCALE), 0.03, 0.0)
    spoilt = depth_scale(ratios)
    assert spoilt is not None and "14 of 40" in spoilt.doubt
    assert abs(math.log(spoilt.scale / SCALE)) < 3 * spoilt.relative_std
    assert depth_scale({0: ratios[0], 1: ratios[1]}) is None


def test_an_unsure_focal_makes_the_scale_unsure() -> None:
    samples = depth_samples(frame(image_depth(CAMERA)))
    assert samples is not None
    stds = []
    for camera in (CAMERA, Camera("camera", 640, 480, 520.0, 40.0), Camera("camera", 640, 480, 520.0, fixed=True)):
        ratios = {k: depth_ratio(samples, keyframe(np.random.default_rng(k)), camera) for k in range(12)}
        found = depth_scale({k: ratio for k, ratio in ratios.items() if ratio is not None})
        assert found is not None
        stds.append(found.relative_std)
    assert stds[1] > 0.035 > 0.02 > stds[0] > stds[2]


def test_a_network_knows_the_unit_less_well_than_a_sensor() -> None:
    """However many keyframes it sees: their errors are the same."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    metres = surface((u - (WIDTH - 1) / 2) / FOCAL, (v - (HEIGHT - 1) / 2) / FOCAL).astype(np.float32)
    metres[:, :100] = 0  # there is sky
    ratios = {}
    for k in range(30):
        ratio = network_ratio(metres, keyframe(np.random.default_rng(k)), CAMERA)
        assert ratio is not None and abs(ratio.log - math.log(SCALE)) < 0.01
        ratios[k] = ratio
    sensor, network = depth_scale(ratios), depth_scale(ratios, "network")
    assert sensor is not None and network is not None
    assert (sensor.source, network.source, sensor.scale) == ("depth", "network", network.scale)
    assert sensor.relative_std < 0.03 and 0.15 < network.relative_std < 0.16
    assert network_ratio(np.zeros_like(metres), keyframe(np.random.default_rng(0)), CAMERA) is None
