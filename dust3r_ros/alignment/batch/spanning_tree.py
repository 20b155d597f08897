"""The start of the published alignment: images placed one after another along a tree of confident pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.focal import estimate_focal, reference_focal
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.geometry.pose import solve_pnp
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.geometry.similarity import Similarity, similarity_of_poses, weighted_similarity
from dust3r_ros.types import Array, Array32, PairPrediction

_PNP_CONFIDENCE, _PNP_PIXELS = 3.0, 5.0
_START_PIXELS = 20000  # of a view suffice for its focal and its similarity
_PNP_POINTS = 5000  # of a view suffice for its pose


@dataclass(frozen=True, eq=False)
class Start:
    """``w_T_c`` (N, 4, 4), ``focals`` (N,) pixels and ``depths`` (N maps (H, W) of z > 0)."""

    w_T_c: Array
    focals: Array
    depths: list[Array]


def sample_stride(shape: tuple[int, ...]) -> int:
    """The stride of rows and columns of an image (H, W) that a start needs."""
    return max(1, round(float(np.sqrt(shape[0] * shape[1] / _START_PIXELS))))


def pair_scores(pairs: Sequence[PairPrediction]) -> Array:
    """(E,) product of the mean confidences of both views."""
    return np.array([float(np.mean(p.confidence_first)) * float(np.mean(p.confidence_second)) for p in pairs])


def maximum_spanning_tree(pairs: Sequence[PairPrediction]) -> list[int]:
    """Positions in ``pairs`` of the N - 1 pairs that connect all images with the highest sum of scores.

    The best one comes first, then always the best that touches those before it. Raises
    ``GeometryError`` if the pairs do not connect all images.
    """
    scores = pair_scores(pairs)
    images = 1 + max(max(pair.first, pair.second) for pair in pairs)
    best: dict[tuple[int, int], int] = {}
    for index in np.argsort(scores, kind="stable"):
        best[min(pairs[index].first, pairs[index].second), max(pairs[index].first, pairs[index].second)] = int(index)
    row, column = np.array(list(best)).T
    chosen = np.array(list(best.values()))
    # Costs must be positive: 0 means no edge.
    cost = 1.0 + (scores.max() - scores[chosen]) / max(float(np.ptp(scores)), 1e-12)
    tree = minimum_spanning_tree(coo_array((cost, (row, column)), shape=(images, images)).tocsr()).tocoo()
    if tree.nnz != images - 1:
        raise GeometryError(f"{len(pairs)} pairs connect at most {tree.nnz + 1} of {images} images")
    left = sorted((best[int(i), int(j)] for i, j in zip(tree.row, tree.col, strict=True)), key=lambda e: -scores[e])
    order = [left.pop(0)]
    placed = {pairs[order[0]].first, pairs[order[0]].second}
    while left:
        nearest = next(e for e in left if pairs[e].first in placed or pairs[e].second in placed)
        left.remove(nearest)
        placed |= {pairs[nearest].first, pairs[nearest].second}
        order.append(nearest)
    return order


def start_focals(pairs: Sequence[PairPrediction], focals: Array | None = None) -> Array:
    """(N,) pixels: given focals (not NaN), else Weiszfeld's from the best pair that has the image first.

    An image that is never first, or whose pointmap gives no focal, gets the median over the others in
    multiples of ``reference_focal``.
    """
    scores = pair_scores(pairs)
    shapes = {p.first: p.confidence_first.shape for p in pairs} | {p.second: p.confidence_second.shape for p in pairs}
    found = np.full(len(shapes), np.nan) if focals is None else focals.astype(np.float64)
    for index in np.argsort(-scores, kind="stable"):
        pair = pairs[index]
        if np.isnan(found[pair.first]):
            try:
                found[pair.first] = _own_focal(pair.points_first, pair.confidence_first)
            except GeometryError:
                continue
    usual = np.array([reference_focal(*shapes[image]) for image in range(len(shapes))])
    typical = np.nanmedian(found / usual) if np.isfinite(found).any() else 1.0
    return np.where(np.isnan(found), typical * usual, found)


def _own_focal(points: Array32, confidence: Array32) -> float:
    stride = sample_stride(confidence.shape)
    cx, cy = center_of(*confidence.shape)
    sample = points[::stride, ::stride], confidence[::stride, ::stride]
    return stride * estimate_focal(*sample, center=(cx / stride, cy / stride))


def tree_start(pairs: Sequence[PairPrediction], focals: Array | None = None, poses: Array | None = None) -> Start:
    """The published start (Wang et al., "DUSt3R", CVPR 2024, section 3.4), in the unit of the best pair.

    Its first image is the world frame. Along the tree, a similarity weighted with log confidence puts a pair
    onto the points of its known view. A new first view's pose is the pair's own; a new second view's comes from
    PnP with RANSAC, or through another pair that has it first. Finite ``focals`` (N,) and ``poses`` (N, 4, 4)
    are used as given, and the world is then that of the poses. Raises ``GeometryError`` if an image cannot be
    placed.
    """
    found = start_focals(pairs, focals)
    points, seen, w_T_c = _along_tree(pairs)
    for image in points:
        if image not in w_T_c:
            w_T_c[image] = _placed(image, points[image], seen[image], float(found[image]), pairs)
    images = range(len(points))
    placed = np.stack([w_T_c[image] for image in images])
    if poses is not None and np.isfinite(poses[:, 0, 0]).any():
        known_S_w = _to_known(placed, poses)
        points = {image: known_S_w.apply(X) for image, X in points.items()}
        placed = np.stack([known_S_w.pose(T) for T in placed])
        placed = np.where(np.isfinite(poses), poses, placed)
    depths = [_depth(transform(invert(placed[image]), points[image])[..., 2]) for image in images]
    return Start(placed, found, depths)


def _along_tree(
    pairs: Sequence[PairPrediction],
) -> tuple[dict[int, Array], dict[int, Array32], dict[int, Array]]:
    """By image: the world points of its pixels, their confidence, and its pose if it was placed as a first view."""
    points: dict[int, Array] = {}
    seen: dict[int, Array32] = {}
    w_T_c: dict[int, Array] = {}
    for index in maximum_spanning_tree(pairs):
        pair = pairs[index]
        w_S_pair = _into_world(pair, points)
        views = (
            (pair.first, pair.points_first, pair.confidence_first),
            (pair.second, pair.points_second, pair.confidence_second),
        )
        for image, X, confidence in views:
            if image not in points:
                points[image], seen[image] = w_S_pair.apply(X.astype(np.float64)), confidence
                if image == pair.first:
                    w_T_c[image] = pose(w_S_pair.rotation, w_S_pair.translation)
    return points, seen, w_T_c


def _into_world(pair: PairPrediction, points: dict[int, Array]) -> Similarity:
    """The similarity that takes a pair's known view to its place in the world; identity for the first pair."""
    if not points:
        return Similarity.identity()
    if pair.first in points:
        return fit_view(pair.points_first, points[pair.first], pair.confidence_first)
    return fit_view(pair.points_second, points[pair.second], pair.confidence_second)


