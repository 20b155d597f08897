"""Shadows agree with what rays meet. Lambert's law and shadows."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.scenes.solids import Box, Globe, Lamp, Pillar, Solid, box_panels
from dust3r_ros.scenes.surfaces import Panel, RayGrid
from dust3r_ros.scenes.textures import fabric

SOLIDS: list[Solid] = [
    Box(np.array([-0.5, -0.3, 0.4]), np.array([0.4, 0.6, 1.1]), fabric, fabric, yaw=0.5),
    Globe(np.array([0.1, 0.0, 1.0]), 0.5, fabric),
    Pillar(np.array([0.0, 0.1, 0.0]), 0.4, 1.0, fabric, fabric),
]


def first_hit(solid: Solid, point: np.ndarray, lamp: np.ndarray) -> bool:
    """Whether a ray from the point meets the solid before the lamp."""
    T = look_at(point, lamp)
    ray = RayGrid(point, T[:3, :3], np.zeros(1, np.float32), np.zeros(1, np.float32))
    distance = np.linalg.norm(lamp - point)
    hits = [surface.cast(ray) for surface, _ in solid.surfaces()]
    return any(hit is not None and hit.depth[0, 0] < distance for hit in hits)


@pytest.mark.parametrize("solid", SOLIDS, ids=lambda solid: type(solid).__name__)
def test_light_is_blocked_where_a_ray_meets_the_solid(solid: Solid) -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform([-2, -2, 0], [2, 2, 0.35], (300, 3))
    lamp = np.array([0.8, -0.6, 1.9])
    blocked = solid.blocks(points, lamp)
    outside = np.linalg.norm(points[:, :2], axis=1) > 0.55  # a ray that begins inside sees no outer side
    met = np.array([first_hit(solid, point, lamp) for point in points])
    assert 0.02 < met[outside].mean() < 0.9
    assert np.array_equal(blocked[outside], met[outside])


def test_box_panels_face_outwards_or_inwards() -> None:
    low, high = np.array([-1.0, -2.0, 0.0]), np.array([3.0, 1.0, 2.0])
    middle = (low + high) / 2
    for inside in (False, True):
        panels = box_panels(low, high, inside=inside)
        assert sorted(panels) == ["+x", "+y", "+z", "-x", "-y", "-z"]
        for panel in panels.values():
            away = (panel.corners.mean(0) - middle) @ panel.normal
            assert away < 0 if inside else away > 0
            assert (panel.corners >= low - 1e-9).all() and (panel.corners <= high + 1e-9).all()
        assert sum(p.width * p.height for p in panels.values()) == pytest.approx(2 * (4 * 3 + 4 * 2 + 3 * 2))


FLOOR = Panel(np.array([-2.0, 2.0, 0.0]), np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), 4.0, 4.0)
SHELF_TOP = Panel(np.array([-2.0, 2.0, 2.4]), np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), 4.0, 4.0)
LAMP = Lamp(np.array([0.0, 0.0, 2.0]))


def test_light_falls_off_and_never_below_ambient() -> None:
    light = LAMP.shade(FLOOR, [], 80, 80, 20)
    assert light[40, 40] > light[40, 10] > light[5, 5] > LAMP.ambient
    straight = LAMP.strength / (1 + (2 / LAMP.reach) ** 2)
    assert abs(light[38:42, 38:42].mean() - (LAMP.ambient + straight)) < 0.03


def test_a_face_turned_away_gets_ambient_light_only() -> None:
    assert np.allclose(LAMP.shade(SHELF_TOP, [], 20, 20, 10), LAMP.ambient)


def test_a_box_casts_a_soft_shadow() -> None:
    board = Box(np.array([-0.4, -0.4, 0.5]), np.array([0.4, 0.4, 0.6]), fabric, fabric)
    free, shaded = (LAMP.shade(FLOOR, solids, 160, 160, 40) for solids in ([], [board]))
    assert np.allclose(shaded[78:82, 78:82], LAMP.ambient)
    assert np.array_equal(free[:5], shaded[:5])
    partly = (shaded < free - 0.05) & (shaded > LAMP.ambient + 0.05)
    assert partly.sum() > 100
