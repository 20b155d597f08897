"""Image sequences with exact truth: views of a hand-held camera moving through a rendered world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.scenes.rooms import corridor, room
from dust3r_ros.scenes.world import World
from dust3r_ros.types import Array, Array32, Image

PathFunction = Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Path:
    """``at`` maps s in [0, 1] (N,) to positions and points looked at (N, 3); ``speed`` is the default in m/s.

    A ``closed`` path may be walked more than once; an open one is walked more slowly when there is time left.
    ``sway``: unsteadiness of the hand, metres.
    """

    at: PathFunction
    speed: float
    closed: bool = False
    sway: float = 0.012


def _columns(*parts: Array | float) -> Array:
    return np.stack(np.broadcast_arrays(*parts), axis=-1).astype(np.float64)


def _orbit(s: Array) -> tuple[Array, Array]:
    turn = 2 * np.pi * s
    position = _columns(1.95 * np.cos(turn), 1.5 * np.sin(turn), 1.4 + 0.08 * np.sin(2 * turn))
    return position, _columns(0.25 * np.cos(turn + 1.0), 0.25 * np.sin(turn + 1.0), 0.95)


def _sweep(s: Array) -> tuple[Array, Array]:
    position = _columns(-1.6 + 3.2 * s, -1.6 + 0.5 * np.sin(np.pi * s / 2), 1.35 + 0.1 * np.sin(2 * np.pi * s))
    return position, _columns(0.9 * position[:, 0] + 0.5 * np.sin(2 * np.pi * s), 1.5, 1.0)


def _forward(s: Array) -> tuple[Array, Array]:
    position = _columns(-2.1 + 4.0 * s, -1.35 + 0.15 * np.sin(3 * s), 1.35 + 0.05 * np.sin(5 * s))
    return position, _columns(position[:, 0] + 3.0, -1.0 + 0.5 * s, 1.1)


def _corridor(s: Array) -> tuple[Array, Array]:
    position = _columns(-10.5 + 20.0 * s, 0.2 * np.sin(9 * s), 1.4 + 0.05 * np.sin(15 * s))
    return position, _columns(position[:, 0] + 4.0, 0.35 * np.sin(11 * s), 1.25)


def _rotation(s: Array) -> tuple[Array, Array]:
    turn = 2 * np.pi * s
    position = np.tile([0.3, -1.2, 1.4], (len(s), 1))
    return position, position + _columns(np.cos(turn), np.sin(turn), 0.12 * np.sin(2 * turn) - 0.1)


PATHS: dict[str, Path] = {
    "orbit": Path(_orbit, 0.5, closed=True),
    "sweep": Path(_sweep, 0.4),
    "forward": Path(_forward, 0.5),
    "corridor": Path(_corridor, 1.0),
    "rotation": Path(_rotation, 0.4, closed=True, sway=0.0),  # speed of the point looked at, 1 m away: 23 deg/s
}


def walk(
    kind: str,
    frames: int,
    *,
    rate_hz: float = 15.0,
    speed: float | None = None,
    laps: float | None = None,
    seed: int = 0,
) -> Array:
    """(N, 4, 4) poses ``w_T_c`` of a camera (optical frame) that walks a path of the world; z up, metres.

    ``kind``: orbit (around the room's table, looking in), sweep (sideways, forward and turning), forward,
    corridor (in the corridor's world), rotation (on the spot). ``speed`` in m/s (None: the path's own);
    ``laps`` sets instead how much of the path is walked (1: a closed path ends where it began).
    ``seed`` varies the unsteadiness of the hand. Raises ``InputError`` for an unknown kind or impossible numbers.
    """
    path = _checked(kind, frames, rate_hz)
    dense = np.linspace(0, 1, 4001)
    position, target = path.at(dense)
    moved = target if kind == "rotation" else position
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(moved, axis=0), axis=1))])
    duration = (frames - 1) / rate_hz
    total = (speed or path.speed) * duration if laps is None else laps * length[-1]
    if not path.closed:
        total = min(total, length[-1])
    walked = np.linspace(0, total, frames)
    if path.closed:
        walked = walked % length[-1]
    position, target = path.at(np.interp(walked, length, dense))
    return _hand_held(position, target, np.arange(frames) / rate_hz, path.sway, seed)


def _checked(kind: str, frames: int, rate_hz: float) -> Path:
    if kind not in PATHS:
        raise InputError(f"unknown camera path '{kind}'; known are {', '.join(PATHS)}")
    if frames < 1 or not rate_hz > 0:
        raise InputError(f"a camera path of {frames} frames at {rate_hz} Hz is impossible; both must be positive")
    return PATHS[kind]


def _hand_held(position: Array, target: Array, time: Array, sway: float, seed: int) -> Array:
    waves = unsteadiness(np.random.default_rng([seed, 3]), time, 6, 2)
    position, target, roll = position + sway * waves[:, :3], target + 0.01 * waves[:, 3:], 0.02 * waves[:, 5]
    return np.stack([look_at(*frame) for frame in zip(position, target, roll, strict=True)])


def unsteadiness(rng: np.random.Generator, time: Array, count: int, waves: int) -> Array:
    """(N, count) smooth numbers from -1 to 1 at times (N,), seconds: means of ``waves`` sines below 1.1 Hz."""
    rates, phases = rng.uniform(0.3, 1.1, (waves, count, 1)), rng.uniform(0, 2 * np.pi, (waves, count, 1))
    return np.asarray(np.sin(2 * np.pi * rates * time + phases).mean(axis=0).T)


def look_at(position: Array, target: Array, roll: float = 0.0) -> Array:
    """Pose (4, 4) of a camera at ``position`` whose optical axis meets ``target``; level, then rolled (radians)."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return pose(np.stack([c * right + s * down, c * down - s * right, forward], axis=1), position)


FIRST_STAMP_NS = 1_700_000_000_000_000_000
FOCAL_PER_WIDTH = 0.83  # the default camera: 62 degrees wide, deliberately none of the usual guesses


@dataclass(frozen=True, eq=False)
class RenderedSequence:
    """N frames of one camera: stamps (N,) int64, images (N, H, W, 3) uint8 RGB, depths (N, H, W) float32 in metres
    (z, 0 = none), poses ``w_T_c`` (N, 4, 4) optical frame, world z up; ``focal`` in pixels.
    """

    name: str
    stamps_ns: NDArray[np.int64]
    images: Image
    depths: Array32
    w_T_c: Array
    width: int
    height: int
    focal: float

    def __len__(self) -> int:
        return len(self.stamps_ns)


def stamps(frames: int, rate_hz: float) -> NDArray[np.int64]:
    """(N,) nanoseconds of a camera that starts at ``FIRST_STAMP_NS``."""
    return FIRST_STAMP_NS + np.round(np.arange(frames) * (1e9 / rate_hz)).astype(np.int64)


def render_path(
    name: str,
    world: World,
    w_T_c: Array,
    *,
    width: int = 320,
    height: int = 240,
    focal: float | None = None,
    rate_hz: float = 15.0,
    supersample: int = 2,
    progress: Callable[[int, int], Any] | None = None,
) -> RenderedSequence:
    """The frames of a camera at the poses ``w_T_c`` (N, 4, 4); ``progress`` is called with (done, frames).

    ``focal`` in pixels; None takes 0.83 times the width.
    """
    if len(w_T_c) == 0:
        raise InputError("a sequence of 0 frames cannot be rendered; give at least one pose")
    focal = FOCAL_PER_WIDTH * width if focal is None else focal
    views = []
    for index, place in enumerate(w_T_c):
        views.append(world.render(place, width, height, focal, supersample))
        if progress is not None:
            progress(index + 1, len(w_T_c))
    return RenderedSequence(
        name,
        stamps(len(w_T_c), rate_hz),
        np.stack([view.image for view in views]),
        np.stack([view.depth for view in views]),
        w_T_c,
        width,
        height,
        float(focal),
    )


def render_sequence(
    kind: str = "orbit",
    frames: int = 90,
    width: int = 320,
    height: int = 240,
    focal: float | None = None,
    rate_hz: float = 15.0,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
    *,
    speed: float | None = None,
    laps: float | None = None,
    supersample: int = 2,
) -> RenderedSequence:
    """A walk of ``kind`` (see ``walk``) through ``room(seed)``, or ``corridor(seed)`` for that kind."""
    poses = walk(kind, frames, rate_hz=rate_hz, speed=speed, laps=laps, seed=seed)
    world = corridor(seed) if kind == "corridor" else room(seed)
    return render_path(
        kind,
        world,
        poses,
        width=width,
        height=height,
        focal=focal,
        rate_hz=rate_hz,
        supersample=supersample,
        progress=progress,
    )
