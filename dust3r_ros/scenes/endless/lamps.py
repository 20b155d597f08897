"""What lights a world: lamps under a ceiling, or sun and sky."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.lighting import Lamp
from dust3r_ros.types import Array


def lamps_under(rng: np.random.Generator, low: Array, high: Array) -> tuple[list[Lamp], float]:
    """One to three lamps under a ceiling, each of two points (soft shadows), and weak light from its corners."""
    lamps, count = [], int(rng.integers(1, 4))
    height = high[2] - low[2]
    for _ in range(count):
        at = np.array(
            [*rng.uniform(0.8 * low[:2] + 0.2 * high[:2], 0.2 * low[:2] + 0.8 * high[:2]), high[2] - 0.08 * height]
        )
        soft = rng.uniform(0.05, 0.35)
        for _ in range(2):
            lamps.append(Lamp(at + rng.normal(0, soft, 3) * [1, 1, 0.1], rng.uniform(0.5, 1.1) / count, 1.5 * height))
    for _ in range(3):
        lamps.append(Lamp(np.array([*rng.uniform(low[:2], high[:2]), high[2] - 0.05]), 0.14))
    return lamps, float(rng.uniform(0.2, 0.45))


def daylight(rng: np.random.Generator) -> tuple[list[Lamp], float]:
    """The sun, or none behind clouds, and the sky."""
    far = 300.0
    lamps = []
    for _ in range(3):
        angle = rng.uniform(0, 2 * np.pi)
        lamps.append(Lamp(far * np.array([0.7 * np.cos(angle), 0.7 * np.sin(angle), 0.7]), 0.16))
    if rng.random() < 0.7:
        angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.3)
        way = np.array([np.cos(angle) * np.cos(height), np.sin(angle) * np.cos(height), np.sin(height)])
        return [*lamps, Lamp(far * way, rng.uniform(0.4, 0.8))], float(rng.uniform(0.2, 0.45))
    return lamps, float(rng.uniform(0.4, 0.6))
