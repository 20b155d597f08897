"""Surfaces without texture: whole where what is known in and around them lies on one plane, else empty."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.alignment.plain_regions import PlainRegion, plain_regions
from dust3r_ros.geometry.depths import REFERENCE_PRECISION
from dust3r_ros.masks import Mask
from dust3r_ros.types import Array, Array32, Image

_REACH = 6  # pixels that depth runs over an outline: what is known deeper inside a region is its own
_RIM = 4  # pixels around a region that tell of it
_OUTLINE = 2  # pixels from a plain region to the middle of its outline
_LEAST_DEEP = 0.05  # of a region, deeper inside: else it is a strip, that its surroundings close
_LEAST_OWN = 0.15  # of what is deep inside, known: noise looks like that much of a surface now and then
_MOST = 2 / 3  # of what a region knows of its own, or of its outline, must lie on the plane
_HALF = 0.5  # of all that is known in and around it too: else the plane is what crosses the region or lies beside it
_FLOOR = 0.02  # no plane is more precise than this: surfaces are not flat
_BUMPS = 4.0  # to which what is not flat about a surface averages out over it
_MOST_GAIN = 10.0  # of a single pixel in a fit: neighbours share their errors
_LEAST_GAIN = 0.02
_PATCH = 49  # pixels of a flow's patch, which share their error
_SIGMAS_SQUARED = 6.0  # beyond which something is not on the plane
_TRIALS, _SAMPLE, _MOST_USED, _LEAST_USED = 100, 300, 3000, 30
_LEAST_SPREAD = 20.0  # twice the area, pixels, of triangles that say how a plane is tilted


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What is known in and around a region: ``at`` (N, 3) rows (1, x, y), ``inverse`` (N,) depth, ``own`` (N,).

    ``variance``: of the inverse depth, relative, with that of surfaces that are not flat; ``weight`` = its inverse.
    """

    at: Array
    inverse: Array
    variance: Array
    weight: Array
    own: np.ndarray

    def on(self, plane: Array) -> tuple[np.ndarray, Array]:
        """(N,) what lies on a plane (3,), and how far off it all is, relative to it."""
        said = self.at @ plane
        off = self.inverse / np.where(said > 0, said, np.nan) - 1
        return np.nan_to_num(off * off, nan=np.inf) < _SIGMAS_SQUARED * self.variance, off


def complete_planes(depth: Array32, confidence: Array32, image: Image) -> tuple[Array32, Array32, Mask]:
    """Depth (H, W), 0 = none, and confidence (H, W) >= 1 with plain regions of ``image`` (H, W, 3) completed.

    Inverse depth is affine in the pixel on a plane. One is sought for each region without texture by random triples
    of what is known in it and along its outline, then fitted. It counts if two thirds of what the region knows of
    its own, away from the outline, lie on it, and half of all that is known; or two thirds of the outline, if it knows
    nothing. So a wall or a floor takes the plane that texture on it, or all its edges, agree on (after Gallup et al.,
    "Piecewise Planar and Non-Planar Stereo", CVPR 2010), while sky, which only borders on things, takes none. Its
    confidence is that of the fit: less where it has to reach far. The third result is (H, W) where nothing can be
    known: regions without a plane, up to the outline, but for what is near to depth deep inside them. Patches that
    run over the outline are all that tells of the rest.
    """
    filled, sure, blank = depth.copy(), confidence.copy(), np.zeros(depth.shape, bool)
    rng = np.random.default_rng(0)
    for region in plain_regions(image, _REACH):
        box = region.rows, region.columns
        deep = region.depth_inside() > _REACH
        if deep.sum() < _LEAST_DEEP * region.inside.sum():
            continue
        known = (depth[box] > 0) & (confidence[box] > 1 + _LEAST_GAIN)
        inverse, gained = _completed(region, deep, known, depth[box], confidence[box], rng)
        better = region.inside & (gained > sure[box])
        filled[box] = np.where(better, 1 / np.where(better, inverse, 1), filled[box])
        sure[box] = np.where(better, gained, sure[box])
        if not (gained > 1).any():
            blank[box] |= region.grown(_OUTLINE) & ~_own(known & deep, deep)
    return np.where(blank, np.float32(0), filled), np.where(blank, np.float32(1), sure), blank


def _own(evidence: Mask, deep: Mask) -> Mask:
    """(h, w) where what is known ``deep`` inside a region tells of it, which is nowhere if hardly anything is."""
    if evidence.sum() < _LEAST_OWN * deep.sum():
        return np.zeros_like(evidence)
    return cv2.dilate(evidence.astype(np.uint8), np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)) > 0


