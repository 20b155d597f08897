"""One scene through the mapper and its figures against the truth, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.errors import (
    DepthErrors,
    TrajectoryErrors,
    depth_errors,
    mean_errors,
    resample,
    trajectory_errors,
)
from dust3r_ros.evaluation.scene import Scene
from dust3r_ros.io.files import make_folder, write_text
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.session.replay import Replay, images_to
from dust3r_ros.timing import Stopwatch
from dust3r_ros.types import Array32, Keyframe, MapUpdate, StampedPose

Result = Mapping[str, Any]


def _number(name: str, digits: int, sign: str = "") -> Callable[[Result], str]:
    return lambda result: "–" if result.get(name) is None else f"{result[name]:{sign}.{digits}f}"


def _ate(result: Result) -> str:
    if result.get("ate") is None:
        return "–"
    return f"{result['ate']:.4f}" if result["metric"] else "no scale"


COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("scene", lambda result: str(result["scene"])),
    ("frames", _number("frames", 0)),
    ("tracked %", _number("tracked", 0)),
    ("keyframes", _number("keyframes", 0)),
    ("ATE m", _ate),
    ("ATE % of path", _number("ate_percent", 2)),
    ("focal error %", _number("focal_error", 1, "+")),
    ("depth Rel %", _number("depth_rel", 1)),
    ("δ1.25 %", _number("depth_delta", 1)),
    ("Rel % (median)", _number("depth_rel_median", 1)),
    ("δ1.25 % (median)", _number("depth_delta_median", 1)),
    ("density %", _number("density", 0)),
    ("s", _number("seconds", 1)),
    ("frames/s", _number("frames_per_second", 1)),
)

LEGEND = (
    "ATE is the root mean square position error after a Sim3 alignment. Depth Rel and δ1.25 compare keyframe depth "
    "with sensor depth, scaled once by the trajectory's Sim3; the columns with (median) scale each image by its "
    "median. Density is the share of keyframe pixels that have depth. A dash: no truth, or nothing to measure."
)


def markdown(results: Sequence[Result]) -> str:
    """The table, one row per result, notes below.

    A result is ``SceneResult.to_json()``, or scene, metric and note of a scene that failed.
    """
    names = [name for name, _ in COLUMNS]
    lines = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    lines += ["| " + " | ".join(show(result) for _, show in COLUMNS) + " |" for result in results]
    notes = [f"- {result['scene']}: {result['note']}" for result in results if result.get("note")]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def write_tables(directory: Path, results: Sequence[Result]) -> tuple[Path, Path]:
    """``sequences.json`` and ``sequences.md`` in ``directory`` (made when missing)."""
    directory = make_folder(directory)
    data, page = directory / "sequences.json", directory / "sequences.md"
    write_text(data, json.dumps(list(results), indent=1) + "\n")
    write_text(page, markdown(results) + "\n" + LEGEND + "\n")
    return data, page


@dataclass(frozen=True)
class SceneResult:
    """The figures of one scene; None where there is no truth or nothing to measure.

    Percent: ``tracked`` (frames with a pose), ``ate_percent`` (of the path), ``focal_error``
    (signed), ``density`` (keyframe pixels with depth), ``depth_rel`` and ``depth_delta`` (after
    the trajectory's scale), ``depth_rel_median`` and ``depth_delta_median`` (each image by its
    median). ``ate`` and ``rpe`` are in the truth's unit, which is metres where ``metric``.
    """

    scene: str
    backend: str
    frames: int
    tracked: float
    keyframes: int
    pairs: int
    seconds: float
    processor_seconds: float
    frames_per_second: float
    density: float
    metric: bool
    ate: float | None = None
    ate_percent: float | None = None
    rpe: float | None = None
    rpe_deg: float | None = None
    focal: float | None = None
    focal_error: float | None = None
    depth_rel: float | None = None
    depth_delta: float | None = None
    depth_rel_median: float | None = None
    depth_delta_median: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SceneRun:
    """A result and the data for plots: the final mapper and the focal (native pixels) after each frame."""

    scene: Scene
    result: SceneResult
    mapper: Mapper
    config: MapperConfig
    stopwatch: Stopwatch
    trajectory: list[StampedPose]
    errors: TrajectoryErrors | None
    focals: list[tuple[int, float]] = field(default_factory=list)


def run_scene(
    scene: Scene,
    config: MapperConfig,
    *,
    max_frames: int | None = None,
    on_update: Callable[[MapUpdate], object] = lambda update: None,
    backend: Backend | None = None,
) -> SceneRun:
    """Maps ``scene`` and measures. A map that is lost or empty is a result with a note, not an error.

    ``backend`` replaces the one named by ``config``. Raises ``InputError`` when no frame of the scene can be used.
    """
    stopwatch = Stopwatch()
    mapper = Mapper(config, stage=stopwatch, backend=backend)
    replay = Replay(images_to(mapper), islice(open_source(scene.path), max_frames))
    focals: list[tuple[int, float]] = []
    start, processor = perf_counter(), process_time()
    for update in replay:
        focals.extend((update.stamp_ns, camera.focal) for camera in update.cameras.values())
        on_update(update)
    if mapper.counts.frames == 0:
        raise InputError(f"no frame of '{scene.path}' could be used{': ' if replay.reason else ''}{replay.reason}")
    mapper.finish()
    seconds, processor = perf_counter() - start, process_time() - processor
    trajectory = mapper.trajectory()
    note = f"{replay.refused} frames refused ({replay.reason})" if replay.refused else ""
    errors = None
    try:
        errors = trajectory_errors(scene.truth, trajectory)
    except GeometryError as error:
        note = "; ".join(part for part in (note, str(error)) if part)
    result = _measure(scene, config, mapper, trajectory, errors, (seconds, processor), note)
    return SceneRun(scene, result, mapper, config, stopwatch, trajectory, errors, focals)


def keyframe_depth(keyframe: Keyframe, min_confidence: float) -> Array32:
    """Depth (H, W) of a keyframe where it is confident enough for the map, 0 elsewhere."""
    return np.where(keyframe.confidence > min_confidence, keyframe.depth, 0).astype(np.float32)


def _measure(
    scene: Scene,
    config: MapperConfig,
    mapper: Mapper,
    trajectory: list[StampedPose],
    errors: TrajectoryErrors | None,
    seconds: tuple[float, float],
    note: str,
) -> SceneResult:
    depths = [keyframe_depth(keyframe, config.min_confidence) for keyframe in mapper.keyframes]
    scaled, aligned = _depth(scene, mapper, depths, errors)
    camera = next(iter(mapper.cameras.values()), None)
    frames = mapper.counts.frames
    return SceneResult(
        scene=scene.name,
        backend=config.backend,
        frames=frames,
        tracked=100.0 * len(trajectory) / frames,
        keyframes=len(mapper.keyframes),
        pairs=mapper.counts.pairs,
        seconds=seconds[0],
        processor_seconds=seconds[1],
        frames_per_second=frames / seconds[0],
        density=100.0 * float(np.mean([np.mean(depth > 0) for depth in depths])) if depths else 0.0,
        metric=scene.metric,
        ate=errors.ate if errors else None,
        ate_percent=errors.ate_percent if errors else None,
        rpe=errors.rpe if errors else None,
        rpe_deg=errors.rpe_deg if errors else None,
        focal=camera.focal if camera else None,
        focal_error=_focal_error(camera.focal, camera.width, scene) if camera else None,
        depth_rel=scaled.rel if scaled else None,
        depth_delta=scaled.delta if scaled else None,
        depth_rel_median=aligned.rel if aligned else None,
        depth_delta_median=aligned.delta if aligned else None,
        note=note,
    )


def _focal_error(focal: float, width: int, scene: Scene) -> float:
    return 100.0 * (focal / width * scene.width / scene.focal - 1.0)


def _depth(
    scene: Scene, mapper: Mapper, depths: list[Array32], errors: TrajectoryErrors | None
) -> tuple[DepthErrors | None, DepthErrors | None]:
    """Mean depth errors over keyframes: after the trajectory's scale, and each by its own median."""
    scaled: list[DepthErrors] = []
    aligned: list[DepthErrors] = []
    cameras = mapper.cameras
    for keyframe, depth in zip(mapper.keyframes, depths, strict=True):
        native = scene.depth(keyframe.stamp_ns)
        if native is None:
            continue
        truth = resample(native, keyframe, cameras[keyframe.camera])
        if not ((truth > 0) & (depth > 0)).any():
            continue
        aligned.append(depth_errors(truth, depth, median_aligned=True))
        if errors is not None:
            scaled.append(depth_errors(truth, depth * errors.scale))
    return mean_errors(scaled), mean_errors(aligned)
