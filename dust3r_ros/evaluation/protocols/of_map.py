"""Figures of the mapper on recordings: trajectory, focal, depth, cloud, speed; one mapping for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, GeometryError, InputError
from dust3r_ros.evaluation.datasets.recording import Recording
from dust3r_ros.evaluation.errors import resample
from dust3r_ros.evaluation.protocols.cost import rate
from dust3r_ros.evaluation.protocols.mapping import Mapped, map_recording
from dust3r_ros.evaluation.protocols.reconstruction import map_cloud_row
from dust3r_ros.evaluation.protocols.recordings import true_poses
from dust3r_ros.evaluation.protocols.rows import (
    Row,
    depth_columns,
    guarded,
    relative_focal_errors,
    row,
    view_angle_errors,
)
from dust3r_ros.evaluation.run import keyframe_depth


def run_mapping(
    recordings: Iterable[Recording],
    config: MapperConfig,
    *,
    protocols: Sequence[str] = ("trajectory", "focal", "map_depth", "map_cloud", "map_speed"),
    backend: Backend | None = None,
    with_depth: bool = False,
    max_frames: int | None = None,
) -> Iterator[Row]:
    """Rows of ``protocols`` for each recording, which is mapped once (``mapping.map_recording``).

    The rows' protocol ends in ``_rgbd`` where the mapper was given depth (``with_depth``). A figure that cannot be
    measured (no truth, no map) becomes a row with a note. Raises ``ConfigError`` for an unknown protocol.
    """
    unknown = sorted(set(protocols) - MAP_PROTOCOLS.keys())
    if unknown:
        raise ConfigError(f"protocol '{unknown[0]}' is unknown for a map; known are {', '.join(MAP_PROTOCOLS)}")
    system = config.backend if backend is None else backend.name
    given = with_depth * "_rgbd"
    for recording in recordings:
        try:
            mapped = map_recording(recording, config, backend=backend, with_depth=with_depth, max_frames=max_frames)
        except InputError as error:
            yield from (row(recording, name + given, system, note=str(error)) for name in protocols)
            continue
        for name in protocols:
            measure = MAP_PROTOCOLS[name]
            made = guarded(recording, name, system, lambda m=measure, made=mapped: m(made))  # type: ignore[misc]
            yield made | {"protocol": name + given}


def trajectory_row(mapped: Mapped) -> Row:
    """ATE after Sim3, and after SE3 where the map is in metres; RPE per frame; both in the truth's unit (evo)."""
    recording, frames = mapped.recording, mapped.frames
    if len(true_poses(recording)) < 3:
        raise GeometryError(f"'{recording.name}' has {len(true_poses(recording))} true poses; at least 3 are needed")
    similar = mapped.errors()
    in_metres: dict[str, Any] = {}
    if mapped.session.metric and recording.metric:
        rigid = mapped.errors(scale=False)
        in_metres = {"ate_se3": rigid.ate, "scale_error": 100.0 * (1.0 / similar.scale - 1.0)}
    return row(
        recording, "trajectory", mapped.system, frames=frames,
        tracked=100.0 * len(mapped.session.mapper.trajectory()) / frames,
        poses=similar.matches, path=similar.path, ate=similar.ate, ate_percent=similar.ate_percent,
        rpe=similar.rpe, rpe_deg=similar.rpe_deg, **in_metres, metric=recording.metric, note=_refused(mapped),
    )  # fmt: skip


def focal_row(mapped: Mapped) -> Row:
    """Signed errors of the focal (percent) and of the horizontal field of view (degrees), of the map's main camera."""
    recording, name = mapped.recording, mapped.camera
    K = next((view.K for view in recording.views if view.camera == name and view.K is not None), None)
    if K is None:
        raise InputError(f"'{recording.name}' has no intrinsics of camera '{name}' to compare with")
    camera = mapped.session.mapper.cameras[name]
    true = float(K[0, 0] + K[1, 1]) / 2.0
    return row(
        recording, "focal", mapped.system, focal=camera.focal, true_focal=true,
        focal_error=float(relative_focal_errors(true, camera.focal)[0]),
        fov_error_deg=float(view_angle_errors(true, camera.focal, camera.width)[0]),
    )  # fmt: skip


def depth_row(mapped: Mapped) -> Row:
    """Rel and delta 1.25 of the keyframes' depth: scaled by the trajectory's Sim3, and each by its own median."""
    scale = mapped.errors().scale
    cameras, pairs = mapped.session.mapper.cameras, []
    for keyframe, view in mapped.keyframes():
        native = view.depth()
        if native is not None:
            depth = keyframe_depth(keyframe, mapped.config.min_confidence)
            pairs.append((resample(native, keyframe, cameras[keyframe.camera]), scale * depth))
    scaled, by_median = (depth_columns(pairs, median_aligned=aligned) for aligned in (False, True))
    return row(
        mapped.recording, "map_depth", mapped.system, images=scaled["images"], depth_rel=scaled["rel"],
        depth_delta=scaled["delta"], depth_rel_median=by_median["rel"], depth_delta_median=by_median["delta"],
        density=scaled["density"],
    )  # fmt: skip


def speed_row(mapped: Mapped) -> Row:
    """Frames per second through the mapper, final refinement included, and peak memory."""
    return row(
        mapped.recording, "map_speed", mapped.system, frames=mapped.frames, seconds=mapped.cost.seconds,
        frames_per_second=rate(mapped.frames, mapped.cost.seconds), peak_memory_mb=mapped.peak_memory_mb,
        peak_device_mb=mapped.peak_device_mb,
    )  # fmt: skip


def _refused(mapped: Mapped) -> str:
    return f"{mapped.refused} views refused ({mapped.reason})" if mapped.refused else ""


MAP_PROTOCOLS: dict[str, Callable[[Mapped], Row]] = {
    "trajectory": trajectory_row,
    "focal": focal_row,
    "map_depth": depth_row,
    "map_cloud": map_cloud_row,
    "map_speed": speed_row,
}
