"""Alignment problems with a known answer: views of a rendered room and what a network might say of their pairs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
from kept import kept
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment.objective import Alignment
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, project, rays
from dust3r_ros.geometry.rigid import angle_deg, invert, transform
from dust3r_ros.geometry.similarity import Similarity, weighted_similarity
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence
from dust3r_ros.types import Array, Array32, PairPrediction

SIZES = {(6, 160), (10, 160), (16, 160), (24, 160), (10, 512)}  # images and width of the usual problems

_BEND = 0.035  # relative depth error, smooth over a quarter of the image
_GRAIN = 0.012  # relative depth error of a pixel at median depth
_RAY = 0.006  # sideways error, smooth, relative to depth
_TURN_DEG, _STRETCH, _SHIFT = 1.0, 0.02, 0.01  # of the second view against the first; shift relative to depth
_HIDDEN = 2.0  # how much larger the errors are where the other image does not see the pixel's point


@dataclass(frozen=True, eq=False)
class PairProblem:
    """``pairs`` of N images; the truth: ``w_T_c`` (N, 4, 4), ``focal`` pixels, ``depths`` (N, H, W) metres,
    ``units`` (E,): the length of a metre in each pair.
    """

    pairs: list[PairPrediction]
    w_T_c: Array
    focal: float
    depths: Array32
    units: Array


@dataclass(frozen=True)
class Errors:
    """``ate`` metres, root mean square; ``rotation_deg`` mean, after the best common rotation; ``focal`` and
    ``depth`` mean, relative.
    """

    ate: float
    rotation_deg: float
    focal: float
    depth: float


def pair_problem(
    images: int = 6, width: int = 160, height: int | None = None, *, noise: float = 1.0, seed: int = 0
) -> PairProblem:
    """All ordered pairs of ``images`` views on a walk around the table of a room, in an order like any other.

    A prediction is the truth times a unit of its own, bent by a smooth field, grainy, worse in the
    distance and where only one of both images sees; the second view is turned and stretched
    against the first. Confidence falls with all of that. ``noise`` scales the errors. The same
    arguments give the same problem.
    """
    walk = _walk(images, width, height or 3 * width // 4, seed)
    order = np.random.default_rng([seed, images]).permutation(images)
    w_T_c, depths = walk.w_T_c[order], walk.depths[order]
    local = [_unprojected(depth, walk.focal) for depth in depths]
    pairs, units = [], []
    for first, second in permutations(range(images), 2):
        rng = np.random.default_rng([seed, first, second])
        units.append(float(np.exp(rng.uniform(-0.8, 0.8))))
        seen = [_seen(local[a], invert(w_T_c[b]) @ w_T_c[a], depths[b], walk.focal) for a, b in _both(first, second)]
        X1, C1 = _predicted(local[first], seen[0], noise, rng)
        X2, C2 = _predicted(local[second], seen[1], noise, rng)
        X2 = _misplaced(invert(w_T_c[first]) @ w_T_c[second], float(np.median(depths[second])), noise, rng).apply(X2)
        X1, X2 = (np.float32(units[-1]) * X.astype(np.float32) for X in (X1, X2))
        pairs.append(PairPrediction(first, second, X1, C1, X2, C2))
    return PairProblem(pairs, w_T_c, walk.focal, depths, np.array(units))


@kept
def _walk(images: int, width: int, height: int, seed: int) -> RenderedSequence:
    return render_sequence("orbit", images, width, height, laps=min(0.9, 0.03 * images), seed=seed, supersample=1)


def errors(result: Alignment, problem: PairProblem) -> Errors:
    """How far a result is from the truth, after the similarity that brings the camera centres together."""
    found, true = result.w_T_c, problem.w_T_c
    S = weighted_similarity(found[:, :3, 3], true[:, :3, 3])
    distances = np.linalg.norm(S.apply(found[:, :3, 3]) - true[:, :3, 3], axis=1)
    common = Rotation.from_matrix(true[:, :3, :3] @ np.swapaxes(found[:, :3, :3], 1, 2)).mean().as_matrix()
    turns = [angle_deg(common @ a[:3, :3] @ b[:3, :3].T) for a, b in zip(found, true, strict=True)]
    depth = [np.abs(S.scale * a / b - 1).mean() for a, b in zip(result.depths, problem.depths, strict=True)]
    focal = np.abs(result.focals / problem.focal - 1).mean()
    return Errors(float(np.sqrt(np.mean(distances**2))), float(np.mean(turns)), float(focal), float(np.mean(depth)))


def _both(first: int, second: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (first, second), (second, first)


def _unprojected(depth: Array32, focal: float) -> Array32:
    grid = rays(pixel_grid(*depth.shape), focal, center_of(*depth.shape))
    return (grid * depth[..., None]).astype(np.float32)


def _seen(points: Array32, b_T_a: Array, depth: Array32, focal: float) -> Array32:
    """(H, W) 1 where camera b, whose depth is ``depth``, sees a point of a, 0 where not, smooth between."""
    there = transform(b_T_a.astype(np.float32), points)
    uv = project(there, focal, center_of(*depth.shape)).astype(np.float32)
    surface = cv2.remap(depth, uv[..., 0], uv[..., 1], cv2.INTER_NEAREST, borderValue=0.0)
    seen = (surface > 0) & (there[..., 2] < 1.05 * surface)
    return cv2.blur(seen.astype(np.float32), (5, 5))


def _predicted(points: Array32, seen: Array32, noise: float, rng: np.random.Generator) -> tuple[Array32, Array32]:
    """Points (H, W, 3) with the errors of a prediction, in metres and the view's own frame, and confidence."""
    depth = points[..., 2]
    far = depth / np.median(depth)
    worse = (noise * (_HIDDEN + (1.0 - _HIDDEN) * seen)).astype(np.float32)
    bend = smooth(depth.shape, rng)
    grain = far * rng.standard_normal(depth.shape, dtype=np.float32)
    error = worse * (_BEND * bend + _GRAIN * grain)
    sideways = (_RAY * worse * depth)[..., None] * np.stack([smooth(depth.shape, rng) for _ in range(2)], axis=-1)
    found = points * np.exp(error)[..., None]
    found[..., :2] += sideways
    doubt = 0.9 * far + 0.6 * np.abs(bend) + 2.5 * (1.0 - seen) + 0.3 * smooth(depth.shape, rng)
    return found, (1.0 + np.exp(3.0 - doubt)).astype(np.float32)


