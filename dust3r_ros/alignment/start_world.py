"""Where a pose graph starts: along a tree of pairs, in the world of what is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.alignment.priors import held_poses
from dust3r_ros.alignment.problem import Problem
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.types import Array


def tree(ends: NDArray[np.int64], score: Array, second_S_first: Array) -> tuple[Array, int]:
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
    S, first_S_second = np.tile(np.eye(4), (count, 1, 1)), inverse(second_S_first)
    for child in sequence[1:].tolist():
        i = int(parent[child])
        e = best[(min(i, child), max(i, child))]
        S[child] = S[i] @ (second_S_first if ends[e, 0] == child else first_S_second)[e]
    return S, root


def in_known_world(problem: Problem, S: Array, root: int) -> tuple[Array, NDArray[np.bool_]]:
    """The start in the world of the known poses and depths, and which increments (N, 7) are free."""
    free = np.ones((len(S), 7), dtype=bool)
    known = np.zeros(len(S), bool) if problem.poses is None else np.isfinite(problem.poses[:, 0, 0])
    sized = np.array([bool(z.any()) for z in problem.depths]) if problem.depths is not None else np.zeros(len(S), bool)
    if known.any():
        assert problem.poses is not None
        S = _to_known(S, problem.poses, known).matrix @ S
    else:
        free[root] = False
    if sized.any():
        # An image with depth in the world's unit is as large as the world. The middle of the known poses stays.
        pivot = S[known, :3, 3].mean(axis=0) if known.any() else S[root, :3, 3]
        factor = np.exp(-np.log(scale_of(S[sized])).mean())
        S[:, :3, 3] = pivot + factor * (S[:, :3, 3] - pivot)
        S[:, :3, :3] *= factor
        S[sized, :3, :3] /= scale_of(S[sized])[:, None, None]
        free[root, 6] = True
        free[sized, 6] = False
    elif known.any() and np.ptp(problem.poses[known, :3, 3], axis=0).max() < 1e-9:  # type: ignore[index]
        free[np.flatnonzero(known)[0], 6] = False  # one place says nothing of the scale
    held = held_poses(problem)
    if held.any():
        assert problem.poses is not None
        S[held, :3, :3] = scale_of(S[held])[:, None, None] * problem.poses[held, :3, :3]
        S[held, :3, 3] = problem.poses[held, :3, 3]
        free[held, :6] = False
    return S, free


def joined(ends: NDArray[np.int64], residual: Array, off: NDArray[np.bool_]) -> NDArray[np.bool_]:
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
