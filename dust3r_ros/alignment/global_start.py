"""Where the alignment from moments starts: focals, canonical depths, and a pose graph over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from dust3r_ros.alignment.moments import check_informative, closed_form, inverse, moments, scale_of
from dust3r_ros.alignment.pixel_block import PixelBlock
from dust3r_ros.alignment.problem import Problem
from dust3r_ros.alignment.similarity_graph import SimilarityGraph
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.focal import FOCAL_LIMITS, reference_focal
from dust3r_ros.geometry.pose import solve_pnp
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.types import Array, Array32

_WEISZFELD = 6
_SCALINGS = 4  # rounds of scaling the own views of an image to their mean
_FLOOR = 0.01  # of the canonical depth: residuals below it weigh alike
_LOG_FLOOR = 0.01  # the same for logarithms of depth
_TINY = np.float32(1e-30)


@dataclass(eq=False)
class GlobalStart:
    """``w_T_c`` (N, 4, 4), ``focals`` (N,), ``w_S_pair`` (E, 4, 4): frames of the pairs in the world; and of
    the pose graph, ``residual`` (E,), root mean square in the world's unit, and ``switched_off`` (E,).
    """

    w_T_c: Array
    focals: Array
    w_S_pair: Array
    residual: Array
    switched_off: NDArray[np.bool_]


def global_start(problem: Problem, blocks: Sequence[PixelBlock]) -> GlobalStart:
    """From the sampled pixels of every image.

    Raises ``GeometryError`` for pairs without information and images without a place.
    """
    focals = _focals(problem, blocks)
    depths = [_own_depths(block) for block in blocks]
    for block, depth in zip(blocks, depths, strict=True):
        _borrow_depths(problem, block, focals, depth)
    ends = np.array([(pair.first, pair.second) for pair in problem.pairs])
    scale = _pair_scales(blocks, depths, len(ends))
    points = [_unprojected(block, depth, focals) for block, depth in zip(blocks, depths, strict=True)]
    M = _moments(blocks, points, scale, None)
    check_informative(M, [f"pair ({i}, {j})" for i, j in ends])
    S, root = _tree(ends, _scores(blocks, len(ends)), closed_form(M)[0])
    S, free = _fixed(problem, S, root)
    M = _moments(blocks, points, scale, inverse(S[ends[:, 1]]) @ S[ends[:, 0]])
    solution = SimilarityGraph(ends[:, 0], ends[:, 1], M, free).solve(S)
    S = solution.S
    w_T_c = S.copy()
    w_T_c[:, :3, :3] /= scale_of(S)[:, None, None]
    w_S_pair = S[ends[:, 0]].copy()
    w_S_pair[:, :3, :3] *= scale[:, None, None]
    size = scale_of(S)
    residual = solution.residual * np.sqrt(size[ends[:, 0]] * size[ends[:, 1]])
    return GlobalStart(w_T_c, focals, w_S_pair, residual, _joined(ends, residual, solution.switched_off))


def _unprojected(block: PixelBlock, depth: Array32, focals: Array) -> Array32:
    """(3, B, P) camera frame."""
    slopes = block.pixels[:, None] / focals[block.images, None].astype(np.float32)
    return np.stack([*(slopes * depth), depth])


def _focals(problem: Problem, blocks: Sequence[PixelBlock]) -> Array:
    """(N,) given ones, else Weiszfeld's over all own views of an image, or of all images of its camera."""
    count = len(problem.shapes)
    usual = np.array([reference_focal(*shape) for shape in problem.shapes])
    camera = np.arange(count) if problem.cameras is None else np.unique(problem.cameras, return_inverse=True)[1]
    own = [(block, *_slopes(block)) for block in blocks]
    focal = usual.copy()
    for step in range(_WEISZFELD + 1):
        along, square = np.zeros((2, count))
        for block, slopes, weight in own:
            pixels = block.pixels[:, None, None]
            if step:
                r = pixels - focal[block.images, None, None].astype(np.float32) * slopes
                weight = weight / np.maximum(np.sqrt(np.einsum("abkp,abkp->bkp", r, r)), np.float32(1e-3))
            weighted = weight * slopes
            along[block.images] = np.einsum("ap,abkp->b", block.pixels, weighted)
            square[block.images] = np.einsum("abkp,abkp->b", slopes, weighted)
        along, square = (np.bincount(camera, values)[camera].astype(np.float64) for values in (along, square))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = along / square
        good = np.isfinite(found) & (found > 0)
        typical = np.median(found[good] / usual[good]) if good.any() else 1.0
        focal = np.clip(np.where(good, found, typical * usual), FOCAL_LIMITS[0] * usual, FOCAL_LIMITS[1] * usual)
    if problem.focals is not None:
        focal = np.where(np.isnan(problem.focals), focal, problem.focals)
    return focal


