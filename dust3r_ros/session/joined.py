"""Saved maps that show the same place as one: cameras calibrated together, in metres where any of them is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.backends import make_backend
from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig, as_mapping
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.joining import Gathered, gather
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.state import MapState
from dust3r_ros.sensors.camera_info import Calibrations
from dust3r_ros.session.pieces import Piece
from dust3r_ros.storage.loading import load_state
from dust3r_ros.timing import Stopwatch
from dust3r_ros.types import Array, StampedPose
from dust3r_ros.world.evidence import ScaleEvidence, combine
from dust3r_ros.world.placement import mean_rotation

_METRIC_STD = 0.04  # relative, of a map that does not say how certain its unit is


@dataclass(frozen=True, eq=False)
class JoinedMap:
    """Maps that became one: ``names`` of them, the mapper that has it, what to store with it, and ``warnings``.

    ``sessions``: by name, which of the joined map's sessions are those of a map.
    """

    names: tuple[str, ...]
    mapper: Mapper
    settings: Mapping[str, Any]
    stopwatch: Stopwatch
    warnings: tuple[str, ...]
    sessions: Mapping[str, range]

    @property
    def metric(self) -> bool:
        """Whether it is in metres."""
        return bool(self.settings["world"]["metric"])

    def for_files(self) -> dict[str, Any]:
        """What ``products.results.write_results`` asks for besides the mapper."""
        calibrations, std = Calibrations("ignore", 0.0), self.settings["world"]["relative_std"]
        calibrations.resume(self.settings["calibrations"])
        raw, scale = calibrations.raw_of(self.mapper.cameras), (1.0, std) if self.metric else None
        return {"stopwatch": self.stopwatch, "raw": raw, "settings": self.settings, "scale": scale}

    def trajectory(self, name: str) -> list[StampedPose]:
        """The frames of one of the maps, where they are in the joined one."""
        return self.mapper.trajectory(sessions=self.sessions[name])


def join_maps(paths: Mapping[str, Path], config: MapperConfig) -> Iterator[JoinedMap]:
    """Join saved maps, by name, that show the same place; those that stay alone are left out.

    The frame of a joined map is that of its first metric map or, if none is metric, of its first; so is its unit, where
    several metric maps have their say by their deviations. Raises ``MapFileError``, and ``InputError`` for maps that
    cannot be compared.
    """
    backend, names = make_backend(config), list(paths)
    states = [load_state(path) for path in paths.values()]
    joined, groups = _joined(names, states, config, backend)
    if len(groups) == 1 and len(groups[0]) == len(names) > 1:
        yield _finished(joined)
        return
    for group in groups:
        if len(group) > 1:
            part, _ = _joined([names[k] for k in group], [states[k] for k in group], config, backend)
            yield _finished(part)


def join_pieces(pieces: Sequence[Piece], paths: Sequence[Path], config: MapperConfig) -> JoinedMap:
    """The map of a recording from those of its pieces, by their overlaps and loops; what does not fit is left out.

    Raises ``MapFileError``.
    """
    states = [_own(load_state(path), piece) for piece, path in zip(pieces, paths, strict=True)]
    names = [f"piece {number}" for number in range(1, len(pieces) + 1)]
    work, groups = _joined(names, states, config, make_backend(config), one_clock=True)
    _drop_twins(work, pieces)
    joined, most = _finished(work), max(groups, key=len, default=[])
    apart = [name for k, name in enumerate(names) if k not in most]
    if not apart:
        return joined
    words = f"{', '.join(apart)} of {len(pieces)} could not be joined to the others and are not in the map"
    return replace(joined, warnings=(words, *joined.warnings))


def _own(state: MapState, piece: Piece) -> MapState:
    """The map with those frames only that no other piece has; keyframes stay."""
    submaps = tuple(
        replace(one, frames=tuple(frame for frame in one.frames if piece.begin_ns <= frame.stamp_ns < piece.end_ns))
        for one in state.submaps
    )
    own = sum(piece.begin_ns <= stamp_ns < piece.end_ns for _, stamp_ns in piece.frames)
    return replace(state, submaps=submaps, counts=replace(state.counts, frames=own, lost=min(own, state.counts.lost)))


def _drop_twins(work: _Work, pieces: Sequence[Piece]) -> None:
    """Of two keyframes of one image, drop that of the piece which only shares the image."""
    present = {name for name, _, _ in work.mapper.newest_keyframes(work.mapper.counts.keyframes)}
    owned, shared = set[tuple[str, int]](), dict[int, tuple[str, int]]()
    for member, submap in zip(work.gathered.members, work.gathered.state.submaps, strict=True):
        for name, keyframe in zip(submap.names, submap.keyframes, strict=True):
            image = keyframe.camera, keyframe.stamp_ns
            if name not in present:
                continue
            if pieces[member].begin_ns <= keyframe.stamp_ns < pieces[member].end_ns:
                owned.add(image)
            else:
                shared[name] = image
    work.mapper.drop({name for name, image in shared.items() if image in owned})


@dataclass(frozen=True, eq=False)
class _Work:
    """Maps in one mapper."""

    names: list[str]
    states: list[MapState]
    gathered: Gathered
    mapper: Mapper
    stopwatch: Stopwatch
    config: MapperConfig


def _joined(
    names: list[str], states: list[MapState], config: MapperConfig, backend: Backend, one_clock: bool = False
) -> tuple[_Work, list[list[int]]]:
    """The maps in one mapper, joined where they fit; and which of them are in one map."""
    stopwatch, gathered = Stopwatch(), gather(states, names, config, one_clock)
    backend.clear()
    mapper = Mapper(config, stage=stopwatch, backend=backend)
    mapper.resume(gathered.state)
    members = dict(enumerate(gathered.members))  # none if nothing was mapped
    groups = [sorted({members[k] for k in group if k in members}) for group in mapper.join()]
    return _Work(names, states, gathered, mapper, stopwatch, config), groups


def _finished(work: _Work) -> JoinedMap:
    """Adjust the active map as a whole, and move it to its frame and unit."""
    mapper, gathered = work.mapper, work.gathered
    mapper.finish()
    metric, std, warnings = _place(work)
    settings = {
        **as_mapping(work.config),
        **_known(work.states, gathered.cameras),
        "world": {"metric": metric, "relative_std": std if metric else None, "metres_per_unit": float(metric)},
    }
    sessions = dict(zip(work.names, gathered.sessions, strict=True))
    return JoinedMap(tuple(work.names), mapper, settings, work.stopwatch, (*warnings, *mapper.doubts), sessions)


def _known(states: Sequence[MapState], called: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Calibrations and extrinsics of all maps, by the new names of cameras; the first that has one is believed."""
    found: dict[str, dict[str, Any]] = {"known": {}, "applied": {}, "extrinsics": {}}
    for state, names in zip(states, called, strict=True):
        calibrations = state.settings.get("calibrations", {})
        parts = {**calibrations, "extrinsics": state.settings.get("extrinsics", {})}
        for kind, values in found.items():
            for name, value in parts.get(kind, {}).items():
                values.setdefault(names.get(name, name), value)
    extrinsics = found.pop("extrinsics")
    return {"calibrations": found, "extrinsics": extrinsics}


