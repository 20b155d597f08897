"""Visual localisation: where single images were taken, against a database of images or a map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.protocols.camera_places import localisation, place_errors
from dust3r_ros.evaluation.protocols.cost import Cost
from dust3r_ros.evaluation.protocols.database import Database
from dust3r_ros.evaluation.protocols.mapping import map_recording
from dust3r_ros.evaluation.protocols.predictor import Predictor
from dust3r_ros.evaluation.protocols.recordings import RecordedView, Recording
from dust3r_ros.evaluation.protocols.rows import Row, guarded, row
from dust3r_ros.geometry.pose import solve_pnp, solve_pnp_unknown_focal
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.types import Array

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

    For each query the ``retrieved`` database images that look most alike give world points to its pixels
    (``database.Database``, ``by``), and PnP-RANSAC over all of them its pose. ``known_focals``: with the query's
    intrinsics; without, its focal is found along with the pose.
    """
    protocol = PROTOCOL if by == "matches" else f"{PROTOCOL}_{by}"
    for database, queries in scenes:

        def measure(database: Recording = database, queries: Recording = queries) -> Row:
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
    """The same against a map: the mapper maps the database and finds the queries in it (``Mapper.localize``).

    The map gets its scale and place by the Sim3 that takes the database's trajectory to its true poses. A database
    should be a video here: what the mapper does not connect, it does not know.
    """
    system = config.backend if backend is None else backend.name
    for database, queries in scenes:

        def measure(database: Recording = database, queries: Recording = queries) -> Row:
            mapped = map_recording(database, config, backend=backend, known_focal=known_focal)
            errors = mapped.errors()
            truth_S_map = Similarity(errors.scale, errors.rotation, errors.translation)
            found, cost = [], Cost()
            for view in _asked(queries):
                with cost.timed():
                    found.append(_find(mapped.session.mapper, view, truth_S_map))
            return _row(queries, IN_MAP, system, found, cost, keyframes=len(mapped.session.mapper.keyframes))

        yield guarded(queries, IN_MAP, system, measure)


def _asked(queries: Recording) -> list[RecordedView]:
    asked = [view for view in queries.views if view.w_T_c is not None]
    if not asked:
        raise InputError(f"no view of '{queries.name}' has a true pose to be compared with")
    return asked


def _locate(view: RecordedView, images: Database, predictor: Predictor, retrieved: int, seed: int) -> Array | None:
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


def _find(mapper: Any, view: RecordedView, truth_S_map: Similarity) -> Array | None:
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
