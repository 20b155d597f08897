"""The cloud of the report: what is packed is the map, thinned evenly, in a page that stays small."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree
from true_map import room_walk, true_keyframes

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.products import report as module
from dust3r_ros.products.report import turntable
from dust3r_ros.products.splat import surfels
from dust3r_ros.types import Keyframe, StampedPose

RECORD = np.dtype([("place", "<u2", 3), ("color", "u1", 3), ("level", "u1"), ("seen", "u1", 2)])


@pytest.fixture(scope="module")
def keyframes() -> list[Keyframe]:
    return true_keyframes(room_walk())


@pytest.fixture(scope="module")
def trajectory(keyframes: list[Keyframe]) -> list[StampedPose]:
    return [StampedPose(k.stamp_ns, k.camera, k.w_T_c) for k in keyframes]


def data_of(page: str) -> dict[str, Any]:
    """What the script reads."""
    return json.loads(re.findall(r'<script type="application/json" id="cloud-data">(.*?)</script>', page, re.S)[0])


def unpacked(page: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Places in the map and records, by part."""
    data = data_of(page)
    records = np.frombuffer(base64.b64decode(data["records"]), RECORD)
    found, start = {}, 0
    for kind, count in data["parts"]:
        part = records[start : start + count]
        found[kind] = np.array(data["low"]) + data["step"] * part["place"], part
        start += count
    assert start == len(records)
    return found


def test_the_points_are_the_maps(keyframes, trajectory) -> None:
    page = turntable(keyframes, trajectory, min_confidence=1.5)
    places, records = unpacked(page)["cloud"]
    truth = surfels(keyframes, 1.5)
    distance, nearest = cKDTree(truth.cloud.points).query(places)
    step = data_of(page)["step"]
    assert distance.max() < step
    assert np.median(np.abs(truth.cloud.colors[nearest].astype(int) - records["color"])) == 0
    azimuth, elevation = records["seen"][:, 0] / 255 * 2 * np.pi, (records["seen"][:, 1] / 255 - 0.5) * np.pi
    ray = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1)
    near = distance < 0.3 * step  # elsewhere another point may be as near
    assert np.median(np.einsum("ij,ij->i", ray, truth.ray[nearest])[near]) > np.cos(np.radians(2))
    size = data_of(page)["smallest"] * 2.0 ** (records["level"] / 16)
    assert np.median(size) == pytest.approx(np.median(truth.size), rel=0.5)


def test_many_points_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch, keyframes, trajectory) -> None:
    monkeypatch.setattr(module, "MAX_POINTS", 3000)
    places, records = unpacked(turntable(keyframes, trajectory, min_confidence=1.5))["cloud"]
    assert 1500 < len(places) <= 3000
    apart = cKDTree(places).query(places, k=2)[0][:, 1]
    whole = surfels(keyframes, 1.5).cloud.points
    covered = cKDTree(places).query(whole)[0]
    assert covered.max() < 12 * np.median(apart)  # no place is left empty
    assert np.percentile(records["level"], 5) > 0


def test_of_each_place_the_most_confident_point_stays(monkeypatch: pytest.MonkeyPatch, keyframes) -> None:
    monkeypatch.setattr(module, "MAX_POINTS", 400)
    sure = [replace(k, image=np.full_like(k.image, 200), confidence=k.confidence + 1) for k in keyframes[:3]]
    unsure = [replace(k, image=np.full_like(k.image, 20)) for k in keyframes[:3]]
    _, records = unpacked(turntable(unsure + sure, [], min_confidence=1.5))["cloud"]
    assert (records["color"] == 200).mean() > 0.95


def test_what_lies_far_outside_does_not_make_the_rest_coarse(keyframes, trajectory) -> None:
    depth = keyframes[0].depth.copy()
    depth[0, :3] = 1e5
    depth[1, 1] = np.nan
    page = turntable([replace(keyframes[0], depth=depth), *keyframes[1:]], trajectory, min_confidence=1.5)
    assert data_of(page)["step"] * 65535 < 50


def test_paths_of_all_cameras_and_pyramids_of_keyframes_are_there(keyframes, trajectory) -> None:
    up = np.eye(4)
    up[2, 3] = 2.0
    rear = [replace(pose, camera="rear", w_T_c=up @ pose.w_T_c) for pose in trajectory]
    page = turntable(keyframes, [*trajectory, *rear], min_confidence=1.5)
    parts = unpacked(page)
    step = data_of(page)["step"]
    centers = np.array([pose.w_T_c[:3, 3] for pose in [*trajectory, *rear]])
    path = cKDTree(parts["path"][0])
    assert path.query(centers)[0].max() < 0.01
    between = 0.5 * (trajectory[3].w_T_c[:3, 3] + trajectory[4].w_T_c[:3, 3])
    assert path.query(between)[0] < 0.01
    assert parts["path"][0][:, 2].max() > centers[: len(trajectory), 2].max() + 1.9
    lines = parts["lines"][0].reshape(-1, 2, 3)
    assert len(lines) == 8 * len(keyframes)
    assert np.allclose(lines[::2, 0].reshape(-1, 4, 3)[:, 0], centers[: len(keyframes)], atol=step)


def test_landmarks_take_the_place_of_depth(keyframes, trajectory) -> None:
    blind = [replace(k, depth=np.zeros_like(k.depth)) for k in keyframes]
    cloud = Cloud(
        np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), np.full((50, 3), 7, np.uint8), np.ones(50)
    )
    assert turntable(blind, trajectory, min_confidence=1.5) == ""
    places, records = unpacked(turntable(blind, trajectory, min_confidence=1.5, landmarks=cloud))["cloud"]
    assert len(places) == 50 and (records["color"] == 7).all()


def test_an_empty_map_has_no_cloud() -> None:
    assert turntable([], [], min_confidence=1.5) == ""


def test_one_point_is_a_cloud(keyframes) -> None:
    depth = np.zeros_like(keyframes[0].depth)
    depth[5, 7] = 2.0
    page = turntable([replace(keyframes[0], depth=depth)], [], min_confidence=1.5)
    view = data_of(page)["view"]
    assert len(unpacked(page)["cloud"][0]) == 1
    assert all(np.isfinite(value).all() for value in view.values()) and view["distance"] > 0