def _place(work: _Work) -> tuple[bool, float, tuple[str, ...]]:
    """Move the joined map; returns whether it is in metres, its unit's relative deviation, and what is odd about it."""
    mapper, first = work.mapper, None
    now = {name: w_T_k for name, w_T_k, _ in mapper.newest_keyframes(mapper.counts.keyframes)}
    evidence, seen = list[ScaleEvidence](), set[int]()
    for member, submap in zip(work.gathered.members, work.gathered.state.submaps, strict=True):
        then = {name: k.w_T_c for name, k in zip(submap.names, submap.keyframes, strict=True) if k.w_T_c is not None}
        common = sorted(then.keys() & now.keys())
        world = work.states[member].settings.get("world", {})
        metric = bool(world.get("metric")) and member not in seen  # of the active map, the first; others slept
        seen.add(member)
        if len(common) < 2 or (evidence and not metric):
            continue
        there = _moved(np.stack([then[k] for k in common]), np.stack([now[k] for k in common]))
        if metric:
            first = there if not evidence else first
            std = world.get("relative_std")
            evidence.append(ScaleEvidence(work.names[member], there.scale, _METRIC_STD if std is None else std))
        first = first or there
    if first is None:
        return False, float("inf"), ()
    found = combine(evidence)
    scale = found.scale if evidence else first.scale
    mapper.move(Similarity(scale, first.rotation, scale / first.scale * first.translation))
    return found.relative_std <= _METRIC_STD, found.relative_std, found.reasons


def _moved(then: Array, now: Array) -> Similarity:
    """Where keyframes (N, 4, 4) were, of two or more, from where they are: also for cameras on a line."""
    rotation, _ = mean_rotation(then[:, :3, :3] @ np.swapaxes(now[:, :3, :3], 1, 2))
    a, b = then[:, :3, 3], now[:, :3, 3]
    apart = [np.linalg.norm(centers - np.roll(centers, len(centers) // 2, axis=0), axis=1) for centers in (a, b)]
    scale = float(np.median(apart[0]) / max(np.median(apart[1]), 1e-12))
    return Similarity(scale, rotation, np.median(a - scale * b @ rotation.T, axis=0))