def _slopes(block: PixelBlock) -> tuple[Array32, Array32]:
    """Slopes (2, B, K, P) and weights (B, K, P), which are 0 where a sight is not the image's own view."""
    front = (block.points[2] > 0) & (block.views == 0)[..., None]
    slopes = block.points[:2] / np.where(front, block.points[2], np.float32(1))
    return slopes, np.where(front, block.weights, np.float32(0))


def _own_depths(block: PixelBlock) -> Array32:
    """(B, P) canonical depth: log mean of the own views, each at its mean scale; 0 for an image without any."""
    z = block.points[2]
    w = np.where((z > 0) & (block.views == 0)[..., None], block.weights, np.float32(0))
    logs = np.log(np.where(w > 0, z, np.float32(1)))
    total, each = np.einsum("bkp->bp", w), np.maximum(w.sum(axis=2), _TINY)
    mean = np.zeros_like(total)
    for _ in range(_SCALINGS):
        logs -= (np.einsum("bkp,bkp->bk", w, logs - mean[:, None]) / each)[..., None]
        mean = np.einsum("bkp,bkp->bp", w, logs) / np.maximum(total, _TINY)
    return np.where(total.any(axis=1, keepdims=True), np.exp(mean), np.float32(0))


def _borrow_depths(problem: Problem, block: PixelBlock, focals: Array, depths: Array32) -> None:
    """Depths of images that are never first: from their pose in the frame of a pair's first image."""
    for b in np.flatnonzero(~depths.any(axis=1)):
        image, k = int(block.images[b]), int(np.argmax(block.weights[b].sum(axis=1)))
        sure = block.weights[b, k] > 0
        X, pixels = block.points[:, b, k].astype(np.float64), block.pixels.T.astype(np.float64)
        try:
            c_T_w = invert(solve_pnp(X[:, sure].T, pixels[sure], float(focals[image]), (0.0, 0.0)).w_T_c)
        except GeometryError as error:
            pair = problem.pairs[block.edges[b, k]]
            raise GeometryError(
                f"image {image}, first in no pair, finds no place in pair ({pair.first}, {pair.second}): {error}"
            ) from error
        z = c_T_w[2, :3] @ X + c_T_w[2, 3]
        front = sure & (z > 0)
        depths[b] = np.where(front, z, np.median(z[front]))


def _pair_scales(blocks: Sequence[PixelBlock], depths: Sequence[Array32], count: int) -> Array:
    """(E,) canonical unit of the first image over the pair's unit: robust mean of the log ratio of depths."""
    scale = np.ones(count)
    for block, depth in zip(blocks, depths, strict=True):
        own = block.views == 0
        z, d = block.points[2], depth[:, None]
        w = np.where((z > 0) & (d > 0) & own[..., None], block.weights, np.float32(0))
        logs = np.log(np.where(w > 0, d, np.float32(1)) / np.where(w > 0, z, np.float32(1)))
        robust = w
        for _ in range(3):
            center = np.einsum("bkp,bkp->bk", robust, logs) / np.maximum(robust.sum(axis=2), _TINY)
            robust = w / (np.abs(logs - center[..., None]) + np.float32(_LOG_FLOOR))
        scale[block.edges[own]] = np.exp(center[own])
    return scale


def _moments(
    blocks: Sequence[PixelBlock], points: Sequence[Array32], scale: Array, second_S_first: Array | None
) -> Array:
    """(E, 8, 8): a, the second view in the first image's canonical frame, and b, the second image's own points.

    Weights are log C, or log C / max(|r|, floor) under ``second_S_first`` (E, 4, 4).
    """
    M = np.zeros((len(scale), 8, 8))
    for block, canonical in zip(blocks, points, strict=True):
        at = np.nonzero(block.views == 1)
        edges = block.edges[at]
        a = np.moveaxis(block.points[:, at[0], at[1]] * scale[edges, None].astype(np.float32), 0, 2)
        b, w = np.moveaxis(canonical[:, at[0]], 0, 2), block.weights[at]
        if second_S_first is not None:
            S = second_S_first[edges].astype(np.float32)
            r = a @ np.swapaxes(S[:, :3, :3], 1, 2) + S[:, None, :3, 3] - b
            w = w / np.maximum(np.sqrt(np.einsum("epc,epc->ep", r, r)), np.float32(_FLOOR))
        M[edges] = moments(a, b, w)
    return M


