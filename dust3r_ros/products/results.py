"""Writes all results of a run, for the command line and the node alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dust3r_ros import __version__
from dust3r_ros.cloud.cloud import Cloud, map_cloud, thin
from dust3r_ros.cloud.fusion import fuse_map, pixel_size
from dust3r_ros.config import MapperConfig, as_mapping
from dust3r_ros.geometry.processes import memory_held
from dust3r_ros.io.camera_yaml import write_cameras
from dust3r_ros.io.files import make_folder, write_text
from dust3r_ros.io.trajectory import write_trajectories, write_tum
from dust3r_ros.products.ply import write_ply
from dust3r_ros.products.preview import write_preview
from dust3r_ros.products.report import turntable, write_report
from dust3r_ros.storage.saved_map import save_map
from dust3r_ros.timing import Stopwatch
from dust3r_ros.types import Calibration, Camera, Keyframe, MapCounts, StampedPose

if TYPE_CHECKING:
    from dust3r_ros.mapping.mapper import Mapper


MAX_POINTS = 8_000_000  # of map.ply, about 150 MB

NOTHING_MAPPED = (
    "nothing could be mapped: no two images gave depth; "
    "it takes two or more, of a camera that moves sideways past textured things that do not move"
)


def write_results(
    directory: str | Path,
    mapper: Mapper,
    *,
    config: MapperConfig,
    stopwatch: Stopwatch,
    source: str = "",
    wall_seconds: float | None = None,
    raw: Mapping[str, Calibration] | None = None,
    settings: Mapping[str, Any] | None = None,
    scale: tuple[float, float] | None = None,
    loaded: MapCounts | None = None,
    map_kept: bool = False,
) -> dict[str, Any]:
    """Write trajectory, keyframes, cloud, cameras, saved map, summary, picture and report of ``mapper``.

    ``directory`` is created if missing; each file is written atomically. ``source`` names the input, ``wall_seconds``
    is the duration of the run, ``raw`` the calibrations of raw images by camera, ``settings`` those to store in the
    saved map (the configuration), ``scale`` metres per map unit with the relative deviation, None if unknown;
    ``loaded``: counts of the map that this run continued, whose images are neither counted nor in trajectory.txt;
    ``map_kept``: a session writes that file itself. Without depth (``config.dense``) the cloud consists of the
    landmarks. A map without a point still gives valid files, and the report says so. Returns the content of
    summary.json. Raises ``OutputError`` when a file cannot be written, once all others are but summary.json.
    """
    directory = make_folder(directory)
    keyframes, trajectory, cameras = mapper.keyframes, mapper.trajectory(), mapper.cameras
    cloud = cloud_of(keyframes, config) if config.dense else mapper.landmarks()
    counts, own = _of_this_run(mapper, loaded, trajectory)
    summary = _summary(mapper, counts, len(cloud), config, stopwatch, source, wall_seconds, scale)
    failed: list[Exception] = []
    write = partial(_write, failed)
    if not map_kept:  # first: where the disk is full, all others can be made from it
        write(save_map, directory / "map.db", mapper, settings or as_mapping(config))
    write(write_trajectories, directory / "trajectory.txt", own)
    write(write_tum, directory / "keyframes.txt", [StampedPose(k.stamp_ns, k.camera, k.w_T_c) for k in keyframes])
    write(write_cameras, directory / "cameras.yaml", cameras.values(), raw)
    write(write_ply, directory / "map.ply", cloud)
    picture = directory / "preview.png"
    drawn = write(
        write_preview,
        picture,
        keyframes,
        trajectory,
        title=_title(cameras.values()),
        subtitle=headline(summary),
        min_confidence=config.min_confidence,
        metric=scale is not None and scale[0] == 1.0,
    )
    warning = "" if len(cloud) else NOTHING_MAPPED[0].upper() + NOTHING_MAPPED[1:] + "."
    shown = turntable(
        keyframes,
        trajectory,
        min_confidence=config.min_confidence,
        landmarks=None if config.dense else cloud,
    )
    seen = picture.read_bytes() if drawn else None
    write(write_report, directory / "report.html", summary, seen, cloud=shown, warning=warning)
    if failed:
        raise failed[0]
    # Last, so that anyone waiting for this file finds the others, too.
    write_text(directory / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return summary


def _write(failed: list[Exception], function: Callable[..., None], *arguments: Any, **named: Any) -> bool:
    """Whether a file could be written; else the error is kept, as others may still fit on the disk."""
    try:
        function(*arguments, **named)
    except Exception as error:
        failed.append(error)
        return False
    return True


def _of_this_run(
    mapper: Mapper, loaded: MapCounts | None, trajectory: list[StampedPose]
) -> tuple[MapCounts, list[StampedPose]]:
    """Counts and trajectory without those of the map that the run continued, if it did."""
    if loaded is None:
        return mapper.counts, trajectory
    own, counts = mapper.trajectory(sessions=mapper.run), mapper.counts
    frames, lost = counts.frames - loaded.frames, counts.lost - loaded.lost
    return replace(counts, frames=frames, lost=lost, tracked=len(own)), own


def focal_said(camera: Mapping[str, Any]) -> str:
    """The focal length of a camera of a summary, with its deviation where there is one."""
    std = f" +- {camera['focal_std']:.1f}" if camera["focal_std"] else ""
    return f"{camera['focal']:.1f}{std} px"


_NAMED = 2  # cameras: more do not fit on a line


def headline(summary: dict[str, Any]) -> str:
    """A one-line summary of the run."""
    parts = [
        f"{summary['frames']} frames, {summary['tracked']} tracked",
        f"{summary['keyframes']} keyframes",
        f"{summary['pairs']} pairs",
        f"{summary['points']:,} points",
    ]
    cameras = summary["cameras"]
    for name, camera in list(cameras.items())[:_NAMED]:
        parts.append(f"{name}: f = {focal_said(camera)} ({camera['width']} x {camera['height']})")
    parts += [f"{len(cameras) - _NAMED} more"] if len(cameras) > _NAMED else []
    return "  ·  ".join(parts)


def _title(cameras: Iterable[Camera]) -> str:
    fixed = [camera.fixed for camera in cameras]
    if fixed and all(fixed):
        return f"Map from {'a camera' if len(fixed) == 1 else f'{len(fixed)} cameras'} with known focal length"
    return f"Map from {f'{len(fixed)} uncalibrated cameras' if len(fixed) > 1 else 'an uncalibrated camera'}"


def peak_memory_mb() -> float:
    """Peak memory of this process, MB (10^6 bytes)."""
    return memory_held("VmHWM") / 1e6


def cloud_of(keyframes: Sequence[Keyframe], config: MapperConfig) -> Cloud:
    """The cloud of map.ply, thinned by voxels or by rows and columns if it would exceed ``MAX_POINTS``."""
    if config.fusion:
        cloud, voxel = fuse_map(keyframes, min_confidence=config.min_confidence), pixel_size(keyframes)
        while len(cloud) > MAX_POINTS:
            voxel *= max(1.1, math.sqrt(len(cloud) / MAX_POINTS))
            cloud = thin(cloud, voxel)
        return cloud
    points = sum(int(np.count_nonzero((k.depth > 0) & (k.confidence > config.min_confidence))) for k in keyframes)
    stride = max(1, math.ceil(math.sqrt(points / MAX_POINTS)))
    return map_cloud(keyframes, config.min_confidence, stride)


def _summary(
    mapper: Mapper,
    counts: MapCounts,
    points: int,
    config: MapperConfig,
    stopwatch: Stopwatch,
    source: str,
    wall_seconds: float | None,
    scale: tuple[float, float] | None,
) -> dict[str, Any]:
    cameras = sorted(mapper.cameras.items())
    return {
        "source": source.encode(errors="replace").decode(),  # names on disks need not be UTF-8
        "frames": counts.frames,
        "tracked": counts.tracked,
        "lost": counts.lost,
        "maps": counts.maps,
        "keyframes": counts.keyframes,
        "pairs": counts.pairs,
        "points": points,
        "focal": {name: round(camera.focal, 3) for name, camera in cameras},
        "cameras": {name: _camera(camera) for name, camera in cameras},
        "scale": scale and {"metres_per_unit": float(f"{scale[0]:.4g}"), "relative_std": float(f"{scale[1]:.2g}")},
        "seconds": None if wall_seconds is None else round(wall_seconds, 3),
        "frames_per_second": round(counts.frames / wall_seconds, 3) if wall_seconds else None,
        "stages": stopwatch.summary(),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "version": __version__,
        "seed": config.seed,
        "configuration": as_mapping(replace(config, working_size=mapper.config.working_size)),
    }


def _camera(camera: Camera) -> dict[str, Any]:
    return {
        "width": camera.width,
        "height": camera.height,
        "focal": round(camera.focal, 3),
        "focal_std": round(camera.focal_std, 3) if math.isfinite(camera.focal_std) else None,
        "support": camera.support,
        "fixed": camera.fixed,
        "principal_point": [round(value, 3) for value in camera.center],
        "distortion_model": camera.distortion_model,
        "distortion": [round(value, 6) for value in camera.distortion],
        "readout": [round(value, 4) for value in camera.readout],
        "focal_range": [round(value, 3) for value in camera.focal_range],
    }
