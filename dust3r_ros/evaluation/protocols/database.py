"""The images with known poses that queries are localised against, and where their pixels lie in the world."""

from __future__ import annotations

import numpy as np

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.protocols.predictor import Predictor, confident, drawn, own_focals, pose_by_pnp
from dust3r_ros.evaluation.protocols.recordings import Recording, working
from dust3r_ros.evaluation.protocols.retrieval import Retrieval
from dust3r_ros.geometry.matching import match_pointmaps
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.types import Array, Array32, PairPrediction

WAYS = ("matches", "pointmaps")
_PER_IMAGE = 2000  # correspondences of one image of the database
_NEIGHBOURS = 3  # tried for the scale of an image without depth


class Database:
    """Views with poses, intrinsics and perhaps depth. ``by``: how pixels of a query get their points.

    "matches": reciprocal nearest neighbours of the two pointmaps, and the depth of the database's pixel
    (DUSt3R, section 4.1); "pointmaps": the query's own points in the frame of the database's camera, scaled by
    its depth. Where an image has no depth, that of a pair with another image is taken, scaled by their known
    baseline.
    """

    def __init__(self, recording: Recording, predictor: Predictor, by: str = "matches") -> None:
        if by not in WAYS:
            raise InputError(f"localisation by {by!r} is unknown; it must be one of {', '.join(WAYS)}")
        self.views = [view for view in recording.views if view.w_T_c is not None and view.K is not None]
        if len(self.views) < 1:
            raise InputError(f"no view of '{recording.name}' has a pose and intrinsics to localise against")
        self._predictor, self._by, self._size = predictor, by, predictor.size
        self.retrieval = Retrieval(working(view, self._size).image for view in self.views)
        self._depths: dict[int, Array32 | None] = {}

    def correspondences(self, index: int, query: int, seed: int = 0) -> tuple[Array, Array]:
        """World points (N, 3) and pixels (N, 2) of view ``query`` of the predictor, through image ``index``;
        maybe none.

        The predictor is left with the image as one view more.
        """
        none = np.zeros((0, 3)), np.zeros((0, 2))
        depth = self.depth(index)
        if depth is None:
            return none
        number = self._predictor.add(self.views[index])
        view = self._predictor.views[number]
        (pair,) = self._predictor.predict([(number, query)])
        made = working(self.views[index], self._size)
        if self._by == "matches":
            local, pixels = _by_matches(pair, depth, made.focal or 0.0, made.center)
        else:
            local, pixels = _by_pointmaps(pair, depth)
        chosen = drawn(len(local), seed, _PER_IMAGE)
        return transform(view.pose, local[chosen]), pixels[chosen]

    def depth(self, index: int) -> Array32 | None:
        """(H, W) at working pixels, in the unit of the poses, 0 = none; None where nothing tells it."""
        if index not in self._depths:
            measured = working(self.views[index], self._size).depth()
            self._depths[index] = measured if measured is not None else self._predicted(index)
        return self._depths[index]

    def _predicted(self, index: int) -> Array32 | None:
        own = Predictor(self._predictor.backend, self._size, known_focals=True)
        kept = self._predictor.views
        own.views = list(kept)  # numbers go on, so that the query is not replaced
        first = own.add(self.views[index])
        for neighbour in self.retrieval.neighbours(index, _NEIGHBOURS):
            second = own.add(self.views[neighbour])
            try:
                return _scaled(own, first, second)
            except GeometryError:
                continue
            finally:
                own.backend.forget(second)
        return None


def _scaled(predictor: Predictor, first: int, second: int) -> Array32:
    a, b = predictor.views[first].pose, predictor.views[second].pose
    (pair,) = predictor.predict([(first, second)], {first: a, second: b})
    scale = 1.0
    if not predictor.backend.uses_poses:
        focal = own_focals([], predictor.views)[second]
        if focal is None:
            raise GeometryError("the focal of a database image is not known")
        found = pose_by_pnp(pair, focal, predictor.views[second].center).w_T_c
        scale = float(np.linalg.norm(a[:3, 3] - b[:3, 3]) / max(np.linalg.norm(found[:3, 3]), 1e-12))
    depth = np.where(confident(pair.confidence_first), pair.points_first[..., 2] * scale, 0)
    if not (scale > 0 and (depth > 0).any()):
        raise GeometryError("a pair of database images has no baseline or no depth")
    return np.maximum(depth, 0).astype(np.float32)


def _by_matches(pair: PairPrediction, depth: Array32, focal: float, center: tuple[float, float]) -> tuple[Array, Array]:
    """Points in the database camera's frame and the query's pixels."""
    known, seen = confident(pair.confidence_first) & (depth > 0), confident(pair.confidence_second)
    if not (known.any() and seen.any()):
        return np.zeros((0, 3)), np.zeros((0, 2))
    here, there = match_pointmaps(pair.points_first, pair.points_second, known, seen)
    u, v = here.astype(int).T
    return rays(here, focal, center) * depth[v, u][:, None], there


def _by_pointmaps(pair: PairPrediction, depth: Array32) -> tuple[Array, Array]:
    z = pair.points_first[..., 2]
    known = confident(pair.confidence_first) & (depth > 0) & (z > 0)
    rows, columns = np.nonzero(confident(pair.confidence_second) & np.isfinite(pair.points_second).all(axis=-1))
    if not known.any() or len(rows) == 0:
        return np.zeros((0, 3)), np.zeros((0, 2))
    scale = float(np.median(depth[known] / z[known]))
    return scale * pair.points_second[rows, columns].astype(np.float64), np.stack([columns, rows], -1).astype(
        np.float64
    )
