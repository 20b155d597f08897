"""Depth maps: from the pointmaps of one image or a scene; edges, reprojection, fusion, known points."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, diags_array
from scipy.sparse.csgraph import laplacian
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.pinhole import Pinhole
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, PairPrediction


def depth_edges(depth: NDArray[np.floating], tolerance: float = 0.1) -> NDArray[np.bool_]:
    """(H, W) true where depth jumps: the ratio of largest to least depth in a 3 x 3 window exceeds 1 + tolerance.

    ``depth`` (H, W), 0 or not finite = none; such pixels neither are nor cause edges.
    """
    known = np.isfinite(depth) & (depth > 0)
    kernel = np.ones((3, 3), np.uint8)
    nearest = cv2.erode(np.where(known, depth, np.inf).astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE)
    furthest = cv2.dilate(np.where(known, depth, 0.0).astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE)
    return known & (furthest > (1.0 + tolerance) * nearest)


_NOWHERE, _FARTHEST = np.float32(-9), np.float32(30_000)  # outside any image, within the 16 bits of OpenCV's remap
_LEAST_Z = np.float32(1e-6)  # of the depth at which a point was seen: less counts as behind the other camera


def reprojected(
    depth: Array32, camera: Pinhole, other: Pinhole, other_T_c: Array, at: NDArray[np.int64] | None = None
) -> tuple[Array32, Array32, Array32]:
    """Where another camera sees the points of a depth map (H, W): pixels u, v and z there, (H, W) each, float32.

    ``at`` (K,): flat indices of the pixels to map; then (K,) each. Points behind the other camera get pixels outside
    its image.
    """
    height, width = depth.shape
    (cx, cy), (ox, oy) = camera.center, other.center
    x = ((np.arange(width) - cx) / camera.focal).astype(np.float32)
    y = ((np.arange(height) - cy) / camera.focal).astype(np.float32)
    x, y, z = (x[None], y[:, None], depth) if at is None else (x[at % width], y[at // width], depth.reshape(-1)[at])
    T = other_T_c.astype(np.float32)
    px, py, pz = ((T[i, 0] * x + (T[i, 1] * y + T[i, 2])) * z + T[i, 3] for i in range(3))
    front = pz > _LEAST_Z * z
    pz = np.where(front, pz, np.float32(1))
    scale = np.float32(other.focal) / pz
    u = np.where(front, np.clip(px * scale + np.float32(ox), _NOWHERE, _FARTHEST), _NOWHERE)
    v = np.where(front, np.clip(py * scale + np.float32(oy), _NOWHERE, _FARTHEST), _NOWHERE)
    return u, v, pz


class DepthView(Protocol):
    """A depth map (H, W), 0 = none, with its camera."""

    @property
    def depth(self) -> Array32: ...

    @property
    def w_T_c(self) -> Array: ...  # noqa: N802

    @property
    def pinhole(self) -> Pinhole: ...


def landed(view: DepthView, other: DepthView, at: NDArray[np.int64]) -> tuple[np.ndarray, np.ndarray, Array32]:
    """Which of the pixels ``at`` (K,) fall into another view's image, the nearest pixels there, and their z there.

    Pixels are flat, z is float32.
    """
    other_T_c = invert(other.w_T_c) @ view.w_T_c
    u, v, z = reprojected(view.depth, view.pinhole, other.pinhole, other_T_c, at)
    height, width = other.depth.shape
    inside = (u > -0.5) & (v > -0.5) & (u < width - 0.5) & (v < height - 0.5)
    return at[inside], np.rint(v[inside]).astype(np.int64) * width + np.rint(u[inside]).astype(np.int64), z[inside]


REFERENCE_PRECISION = 0.03
"""Relative depth error at which confidence is 2: log C is then about 0.7."""


class DepthMap(NamedTuple):
    """``depth`` (H, W) float32: z in the camera, 0 = none; ``confidence`` (H, W) float32 >= 1, 1 = none."""

    depth: Array32
    confidence: Array32


class _Verdict(Protocol):
    @property
    def switched_off(self) -> bool: ...


class AlignedScene(Protocol):
    """The part of an ``alignment.Alignment`` that multi-view depth needs."""

    @property
    def depths(self) -> Sequence[Array32]: ...

    @property
    def pairs(self) -> Sequence[PairPrediction]: ...

    @property
    def edges(self) -> Sequence[_Verdict]: ...


def monocular_depth(prediction: PairPrediction) -> DepthMap:
    """Depth of one image, from the pair of the image with itself: z of the first pointmap.

    The unit is the prediction's own: monocular depth has no scale. Pixels with z <= 0, not finite or
    without confidence above 1 have no depth. Raises ``GeometryError`` if the two images differ in size and so are
    not the same. (DUSt3R, section 3.3, monocular depth.)
    """
    points, confidence = prediction.points_first, prediction.confidence_first
    if prediction.points_second.shape != points.shape:
        raise GeometryError(
            f"pair ({prediction.first}, {prediction.second}) has pointmaps of {points.shape[:2]} and "
            f"{prediction.points_second.shape[:2]} pixels; monocular depth needs the same image twice"
        )
    finite = np.isfinite(points).all(axis=-1) & np.isfinite(confidence)
    z = points[..., 2]
    keep = finite & (np.where(finite, z, 0) > 0) & (np.where(finite, confidence, 1) > 1.0)
    return DepthMap(np.where(keep, z, 0).astype(np.float32), np.where(keep, confidence, 1).astype(np.float32))


def multi_view_depth(scene: AlignedScene, view: int) -> DepthMap:
    """Depth of one view of an aligned scene, map units, with the confidence of all pairs that contain the view.

    The depth is the scene's at that view; confidence is 1 + the sum over the view's pairs of C - 1, without
    pairs that the alignment switched off. Pixels without confidence above 1 have no depth. Raises
    ``GeometryError`` for a view that is not in the scene. (DUSt3R, section 4.5, multi-view depth.)
    """
    if not 0 <= view < len(scene.depths):
        raise GeometryError(f"view {view} is not in a scene of {len(scene.depths)} views")
    depth = scene.depths[view]
    gain = np.zeros(depth.shape, np.float32)
    off = [edge.switched_off for edge in scene.edges] or [False] * len(scene.pairs)
    for pair, ignored in zip(scene.pairs, off, strict=True):
        for index, confidence in ((pair.first, pair.confidence_first), (pair.second, pair.confidence_second)):
            if index == view and not ignored:
                gain += np.where(np.isfinite(confidence), confidence - 1, 0)
    keep = np.isfinite(depth) & (depth > 0) & (gain > 0)
    return DepthMap(np.where(keep, depth, 0).astype(np.float32), np.where(keep, 1 + gain, 1).astype(np.float32))


_ROUNDS = 3
_PER_SIGMA = np.float32(1.0 / 0.05)  # estimates whose logs differ by more than a few sigmas get less weight
_TINY = np.float32(1e-12)
_BLOCK = 49152  # numbers of each kind processed at a time: they stay in the cache


def fuse_depths(depths: Sequence[Array32], confidences: Sequence[Array32]) -> tuple[Array32, Array32]:
    """Robust weighted mean of log depth: (depth (H, W), 0 where unknown; confidence (H, W) >= 1).

    ``depths`` (H, W) in one unit, ``confidences`` (H, W) >= 1, whose logarithm is the weight;
    iteratively reweighted (Cauchy), from the most confident. Confidence adds up over estimates
    that agree: 1 + sum of (C - 1) times the robust weight.
    """
    pixels, some = depths[0].size, max(_BLOCK // len(depths), 1024)
    fused, confidence = np.empty((2, *depths[0].shape), dtype=np.float32)
    rows = [(depth.reshape(-1), sure.reshape(-1)) for depth, sure in zip(depths, confidences, strict=True)]
    # Allocated once for all blocks: page faults cost more than the arithmetic.
    work = np.empty((5, len(rows), min(some, pixels)), dtype=np.float32)
    for start in range(0, pixels, some):
        part = slice(start, min(start + some, pixels))
        block = work[:, :, : part.stop - start]
        for row, (depth, sure) in enumerate(rows):
            block[0, row], block[1, row] = depth[part], sure[part]
        fused.reshape(-1)[part], confidence.reshape(-1)[part] = _fused(*block)
    return fused, confidence


def _fused(logs: Array32, gain: Array32, weight: Array32, off: Array32, pull: Array32) -> tuple[Array32, Array32]:
    """Fused depth and confidence, (P,) each, of ``logs`` and ``gain`` (K, P); all arguments are overwritten."""
    np.fmax(gain, np.float32(1.0), out=gain)
    gain -= np.float32(1.0)
    gain *= np.greater(logs, 0.0, out=off)
    np.log1p(gain, out=weight)
    np.log(np.fmax(logs, _TINY, out=logs), out=logs)
    logs *= _PER_SIGMA
    most, rounds = weight.max(axis=0), _ROUNDS if len(logs) > 1 else 0
    if LIBRARY is None:
        center, agreed = _settled(rounds, logs, gain, weight, most, off, pull)
    else:
        center, agreed = off[0], pull[0]
        size = *logs.shape, logs.strides[0] // logs.itemsize, rounds
        LIBRARY.settle_logs(
            *map(ctypes.c_long, size), *(part.ctypes for part in (logs, gain, weight, most, center, agreed))
        )
    return np.exp(center / _PER_SIGMA) * (most > 0), np.float32(1.0) + agreed


def _settled(
    rounds: int, logs: Array32, gain: Array32, weight: Array32, most: Array32, off: Array32, pull: Array32
) -> tuple[Array32, Array32]:
    """Mean log and the gain of what agrees with it, (P,) each; ``gain``, ``off`` and ``pull`` are overwritten."""
    np.equal(weight, most, out=off)
    center = np.einsum("kp,kp->p", off, logs) / off.sum(axis=0)
    for _ in range(rounds):
        np.subtract(logs, center, out=off)
        off *= off
        off += np.float32(1.0)
        np.divide(weight, off, out=pull)
        center = np.einsum("kp,kp->p", pull, logs) / np.maximum(pull.sum(axis=0), _TINY)
    if rounds:
        gain /= off
    return center, gain.sum(axis=0)


def robust_scale(reference: Array | Array32, depth: Array | Array32, weight: Array | Array32) -> float:
    """The factor that takes ``depth`` (N,) to ``reference`` (N,): weighted median of the ratio; NaN for none."""
    keep = (reference > 0) & (depth > 0) & (weight > 0)
    if not keep.any():
        return float("nan")
    logs, weight = np.log(reference[keep] / depth[keep]), weight[keep]
    order = np.argsort(logs, kind="stable")
    cumulative = np.cumsum(weight[order])
    return float(np.exp(logs[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])]))


_STEP = 8  # pixels between those at which a correction is computed
_JUMP = np.float32(0.02)  # of log depth between two of these, across which corrections differ freely
_AROUND, _OUTLIER = 16, 2.0  # nearest points by which one is judged, and its largest deviation from them
_HOLD, _LOOSE = 0.1, 1e-4  # weights of a point at equal shares of signal and noise, and of the mean where none is near
_SIGMA = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


def held_to(depth: Array32, at: Array, z: Array) -> Array32:
    """A depth map (H, W), 0 = none, changed smoothly towards points of known ``z`` (N,) at pixels ``at`` (N, 2).

    The change of log depth is the one that differs least from pixel to pixel, in the sense of least squares; where
    depth jumps, it may jump too. Points count by what neighbouring ones say alike against by how much they differ;
    those that contradict the points around them are ignored, as those outside the image and where nothing is known.
    With hardly any others, depth stays as it is.
    """
    height, width = depth.shape
    columns, rows = np.round(at).astype(np.int64).reshape(-1, 2).T
    good = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height) & (z > 0)
    good[good] = depth[rows[good], columns[good]] > 0
    if np.count_nonzero(good) <= _AROUND:
        return depth
    place, change = np.stack([rows[good], columns[good]], axis=1), np.log(z[good] / depth[rows[good], columns[good]])
    credible, hold = _credible(at[good], change)
    coarse = depth[::_STEP, ::_STEP]
    log_depth = np.log(np.where(coarse > 0, coarse, np.median(depth[depth > 0])))
    node = np.minimum(np.round(place[credible] / _STEP).astype(np.int64), np.array(log_depth.shape) - 1)
    node = np.ravel_multi_index((node[:, 0], node[:, 1]), log_depth.shape)
    weight = hold * np.bincount(node, minlength=log_depth.size) + _LOOSE
    pull = hold * np.bincount(node, change[credible], log_depth.size) + _LOOSE * np.median(change)
    field = splu((_smoothness(log_depth) + diags_array(weight)).tocsc()).solve(pull).reshape(log_depth.shape)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) / _STEP, np.arange(height, dtype=np.float32) / _STEP)
    return depth * np.exp(cv2.remap(field.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _credible(at: Array, change: Array) -> tuple[NDArray[np.bool_], float]:
    """(N,) which changes of points ``at`` (N, 2) agree with those around them, and the weight of one."""
    around = cKDTree(at).query(at, _AROUND + 1)[1][:, 1:]
    off = np.abs(change - np.median(change[around], axis=1))
    noise = _SIGMA * float(np.median(off)) + 1e-6
    spread = _SIGMA * float(np.median(np.abs(change - np.median(change))))
    return off < _OUTLIER * noise, _HOLD * max((spread / noise) ** 2 - 1.0, 0.0)


def _smoothness(log_depth: Array32) -> csc_array:
    """(P, P) Laplacian of neighbouring pixels, each pair of them weighted by how alike their depths are."""
    number = np.arange(log_depth.size).reshape(log_depth.shape)
    first = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    second = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    jump = (log_depth.ravel()[first] - log_depth.ravel()[second]) / _JUMP
    alike = coo_array((1.0 / (1.0 + jump**2), (first, second)), shape=(log_depth.size, log_depth.size))
    return laplacian((alike + alike.T).tocsc())
