"""Alternating closed-form steps towards the published objective: depth of sampled pixels, images, pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment.batch.global_start import GlobalStart
from dust3r_ros.alignment.batch.pixel_block import PixelBlock, points_at, workspace
from dust3r_ros.alignment.batch.priors import INDEPENDENT, Priors, gauge, held_focals, held_poses
from dust3r_ros.alignment.batch.problem import AlignmentProblem
from dust3r_ros.alignment.batch.ray_median import FLOOR
from dust3r_ros.alignment.moments import scale_of
from dust3r_ros.geometry.focal import FOCAL_LIMITS, reference_focal
from dust3r_ros.geometry.processes import each
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32

# More would make the steps along the rays, which overshoot on purpose, unstable.
MOMENTUM = 0.45


class Momentum:
    """Moves a scene and its sampled depths further by a fraction of their last change (Polyak's heavy ball, 1964).

    Alternating steps go in the same direction many times in a row; this halves their number.
    """

    def __init__(self) -> None:
        self._last: tuple[Array, Array, Array, dict[int, Array32]] | None = None

    def carry(self, unknowns: Unknowns, depths: dict[int, Array32]) -> None:
        """Apply after a step."""
        now = unknowns.w_T_c, unknowns.w_S_pair, unknowns.focals, dict(depths)
        if self._last is not None:
            w_T_c, w_S_pair, focals, before = self._last
            moved = _upright(now[0] + MOMENTUM * (now[0] - w_T_c), np.ones(len(w_T_c)))
            unknowns.w_T_c = np.where(unknowns.held_pose[:, None, None], now[0], moved)
            size = scale_of(now[1]) * (scale_of(now[1]) / scale_of(w_S_pair)) ** MOMENTUM
            unknowns.w_S_pair = _upright(now[1] + MOMENTUM * (now[1] - w_S_pair), size)
            ahead = np.clip(now[2] * (now[2] / focals) ** MOMENTUM, *unknowns.focal_limits)
            unknowns.focals = np.where(unknowns.held_focal, now[2], ahead)
            for index, depth in before.items():
                depths[index] = depths[index] + np.float32(MOMENTUM) * (depths[index] - depth)
        self._last = now


def _upright(S: Array, scale: Array) -> Array:
    """The nearest similarities (M, 4, 4) with ``scale`` (M,), after a small linear change."""
    S = S.copy()
    linear = S[:, :3, :3] / np.cbrt(np.linalg.det(S[:, :3, :3]))[:, None, None]
    for _ in range(2):  # Newton's iteration for the polar decomposition
        linear = linear @ (1.5 * np.eye(3) - 0.5 * np.swapaxes(linear, 1, 2) @ linear)
    S[:, :3, :3] = scale[:, None, None] * linear
    return S


_DAMPING = 1e-7
_MAX_LOG_FOCAL = 0.3


def place_pairs(w_S_pair: Array, sums: Array, squares: Array, pull: float) -> Array:
    """The similarities (E, 4, 4) minimising sum_p w_p |point_p - S X_p|^2 / 2 - ``pull`` * log scale, from nearby.

    ``sums`` (E, 4, 4) of w [X, 1] [point, 1]^T, ``squares`` (E,) of w |X|^2. Rotation by one Newton
    step from ``w_S_pair``, scale and translation in closed form for it (Umeyama, PAMI 1991; the pull
    holds the mean log scale). A pair without weight does not move.
    """
    total = sums[:, 3, 3]
    used = total > 0
    safe = np.where(used, total, 1.0)
    mean_x, mean_y = sums[:, :3, 3] / safe[:, None], sums[:, 3, :3] / safe[:, None]
    cross = np.swapaxes(sums[:, :3, :3], 1, 2) / safe[:, None, None] - mean_y[:, :, None] * mean_x[:, None]
    square = squares / safe - np.sum(mean_x * mean_x, axis=1)
    linear = w_S_pair[:, :3, :3]
    scale = np.cbrt(np.linalg.det(linear))
    rotation = linear / scale[:, None, None]
    # R exp(v) raises tr(R^T cross): with B = R^T cross, (tr(B) I - sym(B)) v = vee(B - B^T).
    B = np.swapaxes(rotation, 1, 2) @ cross
    twist = np.stack([B[:, 2, 1] - B[:, 1, 2], B[:, 0, 2] - B[:, 2, 0], B[:, 1, 0] - B[:, 0, 1]], axis=1)
    along = np.trace(B, axis1=1, axis2=2)
    normal = along[:, None, None] * np.eye(3) - (B + np.swapaxes(B, 1, 2)) / 2
    usable = used & (along > 0) & (square > 0)
    normal[~usable] = np.eye(3)
    turn = np.linalg.solve(normal, twist[..., None])[..., 0]
    turn /= np.maximum(1.0, np.linalg.norm(turn, axis=1, keepdims=True))
    rotation = rotation @ Rotation.from_rotvec(turn).as_matrix()
    along = np.einsum("eij,eij->e", rotation, cross)
    usable &= along > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (along + np.sqrt(along**2 + 4 * square * pull / safe)) / (2 * square)
    placed = np.zeros_like(w_S_pair)
    placed[:, :3, :3] = scale[:, None, None] * rotation
    placed[:, :3, 3] = mean_y - np.einsum("eij,ej->ei", placed[:, :3, :3], mean_x)
    placed[:, 3, 3] = 1.0
    return np.where(usable[:, None, None], placed, w_S_pair)


def image_equations(
    total: Array32, mean: Array32, slopes: Array32, depth: Array32, known: Array32 | None = None
) -> Array:
    """Normal equations (B, 7, 8), matrix and right side, of images given their pixels' mean points.

    ``total`` (B, P) weights, ``mean`` (B, 3, P) camera frame, ``slopes`` (B, 2, P) = pixel / focal, ``depth``
    (B, P). Unknowns: rotation vector and translation of the camera in its own frame, log focal.
    Depth along the rays is eliminated, which leaves the part across: l = (x, y) - slopes z, in the metric
    I - s s^T / (1 + |s|^2). Where depth is known, the part along the ray counts with weight ``known`` (B, P).
    """
    sx, sy = slopes[:, 0], slopes[:, 1]
    x, y = depth * sx, depth * sy
    J = np.empty((len(depth), 2, 8, depth.shape[1]), np.float32)
    J[:, 0, 0], J[:, 0, 1], J[:, 0, 2] = -sx * y, depth + sx * x, -y
    J[:, 1, 0], J[:, 1, 1], J[:, 1, 2] = -depth - sy * y, sy * x, x
    J[:, :, 3:5] = np.eye(2, dtype=np.float32)[..., None]
    J[:, :, 5] = -slopes
    J[:, 0, 6], J[:, 1, 6] = -x, -y
    J[:, :, 7] = mean[:, :2] - slopes * mean[:, 2:]
    MJ = J[:, :, :7] * slopes[:, :, None]
    along = MJ.sum(axis=1)
    along /= (1 + np.square(slopes).sum(axis=1))[:, None]
    np.multiply(along[:, None], slopes[:, :, None], out=MJ)
    np.subtract(J[:, :, :7], MJ, out=MJ)
    MJ *= total[:, None, None]
    equations = (MJ @ np.swapaxes(J, 2, 3)).sum(axis=1, dtype=np.float64)
    return equations if known is None else equations + _along_equations(known, mean, slopes, depth)


def _along_equations(weight: Array32, mean: Array32, slopes: Array32, depth: Array32) -> Array:
    """(B, 7, 8) for the distances along the rays, which a rotation about the camera does not change."""
    square = np.square(slopes).sum(axis=1)
    length = np.sqrt(1 + square)
    J = np.zeros((len(depth), 8, depth.shape[1]), np.float32)
    J[:, 3:5], J[:, 5], J[:, 6] = slopes / length[:, None], 1 / length, -depth * square / length
    J[:, 7] = (np.einsum("bap,bap->bp", mean[:, :2], slopes) + mean[:, 2]) / length - depth * length
    return np.einsum("bip,bjp->bij", weight[:, None] * J[:, :7], J).astype(np.float64)


def move_images(
    w_T_c: Array,
    focals: Array,
    equations: Array,
    camera: NDArray[np.int64],
    fixed_pose: NDArray[np.bool_],
    fixed_focal: NDArray[np.bool_],
) -> tuple[Array, Array]:
    """Poses (N, 4, 4) and focals (N,) after one step on ``equations`` (N, 7, 8) of ``image_equations``.

    Images with the same ``camera`` (N,) share the step of the focal.
    """
    A, b = equations[:, :, :7].copy(), equations[:, :, 7].copy()
    along = np.arange(7)
    A[:, along, along] *= 1.0 + _DAMPING
    A[:, along, along] += 1e-30
    A[fixed_pose, :, :6] = 0.0
    A[fixed_pose, :6, :] = 0.0
    A[np.ix_(fixed_pose, along[:6], along[:6])] = np.eye(6)
    b[fixed_pose, :6] = 0.0
    pose_of = np.linalg.solve(A[:, :6, :6], np.concatenate([A[:, :6, 6:], b[:, :6, None]], axis=2))
    stiff = A[:, 6, 6] - np.einsum("ni,ni->n", A[:, 6, :6], pose_of[..., 0])
    drive = b[:, 6] - np.einsum("ni,ni->n", A[:, 6, :6], pose_of[..., 1])
    stiff, drive = (np.bincount(camera, np.where(fixed_focal, 0.0, v))[camera] for v in (stiff, drive))
    step = np.divide(drive, stiff, out=np.zeros_like(drive), where=stiff > 0)
    step = np.where(fixed_focal, 0.0, np.clip(step, -_MAX_LOG_FOCAL, _MAX_LOG_FOCAL))
    xi = pose_of[..., 1] - step[:, None] * pose_of[..., 0]
    moved = w_T_c.copy()
    moved[:, :3, 3] += np.einsum("nij,nj->ni", w_T_c[:, :3, :3], xi[:, 3:])
    moved[:, :3, :3] = w_T_c[:, :3, :3] @ Rotation.from_rotvec(xi[:, :3]).as_matrix()
    return moved, focals * np.exp(step)


# Without given cameras, images of one size whose focals lie within this factor share one: pointmaps
# cannot tell closer focals apart.
SAME_CAMERA = 0.04
# Least residual in a weight, relative to the mean scale of the pairs.
_TINY = 1e-7


@dataclass(eq=False)
class Unknowns:
    """The unknowns: ``w_T_c`` (N, 4, 4), ``focals`` (N,), ``w_S_pair`` (E, 4, 4); and which of them are held.

    ``ends`` (E, 2): first and second image of the pairs.
    ``camera`` (N,): images of the same number share the focal. ``on`` (E,): pairs that count.
    ``focal_limits`` (2, N): least and largest, pixels. ``priors``: values given with a deviation.
    ``floor``: least residual in a weight, world unit.
    """

    ends: NDArray[np.int64]
    w_T_c: Array
    focals: Array
    w_S_pair: Array
    camera: NDArray[np.int64]
    held_pose: NDArray[np.bool_]
    held_focal: NDArray[np.bool_]
    on: NDArray[np.bool_]
    focal_limits: Array
    priors: Priors
    floor: float = 0.0

    @classmethod
    def of(cls, problem: AlignmentProblem, start: GlobalStart) -> Unknowns:
        """The unknowns at the start, with the problem's given values held."""
        cameras, held = problem.cameras, held_focals(problem)
        camera = _alike(problem, start.focals) if cameras is None else np.unique(cameras, return_inverse=True)[1]
        logs = np.where(held, 0.0, np.log(start.focals))
        mean = np.bincount(camera, logs)[camera] / np.maximum(np.bincount(camera, ~held)[camera], 1)
        unknowns = cls(
            np.array([(pair.first, pair.second) for pair in problem.pairs]),
            start.w_T_c,
            np.where(held, start.focals, np.exp(mean)),
            start.w_S_pair,
            camera,
            held_poses(problem),
            held,
            ~start.switched_off,
            np.outer(FOCAL_LIMITS, [reference_focal(*shape) for shape in problem.shapes]),
            Priors.of(problem, camera),
        )
        unknowns.set_floor(float(np.median(start.residual)))
        return unknowns

    def set_floor(self, residual: float) -> None:
        """Set ``floor`` from a mean residual, world unit."""
        self.floor = max(FLOOR * residual, _TINY * float(scale_of(self.w_S_pair).mean()))

    def unit(self, cost: float) -> float:
        """The share of ``cost`` per independent measurement, counted over all observations."""
        return cost / (2 * INDEPENDENT * max(1, int(np.count_nonzero(self.on))))

    def settle(self, depths: dict[int, Array32]) -> None:
        """Move the whole world and its sampled depths (by block) to fit soft poses; sweeps alone would take long."""
        if self.priors.poses is None or self.held_pose.any():
            return
        scale, R, t = gauge(self.priors.poses, self.w_T_c, self.priors.depths is None)
        G = np.eye(4)
        G[:3, :3], G[:3, 3] = scale * R, t
        self.w_T_c, self.w_S_pair = G @ self.w_T_c, G @ self.w_S_pair
        self.w_T_c[:, :3, :3] /= scale
        self.floor *= scale
        for index in depths:
            depths[index] = depths[index] * np.float32(scale)


def _alike(problem: AlignmentProblem, focals: Array) -> NDArray[np.int64]:
    """(N,) camera of each image: one for all images of a size whose focals differ by less than their errors."""
    camera = np.arange(len(focals))
    for shape in set(problem.shapes):
        its = np.array([image for image, other in enumerate(problem.shapes) if other == shape])
        if np.ptp(np.log(focals[its])) < SAME_CAMERA:
            camera[its] = its[0]
    return camera


@dataclass(frozen=True, eq=False)
class Statistics:
    """All that a step for images and pairs needs from the pixels.

    ``costs`` (E,): sums of w |r|; ``equations`` (N, 7, 8) of ``image_equations``; ``sums`` (E, 2, 4, 4) and
    ``squares`` (E,), by view: the sums that place the pairs, with points in the frames of the
    cameras; ``weights`` (E,): sums of w.
    """

    costs: Array
    equations: Array
    sums: Array
    squares: Array
    weights: Array

    def plus(self, other: Statistics, factor: float = 1.0) -> Statistics:
        """This and ``factor`` times the other."""
        return Statistics(
            self.costs + factor * other.costs,
            self.equations + factor * other.equations,
            self.sums + factor * other.sums,
            self.squares + factor * other.squares,
            self.weights + factor * other.weights,
        )


def gather(unknowns: Unknowns, makers: Sequence[Callable[[], PixelBlock]], depths: dict[int, Array32]) -> Statistics:
    """One pass over blocks; ``depths`` (by position of the block) take a step, or are initialised if absent."""
    tasks = [(unknowns, make, depths.get(index)) for index, make in enumerate(makers)]
    parts = each(_pass, tasks)
    pairs, images = len(unknowns.w_S_pair), len(unknowns.w_T_c)
    costs, weights, sums = np.zeros(2 * pairs), np.zeros(2 * pairs), np.zeros((2 * pairs, 5, 4))
    equations = np.zeros((images, 7, 8))
    for index, part in enumerate(parts):
        depths[index] = part.depth
        costs[part.rows] += part.costs
        weights[part.rows] += part.weights
        equations[part.images] += part.equations
        sums[part.rows] += part.sums
    return Statistics(
        costs.reshape(pairs, 2).sum(axis=1),
        equations,
        sums[:, :4].reshape(pairs, 2, 4, 4),
        sums[:, 4, 3].reshape(pairs, 2).sum(axis=1),
        weights.reshape(pairs, 2).sum(axis=1),
    )


class _Part(NamedTuple):
    """The statistics of one block; ``rows``: the observations, as 2 * pair + view."""

    images: NDArray[np.int64]
    rows: NDArray[np.int64]
    depth: Array32
    costs: Array
    equations: Array
    sums: Array
    weights: Array


def _pass(task: tuple[Unknowns, Callable[[], PixelBlock], Array32 | None]) -> _Part:
    unknowns, make, depth = task
    block = make()
    block.switch(unknowns.on)
    slopes = block.slopes(unknowns.focals)
    c_S_pair = invert(unknowns.w_T_c[block.images])[:, None] @ unknowns.w_S_pair[block.edges]
    space = workspace()
    known = unknowns.priors.depths_of(block)
    seen = space.weigh(block, c_S_pair, slopes, depth, unknowns.floor, known)
    sums = space.sums(block, points_at(slopes, seen.depth))
    equations = image_equations(seen.total, seen.mean, slopes, seen.depth, seen.along)
    there = block.views >= 0
    rows = 2 * block.edges[there] + block.views[there]
    weights = block.weights.sum(axis=2)[there]
    return _Part(block.images, rows, seen.depth, seen.cost[there], equations, sums[there], weights)


def step(unknowns: Unknowns, found: Statistics) -> float:
    """Solve all images, then all pairs, in closed form; returns the value before: costs at mean log scale 0."""
    value = float(found.costs.sum() * np.exp(-np.log(scale_of(unknowns.w_S_pair)).mean()))
    w_T_old, f_old = unknowns.w_T_c, unknowns.focals
    equations = found.equations + unknowns.priors.equations(w_T_old, f_old, unknowns.unit(float(found.costs.sum())))
    unknowns.w_T_c, focals = move_images(
        w_T_old, f_old, equations, unknowns.camera, unknowns.held_pose, unknowns.held_focal
    )
    unknowns.focals = np.where(unknowns.held_focal, f_old, np.clip(focals, *unknowns.focal_limits))
    # The derivative of the mean log scale: without it, shrinking the pairs would lower the value.
    pull = found.costs.sum() / max(1, np.count_nonzero(unknowns.on))
    w_S_c = unknowns.w_T_c.copy()  # points of the old focals
    w_S_c[:, :, :2] *= (f_old / unknowns.focals)[:, None, None]
    sums = (found.sums @ np.swapaxes(w_S_c[unknowns.ends], 2, 3)).sum(axis=1)
    unknowns.w_S_pair = place_pairs(unknowns.w_S_pair, sums, found.squares, pull)
    unknowns.set_floor(float(found.costs.sum() / found.weights.sum()))
    return value
