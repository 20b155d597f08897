"""The start of the alignment from moments: focals, canonical depths, and a pose graph initialised along a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from dust3r_ros.alignment.batch.pixel_block import PixelBlock, points_at
from dust3r_ros.alignment.batch.priors import held_poses, soft_poses
from dust3r_ros.alignment.batch.problem import AlignmentProblem
from dust3r_ros.alignment.batch.ray_median import inverse_root
from dust3r_ros.alignment.moments import check_informative, inverse, packed, scale_of, unpacked
from dust3r_ros.alignment.similarity_graph import SimilarityGraph
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.focal import FOCAL_LIMITS, reference_focal
from dust3r_ros.geometry.pose import solve_pnp
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.geometry.similarity import Similarity, similarity_of_poses
from dust3r_ros.types import Array, Array32


def tree(ends: NDArray[np.int64], score: Array, second_S_first: Array) -> tuple[Array, int]:
    """(N, 4, 4) along the maximum spanning tree from its root, the best edge's first image; that is the world frame."""
    count = int(ends.max()) + 1
    order = np.argsort(score)
    best = {(min(i, j), max(i, j)): e for e, (i, j) in zip(order.tolist(), ends[order].tolist(), strict=True)}
    row, column = np.array(list(best)).T
    chosen = np.array(list(best.values()))
    cost = 1.0 + (score.max() - score[chosen]) / max(float(np.ptp(score)), 1e-300)
    tree = minimum_spanning_tree(coo_array((cost, (row, column)), shape=(count, count)).tocsr())
    root = int(ends[order[-1], 0])
    sequence, parent = breadth_first_order(tree, root, directed=False)
    S, first_S_second = np.tile(np.eye(4), (count, 1, 1)), inverse(second_S_first)
    for child in sequence[1:].tolist():
        i = int(parent[child])
        e = best[(min(i, child), max(i, child))]
        S[child] = S[i] @ (second_S_first if ends[e, 0] == child else first_S_second)[e]
    return S, root


def in_known_world(problem: AlignmentProblem, S: Array, root: int) -> tuple[Array, NDArray[np.bool_]]:
    """The start in the world of the known poses and depths, and which increments (N, 7) are free."""
    free = np.ones((len(S), 7), dtype=bool)
    known, sized = _given(problem, len(S))
    if known.any():
        assert problem.poses is not None
        S = _to_known(S, problem.poses, known).matrix @ S
    else:
        free[root] = False
    if sized.any():
        # An image with depth in the world's unit has scale 1. The centre of the known poses stays.
        pivot = S[known, :3, 3].mean(axis=0) if known.any() else S[root, :3, 3]
        factor = np.exp(-np.log(scale_of(S[sized])).mean())
        S[:, :3, 3] = pivot + factor * (S[:, :3, 3] - pivot)
        S[:, :3, :3] *= factor
        S[sized, :3, :3] /= scale_of(S[sized])[:, None, None]
        free[root, 6] = True
        free[sized, 6] = False
    elif known.any() and np.ptp(problem.poses[known, :3, 3], axis=0).max() < 1e-9:  # type: ignore[index]
        free[np.flatnonzero(known)[0], 6] = False  # a single place does not determine the scale
    held = held_poses(problem)
    if held.any():
        assert problem.poses is not None
        S[held, :3, :3] = scale_of(S[held])[:, None, None] * problem.poses[held, :3, :3]
        S[held, :3, 3] = problem.poses[held, :3, 3]
        free[held, :6] = False
    return S, free


def _given(problem: AlignmentProblem, images: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) which images have a known pose, and which known depth."""
    none = np.zeros(images, bool)
    known = none if problem.poses is None else np.isfinite(problem.poses[:, 0, 0])
    sized = none if problem.depths is None else np.array([bool(z.any()) for z in problem.depths])
    return known, sized


def joined(ends: NDArray[np.int64], residual: Array, off: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which edges are switched off, except the best of those needed to keep all images connected."""
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
    near = S[known]
    near[:, :3, :3] /= scale_of(near)[:, None, None]
    return similarity_of_poses(near, poses[known])


_WEISZFELD = 6
_SCALINGS = 4  # rounds of scaling an image's own views to their mean
_FLOOR = 0.01  # of the canonical depth: residuals below it get equal weight
_LOG_FLOOR = 0.01  # the same for logarithms of depth
_TINY = np.float32(1e-30)


@dataclass(eq=False)
class GlobalStart:
    """``w_T_c`` (N, 4, 4), ``focals`` (N,), ``w_S_pair`` (E, 4, 4): frames of the pairs in the world; from the
    pose graph, ``residual`` (E,), root mean square in the world's unit, and ``switched_off`` (E,).
    """

    w_T_c: Array
    focals: Array
    w_S_pair: Array
    residual: Array
    switched_off: NDArray[np.bool_]