def _misplaced(a_T_b: Array, depth: float, noise: float, rng: np.random.Generator) -> Similarity:
    """Where a prediction believes its second view: ``a_T_b`` with an error, about a point in front of that view."""
    rotation = Rotation.from_rotvec(np.radians(noise * _TURN_DEG / np.sqrt(3)) * rng.standard_normal(3)).as_matrix()
    scale = float(np.exp(noise * _STRETCH * rng.standard_normal()))
    pivot = np.array([0.0, 0.0, depth])
    shift = pivot - scale * rotation @ pivot + noise * _SHIFT * depth * rng.standard_normal(3)
    return Similarity(1.0, a_T_b[:3, :3], a_T_b[:3, 3]).compose(Similarity(scale, rotation, shift))


def smooth(shape: tuple[int, ...], rng: np.random.Generator) -> Array32:
    """A field (H, W) of mean 0 and deviation about 1 that changes over a quarter of the image."""
    coarse = rng.standard_normal((5, 6)).astype(np.float32)
    return 1.2 * cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def fixture_problem(path: Path) -> PairProblem:
    """The problem of the fixtures: a rendered room of 8 images at 160 x 120, all 56 pairs."""
    with np.load(path) as data:
        arrays = [data[name].astype(np.float32) for name in ("pts_i", "conf_i", "pts_j", "conf_j")]
        pairs = [PairPrediction(int(i), int(j), *views) for (i, j), *views in zip(data["edges"], *arrays, strict=True)]
        return PairProblem(pairs, data["poses"], float(data["f"]), data["depth"], data["pair_scale"])
