"""Which keyframes look at the same place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.geometry.pinhole import center_of, rays
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Keyframe

_MIN_OVERLAP = 0.3
_TELLING_DEG = 2.0  # angle between two views of a point from which on the second tells something new
_GRID = 8  # sample points along the short edge


def overlapping(keyframe: Keyframe, keyframes: Sequence[Keyframe], count: int) -> list[Keyframe]:
    """The ``count`` keyframes that tell most about the surfaces ``keyframe`` sees, best first.

    The order is by the share of a grid of its points that falls into the other's image, times 1 - exp(-(angle /
    2 degrees)^2) of the median angle at which both see them; less than 30 % is no overlap. What
    hides between is not asked for. Equal ones come in the order given; none for a keyframe without depth.
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
    score = share * (1.0 - np.exp(-((angle / _TELLING_DEG) ** 2)))
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
