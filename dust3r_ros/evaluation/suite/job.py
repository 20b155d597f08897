"""One scene in this process, as rows: through one system, or through a protocol of the literature.

Scene folders are none of the literature's data sets, but some hold a part of one, so that its own protocols apply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from dust3r_ros.backends import fitted, make_backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.datasets import DATASETS, Recording, View
from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.evaluation.protocols.registry import JUDGED, Asked, protocol_named
from dust3r_ros.evaluation.report.metrics import is_number
from dust3r_ros.evaluation.report.published import BACKENDS, OURS, POSES, PROTOCOL, RECORDED, RENDERED
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.run import SceneRun, run_scene
from dust3r_ros.evaluation.scene import Scene, image_files, kinds_of, read_scene
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.layouts.reading import image_reader
from dust3r_ros.products.results import peak_memory_mb
from dust3r_ros.types import Array32, StampedPose

_NAMED = ("scene", "backend", "metric")  # fields of a scene's result that its row has by other names


def names_of(path: Path, system: str) -> Row:
    """The names of a scene's row: all there is of a row that failed before it began."""
    dataset = RENDERED if path.name.startswith(RENDERED) else RECORDED
    return {"dataset": dataset, "scene": path.name, "protocol": PROTOCOL, "system": system}


def measure(
    path: Path, system: str, config: MapperConfig, *, max_frames: int | None = None, pictures: Path | None = None
) -> Row:
    """The row of the scene in ``path`` for ``system``: our backends, "two_view, poses only", or "opencv".

    ``pictures``: the folder for plots and the map's picture of our own runs. Raises ``InputError`` for a
    scene that cannot be read or a system that is not known.
    """
    scene = read_scene(path)
    row = names_of(path, system) | {"unit": "m" if scene.metric else "", "data": fingerprint(path)}
    row |= {"limit": max_frames or 0, "kinds": kinds_of(path)}
    if system == "opencv":
        return row | _floor(scene, max_frames)
    run = run_scene(scene, _configured(config, system), max_frames=max_frames)
    memory = peak_memory_mb()  # of mapping only
    found = run.result.to_json()
    row |= {name: _plain(value) for name, value in found.items() if name not in _NAMED}
    row |= {"peak_memory_mb": round(memory, 1)}
    if system == POSES:
        return row | {"density": None, "depth_rel": None, "depth_delta": None}
    predicting = run.stopwatch.total("predict")
    row |= {"pairs_per_second": _plain(found["pairs"] / predicting) if predicting else None}
    row |= _cloud(run, row)
    if pictures:
        _draw(pictures, run, system)
    return row


def _configured(config: MapperConfig, system: str) -> MapperConfig:
    """The configuration for one of our systems. Raises ``InputError`` for one that is not known."""
    if system == POSES:
        return replace(config, backend=OURS, dense=False)
    if system not in BACKENDS:
        raise InputError(f"system '{system}' is not known; known are {', '.join(BACKENDS)}, {POSES}, opencv")
    return replace(config, backend=system)