def _scores(blocks: Sequence[PixelBlock], count: int) -> Array:
    """(E,) product of the mean log confidences of both views."""
    score = np.ones(count)
    for block in blocks:
        there = block.views >= 0
        np.multiply.at(score, block.edges[there], block.weights.mean(axis=2)[there])
    return score


def _tree(ends: NDArray[np.int64], score: Array, second_S_first: Array) -> tuple[Array, int]:
    """(N, 4, 4) along the maximum spanning tree from its root, the best edge's first image; that is the world."""
    count = int(ends.max()) + 1
    order = np.argsort(score)
    best = {(min(i, j), max(i, j)): e for e, (i, j) in zip(order.tolist(), ends[order].tolist(), strict=True)}
    row, column = np.array(list(best)).T
    chosen = np.array(list(best.values()))
    cost = 1.0 + (score.max() - score[chosen]) / max(float(np.ptp(score)), 1e-300)
    tree = minimum_spanning_tree(coo_array((cost, (row, column)), shape=(count, count)).tocsr())
    root = int(ends[order[-1], 0])
    sequence, parent = breadth_first_order(tree, root, directed=False)
    S = np.tile(np.eye(4), (count, 1, 1))
    for child in sequence[1:].tolist():
        i = int(parent[child])
        e = best[(min(i, child), max(i, child))]
        step = second_S_first[e] if ends[e, 0] == child else inverse(second_S_first[e])
        S[child] = S[i] @ step
    return S, root


def _fixed(problem: Problem, S: Array, root: int) -> tuple[Array, NDArray[np.bool_]]:
    """The start in the world of the known poses, and which increments (N, 7) are free."""
    free = np.ones((len(S), 7), dtype=bool)
    known = np.zeros(len(S), bool) if problem.poses is None else np.isfinite(problem.poses[:, 0, 0])
    if not known.any():
        free[root] = False
        return S, free
    assert problem.poses is not None
    S = _to_known(S, problem.poses, known).matrix @ S
    S[known, :3, :3] = scale_of(S[known])[:, None, None] * problem.poses[known, :3, :3]
    S[known, :3, 3] = problem.poses[known, :3, 3]
    free[known, :6] = False
    places = problem.poses[known, :3, 3]
    if np.ptp(places, axis=0).max() < 1e-9:  # one place says nothing of the scale
        free[np.flatnonzero(known)[0]] = False
    return S, free


def _joined(ends: NDArray[np.int64], residual: Array, off: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which edges are switched off, less those without which the images fall apart: the best of them stay."""
    off, count = off.copy(), int(ends.max()) + 1
    for edge in np.flatnonzero(off)[np.argsort(residual[off])]:
        i, j = ends[~off].T
        parts, part = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(count, count)), directed=False)
        if parts == 1:
            break
        off[edge] = part[ends[edge, 0]] == part[ends[edge, 1]]
    return off


def _to_known(S: Array, poses: Array, known: NDArray[np.bool_]) -> Similarity:
    """The similarity that takes similarities or poses (N, 4, 4) nearest to the known poses."""
    a, b = S[known], poses[known]
    turn = b[:, :3, :3] @ np.swapaxes(a[:, :3, :3] / scale_of(a)[:, None, None], 1, 2)
    U, _, Vt = np.linalg.svd(turn.sum(axis=0))
    R = (U * [1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    mean_a, mean_b = a[:, :3, 3].mean(axis=0), b[:, :3, 3].mean(axis=0)
    spread = [float(np.linalg.norm(x - x.mean(axis=0))) for x in (a[:, :3, 3], b[:, :3, 3])]
    scale = spread[1] / spread[0] if min(spread) > 1e-9 else 1.0
    return Similarity(scale, R, mean_b - scale * R @ mean_a)
