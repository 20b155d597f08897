"""The published global alignment: Adam over every pixel's depth, every pose, focal and pair similarity."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation
from torch import Tensor

from dust3r_ros.alignment.batch.spanning_tree import Start, fit_view, tree_start
from dust3r_ros.alignment.objective import PAIR_SCALE, Alignment, EdgeReport
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, unproject
from dust3r_ros.geometry.rigid import pose, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.types import Array, Array32, PairPrediction

_SHORTEST = 1e-12  # keeps the gradient at length 0 finite: it is 0


class Rows(torch.autograd.Function):
    """Rows (M, ...) of a tensor (K, ...): torch's fast forward pass (indexing) and fast backward pass (index_add)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = values.shape
        return values[index]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_add_(0, index, gradient), None


class Length(torch.autograd.Function):
    """Norms (M, P) of vectors (M, 3, P); torch's own is ten times slower over an axis that is not the last."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        x, y, z = vectors.unbind(dim=1)
        length = (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()
        ctx.save_for_backward(vectors, length)
        return length

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        vectors, length = ctx.saved_tensors
        return vectors * (gradient / length.clamp(min=_SHORTEST))[:, None]


def signed_exp(values: Tensor) -> Tensor:
    """Inverse of sign(v) * log(1 + |v|), elementwise."""
    return torch.sign(values) * torch.expm1(torch.abs(values))


def matrices(quaternions: Tensor) -> Tensor:
    """(..., 3, 3) rotations from quaternions (..., 4), x, y, z, w, of any length."""
    x, y, z, w = torch.unbind(quaternions / quaternions.norm(dim=-1, keepdim=True), dim=-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


_RATE, _LAST_RATE = 0.01, 1e-6
_BETAS = (0.9, 0.9)


def align_gradient(
    pairs: Sequence[PairPrediction],
    cameras: np.ndarray | None = None,
    focals: Array | None = None,
    poses: Array | None = None,
    *,
    iterations: int = 300,
    losses: list[float] | None = None,
) -> Alignment:
    """Minimise the published objective as the published program does.

    The unknowns per image are a log depth for each pixel, a quaternion, a translation through a signed logarithm and
    a log focal; per pair a similarity, σ [R | t], with the geometric mean of all σ held at 0.5. From a
    spanning tree (``spanning_tree.tree_start``), ``iterations`` steps of Adam with betas (0.9, 0.9) and
    a rate that falls from 0.01 to 1e-6 along half a cosine. Two images need no optimisation: their
    start is the result.

    ``pairs``, ``cameras``, ``focals`` and ``poses`` as ``alignment.problem.AlignmentProblem`` holds them. Given
    focals and poses stay; images of one camera share the focal, without ``cameras`` each has its
    own. Two or more given poses at different places fix the scale, and σ is free.
    ``losses`` receives the value before every step and the last one.

    Source: Wang et al., "DUSt3R", CVPR 2024, section 3.4, and the numbers of its published program.
    """
    torch.optim.Adam([torch.zeros(1)])  # the first in a process imports for seconds
    begin = time.perf_counter()
    start = tree_start(pairs, focals, poses)
    scene = _Scene(pairs, start, cameras, focals, poses)
    _descend(scene, iterations if len(start.depths) > 2 else 0, losses)
    with torch.no_grad():
        edges, loss = scene.report(pairs)
        if losses is not None:
            losses.append(float(loss))
        w_T_c, found, depths = scene.estimates()
    return Alignment(w_T_c, found, depths, time.perf_counter() - begin, edges, list(pairs))


@dataclass(eq=False)
class _Views:
    """All views of one size (P pixels): K images and M views of pairs.

    ``images`` (K,); ``size`` (H, W); ``offsets`` (2, P) pixels from the principal point; ``log_depth`` (K, P); by view
    of a pair ``image`` (M,) its place in ``images``, ``pair`` (M,), ``points`` (M, 4, P) homogeneous and
    ``weight`` (M, P): log confidence divided by the pixel count of all first or all second views.
    """

    images: list[int]
    size: tuple[int, int]
    offsets: Tensor
    log_depth: Tensor
    image: Tensor
    pair: Tensor
    points: Tensor
    weight: Tensor


class _Scene:
    """The unknowns as tensors that Adam may move, and the loss over them."""

    def __init__(
        self,
        pairs: Sequence[PairPrediction],
        start: Start,
        cameras: np.ndarray | None,
        focals: Array | None,
        poses: Array | None,
    ) -> None:
        images = len(start.depths)
        known = np.zeros(images, bool) if poses is None else np.isfinite(poses[:, 0, 0])
        centers = start.w_T_c[known, :3, 3]
        self._scale_is_free = len(centers) < 2 or not np.ptp(centers, axis=0).any()
        start, similarities = self._gauged(pairs, start, centers[0] if len(centers) else np.zeros(3))
        self._pose_known, self._given_pose = torch.tensor(known), _tensor(start.w_T_c[:, :3])
        self._rotation = _parameter(Rotation.from_matrix(start.w_T_c[:, :3, :3]).as_quat())
        self._position = _parameter(_signed_log(start.w_T_c[:, :3, 3]))
        self._pair_rotation = _parameter(Rotation.from_matrix([s.rotation for s in similarities]).as_quat())
        self._pair_position = _parameter(_signed_log(np.array([s.translation / s.scale for s in similarities])))
        self._pair_log_scale = _parameter(np.log([s.scale for s in similarities]))
        _, camera = np.unique(np.arange(images) if cameras is None else cameras, return_inverse=True)
        pooled = np.bincount(camera, np.log(start.focals)) / np.bincount(camera)
        self._camera, self._log_focal = torch.tensor(camera), _parameter(pooled)
        self._focal_known = torch.tensor(np.zeros(images, bool) if focals is None else np.isfinite(focals))
        self._given_focal = _tensor(start.focals)
        self._groups = _grouped(pairs, start.depths)

    def _gauged(self, pairs: Sequence[PairPrediction], start: Start, pivot: Array) -> tuple[Start, list[Similarity]]:
        """The start, scaled about ``pivot`` (3,) to the gauge of the pair scales, and the similarities of the pairs."""
        scene = zip(start.w_T_c, start.depths, start.focals, strict=True)
        world = [transform(T, unproject(depth, float(focal))) for T, depth, focal in scene]
        fits = [fit_view(pair.points_first, world[pair.first], pair.confidence_first) for pair in pairs]
        if not self._scale_is_free:
            return start, fits
        scale = PAIR_SCALE / float(np.exp(np.mean([np.log(fit.scale) for fit in fits])))
        w_T_c = start.w_T_c.copy()
        w_T_c[:, :3, 3] = pivot + scale * (w_T_c[:, :3, 3] - pivot)
        bigger = Similarity(scale, np.eye(3), (1 - scale) * pivot)
        scaled = Start(w_T_c, start.focals, [scale * depth for depth in start.depths])
        return scaled, [bigger.compose(fit) for fit in fits]

    def parameters(self) -> list[Tensor]:
        """The tensors that Adam optimises."""
        shared = [self._rotation, self._position, self._log_focal]
        of_pairs = [self._pair_rotation, self._pair_position, self._pair_log_scale]
        return shared + of_pairs + [group.log_depth for group in self._groups]

    def loss(self) -> Tensor:
        """The published objective at the current σ."""
        total = torch.zeros(())
        for group, distances in self._distances():
            total = total + torch.vdot(group.weight.ravel(), distances.ravel())
        return total

    def report(self, pairs: Sequence[PairPrediction]) -> tuple[tuple[EdgeReport, ...], Tensor]:
        """The report on every pair, and the loss."""
        cost, weight, loss = torch.zeros(len(pairs)), torch.zeros(len(pairs)), torch.zeros(())
        for group, distances in self._distances():
            costs = (group.weight * distances).sum(dim=1)
            loss += costs.sum()
            cost.index_add_(0, group.pair, costs)
            weight.index_add_(0, group.pair, group.weight.sum(dim=1))
        mean = (cost / weight).tolist()
        return tuple(EdgeReport(p.first, p.second, m) for p, m in zip(pairs, mean, strict=True)), loss

    def estimates(self) -> tuple[Array, Array, list[Array32]]:
        """``w_T_c`` (N, 4, 4), focals (N,) and depths as optimised so far."""
        w_T_c, found = self._poses().double().numpy(), self._focals().double().numpy()
        depths: dict[int, Array32] = {}
        for group in self._groups:
            maps = group.log_depth.exp().reshape(-1, *group.size).numpy()
            depths.update(zip(group.images, maps, strict=True))
        full = np.stack([pose(Rotation.from_matrix(T[:, :3]).as_matrix(), T[:, 3]) for T in w_T_c])
        return full, found, [depths[image] for image in range(len(full))]

    def _distances(self) -> Iterator[tuple[_Views, Tensor]]:
        """Groups and the distances (M, P) between their pairs' points and their images' points, in the world."""
        S, w_T_c, focals = self._pair_matrices(), self._poses(), self._focals()
        for group in self._groups:
            depth = group.log_depth.exp()
            slopes = group.offsets / focals[group.images, None, None]
            T = w_T_c[group.images]
            local = torch.cat([slopes * depth[:, None], depth[:, None]], dim=1)
            world = torch.baddbmm(T[:, :, 3:], T[:, :, :3], local)
            apart = torch.baddbmm(Rows.apply(world, group.image), S[group.pair], group.points, alpha=-1)
            yield group, Length.apply(apart)

    def _poses(self) -> Tensor:
        """(N, 3, 4)."""
        free = torch.cat([matrices(self._rotation), signed_exp(self._position)[..., None]], dim=2)
        return torch.where(self._pose_known[:, None, None], self._given_pose, free)

    def _focals(self) -> Tensor:
        return torch.where(self._focal_known, self._given_focal, self._log_focal.exp()[self._camera])

    def _pair_matrices(self) -> Tensor:
        """(E, 3, 4): σ [R | t]."""
        log_scale = self._pair_log_scale
        if self._scale_is_free:
            log_scale = log_scale - log_scale.mean() + math.log(PAIR_SCALE)
        rigid = torch.cat([matrices(self._pair_rotation), signed_exp(self._pair_position)[..., None]], dim=2)
        return log_scale.exp()[:, None, None] * rigid


def _descend(scene: _Scene, steps: int, losses: list[float] | None) -> None:
    """Run Adam at a rate that falls along half a cosine; ``losses`` receives the value before each step."""
    optimiser = torch.optim.Adam(scene.parameters(), lr=_RATE, betas=_BETAS)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _LAST_RATE + (_RATE - _LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.zero_grad()
        loss = scene.loss()
        loss.backward()
        optimiser.step()
        if losses is not None:
            losses.append(float(loss.detach()))


def _grouped(pairs: Sequence[PairPrediction], depths: Sequence[Array]) -> list[_Views]:
    """The views of all pairs, by the size of their images."""
    pixels = sum(p.confidence_first.size for p in pairs), sum(p.confidence_second.size for p in pairs)
    first = [(e, p.first, p.points_first, p.confidence_first, pixels[0]) for e, p in enumerate(pairs)]
    second = [(e, p.second, p.points_second, p.confidence_second, pixels[1]) for e, p in enumerate(pairs)]
    return [_of_size(size, first + second, depths) for size in sorted({depth.shape for depth in depths})]


def _of_size(
    size: tuple[int, int], views: list[tuple[int, int, Array32, Array32, int]], depths: Sequence[Array]
) -> _Views:
    """The ``views`` (pair, image, points, confidence, pixels of all such views) whose images have this size."""
    images = [image for image, depth in enumerate(depths) if depth.shape == size]
    place = {image: index for index, image in enumerate(images)}
    views = [view for view in views if view[1] in place]
    count = size[0] * size[1]
    points, weight = torch.ones(len(views), 4, count), torch.empty(len(views), count)
    for row, (_, _, X, C, total) in enumerate(views):
        points[row, :3] = torch.from_numpy(X).reshape(count, 3).T
        weight[row] = torch.from_numpy(C).log().reshape(count) / total
    offsets = (pixel_grid(*size) - np.asarray(center_of(*size))).reshape(count, 2).T
    log_depth = _parameter(np.log(np.stack([depths[image].ravel() for image in images])))
    image = torch.tensor([place[view[1]] for view in views])
    pair = torch.tensor([view[0] for view in views])
    return _Views(images, size, _tensor(offsets), log_depth, image, pair, points, weight)


def _tensor(values: ArrayLike) -> Tensor:
    return torch.tensor(np.ascontiguousarray(values), dtype=torch.float32)


def _parameter(values: ArrayLike) -> Tensor:
    return _tensor(values).requires_grad_()


def _signed_log(values: Array) -> Array:
    return np.sign(values) * np.log1p(np.abs(values))
