"""Ray casting against the definition of each surface."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.scenes.surfaces import Ball, Panel, RayGrid, Surface, Tube

TURN = Rotation.from_euler("zyx", [20, -15, 30], degrees=True).as_matrix()
PANEL = Panel(np.array([-0.8, -0.5, 3.0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), 1.6, 1.0)
SURFACES = {
    "panel": (PANEL, np.eye(3)),
    "turned panel": (
        Panel(TURN @ PANEL.corner + [0, 0, 0.1], TURN @ PANEL.right, TURN @ PANEL.down, 1.6, 1.0),
        TURN,
    ),
    "disc": (Panel(PANEL.corner, PANEL.right, PANEL.down, 1.6, 1.0, round=True), np.eye(3)),
    # These look along y at a thing on the floor: optical x is world x, optical y is down.
    "tube": (Tube(np.array([0.1, 3.0, -0.6]), 0.5, 1.1), np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])),
    "ball": (Ball(np.array([0.2, 2.0, 0.1]), 0.6), np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])),
}


def grid(rotation: np.ndarray, origin: tuple[float, float, float] = (0.0, 0.0, 0.0), size: int = 61) -> RayGrid:
    axis = np.linspace(-0.6, 0.6, size, dtype=np.float32)
    return RayGrid(np.array(origin), rotation, axis, axis)


def directions(rays: RayGrid) -> np.ndarray:
    y, x = np.meshgrid(rays.y, rays.x, indexing="ij")
    return np.stack([x, y, np.ones_like(x)], -1).astype(float) @ rays.rotation.T


@pytest.mark.parametrize("name", SURFACES)
def test_depth_and_texture_coordinates_name_the_same_point(name: str) -> None:
    surface, rotation = SURFACES[name]
    rays = grid(rotation, origin=(0.05, -0.03, 0.02))
    hit = surface.cast(rays)
    seen = np.isfinite(hit.depth)
    assert 0.03 < seen.mean() < 0.9
    along_ray = rays.origin + hit.depth[seen][:, None] * directions(rays)[seen]
    by_texture, normals = surface.points(hit.u[seen].astype(float), hit.v[seen].astype(float))
    far = np.linalg.norm(along_ray - by_texture, axis=1)
    # The ball's paint stops 1 % short of the seams between the six squares.
    assert np.quantile(far, 0.95) < 1e-5
    assert far.max() < (0.02 if isinstance(surface, Ball) else 1e-5)
    assert np.allclose(hit.facing[seen], -(normals * directions(rays)[seen]).sum(1), atol=0.03)
    assert (hit.facing[seen] >= 0).all()


@pytest.mark.parametrize("name", SURFACES)
def test_hits_lie_within_the_texture_and_the_window(name: str) -> None:
    surface, rotation = SURFACES[name]
    rays = grid(rotation)
    hit = surface.cast(rays)
    seen = np.isfinite(hit.depth)
    width, height = surface.extent
    assert (hit.u[seen] >= -1e-6).all() and (hit.u[seen] <= width + 1e-6).all()
    assert (hit.v[seen] >= -1e-6).all() and (hit.v[seen] <= height + 1e-6).all()
    ((_, window),) = rays.windows(surface.corners[None])
    outside = seen.copy()
    outside[window] = False
    assert not outside.any()
    part = surface.cast(rays.part(*window))
    assert np.array_equal(part.depth, hit.depth[window])


@pytest.mark.parametrize("name", SURFACES)
def test_what_is_behind_the_camera_is_not_seen(name: str) -> None:
    surface, rotation = SURFACES[name]
    backwards = rotation @ np.diag([-1.0, 1.0, -1.0])
    rays = grid(backwards)
    hit = surface.cast(rays)
    assert hit is None or not np.isfinite(hit.depth).any()
    assert list(rays.windows(surface.corners[None])) == []


def test_a_panel_is_seen_from_its_front_only() -> None:
    from_behind = grid(np.diag([-1.0, 1.0, -1.0]), origin=(0.0, 0.0, 5.0))
    assert PANEL.cast(from_behind) is None
    assert PANEL.normal @ [0, 0, -1] == pytest.approx(1)


def test_a_wall_beside_the_camera_covers_the_window() -> None:
    wall = Panel(np.array([-3.0, -3.0, 1.0]), np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), 6.0, 6.0)
    crossing: Surface = Panel(wall.corner - [0, 0, 3], wall.right, wall.down, 6.0, 6.0)
    seen = dict(grid(np.eye(3)).windows(np.stack([PANEL.corners, -PANEL.corners, crossing.corners])))
    assert seen.keys() == {0, 2} and seen[2] == (slice(0, 61), slice(0, 61))
    assert seen[0] != seen[2]
