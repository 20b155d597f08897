"""Protocols by name, for whoever is told what to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.evaluation.protocols import depth, localisation, of_map, reconstruction, relative_pose, speed
from dust3r_ros.evaluation.protocols.dtu import reference_of
from dust3r_ros.evaluation.protocols.recordings import SplitRecording, localisation_scenes
from dust3r_ros.evaluation.protocols.rows import Row

Recordings = Iterable[SplitRecording]


@dataclass(frozen=True)
class Protocol:
    """One way to judge: ``of_pairs`` takes recordings and a backend, ``of_map`` recordings and the mapper's
    configuration.

    Exactly one of both is not None. ``about``: what it does, for a list; names are those of the rows.
    """

    name: str
    about: str
    of_pairs: Callable[[Recordings, Backend], Iterator[Row]] | None = None
    of_map: Callable[[Recordings, MapperConfig, Backend], Iterator[Row]] | None = None

    def run(self, recordings: Recordings, config: MapperConfig, backend: Backend) -> Iterator[Row]:
        """Rows, one or more per recording (localisation: per scene). ``backend`` is the one ``config`` names,
        made once."""
        if self.of_pairs is not None:
            return self.of_pairs(recordings, backend)
        assert self.of_map is not None, f"protocol {self.name} runs on nothing"
        return self.of_map(recordings, config, backend)


def _localised(by: str) -> Callable[[Recordings, Backend], Iterator[Row]]:
    return lambda recordings, backend: localisation.run_localisation(localisation_scenes(recordings), backend, by=by)


def _mapped(name: str, with_depth: bool = False) -> Callable[[Recordings, MapperConfig, Backend], Iterator[Row]]:
    names = tuple(of_map.MAP_PROTOCOLS) if name == "map" else (name,)
    return lambda recordings, config, backend: of_map.run_mapping(
        recordings, config, protocols=names, backend=backend, with_depth=with_depth
    )


_ALL = (
    Protocol("map", "all rows of a map: trajectory, focal, map_depth, map_cloud, map_speed", of_map=_mapped("map")),
    Protocol(
        "map_rgbd",
        "the same of a map in metres, with the depth of every frame; ATE after SE3, too",
        of_map=_mapped("map", with_depth=True),
    ),
    Protocol("trajectory", "ATE and RPE of the mapper's trajectory", of_map=_mapped("trajectory")),
    Protocol("focal", "focal and field of view the mapper finds", of_map=_mapped("focal")),
    Protocol("map_depth", "Rel and delta 1.25 of the map's keyframes", of_map=_mapped("map_depth")),
    Protocol("map_cloud", "accuracy and completeness of the map in cm", of_map=_mapped("map_cloud")),
    Protocol("map_speed", "frames per second and memory of the mapper", of_map=_mapped("map_speed")),
    Protocol("localisation", "queries against images that look alike, by matches", _localised("matches")),
    Protocol("localisation_pointmaps", "the same by the query's own pointmaps", _localised("pointmaps")),
    Protocol(
        "localisation_in_map",
        "queries against a map of the database",
        of_map=lambda recordings, config, backend: localisation.run_localisation_in_map(
            localisation_scenes(recordings), config, backend=backend
        ),
    ),
    *(
        Protocol(
            relative_pose.PROTOCOL.format(method),
            f"RRA@15, RTA@15, mAA@30 of 10 views by {method}",
            partial(relative_pose.run_relative_pose, method=method),
        )
        for method in relative_pose.METHODS
    ),
    Protocol("monocular_depth", "Rel and delta 1.25 of single images", depth.run_monocular_depth),
    Protocol("multi_view_depth", "Rel and tau of a few views, median-aligned", depth.run_multi_view_depth),
    Protocol(
        "multi_view_depth_poses", "the same with true poses", partial(depth.run_multi_view_depth, known_poses=True)
    ),
    Protocol("reconstruction", "accuracy and completeness of a few views in cm", reconstruction.run_reconstruction),
    Protocol(
        "reconstruction_poses", "the same with true poses", partial(reconstruction.run_reconstruction, known_poses=True)
    ),
    Protocol(
        "dtu",
        "DTU's accuracy, completeness, overall in mm",
        partial(reconstruction.run_reconstruction, reference=reference_of),
    ),
    Protocol("speed", "pairs per second and memory of the backend", speed.run_speed),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises ``ConfigError`` that lists them."""
    found = PROTOCOLS.get(name)
    if found is None:
        raise ConfigError(f"protocol '{name}' is not known; {', '.join(PROTOCOLS)} are")
    return found
