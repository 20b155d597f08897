"""Images of cameras whose shutters roll."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.casting import Eye
from dust3r_ros.scenes.endless.viewpoints import free_place
from dust3r_ros.scenes.endless.worlds import World, make_world
from dust3r_ros.scenes.sequence import RenderedSequence, look_at, stamps, unsteadiness
from dust3r_ros.types import Array, Image


def read_out(world: World, K: Array, width: int, height: int, w_T_c: Array) -> Image:
    """(H, W, 3) of a camera that is at ``w_T_c`` (B, 4, 4) while it reads the first to the last of B bands of rows."""
    rows = np.linspace(0, height, len(w_T_c) + 1).round().astype(int)
    bands = []
    for first, last, pose in zip(rows, rows[1:], w_T_c, strict=False):
        shifted = K.copy()
        shifted[1, 2] -= first
        bands.append(world.scenery.render(Eye(shifted, pose, width, int(last - first))).image)
    return np.concatenate(bands)


def rolling_walk(readout: float, frames: int = 36, width: int = 320, height: int = 240) -> RenderedSequence:
    """A hand-held camera past a still life, at 10 Hz; ``readout``: seconds from the first to the last row.

    It has no depth.
    """
    world = make_world((41, 7), 1, "still_life")
    at, aim = free_place(world, np.random.default_rng(5))
    far, focal = float(np.linalg.norm(aim - at)), 0.8 * width
    side = np.cross(aim - at, [0.0, 0.0, 1.0])
    sway = np.random.default_rng(2).integers(1 << 30)

    def path(time: Array) -> Array:
        hand = unsteadiness(np.random.default_rng(sway), 2.5 * time, 6, 6)
        position = at + 0.18 * time[:, None] * side + 0.05 * far * hand[:, :3]
        return np.stack([look_at(p, aim + 0.35 * far * h) for p, h in zip(position, hand[:, 3:], strict=True)])

    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    times = np.arange(frames) / 10.0
    bands = (np.arange(16) + 0.5) / 16 - 0.5 if readout else np.zeros(1)
    images = np.stack([read_out(world, K, width, height, path(time + readout * bands)) for time in times])
    depths = np.zeros(images.shape[:3], np.float32)
    return RenderedSequence("rolling", stamps(frames, 10.0), images, depths, path(times), width, height, focal)
