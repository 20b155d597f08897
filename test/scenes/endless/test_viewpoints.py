"""Albums: every view is what its camera sees, whoever renders, and no view is rendered twice."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scenes.endless.casting import Eye, Seen, cast
from dust3r_ros.scenes.endless.materials import stencils
from dust3r_ros.scenes.endless.shapes import BOX, HALL, Shape, gather
from dust3r_ros.scenes.endless.viewpoints import FIELD_OF_VIEW, Album, DepthView, choose_eyes, overlaps
from dust3r_ros.scenes.endless.worlds import World, make_world
from dust3r_ros.scenes.sequence import look_at

WALL = np.full((40, 60), 2.0, np.float32)
K = np.array([[50.0, 0, 29.5], [0, 50.0, 19.5], [0, 0, 1]])


def overlap(first: DepthView, second: DepthView, step: int = 1) -> float:
    """Share of the pixels of ``first`` that ``second`` sees."""
    return float(overlaps([first, second], step)[0, 1])


def test_a_step_along_a_wall_shifts_the_overlap() -> None:
    """20 pixels to the side of 60: two thirds are seen."""
    moved = np.eye(4)
    moved[0, 3] = 20 * 2.0 / 50
    first, second = DepthView(WALL, K, np.eye(4)), DepthView(WALL, K, moved)
    assert overlap(first, second) == pytest.approx(2 / 3, abs=1e-6)
    assert overlap(first, first) == 1.0
    assert overlap(first, second, step=4) == pytest.approx(2 / 3, abs=0.03)


def test_a_closer_look_is_wholly_in_the_wider_one() -> None:
    near = K.copy()
    near[:2, :2] *= 2
    wide, close = DepthView(WALL, K, np.eye(4)), DepthView(WALL, near, np.eye(4))
    assert overlap(close, wide) == 1.0 and overlap(wide, close) == pytest.approx(0.25, abs=0.02)


def test_back_to_back_and_skies_share_nothing() -> None:
    turned = np.diag([-1.0, 1, -1, 1])
    assert overlap(DepthView(WALL, K, np.eye(4)), DepthView(WALL, K, turned)) == 0
    sky = DepthView(np.zeros_like(WALL), K, np.eye(4))
    assert overlap(sky, DepthView(WALL, K, np.eye(4))) == 0 and overlap(DepthView(WALL, K, np.eye(4)), sky) == 0


def test_what_is_hidden_is_not_shared() -> None:
    """Against rays from every point to the other camera."""
    hall = Shape(HALL, np.zeros(3), np.diag([4.0, 4.0, 2.0]))
    boxes = [Shape(BOX, np.array([1.0, y, 0.0]), np.diag([0.4, 0.3, 1.0])) for y in (-1.2, 0.1, 1.3)]
    shapes = gather([hall, *boxes])
    views, eyes = [], []
    for position, target in (((-2.0, -1.5, 0.3), (1.0, 0, 0)), ((-1.5, 2.0, -0.2), (1.0, 0.2, 0))):
        eye = Eye(K, look_at(np.array(position), np.array(target)), 60, 40)
        eyes.append(eye)
        views.append(DepthView(cast(shapes, eye, stencils()).depth, K, eye.w_T_c))
    points = views[0].points(1)
    there, way = eyes[1].w_T_c[:3, 3], points - eyes[1].w_T_c[:3, 3]
    local = way @ eyes[1].w_T_c[:3, :3]
    pixel = local[:, :2] / local[:, 2:] * 50 + [29.5, 19.5]
    inside = (local[:, 2] > 0) & (pixel > -0.5).all(axis=1) & (pixel < [59.5, 39.5]).all(axis=1)
    blocked = np.zeros(len(points), bool)
    for box in boxes:
        p, d = (there - box.center) / np.diag(box.axes), way / np.diag(box.axes)
        near, far = np.sort(np.stack([(-1 - p) / d, (1 - p) / d]), axis=0)
        blocked |= (near.max(axis=1) < far.min(axis=1)) & (near.max(axis=1) < 0.999)
    exact = (inside & ~blocked).mean()
    assert 0.2 < exact < inside.mean() - 0.05
    assert overlap(*views) == pytest.approx(exact, abs=0.02)
    matrix = overlaps(views, 1)
    assert matrix[1, 0] == pytest.approx(overlap(*views[::-1]))
    assert np.allclose(np.diag(matrix), 1, atol=0.02)


Visited = tuple[World, list[tuple[Eye, Seen]]]


def test_cameras_are_free_and_see_something(visited: Visited) -> None:
    _, eyes = visited
    assert len(eyes) == 8
    for eye, seen in eyes:
        known = np.isfinite(seen.depth)
        assert min(eye.width, eye.height) == 64 and seen.depth.shape == (eye.height, eye.width)
        assert np.allclose(eye.w_T_c[:3, :3] @ eye.w_T_c[:3, :3].T, np.eye(3), atol=1e-9)
        assert known.mean() > 0.1 and seen.depth[known].min() > 0.02


def test_fields_of_view_and_principal_points_vary_within_bounds() -> None:
    fields, asides = [], []
    for number in range(4):
        world = make_world((11, 0), number, "jumble")
        for eye, _ in choose_eyes(world, np.random.default_rng(number), 12, 32):
            longer = max(eye.width, eye.height)
            fields.append(2 * np.degrees(np.arctan(longer / 2 / eye.K[0, 0])))
            middle = np.array([eye.width - 1, eye.height - 1]) / 2
            asides.append(np.abs(eye.K[:2, 2] - middle).max() / longer)
            assert eye.K[0, 0] == eye.K[1, 1]
    low, high = FIELD_OF_VIEW
    assert low - 1e-9 <= min(fields) < 60 and 90 < max(fields) <= high + 1e-9
    assert 0.05 < np.mean(np.array(asides) > 0) < 0.7 and max(asides) <= 0.12 + 1e-9


def test_pairs_of_every_overlap_and_of_small_and_wide_baselines_are_there() -> None:
    shares, baselines, turns = [], [], []
    for number, layout in enumerate(("room", "park", "still_life")):
        eyes = choose_eyes(make_world((11, 0), number, layout), np.random.default_rng(number), 24, 48)
        shared = overlaps([DepthView(seen.depth, eye.K, eye.w_T_c) for eye, seen in eyes], 4)
        first, second = np.triu_indices(len(eyes), 1)
        shares.append(np.minimum(shared, shared.T)[first, second])
        for (a, seen), (b, _) in zip((eyes[i] for i in first), (eyes[j] for j in second), strict=True):
            far = np.median(seen.depth[np.isfinite(seen.depth)])
            baselines.append(np.linalg.norm(a.w_T_c[:3, 3] - b.w_T_c[:3, 3]) / far)
            cosine = (np.trace(a.w_T_c[:3, :3].T @ b.w_T_c[:3, :3]) - 1) / 2
            turns.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    counts = np.histogram(np.concatenate(shares), bins=np.linspace(0.1, 1, 7))[0]
    assert counts.min() >= 3
    seen_together = np.concatenate(shares) > 0.2
    baselines, turns = np.array(baselines)[seen_together], np.array(turns)[seen_together]
    assert baselines.min() < 0.05 and baselines.max() > 0.5 and turns.max() > 40


SEED, NUMBER, COUNT = (11, 0), 2, 10


def test_views_are_what_their_cameras_see_to_the_last_bit() -> None:
    album, scenery = Album(SEED, NUMBER, COUNT, 32), make_world(SEED, NUMBER).scenery
    views = {index: album.view(index) for index in (7, 0, *range(COUNT))}
    for index, view in views.items():
        height, width = view.depth.shape
        exact = scenery.render(Eye(*album.camera(index), width, height))
        assert np.array_equal(view.image, exact.image) and np.array_equal(view.depth, exact.depth)
        assert album.view(index) is view and not view.image.flags.writeable and not view.depth.flags.writeable
