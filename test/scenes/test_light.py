"""Lambert's law and shadows."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.light import Lamp
from dust3r_ros.scenes.patterns import fabric
from dust3r_ros.scenes.solids import Box
from dust3r_ros.scenes.surfaces import Panel

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
