"""The literature's protocols on a scene of the suite, in this process, as rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dust3r_ros.backends import fitted, make_backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS, Recording, View
from dust3r_ros.evaluation.protocols.registry import JUDGED, Asked, protocol_named
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.scene import Scene, image_files, read_scene
from dust3r_ros.evaluation.suite.job import fingerprint, names_of
from dust3r_ros.layouts.reading import image_reader, intrinsics, read_json
from dust3r_ros.types import Array, Array32

POSES = ("multiview_pose_pnp", "multiview_pose_alignment")
OF_DEPTH = ("multi_view_depth", "reconstruction")
PLACES = ("localisation", "localisation_in_map")
_QUERIES = 2  # every second frame
_TOLERANCE_NS = 10_000_000
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
    of_depth = OF_DEPTH if scene.metric and scene.depth_files else ()
    source = source_of(path.name)
    places = PLACES if of_depth and source is not None and set(PLACES) <= set(JUDGED[source[0]]) else ()
    return [*POSES, *of_depth, *places]


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
    places = protocol in PLACES
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
    stamps = np.array([pose.stamp_ns for pose in scene.truth])
    K = _intrinsics(path / "intrinsics.json")
    views = []
    for stamp_ns, file in sorted(image_files(path).items())[:max_frames]:
        nearest = int(np.argmin(np.abs(stamps - stamp_ns)))
        posed = abs(int(stamps[nearest]) - stamp_ns) <= _TOLERANCE_NS
        pose = scene.truth[nearest].w_T_c if posed else None
        depth = _depth_reader(scene, stamp_ns)
        views.append(View(stamp_ns, "camera", K, pose, image_reader(file), depth, name=file.name))
    names: Mapping[str, str] = names_of(path, "")
    return Recording(path.name, names["dataset"], tuple(views), metric=scene.metric, scene=path.name)


def _depth_reader(scene: Scene, stamp_ns: int) -> Callable[[], Array32] | None:
    def read() -> Array32:
        depth = scene.depth(stamp_ns)
        assert depth is not None, "the depth file existed when the scene was read"
        return depth

    return read if scene.depth_file(stamp_ns) is not None else None


def _intrinsics(path: Path) -> Array:
    data = read_json(path)
    try:
        fx, fy = float(data["fx"]), float(data["fy"])
        cx = float(data.get("cx", (float(data["width"]) - 1) / 2))
        cy = float(data.get("cy", (float(data["height"]) - 1) / 2))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' does not hold fx, fy, cx and cy: {json.dumps(data)[:80]}") from error
    return intrinsics(fx, fy, cx, cy, path)


def _divided(recording: Recording) -> Sequence[Recording]:
    """Database and queries: every second frame is a query."""
    parts = [tuple(v for i, v in enumerate(recording.views) if (i % _QUERIES == 1) == query) for query in (False, True)]
    return [replace(recording, views=views, split=name) for name, views in zip(("train", "test"), parts, strict=True)]
