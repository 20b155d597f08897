"""The two views that a map starts from."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import arc, turning, unposed

from dust3r_ros.alignment.first_pair import PairFromLandmarks
from dust3r_ros.alignment.sparse_map import Focal, SparseMap
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import angle_deg, invert
from dust3r_ros.tracking import Tracks


def test_the_first_pair_has_parallax() -> None:
    scene = arc(views=4, points=150, focal=330.0)
    scene.w_T_c[1] = scene.w_T_c[0]
    sparse = unposed(scene)
    first, second, first_T_second = PairFromLandmarks()(sparse, range(4), 330.0)
    assert {first, second} != {0, 1}
    true = invert(scene.w_T_c[first]) @ scene.w_T_c[second]
    assert angle_deg(first_T_second[:3, :3].T @ true[:3, :3]) < 1.5
    direction = true[:3, 3] / np.linalg.norm(true[:3, 3])
    assert direction @ first_T_second[:3, 3] > 0.99
    with pytest.raises(GeometryError, match="parallax"):
        PairFromLandmarks()(sparse, [0, 1], 330.0)


def test_turning_on_the_spot_gives_no_pair() -> None:
    with pytest.raises(GeometryError, match="5 views"):
        PairFromLandmarks()(unposed(turning()), range(5), 330.0)


def test_the_second_focal_finds_the_same_pair() -> None:
    """Only the first focal looks at every pair; what it found serves the others, each with its own pose."""
    scene = arc(views=4, points=150, focal=330.0)
    scene.w_T_c[1] = scene.w_T_c[0]
    sparse = unposed(scene)
    finder = PairFromLandmarks()
    finder(sparse, range(4), 250.0)
    first, second, first_T_second = finder(sparse, range(4), 330.0)
    again = PairFromLandmarks()(sparse, range(4), 330.0)
    assert (first, second) == again[:2]
    np.testing.assert_allclose(first_T_second, again[2], atol=1e-9)


def test_pairs_that_fail_at_a_focal_make_room_for_others() -> None:
    scene = arc(views=4, points=150, focal=330.0)
    sparse = unposed(scene)
    finder = PairFromLandmarks()
    first, second, _ = finder(sparse, range(4), 330.0)
    # From here on the views that were best see nothing in common with any other.
    for view in (first, second):
        sparse.views[view].seen = sparse.views[view].seen.select(np.zeros(len(sparse.views[view].seen.ids), bool))
    left = set(range(4)) - {first, second}
    assert set(finder(sparse, range(4), 330.0)[:2]) == left


def test_what_moves_by_itself_before_a_far_scene_does_not_choose_the_direction() -> None:
    """Two fifths of the points are near and move; what is still is far enough to fit any direction to a pixel."""
    rng = np.random.default_rng(0)
    still = rng.uniform([-3.0, -2.0, 5.0], [3.0, 2.0, 9.0], (300, 3))
    near = rng.uniform([-0.4, -0.6, 1.4], [0.3, 0.6, 1.6], (200, 3))
    sparse = SparseMap(1.0)
    sparse.focals.append(Focal(330.0, 330.0, std=0.0, fixed=True, lens=Lens(200.0)))
    ids = sparse.new_ids(500)
    for step in range(3):
        camera = np.array([0.12 * step, 0.02 * step**2, 0.0])
        points = np.concatenate([still, near + step * np.array([0.15, 0.12, 0.0])]) - camera
        seen = project(points, 330.0, (0.0, 0.0)) + 0.1 * rng.standard_normal((500, 2))
        sparse.add(0, Tracks(ids, seen), None)
    first, second, first_T_second = PairFromLandmarks(sharp=True)(sparse, range(3), 330.0)
    true = np.array([0.12 * (second - first), 0.02 * (second**2 - first**2), 0.0])
    assert true @ first_T_second[:3, 3] > 0.97 * np.linalg.norm(true)
