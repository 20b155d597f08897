"""A map's cloud against that of the true depth of its keyframes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dust3r_ros.cloud.cloud import Cloud, keyframe_cloud, thin
from dust3r_ros.cloud.fusion import fuse_map
from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.depth import resample
from dust3r_ros.evaluation.protocols.clouds import distances
from dust3r_ros.evaluation.run import SceneRun, keyframe_depth
from dust3r_ros.types import Array, Array32, Keyframe

_CUBES = 300  # per extent of the scene: finer is not judged, and dense places do not count more than others
_ASKED = 20_000  # points whose nearest is looked for: enough for quantiles, and far ones take long
_TOLERANCE_NS = 10_000_000


def cloud_figures(run: SceneRun) -> Mapping[str, float | None]:
    """``accuracy``, ``completeness`` (medians) and ``*_90`` (90 % quantiles) in percent of ``extent``, the diagonal of
    the true cloud's box (unit of the truth). Empty where a scene has no depth or a map no points.

    Both clouds are thinned to one point per cube. The map's is moved by the trajectory's Sim3 alone: a cloud is as
    good as its poses. True depth is that of the keyframes' pixels, at the true poses.
    """
    if run.errors is None or not run.mapper.keyframes:
        return {}
    truth = true_cloud(run)
    found = fuse_map(run.mapper.keyframes, min_confidence=run.config.min_confidence)
    if truth is None or not len(found):
        return {}
    extent = extent_of(truth.points.astype(np.float64))
    true_points = thin(truth, extent / _CUBES).points.astype(np.float64)
    moved = run.errors.to_truth(found.points.astype(np.float64)).astype(np.float32)
    points = thin(Cloud(moved, found.colors, found.confidence), extent / _CUBES).points.astype(np.float64)
    percent = 100.0 / extent
    to_truth = percent * distances(_some(points), true_points)
    to_map = percent * distances(_some(true_points), points)
    return {
        "accuracy": float(np.median(to_truth)),
        "accuracy_90": float(np.quantile(to_truth, 0.9)),
        "completeness": float(np.median(to_map)),
        "completeness_90": float(np.quantile(to_map, 0.9)),
        "extent": extent,
    }


def _some(points: Array) -> Array:
    """At most ``_ASKED`` of the points (N, 3), the same every time."""
    if len(points) <= _ASKED:
        return points
    return points[np.random.default_rng(0).choice(len(points), _ASKED, replace=False)]


def covered(run: SceneRun) -> float | None:
    """Percent of the keyframes' pixels with true depth that have depth in the map; None where there is no truth.

    Unlike the share of all pixels, this does not ask for points in the sky.
    """
    shares = []
    for keyframe in run.mapper.keyframes:
        native = run.scene.depth(keyframe.stamp_ns)
        true = None if native is None else resample(native, keyframe, run.mapper.cameras[keyframe.camera]) > 0
        if true is not None and true.any():
            shares.append(np.mean(keyframe_depth(keyframe, run.config.min_confidence)[true] > 0))
    return 100.0 * float(np.mean(shares)) if shares else None


def true_cloud(run: SceneRun) -> Cloud | None:
    """What the keyframes truly saw, in the truth's world; None where there is no true depth."""
    clouds = []
    poses = {pose.stamp_ns: pose.w_T_c for pose in run.scene.truth}
    stamps = np.array(sorted(poses))
    for keyframe in run.mapper.keyframes:
        nearest = int(stamps[np.argmin(np.abs(stamps - keyframe.stamp_ns))])
        native = run.scene.depth(keyframe.stamp_ns)
        if native is None or abs(nearest - keyframe.stamp_ns) > _TOLERANCE_NS:
            continue
        clouds.append(_seen(run, keyframe, native, poses[nearest]))
    if not sum(map(len, clouds)):
        return None
    return Cloud(
        np.concatenate([cloud.points for cloud in clouds]),
        np.concatenate([cloud.colors for cloud in clouds]),
        np.concatenate([cloud.confidence for cloud in clouds]),
    )


def _seen(run: SceneRun, keyframe: Keyframe, native: Array32, w_T_c: Array) -> Cloud:
    """True depth along the true rays of the keyframe's pixels: of the true focal, not of the estimated one."""
    camera = run.mapper.cameras[keyframe.camera]
    depth = resample(native, keyframe, camera)
    focal = keyframe.focal * run.scene.focal / run.scene.width * camera.width / camera.focal
    true = replace(keyframe, w_T_c=w_T_c, focal=focal, depth=depth, confidence=np.where(depth > 0, 2.0, 1.0))
    return keyframe_cloud(true, 1.0, stride=2)


def extent_of(points: Array) -> float:
    """Diagonal of the box that holds all but 1 % of the points (N, 3) at each end of each axis."""
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    extent = float(np.linalg.norm(high - low))
    if not extent > 0:
        raise GeometryError(f"a true cloud of {len(points)} points has no extent")
    return extent
