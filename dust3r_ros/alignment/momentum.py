"""Momentum between sweeps."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.moments import scale_of
from dust3r_ros.alignment.scene import Scene
from dust3r_ros.types import Array, Array32

# More makes the steps along the rays, which go too far on purpose, unstable.
MOMENTUM = 0.45


class Momentum:
    """Carries a scene and its sampled depths on by a part of their last change (Polyak's heavy ball, 1964).

    Alternating steps go the same way many times in a row; this halves their number.
    """

    def __init__(self) -> None:
        self._last: tuple[Array, Array, Array, dict[int, Array32]] | None = None

    def carry(self, scene: Scene, depths: dict[int, Array32]) -> None:
        """After a step."""
        now = scene.w_T_c, scene.w_S_pair, scene.focals, dict(depths)
        if self._last is not None:
            w_T_c, w_S_pair, focals, before = self._last
            moved = _upright(now[0] + MOMENTUM * (now[0] - w_T_c), np.ones(len(w_T_c)))
            scene.w_T_c = np.where(scene.held_pose[:, None, None], now[0], moved)
            size = scale_of(now[1]) * (scale_of(now[1]) / scale_of(w_S_pair)) ** MOMENTUM
            scene.w_S_pair = _upright(now[1] + MOMENTUM * (now[1] - w_S_pair), size)
            ahead = np.clip(now[2] * (now[2] / focals) ** MOMENTUM, *scene.focal_limits)
            scene.focals = np.where(scene.held_focal, now[2], ahead)
            for index, depth in before.items():
                depths[index] = depths[index] + np.float32(MOMENTUM) * (depths[index] - depth)
        self._last = now


def _upright(S: Array, scale: Array) -> Array:
    """Similarities (M, 4, 4) again after a small linear change, with ``scale`` (M,)."""
    S = S.copy()
    linear = S[:, :3, :3] / np.cbrt(np.linalg.det(S[:, :3, :3]))[:, None, None]
    for _ in range(2):  # Newton's iteration for the polar decomposition
        linear = linear @ (1.5 * np.eye(3) - 0.5 * np.swapaxes(linear, 1, 2) @ linear)
    S[:, :3, :3] = scale[:, None, None] * linear
    return S
