"""Masks that cut holes into panels: bars, grids, mesh, leaves, lattice. They repeat without a seam."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.scenes import raster
from dust3r_ros.scenes.endless.meeting import STENCIL

BARS, SLATS, GRID, MESH, LATTICE, LEAVES, HOLES, TWIGS = range(8)


@lru_cache(maxsize=1)
def stencils() -> NDArray[np.uint8]:
    """(8, 128, 128) uint8, 1 where there is something; the same for all worlds."""
    v, u = np.mgrid[:STENCIL, :STENCIL] / STENCIL
    masks = np.zeros((8, STENCIL, STENCIL), np.uint8)
    masks[BARS] = (u % 1 < 0.16) | (v < 0.03)
    masks[SLATS] = (v % 0.25 < 0.14) | (u < 0.06)
    masks[GRID] = (u < 0.12) | (v < 0.12)
    masks[MESH] = (np.abs((u + v) % 0.5 - 0.25) < 0.03) | (np.abs((u - v) % 0.5 - 0.25) < 0.03)
    masks[LATTICE] = (np.abs((u + v) % 1 - 0.5) < 0.12) | (np.abs((u - v) % 1 - 0.5) < 0.12)
    masks[HOLES] = np.hypot(u % 0.5 - 0.25, v % 0.5 - 0.25) > 0.13
    rng = np.random.default_rng(7)
    for _ in range(60):
        _around(masks[LEAVES], rng.uniform(0, STENCIL, 2), (rng.uniform(5, 13), rng.uniform(2, 5)), rng.uniform(0, 180))
    for _ in range(16):
        _around(masks[TWIGS], rng.uniform(0, STENCIL, 2), (rng.uniform(15, 45), 1.0), rng.uniform(0, 180))
    masks.setflags(write=False)
    return masks


def _around(mask: NDArray[np.uint8], center: np.ndarray, sides: tuple[float, float], angle: float) -> None:
    for x in (-STENCIL, 0, STENCIL):
        for y in (-STENCIL, 0, STENCIL):
            at = (round(center[0] + x), round(center[1] + y))
            raster.ellipse(mask, at, (round(sides[0]), round(sides[1])), angle, 1)
