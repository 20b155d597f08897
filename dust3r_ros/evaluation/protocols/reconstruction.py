"""Reconstruction: the cloud of a map, or of a few aligned views, against true points, including DTU's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.datasets.recording import Recording, View
from dust3r_ros.evaluation.protocols.clouds import ObservedVolume, cloud_errors, dtu_errors, refine_alignment
from dust3r_ros.evaluation.protocols.cost import Cost
from dust3r_ros.evaluation.protocols.depth import parts_of
from dust3r_ros.evaluation.protocols.predictor import Predictor, drawn
from dust3r_ros.evaluation.protocols.recordings import select
from dust3r_ros.evaluation.protocols.rows import Row, guarded, row
from dust3r_ros.geometry.depths import multi_view_depth
from dust3r_ros.geometry.lens import ray_slopes
from dust3r_ros.geometry.pinhole import pixel_grid, rays
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.geometry.similarity import Similarity, weighted_similarity
from dust3r_ros.products.ply import read_ply
from dust3r_ros.products.results import cloud_of
from dust3r_ros.types import Array

if TYPE_CHECKING:
    from dust3r_ros.evaluation.protocols.mapping import Mapped


def read_reference(
    points: str | Path, observed: str | Path | None = None, plane: str | Path | None = None
) -> Reference:
    """From files as DTU ships them: ``stl006_total.ply``, ``ObsMask6_10.mat`` and ``Plane6.mat``, all in mm.

    The mask has ObsMask (X, Y, Z), BB (2, 3) lowest and highest corner and Res, the edge of a voxel; the plane P (4,).
    Raises ``InputError`` naming the file that is missing or damaged.
    """
    volume = None
    if observed is not None:
        data = _matlab(observed, ("ObsMask", "BB", "Res"))
        seen, low, voxel = (
            np.asarray(data["ObsMask"]) > 0,
            np.asarray(data["BB"], np.float64),
            float(np.ravel(data["Res"])[0]),
        )
        if seen.ndim != 3 or low.shape != (2, 3) or not (np.isfinite(low).all() and voxel > 0):
            raise InputError(f"'{observed}' holds a mask {seen.shape}, a box {low.shape} and voxels of {voxel} mm")
        volume = ObservedVolume(seen, low[0], voxel)
    normal = None if plane is None else np.ravel(np.asarray(_matlab(plane, ("P",))["P"], np.float64))
    if normal is not None and (normal.shape != (4,) or not np.isfinite(normal).all()):
        raise InputError(f"'{plane}' holds a plane of {normal.size} numbers; it must be 4")
    return Reference(read_ply(points).points.astype(np.float64), volume, normal)


def reference_of(recording: Recording) -> Reference:
    """From the files named in a recording's ``truth``: points, and observed volume and plane where there are any.

    For ``run_reconstruction``'s ``reference``. Raises ``InputError`` without points.
    """
    files = recording.truth
    if "points" not in files:
        raise InputError(f"'{recording.name}' has no measured points to compare with")
    return read_reference(files["points"], files.get("observed"), files.get("plane"))


def _matlab(path: str | Path, names: tuple[str, ...]) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        data = loadmat(str(path))
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise InputError(f"'{path}' cannot be read as a MATLAB file: {error}") from error
    missing = [name for name in names if name not in data]
    if missing:
        raise InputError(f"'{path}' has no {', '.join(missing)}; it must hold {', '.join(names)}")
    return dict(data)


PROTOCOL = "reconstruction"
_POINTS = 200_000  # of each cloud compared in centimetres
_TRUE_VIEWS = 40
ICP_CM = 10.0  # neighbours further apart are ignored


@dataclass(frozen=True, eq=False)
class Reference:
    """A measured surface in the frame of the true poses: ``points`` (N, 3) in mm, and the volume it can judge (DTU)."""

    points: Array
    observed: ObservedVolume | None = None
    plane: Array | None = None


def run_reconstruction(
    recordings: Iterable[Recording],
    backend: Backend,
    *,
    views: int = 12,
    size: int = 512,
    known_poses: bool = False,
    known_focals: bool = False,
    icp: bool = False,
    reference: Callable[[Recording], Reference] | None = None,
) -> Iterator[Row]:
    """One row per recording: the cloud of ``views`` evenly spaced views, aligned from all their ordered pairs.

    The Sim3 between camera centres takes the cloud to the truth (at least 3 places), refined by rigid ICP with
    ``icp``. With ``known_poses`` true poses are fixed instead. Without ``reference`` the truth is the true depth of
    the same views and figures are in cm (as on 7-Scenes); with it they are DTU's in mm. True poses are in metres.
    """
    for recording in recordings:
        protocol = PROTOCOL + known_poses * "_poses" + icp * "_icp"

        def measure(recording: Recording = recording, protocol: str = protocol) -> Row:
            posed = [index for index, view in enumerate(recording.views) if view.w_T_c is not None]
            if len(posed) < 3:
                raise InputError(f"'{recording.name}' has {len(posed)} views with a true pose; at least 3 are needed")
            even = np.unique(np.linspace(0, len(posed) - 1, min(views, len(posed))).round().astype(int))
            chosen = select(recording, [posed[index] for index in even])
            predictor, cost = Predictor(backend, size, known_focals), Cost()
            with cost.timed():
                cloud, used = _cloud(predictor, chosen, known_poses)
            values = _compared(recording, chosen.views, cloud, icp, reference)
            share = 100.0 * used / len(chosen.views)
            return row(recording, protocol, backend.name, views=used, tracked=share, **values, seconds=cost.seconds)

        yield guarded(recording, protocol, backend.name, measure)


def map_cloud_row(mapped: Mapped, icp: bool = False) -> Row:
    """Accuracy and completeness in cm of the map's cloud against the true depth of its keyframes and other views.

    The trajectory's Sim3 takes the cloud to the truth, refined by rigid ICP with ``icp``.
    """
    config, keyframes = mapped.config, mapped.session.mapper.keyframes
    errors = mapped.errors()
    cloud = cloud_of(keyframes, config)
    if not len(cloud):
        raise GeometryError(f"the map of '{mapped.recording.name}' has no points")
    seen = mapped.recording.views[: mapped.frames]
    values = _compared(mapped.recording, seen, errors.to_truth(cloud.points.astype(np.float64)), icp)
    return row(mapped.recording, "map_cloud" + icp * "_icp", mapped.system, keyframes=len(keyframes), **values)


def true_cloud(views: Sequence[View], most: int = _POINTS) -> Array:
    """(N, 3) points in the frame of the true poses, of the true depth of at most 40 evenly spaced views.

    Views without pose, intrinsics or depth give none. Raises ``InputError`` where nothing is left.
    """
    useful = [view for view in views if view.w_T_c is not None and view.K is not None]
    even = np.unique(np.linspace(0, len(useful) - 1, min(_TRUE_VIEWS, len(useful))).round().astype(int))
    parts = [_points_of(useful[index], most // len(even) + 1) for index in even]
    points = np.concatenate([np.zeros((0, 3)), *parts])
    if len(points) == 0:
        raise InputError(f"none of {len(views)} views has pose, intrinsics and depth; true points need all three")
    return points


def _points_of(view: View, most: int) -> Array:
    depth = view.depth()
    if depth is None or view.K is None or view.w_T_c is None:
        return np.zeros((0, 3))
    rows, columns = np.nonzero(np.isfinite(depth) & (depth > 0))
    chosen = drawn(len(rows), 0, most)
    rows, columns = rows[chosen], columns[chosen]
    height, width = view.image().shape[:2]
    scale = np.array([width / depth.shape[1], height / depth.shape[0]])  # a depth map may differ in size from the image
    pixels = (np.stack([columns, rows], axis=-1) + 0.5) * scale - 0.5
    lens = view.calibration  # of raw images; a map takes it out
    slopes = (pixels - view.K[:2, 2]) / [view.K[0, 0], view.K[1, 1]] if lens is None else ray_slopes(lens, pixels)
    z = depth[rows, columns].astype(np.float64)[:, None]
    return transform(view.w_T_c, np.concatenate([slopes * z, z], axis=1))


def _cloud(predictor: Predictor, chosen: Recording, known_poses: bool) -> tuple[Array, int]:
    """(N, 3) of the largest world, in the frame and unit of the true poses; and its number of views."""
    views = predictor.take(chosen.views)
    worlds = parts_of(predictor, known_poses)
    if not worlds:
        raise GeometryError("no pair of the views is informative")
    images, scene = worlds[0].images, worlds[0].alignment
    parts = []
    for index, (image, w_T_c, focal) in enumerate(zip(images, scene.w_T_c, scene.focals, strict=True)):
        depth = multi_view_depth(scene, index).depth
        keep = depth > 0
        local = rays(pixel_grid(*depth.shape)[keep], float(focal), views[image].center) * depth[keep][:, None]
        parts.append(transform(w_T_c, local))
    cloud = np.concatenate(parts)
    if known_poses:
        return cloud, len(images)
    centers = np.array([views[image].pose[:3, 3] for image in images])
    return weighted_similarity(scene.w_T_c[:, :3, 3], centers).apply(cloud), len(images)


def _compared(
    recording: Recording,
    views: Sequence[View],
    cloud: Array,
    icp: bool,
    reference: Callable[[Recording], Reference] | None = None,
) -> dict[str, Any]:
    """Columns for a cloud in the frame of the true poses."""
    if reference is not None:
        known = reference(recording)
        cloud = 1000.0 * cloud
        cloud = _refined(cloud, known.points, 10.0 * ICP_CM if icp else None).apply(cloud)
        mm = dtu_errors(cloud, known.points, observed=known.observed, plane=known.plane)
        return {"accuracy_mm": mm.accuracy, "completeness_mm": mm.completeness, "overall_mm": mm.overall}
    if not recording.metric:
        raise InputError(f"the true poses of '{recording.name}' are not in metres; errors in cm need metres")
    true = 100.0 * true_cloud(views)
    cloud = 100.0 * cloud[drawn(len(cloud), 0, _POINTS)]
    cm = cloud_errors(_refined(cloud, true, ICP_CM if icp else None).apply(cloud), true)
    return {
        "accuracy_cm": cm.accuracy, "completeness_cm": cm.completeness, "overall_cm": cm.overall,
        "accuracy_median_cm": cm.accuracy_median, "completeness_median_cm": cm.completeness_median,
    }  # fmt: skip


def _refined(cloud: Array, true: Array, within: float | None) -> Similarity:
    return Similarity.identity() if within is None else refine_alignment(cloud, true, max_distance=within)
