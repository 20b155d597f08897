"""The rotatable cloud of the report: thinned, packed into text, and shown by the script in turntable.html."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.products import splat
from dust3r_ros.products.preview import KEYFRAME, pyramid, time_colors
from dust3r_ros.products.splat import Surfels, surfels
from dust3r_ros.types import Array, Keyframe, StampedPose

MAX_POINTS = 125_000  # 16 characters each
_READ = 1_500_000  # candidates for them
_WAY = 6_000  # points per path
_PYRAMIDS = 120
_ASPECT = 16 / 9  # size of the picture for which the first view is chosen
# One point, in the format of the script.
_RECORD = np.dtype([("place", "<u2", 3), ("color", "u1", 3), ("level", "u1"), ("seen", "u1", 2)])
_LEVELS = 16  # sizes per octave


def turntable(
    keyframes: Sequence[Keyframe],
    trajectory: Sequence[StampedPose],
    *,
    min_confidence: float,
    landmarks: Cloud | None = None,
) -> str:
    """HTML that shows the points of ``keyframes`` above ``min_confidence``, or ``landmarks``; "" if there are none.

    At most ``MAX_POINTS``, evenly spread, the most confident in each voxel, with the path of every camera and the
    keyframes' pyramids. About 2 MB, self-contained. Without WebGL the browser shows nothing.
    """
    points = _points(keyframes, min_confidence, landmarks)
    points = points.select(np.flatnonzero(np.isfinite(points.cloud.points).all(axis=1)))
    if not len(points):
        return ""
    points = _spread(_near(points))
    path = np.array([pose.w_T_c[:3, 3] for pose in trajectory]).reshape(-1, 3)
    view = _view(points, keyframes, path)
    size = float(np.median(points.size))
    parts = {
        "cloud": points,
        "path": _way(trajectory),
        "lines": _pyramids(keyframes, 0.03 * view["distance"]),
    }
    data = {**_packed(list(parts.values()), size), "view": view, "aspect": _ASPECT}
    data["parts"] = [[kind, len(part)] for kind, part in parts.items()]
    return _template().replace("{{data}}", json.dumps(data))


@lru_cache(maxsize=1)
def _template() -> str:
    return Path(__file__).with_name("turntable.html").read_text(encoding="utf-8")


def _points(keyframes: Sequence[Keyframe], min_confidence: float, landmarks: Cloud | None) -> Surfels:
    if landmarks is not None:
        return Surfels(landmarks, np.zeros(len(landmarks)), np.zeros((len(landmarks), 3)))
    pixels = sum(keyframe.depth.size for keyframe in keyframes)
    return surfels(keyframes, min_confidence, max(1, int(np.ceil(np.sqrt(pixels / _READ)))))


def _near(points: Surfels) -> Surfels:
    """Without far outliers, because positions are quantised over the whole extent."""
    distance = np.linalg.norm(points.cloud.points - np.median(points.cloud.points, axis=0), axis=1)
    return points.select(distance <= 4.0 * np.percentile(distance, 95.0))


def _spread(points: Surfels) -> Surfels:
    """The most confident point per cube, with cubes just large enough; the point gets the size of its cube."""
    points = points.select(np.argsort(-points.cloud.confidence, kind="stable"))
    places = points.cloud.points.astype(np.float64)
    low, extent = places.min(axis=0), float(np.ptp(places, axis=0).max())
    edge = max(float(np.median(points.size)), extent / 2**16, 1e-9)
    chosen: NDArray[Any] = np.arange(len(points))
    while True:
        cells = np.floor((places - low) / edge).astype(np.int64)
        _, first = np.unique((cells[:, 0] << 40) | (cells[:, 1] << 20) | cells[:, 2], return_index=True)
        chosen = np.sort(first)
        if len(chosen) <= MAX_POINTS:
            break
        edge *= max(1.05, (len(chosen) / MAX_POINTS) ** 0.4)
    found = points.select(chosen)
    return Surfels(found.cloud, np.maximum(found.size, edge), found.ray)


def _view(points: Surfels, keyframes: Sequence[Keyframe], path: Array) -> dict[str, Any]:
    """The first view: like the picture from outside, around the middle of the map."""
    height = 900
    view = splat.outside(points, keyframes, path, round(_ASPECT * height), height)
    eye, ahead = view.w_T_c[:3, 3], view.w_T_c[:3, 2]
    distance = float(ahead @ (np.median(points.cloud.points, axis=0) - eye))
    return {
        "target": (eye + distance * ahead).tolist(),
        "distance": distance,
        "azimuth": float(np.arctan2(-ahead[1], -ahead[0])),
        "elevation": float(np.arcsin(np.clip(-ahead[2], -1.0, 1.0))),
        "fov": float(2 * np.arctan(0.5 * height / view.focal)),
    }


def _way(trajectory: Sequence[StampedPose]) -> Surfels:
    """The paths of all cameras as rows of points, dark (early) to bright (late)."""
    of_camera: defaultdict[str, list[Array]] = defaultdict(list)
    for pose in trajectory:
        of_camera[pose.camera].append(pose.w_T_c[:3, 3])
    places, colors = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
    for centers in map(np.array, of_camera.values()):
        steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        at = np.linspace(0.0, along[-1], max(2, _WAY // len(of_camera)))
        places.append(np.stack([np.interp(at, along, centers[:, axis]) for axis in range(3)], axis=1))
        colors.append(np.array(time_colors(len(at)), np.uint8))
    return _plain(np.concatenate(places), np.concatenate(colors))


def _pyramids(keyframes: Sequence[Keyframe], length: float) -> Surfels:
    """Pairs of points: the ends of the edges of the keyframes' pyramids."""
    places = [np.zeros((0, 3))]
    for keyframe in keyframes[:: 1 + len(keyframes) // _PYRAMIDS]:
        rim = pyramid(keyframe, length)
        for corner, following in zip(rim, np.roll(rim, -1, axis=0), strict=True):
            places.append(np.stack([keyframe.w_T_c[:3, 3], corner, corner, following]))
    lines = np.concatenate(places)
    return _plain(lines, np.tile(np.array(KEYFRAME, np.uint8), (len(lines), 1)))


def _plain(places: Array, colors: NDArray[np.uint8]) -> Surfels:
    """Points that are visible from every side."""
    cloud = Cloud(places.astype(np.float32), colors, np.ones(len(places), np.float32))
    return Surfels(cloud, np.zeros(len(places)), np.zeros((len(places), 3)))


def _packed(parts: Sequence[Surfels], size: float) -> dict[str, Any]:
    """``records`` of all parts (base64), and the scales of their numbers; ``size`` is a typical one."""
    places = np.concatenate([part.cloud.points for part in parts]).astype(np.float64)
    low = places.min(axis=0)
    step = max(float(np.ptp(places, axis=0).max()), 1e-9) / (2**16 - 1)
    smallest = size / 2**8
    ray = np.concatenate([part.ray for part in parts])
    records = np.zeros(len(places), _RECORD)
    records["place"] = np.rint((places - low) / step)
    records["color"] = np.concatenate([part.cloud.colors for part in parts])
    sizes = np.maximum(np.concatenate([part.size for part in parts]), smallest)
    records["level"] = np.clip(np.rint(_LEVELS * np.log2(sizes / smallest)), 0, 255)
    records["seen"][:, 0] = np.rint(np.arctan2(ray[:, 1], ray[:, 0]) % (2 * np.pi) * 255 / (2 * np.pi))
    records["seen"][:, 1] = np.rint(255 * (np.arcsin(np.clip(ray[:, 2], -1.0, 1.0)) / np.pi + 0.5))
    return {
        "records": base64.b64encode(records.tobytes()).decode("ascii"),
        "low": low.tolist(),
        "step": step,
        "smallest": smallest,
    }
