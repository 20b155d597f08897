"""Image sequences with exact truth: what a camera sees on its way through a rendered world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.scenes.rooms import corridor, room
from dust3r_ros.scenes.trajectory import walk
from dust3r_ros.scenes.world import World
from dust3r_ros.types import Array, Array32, Image

FIRST_STAMP_NS = 1_700_000_000_000_000_000
FOCAL_PER_WIDTH = 0.83  # the default camera: 62 degrees wide, on purpose none of the usual guesses


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
    """(N,) nanoseconds of a camera that began at ``FIRST_STAMP_NS``."""
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
    """The frames of a camera at the poses ``w_T_c`` (N, 4, 4); ``progress`` is told (done, frames).

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
    """A walk of ``kind`` (see ``trajectory.walk``) through ``room(seed)``, or ``corridor(seed)`` for that kind."""
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
