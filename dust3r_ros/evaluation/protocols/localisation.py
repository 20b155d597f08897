"""Visual localisation: poses of single images against a database of images or a map, and their recall."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.datasets.recording import Recording, View
from dust3r_ros.evaluation.protocols import rows
from dust3r_ros.evaluation.protocols.cost import Cost
from dust3r_ros.evaluation.protocols.mapping import map_recording
from dust3r_ros.evaluation.protocols.predictor import Predictor, confident, drawn, own_focals, pose_by_pnp
from dust3r_ros.evaluation.protocols.recordings import WorkingView, working
from dust3r_ros.evaluation.protocols.relative_pose import rotation_angles
from dust3r_ros.evaluation.protocols.rows import Row, guarded, row
from dust3r_ros.features.features import extract
from dust3r_ros.features.place_recognition import Appearance
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.pose import solve_pnp, solve_pnp_unknown_focal
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.geometry.similarity import Similarity, match_pointmaps
from dust3r_ros.types import Array, Array32, Image, PairPrediction

# (metres, degrees): the threshold of 7-Scenes, then the three of the long-term localisation benchmark.
THRESHOLDS = ((0.05, 5.0), (0.25, 2.0), (0.5, 5.0), (5.0, 10.0))


@dataclass(frozen=True)
class Localisation:
    """Over ``queries`` images: medians (infinite when at most half were found), ``recall`` {(m, deg): percent}
    within both thresholds, ``found`` percent that got a pose at all.
    """

    median_cm: float
    median_deg: float
    recall: dict[tuple[float, float], float]
    found: float
    queries: int


def place_errors(true: ArrayLike, found: Sequence[ArrayLike | None]) -> tuple[Array, Array]:
    """(metres (N,), degrees (N,)) of poses ``w_T_c``: distance of camera centres, angle between orientations.

    ``true`` (N, 4, 4) in metres; ``found`` N poses in the same frame, None for an image that was not found: both
    its errors are infinite. Exactly 0 for equal poses. Raises ``InputError``.
    """
    T = rows.poses("true poses", true)
    rows.same_count("poses", T, found)  # type: ignore[arg-type]
    metres, degrees = np.full((2, len(T)), np.inf)
    known = [index for index, pose in enumerate(found) if pose is not None]
    if known:
        F = rows.poses("found poses", np.array([found[index] for index in known], dtype=np.float64))
        metres[known] = np.linalg.norm(T[known, :3, 3] - F[:, :3, 3], axis=1)
        degrees[known] = rotation_angles(T[known, :3, :3], F[:, :3, :3])
    return metres, degrees


def localisation(
    metres: ArrayLike, degrees: ArrayLike, thresholds: Sequence[tuple[float, float]] = THRESHOLDS
) -> Localisation:
    """Medians over all images, including those not found (infinite), and recall at thresholds.

    Median cm and degrees as in Kendall et al., "PoseNet", ICCV 2015; recall within both (m, deg) as in
    Shotton et al., CVPR 2013 (5 cm, 5 deg) and Sattler et al., CVPR 2018. Raises ``InputError``.
    """
    far, turned = rows.errors("position errors", metres), rows.errors("rotation errors", degrees)
    rows.same_count("errors of images", far, turned)
    for limit in thresholds:
        if not min(limit) > 0:
            raise InputError(f"threshold {limit} (m, deg) must be positive")
    return Localisation(
        median_cm=100.0 * _median(far),
        median_deg=_median(turned),
        recall={(m, deg): 100.0 * float(np.mean((far <= m) & (turned <= deg))) for m, deg in thresholds},
        found=100.0 * float(np.mean(np.isfinite(far))),
        queries=len(far),
    )


def _median(values: Array) -> float:
    """The median: of an even count the mean of the middle two, infinite if either is."""
    ordered = np.sort(values)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    return float(middle.mean())


class Retrieval:
    """Retrieves images (H, W, 3) RGB by appearance (``appearance.Appearance``; nothing is trained)."""

    def __init__(self, images: Iterable[Image]) -> None:
        self._appearance = Appearance()
        self._global_descriptors = [self._global_descriptor(image) for image in images]

    def best(self, image: Image, count: int) -> list[int]:
        """At most ``count`` images of the database, the most similar first; ties in order."""
        return self._chosen(self._global_descriptor(image), count)

    def neighbours(self, index: int, count: int) -> list[int]:
        """The same for an image of the database, itself left out."""
        return self._chosen(self._global_descriptors[index], count, index)

    def _chosen(self, global_descriptor: Array32, count: int, apart_from: int | None = None) -> list[int]:
        order = np.argsort(
            [-float(other @ global_descriptor) for other in self._global_descriptors], kind="stable"
        ).tolist()
        return [index for index in order if index != apart_from][:count]

    def _global_descriptor(self, image: Image) -> Array32:
        return self._appearance.describe(extract(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)))


WAYS = ("matches", "pointmaps")
_PER_IMAGE = 2000  # correspondences of one image of the database
_NEIGHBOURS = 3  # neighbours tried for the scale of an image without depth


class Database:
    """Views with poses, intrinsics and perhaps depth. ``by``: how pixels of a query get their 3D points.

    "matches": reciprocal nearest neighbours of the two pointmaps, and the depth of the database's pixel
    (DUSt3R, section 4.1); "pointmaps": the query's own points in the frame of the database's camera, scaled by
    its depth. Where an image has no depth, depth comes from a pair with another image, scaled by
    their known baseline.
    """

    def __init__(self, recording: Recording, predictor: Predictor, by: str = "matches") -> None:
        if by not in WAYS:
            raise InputError(f"localisation by {by!r} is unknown; it must be one of {', '.join(WAYS)}")
        self.views = [view for view in recording.views if view.w_T_c is not None and view.K is not None]
        if len(self.views) < 1:
            raise InputError(f"no view of '{recording.name}' has a pose and intrinsics to localise against")
        self._predictor, self._by, self._size = predictor, by, predictor.size
        self.retrieval = Retrieval(self._working(index).image for index in range(len(self.views)))
        self._depths: dict[int, Array32 | None] = {}

    def correspondences(self, index: int, query: int, seed: int = 0) -> tuple[Array, Array]:
        """World points (N, 3) and pixels (N, 2) of view ``query`` of the predictor, through image ``index``; possibly
        none.

        Adds the image to the predictor's views.
        """
        none = np.zeros((0, 3)), np.zeros((0, 2))
        depth = self.depth(index)
        if depth is None:
            return none
        number = self._predictor.add(self.views[index])
        view = self._predictor.views[number]
        (pair,) = self._predictor.predict([(number, query)])
        made = self._working(index)
        if self._by == "matches":
            local, pixels = _by_matches(pair, depth, made.focal or 0.0, made.center)
        else:
            local, pixels = _by_pointmaps(pair, depth)
        chosen = drawn(len(local), seed, _PER_IMAGE)
        return transform(view.pose, local[chosen]), pixels[chosen]

    def depth(self, index: int) -> Array32 | None:
        """(H, W) at working pixels, in the unit of the poses, 0 = none; None where it cannot be found."""
        if index not in self._depths:
            measured = self._working(index).depth()
            self._depths[index] = measured if measured is not None else self._predicted(index)
        return self._depths[index]

    def _working(self, index: int) -> WorkingView:
        """An image with its intrinsics, in the crop of the predictor's views, even if it does not use theirs."""
        return working(self.views[index], self._size, centred=self._predictor.centred)

    def _predicted(self, index: int) -> Array32 | None:
        own = Predictor(self._predictor.backend, self._size, known_focals=True, centred=self._predictor.centred)
        kept = self._predictor.views
        own.views = list(kept)  # new numbers, so that the query is not replaced
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


