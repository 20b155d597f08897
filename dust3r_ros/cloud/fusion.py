"""The map's cloud: fused from all keyframes, without points that others see through or none confirms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.cloud.cloud import Cloud, concatenate, keyframe_cloud, thin
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.depths import depth_edges, reprojected
from dust3r_ros.geometry.pinhole import Pinhole, center_of, rays
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Array32, Keyframe

_MIN_OVERLAP = 0.3
_INFORMATIVE_DEG = 2.0  # angle between two views of a point above which the second adds information
_GRID = 8  # sample points along the short edge


def overlapping(keyframe: Keyframe, keyframes: Sequence[Keyframe], count: int) -> list[Keyframe]:
    """The ``count`` keyframes that say most about the surfaces ``keyframe`` sees, best first.

    The score is the share of a grid of its points that falls into the other's image, times 1 - exp(-(angle /
    2 degrees)^2) for the median angle at which both see them; a share below 30 % is no overlap. Occlusion is
    ignored. Ties keep the given order; a keyframe without depth has no neighbours.
    """
    points = _samples(keyframe)
    others = [other for other in keyframes if other.index != keyframe.index]
    if not len(points) or not others:
        return []
    c_T_w = invert(np.stack([other.w_T_c for other in others]))
    local = np.einsum("nij,pj->npi", c_T_w[:, :3, :3], points) + c_T_w[:, None, :3, 3]
    half = np.array([[other.depth.shape[1], other.depth.shape[0]] for other in others]) / 2.0
    focal = np.array([other.focal for other in others])
    # Compared before dividing by z, which may be 0
    bound = local[..., 2:] * (half / focal[:, None])[:, None, :]
    share = (np.abs(local[..., :2]) < bound).all(axis=-1).mean(axis=1)
    centers = np.stack([other.w_T_c[:3, 3] for other in others])
    angle = _median_angle_deg(points - keyframe.w_T_c[:3, 3], points - centers[:, None])
    score = share * (1.0 - np.exp(-((angle / _INFORMATIVE_DEG) ** 2)))
    order = np.argsort(-score, kind="stable")
    return [others[i] for i in order[share[order] >= _MIN_OVERLAP][:count]]


def _samples(keyframe: Keyframe) -> Array:
    """(P, 3) points in the map of a grid of pixels with depth."""
    height, width = keyframe.depth.shape
    step = max(1, min(height, width) // _GRID)
    v, u = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    z = keyframe.depth[v, u].astype(np.float64)
    known = np.isfinite(z) & (z > 0)
    pixels = np.stack([u[known], v[known]], axis=-1).astype(np.float64)
    return transform(keyframe.w_T_c, rays(pixels, keyframe.focal, center_of(height, width)) * z[known][:, None])


def _median_angle_deg(a: Array, b: Array) -> Array:
    """(N,) median over points of the angle between rays a (P, 3) and b (N, P, 3)."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = np.einsum("pj,npj->np", a, b) / np.maximum(lengths, 1e-12)
    return np.degrees(np.arccos(np.clip(np.median(cosine, axis=1), -1.0, 1.0)))


NEIGHBOURS = 12
_TOLERANCE = 0.05  # of depth: closer points are the same surface
_CONFIRMATIONS = 2  # one alone may be the other half of the very pair that was wrong
_THROUGH = 2
_EDGE = 0.15  # of depth, over a pixel
_CANDIDATE = 0.3  # of the final confidence wanted: other keyframes may add the rest
_BLOCK = 4_000_000  # points held before they are merged into cubes


@dataclass(frozen=True, eq=False)
class _Agreement:
    """Depth (H, W) that is kept (0 = none), the summed gain (C - 1) of all views there, how many confirm it."""

    depth: Array32
    gain: Array32
    confirmed: NDArray[np.int16]


def fuse_map(
    keyframes: Sequence[Keyframe],
    voxel: float | None = None,
    min_confidence: float = 1.5,
    edges: bool = True,
) -> Cloud:
    """The cloud of all keyframes, each first reconciled with its neighbours (see ``agreed``).

    One point per cube of edge ``voxel``, map units: mean of position and colour weighted by C - 1. None
    takes the median size of a pixel at its depth, 0 keeps all points. Each keyframe is compared with
    ``NEIGHBOURS`` others, so the time per keyframe hardly grows with the map (finding them takes
    15 ms among 1000). Confidence is summed over keyframes, each counted once, and always above
    ``min_confidence``. Deterministic. Raises ``GeometryError`` for a voxel that is negative or not finite.
    """
    size = pixel_size(keyframes) if voxel is None else voxel
    if not (np.isfinite(size) and size >= 0):
        raise GeometryError(f"voxel is {voxel}; it must be 0 or a positive length in map units")
    waiting: list[Cloud] = []
    for keyframe in keyframes:
        others = overlapping(keyframe, keyframes, NEIGHBOURS)
        found = _agreement(keyframe, others, min_confidence, edges)
        # In cubes every confirmation is a point of its own; together they must count once.
        gain = found.gain / (1 + found.confirmed) if size else found.gain
        waiting.append(keyframe_cloud(replace(keyframe, depth=found.depth, confidence=(1 + gain).astype(np.float32))))
        if size and sum(map(len, waiting)) > _BLOCK:
            waiting = [thin(concatenate(waiting), size)]
    cloud = concatenate(waiting)
    if size:
        cloud = thin(cloud, size)
    least = np.nextafter(np.float32(min_confidence), np.float32(np.inf))  # all passed this before division
    return replace(cloud, confidence=np.maximum(cloud.confidence, least))


