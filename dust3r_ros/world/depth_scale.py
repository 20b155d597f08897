"""A map's unit of length from measured depth, at pixels whose depth the map knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.lens import ray_slopes
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.types import Array, Array32, Camera, Frame, Keyframe
from dust3r_ros.world.evidence import ScaleEvidence, block_std, weighted_median

SAMPLES = 256  # of a keyframe
_FEWEST_SAMPLES = 12  # whose depth the map knows
_FEWEST_KEYFRAMES = 3
_KEYFRAME_STD = 0.02  # relative error that all depth of one keyframe may share
_INDEPENDENT = 25.0  # most measurements in one keyframe: neighbouring pixels share errors
_OWN_STD = 0.01  # relative error of a depth sensor's own unit, or of dense depth as a whole
_NETWORK_STD = 0.15  # relative error of a network's metres, common to all views of a place (assumed, not measured)
_FOCAL_SHARE = 0.5  # of a relative error of the focal length becomes one of depth against poses, as real sequences show
_SOURCES = {"depth": ("measured", _OWN_STD), "network": ("the network's", _NETWORK_STD)}
_OUTLIER = 3.0  # standard deviations beyond which a keyframe is left out


@dataclass(frozen=True, eq=False)
class DepthSamples:
    """Measured depth of one frame: ``depth`` (N,) metres along z, at places ``at``.

    ``at`` (N, 2): position in the image, with width and height 1; or x / z and y / z if ``rays``.
    """

    at: Array32
    depth: Array32
    rays: bool


@dataclass(frozen=True)
class DepthRatio:
    """Log of metres per map unit from one keyframe, its ``std``, and ``common``: the error shared within its camera."""

    log: float
    std: float
    common: float


def depth_samples(frame: Frame) -> DepthSamples | None:
    """At most 256 measurements, spread over all of the frame's; None if it has none."""
    parts = []
    if frame.depth is not None and frame.depth.ndim == 2:
        parts.append(_of_image(frame.depth))
    if frame.points is not None and frame.points.ndim == 2 and frame.points.shape[1] == 3:
        parts.append(_of_points(frame.points))
    # Measurements of one kind suffice: the more numerous
    best = max(parts, key=lambda part: len(part.depth), default=None)
    return best if best is not None and len(best.depth) >= _FEWEST_SAMPLES else None


def _of_image(depth: Array32) -> DepthSamples:
    flat = depth.ravel()
    with np.errstate(invalid="ignore"):
        known = np.flatnonzero((flat > 0) & (flat < np.inf))
    known = _spread(known)
    rows, columns = np.divmod(known, depth.shape[1])
    at = (np.stack([columns, rows], axis=1) + 0.5) / [depth.shape[1], depth.shape[0]]
    return DepthSamples(at.astype(np.float32), flat[known].astype(np.float32), False)


def _of_points(points: Array32) -> DepthSamples:
    with np.errstate(invalid="ignore"):
        known = np.flatnonzero(np.isfinite(points).all(axis=1) & (points[:, 2] > 0))
        steep = np.abs(points[known, :2]).max(axis=1) > 10.0 * points[known, 2] if len(known) else np.zeros(0, bool)
    chosen = points[_spread(known[~steep])]
    return DepthSamples((chosen[:, :2] / chosen[:, 2:]).astype(np.float32), chosen[:, 2].astype(np.float32), True)


def _spread(indices: np.ndarray) -> np.ndarray:
    """At most 256 of ``indices`` (M,), always the same ones, without a pattern that could align with walls."""
    if len(indices) <= SAMPLES:
        return indices
    return np.sort(np.random.default_rng(len(indices)).choice(indices, SAMPLES, replace=False))


