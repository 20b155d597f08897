"""Pairs for tests of training: a room with noise on every wall, seen from random places; a recipe as small."""

from __future__ import annotations

from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.training.views import TrainingView, ViewPair

RECIPE: dict[str, Any] = {
    "network": {
        "enc_embed_dim": 32, "enc_depth": 2, "enc_num_heads": 2,
        "dec_embed_dim": 32, "dec_depth": 2, "dec_num_heads": 2,
    },
    "stages": [
        {"sizes": [[32, 32]], "pairs": 4, "steps": 6, "rate": 1e-3},
        {"sizes": [[32, 48], [48, 32]], "pairs": 2, "steps": 6, "rate": 1e-3, "restart": False},
    ],
    "epoch": 10, "workers": 0, "held_out": 3, "evaluate_every": 5, "save_every": 4,
}  # fmt: skip

_HALF = np.array([2.5, 2.0, 1.5])  # metres, from the middle of the room to its walls


class NoisyRoom:
    """A pair source; ``broken`` indices raise, ``blind`` ones know no depth. ``count`` None: endless."""

    def __init__(
        self,
        name: str = "room",
        count: int | None = None,
        size: tuple[int, int] = (64, 80),
        broken: frozenset[int] = frozenset(),
        blind: frozenset[int] = frozenset(),
    ) -> None:
        self.name, self._count, self._size, self._broken, self._blind = name, count, size, broken, blind
        self._paint = np.random.default_rng(5).integers(0, 255, (6, 32, 32, 3), np.uint8)

    def __len__(self) -> int | None:
        return self._count

    def pair(self, index: int, rng: np.random.Generator) -> ViewPair:
        if index in self._broken:
            raise InputError(f"'{self.name}/{index}.jpg' is truncated")
        place = np.random.default_rng([3, index])
        position, yaw = place.uniform(-0.8, 0.8, 3), place.uniform(0, 2 * np.pi)
        second = position + place.uniform(-0.3, 0.3, 3)
        first = self.view(position, yaw, blind=index in self._blind)
        return ViewPair(
            first, self.view(second, yaw + place.uniform(-0.2, 0.2), index in self._blind), f"{self.name} {index}"
        )

    def view(self, position: np.ndarray, yaw: float, blind: bool = False) -> TrainingView:
        """What a camera at ``position`` sees that looks along ``yaw`` in a room with z down."""
        height, width = self._size
        K = np.array([[60.0, 0, width / 2 + 1.5], [0, 60.0, height / 2 - 2.25], [0, 0, 1]])
        w_T_c = np.eye(4)
        w_T_c[:3, :3] = [[np.cos(yaw), 0, -np.sin(yaw)], [np.sin(yaw), 0, np.cos(yaw)], [0, 1, 0]]
        w_T_c[:3, 3] = position
        v, u = np.mgrid[:height, :width]
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], axis=-1) @ w_T_c[:3, :3].T
        with np.errstate(divide="ignore"):
            reach = (np.where(rays > 0, _HALF, -_HALF) - position) / rays  # (H, W, 3), depth of each wall
        axis = reach.argmin(axis=-1)
        depth = reach.min(axis=-1)
        points = position + rays * depth[..., None]
        wall = 2 * axis + (np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0)
        others = np.array([[1, 2], [0, 2], [0, 1]])[axis]
        cells = np.floor(np.take_along_axis(points, others, -1) * 6).astype(int) % 32
        image = self._paint[wall, cells[..., 0], cells[..., 1]]
        return TrainingView(image, np.zeros(u.shape, np.float32) if blind else depth.astype(np.float32), K, w_T_c)
