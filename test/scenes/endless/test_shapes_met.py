"""Rays meet shapes where the shapes are."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scenes.endless.casting import NOTHING, Eye, cast, depth_of, in_view, places, windows
from dust3r_ros.scenes.endless.materials import GRID, stencils
from dust3r_ros.scenes.endless.shapes import (
    BOX,
    CHARTS,
    ELLIPSOID,
    FRUSTUM,
    HALL,
    PANEL,
    Shape,
    chart_extents,
    chart_points,
    gather,
)
from dust3r_ros.scenes.endless.site import tumble
from dust3r_ros.scenes.sequence import look_at

ANY = np.random.default_rng(5)


def shape_of(kind: int, taper: float = 0.0) -> Shape:
    """A shape of uneven sides, turned, 4 m ahead of the camera of ``ahead``."""
    return Shape(kind, np.array([4.0, 0.2, 0.1]), tumble(np.random.default_rng(3)) @ np.diag([0.9, 0.6, 0.7]), taper)


def ahead(width: int = 64, height: int = 48, focal: float = 50.0) -> Eye:
    """A camera at the origin that looks along x."""
    K = np.array([[focal, 0, 30.0], [0, 1.1 * focal, 25.0], [0, 0, 1]])
    return Eye(K, look_at(np.zeros(3), np.array([1.0, 0, 0])), width, height)


def outside(shape: Shape, p: np.ndarray) -> np.ndarray:
    """How far beyond the surface local points (N, 3) are, in half axes; 0 on it."""
    x, y, z = np.abs(p[:, 0]), np.abs(p[:, 1]), p[:, 2]
    if shape.kind == PANEL:
        return np.maximum(np.abs(z), np.maximum(x, y) - 1)
    if shape.kind == ELLIPSOID:
        return np.linalg.norm(p, axis=1) - 1
    if shape.kind == FRUSTUM:
        return np.maximum(np.hypot(x, y) - (1 - shape.taper * (z + 1) / 2), np.abs(z) - 1)
    return np.abs(p).max(axis=1) - 1


@pytest.mark.parametrize(
    "kind, taper", [(PANEL, 0), (BOX, 0), (FRUSTUM, 0), (FRUSTUM, 0.6), (FRUSTUM, 1.0), (ELLIPSOID, 0)]
)
def test_first_point_along_a_ray_that_is_not_outside(kind: int, taper: float) -> None:
    """Against steps along the ray, which know nothing of roots."""
    shape, eye = shape_of(kind, taper), ahead()
    shapes = gather([shape])
    seen = cast(shapes, eye, stencils())
    v, u = np.mgrid[: eye.height, : eye.width]
    rays = np.stack([eye.x(u), eye.y(v), np.ones(u.shape)], -1).reshape(-1, 3) @ eye.w_T_c[:3, :3].T
    depth = seen.depth.ravel().astype(np.float64)
    hit = np.isfinite(depth)
    assert 30 < hit.sum() < hit.size
    on = (rays[hit] * depth[hit, None] - shape.center) @ shapes.local[0].T
    assert np.abs(outside(shape, on)).max() < 2e-5
    steps = np.linspace(2.0, 6.0, 400)
    for chosen, rest in ((hit, depth), (~hit, np.full(depth.shape, 6.0))):
        before = steps[None] < rest[chosen, None] - 2e-3
        p = (rays[chosen, None] * steps[None, :, None] - shape.center) @ shapes.local[0].T
        assert (outside(shape, p.reshape(-1, 3)).reshape(before.shape)[before] > (0 if kind != PANEL else -1)).all()


def test_a_hall_is_seen_from_within() -> None:
    shape = Shape(HALL, np.array([0.0, 0, 0]), np.diag([2.0, 3.0, 1.5]))
    seen = cast(gather([shape]), ahead(), stencils())
    assert (seen.shape == 0).all() and seen.depth[25, 30] == pytest.approx(2.0, abs=1e-5)


def test_the_inside_of_a_cone_is_left_through_its_side_or_bottom() -> None:
    """A ray steeper than the side of a cone meets both halves of the double cone."""
    o, d = np.array([[0.0], [0.05], [-3.0]]), np.array([[0.0], [0.0], [1.0]])
    assert depth_of(np, FRUSTUM, o, d, 1.0)[0] == pytest.approx(2.0)  # the bottom at z = -1
    from_above, down = np.array([[0.2], [0.0], [4.0]]), np.array([[0.0], [0.0], [-1.0]])
    assert depth_of(np, FRUSTUM, from_above, down, 1.0)[0] == pytest.approx(4 - 0.6)  # radius 0.2 at z = 0.6


def test_windows_hold_all_that_is_seen() -> None:
    shapes = gather([shape_of(kind, 0.3) for kind in (PANEL, BOX, FRUSTUM, ELLIPSOID)])
    eye = ahead()
    for number in range(4):
        one = gather([shape_of((PANEL, BOX, FRUSTUM, ELLIPSOID)[number], 0.3)])
        top, bottom, left, right = windows(shapes, eye)[number]
        rows, columns = np.nonzero(cast(one, eye, stencils()).shape != NOTHING)
        assert top <= rows.min() and rows.max() < bottom and left <= columns.min() and columns.max() < right
    behind = Shape(BOX, np.array([-4.0, 0, 0]), np.eye(3))
    assert (windows(gather([behind]), eye) == 0).all()


def test_holes_of_a_mask_let_rays_through() -> None:
    sheet = np.array([[0.0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]])  # right = y, down = -z
    whole = Shape(PANEL, np.array([2.0, 0, 0]), sheet)
    cut = Shape(PANEL, np.array([2.0, 0, 0]), sheet, mask=GRID, repeats=(4.0, 4.0))
    seen = [cast(gather([shape]), ahead(), stencils()) for shape in (whole, cut)]
    share = (seen[1].shape == 0).sum() / (seen[0].shape == 0).sum()
    assert share == pytest.approx(stencils()[GRID].mean(), abs=0.05)
    both = (seen[1].shape == 0) & (seen[0].shape == 0)
    assert np.array_equal(seen[1].depth[both], seen[0].depth[both])


@pytest.mark.parametrize("kind, taper", [(PANEL, 0), (BOX, 0), (HALL, 0), (FRUSTUM, 0.4), (ELLIPSOID, 0)])
def test_charts_tell_where_their_points_are(kind: int, taper: float) -> None:
    """The light that is computed at (s, t) of a chart is looked up at (s, t) of that chart."""
    shape = Shape(kind, np.array([0.5, 0.2, 0.1]), tumble(ANY) @ np.diag([0.9, 0.6, 0.7]), taper)
    shapes = gather([shape])
    s, t = ANY.uniform(0.05, 0.95, (2, 40))
    assert len(chart_extents(shape)) == CHARTS[kind] == shapes.charts
    for face in range(CHARTS[kind]):
        points, normals = chart_points(shape, face, s, t)
        sign = -1 if kind == HALL else 1
        if kind == FRUSTUM and face > 0:
            inside = np.hypot(2 * s - 1, 2 * t - 1) < (1 - taper if face == 2 else 1) * 0.99
            points, normals, a, b = points[inside], normals[inside], s[inside], t[inside]
        else:
            a, b = s, t
        assert np.allclose(np.linalg.norm(normals, axis=1), 1)
        # Outside is where the normal points.
        beyond = (points + 0.01 * normals - shape.center) @ shapes.local[0].T
        if kind != PANEL:
            assert (sign * outside(Shape(kind, shape.center, shape.axes, taper), beyond) > 0).all()
        local = ((points - shape.center) @ shapes.local[0].T).astype(np.float32)
        eye = Eye(np.diag([50.0, 50, 1]), np.eye(4), 8, 8)
        table = in_view(shapes, eye.w_T_c)
        # A ray from the origin of the world through the point, at its own depth.
        index = np.zeros(len(points), np.int64)
        x, y, z = points.T.astype(np.float32)
        found = places(np, table, index, z, x / z, y / z)
        assert local.shape == points.shape and (found[0] == face).all()
        assert np.abs(found[1] - a).max() < 1e-3 and np.abs(found[2] - b).max() < 1e-3
        ray = np.stack([x / z, y / z, 1 + 0 * z], -1)
        exact = np.abs((ray * normals).sum(axis=1))
        if kind in (PANEL, BOX, HALL):
            assert np.allclose(found[3], exact, atol=1e-4)