def depth_ratio(samples: DepthSamples, keyframe: Keyframe, camera: Camera) -> DepthRatio | None:
    """The ratio of a keyframe's samples to its current depth; None if they share too few pixels.

    The median of log ratios, each weighted by the map's confidence in its depth.
    """
    height, width = keyframe.depth.shape
    pixels = np.round(_rays(samples, camera) * keyframe.focal + center_of(height, width))
    with np.errstate(invalid="ignore"):
        inside = np.all((pixels >= 0) & (pixels < [width, height]), axis=1)
    columns, rows = pixels[inside].astype(int).T
    return _ratio(samples.depth[inside], rows * width + columns, keyframe, camera)


def network_ratio(metres: Array32, keyframe: Keyframe, camera: Camera) -> DepthRatio | None:
    """The same from a network's depth ``metres`` (H, W) of the keyframe's image, 0 = none."""
    at = _spread(np.flatnonzero((metres > 0) & (keyframe.confidence > 1)))
    return _ratio(metres.ravel()[at], at, keyframe, camera)


def _ratio(metres: Array32, at: np.ndarray, keyframe: Keyframe, camera: Camera) -> DepthRatio | None:
    """From depths ``metres`` (N,) at pixels ``at`` (N,), flat indices."""
    depth, confidence = (part.ravel()[at].astype(np.float64) for part in (keyframe.depth, keyframe.confidence))
    known = (depth > 0) & (confidence > 1) & np.isfinite(depth)
    if np.count_nonzero(known) < _FEWEST_SAMPLES:
        return None
    logs = np.log(metres[known] / depth[known])
    weight = np.log(np.minimum(confidence[known], 100.0))
    middle = weighted_median(logs, weight)
    spread = 1.48 * weighted_median(np.abs(logs - middle), weight)
    independent = min(_INDEPENDENT, float(weight.sum()) ** 2 / float(weight @ weight))
    # An unmeasured focal is never as wrong as its infinite deviation says
    focal_std = min(camera.focal_std / camera.focal, 0.1) if not camera.fixed else 0.0
    std = math.hypot(1.25 * spread / math.sqrt(independent), _KEYFRAME_STD)
    return DepthRatio(middle, std, _FOCAL_SHARE * focal_std)


def _rays(samples: DepthSamples, camera: Camera) -> Array:
    """(N, 2) x / z and y / z of samples; positions in the image go through the lens model."""
    if samples.rays:
        return samples.at.astype(np.float64)
    raw = samples.at.astype(np.float64) * [camera.width, camera.height] - 0.5
    return ray_slopes(camera.calibration, raw)


def depth_scale(ratios: Mapping[int, DepthRatio], source: str = "depth") -> ScaleEvidence | None:
    """Metres per map unit from all keyframes, by ``source`` (a sensor, or "network"); None for fewer than 3.

    A weighted mean of logs, without keyframes beyond 3 standard deviations from the median. Its deviation
    comes from the scatter of keyframes in blocks, since neighbours share errors of depth.
    """
    if len(ratios) < _FEWEST_KEYFRAMES:
        return None
    logs, std, common = np.array([(ratios[k].log, ratios[k].std, ratios[k].common) for k in sorted(ratios)]).T
    weight = 1.0 / std**2
    middle = weighted_median(logs, weight)
    usual = max(1.48 * weighted_median(np.abs(logs - middle), weight), _KEYFRAME_STD)
    near = np.abs(logs - middle) <= _OUTLIER * np.hypot(usual, std)
    weight = near / (usual**2 + std**2)  # no keyframe counts much more than others: their scatter is included
    mean = float(weight @ logs / weight.sum())
    count = int(np.count_nonzero(near))
    scatter = block_std(weight * (logs - mean), weight)
    error = max(scatter if math.isfinite(scatter) else usual, math.sqrt(1.0 / float(weight.sum())))
    doubt, (whose, own_std) = "", _SOURCES[source]
    if count < 0.7 * len(logs):
        doubt = f"{whose} depth disagrees with the map's scale in {len(logs) - count} of {len(logs)} keyframes"
    return ScaleEvidence(source, math.exp(mean), math.hypot(error, own_std, float(np.median(common))), doubt)