def agreed(
    keyframe: Keyframe,
    others: Sequence[Keyframe],
    min_confidence: float = 1.5,
    *,
    see_through: bool = True,
    edges: bool = True,
) -> Keyframe:
    """The keyframe with the depth that ``others`` (see ``overlapping``) support, 0 elsewhere.

    Every point is projected into the others' depth. Depths less than 5 % apart confirm each other: the
    depth becomes the mean of the logs, weighted by C - 1, and confidences add up. A point is removed if

    - the summed confidence is not above ``min_confidence``;
    - fewer than two others confirm it although two or more have depth above ``min_confidence`` where it
      would be seen;
    - ``see_through``: two or more others see through it to something behind, and fewer confirm it;
    - ``edges``: depth jumps by 15 % within a pixel there (a mixture of foreground and background).
    """
    found = _agreement(keyframe, others, min_confidence, edges, see_through)
    return replace(keyframe, depth=found.depth, confidence=(1 + found.gain).astype(np.float32))


def pixel_size(keyframes: Sequence[Keyframe]) -> float:
    """Median over keyframes of the width of a pixel at their median depth, map units; 0 without depth."""
    sizes = []
    for keyframe in keyframes:
        known = keyframe.depth[np.isfinite(keyframe.depth) & (keyframe.depth > 0)]
        if known.size:
            sizes.append(float(np.median(known)) / keyframe.focal)
    return float(np.median(sizes)) if sizes else 0.0


def _agreement(
    keyframe: Keyframe, others: Sequence[Keyframe], min_confidence: float, edges: bool, see_through: bool = True
) -> _Agreement:
    wanted = np.float32(min_confidence - 1)
    depth, own = _candidates(keyframe, wanted, edges)
    here = Pinhole.of(keyframe.focal, depth.shape)
    gain, shift = own.copy(), np.zeros_like(own)
    confirmed, through, hidden = (np.zeros(depth.shape, np.int16) for _ in range(3))
    for other in others:
        if other.index == keyframe.index:
            continue
        its_depth, its_gain = _candidates(other, wanted, edges)
        there = Pinhole.of(other.focal, its_depth.shape)
        u, v, z = reprojected(depth, here, there, invert(other.w_T_c) @ keyframe.w_T_c)
        seen = cv2.remap(its_depth, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0.0)
        weight = cv2.remap(its_gain, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0.0)
        known = (seen > 0) & (depth > 0)
        log_ratio = np.log(np.where(known, seen, 1)) - np.log(np.where(known, z, 1))
        same = known & (np.abs(log_ratio) < _TOLERANCE)
        gain += np.where(same, weight, 0)
        shift += np.where(same, weight * log_ratio, 0)
        sure = known & (weight > wanted)
        confirmed += same
        through += sure & (log_ratio >= _TOLERANCE)
        hidden += sure & (log_ratio <= -_TOLERANCE)
    stays = (depth > 0) & (gain > wanted)
    stays &= (confirmed >= _CONFIRMATIONS) | (confirmed + through + hidden < _CONFIRMATIONS)
    if see_through:
        stays &= (through < _THROUGH) | (through <= confirmed)
    refined = depth * np.exp(shift / np.maximum(gain, np.float32(1e-9)))
    return _Agreement(
        np.where(stays, refined, 0).astype(np.float32), np.where(stays, gain, 0).astype(np.float32), confirmed
    )


def _candidates(keyframe: Keyframe, wanted: np.float32, edges: bool) -> tuple[Array32, Array32]:
    """Depth and gain (H, W) of pixels worth checking, 0 elsewhere."""
    gain = keyframe.confidence.astype(np.float32) - 1
    keep = np.isfinite(keyframe.depth) & (keyframe.depth > 0) & np.isfinite(gain) & (gain > _CANDIDATE * wanted)
    if edges:
        keep &= ~depth_edges(keyframe.depth, _EDGE)
    return np.where(keep, keyframe.depth, 0).astype(np.float32), np.where(keep, gain, 0).astype(np.float32)
