"""Protocols by name, and which of them the truth of a data set allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.evaluation.datasets.recording import Recording
from dust3r_ros.evaluation.protocols import cost, depth, localisation, of_map, reconstruction, relative_pose
from dust3r_ros.evaluation.protocols.reconstruction import reference_of
from dust3r_ros.evaluation.protocols.recordings import localisation_scenes
from dust3r_ros.evaluation.protocols.rows import Row


@dataclass(frozen=True)
class Asked:
    """``recordings`` through ``backend``, or through a mapper of ``config`` with it.

    ``size``: long edge of images for pairs, pixels; ``every``: monocular depth of every n-th image;
    ``max_frames``: of each recording, for maps. ``scenes``: at most so many recordings; of localisation, scenes with
    both parts.
    """

    recordings: Iterable[Recording]
    config: MapperConfig
    backend: Backend
    size: int = 512
    every: int = 1
    max_frames: int | None = None
    scenes: int | None = None

    @property
    def chosen(self) -> Iterator[Recording]:
        """The first ``scenes`` recordings, read one after the other."""
        return islice(self.recordings, self.scenes)


@dataclass(frozen=True)
class Protocol:
    """One way to judge. ``about``: what it does, for a list; ``name`` is also that of its rows (``map`` gives several).

    ``run`` yields rows, one or more per recording (localisation: per scene).
    """

    name: str
    about: str
    run: Callable[[Asked], Iterator[Row]]


def _mapped(
    asked: Asked, names: Sequence[str] = tuple(of_map.MAP_PROTOCOLS), with_depth: bool = False
) -> Iterator[Row]:
    return of_map.run_mapping(
        asked.chosen, asked.config, protocols=names, backend=asked.backend, with_depth=with_depth,
        max_frames=asked.max_frames,
    )  # fmt: skip


def _localised(asked: Asked, by: str) -> Iterator[Row]:
    scenes = localisation_scenes(asked.recordings, asked.scenes)
    return localisation.run_localisation(scenes, asked.backend, by=by, size=asked.size, seed=asked.config.seed)


def _localised_in_map(asked: Asked) -> Iterator[Row]:
    scenes = localisation_scenes(asked.recordings, asked.scenes)
    return localisation.run_localisation_in_map(scenes, asked.config, backend=asked.backend)


def _posed(asked: Asked, method: str) -> Iterator[Row]:
    return relative_pose.run_relative_pose(
        asked.chosen, asked.backend, method=method, size=asked.size, seed=asked.config.seed
    )


def _monocular(asked: Asked) -> Iterator[Row]:
    return depth.run_monocular_depth(asked.chosen, asked.backend, every=asked.every, size=asked.size)


def _several_views(asked: Asked, known_poses: bool) -> Iterator[Row]:
    return depth.run_multi_view_depth(
        asked.chosen, asked.backend, known_poses=known_poses, known_focals=known_poses, size=asked.size
    )


def _reconstructed(asked: Asked, known_poses: bool) -> Iterator[Row]:
    """The truth is the measured points (DTU) where a recording names them, else the true depth of its views."""
    for recording in asked.chosen:
        measured = "points" in recording.truth
        yield from reconstruction.run_reconstruction(
            [recording], asked.backend, size=asked.size, known_poses=known_poses, known_focals=known_poses,
            reference=reference_of if measured else None,
        )  # fmt: skip


def _timed(asked: Asked) -> Iterator[Row]:
    return cost.run_speed(asked.chosen, asked.backend, size=asked.size)


_ALL = (
    Protocol("map", "all rows of a map: trajectory, focal, map_depth, map_cloud, map_speed", _mapped),
    Protocol(
        "map_rgbd",
        "the same of a map in metres, with every frame's depth; also ATE after SE3",
        partial(_mapped, with_depth=True),
    ),
    Protocol("trajectory", "ATE and RPE of the mapper's trajectory", partial(_mapped, names=("trajectory",))),
    Protocol("focal", "focal and field of view the mapper finds", partial(_mapped, names=("focal",))),
    Protocol("map_depth", "Rel and delta 1.25 of the map's keyframes", partial(_mapped, names=("map_depth",))),
    Protocol("map_cloud", "accuracy and completeness of the map in cm", partial(_mapped, names=("map_cloud",))),
    Protocol("map_speed", "frames per second and memory of the mapper", partial(_mapped, names=("map_speed",))),
    Protocol("localisation", "queries against similar images, by matches", partial(_localised, by="matches")),
    Protocol("localisation_pointmaps", "the same by the query's own pointmaps", partial(_localised, by="pointmaps")),
    Protocol("localisation_in_map", "queries against a map of the database", _localised_in_map),
    *(
        Protocol(
            relative_pose.PROTOCOL.format(method),
            f"RRA@15, RTA@15, mAA@30 of 10 views by {method}",
            partial(_posed, method=method),
        )
        for method in relative_pose.METHODS
    ),
    Protocol("monocular_depth", "Rel and delta 1.25 of single images", _monocular),
    Protocol(
        "multi_view_depth", "Rel and tau of a few views, median-aligned", partial(_several_views, known_poses=False)
    ),
    Protocol(
        "multi_view_depth_poses", "the same with true poses and intrinsics", partial(_several_views, known_poses=True)
    ),
    Protocol(
        "reconstruction",
        "accuracy and completeness of a few views in cm; on DTU in mm, by DTU's protocol",
        partial(_reconstructed, known_poses=False),
    ),
    Protocol(
        "reconstruction_poses", "the same with true poses and intrinsics", partial(_reconstructed, known_poses=True)
    ),
    Protocol("speed", "pairs per second and memory of the backend", _timed),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}

_POSES = ("multiview_pose_pnp", "multiview_pose_alignment")
_PLACES = ("localisation", "localisation_pointmaps", "localisation_in_map")
_DEPTH = ("monocular_depth", "multi_view_depth", "multi_view_depth_poses")
_CLOUDS = ("reconstruction", "reconstruction_poses")
_RGBD = ("map", "map_rgbd", *_POSES, *_DEPTH, *_CLOUDS, "speed")
# What the truth of a data set allows: maps of videos with poses, depth where there is some, clouds in centimetres
# where poses are in metres, localisation where the literature divides scenes into database and queries.
JUDGED: Mapping[str, tuple[str, ...]] = {
    "tum": _RGBD,
    "7scenes": (*_PLACES, *_RGBD),
    "euroc": ("trajectory", "focal", "map_speed", *_POSES, "speed"),
    "icl-nuim": _RGBD,
    "scannet": _RGBD,
    "cambridge": (*_PLACES, *_POSES, "speed"),
    "co3d": (*_POSES, *_DEPTH, "trajectory", "focal", "map_depth", "map_speed", "speed"),
    "realestate10k": (*_POSES, "trajectory", "focal", "map_speed", "speed"),
    "nyu": ("monocular_depth", "speed"),
    "bonn": _RGBD,
    "kitti-odometry": ("map", *_POSES, *_DEPTH, "speed"),
    "kitti-depth": ("monocular_depth", "speed"),
    "ddad": ("map", *_POSES, *_DEPTH, "speed"),
    "dtu": (*_CLOUDS, *_POSES, *_DEPTH, "speed"),
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises ``ConfigError`` listing the known ones."""
    found = PROTOCOLS.get(name)
    if found is None:
        raise ConfigError(f"protocol '{name}' is unknown; known are {', '.join(PROTOCOLS)}")
    return found