PROTOCOL = "localisation"
IN_MAP = "localisation_in_map"
_THRESHOLD_PX = 5.0

Scene = tuple[Recording, Recording]  # (database, queries), poses of both in one frame


def run_localisation(
    scenes: Iterable[Scene],
    backend: Backend,
    *,
    by: str = "matches",
    retrieved: int = 5,
    size: int = 512,
    known_focals: bool = True,
    seed: int = 0,
) -> Iterator[Row]:
    """One row per scene: median cm and degrees, recall at thresholds, of every query with a true pose.

    For each query the ``retrieved`` most similar database images give world points for its pixels (``Database``,
    ``by``), and PnP-RANSAC over all of them its pose. ``known_focals``: use the query's intrinsics; else its focal is
    estimated along with the pose.
    """
    protocol = PROTOCOL if by == "matches" else f"{PROTOCOL}_{by}"
    for database, queries in scenes:

        def measure(database: Recording = database, queries: Recording = queries) -> Row:
            _check_parts(database, queries)
            predictor, cost = Predictor(backend, size, known_focals), Cost()
            images = Database(database, predictor, by)
            found = []
            for view in _asked(queries):
                with cost.timed():
                    found.append(_locate(view, images, predictor, retrieved, seed))
            return _row(queries, protocol, backend.name, found, cost, retrieved=retrieved)

        yield guarded(queries, protocol, backend.name, measure)