def fit_view(source: Array32, target: Array, confidence: Array32) -> Similarity:
    """The similarity from points (H, W, 3) to their places, weighted with log confidence (H, W)."""
    stride = sample_stride(confidence.shape)
    sample = (slice(None, None, stride), slice(None, None, stride))
    keep = confidence[sample] > 1.0
    weight = np.log(confidence[sample][keep].astype(np.float64))
    return weighted_similarity(source[sample][keep], target[sample][keep], weight)


def _placed(image: int, points: Array, confidence: Array32, focal: float, pairs: Sequence[PairPrediction]) -> Array:
    """Pose of an image from the world points (H, W, 3) of its pixels."""
    height, width = confidence.shape
    sure = np.flatnonzero(confidence > _PNP_CONFIDENCE)
    if len(sure) < _PNP_POINTS // 10:
        sure = np.flatnonzero(confidence > 1.0)
    sure = sure[:: max(1, len(sure) // _PNP_POINTS)]
    pixels = pixel_grid(height, width).reshape(-1, 2)[sure]
    try:
        center = center_of(height, width)
        return solve_pnp(points.reshape(-1, 3)[sure], pixels, focal, center, threshold_px=_PNP_PIXELS).w_T_c
    except GeometryError as error:
        own = [pair for pair in pairs if pair.first == image]
        if not own:
            raise GeometryError(f"image {image} cannot be placed among the others: {error}") from error
        best = own[int(np.argmax(pair_scores(own)))]
        w_S_c = fit_view(best.points_first, points, np.minimum(best.confidence_first, confidence))
        return pose(w_S_c.rotation, w_S_c.translation)


def _to_known(w_T_c: Array, known: Array) -> Similarity:
    """The similarity from the world of poses (N, 4, 4) to that of the known ones (NaN for unknown)."""
    which = np.isfinite(known[:, 0, 0])
    return similarity_of_poses(w_T_c[which], known[which])


def _depth(z: Array) -> Array:
    """Depth; values behind the camera become a hundredth of the median in front of it."""
    front = z[z > 0]
    return np.maximum(z, 0.01 * float(np.median(front)) if front.size else 1.0)
