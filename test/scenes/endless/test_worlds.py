"""Images and depths of the endless worlds are exact, smooth at outlines, and decided by seed and number."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.scenes.endless.casting import Eye, Seen, cast_list, in_view, places
from dust3r_ros.scenes.endless.materials import stencils
from dust3r_ros.scenes.endless.shapes import BOX, FRUSTUM, HALL, PANEL, Shape, gather
from dust3r_ros.scenes.endless.worlds import World, make_world, outlines
from dust3r_ros.scenes.sequence import look_at

Visited = tuple[World, list[tuple[Eye, Seen]]]


def test_every_depth_is_a_point_of_the_shape_it_says(visited: Visited) -> None:
    world, eyes = visited
    shapes = world.scenery.shapes
    for eye, seen in eyes:
        v, u = np.nonzero(np.isfinite(seen.depth))
        z = seen.depth[v, u].astype(np.float64)
        rays = np.stack([(u - eye.K[0, 2]) / eye.K[0, 0], (v - eye.K[1, 2]) / eye.K[1, 1], np.ones(len(u))], -1)
        points = (rays * z[:, None]) @ eye.w_T_c[:3, :3].T + eye.w_T_c[:3, 3]
        number = seen.shape[v, u].astype(np.int64)
        p = np.einsum("pij,pj->pi", shapes.local[number], points - shapes.center[number])
        kind, size = shapes.kind[number], shapes.size[number]
        flat = np.isin(kind, (BOX, HALL))
        off = np.abs(np.where(flat, np.abs(p).max(axis=1) - 1, np.linalg.norm(p, axis=1) - 1))
        radius = 1 - shapes.taper[number] * (p[:, 2] + 1) / 2
        side = np.abs(np.hypot(p[:, 0], p[:, 1]) - radius)
        off = np.where(kind == FRUSTUM, np.minimum(side, np.abs(np.abs(p[:, 2]) - 1)), off)
        off = np.where(kind == PANEL, np.abs(p[:, 2]), off)
        assert (off * size.min(axis=1) < 1e-4 * (1 + z)).all()


def test_nothing_is_nearer_than_what_is_seen(visited: Visited) -> None:
    """Points a little before what a camera sees are in no solid shape."""
    world, eyes = visited
    eye, seen = eyes[0]
    v, u = np.nonzero(np.isfinite(seen.depth))
    rays = np.stack([(u - eye.K[0, 2]) / eye.K[0, 0], (v - eye.K[1, 2]) / eye.K[1, 1], np.ones(len(u))], -1)
    for share in (0.3, 0.6, 0.9, 0.995):
        points = share * seen.depth[v, u, None] * rays @ eye.w_T_c[:3, :3].T + eye.w_T_c[:3, 3]
        p = np.abs(np.einsum("nij,pnj->pni", world.scenery.shapes.local, points[:, None] - world.scenery.shapes.center))
        boxes = (p < 0.999).all(axis=-1)[:, world.scenery.shapes.kind == BOX]
        balls = (np.linalg.norm(p, axis=-1) < 0.999)[:, world.scenery.shapes.kind == 4]
        assert not boxes.any() and not balls.any()


def test_images_show_something(visited: Visited) -> None:
    world, eyes = visited
    images = [world.scenery.image(eye, seen) for eye, seen in eyes]
    assert all(image.shape == (*seen.depth.shape, 3) for image, (_, seen) in zip(images, eyes, strict=True))
    assert np.mean([image.std() > 8 for image in images]) > 0.7
    assert 15 < np.mean(images) < 240


def test_outlines_are_as_smooth_as_many_rays_make_them(visited: Visited) -> None:
    """Pixels at outlines against the mean of many rays through them (a larger image, scaled down)."""
    world, eyes = visited
    eye, seen = eyes[0]
    image = world.scenery.image(eye, seen).astype(float)
    many = 8
    K = eye.K.copy()
    K[:2] *= many
    K[:2, 2] = (eye.K[:2, 2] + 0.5) * many - 0.5
    fine = world.scenery.render(Eye(K, eye.w_T_c, many * eye.width, many * eye.height)).image
    exact = fine.reshape(eye.height, many, eye.width, many, 3).mean(axis=(1, 3))
    rows, columns, _ = outlines(seen.shape, seen.shape.astype(np.int64))
    one = fine[many // 2 :: many, many // 2 :: many].astype(float)
    error, rough = (np.abs(part - exact)[rows, columns].mean() for part in (image, one))
    assert error < 0.75 * rough and error < 12


def test_outdoors_there_is_a_sky_without_depth_and_indoors_none() -> None:
    for layout, open_ in (("park", True), ("street", True), ("room", False), ("corridor", False)):
        world = make_world((11, 0), 4, layout)
        K = np.array([[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]])
        up = np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 1.5], [0, 0, 0, 1]])
        up[:3, :3] = np.diag([1.0, 1.0, 1.0])  # z of the camera is z of the world
        view = world.scenery.render(Eye(K, up, 32, 24))
        assert (view.depth == 0).any() == open_
        if open_:
            assert view.image[view.depth == 0].mean() > 40


def test_words_on_boxes_can_be_read_from_before_them() -> None:
    """(s, t) of a box's side runs to the right and down for a camera that looks at it, level."""
    shapes = gather([Shape(BOX, np.zeros(3), np.diag([0.5, 0.7, 0.6]))])
    for number, toward in enumerate(([1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0])):
        pose = look_at(3 * np.array(toward), np.zeros(3))
        table = in_view(shapes, pose)
        x, y = np.array([-0.05, 0.05, 0.0, 0.0], np.float32), np.array([0.0, 0.0, -0.05, 0.05], np.float32)
        index = np.zeros(4, np.int64)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = cast_list(np, table, index, x, y, stencils())
        chart, s, t, _ = places(np, table, index, depth, x, y)
        assert (chart == number).all() and s[0] < 0.5 < s[1] and t[2] < 0.5 < t[3]


def test_worlds_are_decided_by_seed_and_number() -> None:
    worlds = [make_world((11, 0), 5), make_world((11, 0), 5), make_world((11, 0), 6), make_world((2, 0), 5, "jumble")]
    sheets = [world.scenery.light for world in worlds]
    assert np.array_equal(sheets[0], sheets[1]) and np.array_equal(worlds[0].scenery.sheet, worlds[1].scenery.sheet)
    for other in (2, 3):
        assert sheets[0].shape != sheets[other].shape or not np.array_equal(sheets[0], sheets[other])


@pytest.mark.parametrize("width, focal", [(0, 30.0), (16, 0.0), (16, float("nan"))])
def test_impossible_cameras_are_refused(width: int, focal: float) -> None:
    with pytest.raises(InputError, match="positive"):
        Eye(np.diag([focal, focal, 1.0]), np.eye(4), width, 12)