def _completed(
    region: PlainRegion, deep: Mask, known: Mask, depth: Array32, confidence: Array32, rng: np.random.Generator
) -> tuple[Array32, Array32]:
    """Inverse depth and confidence (h, w) by the plane of a region; confidence 1 where there is none."""
    nothing = np.zeros(depth.shape, np.float32), np.ones(depth.shape, np.float32)
    rows, columns = np.nonzero(known & region.grown(_RIM))
    if len(rows) < _LEAST_USED:
        return nothing
    some = np.unique(np.linspace(0, len(rows) - 1, min(_MOST_USED, len(rows))).astype(int))
    used = rows[some], columns[some]
    gain = np.minimum(confidence[used].astype(np.float64) - 1, _MOST_GAIN)
    variance = _FLOOR**2 + REFERENCE_PRECISION**2 / gain
    at = np.stack([np.ones(len(some)), used[1], used[0]], axis=1)
    evidence = _Evidence(at, 1 / depth[used].astype(np.float64), variance, 1 / variance, deep[used])
    plane = _plane(evidence, rng)
    if plane is None:
        return nothing
    on, off = evidence.on(plane)
    if not _supported(region, deep, known, evidence, on, used):
        return nothing
    return _said(evidence, plane, on, off, len(rows) / len(some), depth.shape)


def _plane(evidence: _Evidence, rng: np.random.Generator) -> Array | None:
    """(3,) offset and tilts of inverse depth that most of the evidence agrees on; None for none."""
    some = rng.choice(len(evidence.at), min(_SAMPLE, len(evidence.at)), replace=False)
    triples = rng.integers(0, len(some), (_TRIALS, 3))
    at, inverse = evidence.at[some], evidence.inverse[some]
    triples = triples[np.abs(np.linalg.det(at[triples])) > _LEAST_SPREAD]
    if not len(triples):
        return None
    planes = np.linalg.solve(at[triples], inverse[triples][..., None])[..., 0]
    said = planes @ at.T
    off = inverse / np.where(said > 0, said, np.nan) - 1
    on = np.nan_to_num(off * off, nan=np.inf) < _SIGMAS_SQUARED * evidence.variance[some]
    plane = planes[np.argmax(on @ evidence.weight[some])]
    for _ in range(3):
        inliers, _ = evidence.on(plane)
        if inliers.sum() < _LEAST_USED:
            return None
        at, inverse = evidence.at[inliers], evidence.inverse[inliers]
        pull = at.T * (evidence.weight[inliers] / inverse**2)
        try:
            plane = np.linalg.solve(pull @ at, pull @ inverse)
        except np.linalg.LinAlgError:
            return None
    return plane


def _supported(
    region: PlainRegion, deep: Mask, known: Mask, evidence: _Evidence, on: np.ndarray, used: tuple[np.ndarray, ...]
) -> bool:
    """Whether a region's own evidence, or all around it, lies ``on`` a plane."""
    weight, own = evidence.weight, evidence.own
    if weight[on].sum() < _HALF * weight.sum():
        return False
    if (known & deep).sum() >= _LEAST_OWN * deep.sum() and weight[on & own].sum() >= _MOST * weight[own].sum():
        return True
    there = np.zeros(deep.shape, np.uint8)
    there[used[0][on], used[1][on]] = 1
    beside = cv2.dilate(there, np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8))
    closed = float(beside[region.outline()].mean())
    return closed * weight[on].sum() >= _MOST * weight.sum()


def _said(
    evidence: _Evidence, plane: Array, on: np.ndarray, off: Array, each: float, shape: tuple[int, ...]
) -> tuple[Array32, Array32]:
    """Inverse depth and confidence (h, w) by a plane through what lies ``on`` it; a piece of evidence is ``each``.

    Errors of patches average out, what is not flat less so; and both count more, the further a pixel is from what
    carries the plane (its leverage).
    """
    weight = evidence.weight[on] / evidence.weight[on].sum()
    noise = float(weight @ evidence.variance[on]) - _FLOOR**2
    residual = float(weight @ off[on] ** 2)
    middle = weight @ evidence.at[on][:, 1:]
    apart = evidence.at[on][:, 1:] - middle
    spread = np.linalg.inv((apart.T * weight) @ apart + 4 * np.eye(2))
    y, x = np.ogrid[: shape[0], : shape[1]]
    dx, dy = x - middle[0], y - middle[1]
    leverage = spread[0, 0] * dx * dx + 2 * spread[0, 1] * dx * dy + spread[1, 1] * dy * dy
    patches = max(1.0, on.sum() * each / _PATCH)
    variance = _FLOOR**2 * (1 + leverage / _BUMPS) + max(residual - noise, 0.0)
    variance = variance + min(residual, noise) * (1 + leverage) / patches
    inverse = plane[0] + plane[1] * x + plane[2] * y
    gained = np.where(inverse > 0, 1 + REFERENCE_PRECISION**2 / variance, 1)
    return inverse.astype(np.float32), gained.astype(np.float32)