def run_localisation_in_map(
    scenes: Iterable[Scene], config: MapperConfig, *, backend: Backend | None = None, known_focal: bool = False
) -> Iterator[Row]:
    """The same against a map: the mapper maps the database and localises the queries in it (``Mapper.localize``).

    The database's true poses give the map scale and place, by centres and orientations together
    (``Mapped.truth_S_map``). The database should be a video: the mapper drops what it cannot connect.
    """
    system = config.backend if backend is None else backend.name
    for database, queries in scenes:

        def measure(database: Recording = database, queries: Recording = queries) -> Row:
            _check_parts(database, queries)
            mapped = map_recording(database, config, backend=backend, known_focal=known_focal)
            truth_S_map = mapped.truth_S_map()
            found, cost = [], Cost()
            for view in _asked(queries):
                with cost.timed():
                    found.append(_find(mapped.session.mapper, view, truth_S_map))
            return _row(queries, IN_MAP, system, found, cost, keyframes=len(mapped.session.mapper.keyframes))

        yield guarded(queries, IN_MAP, system, measure)


def _check_parts(database: Recording, queries: Recording) -> None:
    """Raises ``InputError`` for a scene without database or queries."""
    for part, recording in (("train", database), ("test", queries)):
        if not recording.views:
            raise InputError(
                f"scene '{recording.name}' of {recording.dataset} has no '{part}' image; localisation needs both parts"
            )


def _asked(queries: Recording) -> list[View]:
    asked = [view for view in queries.views if view.w_T_c is not None]
    if not asked:
        raise InputError(f"no view of '{queries.name}' has a true pose to be compared with")
    return asked


def _locate(view: View, images: Database, predictor: Predictor, retrieved: int, seed: int) -> Array | None:
    query = predictor.take([view])[0]
    points, pixels = [np.zeros((0, 3))], [np.zeros((0, 2))]
    for index in images.retrieval.best(query.image, retrieved):
        xyz, uv = images.correspondences(index, 0, seed)
        points.append(xyz)
        pixels.append(uv)
    world, seen = np.concatenate(points), np.concatenate(pixels)
    try:
        if query.focal is not None:
            return solve_pnp(world, seen, query.focal, query.center, threshold_px=_THRESHOLD_PX, seed=seed).w_T_c
        height, width = query.image.shape[:2]
        return solve_pnp_unknown_focal(world, seen, width, height, threshold_px=_THRESHOLD_PX, seed=seed).w_T_c
    except GeometryError:
        return None


def _find(mapper: Any, view: View, truth_S_map: Similarity) -> Array | None:
    try:
        return truth_S_map.pose(mapper.localize(view.camera, view.image()).w_T_c)
    except GeometryError:
        return None


def _row(queries: Recording, protocol: str, system: str, found: list[Array | None], cost: Cost, **more: Any) -> Row:
    true = np.array([view.w_T_c for view in _asked(queries)], dtype=np.float64)
    result = localisation(*place_errors(true, found))
    recall = {f"recall_{round(100 * m)}cm_{deg:g}deg": share for (m, deg), share in result.recall.items()}
    return row(
        queries, protocol, system, queries=result.queries, found=result.found, position_cm=result.median_cm,
        rotation_deg=result.median_deg, **recall, seconds=cost.seconds, metric=queries.metric, **more,
    )  # fmt: skip
