"""One scene through one system, in this process, as a row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.evaluation.kinds import kinds_of
from dust3r_ros.evaluation.report.metrics import is_number
from dust3r_ros.evaluation.report.published import BACKENDS, OURS, POSES, PROTOCOL, RECORDED, RENDERED
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.run import SceneRun, run_scene
from dust3r_ros.evaluation.scene import Scene, read_scene
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.products.results import peak_memory_mb
from dust3r_ros.types import StampedPose

# Fields of a scene's result that go into its row unchanged.
_FIGURES = (
    "frames", "tracked", "keyframes", "pairs", "seconds", "processor_seconds", "frames_per_second", "density", "ate",
    "ate_percent", "rpe", "rpe_deg", "focal", "focal_error", "depth_rel", "depth_delta", "depth_rel_median",
    "depth_delta_median", "note",
)  # fmt: skip


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
    row |= {name: _plain(found[name]) for name in _FIGURES} | {"peak_memory_mb": round(memory, 1)}
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