def _plain(value: Any) -> Any:
    """A figure without meaningless digits; JSON has no infinity."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if is_number(value) else None
    return value


def _cloud(run: SceneRun, row: Row) -> Row:
    from dust3r_ros.evaluation.suite.worlds import cloud_figures, covered

    share = {"covered": _plain(covered(run))}
    try:
        return share | {name: _plain(value) for name, value in cloud_figures(run).items()}
    except GeometryError as error:
        return share | {"note": "; ".join(part for part in (row["note"], f"cloud: {error}") if part)}


def _draw(folder: Path, run: SceneRun, system: str) -> None:
    from dust3r_ros.evaluation.plots import write_plots
    from dust3r_ros.io.files import make_folder
    from dust3r_ros.products.preview import write_preview

    place = make_folder(folder / system)
    write_plots(place, run)
    write_preview(
        place / f"{run.result.scene}_map.png",
        run.mapper.keyframes,
        run.trajectory,
        title=run.result.scene,
        subtitle=f"{len(run.mapper.keyframes)} keyframes, {run.result.tracked:.0f} % of frames with a pose",
        min_confidence=run.config.min_confidence,
    )


def _floor(scene: Scene, max_frames: int | None) -> Row:
    from dust3r_ros.evaluation.suite.opencv_chain import chain

    start, processor = perf_counter(), process_time()
    found = chain(islice(open_source(scene.path), max_frames))
    seconds = perf_counter() - start
    row = {"frames": found.frames, "seconds": _plain(seconds), "frames_per_second": _plain(found.frames / seconds)}
    row |= {"processor_seconds": _plain(process_time() - processor)}
    row |= {"peak_memory_mb": round(peak_memory_mb(), 1)}
    return row | pose_figures(scene, found.poses, found.frames, found.focal, found.width)


def pose_figures(scene: Scene, poses: Sequence[StampedPose], frames: int, focal: float, width: int) -> Row:
    """Completeness, errors of the trajectory and of ``focal`` (pixels of an image of ``width``, 0: none found)."""
    native = focal / width * scene.width if width else 0.0
    row: Row = {"tracked": _plain(100.0 * len(poses) / frames), "ate": None, "ate_percent": None, "note": ""}
    row |= {
        "focal": _plain(native) or None,
        "focal_error": _plain(100 * (native / scene.focal - 1)) if native else None,
    }
    try:
        errors = trajectory_errors(scene.truth, poses)
    except GeometryError as error:
        return row | {"note": str(error)}
    return row | {name: _plain(getattr(errors, name)) for name in ("ate", "ate_percent", "rpe", "rpe_deg")}


def fingerprint(path: Path) -> str:
    """Identifies the data: a digest of names, poses and intrinsics (not of pixels)."""
    digest = hashlib.sha256()
    for name in ("rgb.txt", "groundtruth.txt", "intrinsics.json"):
        if (path / name).is_file():
            digest.update((path / name).read_bytes())
    return digest.hexdigest()[:12]


_OF_POSES = ("multiview_pose_pnp", "multiview_pose_alignment")
_OF_DEPTH = ("multi_view_depth", "reconstruction")
_PLACES = ("localisation", "localisation_in_map")
_QUERIES = 2  # every second frame
_MANY = 200  # frames; longer scenes are for maps


def protocols_of(path: Path) -> list[str]:
    """The protocols that a scene's truth allows and the literature applies to its kind: poses of ten views for every
    scene; depth and clouds for rooms with depth; localisation where the scene's data set is judged by it. Empty for a
    scene that cannot be read or is long.
    """
    try:
        scene = read_scene(path)
    except InputError:
        return []
    if len(scene.truth) > _MANY:
        return []
    of_depth = _OF_DEPTH if scene.metric and scene.depth_files else ()
    source = source_of(path.name)
    places = _PLACES if of_depth and source is not None and set(_PLACES) <= set(JUDGED[source[0]]) else ()
    return [*_OF_POSES, *of_depth, *places]


def source_of(name: str) -> tuple[str, str] | None:
    """(data set, scene) of a scene's name, ``7scenes_redkitchen``; None where it names no known data set."""
    dataset, _, scene = name.partition("_")
    return (dataset, scene) if dataset in DATASETS and scene else None


def measure_protocol(path: Path, protocol: str, config: MapperConfig, max_frames: int | None = None) -> list[Row]:
    """Rows of a protocol; where the literature's table has the scene, ``of`` names it and ``subset`` says which part
    was taken. Images have the mapper's working width. Raises ``InputError``, ``ConfigError``.
    """
    scene = read_scene(path)
    recording = recording_of(path, scene, max_frames)
    places = protocol in _PLACES
    recordings = _divided(recording) if places else [recording]
    backend = make_backend(config)
    asked = Asked(recordings, config, backend, fitted(config, backend).working_size)
    same: Row = {"data": fingerprint(path), "limit": max_frames or 0}
    source = source_of(path.name)
    if source is not None:
        parts = [len(part.views) for part in recordings]
        same["of"] = "/".join(source)
        same["subset"] = (
            f"{parts[0]} frames as database, the {parts[1]} between them as queries" if places else f"{parts[0]} frames"
        )
    return [row | same for row in protocol_named(protocol).run(asked)]


def recording_of(path: Path, scene: Scene, max_frames: int | None = None) -> Recording:
    """A scene as protocols take it: every image with its pose (nearest within 10 ms), K and depth."""
    views = []
    for stamp_ns, file in sorted(image_files(path).items())[:max_frames]:
        pose, depth = scene.pose(stamp_ns), _depth_reader(scene, stamp_ns)
        views.append(View(stamp_ns, "camera", scene.K, pose, image_reader(file), depth, name=file.name))
    names: Mapping[str, str] = names_of(path, "")
    return Recording(path.name, names["dataset"], tuple(views), metric=scene.metric, scene=path.name)


def _depth_reader(scene: Scene, stamp_ns: int) -> Callable[[], Array32] | None:
    def read() -> Array32:
        depth = scene.depth(stamp_ns)
        assert depth is not None, "the depth file existed when the scene was read"
        return depth

    return read if scene.depth_file(stamp_ns) is not None else None


def _divided(recording: Recording) -> Sequence[Recording]:
    """Database and queries: every second frame is a query."""
    parts = [tuple(v for i, v in enumerate(recording.views) if (i % _QUERIES == 1) == query) for query in (False, True)]
    return [replace(recording, views=views, split=name) for name, views in zip(("train", "test"), parts, strict=True)]
