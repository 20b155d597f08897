"""Rendered walks of a body with several cameras, whose stamps need not agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from kept import kept

from dust3r_ros.geometry.rigid import invert
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import RenderedSequence, look_at, render_path, stamps, walk
from dust3r_ros.types import Array, Image, MapUpdate


@dataclass(frozen=True, eq=False)
class Eye:
    """One camera of a body: ``b_T_c`` (4, 4) in the frame that walks, size and focal in pixels."""

    name: str
    b_T_c: Array
    width: int
    height: int
    focal: float


@dataclass(frozen=True, eq=False)
class RenderedRig:
    """What each camera saw, by name."""

    eyes: dict[str, Eye]
    seen: dict[str, RenderedSequence]

    def frames(self) -> list[tuple[int, str, Image]]:
        """(stamp, camera, image) of all, by stamp."""
        every = [
            (int(stamp), name, image)
            for name, sequence in self.seen.items()
            for stamp, image in zip(sequence.stamps_ns, sequence.images, strict=True)
        ]
        return sorted(every, key=lambda frame: frame[:2])

    def extrinsics(self, a: str, b: str) -> Array:
        """True ``a_T_b``, metres."""
        return invert(self.eyes[a].b_T_c) @ self.eyes[b].b_T_c


def mounted(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw_deg: float = 0.0) -> Array:
    """(4, 4) of a camera moved along the axes of another (right, down, forward), metres, then turned right."""
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    T = np.eye(4)
    T[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    T[:3, 3] = x, y, z
    return T


def around(frames: int, outward_deg: float = 50.0, laps: float = 1.0) -> Array:
    """(N, 4, 4) of a body that drives in a small circle beside the table and looks ahead, a little outward."""
    turn = np.linspace(0.0, 2 * np.pi * laps, frames)
    at = np.stack([0.6 * np.cos(turn) - 1.6, 0.6 * np.sin(turn) - 1.1, np.full(frames, 1.3)], axis=1)
    ahead = turn + np.pi / 2 - np.radians(outward_deg)
    to = at + np.stack([np.cos(ahead), np.sin(ahead), np.full(frames, -0.1)], axis=1)
    return np.stack([look_at(*frame) for frame in zip(at, to, strict=True)])


def render_rig(body: Array, rate_hz: float, eyes: tuple[Eye, ...], together: bool = False) -> RenderedRig:
    """Cameras that take turns along the body's poses (N, 4, 4), which come at ``rate_hz``; or all at each."""
    seen = {}
    for k, eye in enumerate(eyes):
        chosen = slice(None) if together else slice(k, None, len(eyes))
        sequence = render_path(
            eye.name, room(0), body[chosen] @ eye.b_T_c, width=eye.width, height=eye.height, focal=eye.focal
        )
        seen[eye.name] = replace(sequence, stamps_ns=stamps(len(body), rate_hz)[chosen])
    return RenderedRig({eye.name: eye for eye in eyes}, seen)


@lru_cache(maxsize=4)
@kept
def stereo_rig(frames: int = 60) -> RenderedRig:
    """Two cameras 10 cm apart that see nearly the same, of different lens and size, in turn."""
    left = Eye("left", np.eye(4), 240, 176, 200.0)
    right = Eye("right", mounted(x=0.1, yaw_deg=3.0), 208, 160, 150.0)
    return render_rig(walk("orbit", frames, rate_hz=16.0), 16.0, (left, right))


@lru_cache(maxsize=4)
@kept
def side_rig(frames: int = 56) -> RenderedRig:
    """A camera ahead and one to its side; they see half of the same."""
    front = Eye("front", np.eye(4), 240, 176, 180.0)
    side = Eye("side", mounted(x=0.15, z=-0.05, yaw_deg=32.0), 224, 168, 190.0)
    return render_rig(walk("orbit", frames, rate_hz=16.0), 16.0, (front, side))


@lru_cache(maxsize=4)
@kept
def rear_rig(frames: int = 96, laps: float = 1.0) -> RenderedRig:
    """A camera ahead and one behind, on a body that drives around a room: they never see the same at once."""
    front = Eye("front", np.eye(4), 240, 176, 150.0)
    rear = Eye("rear", mounted(z=-0.3, yaw_deg=180.0), 224, 168, 130.0)
    return render_rig(around(frames, laps=laps), 16.0, (front, rear))


def play_rig(mapper: Mapper, rig: RenderedRig, count: int | None = None) -> list[MapUpdate]:
    """Feed a mapper all frames, or the first ``count``, by stamp."""
    return [mapper.process(stamp, name, image) for stamp, name, image in rig.frames()[:count]]


def rig_errors(mapper: Mapper, rig: RenderedRig) -> dict[str, tuple[float, int]]:
    """By camera: rms distance (metres) of its poses from the truth after one similarity for all, and how many."""
    found, true, names = [], [], []
    for frame in mapper.trajectory():
        sequence = rig.seen[frame.camera]
        found.append(frame.w_T_c[:3, 3])
        true.append(sequence.w_T_c[np.searchsorted(sequence.stamps_ns, frame.stamp_ns), :3, 3])
        names.append(frame.camera)
    distances = np.linalg.norm(weighted_similarity(found, true).apply(np.array(found)) - true, axis=1)
    at = {name: np.array([n == name for n in names]) for name in rig.seen}
    return {
        name: (float(np.sqrt(np.mean(distances[own] ** 2))) if own.any() else float("inf"), int(own.sum()))
        for name, own in at.items()
    }


def unit_of(mapper: Mapper, rig: RenderedRig) -> float:
    """Metres per unit of the map, from the truth."""
    poses = mapper.trajectory()
    true = [rig.seen[p.camera].w_T_c[np.searchsorted(rig.seen[p.camera].stamps_ns, p.stamp_ns), :3, 3] for p in poses]
    return weighted_similarity([p.w_T_c[:3, 3] for p in poses], true).scale
