"""Light falls where a lamp shines and not where something stands in its way."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scenes.endless import lighting
from dust3r_ros.scenes.endless.lighting import Lamp, LitCharts, light_charts
from dust3r_ros.scenes.endless.shapes import BOX, ELLIPSOID, PANEL, Shape, gather
from dust3r_ros.scenes.endless.worlds import draw_up

FLOOR = Shape(PANEL, np.zeros(3), np.array([[3.0, 0, 0], [0, -3.0, 0], [0, 0, 1.0]]), solid=False)


def lit(shapes: list[Shape], lamps: list[Lamp]) -> LitCharts:
    return light_charts(shapes, gather(shapes), lamps, 0.2, np.random.default_rng(0), 10.0, stains=0.0)


def chart(found: LitCharts, number: int) -> np.ndarray:
    x, y, across, down = found.places[:, number].astype(int)
    return found.sheet[y : y + down + 1, x : x + across + 1]


def test_a_box_throws_its_shadow_where_rays_from_the_lamp_meet_the_floor() -> None:
    """A box of 1 m x 1 m, its top 1.5 m above the floor, under a lamp at 3 m: the shadow is twice its size."""
    box = Shape(BOX, np.array([0.5, 0.0, 1.25]), np.diag([0.5, 0.5, 0.25]))
    found = lit([FLOOR, box], [Lamp(np.array([0.5, 0.0, 3.0]), 1.0)])
    floor = chart(found, 0)
    x = np.linspace(-3, 3, floor.shape[1])
    row = floor[floor.shape[0] // 2]
    dark = np.abs(x - 0.5) < 0.5 * 3 / 1.5 - 0.15  # the top at 1.5 m spreads the shadow by 3 / 1.5
    bright = np.abs(x - 0.5) > 0.5 * 3 / 1.5 + 0.15
    assert np.allclose(row[dark], row[dark][0]) and (row[bright] > 1.5 * row[dark][0]).all()


def test_the_side_away_from_the_lamp_is_dark_and_the_sky_is_bright() -> None:
    ball = Shape(ELLIPSOID, np.array([0.0, 0, 1.0]), 0.5 * np.eye(3))
    found = lit([ball], [Lamp(np.array([50.0, 0, 1.0]), 1.0)])
    toward, away = chart(found, 0), chart(found, 1)  # +x and -x
    assert toward.min() > 2 * away.max()
    assert chart(found, 6) == pytest.approx(1.0)


def test_light_fades_with_distance_as_the_lamp_says() -> None:
    found = lit([FLOOR], [Lamp(np.array([0.0, 0, 1.0]), 5.0, reach=1.0)])
    free = lit([FLOOR], [Lamp(np.array([0.0, 0, 1.0]), 5.0)])
    for light, power in ((chart(found, 0), 1), (chart(free, 0), 0)):
        middle, edge = light[30, 30], light[30, 0]
        distance = np.sqrt(10)
        expected = (0.2 + 5 / distance / (1 + power * 10)) / (0.2 + 5 / (1 + power))
        assert edge / middle == pytest.approx(expected, rel=0.08)


def test_charts_lie_apart_on_the_sheet() -> None:
    shapes = [FLOOR, *(Shape(BOX, np.array([k, 0.0, 1.0]), np.diag([0.1 * k + 0.1] * 3)) for k in range(6))]
    found = lit(shapes, [])
    taken = np.zeros(found.sheet.shape, int)
    for x, y, across, down in found.places.T.astype(int):
        taken[y : y + down + 1, x : x + across + 1] += 1
    assert taken.max() == 1


def test_rays_that_are_left_out_meet_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shape is tried on the rays near to it alone; tried on all, the light is the same to the last bit."""
    quick = draw_up((11, 0), 1, "jumble").light
    monkeypatch.setattr(lighting._Cones, "hold", lambda self, number, rays: np.ones(rays.shape[1], bool))
    assert np.array_equal(draw_up((11, 0), 1, "jumble").light, quick)
