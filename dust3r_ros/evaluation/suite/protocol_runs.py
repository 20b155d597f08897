"""The protocols of the literature on a data set, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dust3r_ros.backends import make_backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.evaluation.datasets import Recording
from dust3r_ros.evaluation.protocols.depth import run_monocular_depth, run_multi_view_depth
from dust3r_ros.evaluation.protocols.dtu import read_reference
from dust3r_ros.evaluation.protocols.localisation import run_localisation
from dust3r_ros.evaluation.protocols.of_map import run_mapping
from dust3r_ros.evaluation.protocols.reconstruction import run_reconstruction
from dust3r_ros.evaluation.protocols.recordings import localisation_scenes
from dust3r_ros.evaluation.protocols.relative_pose import run_relative_pose
from dust3r_ros.evaluation.protocols.speed import run_speed
from dust3r_ros.evaluation.report.run_file import Row

Runner = Callable[["Asked"], Iterator[Row]]


@dataclass(frozen=True)
class Asked:
    """Recordings, how they are mapped, how wide images are for a backend's pairs (pixels), and how many count."""

    recordings: Iterable[Recording]
    config: MapperConfig
    size: int = 512
    every: int = 1
    max_frames: int | None = None

    @property
    def backend(self) -> Any:
        """The backend that the configuration names; raises where it cannot run."""
        return make_backend(self.config)


def _map(asked: Asked) -> Iterator[Row]:
    return run_mapping(asked.recordings, asked.config, max_frames=asked.max_frames)


def _localisation(asked: Asked) -> Iterator[Row]:
    return run_localisation(localisation_scenes(asked.recordings), asked.backend, size=asked.size)


def _pose(method: str, asked: Asked) -> Iterator[Row]:
    return run_relative_pose(asked.recordings, asked.backend, method=method, size=asked.size, seed=asked.config.seed)


def _monocular(asked: Asked) -> Iterator[Row]:
    return run_monocular_depth(asked.recordings, asked.backend, every=asked.every, size=asked.size)


def _multi_view(asked: Asked) -> Iterator[Row]:
    return run_multi_view_depth(asked.recordings, asked.backend, size=asked.size)


def _reconstruction(asked: Asked) -> Iterator[Row]:
    for recording in asked.recordings:
        truth = recording.truth
        reference = (lambda _, files=truth: read_reference(**files)) if "points" in truth else None
        yield from run_reconstruction([recording], asked.backend, size=asked.size, reference=reference)


def _speed(asked: Asked) -> Iterator[Row]:
    return run_speed(asked.recordings, asked.backend, size=asked.size)


RUNNERS: Mapping[str, Runner] = {
    "map": _map,
    "localisation": _localisation,
    "multiview_pose_pnp": partial(_pose, "pnp"),
    "multiview_pose_alignment": partial(_pose, "alignment"),
    "monocular_depth": _monocular,
    "multi_view_depth": _multi_view,
    "reconstruction": _reconstruction,
    "speed": _speed,
}


def run_protocol(name: str, asked: Asked) -> Iterator[Row]:
    """The rows of a protocol, as they come. Raises ``ConfigError`` for a name that is not known."""
    if name not in RUNNERS:
        raise ConfigError(f"protocol '{name}' is not known; known are {', '.join(RUNNERS)}")
    return RUNNERS[name](asked)