def global_start(problem: AlignmentProblem, blocks: Sequence[PixelBlock]) -> GlobalStart:
    """The start from the sampled pixels of every image, which may be split into several blocks.

    Raises ``GeometryError`` for pairs without information and images without a place.
    """
    blocks = _whole(blocks)
    focals = _focals(problem, blocks)
    depths = [_own_depths(block) for block in blocks]
    for block, depth in zip(blocks, depths, strict=True):
        _borrow_depths(problem, block, focals, depth)
        _take_depths(problem, block, depth)
    ends = np.array([(pair.first, pair.second) for pair in problem.pairs])
    scale = _pair_scales(blocks, depths, len(ends))
    points = [points_at(block.slopes(focals), depth) for block, depth in zip(blocks, depths, strict=True)]
    M = _moments(blocks, points, scale, None)
    second_S_first = check_informative(M, [f"pair ({i}, {j})" for i, j in ends])
    S, root = tree(ends, _scores(blocks, len(ends)), second_S_first)
    S, free = in_known_world(problem, S, root)
    M = _moments(blocks, points, scale, inverse(S[ends[:, 1]]) @ S[ends[:, 0]])
    solution = SimilarityGraph(ends[:, 0], ends[:, 1], M, free, soft_poses(problem)).solve(S)
    S = solution.S
    w_T_c = S.copy()
    w_T_c[:, :3, :3] /= scale_of(S)[:, None, None]
    held = held_poses(problem)
    if problem.poses is not None:
        w_T_c[held] = problem.poses[held]
    w_S_pair = S[ends[:, 0]].copy()
    w_S_pair[:, :3, :3] *= scale[:, None, None]
    size = scale_of(S)
    residual = solution.residual * np.sqrt(size[ends[:, 0]] * size[ends[:, 1]])
    return GlobalStart(w_T_c, focals, w_S_pair, residual, joined(ends, residual, solution.switched_off))


def _whole(blocks: Sequence[PixelBlock]) -> Sequence[PixelBlock]:
    """Each image in one block, so that its unit, its pairs' units and its moments come from all its pixels."""
    images = np.concatenate([block.images for block in blocks])
    if len(np.unique(images)) == len(images):
        return blocks
    return [PixelBlock.of_image(int(image), blocks) for image in np.unique(images)]


def _focals(problem: AlignmentProblem, blocks: Sequence[PixelBlock]) -> Array:
    """(N,) given focals, else Weiszfeld's over all own views of the image, or of all images of its camera."""
    count = len(problem.shapes)
    usual = np.array([reference_focal(*shape) for shape in problem.shapes])
    camera = np.arange(count) if problem.cameras is None else np.unique(problem.cameras, return_inverse=True)[1]
    own = [_own_slopes(block) for block in blocks]
    focal = usual.copy()
    for step in range(_WEISZFELD + 1):
        along, square = np.zeros((2, count))
        for image, pixels, slopes, weights in own:
            pull = weights
            if step:
                r = pixels - focal[image, None, None].astype(np.float32) * slopes
                pull = np.einsum("kap,kap->kp", r, r)
                pull += np.float32(1e-6)
                inverse_root(pull, out=pull)
                pull *= weights
            weighted = pull[:, None] * slopes
            along += np.bincount(image, np.einsum("kap,kap->k", pixels, weighted), count)
            square += np.bincount(image, np.einsum("kap,kap->k", slopes, weighted), count)
        along, square = (np.bincount(camera, values)[camera].astype(np.float64) for values in (along, square))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = along / square
        good = np.isfinite(found) & (found > 0)
        typical = np.median(found[good] / usual[good]) if good.any() else 1.0
        focal = np.clip(np.where(good, found, typical * usual), FOCAL_LIMITS[0] * usual, FOCAL_LIMITS[1] * usual)
    if problem.focals is not None:
        focal = np.where(np.isnan(problem.focals), focal, problem.focals)
    return focal


def _own_slopes(block: PixelBlock) -> tuple[NDArray[np.int64], Array32, Array32, Array32]:
    """For the V observations of an image's own view: image (V,), pixels and slopes (V, 2, P), weights (V, P)."""
    at = np.nonzero(block.views == 0)
    rows, weights = block.rows[at], block.weights[at]
    front = rows[:, 2] > 0
    slopes = rows[:, :2] / np.where(front, rows[:, 2], np.float32(1))[:, None]
    pixels: Array32 = np.broadcast_to(block.pixels, slopes.shape)
    return block.images[at[0]], pixels, slopes.astype(np.float32), np.where(front, weights, np.float32(0))


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


def _borrow_depths(problem: AlignmentProblem, block: PixelBlock, focals: Array, depths: Array32) -> None:
    """Fill in depths of images that are never first, from their pose in the frame of a pair's first image."""
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


def _take_depths(problem: AlignmentProblem, block: PixelBlock, depths: Array32) -> None:
    """Put given depths in place of canonical ones; pixels without given depth are scaled to its unit."""
    if problem.depths is None:
        return
    for b, image in enumerate(block.images):
        z = problem.depths[image]
        u, v = block.at(z.shape)
        given = z[v, u]
        both = (given > 0) & (depths[b] > 0)
        if both.any():
            depths[b] *= np.median(given[both] / depths[b][both])
        depths[b] = np.where(given > 0, given, depths[b])


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
        edges, w = block.edges[at], block.weights[at]
        c = np.ones((len(edges), 7, w.shape[1]))
        np.multiply(block.rows[at][:, :3], scale[edges, None, None], out=c[:, :3])
        c[:, 4:] = canonical[at[0]]
        if second_S_first is not None:
            r = second_S_first[edges, :3] @ c[:, :4] - c[:, 4:]
            w = w / np.maximum(np.sqrt(np.einsum("ecp,ecp->ep", r, r)), _FLOOR)
        M[edges] = unpacked(packed((c * w[:, None]) @ np.swapaxes(c, 1, 2)))
    return M


def _scores(blocks: Sequence[PixelBlock], count: int) -> Array:
    """(E,) product of the mean log confidences of both views."""
    score = np.ones(count)
    for block in blocks:
        there = block.views >= 0
        np.multiply.at(score, block.edges[there], block.weights.mean(axis=2)[there])
    return score
